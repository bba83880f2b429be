"""Exchange: trade local bits for rank bits between the ranks of a team, in pieces of bounded size.

With s pairs of bits, a rank trades with 2**s - 1 partners. What it sends to one partner and what it gets from it belong
into the very same slot, so the trade is in place. Several pieces are on their way at any time: while some travel,
another is packed or unpacked. ``state`` calls this; which bits are traded is the plan's to say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from qsimenv.comm import Team, Transfer
from qsimenv.errors import OutOfMemoryError, QSimEnvError
from qsimenv.statevec.kernels.devices import DeviceName, Passage, device, device_of

PIECE_BYTES = 2 << 20
"""One message between ranks of one host: it stays in the second-level cache on its way through the buffer."""
FAR_PIECE_BYTES = 4 << 20
"""One message where ranks live on several hosts: long enough for a network's full rate."""
_MOST_PASSED_OVER = 8
"""Index bits at which only zeros are passed over; the kernels' tables have a row for each value at them."""
_UNDER_WAY = 2
_FAR_UNDER_WAY = 8
"""MPI asks the partner before it sends a long message: the others fill the link while a question is on its way."""
_BUFFERS_OF_STATE = 8
"""All buffers together, one to pack and one to receive for each piece, take at most this part of the rank's state."""


@dataclass(frozen=True)
class Piece:
    """One message: for each of ``planes`` the amplitudes number ``start`` to ``start + count`` of the slot ``slot``."""

    partner: int
    slot: int
    planes: tuple[int, ...]
    start: int
    count: int


def pieces(num_local: int, pairs: Sequence[tuple[int, int]], rank: int, num_planes: int, most: int) -> Iterator[Piece]:
    """What ``rank`` sends, and gets back from the same partners, in order; at most ``most`` numbers in each. Pure.

    Every two ranks meet in the same order. Slots so small that those of all planes fit a piece travel together.
    """
    count = 1 << (num_local - len(pairs))
    together = num_planes * count <= most
    size = count if together else min(count, 1 << (most.bit_length() - 1))
    groups = [tuple(range(num_planes))] if together else [(plane,) for plane in range(num_planes)]
    for pattern in range(1, 1 << len(pairs)):
        partner = rank ^ sum((pattern >> k & 1) << (bit - num_local) for k, (_, bit) in enumerate(pairs))
        slot = slot_of(partner, num_local, pairs)
        for start in range(0, count, size):
            for planes in groups:
                yield Piece(partner, slot, planes, start, size)


def slot_of(rank: int, num_local: int, pairs: Sequence[tuple[int, int]]) -> int:
    """The local part of the index of what belongs to ``rank`` after the trade."""
    return sum((rank >> (bit - num_local) & 1) << local for local, bit in pairs)


def trade_bits(planes: Sequence[Any], num_local: int, pairs: Sequence[tuple[int, int]], team: Team) -> int:
    """Trade each (local bit, rank bit) of ``pairs`` in place. *Collective.* Returns the bytes that this rank sent.

    An involution. A rank that fails on the way goes on sending, so that none waits for it; then all raise its error.
    """
    real = planes[0].dtype
    state_bytes = sum(plane.nbytes for plane in planes)
    most: int = max(1, piece_bytes(state_bytes, team, device_of(planes[0]).name) // real.itemsize)
    traffic = _Traffic(planes, tuple(sorted(local for local, _ in pairs)), team, most)
    numbers, itemsize = 0, int(real.itemsize)
    for piece in pieces(num_local, pairs, team.rank, len(planes), most):
        traffic.begin(piece)
        numbers += len(piece.planes) * piece.count
    traffic.finish()
    team.agree(traffic.error)
    return numbers * itemsize


@dataclass(frozen=True)
class FixedBits:
    """Index bits (``mask``) that have the values ``value`` wherever the state is not zero."""

    mask: int
    value: int

    def apply(self, index: int) -> int:
        """The index with those values."""
        return index & ~self.mask | self.value

    def holds(self, index: int) -> bool:
        """Whether the index has those values."""
        return self.apply(index) == index

    def without(self, bits: Iterable[int]) -> FixedBits:
        mask = self.mask & ~sum(1 << bit for bit in bits)
        return FixedBits(mask, self.value & mask)


def keep_own_part(
    planes: Sequence[Any], pairs: Sequence[tuple[int, int]], rank_index: int, value: int, unset: int = 0, empty: int = 0
) -> None:
    """Trade rank bits that have the values of ``value`` wherever the state is not zero, and that all ranks worked on.

    Each rank holds what every other holds, and keeps what is its own after the trade. What has a bit of ``unset`` in
    its index need not become zero, what has one of ``empty`` is not looked at. *Local*, no message.
    """
    passed_over = [bit for bit in range(empty.bit_length()) if empty >> bit & 1][-_MOST_PASSED_OVER:]
    unset |= sum(1 << bit for bit in passed_over)
    positions = np.array(sorted([*(local for local, _ in pairs), *passed_over]), dtype=np.int64)
    source = sum((rank_index >> bit & 1) << local for local, bit in pairs)
    target = sum((value >> bit & 1) << local for local, bit in pairs)
    for plane in planes:
        device_of(plane).slots.keep_slot(plane, positions, source, target, unset)


def pieces_under_way(team: Team, on: DeviceName = "cpu") -> int:
    """How many messages a rank has on their way at once."""
    return _FAR_UNDER_WAY if _is_far(team, on) else _UNDER_WAY


def piece_bytes(state_bytes: int, team: Team, on: DeviceName = "cpu") -> int:
    """The size of a message for a rank that holds ``state_bytes``."""
    most = FAR_PIECE_BYTES if _is_far(team, on) else PIECE_BYTES
    return min(most, max(state_bytes // (_BUFFERS_OF_STATE * 2 * pieces_under_way(team, on)), 64))


def _is_far(team: Team, on: DeviceName) -> bool:
    """Whether what travels leaves the host's caches: no cache keeps what goes from GPU to GPU, either."""
    return on == "gpu" or team.spans_hosts


class _Traffic:
    """The pieces under way, each with a buffer to pack it in and one for what comes back."""

    def __init__(self, planes: Sequence[Any], positions: tuple[int, ...], team: Team, most: int) -> None:
        self._planes, self._positions, self._team = planes, positions, team
        self._device = device_of(planes[0])
        self._under_way: deque[tuple[Piece, Any, Passage, Transfer]] = deque()
        self._begun = 0
        self.error: QSimEnvError | None = None
        try:
            under_way = pieces_under_way(team, self._device.name)
            self._ways = _ways(under_way, most, planes[0].dtype, self._device.name)
        except MemoryError as error:
            self.error = _failure(error)
        team.agree(self.error)

    def begin(self, piece: Piece) -> None:
        """Send a piece off, from where it lies if that is one run; see to an earlier one if there are many."""
        if len(self._under_way) == len(self._ways):
            self._finish_one()
        length = len(piece.planes) * piece.count
        outgoing, incoming, passage = self._ways[self._begun % len(self._ways)]
        outgoing, incoming = outgoing[:length], incoming[:length]
        if len(piece.planes) == 1 and piece.count <= 1 << self._positions[0]:
            place = _spread(piece.start, self._positions) | piece.slot
            outgoing = self._planes[piece.planes[0]][place : place + piece.count]
        else:
            self._copy(self._device.slots.pack, piece, outgoing)
        transfer = self._team.begin_exchange(piece.partner, passage.sent(outgoing), passage.received(incoming))
        self._under_way.append((piece, incoming, passage, transfer))
        self._begun += 1

    def finish(self) -> None:
        """Until all pieces are in their places."""
        while self._under_way:
            self._finish_one()

    def _finish_one(self) -> None:
        piece, incoming, passage, transfer = self._under_way.popleft()
        transfer.wait()
        passage.arrive(incoming)
        self._copy(self._device.slots.unpack, piece, incoming)

    def _copy(self, kernel: Callable[..., None], piece: Piece, buffer: Any) -> None:
        if self.error is not None:
            return
        try:
            for number, plane in enumerate(piece.planes):
                part = buffer[number * piece.count : (number + 1) * piece.count]
                places = _places(self._positions, piece.count, self._device.name)
                kernel(self._planes[plane], *places, piece.slot, piece.start, part)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others must hear of it
            self.error = _failure(error)


def _failure(error: Exception) -> QSimEnvError:
    text = f"exchange: {type(error).__name__}: {error}"
    if isinstance(error, MemoryError):
        return OutOfMemoryError(f"{text or 'no memory'}; use more ranks or precision='single'")
    return error if isinstance(error, QSimEnvError) else QSimEnvError(text)


@lru_cache(maxsize=2)
def _ways(under_way: int, numbers: int, real: np.dtype[np.floating], on: DeviceName) -> list[tuple[Any, Any, Passage]]:
    """For each piece under way a buffer to pack in, one to receive in, and a passage; kept for the next exchange."""
    found = device(on)
    return [(found.buffer(numbers, real), found.buffer(numbers, real), found.passage(numbers, real))
            for _ in range(under_way)]  # fmt: skip


@lru_cache(maxsize=64)
def _places(positions: tuple[int, ...], count: int, on: DeviceName) -> tuple[np.ndarray, np.ndarray]:
    """What the kernels want to know of a slot and of pieces of ``count`` numbers."""
    return np.array(positions, dtype=np.int64), device(on).slots.offsets_for(positions, count)


def _spread(number: int, positions: Sequence[int]) -> int:
    """Where in the index the amplitude of that number in slot 0 is."""
    for position in positions:
        number = number >> position << (position + 1) | number & ((1 << position) - 1)
    return number
