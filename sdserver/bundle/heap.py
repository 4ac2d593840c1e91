"""The C library's heap, where the tensors of a CPU lie.

By itself it gives the memory of large tensors back to the system as soon as they are gone, and each page of
the next ones is then faulted in and zeroed again, in every layer of every step. glibc can be told otherwise;
other C libraries are left as they are.
"""

import ctypes
from typing import Any, Final

MOST: Final = 1 << 30
"""Bytes; more are no use, for so large tensors are few."""

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
"""glibc's numbers in `malloc.h`."""


def hold(size: int) -> bool:
    """From now on, have the process keep what tensors leave for those to come.

    Args:
        size: bytes that are kept, of a single tensor or of the heap's free end; at most `MOST` are.

    Returns:
        Whether the C library can be told.
    """
    library = _glibc()
    if library is None:
        return False
    return all(library.mallopt(name, min(size, MOST)) == 1 for name in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))


def give_back() -> None:
    """Give the system what nobody uses, of the whole heap."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> Any | None:
    """The C library, if it is glibc."""
    try:
        library: Any = ctypes.CDLL(None)
        names = library.gnu_get_libc_version, library.mallopt, library.malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return library if all(names) else None
