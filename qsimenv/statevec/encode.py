"""Encoding: a sweep and parameter values to the flat arrays that a kernel reads.

A row of ``ops`` is one op in terms of positions *inside the block*; ``coefficients`` holds the numbers. Both depend on
the precision and on nothing that a rank knows, so all ranks read the same. Columns are named below; the kernels
import these names, and nothing else is shared between planner and kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qsimenv import gates
from qsimenv.circuit import Gate
from qsimenv.statevec.plan import Op, Plan, Sweep, unmixed_targets
from qsimenv.task import Precision

KIND, NUM_TARGETS, NUM_FIXED, CONTROL_VALUE, OUTER_MASK, OUTER_VALUE, OFFSET, TARGETS = range(8)
FIXED = TARGETS + gates.MAX_UNITARY_TARGETS
"""First column of the sorted block positions that an op holds fixed: its targets and its controls inside the block."""
ROW = 48

GENERAL, REAL, FLIP, PHASE = range(4)
"""Kinds: dense complex matrix, real matrix on one target, X on one target, multiplication by one number."""

REAL_TYPE: dict[Precision, type[np.floating]] = {"double": np.float64, "single": np.float32}


@dataclass(frozen=True)
class EncodedSweep:
    """``low_bits``: how many of the lowest bits the block holds without a gap. ``offsets``: where, relative to the
    block's first amplitude, each run of ``2**low_bits`` amplitudes lies. ``outer``: the local bits not in the block."""

    block_bits: int
    low_bits: int
    offsets: npt.NDArray[np.int64]
    outer: npt.NDArray[np.int64]
    ops: npt.NDArray[np.int64]
    coefficients: np.ndarray


def encode(
    plan: Plan, values: Sequence[float] | npt.NDArray[np.float64], precision: Precision
) -> tuple[tuple[EncodedSweep, ...], ...]:
    """The sweeps of each stage, for parameter ``values`` of shape (P,)."""
    matrices: dict[int, gates.Matrix] = {}

    def matrix_of(index: int) -> gates.Matrix:
        if index not in matrices:
            matrices[index] = plan.gates[index].base_matrix(values)
        return matrices[index]

    num_local = plan.start.num_local
    return tuple(
        tuple(_encode_sweep(sweep, plan.gates, matrix_of, num_local, precision) for sweep in stage.sweeps)
        for stage in plan.stages
    )


def is_constant(gate_list: Sequence[Gate]) -> bool:
    """Whether no gate has a free parameter, so that an encoding can be kept."""
    return not any(isinstance(angle, str) for gate in gate_list for angle in gate.params)


def _encode_sweep(
    sweep: Sweep,
    gate_list: Sequence[Gate],
    matrix_of: Callable[[int], gates.Matrix],
    num_local: int,
    precision: Precision,
) -> EncodedSweep:
    position = {bit: k for k, bit in enumerate(sweep.block)}
    rows: list[list[int]] = []
    numbers: list[complex] = []
    for op in sweep.ops:
        matrix = matrix_of(op.gate)
        if op.kind == "diagonal":
            _encode_diagonal(op, np.diagonal(matrix), position, rows, numbers)
        else:
            _encode_matrix(op, _part(gate_list[op.gate], matrix, op), position, rows, numbers)
    low_bits = next((k for k, bit in enumerate(sweep.block) if bit != k), len(sweep.block))
    pairs = np.array(numbers, dtype=np.complex128).view(np.float64)
    return EncodedSweep(
        len(sweep.block),
        low_bits,
        deposit(np.arange(1 << (len(sweep.block) - low_bits)), sweep.block[low_bits:]),
        np.array([bit for bit in range(num_local) if bit not in position], dtype=np.int64),
        np.array(rows, dtype=np.int64).reshape(len(rows), ROW),
        pairs.astype(REAL_TYPE[precision]),
    )


def deposit(numbers: npt.NDArray[np.int64], bits: Sequence[int]) -> npt.NDArray[np.int64]:
    """Spread each number over an index: its bit k goes to position ``bits[k]``."""
    index = np.zeros_like(numbers)
    for k, bit in enumerate(bits):
        index |= (numbers >> k & 1) << bit
    return index


def _part(gate: Gate, matrix: gates.Matrix, op: Op) -> gates.Matrix:
    """The block of a matrix that belongs to one value of the targets it does not mix, in stored bits."""
    still = sorted(unmixed_targets(gate))
    num_targets = len(matrix).bit_length() - 1
    mixed = [k for k in range(num_targets) if k not in still]
    fixed = sum((op.unmixed_value >> j & 1) << k for j, k in enumerate(still))
    chosen = deposit(np.arange(1 << len(mixed)) ^ op.flips, mixed) | fixed
    part: gates.Matrix = matrix[np.ix_(chosen, chosen)]
    return part


def _row(
    kind: int, op: Op, targets: Sequence[int], mask: int, value: int, position: dict[int, int], offset: int
) -> list[int]:
    """One row. ``mask`` and ``value`` are over index bits; those of the block become fixed positions."""
    inner = [bit for bit in position if mask >> bit & 1]
    outer_mask = mask & ~sum(1 << bit for bit in inner)
    fixed = sorted((*targets, *(position[bit] for bit in inner)))
    row = [0] * ROW
    row[KIND], row[NUM_TARGETS], row[NUM_FIXED], row[OFFSET] = kind, len(targets), len(fixed), offset
    row[CONTROL_VALUE] = sum((value >> bit & 1) << position[bit] for bit in inner)
    row[OUTER_MASK], row[OUTER_VALUE] = outer_mask, value & outer_mask
    row[TARGETS : TARGETS + len(targets)] = targets
    row[FIXED : FIXED + len(fixed)] = fixed
    return row


def _encode_matrix(
    op: Op, matrix: gates.Matrix, position: dict[int, int], rows: list[list[int]], numbers: list[complex]
) -> None:
    if np.array_equal(matrix, np.eye(len(matrix))):
        return
    kind = GENERAL
    if len(matrix) == 2 and not matrix.imag.any():
        kind = FLIP if np.array_equal(matrix, [[0, 1], [1, 0]]) else REAL
    targets = [position[bit] for bit in op.bits]
    rows.append(_row(kind, op, targets, op.control_mask, op.control_value, position, 2 * len(numbers)))
    numbers.extend(matrix.reshape(-1).tolist())


def _encode_diagonal(
    op: Op,
    diagonal: npt.NDArray[np.complex128],
    position: dict[int, int],
    rows: list[list[int]],
    numbers: list[complex],
) -> None:
    for stored in range(len(diagonal)):
        factor = complex(diagonal[stored ^ op.flips])
        if factor == 1:
            continue
        mask, value = op.control_mask, op.control_value
        for k, bit in enumerate(op.bits):
            mask |= 1 << bit
            value |= (stored >> k & 1) << bit
        rows.append(_row(PHASE, op, [], mask, value, position, 2 * len(numbers)))
        numbers.append(factor)
