"""The router's classifier against Python's JSON parser on random bodies: `make fuzz-router`.

Same model, same key, same estimated length wherever the parser takes the body. Ends with an error at the first
difference and prints the body.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "router"))

import reference
from lua_classifier import Classifier
from test_classifier import MODELS, as_header


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args()
    lua, bodies, begun = Classifier(), reference.Bodies(asked.seed, MODELS), time.monotonic()
    taken = refused = left = 0
    for n in range(asked.cases):
        body = bodies.valid() if n % 2 else bodies.broken()
        found, expected = lua.classify(body), as_header(reference.classify(body))
        if expected is not None and found != expected:
            sys.exit(f"seed {asked.seed}, case {n}: {found} instead of {expected} for {body!r}")
        taken += expected is not None
        refused += found is None
        left += expected is None and found is not None
    print(
        f"{asked.cases} bodies, seed {asked.seed}: {taken} read as the parser reads them, {refused} refused, "
        f"{left} broken deep inside and left to the engine, {time.monotonic() - begun:.0f} s"
    )


if __name__ == "__main__":
    main()
