"""Kernels of the exchange and small changes of one plane, for the GPU: the names and arguments of ``slots_numba``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qsimenv import arrays
from qsimenv.statevec.kernels.source_cupy import integers, launch_over

Integers = npt.NDArray[np.int64]

_FILE = Path(__file__).with_name("slots.cu")


def offsets_for(positions: Sequence[int], count: int) -> Integers:
    """The GPU's kernels find their places themselves."""
    return np.zeros(0, dtype=np.int64)


def pack(plane: Any, positions: Integers, offsets: Integers, value: int, start: int, piece: Any) -> None:
    """Fill ``piece`` with amplitudes whose index has ``value`` at ``positions`` (sorted), from number ``start`` on."""
    _launch("pack", plane, len(piece), *_slot(plane, positions), np.int64(value), np.int64(start), piece)


def unpack(plane: Any, positions: Integers, offsets: Integers, value: int, start: int, piece: Any) -> None:
    """The reverse of ``pack``."""
    _launch("unpack", plane, len(piece), *_slot(plane, positions), np.int64(value), np.int64(start), piece)


def keep_slot(plane: Any, positions: Integers, source: int, target: int, unset: int = 0) -> None:
    """Move the slot with value ``source`` at ``positions`` to where ``target`` is; clear others without ``unset``."""
    values = (np.int64(source), np.int64(target), np.int64(unset))
    _launch("keep_slot", plane, len(plane) >> len(positions), *_slot(plane, positions), *values)


def put(plane: Any, mask: int, value: int, number: float) -> None:
    """Put a number where the index has ``value`` at the bits of ``mask``."""
    _launch("put", plane, len(plane), plane, np.int64(mask), np.int64(value), plane.dtype.type(number))


def take(plane: Any, places: Integers) -> np.ndarray:
    """The numbers at some places, on the host."""
    gpu = arrays.gpu()
    taken = gpu.empty(len(places), plane.dtype)
    _launch("take", plane, len(places), plane, integers(places), taken)
    return gpu.download(taken)


def _slot(plane: Any, positions: Any) -> tuple[Any, ...]:
    return plane, np.int32(len(positions)), integers(positions)


def _launch(kernel: str, plane: Any, count: int, *arguments: Any) -> None:
    launch_over(_FILE, kernel, count, plane.dtype, *arguments)
