"""Pinning: each helper thread of a rank on a core of its own. Who starts a long parallel kernel asks for it.

A thread that slept for some milliseconds is often woken on the core of the thread that wakes it, although another one
is idle, and waits there while the waker spins in the hope of its help: until the system moves it, 4 or 8 ms later with
a clock of 250 Hz. The first sweep after a pause took that much longer. So the helpers are pinned, and the thread that
calls them steps aside to the core that is left; it may go anywhere afterwards, and what it starts is not pinned.

Only where threads and cores are equally many: of two processes with the same few threads on many cores, both would
choose the same ones. ``OMP_PROC_BIND`` leaves it to OpenMP, as the caller of a library may wish.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from qsimenv.statevec.kernel_cache import njit, part
from qsimenv.statevec.threads_numba import in_threads, launcher

_WORD = ir.IntType(64)
_done = threading.local()
"""Of each thread that runs kernels, since each has helpers of its own: the cores that they were pinned to."""


def pin_helpers(threads: int) -> None:
    """Pin the helpers of this thread, ``threads`` with itself, where that is safe. Cost: under a microsecond from the
    second time on, unless this thread has moved."""
    pinned: Sequence[int] = getattr(_done, "cores", ())
    if pinned and _core_of_this_thread() == pinned[0]:
        return
    if os.environ.get("OMP_PROC_BIND") or not hasattr(os, "sched_getaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) != threads or threads == 1:
        _done.cores = ()
        return
    if cores != pinned:
        if not _is_openmp():
            return
        _pin(launcher(threads), threads, _masks(cores), _this_thread())
        _done.cores = cores
    with suppress(OSError):  # where a system forbids it
        os.sched_setaffinity(0, cores[:1])
        os.sched_setaffinity(0, cores)


def _is_openmp() -> bool:
    """Whether the threads are OpenMP's, of which each does its own share of a loop."""
    numba.get_num_threads()  # chooses what threads there are
    return bool(numba.threading_layer() == "omp")


@lru_cache(maxsize=1)
def _getcpu() -> Any:
    return ctypes.CDLL(None).sched_getcpu


def _core_of_this_thread() -> int:
    core: int = _getcpu()()
    return core


def _masks(cores: Sequence[int]) -> np.ndarray:
    """For each core a set of it alone, as bits; shape (cores, words)."""
    masks = np.zeros((len(cores), max(cores) // 64 + 1), dtype=np.uint64)
    for mask, core in zip(masks, cores, strict=True):
        mask[core // 64] = 1 << core % 64
    return masks


def _libc(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[Any], kinds: Sequence[ir.Type]) -> Any:
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, kinds), name)
    return builder.call(function, arguments)


@intrinsic  # type: ignore[untyped-decorator]
def _thread(typing: Any) -> Any:
    """What the system calls the thread that asks."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        return _libc(builder, "pthread_self", _WORD, [], [])

    return types.int64(), generate


@intrinsic  # type: ignore[untyped-decorator]
def _stay_on(typing: Any, masks: Any, row: Any) -> Any:
    """Let this thread run on the cores of one row of the masks only; not 0 where the system refuses."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        words = builder.extract_value(array.shape, 1)
        place = builder.gep(array.data, [builder.mul(arguments[1], words)])
        num_bytes = builder.mul(words, ir.Constant(_WORD, 8))
        kinds = [ir.IntType(32), _WORD, place.type]
        return _libc(
            builder, "sched_setaffinity", ir.IntType(32), [ir.Constant(ir.IntType(32), 0), num_bytes, place], kinds
        )

    return types.int32(masks, row), generate


@njit(nogil=True)
def _this_thread() -> int:
    found: int = _thread()
    return found


@part(nogil=True)
def _stay(thread: int, threads: int, masks: np.ndarray, caller: int) -> None:
    if _thread() != caller:
        _stay_on(masks, thread)


@njit(nogil=True)
def _pin(launch: int, threads: int, masks: np.ndarray, caller: int) -> None:
    in_threads(launch, threads, _stay, (masks, caller))
