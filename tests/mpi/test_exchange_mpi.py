"""The exchange by itself: every amplitude arrives, whatever the shape of the slots and the pieces; errors reach all.

Amplitudes are their own global index (and a fraction that tells the planes apart), so a wrong one says where it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from qsimenv import comm
from qsimenv.errors import OutOfMemoryError, QSimEnvError
from qsimenv.statevec import exchange
from qsimenv.statevec.exchange import trade_bits
from qsimenv.statevec.kernels import slots_numba

pytestmark = pytest.mark.mpi

REALS = (np.float32, np.float64)
LOCAL = 10


def rank_bits(team: comm.Team) -> int:
    return team.size.bit_length() - 1


def numbered(indices: np.ndarray, real: type[np.floating]) -> tuple[np.ndarray, np.ndarray]:
    return indices.astype(real), (indices + 0.25).astype(real)


def traded(indices: np.ndarray, pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Where what is found at each index after the trade was before."""
    before = indices.copy()
    for one, other in pairs:
        differ = (before >> one ^ before >> other) & 1
        before ^= differ << one | differ << other
    return before


def choices(num_local: int, team: comm.Team, count: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """All sets of local bits with each order of rank bits, thinned out where they are many."""
    away = list(itertools.permutations(range(num_local, num_local + rank_bits(team)), count))
    for number, local in enumerate(itertools.combinations(range(num_local), count)):
        yield tuple(zip(local[:: -1 if number % 2 else 1], away[number % len(away)], strict=True))


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("piece_bytes", [8, 64, 1024, 4096, 1 << 20])
def test_every_amplitude_arrives(
    real: type[np.floating], count: int, piece_bytes: int, team: comm.Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of one number, of a line, smaller than, equal to and larger than a slot; lone planes and both together."""
    if count > rank_bits(team):
        pytest.skip("as many rank bits as pairs are needed")
    monkeypatch.setattr(exchange, "piece_bytes", lambda _state, _team, _on: piece_bytes)
    indices = np.arange(1 << LOCAL) + (team.rank << LOCAL)
    for number, pairs in enumerate(choices(LOCAL, team, count)):
        if number % max(7 if piece_bytes < 1024 else 1, 2 * team.size - 3):
            continue
        planes = numbered(indices, real)
        sent = trade_bits(planes, LOCAL, pairs, team)
        for found, wanted in zip(planes, numbered(traded(indices, pairs), real), strict=True):
            assert np.array_equal(found, wanted), f"rank {team.rank}, pairs {pairs}"
        assert sent == 2 * (planes[0].nbytes - (planes[0].nbytes >> count))
        trade_bits(planes, LOCAL, pairs, team)
        assert np.array_equal(planes[0], indices.astype(real)), f"back again, pairs {pairs}"


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("shift", [0, 3])
def test_large_slots_past_the_caches(
    real: type[np.floating], shift: int, team: comm.Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many chunks and many pieces, in planes that begin at a cache line and in some that do not."""
    if team.size == 1:
        pytest.skip("a trade needs two ranks")
    monkeypatch.setattr(slots_numba, "STREAM_FROM_BYTES", 0)
    num_local = 17
    indices = np.arange(1 << num_local) + (team.rank << num_local)
    for local in (16, 12, 4, 1):
        pairs = ((local, num_local),)
        planes = []
        for plane in numbered(indices, real):
            room = np.empty(len(plane) + 32, dtype=real)
            start = (-room.ctypes.data % 64) // room.itemsize + shift
            room[start : start + len(plane)] = plane
            planes.append(room[start : start + len(plane)])
        trade_bits(planes, num_local, pairs, team)
        for found, wanted in zip(planes, numbered(traded(indices, pairs), real), strict=True):
            assert np.array_equal(found, wanted), f"rank {team.rank}, bit {local}"


@pytest.mark.parametrize("kind", [MemoryError, RuntimeError])
@pytest.mark.parametrize("kernel", ["pack", "unpack"])
def test_a_rank_that_fails_in_the_middle_takes_no_other_along(
    kind: type[Exception], kernel: str, team: comm.Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last rank breaks down at its third piece; all raise what it raised, and the team works on."""
    if team.size == 1:
        pytest.skip("a trade needs two ranks")
    monkeypatch.setattr(exchange, "piece_bytes", lambda _state, _team, _on: 256)
    copy, calls = getattr(slots_numba, kernel), itertools.count()

    def breaks(*arguments: object) -> None:
        if next(calls) == 2 and team.rank == team.size - 1:
            raise kind("out of order")
        copy(*arguments)

    indices = np.arange(1 << LOCAL) + (team.rank << LOCAL)
    pairs = ((2, LOCAL),)
    with monkeypatch.context() as patch:
        patch.setattr(slots_numba, kernel, breaks)
        expected = OutOfMemoryError if kind is MemoryError else QSimEnvError
        with pytest.raises(expected, match=r"exchange: .*out of order"):
            trade_bits(numbered(indices, np.float64), LOCAL, pairs, team)
    planes = numbered(indices, np.float64)
    trade_bits(planes, LOCAL, pairs, team)
    assert np.array_equal(planes[0], traded(indices, pairs))


def test_no_room_for_buffers_is_everybodys_error(team: comm.Team, monkeypatch: pytest.MonkeyPatch) -> None:
    if team.size == 1:
        pytest.skip("a trade needs two ranks")

    def refuse(*_: object) -> None:
        raise MemoryError("refused")

    if team.rank == 0:
        monkeypatch.setattr(exchange, "_ways", refuse)
    indices = np.arange(1 << LOCAL)
    with pytest.raises(OutOfMemoryError, match="refused"):
        trade_bits(numbered(indices, np.float32), LOCAL, ((0, LOCAL),), team)
    assert np.array_equal(team.sum(np.ones(1)), [team.size])


def test_one_host_is_recognised(team: comm.Team) -> None:
    assert team.spans_hosts is False
    assert exchange.piece_bytes(1 << 40, team) == exchange.PIECE_BYTES
