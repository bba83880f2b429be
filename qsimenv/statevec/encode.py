"""Encoding: the sweeps of a plan and parameter values to the flat arrays that a kernel reads.

A row of ``ops`` is one pass over a block in terms of positions *inside the block*; ``coefficients`` and ``tables`` hold
the numbers. All depend on the precision and on nothing that a rank knows, so every rank reads the same. Columns are
named below; the kernels import these names, and nothing else is shared between planner and kernels. Blocks of at least
``NORMAL_FORM_BITS`` bits are brought into normal form first; smaller ones get a row for each op.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qsimenv import gates
from qsimenv.circuit import Gate
from qsimenv.statevec.normalform import Affine, Compiler, Factor, Pass, Phases, Plain, Rotations
from qsimenv.statevec.plan import Op, Plan, Sweep, unmixed_targets
from qsimenv.task import Precision

(
    KIND,
    NUM_TARGETS,
    NUM_FIXED,
    CONTROL_VALUE,
    OUTER_MASK,
    OUTER_VALUE,
    OFFSET,
    TABLE,
    NUM_ENTRIES,
    HAS_LANES,
    RUN_BITS,
) = range(11)
TARGETS = 11
FIXED = TARGETS + gates.MAX_UNITARY_TARGETS
"""First column of the sorted block positions that a pass holds fixed: its targets and its controls inside the block."""
ROW = 56

GENERAL, REAL, FLIP, PHASE, ROTATE, QUADRATIC, PERMUTE, TWO_TARGETS = range(8)
"""Kinds: dense complex matrix, real matrix on one target, X on one target, multiplication by one number; the passes of
the normal form: rotations, quadratic phases, affine permutation; and a dense matrix on two targets without controls."""

NORMAL_FORM_BITS = 8
LOW_TABLE_BITS = 8
"""The quadratic phases of a block work with one table for so many low bits, one for the others."""
_MOST_PAIR_BITS = 4
_PAIRS_WITH_LANES = 2
_MOST_RUN_BITS = 8

REAL_TYPE: dict[Precision, type[np.floating]] = {"double": np.float64, "single": np.float32}


@dataclass(frozen=True)
class EncodedSweep:
    """``low_bits``: how many of the lowest bits the block holds without a gap. ``offsets``: where, relative to the
    block's first amplitude, each run of ``2**low_bits`` amplitudes lies. ``outer``: the local bits not in the block.
    ``scale``: what the stored numbers have to be multiplied by after the sweep, besides what they had to before."""

    block_bits: int
    low_bits: int
    offsets: npt.NDArray[np.int64]
    outer: npt.NDArray[np.int64]
    ops: npt.NDArray[np.int64]
    coefficients: np.ndarray
    tables: npt.NDArray[np.int64]
    scale: complex


def encode(
    plan: Plan, values: Sequence[float] | npt.NDArray[np.float64], precision: Precision
) -> tuple[tuple[EncodedSweep, ...], ...]:
    """The sweeps of each stage that have anything to do, for parameter ``values`` of shape (P,)."""
    matrices: dict[int, gates.Matrix] = {}

    def matrix_of(index: int) -> gates.Matrix:
        if index not in matrices:
            matrices[index] = plan.gates[index].base_matrix(values)
        return matrices[index]

    return tuple(tuple(_encode_stage(stage.sweeps, plan, matrix_of, REAL_TYPE[precision])) for stage in plan.stages)


def _encode_stage(
    sweeps: Sequence[Sweep], plan: Plan, matrix_of: Callable[[int], gates.Matrix], real_type: type[np.floating]
) -> Iterator[EncodedSweep]:
    compiler = Compiler()
    for number, sweep in enumerate(sweeps):
        before = compiler.scale
        plain = len(sweep.block) < NORMAL_FORM_BITS
        passes: list[Pass] = []
        for op in sweep.ops:
            matrix = _stored_matrix(plan.gates[op.gate], matrix_of(op.gate), op)
            if plain:
                passes.append(Plain(op, matrix))
            else:
                compiler.take(op, matrix)
        if not plain:
            passes = compiler.finish() if number == len(sweeps) - 1 else compiler.finish_sweep()
        if passes or compiler.scale != before:
            yield _Writer(sweep, plan.start.num_local, real_type).write(passes, compiler.scale / before)


def is_constant(gate_list: Sequence[Gate]) -> bool:
    """Whether no gate has a free parameter, so that an encoding can be kept."""
    return not any(isinstance(angle, str) for gate in gate_list for angle in gate.params)


def deposit(numbers: npt.NDArray[np.int64], bits: Sequence[int]) -> npt.NDArray[np.int64]:
    """Spread each number over an index: its bit k goes to position ``bits[k]``."""
    index = np.zeros_like(numbers)
    for k, bit in enumerate(bits):
        index |= (numbers >> k & 1) << bit
    return index


def _stored_matrix(gate: Gate, matrix: gates.Matrix, op: Op) -> gates.Matrix:
    """The part of a gate's matrix that belongs to the op, with rows and columns in stored bits."""
    still = [] if op.kind == "diagonal" else sorted(unmixed_targets(gate))
    num_targets = len(matrix).bit_length() - 1
    mixed = [k for k in range(num_targets) if k not in still]
    fixed = sum((op.unmixed_value >> j & 1) << k for j, k in enumerate(still))
    chosen = deposit(np.arange(1 << len(mixed)) ^ op.flips, mixed) | fixed
    part: gates.Matrix = matrix[np.ix_(chosen, chosen)]
    return part


class _Writer:
    """Writes the passes of one sweep into its arrays."""

    def __init__(self, sweep: Sweep, num_local: int, real_type: type[np.floating]) -> None:
        self._block, self._num_local, self._real_type = sweep.block, num_local, real_type
        self._position = {bit: k for k, bit in enumerate(sweep.block)}
        self._lane_bits = 4 if real_type is np.float32 else 3
        self._rows: list[list[int]] = []
        self._coefficients: list[npt.NDArray[np.float64]] = []
        self._tables: list[npt.NDArray[np.int64]] = []
        self._num_coefficients = self._num_tables = 0

    def write(self, passes: Sequence[Pass], scale: complex) -> EncodedSweep:
        for each in passes:
            match each:
                case Plain(op=op, matrix=matrix):
                    self._plain(op, matrix)
                case Rotations(slopes=slopes):
                    self._rotations(slopes)
                case Phases():
                    self._phases(each)
                case Affine():
                    self._affine(each)
                case Factor(value=value):
                    self._controlled_row(PHASE, [], 0, 0)
                    self._add_coefficients([value, 0.0])
        block = self._block
        low_bits = next((k for k, bit in enumerate(block) if bit != k), len(block))
        return EncodedSweep(
            len(block),
            low_bits,
            deposit(np.arange(1 << (len(block) - low_bits)), block[low_bits:]),
            np.array([bit for bit in range(self._num_local) if bit not in self._position], dtype=np.int64),
            np.array(self._rows, dtype=np.int64).reshape(len(self._rows), ROW),
            np.concatenate([*self._coefficients, np.zeros(1)]).astype(self._real_type),
            np.concatenate([*self._tables, np.zeros(1, dtype=np.int64)]),
            scale,
        )

    def _row(self, kind: int, targets: Sequence[int], fixed: Sequence[int]) -> list[int]:
        row = [0] * ROW
        row[KIND], row[NUM_TARGETS], row[NUM_FIXED] = kind, len(targets), len(fixed)
        row[OFFSET], row[TABLE] = self._num_coefficients, self._num_tables
        row[TARGETS : TARGETS + len(targets)] = targets
        row[FIXED : FIXED + len(fixed)] = sorted(fixed)
        self._rows.append(row)
        return row

    def _add_coefficients(self, numbers: npt.ArrayLike) -> None:
        self._coefficients.append(np.asarray(numbers, dtype=np.float64).reshape(-1))
        self._num_coefficients += self._coefficients[-1].size

    def _add_table(self, numbers: npt.ArrayLike) -> None:
        self._tables.append(np.asarray(numbers, dtype=np.int64).reshape(-1))
        self._num_tables += self._tables[-1].size

    # --- ops that stay what they are ---

    def _plain(self, op: Op, matrix: gates.Matrix) -> None:
        if op.kind == "diagonal":
            for stored, factor in enumerate(np.diagonal(matrix)):
                if factor != 1:
                    self._number(op, stored, complex(factor))
            return
        if np.array_equal(matrix, np.eye(len(matrix))):
            return
        if len(matrix) == 4 and not op.control_mask and len(self._block) >= NORMAL_FORM_BITS:
            self._two_targets([self._position[bit] for bit in op.bits], matrix)
            return
        kind = GENERAL
        if len(matrix) == 2 and not matrix.imag.any():
            kind = FLIP if np.array_equal(matrix, [[0, 1], [1, 0]]) else REAL
        self._controlled_row(kind, [self._position[bit] for bit in op.bits], op.control_mask, op.control_value)
        self._add_coefficients(np.ascontiguousarray(matrix).view(np.float64))

    def _two_targets(self, targets: Sequence[int], matrix: gates.Matrix) -> None:
        """See ``lanes_numba.dense``: for output v, pattern m and each lane the entry (row, row ^ m) of the matrix."""
        if targets[0] > targets[1]:
            targets, swapped = targets[::-1], [0, 2, 1, 3]
            matrix = matrix[np.ix_(swapped, swapped)]
        lanes = [position for position in targets if position < self._lane_bits]
        index = np.arange(1 << self._lane_bits)
        lane_part = sum((index >> lane & 1) << k for k, lane in enumerate(lanes)) + 0 * index
        row = self._row(TWO_TARGETS, targets, targets)
        row[HAS_LANES] = len(lanes)
        for output in range(4 >> len(lanes)):
            rows = lane_part | output << len(lanes)
            for pattern in range(4):
                entries = matrix[rows, rows ^ pattern]
                self._add_coefficients([entries.real, entries.imag])

    def _number(self, op: Op, stored: int, factor: complex) -> None:
        """Multiply by ``factor`` where the op's bits have the value ``stored`` and its controls theirs."""
        mask, value = op.control_mask, op.control_value
        for k, bit in enumerate(op.bits):
            mask |= 1 << bit
            value |= (stored >> k & 1) << bit
        self._controlled_row(PHASE, [], mask, value)
        self._add_coefficients([factor.real, factor.imag])

    def _controlled_row(self, kind: int, targets: Sequence[int], mask: int, value: int) -> None:
        """A row under controls over index bits; those of the block become fixed positions."""
        inner = [bit for bit in self._block if mask >> bit & 1]
        outer_mask = mask & ~sum(1 << bit for bit in inner)
        row = self._row(kind, targets, [*targets, *(self._position[bit] for bit in inner)])
        row[CONTROL_VALUE] = sum((value >> bit & 1) << self._position[bit] for bit in inner)
        row[OUTER_MASK], row[OUTER_VALUE] = outer_mask, value & outer_mask

    # --- passes of the normal form ---

    def _rotations(self, slopes: Sequence[tuple[int, float]]) -> None:
        """A row for the lane bits and two more, then rows of up to four bits, as even as can be."""
        lanes = np.zeros(4)
        pairs = []
        for bit, slope in slopes:
            position = self._position[bit]
            if position < self._lane_bits:
                lanes[position] = slope
            else:
                pairs.append((position, slope))
        groups = []
        if lanes.any():
            with_lanes, pairs = pairs[:_PAIRS_WITH_LANES], pairs[_PAIRS_WITH_LANES:]
            groups.append(with_lanes)
        count = -(-len(pairs) // _MOST_PAIR_BITS)
        groups += [pairs[len(pairs) * k // count : len(pairs) * (k + 1) // count] for k in range(count)]
        for number, group in enumerate(groups):
            targets = [position for position, _ in group]
            self._row(ROTATE, targets, targets)[HAS_LANES] = int(number == 0 and bool(lanes.any()))
            self._add_coefficients([*(slope for _, slope in group), *[0.0] * (_MOST_PAIR_BITS - len(group)), *lanes])

    def _phases(self, phases: Phases) -> None:
        """See ``passes_numba.apply_phases`` for what is laid down here."""
        bits, position = len(self._block), self._position
        low = min(bits, LOW_TABLE_BITS)
        linear, product = np.zeros(bits), np.zeros((bits, bits))
        outside: list[tuple[int, int, float]] = []
        for bit, angle in phases.form.linear.items():
            if bit in position:
                linear[position[bit]] += angle
            else:
                outside.append((1 << bit, 0, angle))
        for (a, b), angle in phases.form.product.items():
            inner = [bit for bit in (a, b) if bit in position]
            if len(inner) == 2:
                product[position[a], position[b]] = product[position[b], position[a]] = angle
            elif inner:
                outside.append((1 << (a + b - inner[0]), 1 + position[inner[0]], angle))
            else:
                outside.append((1 << a | 1 << b, 0, angle))
        row = self._row(QUADRATIC, [], [])
        row[NUM_ENTRIES] = len(outside)
        self._add_table([(mask, slot) for mask, slot, _ in outside])
        self._add_coefficients([angle for _, _, angle in outside])
        self._add_coefficients(_factors(linear[:low], product[:low, :low]))
        self._add_coefficients(_factors(linear[low:], product[low:, low:]))
        cross = _values(bits - low) @ product[low:, :low]
        self._add_coefficients(np.stack([np.cos(cross), np.sin(cross)], axis=-1))

    def _affine(self, affine: Affine) -> None:
        """See ``passes_numba.permute``."""
        bits, position = len(self._block), self._position
        matrix = np.eye(bits, dtype=np.uint8)
        outside: list[tuple[int, int]] = []
        moved = {position[bit] for bit in self._block if affine.flips >> bit & 1}
        for target, mask in affine.masks:
            row_of = position[target]
            inner = [position[bit] for bit in self._block if mask >> bit & 1]
            matrix[row_of] = 0
            matrix[row_of, inner] = 1
            moved.update((row_of, *inner))
            outer_mask = mask & ~sum(1 << self._block[k] for k in inner)
            if outer_mask:
                outside.append((outer_mask, row_of))
        inverse = _inverse(matrix)
        columns = [int(sum(int(inverse[k, column]) << k for k in range(bits))) for column in range(bits)]
        shift = 0
        for bit in self._block:
            if affine.flips >> bit & 1:
                shift ^= columns[position[bit]]
        run_bits = min(moved) if min(moved) >= self._lane_bits else 0
        run_bits = min(run_bits, _MOST_RUN_BITS)
        near = _tile(matrix, run_bits, self._lane_bits)
        far = _complement(near, bits, run_bits)
        row = self._row(PERMUTE, [], [])
        row[NUM_ENTRIES], row[RUN_BITS], row[NUM_FIXED] = len(outside), run_bits, 1 << len(near)
        self._add_table([shift, *(number for mask, k in outside for number in (mask, columns[k]))])
        for directions in (near, far):
            self._add_table(_xor_table(directions))
            self._add_table(_xor_table([_product(columns, direction) for direction in directions]))


def _product(columns: Sequence[int], vector: int) -> int:
    """A matrix, given by its columns, times a vector over GF(2)."""
    result = 0
    for k, column in enumerate(columns):
        result ^= column * (vector >> k & 1)
    return result


def _tile(matrix: npt.NDArray[np.uint8], run_bits: int, line_bits: int) -> list[int]:
    """Independent directions that span whole cache lines of the target and of the source, above the runs."""
    size = len(matrix)
    lines = [1 << k for k in range(run_bits, min(line_bits, size))]
    images = [
        int(sum(int(matrix[k, column]) << k for k in range(size))) for column in range(run_bits, min(line_bits, size))
    ]
    return _independent([*lines, *images])


def _complement(near: Sequence[int], bits: int, run_bits: int) -> list[int]:
    """Directions that span the rest of the block together with those near and the runs."""
    together = _independent([*near, *(1 << k for k in range(run_bits, bits))])
    return together[len(near) :]


def _independent(vectors: Sequence[int]) -> list[int]:
    """Those of the vectors over GF(2) that are no sums of the ones before."""
    kept: list[int] = []
    reduced: dict[int, int] = {}
    for vector in vectors:
        rest = vector
        while rest and (rest.bit_length() - 1) in reduced:
            rest ^= reduced[rest.bit_length() - 1]
        if rest:
            reduced[rest.bit_length() - 1] = rest
            kept.append(vector)
    return kept


def _values(bits: int) -> npt.NDArray[np.float64]:
    """The bits of 0 … 2**bits - 1, shape (2**bits, bits)."""
    return (np.arange(1 << bits)[:, None] >> np.arange(bits) & 1).astype(np.float64)


def _factors(linear: npt.NDArray[np.float64], product: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """cos and sin, shape (2, 2**bits), of a quadratic form; ``product`` is symmetric with a zero diagonal."""
    values = _values(len(linear))
    angles = values @ linear + ((values @ product) * values).sum(axis=1) / 2
    return np.stack([np.cos(angles), np.sin(angles)])


def _xor_table(columns: Sequence[int]) -> npt.NDArray[np.int64]:
    """For each number the exclusive or of the columns that its bits pick."""
    table = np.zeros(1, dtype=np.int64)
    for column in columns:
        table = np.concatenate([table, table ^ column])
    return table


def _inverse(matrix: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The inverse over GF(2), by elimination."""
    size = len(matrix)
    work = np.concatenate([matrix, np.eye(size, dtype=np.uint8)], axis=1)
    for column in range(size):
        pivot = column + int(np.argmax(work[column:, column]))
        work[[column, pivot]] = work[[pivot, column]]
        for row in range(size):
            if row != column and work[row, column]:
                work[row] ^= work[column]
    return work[:, size:]
