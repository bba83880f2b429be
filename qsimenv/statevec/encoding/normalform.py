"""Normal form of a sweep: the ops of a block rewritten as few passes over it.

Four kinds of pass do most of the work: *rotations* ``[[1, p], [-p, 1]]`` on distinct bits (one multiply-add a number,
several bits in one pass), *phases* ``exp(i q(x))`` with a quadratic form q over the bits of the index, which may have a
term with the parity of more of them, *permutations* that are affine over GF(2), and what is left over as it stands.
Every one-target gate is a phase, a rotation and a phase, times a number that the state carries along, and so are
several of them on a bit; controlled phases and CX chains are phases and permutations.

A compiler holds back what has come so far as ``phases . rotations . phases . permutation`` (the last one acts first)
and emits it only when the next op does not commute with it. So a layer of RZ and CZ becomes one pass, CX-RZ-CX a
phase, a CX chain one permutation. Readings of two states (``readings``) are held back in the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qsimenv.gates import Matrix
from qsimenv.statevec.encoding.later import UnmadeMatrix, is_later, length, reduced, shrunk
from qsimenv.statevec.encoding.pieces import NOTHING, Dense, Flip, Phase, Piece, Turn, is_identity
from qsimenv.statevec.encoding.readings import Reading, Readings, Waiting
from qsimenv.statevec.planning.plan import Op

SMALLEST_SCALE = 2.0**-30
"""A scale of one sweep below this is multiplied in."""
_SMALL_SCALE = 2.0**-10
"""One below this is multiplied in by phases, for which that is no more work."""
_MOST_PARITIES = 1
"""A row of phases has room for one."""


ControlledFlip = tuple[int, int, int]
"""The bit that is flipped, and where: the bit that controls it, and the value that this must have."""


class Quadratic:
    """``constant + sum_a linear[a] x_a + sum_{a<b} product[a, b] x_a x_b`` radians, over bits of the stored index.

    And up to ``most_parities`` terms that are not quadratic: ``parities`` has the angle where three or more bits, a
    mask, have an odd sum. A CX on one of two bits with a product makes one, and a CX chain a longer one.
    """

    def __init__(self, most_parities: int = _MOST_PARITIES) -> None:
        self.constant = 0.0
        self.linear: dict[int, float] = {}
        self._partners: defaultdict[int, dict[int, float]] = defaultdict(dict)
        self.parities: dict[int, float] = {}
        self._most_parities = most_parities

    def __bool__(self) -> bool:
        """Whether anything is left but the constant."""
        return bool(self.linear or self.parities) or any(self._partners.values())

    def copy(self) -> Quadratic:
        other = Quadratic(self._most_parities)
        other.constant, other.linear, other.parities = self.constant, dict(self.linear), dict(self.parities)
        for bit, partners in self._partners.items():
            other._partners[bit] = dict(partners)
        return other

    @property
    def product(self) -> dict[tuple[int, int], float]:
        """The angle of each pair of bits, the lower one first."""
        return {
            (bit, other): angle
            for bit, partners in self._partners.items()
            for other, angle in partners.items()
            if bit < other
        }

    def add(self, angle: float, bit: int) -> None:
        _add(self.linear, bit, angle)

    def add_product(self, angle: float, first: int, second: int) -> None:
        mine, others = self._partners[first], self._partners[second]
        total = mine.get(second, 0.0) + angle
        if abs(total) > NOTHING:
            mine[second] = others[first] = total
        elif second in mine:
            del mine[second], others[first]

    def add_parity(self, angle: float, mask: int) -> None:
        """A term with the sum of some bits modulo 2."""
        bits = _bits_of(mask) if mask.bit_count() < 3 else []
        if not bits:
            _add(self.parities, mask, angle)
            return
        for bit in bits:
            self.add(angle, bit)
        if len(bits) == 2:
            self.add_product(-2 * angle, *bits)

    def take_out(self, bit: int, stay: Mapping[int, float]) -> Quadratic | None:
        """The terms with ``bit``, taken out; None, and nothing is, where one of them also has a bit of ``stay``."""
        partners = self._partners.get(bit, {})
        parities = self.parities_with(bit)
        if not stay.keys().isdisjoint(partners) or any(mask >> other & 1 for mask in parities for other in stay):
            return None
        taken = Quadratic()
        taken.parities = {mask: self.parities.pop(mask) for mask in parities}
        if bit in self.linear:
            taken.linear[bit] = self.linear.pop(bit)
        taken._partners[bit] = partners = self._pop_partners(bit)
        for other, angle in partners.items():
            taken._partners[other][bit] = angle
        return taken

    def add_form(self, other: Quadratic) -> None:
        self.constant += other.constant
        for bit, angle in other.linear.items():
            self.add(angle, bit)
        for first, partners in other._partners.items():
            for second, angle in partners.items():
                if first < second:
                    self.add_product(angle, first, second)
        for mask, angle in other.parities.items():
            self.add_parity(angle, mask)

    def flip(self, bit: int) -> None:
        """Put ``1 - x`` for the bit."""
        angle = self.linear.pop(bit, 0.0)
        if angle:
            self.constant += angle
            self.linear[bit] = -angle
        partners = self._partners.get(bit, {})
        for other, value in partners.items():
            self.add(value, other)
            partners[other] = self._partners[other][bit] = -value
        for mask in self.parities_with(bit):
            self.constant += self.parities[mask]
            self.parities[mask] = -self.parities[mask]

    def is_about(self, bit: int) -> bool:
        """Whether every term has the bit."""
        if self.parities:
            return False
        mine = 2 * len(self._partners.get(bit, ()))  # each pair is kept twice
        return len(self.linear) == (bit in self.linear) and sum(map(len, self._partners.values())) == mine

    def shared_bits(self) -> list[int]:
        """The bits that every term is a multiple of."""
        pairs = ((bit, other) for bit, partners in self._partners.items() for other in partners)
        one_term = next(((bit,) for bit in self.linear), None) or next(pairs, ())
        return [bit for bit in one_term if self.is_about(bit)]

    def partners(self, bit: int) -> Mapping[int, float]:
        """The angles that the bit has with others."""
        return self._partners.get(bit, {})

    def parities_with(self, bit: int) -> list[int]:
        """The masks of the parities that the bit is in."""
        return [mask for mask in self.parities if mask >> bit & 1] if self.parities else []

    def has_terms(self, bit: int) -> bool:
        return bit in self.linear or self.has_products(bit)

    def has_products(self, bit: int) -> bool:
        """Whether the bit is in a term with others."""
        return bool(self._partners.get(bit) or self.parities_with(bit))

    def can_add_control(self, target: int, control: int) -> bool:
        """Whether there is a form for it with ``x_target xor x_control`` for ``x_target``."""
        others = self._partners.get(target, {}).keys() - {control}
        return not others or len(others) + len(self.parities) <= self._most_parities

    def can_add_controls(self, flips: Sequence[ControlledFlip], by_parities: bool = True) -> bool:
        """The same for some controlled flips, one after the other; ``by_parities``: even if it takes new ones."""
        if not self.parities and self._stays_quadratic(flips):
            return True
        if not self.parities and not (by_parities and self._most_parities):
            return False
        form = self.copy()
        form._most_parities = self._most_parities if by_parities else len(self.parities)
        for target, control, value in flips:
            if not form.can_add_control(target, control):
                return False
            form.add_control(target, control)
            if not value:
                form.flip(target)
        return True

    def _stays_quadratic(self, flips: Iterable[ControlledFlip]) -> bool:
        """Whether it is that still afterwards. Looks at which terms there are."""
        linear = sum(1 << bit for bit in self.linear)
        partners = {bit: sum(1 << other for other in others) for bit, others in self._partners.items()}
        for target, control, value in flips:
            mine = partners.get(target, 0)
            if mine & ~(1 << control):
                return False
            if mine or linear >> target & 1:
                linear |= 1 << control
                partners[target] = 1 << control
                partners[control] = partners.get(control, 0) | 1 << target
            if not value:
                linear |= partners.get(target, 0)
        return True

    def add_control(self, target: int, control: int) -> None:
        """Put ``x_target xor x_control`` for the target: ``t + c - 2 t c``, and ``t c -> c - t c``."""
        if target not in self.linear and not self.has_products(target):
            return
        changed = [(mask, self.parities.pop(mask)) for mask in self.parities_with(target)]
        others = self._partners.get(target, {})
        if len(others) > (control in others):
            for other, angle in list(others.items()):  # 2 t o = t + o - (t xor o)
                if other != control:
                    self.add_product(-angle, target, other)
                    self.add(angle / 2, target)
                    self.add(angle / 2, other)
                    changed.append((1 << target | 1 << other, -angle / 2))
        shared = self._pop_partners(target).get(control, 0.0)
        angle = self.linear.get(target, 0.0)
        if angle or shared:
            self.add(angle + shared, control)
            self.add_product(-2 * angle - shared, target, control)
        for mask, angle in changed:
            self.add_parity(angle, mask ^ 1 << control)

    def _pop_partners(self, bit: int) -> dict[int, float]:
        partners = self._partners.pop(bit, {})
        for other in partners:
            del self._partners[other][bit]
        return partners


def _add(angles: dict[int, float], key: int, angle: float) -> None:
    total = angles.get(key, 0.0) + angle
    if abs(total) > NOTHING:
        angles[key] = total
    else:
        angles.pop(key, None)


@dataclass(frozen=True)
class Rotations:
    """``[[1, p], [-p, 1]]`` on each bit; the factors that make them unitary are in the scale."""

    slopes: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Spread:
    """The same on bits that are 0 wherever the state is not zero: what is there is multiplied into what is not."""

    slopes: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Phases:
    """``exp(i q(x))``, and times ``factor``; this is 1 where all terms of q share a bit."""

    form: Quadratic
    factor: float = 1.0


@dataclass(frozen=True)
class Affine:
    """A new index, bit by bit: bit t becomes the parity of ``index & masks[t]``, flipped where ``flips`` has t."""

    masks: tuple[tuple[int, int], ...]
    flips: int


@dataclass(frozen=True)
class Plain:
    """An op that has no place in the form, with its matrix (or diagonal) in stored bits."""

    op: Op
    matrix: Matrix | UnmadeMatrix


@dataclass(frozen=True)
class Factor:
    """Multiply every number."""

    value: float


Pass = Rotations | Spread | Phases | Affine | Plain | Factor | Readings


class Compiler:
    """Takes the ops of the sweeps of a stage one after the other and gives the passes of each sweep.

    ``finish_sweep`` emits all that is bound to the block; phases may wait for a later sweep, ``finish`` emits them too.
    The stored numbers have to be multiplied by ``size exp(i angle)``. ``unset``: the bits, as a mask, that are 0
    wherever the state is not zero before the first op: until something mixes them there is nothing that their phases
    could turn.
    """

    def __init__(self, unset: int = 0) -> None:
        self._unset = unset
        self.size, self.angle = 1.0, 0.0
        self._passes: list[Pass] = []
        self._rows: dict[int, int] = {}
        self._flips = 0
        self._before = Quadratic()
        self._slopes: dict[int, float] = {}
        self._phases = Quadratic()
        self._waiting = Waiting()
        self._network: list[ControlledFlip] = []
        """Those that came last, one after the other, and are not taken yet."""
        self._flipped = self._controlling = 0
        """The bits that they flip, and that control them."""
        self._fresh = 0
        """The bits of the rotations that are held back, as a mask, that were 0 before."""
        self._held_factor = 1.0
        """What the rotations that are held back have put in the scale already."""

    def take(self, op: Op, piece: Piece) -> None:
        """The next op, and what it is."""
        if isinstance(piece, Flip):
            control = op.control_mask.bit_length() - 1
            flip = op.bits[0], control, op.control_value >> control & 1
            if self._network and self._network[-1] == flip:
                self._network.pop()
                return
            self._network.append(flip)
            self._flipped |= 1 << op.bits[0]
            self._controlling |= op.control_mask
            return
        match piece:  # what has nothing to do with the network comes before it: more flips may belong to it
            case Turn():
                bit = op.bits[0]
                touched = (self._flipped | self._controlling) >> bit & 1
                if self._network and (touched or piece.flip or self._phases.has_terms(bit)):
                    self._take_network()
                self._turn(bit, piece)
            case Phase():
                if self._flipped and (
                    self._flipped & op.control_mask or any(self._flipped >> bit & 1 for bit in op.bits)
                ):
                    self._take_network()
                self._phase(op, piece)
            case Dense(matrix=matrix):
                self._take_network()
                self._plain(op, matrix)

    def finish_sweep(self) -> list[Pass]:
        """The passes since the last sweep; permutation and rotations are emitted, phases are held back."""
        self._take_network()
        self._emit_moves()
        passes, self._passes = self._passes, []
        return passes

    def finish(self) -> list[Pass]:
        """As above, with the phases."""
        self._take_network()
        self._emit()
        self._emit_readings(self._waiting.take_signs())
        return self.finish_sweep()

    def read(self, readings: Iterable[Reading]) -> None:
        """Look at the two states as the ops taken so far leave them.

        A string of Z is held back like a phase, and one that flips one bit like a rotation: it needs no pass to be
        emitted before its time. Any other string does.
        """
        self._take_network()
        for each in readings:
            if not each.x_mask:
                self._waiting.signs.append(each)
            elif each.x_mask & (each.x_mask - 1) or each.z_mask & ~each.x_mask:
                self._emit()
                self._emit_readings([each])
            else:
                bit = each.x_mask.bit_length() - 1
                self._move_phases(bit)
                self._slopes.setdefault(bit, 0.0)
                self._waiting.flips.setdefault(bit, []).append(each)

    # --- ops ---

    def _plain(self, op: Op, matrix: Matrix | UnmadeMatrix) -> None:
        if not is_identity(matrix):
            if self._holds_anything():
                self._emit()
            self._emit_readings(self._waiting.take_signs())
            self._passes.append(Plain(op, matrix))
            if op.kind == "matrix":
                self._unset &= ~sum(1 << bit for bit in op.bits)

    def _phase(self, op: Op, phase: Phase) -> None:
        unset = self._unset
        if phase.parity:
            mask = sum(1 << bit for bit in op.bits) & ~unset
            if mask.bit_count() > 2 and len(self._phases.parities.keys() - {mask}) >= _MOST_PARITIES:
                self._emit()
            if mask:
                self._phases.add_parity(phase.parity, mask)
        form = self._phases
        bits = (*op.bits, *_bits_of(op.control_mask)) if op.control_mask else op.bits
        form.constant += phase.constant
        if any(phase.linear):
            for bit, angle in zip(bits, phase.linear, strict=True):
                if angle and not unset >> bit & 1:
                    form.add(angle, bit)
        if phase.product:
            first, second = bits
            if not (unset >> first | unset >> second) & 1:
                form.add_product(phase.product, first, second)

    def _turn(self, bit: int, turn: Turn) -> None:
        if turn.slope and self._slopes.get(bit) and not self._phases.has_products(bit) and not self._waiting:
            turn = self._joined(bit, turn)
        if turn.flip:
            if turn.steep and not self._rows and not self._flips:  # an X would be a pass of its own
                turn = turn.steep
            else:
                self._flip(bit)
        self._phases.constant += turn.constant
        is_unset = self._unset >> bit & 1
        if turn.ends_in_z and (is_unset or turn.before or self._phases.has_terms(bit)):
            turn = turn.z_first()
        if turn.slope:
            if turn.before and not is_unset:
                self._phases.add(turn.before, bit)
            self._unset &= ~(1 << bit)
            self._rotate(bit, turn.slope)
            self._fresh |= is_unset << bit
            self._shrink(turn.factor)
        if turn.after and not self._unset >> bit & 1:
            self._phases.add(turn.after, bit)

    def _joined(self, bit: int, turn: Turn) -> Turn:
        """The rotation of the bit that is held back, the phase on it and a turn as one."""
        slope, angle = self._slopes.pop(bit), self._phases.linear.pop(bit, 0.0)
        self._unset |= self._fresh & 1 << bit
        self._shrink(length(slope))
        return turn.after_turn(slope, angle)

    def _shrink(self, factor: float) -> None:
        """Leave a factor in the scale; multiply it in before the stored numbers grow out of range."""
        self.size = shrunk(self.size, factor)
        self._held_factor *= factor
        if abs(self.size) < SMALLEST_SCALE:
            self._passes.append(Factor(self.size))
            self.size = 1.0

    def _flip(self, bit: int) -> None:
        """X is moved to the front: past phases and rotations it only changes signs."""
        self._unset &= ~(1 << bit)
        self._fresh &= ~(1 << bit)
        self._phases.flip(bit)
        self._before.flip(bit)
        if bit in self._slopes:
            self._slopes[bit] = -self._slopes[bit]
        self._waiting.flip(bit)
        self._rows.setdefault(bit, 1 << bit)
        self._flips ^= 1 << bit

    def _rotate(self, bit: int, slope: float) -> None:
        self._move_phases(bit)
        if not self._waiting.move_signs(bit, self._slopes):
            self._emit_moves()
            self._waiting.move_signs(bit, {})
        self._slopes[bit] = slope

    def _move_phases(self, bit: int) -> None:
        """Put the phases of a bit in front of the rotations; what is not turned yet can be turned, or looked at."""
        if self._slopes.get(bit) or (bit in self._waiting.flips and self._phases.has_products(bit)):
            self._emit_moves()
        if not self._phases.has_terms(bit):
            return
        if len(self._phases.parities_with(bit)) + len(self._before.parities) > _MOST_PARITIES:
            self._emit_moves()
        moved = self._phases.take_out(bit, self._slopes)
        if moved is None:
            self._emit_moves()
            moved = self._phases.take_out(bit, {})
            assert moved is not None  # noqa: S101 - nothing had to stay
        self._waiting.turn(bit, moved.linear.get(bit, 0.0))
        self._before.add_form(moved)

    def _take_network(self) -> None:
        """The controlled flips that came last. Phases that cannot follow all of them are not torn apart from the
        rotations before, nor are some put in front of rotations that others cannot pass: a network in one piece is one
        permutation, or none if it is undone. Then it leaves a parity where there was an angle in between."""
        flips, self._network, self._flipped, self._controlling = self._network, [], 0, 0
        if flips and not self._phases.can_add_controls(flips, self._undo(flips)):
            self._emit()
        elif any(target in self._slopes or control in self._slopes for target, control, _ in flips):
            self._emit_moves()
        for target, control, value in flips:
            self._controlled_flip(target, control, value)

    def _undo(self, flips: Iterable[ControlledFlip]) -> bool:
        """Whether fewer bits change places after some controlled flips than do so far."""
        if not self._rows:
            return False
        rows = dict(self._rows)
        for target, control, _ in flips:
            rows[target] = rows.get(target, 1 << target) ^ rows.get(control, 1 << control)
        before, after = (sum(mask != 1 << bit for bit, mask in each.items()) for each in (self._rows, rows))
        return after < before

    def _controlled_flip(self, target: int, control: int, value: int) -> None:
        if value and self._unset >> control & 1:
            return
        self._unset &= ~(1 << target)
        if target in self._slopes or control in self._slopes or not self._before.can_add_control(target, control):
            self._emit_moves()
        if not self._phases.can_add_control(target, control):
            self._emit()
        for form in (self._phases, self._before):
            form.add_control(target, control)
            if not value:
                form.flip(target)
        self._waiting.add_control(target, control, value)
        source = self._rows.get(control, 1 << control)
        self._rows[target] = self._rows.get(target, 1 << target) ^ source
        flip = (self._flips >> control & 1) ^ 1 ^ value
        self._flips ^= flip << target

    # --- emission ---

    def _holds_anything(self) -> bool:
        """Whether there are ops that are not emitted yet, but for a phase of the whole state."""
        return bool(self._rows or self._slopes or self._flips or self._waiting or self._phases or self._before)

    def _emit(self) -> None:
        self._emit_moves()
        self._emit_phases(self._phases)
        self._phases = Quadratic()

    def _emit_moves(self) -> None:
        """All but the phases that come last."""
        masks = tuple((bit, mask) for bit, mask in sorted(self._rows.items()) if mask != 1 << bit)
        if masks or self._flips:
            self._passes.append(Affine(masks, self._flips))
        # A constant that piles up over a deep circuit loses the digits of each angle.
        self._before.constant += self._phases.constant
        self._phases.constant = 0.0
        self._emit_phases(self._before)
        self._emit_readings(self._waiting.take(self._slopes))
        self._held_factor = 1.0
        slopes = tuple(sorted((bit, slope) for bit, slope in self._slopes.items() if slope))
        if slopes:
            self._passes.append(Rotations(slopes))
        self._rows, self._flips, self._before, self._slopes = {}, 0, Quadratic(), {}
        self._fresh = 0

    def _emit_readings(self, readings: Sequence[Reading]) -> None:
        if readings:
            self._passes.append(Readings(tuple(readings), self.size / self._held_factor))

    def _emit_phases(self, form: Quadratic) -> None:
        self.angle = reduced(self.angle + form.constant)
        if form:
            factor = 1.0
            if (is_later(self.size) or self.size < _SMALL_SCALE) and not form.shared_bits():
                factor, self.size = self.size, 1.0
            self._passes.append(Phases(form, factor))


def spread_first(passes: Sequence[Pass], unset: int) -> list[Pass]:
    """The passes of a sweep, where rotations of bits that are 0 until then come first, as ``Spread``.

    The compiler has left out what phases before them would do to these bits.
    """
    place = next((k for k, each in enumerate(passes) if not isinstance(each, Phases)), len(passes))
    first = passes[place] if place < len(passes) else None
    if not isinstance(first, Rotations) or not any(unset >> bit & 1 for bit, _ in first.slopes):
        return list(passes)
    fresh = Spread(tuple(pair for pair in first.slopes if unset >> pair[0] & 1))
    others = Rotations(tuple(pair for pair in first.slopes if not unset >> pair[0] & 1))
    return [fresh, *passes[:place], *([others] if others.slopes else []), *passes[place + 1 :]]


def _bits_of(mask: int) -> list[int]:
    bits = []
    while mask:
        bits.append((mask & -mask).bit_length() - 1)
        mask &= mask - 1
    return bits
