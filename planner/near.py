"""The right spelling that a person probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """Up to `count` known names close to `name`, best first; case is ignored."""
    by_lower = {k.lower(): k for k in known}
    return tuple(by_lower[m] for m in difflib.get_close_matches(name.lower(), by_lower, n=count, cutoff=0.5))
