"""Compiles the simulation's inner loop where numba is installed; elsewhere the same functions run as they are.

The first run compiles for some ten seconds, and numba keeps the result. NUMBA_DISABLE_JIT=1 switches it off.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
COMPILES = find_spec("numba") is not None and os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


def compiled(function: F) -> F:
    """For functions that only compiled ones call."""
    return _jit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True) if COMPILES else function


def entry(function: F) -> F:
    """For those that Python calls."""
    return _jit(function, no_cfunc_wrapper=True) if COMPILES else function


def _jit(function: F, **options: bool) -> F:
    os.environ.setdefault("NUMBA_OPT", "1")  # the default takes four times as long to compile, and runs no faster
    import numba

    compile_it: Any = numba.njit  # its type does not name all of its options
    made: F = compile_it(cache=True, error_model="numpy", **options)(function)
    return made


def column(values: NDArray[Any]) -> Any:
    """What compiled code reads fastest: an array; what plain Python reads fastest: a list."""
    return values if COMPILES else values.tolist()
