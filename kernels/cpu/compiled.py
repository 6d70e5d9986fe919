"""How every kernel is compiled: without Python's lock, kept on disk between runs where there is a place for it."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """The kernel, compiled at its first call for the types it is called with."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # a read-only installation without a writable cache folder: each process compiles anew
        return njit(nogil=True)(function)
