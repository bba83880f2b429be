"""Teams of ranks: the only file that imports mpi4py.

A ``Team`` is what every engine talks through: who am I, how many are we, and a handful of collective calls. A process
that no launcher started gets a team of one that never touches MPI, so a laptop needs none. Messages are cut into
pieces below every 32-bit count. Everything marked *collective* must be called by all ranks of the team.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np

from qsimenv import memory
from qsimenv.errors import QSimEnvError, from_code

if TYPE_CHECKING:
    from mpi4py import MPI

PIECE_BYTES = 64 << 20
"""The largest single message."""
_EXCHANGE_TAG = 1

_LAUNCHER_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS")


class Transfer(Protocol):
    """A message out and one in, on their way; the arrays must stay untouched until ``wait`` returns."""

    def wait(self) -> None:
        """Until both are through. *Local*, but the partner must have begun the same exchange."""

    def is_done(self) -> bool:
        """Whether both are through; looking helps them on. For those who have something better to do than to wait."""


class Team:
    """One rank alone; the MPI team below has the same calls. Rank 0 of a team speaks for it."""

    rank: int = 0
    size: int = 1
    spans_hosts: bool = False
    """Whether some ranks do not share memory. *Collective* when it is first asked for."""

    def barrier(self) -> None:
        """Wait for all. *Collective.*"""

    def sum(self, array: np.ndarray) -> np.ndarray:
        """The element-wise sum over the ranks, on every rank, bit for bit the same there. *Collective.*"""
        return array

    def minimum(self, value: float) -> float:
        """The smallest value of all ranks. *Collective.*"""
        return value

    def maximum(self, value: float) -> float:
        """The largest value of all ranks. *Collective.*"""
        return value

    def gather(self, array: np.ndarray) -> np.ndarray:
        """The arrays of all ranks, equal in shape, stacked on a new first axis, on every rank. *Collective.*"""
        return array[np.newaxis]

    def broadcast(self, data: bytes, root: int = 0) -> bytes:
        """The bytes of rank ``root``, on every rank. *Collective.*"""
        return data

    def exchange(self, partner: int, send: np.ndarray, receive: np.ndarray) -> None:
        """Swap contiguous arrays of one size with ``partner``, which makes the same call. *Collective for the two.*"""
        raise ValueError("a team of one has no partner")

    def begin_exchange(self, partner: int, send: np.ndarray, receive: np.ndarray) -> Transfer:
        """Start to swap contiguous arrays of one size, at most ``PIECE_BYTES``, with ``partner``, which does the same.

        Several may be on their way to a partner; they arrive in the order in which they were begun.
        """
        raise ValueError("a team of one has no partner")

    def subteam(self, ranks: Sequence[int]) -> Team:
        """The team of the given ranks, numbered in that order. *Collective* over those ranks only; kept and reused."""
        return self

    def agree(self, error: QSimEnvError | None) -> None:
        """Raise the same error on every rank where any rank brings one (that of the lowest rank). *Collective.*"""
        if error is not None:
            raise error

    def abort(self, message: str) -> None:
        """End every process of the MPI job: for the rank that cannot go on while others would wait for it forever."""
        raise SystemExit(message)


class _MPITransfer:
    def __init__(self, requests: list[MPI.Request]) -> None:
        self._requests = requests

    def wait(self) -> None:
        from mpi4py import MPI

        MPI.Request.Waitall(self._requests)

    def is_done(self) -> bool:
        from mpi4py import MPI

        return bool(MPI.Request.Testall(self._requests))


class MPITeam(Team):
    """A team over an MPI communicator."""

    def __init__(self, communicator: MPI.Intracomm) -> None:
        self._communicator = communicator
        self.rank = communicator.Get_rank()
        self.size = communicator.Get_size()
        self._subteams: dict[tuple[int, ...], Team] = {}

    def barrier(self) -> None:
        self._communicator.Barrier()

    def sum(self, array: np.ndarray) -> np.ndarray:
        # Reduce and broadcast: an all-reduce may add in another order on every rank, and outcomes must agree.
        total = np.empty(array.shape, dtype=array.dtype)  # C order, so that flat_total below is a view
        flat, flat_total = array.reshape(-1), total.reshape(-1)
        step = PIECE_BYTES // array.itemsize
        for start in range(0, flat.size, step):
            self._communicator.Reduce(flat[start : start + step], flat_total[start : start + step])
            self._communicator.Bcast(flat_total[start : start + step])
        return total

    def minimum(self, value: float) -> float:
        from mpi4py import MPI

        smallest = np.array([value], dtype=np.float64)
        self._communicator.Allreduce(MPI.IN_PLACE, smallest, op=MPI.MIN)
        return float(smallest[0])

    def maximum(self, value: float) -> float:
        return -self.minimum(-value)

    def gather(self, array: np.ndarray) -> np.ndarray:
        flat = np.ascontiguousarray(array).reshape(-1)
        gathered = np.empty((self.size, flat.size), dtype=array.dtype)
        step = PIECE_BYTES // array.itemsize
        for owner in range(self.size):
            if owner == self.rank:
                gathered[owner] = flat
            for start in range(0, flat.size, step):
                self._communicator.Bcast(gathered[owner, start : start + step], root=owner)
        return gathered.reshape(self.size, *array.shape)

    def broadcast(self, data: bytes, root: int = 0) -> bytes:
        length = np.array([len(data)], dtype=np.int64)
        self._communicator.Bcast(length, root=root)
        mine = self.rank == root
        buffer = np.frombuffer(data, dtype=np.uint8).copy() if mine else np.empty(length[0], dtype=np.uint8)
        for start in range(0, int(length[0]), PIECE_BYTES):
            self._communicator.Bcast(buffer[start : start + PIECE_BYTES], root=root)
        return buffer.tobytes()

    def exchange(self, partner: int, send: np.ndarray, receive: np.ndarray) -> None:
        step = PIECE_BYTES // send.itemsize
        for start in range(0, send.size, step):
            piece = slice(start, start + step)
            self._communicator.Sendrecv(send[piece], partner, 0, receive[piece], partner, 0)

    def begin_exchange(self, partner: int, send: np.ndarray, receive: np.ndarray) -> Transfer:
        incoming = self._communicator.Irecv(receive, partner, _EXCHANGE_TAG)
        return _MPITransfer([incoming, self._communicator.Isend(send, partner, _EXCHANGE_TAG)])

    @cached_property
    def spans_hosts(self) -> bool:  # type: ignore[override]  # a plain False where there is one rank
        from mpi4py import MPI

        neighbours = self._communicator.Split_type(MPI.COMM_TYPE_SHARED)
        fewest = self.minimum(neighbours.Get_size())
        neighbours.Free()
        return fewest < self.size

    def subteam(self, ranks: Sequence[int]) -> Team:
        key = tuple(ranks)
        if key == tuple(range(self.size)):
            return self
        if key not in self._subteams:
            self._subteams[key] = Team() if len(key) == 1 else self._create(key)
        return self._subteams[key]

    def _create(self, ranks: tuple[int, ...]) -> Team:
        group = self._communicator.Get_group().Incl(ranks)
        tag = hash(ranks) % 32767  # the standard grants tags up to 32767 on every MPI
        return MPITeam(self._communicator.Create_group(group, tag))

    def agree(self, error: QSimEnvError | None) -> None:
        worst = int(self.minimum(self.rank if error is not None else self.size))
        if worst == self.size:
            return
        mine = msgspec.msgpack.encode((error.code, error.message)) if error is not None else b""
        code, message = msgspec.msgpack.decode(self.broadcast(mine, root=worst))
        raise error if self.rank == worst and error is not None else from_code(code, message)

    def abort(self, message: str) -> None:
        os.write(2, f"{message}\n".encode())
        self._communicator.Abort(1)


def is_launched(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether an MPI launcher started this process, as far as its environment tells."""
    return any(name in environ for name in _LAUNCHER_VARIABLES)


_world: Team | None = None
_launched: MPI.Intracomm | None = None


def look() -> None:
    """Let MPI notice what has happened: where the launcher has died, it ends this process. Local; a microsecond.

    Open MPI does so inside of its calls only, and one rank alone might make none for hours.
    """
    if _launched is not None:
        _launched.Iprobe()


def world() -> Team:
    """The team of all ranks that were launched together. The first call initialises MPI (*collective* then)."""
    global _world  # noqa: PLW0603 - MPI itself is one per process
    if _world is None:
        _world = _mpi_world() if is_launched() else Team()
    return _world


def _mpi_world() -> Team:
    global _cores, _launched  # noqa: PLW0603 - facts about this process
    # Over TCP Open MPI's put protocol asks before it sends, and the question waits behind the data that is on its way:
    # an exchange both ways then reaches little more than half of the link's rate.
    os.environ.setdefault("OMPI_MCA_btl_tcp_flags", "send")
    from mpi4py import MPI

    _launched = communicator = MPI.COMM_WORLD
    neighbours = communicator.Split_type(MPI.COMM_TYPE_SHARED)
    memory.set_ranks_on_this_node(neighbours.Get_size(), neighbours.Get_rank())
    bound = np.zeros((neighbours.Get_size(), _MOST_CORES), dtype=np.uint8)
    mine = np.zeros(_MOST_CORES, dtype=np.uint8)
    mine[[core for core in os.sched_getaffinity(0) if core < _MOST_CORES]] = 1
    neighbours.Allgather(mine, bound)
    _cores = share_of_cores(mine, bound)
    neighbours.Free()
    return MPITeam(communicator) if communicator.Get_size() > 1 else Team()


_MOST_CORES = 8192
_cores: int | None = None


def cores() -> int:
    """How many cores this process may use without taking any from the other ranks of its job on the host."""
    return len(os.sched_getaffinity(0)) if _cores is None else _cores


def share_of_cores(mine: np.ndarray, bound: np.ndarray) -> int:
    """The share of a rank that is bound to the cores ``mine``: each core is divided among those bound to it. Pure.

    ``bound`` has a row for each rank of the host, the asking one included, with 1 for the cores that it may use.
    """
    users = bound.sum(axis=0, dtype=np.int64)
    return max(1, int((mine[mine > 0] / users[mine > 0]).sum() + 1e-9))


def library_version() -> str:
    """The MPI library in one line. MPI that is not up stays down: a lone process would leave shared memory behind."""
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    return MPI.Get_library_version().split("\n")[0].strip()


def wrap(communicator: Any) -> Team:
    """A team over the caller's own mpi4py communicator (which stays the caller's to free)."""
    return MPITeam(communicator) if communicator.Get_size() > 1 else Team()
