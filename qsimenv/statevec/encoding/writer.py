"""The rows of one sweep, written from its passes. ``encode`` calls it; ``rows`` has the layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, reduce
from operator import or_, xor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qsimenv import gates
from qsimenv.statevec.encoding.affine import compressed, inverse_columns, line_map, transposed, xor_table, xor_tables
from qsimenv.statevec.encoding.butterflies import MOST_BUTTERFLIES, butterfly_rows, find_butterflies
from qsimenv.statevec.encoding.later import Numbers, UnknownError, Unmade, UnmadeMatrix, made_of, made_of_matrix
from qsimenv.statevec.encoding.normalform import Affine, Factor, Pass, Phases, Plain, Rotations, Spread
from qsimenv.statevec.encoding.phase_rows import phase_rows
from qsimenv.statevec.encoding.pieces import is_identity
from qsimenv.statevec.encoding.readings import Readings, SlotMaker, flip_groups, string_groups
from qsimenv.statevec.encoding.rows import (
    ARRANGE,
    BASE,
    BUTTERFLIES,
    BY_LANE,
    CODE_BIT,
    CONTROL_VALUE,
    DENSE,
    FIXED,
    FLIP,
    FROM_MEMORY,
    GATHERS,
    GENERAL,
    HAS_LANES,
    INNER_BITS,
    KIND,
    MOST_RUN_BITS,
    NEAR_BITS,
    NUM_ENTRIES,
    NUM_FIXED,
    NUM_TARGETS,
    NUM_TURNS,
    OFFSET,
    OUTER_BITS,
    OUTER_MASK,
    OUTER_VALUE,
    PARITY,
    PERMUTE,
    PHASE,
    QUADRATIC,
    RANK,
    READ_FLIPS,
    READ_STRINGS,
    REAL,
    ROTATE,
    ROW,
    SPREAD,
    TABLE,
    TARGETS,
    TILE_BITS,
    TILES_TOGETHER,
    TO_MEMORY,
    TURNED_BEFORE,
    TURNED_WITH_PHASES,
    TWO_TARGETS,
    EncodedSweep,
    Form,
    deposit,
)  # fmt: skip
from qsimenv.statevec.encoding.sharing import Sharing
from qsimenv.statevec.planning.plan import NORMAL_FORM_BITS, Op, Sweep

Matrix = gates.Matrix | UnmadeMatrix

_CHOOSING_BIT = 62
"""Stands above all bits of an index for the choice between two states that are swept together."""
_ROOM_FOR_SLOPES = 4
_LEAST_IN_MEMORY = 3
"""Rotations of fewer bits have no kernels of their own that load or store a block: each takes its time to compile."""


class Writer:
    """Writes the passes of one sweep into its arrays."""

    def __init__(
        self, sweep: Sweep, num_local: int, real_type: type[np.floating], form: Form, is_pair: bool, before: float
    ) -> None:
        self._num_local, self._real_type, self._form = num_local, real_type, form
        self._stored, self._slots = sweep.block, SlotMaker(before)
        self._block = (*sweep.block, _CHOOSING_BIT) if is_pair and form.reads else sweep.block
        self._position = {bit: k for k, bit in enumerate(self._block)}
        self._block_mask = sum(1 << bit for bit in self._block)
        self._lane_bits = form.lane_bits(real_type)
        self._sharing = Sharing(form, self._position, self._lane_bits)
        self._low_bits = min(
            next((k for k, bit in enumerate(sweep.block) if bit != k), len(sweep.block)), MOST_RUN_BITS
        )
        self._arranged: tuple[list[int], list[int], list[tuple[int, int]]] | None = None
        self._walks: dict[int, _Walk] = {}
        self._rows: list[list[int]] = []
        self._coefficients: list[Numbers] = []
        self.unmade: list[tuple[int, Unmade]] = []
        """Coefficients that are known later, and where they will be; in the sweep are zeros there."""
        self.unmade_factors: Unmade | None = None
        """Those of the slots, if they are known later."""
        self._tables: list[npt.NDArray[np.int64]] = []
        self._num_coefficients = self._num_tables = 0

    def write(self, passes: Sequence[Pass], scale: complex) -> EncodedSweep:
        """The sweep with these passes, after which the stored numbers are to be multiplied by ``scale``."""
        turned, waiting, number = set[int](), dict[int, float](), 0
        loads: _Lines | None = None
        while number < len(passes):
            together = self._butterflies(passes[number:])
            if together:
                number += together
                continue
            each, number = passes[number], number + 1
            match each:
                case Plain(op=op, matrix=matrix):
                    self._plain(op, matrix)
                case Rotations(slopes=slopes):
                    left, turned = [pair for pair in slopes if pair[0] not in turned], set()
                    if left and (loads or not self._turns_as_well(left)):
                        waiting = self._sharing.before(left, passes[number : number + 2], int(loads is not None))
                        self._rotations([pair for pair in left if pair[0] not in waiting], loads)
                    loads = None
                case Spread(slopes=slopes):
                    self._spread(dict(slopes))
                case Phases():
                    turned, waiting = self._phases(each, waiting, passes[number : number + 3]), {}
                case Affine():
                    loads = self._affine(each, passes[number : number + 1])
                case Factor(value=value):
                    self._controlled_row(PHASE, [], 0, 0)
                    self._add_coefficients([value, 0.0])
                case Readings():
                    self._readings(self._slots.add(each))
        self._reach_memory()
        factors = self._slots.factors()
        self.unmade_factors = factors if isinstance(factors, Unmade) else None
        return EncodedSweep(
            len(self._block),
            self._low_bits,
            xor_table([1 << bit for bit in self._stored[self._low_bits :]]),
            np.array([bit for bit in range(self._num_local) if bit not in self._position], dtype=np.int64),
            np.array(self._rows, dtype=np.int64).reshape(len(self._rows), ROW),
            np.concatenate([*self._coefficients, np.zeros(1)]).astype(self._real_type),
            np.concatenate([*self._tables, np.zeros(1, dtype=np.int64)]),
            scale,
            mixes(passes),
            self._slots.made(factors),
        )

    def _row(self, kind: int, targets: Sequence[int], fixed: Sequence[int]) -> list[int]:
        row = [0] * ROW
        row[KIND], row[NUM_TARGETS], row[NUM_FIXED] = kind, len(targets), len(fixed)
        row[OFFSET], row[TABLE] = self._num_coefficients, self._num_tables
        row[TARGETS : TARGETS + len(targets)] = targets
        row[FIXED : FIXED + len(fixed)] = sorted(fixed)
        self._rows.append(row)
        return row

    def _add_coefficients(self, numbers: npt.ArrayLike | Unmade) -> None:
        if isinstance(numbers, Unmade):
            self.unmade.append((self._num_coefficients, numbers))
            numbers = np.zeros(numbers.size)
        self._coefficients.append(np.asarray(numbers, dtype=np.float64).reshape(-1))
        self._num_coefficients += self._coefficients[-1].size

    def _add_table(self, numbers: npt.ArrayLike) -> None:
        self._tables.append(np.asarray(numbers, dtype=np.int64).reshape(-1))
        self._num_tables += self._tables[-1].size

    # --- ops that stay what they are ---

    def _plain(self, op: Op, matrix: Matrix) -> None:
        if op.kind != "matrix":
            if isinstance(matrix, UnmadeMatrix):
                raise UnknownError("which entries of a diagonal are one")
            for stored, factor in enumerate(np.diagonal(matrix)):
                if factor != 1:
                    self._number(op, stored, complex(factor))
            return
        if is_identity(matrix):
            return
        if len(matrix) == 4 and not op.control_mask and len(self._block) >= NORMAL_FORM_BITS:
            self._two_targets([self._position[bit] for bit in op.bits], matrix)
            return
        if self._is_by_vectors(op.bits, op.control_mask):
            self._dense(op.bits, matrix, op.control_mask, op.control_value)
            return
        kind = GENERAL
        if isinstance(matrix, UnmadeMatrix):
            kind = REAL if len(matrix) == 2 and matrix.is_real else GENERAL
        elif len(matrix) == 2 and not matrix.imag.any():
            kind = FLIP if np.array_equal(matrix, [[0, 1], [1, 0]]) else REAL
        self._controlled_row(kind, [self._position[bit] for bit in op.bits], op.control_mask, op.control_value)
        self._add_coefficients(made_of_matrix(matrix, _real_and_imaginary))

    def _two_targets(self, targets: Sequence[int], matrix: Matrix) -> None:
        """See ``lanes_numba.dense``: for output v, pattern m and each lane the entry (row, row ^ m) of the matrix."""
        places = [0, 1, 2, 3]
        if targets[0] > targets[1]:
            targets, places = targets[::-1], [0, 2, 1, 3]
        lanes = tuple(position for position in targets if position < self._lane_bits)
        row = self._row(TWO_TARGETS, targets, targets[len(lanes) :])
        row[HAS_LANES] = len(lanes)
        index = _two_bit_entries(lanes, self._lane_bits)
        self._add_coefficients(made_of_matrix(matrix, lambda made: _three_products(made, places).take(index)))

    def _number(self, op: Op, stored: int, factor: complex) -> None:
        """Multiply by ``factor`` where the op's bits have the value ``stored`` and its controls theirs."""
        mask, value = op.control_mask, op.control_value
        for k, bit in enumerate(op.bits):
            mask |= 1 << bit
            value |= (stored >> k & 1) << bit
        if self._is_by_vectors((), mask):
            self._dense((), np.array([[factor]]), mask, value)
            return
        self._controlled_row(PHASE, [], mask, value)
        self._add_coefficients([factor.real, factor.imag])

    def _is_by_vectors(self, bits: Sequence[int], mask: int) -> bool:
        """Whether a row is of kind DENSE: other kinds are loops over numbers, which fixed lane bits tear apart."""
        if not self._lane_bits or len(self._block) < NORMAL_FORM_BITS:
            return False
        return len(bits) > 1 or any(bit in bits or mask >> bit & 1 for bit in self._block[: self._lane_bits])

    def _dense(self, bits: Sequence[int], matrix: Matrix, mask: int, value: int) -> None:
        """A dense matrix on these bits under controls; lanes in which those are not fulfilled stay what they are."""
        order = sorted(range(len(bits)), key=lambda k: self._position[bits[k]])
        targets = [self._position[bits[k]] for k in order]
        places = deposit(np.arange(len(matrix)), order).tolist()
        lanes = tuple(position for position in targets if position < self._lane_bits)
        in_lanes = [bit if mask >> bit & 1 else -1 for bit in self._block[: self._lane_bits]]
        beyond = mask & ~sum(1 << bit for bit in in_lanes if bit >= 0)
        row = self._controlled_row(DENSE, targets, beyond, value & beyond, len(lanes))
        num_tiles = 1 << len(self._block) - self._lane_bits - row[NUM_FIXED]
        row[HAS_LANES], row[BY_LANE] = len(lanes), int(bool(lanes) or beyond != mask or num_tiles < TILES_TOGETHER)
        index = _dense_entries(lanes, self._lane_bits, len(targets))
        picked = index if row[BY_LANE] else index[..., 0]
        if beyond == mask:
            self._add_coefficients(made_of_matrix(matrix, lambda made: _three_products(made, places).take(picked)))
            return
        fulfilled = [
            all(bit < 0 or lane >> k & 1 == value >> bit & 1 for k, bit in enumerate(in_lanes))
            for lane in range(1 << self._lane_bits)
        ]
        nothing = _three_products(np.eye(len(matrix), dtype=np.complex128), places).take(index)

        def where_fulfilled(made: gates.Matrix) -> Numbers:
            return np.where(fulfilled, _three_products(made, places).take(picked), nothing)

        self._add_coefficients(made_of_matrix(matrix, where_fulfilled))

    def _controlled_row(self, kind: int, targets: Sequence[int], mask: int, value: int, num_free: int = 0) -> list[int]:
        """A row under controls over index bits; those of the block become fixed positions, as do the targets but for
        the first ``num_free``."""
        inner = [bit for bit in self._block if mask >> bit & 1]
        outer_mask = mask & ~sum(1 << bit for bit in inner)
        row = self._row(kind, targets, [*targets[num_free:], *(self._position[bit] for bit in inner)])
        row[CONTROL_VALUE] = sum((value >> bit & 1) << self._position[bit] for bit in inner)
        row[OUTER_MASK], row[OUTER_VALUE] = outer_mask, value & outer_mask
        return row

    # --- passes of the normal form ---

    def _rotations(self, slopes: Sequence[tuple[int, float]], loads: _Lines | None) -> None:
        """As few rows as the form allows, as even as can be, the lanes with the first: a pass has to read and write the
        block, for which it can turn two or three bits; those above that cost as much as in a row of their own.

        ``loads``: as the first row, which then has no lanes, loads lines, these change places.
        """
        pairs, has_lanes = self._sharing.pairs(slopes)
        lanes = [0.0] * _ROOM_FOR_SLOPES
        for bit, slope in slopes:
            if self._position[bit] not in pairs:
                lanes[self._position[bit]] = slope
        count, ordered = self._sharing.num_rows(len(pairs), has_lanes), list(pairs.items())
        if loads:
            count = max(count, 1 + has_lanes)
        groups = [ordered[len(pairs) * k // count : len(pairs) * (k + 1) // count] for k in range(count)]
        for number, group in enumerate(groups[::-1] if loads else groups):  # the last one has most
            targets = [position for position, _ in group]
            row = self._row(ROTATE, targets, targets)
            row[HAS_LANES] = int(has_lanes and number == bool(loads))
            numbers = [*(slope for _, slope in group), *[0.0] * (_ROOM_FOR_SLOPES - len(group)), *lanes]
            self._add_coefficients(made_of(numbers))
            if loads and number == 0:
                self._lines(row, loads)
                row[GATHERS] = 1

    def _spread(self, slopes: Mapping[int, float]) -> None:
        self._row(SPREAD, [], [])
        higher = self._stored[self._low_bits :]
        self._add_table([sum(1 << bit for bit in slopes), sum(1 << k for k, bit in enumerate(higher) if bit in slopes)])
        self._add_coefficients(made_of([slopes.get(bit, -1.0) for bit in higher], _spread_factors))

    def _phases(self, phases: Phases, before: Mapping[int, float], following: Sequence[Pass]) -> set[int]:
        """A row, which first turns the bits ``before``, and may turn bits of the rotations that follow: which."""
        form, row = phases.form, self._row(QUADRATIC, [], [])
        first = {self._position[bit]: slope for bit, slope in before.items()}
        then = self._sharing.after(phases, first, following[:2], int(self._has_to_carry(following)))
        wanted = [*first, *(then.keys() - first.keys())]
        laid = phase_rows(
            form.linear, form.product, phases.factor, self._position, self._lane_bits, self._form.has_gaps,
            wanted, len(first), TURNED_WITH_PHASES if wanted else 0, form.parities,
        )  # fmt: skip
        row[NUM_ENTRIES], row[TILE_BITS], row[BASE] = laid.num_outside, laid.tile_bits, laid.base
        row[INNER_BITS], row[OUTER_BITS] = laid.inner_bits, laid.outer_bits
        row[NUM_TARGETS], row[TARGETS : TARGETS + len(laid.first)] = len(laid.first), laid.first
        slopes = [then.get(position, 0.0) for position in laid.first]
        slopes += [first.get(position, 0.0) for position in laid.first]
        row[TURNED_BEFORE], row[NUM_TURNS] = len(first), sum(map(bool, slopes))
        self._walks[len(self._rows) - 1] = _Walk(laid.positions, laid.tile_bits, laid.inner_bits, laid.shared)
        self._add_table(laid.tables)
        self._add_coefficients(laid.coefficients)
        self._add_coefficients(made_of(slopes))
        if laid.parity:
            masks, factors = laid.parity
            row[PARITY] = self._num_tables
            self._add_table([self._num_coefficients, self._num_coefficients + factors.size // 2, *masks])
            self._add_coefficients(factors)
        return {self._block[position] for position in laid.first if position in then}

    def _has_to_carry(self, following: Sequence[Pass]) -> bool:
        """Whether lines change places after the rotations that follow, which nothing but these can do on the way."""
        match following:
            case [Rotations(), Affine() as affine, after] if not isinstance(after, Rotations):
                masks, flipped, outside = self._inside_and_out(affine)
                return self._is_by_lines(masks, flipped, outside)
        return False

    def _turns_as_well(self, slopes: Sequence[tuple[int, float]]) -> bool:
        """Whether the row before, phases that share the only bit to be turned, turns it in its pass from now on."""
        ((bit, slope), *others), row = slopes, self._rows[-1] if self._rows else []
        if others or not self._form.turns_in_phases or not row or row[KIND] != QUADRATIC:
            return False
        if row[NUM_TARGETS] or row[BASE] != self._place(self._position[bit]):
            return False
        row[NUM_TARGETS], row[TARGETS], row[NUM_TURNS] = 1, self._position[bit], 1
        self._add_coefficients(made_of([slope]))
        return True

    def _butterflies(self, passes: Sequence[Pass]) -> int:
        """A row for as many of the first passes as it can do, where it does more than others; how many."""
        found = find_butterflies(passes, self._position, self._lane_bits) if self._form.turns_in_phases else []
        if len(found) < 2:
            return 0
        row = self._row(BUTTERFLIES, [self._position[each.bit] for each in found], [])
        laid = butterfly_rows(found, self._block, self._lane_bits, self._place)
        row[NUM_ENTRIES], row[TILE_BITS], row[INNER_BITS] = laid.num_outside, laid.tile_bits, laid.inner_bits
        targets = [self._position[each.bit] for each in found]
        self._walks[len(self._rows) - 1] = _Walk(laid.positions, laid.tile_bits, laid.inner_bits, targets)
        self._add_table(laid.tables)
        self._add_coefficients(laid.coefficients)
        return 2 * len(found)

    def _readings(self, slots: Mapping[tuple[int, int], int]) -> None:
        """Rows for some strings, by masks over index bits; none where rows cannot read."""
        if not self._form.reads:
            return
        for group in flip_groups(slots, self._position, len(self._stored)):
            self._row(READ_FLIPS, [], [])[HAS_LANES] = int(group.has_lanes)
            self._add_table(group.table)
        for group in string_groups(slots, self._position, len(self._stored)):
            self._row(READ_STRINGS, [], [])[NUM_ENTRIES] = group.num_entries
            self._add_table(group.table)

    def _place(self, position: int) -> int:
        """Where a number with one bit lies in a block; see ``passes_numba.place`` for the gaps."""
        gaps = 1 << position >> (self._lane_bits + 6) << self._lane_bits if self._form.has_gaps else 0
        return (1 << position) + gaps

    def _affine(self, affine: Affine, following: Sequence[Pass]) -> _Lines | None:
        """A row; or where whole lines change places, what the loads of the sweep do, rotations before it or its stores,
        or rotations that follow, to which it is returned then."""
        masks, flipped, outside = self._inside_and_out(affine)
        by_lines = self._is_by_lines(masks, flipped, outside)
        has_lines = self._low_bits >= self._lane_bits
        by_stores = by_lines and has_lines and not following
        row = self._mover(has_lines) if by_lines and not by_stores else []
        if row:
            if row[KIND] == ARRANGE:
                self._arranged = (masks, flipped, outside)
            goes = _Lines(sum(1 << k for k in flipped), [(mask, 1 << k) for mask, k in outside], transposed(masks))
            self._lines(row, goes)
            return None
        columns = inverse_columns(masks)
        shift = reduce(xor, (columns[k] for k in flipped), 0)
        comes = _Lines(shift, [(mask, columns[k]) for mask, k in outside], columns)
        if (
            by_lines
            and following
            and isinstance(following[0], Rotations)
            and self._sharing.pairs(following[0].slopes)[0]
        ):
            return comes
        row = self._row(PERMUTE, [], [])
        if by_stores:
            self._lines(row, comes)
        else:
            self._shifts(row, comes)
            self._numbers(row, columns)
        return None

    def _reach_memory(self) -> None:
        """Tables for a row that comes first, after others are spread, to load the block, and for one that comes last to
        store it: for that no pass of its own is needed then."""
        if not self._form.moves_on_the_way or self._low_bits < self._lane_bits or self._block != self._stored:
            return
        first = next((k for k, row in enumerate(self._rows) if row[KIND] not in (SPREAD, ARRANGE)), 0)
        last = len(self._rows) - 1
        if self._rows and self._rows[0][KIND] == SPREAD and _can_load(self._rows[first]):
            bits, runs = self._tables[0].tolist()
            self._far_tables(first, FROM_MEMORY, bits, runs)
        if last > first and _can_store(self._rows[last]):
            self._far_tables(last, TO_MEMORY, 0, 0)

    def _far_tables(self, number: int, column: int, spread: int, runs: int) -> None:
        """Those of row ``number``, see ``rows``. ``spread``: the bits that others are spread to; ``runs``: the same of
        a run's number."""

        def in_memory(number: int) -> int:
            place = (number >> self._low_bits & runs) << CODE_BIT
            for k, bit in enumerate(self._stored):
                if number >> k & 1 and not spread >> bit & 1:
                    place |= 1 << bit
            return place

        columns, shift, outside = [1 << k for k in range(len(self._stored))], 0, list[tuple[int, int]]()
        if column == FROM_MEMORY and self._arranged is not None:
            masks, flipped, others = self._arranged
            columns = inverse_columns(masks)
            shift = reduce(xor, (columns[k] for k in flipped), 0)
            outside = [(mask, columns[k]) for mask, k in others]
        self._rows[number][column] = self._num_tables
        walk = self._walks.get(number, _Walk([], 0, 0, []))
        shared = [in_memory(columns[position]) for position in walk.shared]
        pairs = [number for mask, source in outside for number in (mask, in_memory(source))]
        self._add_table([len(outside), in_memory(shift), *shared, *[0] * (MOST_BUTTERFLIES - len(shared)), *pairs])
        if number in self._walks:
            places = [in_memory(columns[position]) for position in walk.positions]
            self._add_table(xor_tables(places, walk.tile_bits, walk.inner_bits))
        else:
            self._add_table([in_memory(source) for source in columns[self._lane_bits :]])

    def _mover(self, has_lines: bool) -> list[int]:
        """The row that takes lines elsewhere on the way, if there is one: a new one where nothing is done before."""
        if has_lines and all(row[KIND] == SPREAD for row in self._rows):
            return self._row(ARRANGE, [], [])
        return self._rows[-1] if self._rows and _can_move_lines(self._rows[-1]) else []

    def _inside_and_out(self, affine: Affine) -> tuple[list[int], list[int], list[tuple[int, int]]]:
        """The mask of each target, over positions; the targets that are flipped; and where bits outside the block
        count, their mask and the target."""
        flipped = [self._position[bit] for bit in self._block if affine.flips >> bit & 1]
        masks, outside = [1 << k for k in range(len(self._block))], list[tuple[int, int]]()
        for target, mask in affine.masks:
            position, beyond = self._position[target], mask & ~self._block_mask
            if beyond:
                outside.append((beyond, position))
            masks[position] = mask & self._block_mask
        moved = [self._position[target] for target, _ in affine.masks]
        for position, mask in zip(moved, compressed([masks[k] for k in moved], self._block), strict=True):
            masks[position] = mask
        return masks, flipped, outside

    def _is_by_lines(self, masks: Sequence[int], flipped: Sequence[int], outside: Sequence[tuple[int, int]]) -> bool:
        """Whether every lane stays the lane that it is, whatever its line; and lines can be moved on the way."""
        if not self._form.moves_on_the_way:
            return False
        moved = [*flipped, *(k for _, k in outside)]
        lanes, above = masks[: self._lane_bits], masks[self._lane_bits :]
        stays = all(mask == 1 << k for k, mask in enumerate(lanes)) and all(k >= self._lane_bits for k in moved)
        return stays and not any(mask & (1 << self._lane_bits) - 1 for mask in above)

    def _shifts(self, row: list[int], numbers: _Lines) -> None:
        row[TABLE], row[NUM_ENTRIES] = self._num_tables, len(numbers.outside)
        self._add_table([numbers.shift, *(number for entry in numbers.outside for number in entry)])

    def _lines(self, row: list[int], lines: _Lines) -> None:
        """Tables of whole lines that change places."""
        self._shifts(row, lines)
        row[RANK] = len(lines.columns) - self._lane_bits
        self._add_table([column >> self._lane_bits for column in lines.columns[self._lane_bits :]])

    def _numbers(self, row: list[int], columns: Sequence[int]) -> None:
        """Tables of numbers that change places."""
        lines = line_map(columns, self._lane_bits)
        row[HAS_LANES], row[RANK] = 1, len(lines.source_steps)
        row[NEAR_BITS] = len(lines.near_to).bit_length() - 1
        by_lines = np.concatenate([table.reshape(-1) for table in lines])
        self._add_table([1 + len(by_lines)])
        self._add_table(by_lines)
        self._add_table(xor_tables(columns, min(8, len(columns)), max(0, len(columns) - 8)))


class _Walk(NamedTuple):
    """How a row goes through a block: the positions of the bits of a vector's number in a row above the lanes, those of
    a row's number in a group, and of a group's number; and the ones that have their own way."""

    positions: list[int]
    tile_bits: int
    inner_bits: int
    shared: list[int]


class _Lines(NamedTuple):
    """Numbers that change places: where number 0 goes or comes from, what a mask of bits outside the block adds to that
    if it picks an odd number of them, and where the numbers of single bits go or come from."""

    shift: int
    outside: list[tuple[int, int]]
    columns: list[int]


def _can_move_lines(row: Sequence[int]) -> bool:
    """Whether a row can store its lines elsewhere, and does not yet."""
    return row[KIND] == ROTATE and not row[HAS_LANES] and not row[RANK]


def _can_load(row: Sequence[int]) -> bool:
    """Whether a row can load the block."""
    if row[KIND] == ROTATE:
        return row[NUM_TARGETS] >= _LEAST_IN_MEMORY and not row[HAS_LANES] and not row[GATHERS]
    return row[KIND] == BUTTERFLIES or (row[KIND] == QUADRATIC and not row[BASE] and not row[TURNED_BEFORE])


def _can_store(row: Sequence[int]) -> bool:
    """Whether a row can store the block."""
    if row[KIND] == ROTATE:
        return row[NUM_TARGETS] >= _LEAST_IN_MEMORY and not row[HAS_LANES] and not row[RANK]
    if row[KIND] != QUADRATIC:
        return False
    if row[BASE]:
        return bool(row[NUM_TARGETS])
    return not row[TURNED_BEFORE] or row[NUM_TURNS] == row[TURNED_BEFORE]


def _spread_factors(slopes: Numbers) -> Numbers:
    """For each set of bits, as a mask, what spreading multiplies by that has these set."""
    factors = np.ones(1)
    for slope in slopes:
        factors = np.concatenate([factors, -slope * factors])
    return factors


def _real_and_imaginary(matrix: gates.Matrix) -> Numbers:
    """The entries of a matrix as real numbers, row by row."""
    return np.ascontiguousarray(matrix).view(np.float64).reshape(-1)


def _three_products(matrix: gates.Matrix, places: Sequence[int]) -> Numbers:
    """What real products take of a matrix whose rows and columns are wanted in this order: real parts, imaginary parts,
    sums (Gauss); shape (3, entries)."""
    if places != list(range(len(matrix))):
        matrix = matrix[np.ix_(places, places)]
    entries, numbers = matrix.reshape(-1), np.empty((3, matrix.size))
    numbers[0], numbers[1] = entries.real, entries.imag
    np.add(numbers[0], numbers[1], out=numbers[2])
    return numbers


@lru_cache
def _two_bit_entries(lanes: tuple[int, ...], lane_bits: int) -> npt.NDArray[np.int64]:
    """Which of those of a two-target matrix a row of kind TWO_TARGETS has: output, pattern, one of the three, lane."""
    rows, _ = _rows_and_columns(lanes, lane_bits, 2)
    return _of_three(rows, rows ^ np.arange(4)[:, None], 4)


@lru_cache
def _dense_entries(lanes: tuple[int, ...], lane_bits: int, num_targets: int) -> npt.NDArray[np.int64]:
    """Which of those of a matrix a row of kind DENSE has: output, input, one of the three, lane."""
    return _of_three(*_rows_and_columns(lanes, lane_bits, num_targets), 1 << num_targets)


def _rows_and_columns(
    lanes: tuple[int, ...], lane_bits: int, num_targets: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Those of a matrix that each output (of targets above the lanes) has in each lane, and each input."""
    index = np.arange(1 << lane_bits)
    lane_part = sum(((index >> lane & 1) << k for k, lane in enumerate(lanes)), start=np.zeros_like(index))
    outputs, inputs = np.arange(1 << num_targets - len(lanes)) << len(lanes), np.arange(1 << num_targets)
    return lane_part | outputs[:, None, None], lane_part ^ inputs[:, None]


def _of_three(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """The numbers of these entries among real parts, imaginary parts and sums."""
    return (rows * size + columns)[..., None, :] + np.arange(3)[:, None] * size**2


def mixes(passes: Sequence[Pass]) -> int:
    """The index bits, as a mask, that some passes may set where they were not set before."""
    return reduce(or_, map(_mixed, passes), 0)


def _mixed(each: Pass) -> int:
    """Those of one pass."""
    match each:
        case Rotations(slopes=slopes) | Spread(slopes=slopes):
            return reduce(or_, [1 << bit for bit, _ in slopes], 0)
        case Affine(masks=masks, flips=flips):
            return reduce(or_, [1 << bit for bit, _ in masks], flips)
        case Plain(op=op) if op.kind == "matrix":
            return reduce(or_, [1 << bit for bit in op.bits], 0)
    return 0
