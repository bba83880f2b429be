"""What an exchange sends, as a value: every amplitude that leaves a rank leaves it once, in pieces of bounded size."""

from __future__ import annotations

import pytest

from qsimenv.comm import Team
from qsimenv.statevec import exchange
from qsimenv.statevec.exchange import FixedBits, pieces


def indices_of(piece: exchange.Piece, local_bits: list[int]) -> set[int]:
    """The local indices of a piece, by counting: those with the slot's value, in order."""
    mask = sum(1 << bit for bit in local_bits)
    numbers, index = [], 0
    while len(numbers) < piece.start + piece.count:
        if index & mask == piece.slot:
            numbers.append(index)
        index += 1
    return set(numbers[piece.start :])


@pytest.mark.parametrize("pairs", [((2, 6),), ((5, 7),), ((0, 6), (4, 7)), ((3, 8), (1, 6), (5, 7))])
@pytest.mark.parametrize("most", [1, 3, 4, 16, 1000])
def test_what_leaves_a_rank_leaves_it_once(pairs: tuple[tuple[int, int], ...], most: int) -> None:
    num_local, rank, planes = 6, 5, 2
    sent: dict[int, dict[int, set[int]]] = {}
    for piece in pieces(num_local, pairs, rank, planes, most):
        assert len(piece.planes) * piece.count <= most
        assert piece.start % piece.count == 0
        for plane in piece.planes:
            indices = indices_of(piece, [local for local, _ in pairs])
            before = sent.setdefault(piece.partner, {}).setdefault(plane, set())
            assert not before & indices
            before |= indices
    assert len(sent) == (1 << len(pairs)) - 1
    for partner, by_plane in sent.items():
        wanted = {
            index
            for index in range(1 << num_local)
            if all(index >> local & 1 == partner >> (bit - num_local) & 1 for local, bit in pairs)
        }
        assert by_plane == dict.fromkeys(range(planes), wanted)


def test_two_ranks_meet_in_the_same_order() -> None:
    pairs = ((3, 6), (4, 7))
    for one in range(4):
        for piece in pieces(6, pairs, one, 2, 4):
            theirs = [p for p in pieces(6, pairs, piece.partner, 2, 4) if p.partner == one]
            mine = [p for p in pieces(6, pairs, one, 2, 4) if p.partner == piece.partner]
            assert [(p.planes, p.start, p.count) for p in mine] == [(p.planes, p.start, p.count) for p in theirs]


@pytest.mark.parametrize("state_bytes", [1, 100, 1 << 20, 1 << 28, 1 << 40])
def test_buffers_are_a_small_part_of_the_state(state_bytes: int) -> None:
    here, far = Team(), Team()
    far.spans_hosts = True
    for team, largest in ((here, exchange.PIECE_BYTES), (far, exchange.FAR_PIECE_BYTES)):
        size = exchange.piece_bytes(state_bytes, team)
        assert size <= largest
        assert size == 64 or 2 * exchange.pieces_under_way(team) * size <= state_bytes / 8


def test_fixed_bits() -> None:
    fixed = FixedBits(0b1100, 0b0100)
    assert fixed.apply(0b1011) == 0b0111
    assert fixed.holds(0b0110)
    assert not fixed.holds(0b1110)
    assert fixed.without([2]) == FixedBits(0b1000, 0)
