"""`python -m tests.accuracy`: prints every part's tables and targets, writes docs/validation.md, fails on a miss."""

from __future__ import annotations

import sys

from tests.accuracy import memory, speed
from tests.accuracy.report import write

PARTS = (memory.section, speed.section)


def main() -> int:
    sections = [part() for part in PARTS]
    write(sections)
    for section in sections:
        print(f"{section.title}\n\n{section.text}")  # noqa: T201
    missed = [target for section in sections for target in section.targets if not target.met]
    print(f"{len(missed)} targets missed", *missed, sep="\n")  # noqa: T201
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
