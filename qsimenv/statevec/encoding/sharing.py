"""Sharing: which rotations are turned by rows of phases, in the pass that these need anyway.

A pass over a block costs its loads and stores, whatever is done between them. Phases are bound by operations,
rotations of few bits by loads and stores: a row of phases turns up to ``TURNED_WITH_PHASES`` bits of its own before it
multiplies, and after that. ``writer`` asks what it should leave to them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from qsimenv.statevec.encoding.normalform import Pass, Phases, Rotations
from qsimenv.statevec.encoding.rows import TURNED_WITH_PHASES, Form

Slopes = Sequence[tuple[int, float]]
"""Of rotations: bits of the index, and the slope on each."""


class Sharing:
    """Of a block: ``position`` has its bits, of which the lowest ``lane_bits`` number the lanes."""

    def __init__(self, form: Form, position: Mapping[int, int], lane_bits: int) -> None:
        self._form, self._position, self._lane_bits = form, position, lane_bits

    def pairs(self, slopes: Slopes) -> tuple[dict[int, float], bool]:
        """Those of bits above the lanes, by position; and whether there are others."""
        placed = {self._position[bit]: slope for bit, slope in slopes}
        pairs = {position: slope for position, slope in placed.items() if position >= self._lane_bits}
        return pairs, len(pairs) < len(placed)

    def num_rows(self, num_pairs: int, has_lanes: bool) -> int:
        """How many rows of rotations turn so many bits above the lanes, and the lanes."""
        return max(-(-num_pairs // self._form.pair_bits), int(has_lanes))

    def before(self, slopes: Slopes, following: Sequence[Pass], least: int) -> dict[int, float]:
        """The rotations, by bit, that the phases that follow turn first, where that spares a row; best those of bits
        that these turn again. ``least``: so many rows there are in any case."""
        pairs, has_lanes = self.pairs(slopes)
        _, count = self._left(len(pairs), has_lanes, following, least)
        match following:
            case [Phases(), Rotations(slopes=others)]:
                again = self.pairs(others)[0]
            case _:
                again = {}
        chosen = sorted(pairs, key=lambda position: (position not in again, position))[:count]
        bits = {self._position[bit]: bit for bit, _ in slopes}
        return {bits[position]: pairs[position] for position in chosen}

    def after(
        self, phases: Phases, first: Collection[int], following: Sequence[Pass], least: int = 0
    ) -> dict[int, float]:
        """Slopes by position, some of which the row of some phases turns after them; none where that spares no row.

        ``first``: the positions that it turns before them, which are the first of its own bits already. ``least``: so
        many rows of rotations there should be in any case.
        """
        if not following or not isinstance(following[0], Rotations) or not self._can_turn(phases):
            return {}
        pairs, has_lanes = self.pairs(following[0].slopes)
        same = len(pairs.keys() & first)
        turned = same + min(TURNED_WITH_PHASES - len(first), len(pairs) - same)
        counts = (len(pairs) - turned, len(pairs))
        left, all_left = (self._left(count, has_lanes, following[1:], least) for count in counts)
        return pairs if left < all_left else {}

    def _can_turn(self, phases: Phases) -> bool:
        """Whether the row of some phases can turn bits of its own: not where all terms have one in common."""
        if not self._form.turns_in_phases:
            return False
        return all(self._position.get(bit, -1) < self._lane_bits for bit in phases.form.shared_bits())

    def _left(self, num_pairs: int, has_lanes: bool, following: Sequence[Pass], least: int = 0) -> tuple[int, int]:
        """How many rows of rotations so many bits need, and how many bits are left to phases that follow."""
        can_wait = bool(following) and isinstance(following[0], Phases) and self._can_turn(following[0])
        rows = self.num_rows(max(num_pairs - TURNED_WITH_PHASES, 0) if can_wait else num_pairs, has_lanes)
        rows = max(rows, least)
        return rows, max(num_pairs - self._form.pair_bits * rows, 0)
