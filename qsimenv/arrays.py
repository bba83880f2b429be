"""Large arrays: where the planes of a state come from.

Memory is asked for in huge pages where the system has them: touching a state for the first time then costs a fraction,
and so does every walk over it in strides. It goes back to the system when the array goes.
"""

from __future__ import annotations

import contextlib
import mmap

import numpy as np

_HUGE = 2 << 20
_LARGE = 4 << 20


def zeros(count: int, kind: type[np.floating]) -> np.ndarray:
    """``count`` zeros of a real type, aligned to a huge page if there are many. Raises MemoryError."""
    num_bytes = count * np.dtype(kind).itemsize
    if num_bytes < _LARGE:
        return np.zeros(count, dtype=kind)
    try:
        memory = mmap.mmap(-1, num_bytes + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(str(error)) from error
    with contextlib.suppress(AttributeError, OSError):  # a system without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, dtype=np.uint8)
    start = -whole.ctypes.data % _HUGE
    return whole[start : start + num_bytes].view(kind)
