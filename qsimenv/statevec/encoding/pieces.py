"""Pieces: an op of a plan as the numbers that the normal form works with. Kept by gate, angles and stored bits.

``encode`` asks for the piece of each op: a turn about some axis (``Turn``), the angles of a diagonal, a bit that is
flipped under a control, or a dense matrix. All are in stored bits.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qsimenv import gates
from qsimenv.circuit import Gate
from qsimenv.statevec.encoding.later import (
    Numbers,
    UnknownError,
    UnmadeMatrix,
    cosine,
    is_later,
    joint,
    length,
    reduced,
    tangent,
)
from qsimenv.statevec.planning.plan import Kind, Op
from qsimenv.statevec.planning.steps import Form, form_named, form_of

NOTHING = 1e-15
"""A rotation or an angle smaller than this is none."""
_STEEPEST = 1 / 32
"""A rotation by nearly half a turn is an X and a small one: slopes let the stored numbers grow."""


class Turn(NamedTuple):
    """A one-bit gate: X if ``flip``, a phase, ``[[1, slope], [-slope, 1]]``, a phase; times ``factor`` and a phase.

    ``constant``, ``before`` and ``after`` are radians, the latter two where the bit is 1. No slope: no rotation.
    ``ends_in_z``: there is one, and ``after`` is half a turn. ``steep`` is the same gate without the X, with a slope
    above 1, where that is not too steep.
    """

    flip: bool
    constant: float
    before: float
    slope: float
    factor: float
    after: float
    ends_in_z: bool = False
    steep: Turn | None = None

    def z_first(self) -> Turn:
        """The same gate with the Z at its end put before the rotation, which then goes the other way round."""
        return self._replace(before=self.before + math.pi, slope=-self.slope, after=0.0, ends_in_z=False)

    def after_turn(self, slope: float, angle: float) -> Turn:
        """The gate that does what a normalised rotation by ``slope``, a phase by ``angle`` and this gate do."""
        if any(map(is_later, (slope, angle, self.before, self.slope))):
            return self._after_later_turn(slope, angle)
        size = self.factor / math.hypot(1.0, slope)
        low, high = cmath.rect(size, self.constant), cmath.rect(size, self.constant + self.after)
        lean, turned = cmath.rect(1.0, self.before), cmath.rect(1.0, angle)
        rows = [[low, low * self.slope * lean], [-high * self.slope, high * lean]]
        if self.flip:
            rows = [row[::-1] for row in rows]
        (a, b), (c, d) = ((x - slope * turned * y, slope * x + turned * y) for x, y in rows)
        return turn_of(a, b, c, d)

    def _after_later_turn(self, slope: float, angle: float) -> Turn:
        """The same where some of it is known later. Raises UnknownError for one with an X."""
        if self.flip and not self.steep:
            raise UnknownError("an X and a rotation, after one that is known later")
        turn = self.steep or self
        both = joint(slope, angle + turn.before, turn.slope)
        return Turn(
            False,
            turn.constant + both.angle,
            both.lean,
            both.slope,
            turn.factor / length(slope) * both.size,
            turn.after + both.after,
        )


class Phase(NamedTuple):
    """``constant + sum_k linear[k] x_k + product x_0 x_1`` radians, over the op's bits and above them its controls; and
    ``parity`` where the sum of three or more bits is odd."""

    constant: float
    linear: tuple[float, ...]
    product: float = 0.0
    parity: float = 0.0


class Flip(NamedTuple):
    """X on one bit."""


class Dense(NamedTuple):
    """Any other matrix on the op's bits."""

    matrix: gates.Matrix | UnmadeMatrix


Piece = Turn | Phase | Flip | Dense
_FLIP = Flip()


class Unknown(tuple[float, ...]):
    """The angles of a gate, of which some are known later."""

    __slots__ = ()


def piece_of(gate: Gate, angles: tuple[float, ...], op: Op) -> Piece:
    """What an op of the gate is with these angles. Raises UnknownError where it takes those that are known later."""
    mask = op.control_mask
    if mask:
        controls, wanted = mask.bit_count(), _wanted(op)
    else:
        controls = wanted = 0
    size, num_bits = len(gate.qubits), len(op.bits)
    piece = _piece.__wrapped__ if angles.__class__ is Unknown else _piece
    return piece(
        gate.name, size, gate.controls, gate.matrix, angles, op.kind, num_bits, op.flips, controls, wanted,
        op.unmixed_value,
    )  # fmt: skip


@lru_cache(maxsize=1 << 15)
def _piece(
    name: str, size: int, added_controls: int, data: bytes, angles: tuple[float, ...], kind: Kind, num_bits: int,
    flips: int, controls: int, wanted: int, unmixed_value: int,
) -> Piece:  # fmt: skip
    """The same, of a gate with this name, qubits, added controls, matrix and angles, and an op with these numbers."""
    form = form_named(name, size, added_controls, data)
    if kind != "matrix":
        if kind == "parity" and num_bits > 2:
            even, odd = _table(form.base, angles, data, flips)
            return Phase(even, (), parity=odd - even)
        if num_bits + controls > 2:
            return Dense(np.diag(_diagonal(form.base, angles, data, flips)))
        return _phase(form.base, angles, data, flips, kind == "parity", controls, wanted)
    if num_bits == 1 and not controls:
        return _turn_later(form, angles, flips) if any(map(is_later, angles)) else _turn(form, angles, data, flips)
    if form.is_cx:
        return _FLIP
    is_real = gates.BASE[form.base].real if form.base in gates.BASE else False

    def part(angles: tuple[float, ...]) -> gates.Matrix:
        return _part(form, angles, data, flips, unmixed_value)

    return Dense(_of_angles(angles, 1 << num_bits, is_real, part))


def is_identity(matrix: gates.Matrix | UnmadeMatrix) -> bool:
    """Whether it changes nothing at all, whatever is known later. Cost: a tenth of a microsecond for most that do."""
    if isinstance(matrix, UnmadeMatrix):
        return False
    return bool(matrix[0, 0] == 1) and np.array_equal(matrix, np.eye(len(matrix)))


def stored_matrix(gate: Gate, angles: tuple[float, ...], op: Op) -> gates.Matrix | UnmadeMatrix:
    """The matrix of an op on its bits, diagonal or not, of a gate with these angles."""
    form = form_of(gate)

    def matrix(angles: tuple[float, ...]) -> gates.Matrix:
        if op.kind == "matrix":
            return _part(form, angles, gate.matrix, op.flips, op.unmixed_value)
        diagonal = _diagonal(form.base, angles, gate.matrix, op.flips)
        if op.kind == "parity":
            diagonal = diagonal[np.bitwise_count(np.arange(1 << len(op.bits))) & 1]
        return np.diag(diagonal)

    return _of_angles(angles, 1 << len(op.bits), False, matrix)


def _of_angles(
    angles: tuple[float, ...], rows: int, is_real: bool, matrix: Callable[[tuple[float, ...]], gates.Matrix]
) -> gates.Matrix | UnmadeMatrix:
    """A matrix of so many rows, as soon as the angles are known that it has."""
    if angles.__class__ is not Unknown:
        return matrix(angles)
    places = [k for k, angle in enumerate(angles) if is_later(angle)]

    def make(numbers: Numbers) -> gates.Matrix:
        known = list(angles)
        for place, number in zip(places, numbers.tolist(), strict=True):
            known[place] = number
        return matrix(tuple(known))

    return UnmadeMatrix(tuple(angles[place] for place in places), rows, is_real, make)


def _matrix(base: str, angles: tuple[float, ...], data: bytes) -> gates.Matrix:
    if base == gates.UNITARY:
        entries = np.frombuffer(data, dtype="<c16")
        return entries.reshape(math.isqrt(len(entries)), -1)
    return gates.BASE[base].matrix(*angles)


@lru_cache(maxsize=1 << 15)
def _part(form: Form, angles: tuple[float, ...], data: bytes, flips: int, unmixed_value: int) -> gates.Matrix:
    """The part of a gate's matrix for one value of the targets that it does not mix."""
    matrix = _matrix(form.base, angles, data)
    if not form.still and not flips:
        return matrix
    fixed = sum((unmixed_value >> j & 1) << (k - form.num_controls) for j, k in enumerate(form.still))
    chosen = np.full(1 << len(form.mixed), fixed)
    for j, k in enumerate(form.mixed):
        chosen |= ((np.arange(len(chosen)) ^ flips) >> j & 1) << (k - form.num_controls)
    part: gates.Matrix = matrix[np.ix_(chosen, chosen)]
    return part


@lru_cache(maxsize=1 << 15)
def _diagonal(base: str, angles: tuple[float, ...], data: bytes, flips: int) -> npt.NDArray[np.complex128]:
    diagonal = np.diagonal(_matrix(base, angles, data))
    return diagonal[np.arange(len(diagonal)) ^ flips] if flips else diagonal


def _phase(
    base: str, angles: tuple[float, ...], data: bytes, flips: int, parity: bool, controls: int, wanted: int
) -> Phase:
    """A diagonal over at most two bits is a quadratic form: its four angles give the coefficients."""
    table = _table(base, angles, data, flips)
    if parity:  # a + b - 2 a b
        table = [table[0], table[1], table[1], table[0]]
    elif controls:
        under, table = table, [0.0] * (len(table) << controls)
        table[wanted * len(under) : (wanted + 1) * len(under)] = under
    constant, linear = table[0], tuple([table[1 << k] - table[0] for k in range(len(table).bit_length() - 1)])
    return Phase(constant, linear, table[3] - table[1] - table[2] + constant if len(linear) == 2 else 0.0)


def _table(base: str, angles: tuple[float, ...], data: bytes, flips: int) -> list[float]:
    """The angles of a diagonal."""
    turns = gates.BASE[base].turns if angles else None
    if turns is None:
        return [cmath.phase(each) for each in _diagonal(base, angles, data, flips).tolist()]
    table = [0.0] * (1 << gates.BASE[base].num_targets)
    for turn in turns:
        for (row,) in turn.rows:
            table[row ^ flips] += _angle(turn, angles)
    return list(map(reduced, table))


def _angle(turn: gates.Turn, angles: tuple[float, ...]) -> float:
    return turn.offset + (turn.factor * angles[turn.angle] if turn.angle >= 0 else 0.0)


def _wanted(op: Op) -> int:
    """The value that the op's controls must have, the lowest bit first."""
    wanted, mask, k = 0, op.control_mask, 0
    while mask:
        lowest = mask & -mask
        wanted |= bool(op.control_value & lowest) << k
        mask, k = mask ^ lowest, k + 1
    return wanted


def _turn(form: Form, angles: tuple[float, ...], data: bytes, flips: int) -> Turn:
    (a, b), (c, d) = _entries(form, angles, data, flips)
    return turn_of(a, b, c, d)


def _turn_later(form: Form, angles: tuple[float, ...], flips: int) -> Turn:
    """A one-target gate with angles that are known later: always a phase, a rotation, however steep, and a phase.

    Raises UnknownError where the gate is not spelled so.
    """
    turns = gates.BASE[form.base].turns
    if turns is None:
        raise UnknownError(f"gate {form.base} with angles that are known later")
    phases, rotation = [[0.0, 0.0], [0.0, 0.0]], (0.0, 1.0, 0.0)
    before, after = phases
    for turn in turns:
        angle = _angle(turn, angles)
        if turn.kind == "phase":
            for (row,) in turn.rows:
                before[row ^ flips] += angle
            continue
        # A turn about x is one about y between phases by a quarter.
        sign, quarter = (1.0 if flips else -1.0, 0.0) if turn.kind == "y" else (1.0, math.pi / 2)
        rotation = sign * tangent(angle / 2), cosine(angle / 2), quarter
        before = after
    slope, factor, quarter = rotation
    (low, high), (low_after, high_after) = phases
    constant, first, last = low + low_after, high - low - quarter, high_after - low_after + quarter
    if abs(slope) > NOTHING:
        if not is_later(slope) and abs(slope) * _STEEPEST > 1:
            raise UnknownError(f"gate {form.base}, nearly an X, with angles that are known later")
        return Turn(False, constant, first, slope, factor, last)
    return Turn(False, constant + (math.pi if factor < 0 else 0.0), 0.0, 0.0, 1.0, first + last)


def turn_of(a: complex, b: complex, c: complex, d: complex) -> Turn:
    """The unitary matrix ``((a, b), (c, d))``."""
    if abs(a) >= abs(b):
        return _turn_by(a, b, d)
    steep = _turn_by(a, b, d) if abs(a) > _STEEPEST * abs(b) else None
    return _turn_by(b, a, c)._replace(flip=True, steep=steep)


def _entries(form: Form, angles: tuple[float, ...], data: bytes, flips: int) -> list[list[complex]]:
    """The matrix of a one-target gate. Many circuits have hundreds of angles, and arrays of four numbers are slow."""
    turns = gates.BASE[form.base].turns if angles else None
    if turns is None:
        entries: list[list[complex]] = _part(form, angles, data, flips, 0).tolist()
        return entries
    rows = [[1 + 0j, 0j], [0j, 1 + 0j]]
    for turn in turns:
        angle = _angle(turn, angles)
        if turn.kind == "phase":
            factor = cmath.rect(1.0, angle)
            for (row,) in turn.rows:
                rows[row] = [factor * each for each in rows[row]]
            continue
        (places,) = turn.rows
        low, high = (rows[row] for row in places)
        c, s = math.cos(angle / 2), math.sin(angle / 2)
        up, down = (-s, s) if turn.kind == "y" else (-1j * s, -1j * s)
        rows[places[0]] = [c * x + up * y for x, y in zip(low, high, strict=True)]
        rows[places[1]] = [down * x + c * y for x, y in zip(low, high, strict=True)]
    return [row[::-1] for row in rows[::-1]] if flips else rows


def _turn_by(a: complex, b: complex, d: complex) -> Turn:
    """The turn with the matrix ``((a, b), (c, d))``; it is unitary, so that c follows."""
    constant, after, ratio = cmath.phase(a), cmath.phase(d / a), b / a
    slope, before = abs(ratio), 0.0
    if slope < NOTHING:
        return Turn(False, constant, 0.0, 0.0, 1.0, after)
    lean = cmath.phase(ratio)
    if abs(abs(lean) - math.pi) < NOTHING:  # a real rotation the other way round
        slope = -slope
    elif abs(math.remainder(lean, math.tau)) >= NOTHING:
        before = lean
    after -= before
    return Turn(False, constant, before, slope, abs(a), after, abs(abs(after) - math.pi) < NOTHING)
