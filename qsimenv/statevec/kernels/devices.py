"""Devices: where the planes of a state lie, and which kernels work on them. ``state`` and those above ask by name.

Kernels for the CPU and for the GPU have the same names and arguments; a device is a choice of modules, with the sizes
that plans for it are made with. Nothing outside of this file asks which device it is, except for what has no twin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, Literal

import numpy as np

from qsimenv import arrays
from qsimenv.comm import Team
from qsimenv.errors import QSimEnvError
from qsimenv.statevec.encoding.rows import REAL_TYPE, THREADS, VECTORS, Form
from qsimenv.task import Precision

DeviceName = Literal["cpu", "gpu"]


@dataclass(frozen=True)
class Device:
    """``sweeps`` and ``slots`` are modules of kernels, ``form`` is what ``encode`` makes for them.

    ``empty`` makes a plane, ``buffer`` an array for messages; both raise MemoryError. ``copy`` fills one from another.
    """

    name: DeviceName
    sweeps: ModuleType
    slots: ModuleType
    form: Form
    empty: Callable[[int, Any], Any]
    buffer: Callable[[int, Any], Any]
    copy: Callable[[Any, Any], None]

    def block_bits(self, num_local: int, precision: Precision, threads: int) -> int:
        """How many bits a block of a plan has."""
        return int(self.sweeps.block_bits(num_local, threads, REAL_TYPE[precision]))

    def low_bits(self, precision: Precision) -> int | None:
        """How many of the lowest bits each block has; None for what the planner takes."""
        return None if self.name == "cpu" else int(self.sweeps.low_bits(REAL_TYPE[precision]))

    def to_host(self, array: Any) -> np.ndarray:
        """The numbers where NumPy can reach them: the array itself, or a copy of one on the GPU."""
        return array if isinstance(array, np.ndarray) else arrays.gpu().download(array)

    def from_host(self, numbers: np.ndarray, plane: Any) -> None:
        """Fill a plane, or a part of one."""
        if isinstance(plane, np.ndarray):
            plane[:] = numbers
        else:
            arrays.gpu().upload(numbers, plane)

    def passage(self, count: int, real: Any) -> Passage:
        """Room for one message each way."""
        stays = self.name == "cpu" or arrays.gpu().takes_messages
        return Passage(self, *((None, None) if stays else (arrays.gpu().pinned(count, real) for _ in range(2))))


@dataclass(frozen=True)
class Passage:
    """How arrays of a device reach MPI and come back: as they are, or by way of host memory that is kept here."""

    device: Device
    outgoing: np.ndarray | None
    incoming: np.ndarray | None

    def sent(self, array: Any) -> Any:
        """What MPI is to send for an array whose numbers are there (or will be, once all work asked for is done)."""
        if self.outgoing is not None:
            return arrays.gpu().download(array, self.outgoing[: array.size])
        if self.device.name == "gpu":
            arrays.gpu().synchronize()
        return array

    def received(self, array: Any) -> Any:
        """Where MPI is to put what is meant for an array; ``arrive`` brings it there."""
        return array if self.incoming is None else self.incoming[: array.size]

    def arrive(self, array: Any) -> None:
        """After the message."""
        if self.incoming is not None:
            arrays.gpu().upload(self.incoming[: array.size], array)

    def exchange(self, team: Team, partner: int, send: Any, receive: Any) -> None:
        """Swap arrays with a partner that does the same. *Collective for the two.*"""
        team.exchange(partner, self.sent(send), self.received(receive))
        self.arrive(receive)


@lru_cache
def device(name: DeviceName) -> Device:
    """The device of that name. Raises, for the GPU, what ``arrays.gpu`` raises. *Local.*"""
    if name == "cpu":
        from qsimenv.statevec.kernels import slots_numba, sweep_numba

        return Device(name, sweep_numba, slots_numba, VECTORS, arrays.empty, np.empty, _copy_on_host)
    arrays.gpu()
    from qsimenv.statevec.kernels import slots_cupy, sweep_cupy

    return Device(name, sweep_cupy, slots_cupy, THREADS, _empty_on_gpu, _empty_on_gpu, _copy_on_gpu)


def device_of(plane: Any) -> Device:
    """Where a plane lies."""
    return device("cpu" if isinstance(plane, np.ndarray) else "gpu")


def _empty_on_gpu(count: int, kind: Any) -> Any:
    return arrays.gpu().empty(count, kind)


def _copy_on_gpu(source: Any, into: Any) -> None:
    arrays.gpu().copy(source, into)


def _copy_on_host(source: np.ndarray, into: np.ndarray) -> None:
    into[:] = source


def choose(wish: str, team: Team) -> DeviceName:
    """The device for a wish: "cpu", "gpu", or "auto", which is the GPU where every rank has one. *Collective.*

    See ``arrays.wished`` for what "auto" may be turned into. Raises, on every rank alike, LibraryNotFoundError or
    NotSupportedError for "gpu" where a rank has none.
    """
    wish = arrays.wished(wish)
    if wish == "gpu":
        error: QSimEnvError | None = None
        try:
            arrays.gpu()
        except QSimEnvError as found:
            error = found
        team.agree(error)
        return "gpu"
    return "gpu" if wish == "auto" and team.minimum(float(arrays.has_gpu())) else "cpu"
