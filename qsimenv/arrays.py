"""Large arrays: where the planes of a state come from, and where they go, in main memory or on a GPU.

Memory is asked for in huge pages where the system has them: touching a state for the first time then costs a fraction,
and so does every walk over it in strides. The planes of the last state are kept for the next one of that size, because
a system may take longer to hand out memory than a circuit takes to run; any other request lets them go first.

A process works with one GPU at most, ``gpu()``. Who works with arrays on it needs no more than what ``GPU`` lists.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qsimenv import memory
from qsimenv.arrays_cupy import CupyGPU, Source, pick_device
from qsimenv.errors import InvalidArgumentError, QSimEnvError

_HUGE = 2 << 20
_LARGE = 256 << 10
"""Smaller arrays come from NumPy; of these, fresh memory would cost a page fault every 4 KiB in each run."""
_MOST_KEPT = 2
_MOST_KEPT_BYTES = 40 << 20
"""In so little memory more are kept: a gradient has four planes."""

_kept: list[mmap.mmap] = []


def empty(count: int, kind: type[np.floating]) -> np.ndarray:
    """``count`` numbers of a real type, whatever they are, aligned to a huge page if many. Raises MemoryError."""
    num_bytes = count * np.dtype(kind).itemsize
    if num_bytes < _LARGE:
        return np.empty(count, dtype=kind)
    memory = _take(-(-num_bytes // _HUGE) * _HUGE + _HUGE)
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
    """Keep a mapping whose array has gone, if it is of the size of those kept already and they are few, or small."""
    most = max(_MOST_KEPT, _MOST_KEPT_BYTES // len(memory))
    if len(_kept) < most and all(len(other) == len(memory) for other in _kept):
        _kept.append(memory)


# --- the GPU ---


class GPU(Protocol):
    """One GPU as this process uses it. Arrays on it have ``dtype``, ``size``, ``nbytes``, ``itemsize``, ``len`` and
    slices that are views. All work is done in the order in which it is asked for."""

    name: str
    threads: int
    """Of a thread block."""
    shared_bytes: int
    """The most shared memory of a thread block."""
    shared_bytes_per_processor: int
    """What the thread blocks on one multiprocessor have together."""
    processors: int

    @property
    def takes_messages(self) -> bool:
        """Whether MPI can be given arrays that lie here; else messages go by way of host memory."""

    def empty(self, count: int, kind: Any) -> Any:
        """``count`` numbers, whatever they are. Raises MemoryError."""

    def upload(self, host: np.ndarray, into: Any = None) -> Any:
        """A copy of a contiguous host array, in ``into`` if that is given."""

    def download(self, array: Any, into: np.ndarray | None = None) -> np.ndarray:
        """A copy on the host, complete when this returns."""

    def pinned(self, count: int, kind: Any) -> np.ndarray:
        """A host array that copies to and from the GPU are fast with."""

    def copy(self, array: Any, into: Any) -> None:
        """Copy an array of the GPU to another one."""

    def launch(self, source: Source, kernel: str, blocks: int, arguments: Sequence[Any], shared_bytes: int = 0) -> None:
        """Start a kernel with so many thread blocks. Arguments are arrays of the GPU and NumPy scalars of its types."""

    def synchronize(self) -> None:
        """Until all that was asked for is done."""

    def free_bytes(self) -> int:
        """What can still be had, this process's share where several ranks work with the GPU."""


_gpu: GPU | QSimEnvError | None = None
_DEVICE_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Of NVIDIA's driver, of AMD's, and of either in a Windows subsystem."""


def gpu() -> GPU:
    """This process's GPU. Raises LibraryNotFoundError without CuPy, NotSupportedError where it sees no GPU. *Local.*"""
    global _gpu  # noqa: PLW0603 - one for each process
    if _gpu is None:
        _gpu = _find_gpu()
    if isinstance(_gpu, QSimEnvError):
        raise _gpu
    return _gpu


def _find_gpu() -> GPU | QSimEnvError:
    try:
        return CupyGPU(pick_device())
    except QSimEnvError as error:
        return error


def set_gpu(other: GPU | None) -> None:
    """Work with ``other`` from now on; with None, look for one again when it is next asked for."""
    global _gpu  # noqa: PLW0603 - as above
    _gpu = other


def wished(device: str, environ: Mapping[str, str] = os.environ) -> str:
    """The device asked for: where that is "auto", what QSIMENV_DEVICE says. Raises InvalidArgumentError."""
    found = environ.get("QSIMENV_DEVICE", "auto") if device == "auto" else device
    if found not in ("auto", "cpu", "gpu"):
        raise InvalidArgumentError(f"device: QSIMENV_DEVICE={found!r} found, 'auto', 'cpu' or 'gpu' needed")
    return found


def free_bytes(device: str) -> int:
    """What this process may take for a state on the device "gpu" (where it has one), or in main memory. *Local.*"""
    return (
        gpu().free_bytes() if wished(device) == "gpu" and has_gpu() else memory.free_bytes_per_process() + kept_bytes()
    )


def has_gpu() -> bool:
    """Whether ``gpu`` returns one. Where the system shows no device, CuPy is not loaded to see that."""
    if _gpu is None and not any(Path(path).exists() for path in _DEVICE_FILES):
        return False
    try:
        gpu()
    except QSimEnvError:
        return False
    return True
