"""Compiles the simulation's inner loop where numba is installed; elsewhere the same functions run as they are.

The first run compiles for some ten seconds, and numba keeps the result. NUMBA_DISABLE_JIT=1 switches it off.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
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

    config: Any = numba.config  # its type does not name what it reads from the environment
    config.CACHE_DIR = _kept_in()
    compile_it: Any = numba.njit  # its type does not name all of its options
    made: F = compile_it(cache=True, error_model="numpy", **options)(function)
    return made


@cache
def _kept_in() -> str:
    """A folder of this very code's own.

    Numba takes what it has compiled for good as long as the function's own file is the same; what that function calls
    in other files, and their constants, may have changed.
    """
    here = Path(__file__).parent
    code = sha256(b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))).hexdigest()
    return str(here / "__pycache__" / code[:12])


def column(values: NDArray[Any]) -> Any:
    """What compiled code reads fastest: an array; what plain Python reads fastest: a list."""
    return values if COMPILES else values.tolist()
