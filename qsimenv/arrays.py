"""Large arrays: where the planes of a state come from, and where they go.

Memory is asked for in huge pages where the system has them: touching a state for the first time then costs a fraction,
and so does every walk over it in strides. The planes of the last state are kept for the next one of that size, because
a system may take longer to hand out memory than a circuit takes to run; any other request lets them go first.
"""

from __future__ import annotations

import contextlib
import mmap
import weakref

import numpy as np

_HUGE = 2 << 20
_LARGE = 4 << 20
_MOST_KEPT = 2

_kept: list[mmap.mmap] = []


def empty(count: int, kind: type[np.floating]) -> np.ndarray:
    """``count`` numbers of a real type, whatever they are, aligned to a huge page if many. Raises MemoryError."""
    num_bytes = count * np.dtype(kind).itemsize
    if num_bytes < _LARGE:
        return np.empty(count, dtype=kind)
    memory = _take(num_bytes + _HUGE)
    whole = np.frombuffer(memory, dtype=np.uint8)
    weakref.finalize(whole, _give_back, memory).atexit = False
    return _aligned(whole, num_bytes).view(kind)


def scratch(num_bytes: int) -> np.ndarray:
    """Bytes for a caller that keeps them, aligned to a huge page; nothing that is kept here is let go for them."""
    whole = -(-num_bytes // _HUGE) * _HUGE  # the last page as well can be a huge one
    return _aligned(np.frombuffer(_map(whole + _HUGE), dtype=np.uint8), num_bytes)


def _aligned(whole: np.ndarray, num_bytes: int) -> np.ndarray:
    start = -whole.ctypes.data % _HUGE
    return whole[start : start + num_bytes]


def kept_bytes() -> int:
    """What is kept for the next state: in use as the system sees it, free as we do."""
    return sum(len(memory) for memory in _kept)


def _take(num_bytes: int) -> mmap.mmap:
    """A kept mapping of that size, or a fresh one."""
    if _kept and len(_kept[-1]) == num_bytes:
        return _kept.pop()
    while _kept:
        _kept.pop().close()
    return _map(num_bytes)


def _map(num_bytes: int) -> mmap.mmap:
    try:
        memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(str(error)) from error
    with contextlib.suppress(AttributeError, OSError):  # a system without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _give_back(memory: mmap.mmap) -> None:
    """Keep a mapping whose array has gone, if it is of the size of those kept already and they are few."""
    if len(_kept) < _MOST_KEPT and all(len(other) == len(memory) for other in _kept):
        _kept.append(memory)
