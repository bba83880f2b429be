"""Readings: what the adjoint method looks at while two states go through the passes of a sweep together. Pure.

``gradients`` says what is wanted of which gate (``Looks``), ``normalform`` when it can be had (``Waiting``), ``writer``
writes the rows that read it. Strings of Paulis are masks over index bits; those of Z wait like phases, those that flip
one bit like rotations, so that they cost no pass but their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qsimenv.statevec.encoding.later import Numbers, Unmade, cosine, made_of, sine
from qsimenv.statevec.planning.plan import Op

LINE_BITS = 3
"""Eight amplitudes are read at a time, in either precision."""
FLIPS = 2 * LINE_BITS
"""Positions above the lines that a row reads X or Y on: four lots of 512 numbers fit a first-level cache."""

Integers = npt.NDArray[np.int64]


class Reading(NamedTuple):
    """``factor`` times ``2 Im <lambda| P |psi>`` belongs to parameter ``parameter``; P by its masks over index bits."""

    x_mask: int
    z_mask: int
    parameter: int
    factor: float


@dataclass(frozen=True)
class Readings:
    """Look at two states that are taken through the passes together. ``scale``: that of the stored numbers then."""

    readings: tuple[Reading, ...]
    scale: float


@dataclass(frozen=True)
class Looks:
    """What is to be read of two states that are taken through a plan together: by the number of a gate, just before it.

    ``idle``: gates that need not be done, because nothing is read behind them.
    """

    readings: Mapping[int, Sequence[Reading]]
    idle: frozenset[int]

    def before(self, ops: Sequence[Op]) -> Iterable[tuple[Op, Sequence[Reading]]]:
        """Each op of a sweep with what is read before it; of a gate in several pieces, before the first."""
        return self._before(ops) if self.readings else zip(ops, repeat(()))

    def _before(self, ops: Sequence[Op]) -> Iterator[tuple[Op, Sequence[Reading]]]:
        read = set[int]()
        for op in ops:
            yield op, () if op.gate in read else self.readings.get(op.gate, ())
            read.add(op.gate)


@dataclass(frozen=True)
class Slots:
    """The strings that a sweep reads, by slot: masks over index bits, shape (slots,). Entry k of the others, shape
    (readings,): ``factors[k]`` times what is in slot ``slots[k]``, times the squared scale that the state had before
    the sweep, belongs to parameter ``parameters[k]``. A slot holds ``sum_i (-1)**popcount(i & z) conj(lambda[i ^ x])
    psi[i]``, of that the imaginary part where the string has an even number of Y, else the real one."""

    x_masks: Integers
    z_masks: Integers
    slots: Integers
    parameters: Integers
    factors: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.x_masks)


class SlotMaker:
    """Gives the strings of the readings of a sweep their slots. ``scale``: that of the state before the sweep."""

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._masks = list[tuple[int, int]]()
        self._rows = list[tuple[int, int, float]]()

    def add(self, pass_: Readings) -> dict[tuple[int, int], int]:
        """The slot of each distinct string of a pass."""
        slots = dict[tuple[int, int], int]()
        ratio = pass_.scale / self._scale
        weight = 2 * ratio * ratio
        for x, z, parameter, factor in pass_.readings:
            slot = slots.setdefault((x, z), len(self._masks))
            if slot == len(self._masks):
                self._masks.append((x, z))
            number_of_y = (x & z).bit_count()
            sign = -1 if number_of_y & 2 else 1
            self._rows.append((slot, parameter, sign * weight * factor))
        return slots

    def made(self, factors: Numbers | Unmade) -> Slots | None:
        """All of them, or None where nothing is read; with zeros for ``factors`` that are known later."""
        if not self._masks:
            return None
        masks = np.array(self._masks, dtype=np.int64)
        slots, parameters = (np.array([row[column] for row in self._rows], dtype=np.int64) for column in (0, 1))
        known = np.zeros(factors.size) if isinstance(factors, Unmade) else factors
        return Slots(masks[:, 0].copy(), masks[:, 1].copy(), slots, parameters, known)

    def factors(self) -> Numbers | Unmade:
        """Those of the slots."""
        return made_of([factor for _, _, factor in self._rows])


class Group(NamedTuple):
    """What one row reads, as ``writer`` writes it."""

    has_lanes: bool
    num_entries: int
    table: list[int]


def _is_flip(x: int, z: int, num_bits: int) -> bool:
    """X or Y on a single bit, of a block that a row can read those of."""
    return x > 0 and not x & (x - 1) and not z & ~x and num_bits >= LINE_BITS + FLIPS


def flip_groups(slots: Mapping[tuple[int, int], int], position: Mapping[int, int], num_bits: int) -> Iterator[Group]:
    """X, and Y, on single positions of a block: six above the lines in each, those of the lines with the first."""
    for is_y in (0, 1):
        wanted = {
            position[x.bit_length() - 1]: slot
            for (x, z), slot in slots.items()
            if _is_flip(x, z, num_bits) and (z > 0) == is_y
        }
        lanes = [wanted.pop(line, -1) for line in range(LINE_BITS)]
        high = sorted(wanted)
        for first in range(0, max(len(high), int(max(lanes) >= 0)), FLIPS):
            chosen = high[first : first + FLIPS]
            others = (k for k in range(LINE_BITS, num_bits) if k not in chosen)
            group = sorted([*chosen, *islice(others, FLIPS - len(chosen))])
            some = [wanted[k] if k in chosen else -1 for k in group]
            yield Group(max(lanes) >= 0, len(chosen), [is_y, *group, *lanes, *some])
            lanes = [-1] * LINE_BITS


def string_groups(slots: Mapping[tuple[int, int], int], position: Mapping[int, int], num_bits: int) -> Iterator[Group]:
    """The other strings: those that flip the same bits and of which the same part is wanted."""
    found = dict[tuple[int, int], list[int]]()
    for (x, z), slot in slots.items():
        if not _is_flip(x, z, num_bits):
            outside = sum(1 << bit for bit in range(z.bit_length()) if z >> bit & 1 and bit not in position)
            entries = found.setdefault((x, (x & z).bit_count() & 1), [])
            entries += [_positions(z, position), outside, slot]
    for (x, is_real), entries in found.items():
        yield Group(False, len(entries) // 3, [_positions(x, position), 1 - is_real, *entries])


def _positions(mask: int, position: Mapping[int, int]) -> int:
    """The bits of a mask that the block has, as a mask of positions in it."""
    return sum(1 << position[bit] for bit in range(mask.bit_length()) if mask >> bit & 1 and bit in position)


class Waiting:
    """Readings that are held back, in terms of the states between the phases before the rotations and these
    (``flips``, by the bit they flip, and ``early``, strings of Z), or behind all that is held back (``signs``)."""

    def __init__(self) -> None:
        self.flips: dict[int, list[Reading]] = {}
        self.early: list[Reading] = []
        self.signs: list[Reading] = []

    def __bool__(self) -> bool:
        return bool(self.flips or self.early or self.signs)

    def take_signs(self) -> list[Reading]:
        """Those behind everything: nothing is held back any more but phases."""
        taken, self.signs = self.signs, []
        return taken

    def take(self, slopes: Mapping[int, float]) -> list[Reading]:
        """Those in front of the rotations; the others as well where that costs no more and no rotation is between."""
        taken = [each for some in self.flips.values() for each in some] + self.early
        if self.early:
            taken += self._those(slopes, touched=False)
            self.signs = self._those(slopes, touched=True)
        self.flips, self.early = {}, []
        return taken

    def _those(self, slopes: Mapping[int, float], *, touched: bool) -> list[Reading]:
        turned = sum(1 << bit for bit, slope in slopes.items() if slope)
        return [each for each in self.signs if bool(each.z_mask & turned) == touched]

    def move_signs(self, bit: int, slopes: Mapping[int, float]) -> bool:
        """Put the strings with a sign on a bit that will be turned in front of the rotations, if all of them can."""
        if not self.signs:
            return True
        moving = [each for each in self.signs if each.z_mask >> bit & 1]
        turned = sum(1 << other for other, slope in slopes.items() if slope)
        if any(each.z_mask & turned for each in moving):
            return False
        if moving:
            self.early += moving
            self.signs = [each for each in self.signs if not each.z_mask >> bit & 1]
        return True

    def turn(self, bit: int, angle: float) -> None:
        """Strings that flip a bit, behind a phase on it: X becomes X cos + Y sin."""
        if not angle or bit not in self.flips:
            return
        c, s, turned = cosine(angle), sine(angle), list[Reading]()
        for each in self.flips[bit]:
            other = -s if each.z_mask else s
            turned.append(each._replace(factor=each.factor * c))
            turned.append(each._replace(z_mask=each.z_mask ^ each.x_mask, factor=each.factor * other))
        self.flips[bit] = turned

    def flip(self, bit: int) -> None:
        """Behind an X."""
        self.early, self.signs = ([_signed(each, bit) for each in some] for some in (self.early, self.signs))
        if bit in self.flips:
            self.flips[bit] = [_signed(each, bit) for each in self.flips[bit]]

    def add_control(self, target: int, control: int, value: int) -> None:
        """Behind an X on the target where the control has a value: a sign on the target is one on both."""
        if not self.early and not self.signs:
            return
        self.early, self.signs = (
            [_controlled(each, target, control, value) for each in some] for some in (self.early, self.signs)
        )


def _signed(reading: Reading, bit: int) -> Reading:
    return reading._replace(factor=-reading.factor) if reading.z_mask >> bit & 1 else reading


def _controlled(reading: Reading, target: int, control: int, value: int) -> Reading:
    if not reading.z_mask >> target & 1:
        return reading
    sign = 1 if value else -1
    return reading._replace(z_mask=reading.z_mask ^ 1 << control, factor=sign * reading.factor)
