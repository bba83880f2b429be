"""Normal form of a sweep: the ops of a block rewritten as few passes over it.

Four kinds of pass do most of the work: *rotations* ``[[1, p], [-p, 1]]`` on distinct bits (one multiply-add a number,
several bits in one pass), *phases* ``exp(i q(x))`` with a quadratic form q over the bits of the index, *permutations*
that are affine over GF(2), and what is left over as it stands. Every one-target gate is a phase, a rotation and a
phase, times a number that the state carries along; controlled phases and CX chains are phases and permutations.

A compiler holds back what has come so far as ``phases . rotations . phases . permutation`` (the last one acts first)
and emits it only when the next op does not commute with it. So a layer of RZ and CZ becomes one pass, CX-RZ-CX a
phase, a CX chain one permutation.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qsimenv.gates import Matrix
from qsimenv.statevec.plan import Op

_NOTHING = 1e-15
"""A rotation or an angle smaller than this is none."""
SMALLEST_SCALE = 2.0**-30
"""A scale below this is multiplied in."""


@dataclass
class Quadratic:
    """``constant + sum_a linear[a] x_a + sum_{a<b} product[a, b] x_a x_b`` radians, over bits of the stored index."""

    constant: float = 0.0
    linear: dict[int, float] = field(default_factory=dict)
    product: dict[tuple[int, int], float] = field(default_factory=dict)

    def add(self, angle: float, *bits: int) -> None:
        """Add ``angle`` times the product of up to two distinct bits."""
        if not bits:
            self.constant += angle
        elif len(bits) == 1:
            _add(self.linear, bits[0], angle)
        else:
            _add(self.product, (min(bits), max(bits)), angle)

    def take_out(self, bit: int, stay: dict[int, float]) -> Quadratic | None:
        """The terms with ``bit``, taken out; None, and nothing is, where one of them also has a bit of ``stay``."""
        partners = self._partners(bit)
        if any(other in stay for other, _ in partners):
            return None
        taken = Quadratic()
        if bit in self.linear:
            taken.add(self.linear.pop(bit), bit)
        for other, angle in partners:
            del self.product[min(bit, other), max(bit, other)]
            taken.add(angle, bit, other)
        return taken

    def add_form(self, other: Quadratic) -> None:
        self.add(other.constant)
        for bit, angle in other.linear.items():
            self.add(angle, bit)
        for pair, angle in other.product.items():
            self.add(angle, *pair)

    def flip(self, bit: int) -> None:
        """Put ``1 - x`` for the bit."""
        angle = self.linear.pop(bit, 0.0)
        self.add(angle)
        self.add(-angle, bit)
        for other, value in self._partners(bit):
            del self.product[min(bit, other), max(bit, other)]
            self.add(value, other)
            self.add(-value, bit, other)

    def can_add_control(self, target: int, control: int) -> bool:
        """Whether ``x_target -> x_target xor x_control`` leaves it quadratic."""
        return all(other == control for other, _ in self._partners(target))

    def add_control(self, target: int, control: int) -> None:
        """Put ``x_target xor x_control`` for the target: ``t + c - 2 t c``, and ``t c -> c - t c``."""
        shared = self.product.pop((min(target, control), max(target, control)), 0.0)
        angle = self.linear.get(target, 0.0)
        self.add(angle + shared, control)
        self.add(-2 * angle - shared, target, control)

    def _partners(self, bit: int) -> list[tuple[int, float]]:
        return [(a + b - bit, angle) for (a, b), angle in self.product.items() if bit in (a, b)]


def _add(angles: dict, key: object, angle: float) -> None:  # type: ignore[type-arg]
    total = angles.get(key, 0.0) + angle
    if abs(total) > _NOTHING:
        angles[key] = total
    else:
        angles.pop(key, None)


@dataclass(frozen=True)
class Rotations:
    """``[[1, p], [-p, 1]]`` on each bit; the factors that make them unitary are in the scale."""

    slopes: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Phases:
    form: Quadratic


@dataclass(frozen=True)
class Affine:
    """A new index, bit by bit: bit t becomes the parity of ``index & masks[t]``, flipped where ``flips`` has t."""

    masks: tuple[tuple[int, int], ...]
    flips: int


@dataclass(frozen=True)
class Plain:
    """An op that has no place in the form, with its matrix (or diagonal) in stored bits."""

    op: Op
    matrix: npt.NDArray[np.complex128]


@dataclass(frozen=True)
class Factor:
    """Multiply every number."""

    value: float


Pass = Rotations | Phases | Affine | Plain | Factor


class Compiler:
    """Takes the ops of the sweeps of a stage one after the other and gives the passes of each sweep.

    ``finish_sweep`` emits all that is bound to the block; phases may wait for a later sweep, ``finish`` emits them too.
    ``scale`` is what the stored numbers have to be multiplied by.
    """

    def __init__(self) -> None:
        self.scale: complex = 1.0
        self._passes: list[Pass] = []
        self._rows: dict[int, int] = {}
        self._flips = 0
        self._before = Quadratic()
        self._slopes: dict[int, float] = {}
        self._phases = Quadratic()

    def take(self, op: Op, matrix: Matrix) -> None:
        """The next op; ``matrix`` is its part of the gate's matrix, in stored bits."""
        controls = _bits_of(op.control_mask)
        if op.kind == "parity":
            self._parity(op.bits, matrix)
        elif op.kind == "diagonal" and len(controls) + len(op.bits) <= 2:
            self._diagonal(op, matrix, controls)
        elif op.kind == "matrix" and len(op.bits) == 1 and not controls:
            self._one_target(op.bits[0], matrix)
        elif op.kind == "matrix" and len(op.bits) == len(controls) == 1 and _is_flip(matrix):
            self._controlled_flip(op.bits[0], controls[0], op.control_value >> controls[0] & 1)
        elif not np.array_equal(matrix, np.eye(len(matrix))):
            self._emit()
            self._passes.append(Plain(op, matrix))

    def finish_sweep(self) -> list[Pass]:
        """The passes since the last sweep; permutation and rotations are emitted, phases are held back."""
        self._emit_moves()
        passes, self._passes = self._passes, []
        return passes

    def finish(self) -> list[Pass]:
        """As above, with the phases."""
        self._emit()
        return self.finish_sweep()

    # --- ops ---

    def _diagonal(self, op: Op, matrix: Matrix, controls: Sequence[int]) -> None:
        """A diagonal over at most two bits is a quadratic form: its four angles give the coefficients."""
        bits = (*op.bits, *controls)
        angles = np.zeros(1 << len(bits))
        wanted = sum((op.control_value >> bit & 1) << k for k, bit in enumerate(controls))
        for number in range(len(matrix)):
            angles[wanted << len(op.bits) | number] = cmath.phase(matrix[number, number])
        self._phases.add(angles[0])
        for k, bit in enumerate(bits):
            self._phases.add(angles[1 << k] - angles[0], bit)
        if len(bits) == 2:
            self._phases.add(angles[3] - angles[1] - angles[2] + angles[0], *bits)

    def _parity(self, bits: Sequence[int], matrix: Matrix) -> None:
        """The exclusive or of two bits is ``a + b - 2 a b``."""
        first, second = cmath.phase(matrix[0, 0]), cmath.phase(matrix[1, 1])
        angle = second - first
        self._phases.add(first)
        self._phases.add(angle, bits[0])
        self._phases.add(angle, bits[1])
        self._phases.add(-2 * angle, *bits)

    def _one_target(self, bit: int, matrix: Matrix) -> None:
        if abs(matrix[0, 0]) < abs(matrix[0, 1]):
            self._flip(bit)
            matrix = matrix[:, ::-1]
        first, slope = matrix[0, 0], matrix[0, 1] / matrix[0, 0]
        turn = cmath.phase(matrix[1, 1] / first)
        self._phases.add(cmath.phase(first))
        if abs(slope) < _NOTHING:
            self._phases.add(turn, bit)
            return
        lean = cmath.phase(slope)
        lean = 0.0 if abs(math.remainder(lean, math.tau)) < _NOTHING else lean
        if abs(abs(lean) - math.pi) < _NOTHING:  # a real rotation the other way round
            slope, lean = -abs(slope), 0.0
        else:
            slope = abs(slope)
        self._phases.add(lean, bit)
        self._rotate(bit, float(slope))
        self._shrink(abs(first))
        self._phases.add(turn - lean, bit)

    def _shrink(self, factor: float) -> None:
        """Leave a factor in the scale; multiply it in before the stored numbers grow out of range."""
        self.scale *= factor
        if abs(self.scale) < SMALLEST_SCALE:
            self._emit()
            self._passes.append(Factor(abs(self.scale)))
            self.scale /= abs(self.scale)

    def _flip(self, bit: int) -> None:
        """X is moved to the front: past phases and rotations it only changes signs."""
        self._phases.flip(bit)
        self._before.flip(bit)
        if bit in self._slopes:
            self._slopes[bit] = -self._slopes[bit]
        self._rows.setdefault(bit, 1 << bit)
        self._flips ^= 1 << bit

    def _rotate(self, bit: int, slope: float) -> None:
        if bit in self._slopes:
            self._emit_moves()
        moved = self._phases.take_out(bit, self._slopes)
        if moved is None:
            self._emit_moves()
            moved = self._phases.take_out(bit, {})
            assert moved is not None  # noqa: S101 - nothing had to stay
        self._before.add_form(moved)
        self._slopes[bit] = slope

    def _controlled_flip(self, target: int, control: int, value: int) -> None:
        if target in self._slopes or control in self._slopes or not self._before.can_add_control(target, control):
            self._emit_moves()
        if not self._phases.can_add_control(target, control):
            self._emit()
        for form in (self._phases, self._before):
            form.add_control(target, control)
            if not value:
                form.flip(target)
        source = self._rows.get(control, 1 << control)
        self._rows[target] = self._rows.get(target, 1 << target) ^ source
        flip = (self._flips >> control & 1) ^ 1 ^ value
        self._flips ^= flip << target

    # --- emission ---

    def _emit(self) -> None:
        self._emit_moves()
        self._emit_phases(self._phases)
        self._phases = Quadratic()

    def _emit_moves(self) -> None:
        """All but the phases that come last."""
        masks = tuple((bit, mask) for bit, mask in sorted(self._rows.items()) if mask != 1 << bit)
        if masks or self._flips:
            self._passes.append(Affine(masks, self._flips))
        self._emit_phases(self._before)
        if self._slopes:
            self._passes.append(Rotations(tuple(sorted(self._slopes.items()))))
        self._rows, self._flips, self._before, self._slopes = {}, 0, Quadratic(), {}

    def _emit_phases(self, form: Quadratic) -> None:
        self.scale *= cmath.exp(1j * form.constant)
        if form.linear or form.product:
            self._passes.append(Phases(Quadratic(0.0, form.linear, form.product)))


def _bits_of(mask: int) -> list[int]:
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


def _is_flip(matrix: Matrix) -> bool:
    return bool(np.array_equal(matrix, [[0, 1], [1, 0]]))
