"""Plan of a small circuit: a flat table of instructions that a kernel runs for many sets of parameters side by side.

``batch`` makes one a circuit and keeps it. An instruction names its kind, the rows of amplitudes that it works on and
its coefficients. Rows are listed, not computed, so gates that only move amplitudes (X, CX, SWAP and their like) cost
nothing: the amplitude of an index lies in row ``row_of[index]``. Pure; relies on the gate table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from qsimenv import formula, gates
from qsimenv.circuit import Circuit, Gate
from qsimenv.statevec.encoding.angles import Angles, linear_forms
from qsimenv.statevec.planning.program import Apply, lower
from qsimenv.task import Observable

PHASE, TURN_X, TURN_Y, REAL, PAIR, QUAD, DENSE = range(7)
"""Kinds: a factor; exp(-i x/2 X) and exp(-i x/2 Y) on pairs; a real, a complex matrix on pairs, on four rows, on more.

The first three have two coefficients, a cosine and a sine; the others the entries of their matrix, row by row (complex:
real part, imaginary part).
"""
_NOTHING = -1
"""The kind of a factor that is one."""

KIND, FIRST_ROW, NUM_BLOCKS, COEFFICIENT, SECOND, SIZE = range(6)
"""Columns of an instruction: first entry in ``rows``, number of blocks of ``SIZE`` rows each, its first coefficient and
where the others follow."""

MAX_QUBITS = 12
"""The planes of one group of sets fill half of a second-level cache. (At this width, with 78 gates, a set took 0.5 ms
alone and 0.06 ms among others, and 10 ms by the way of large circuits, most of it for encoding its plan.)"""
MAX_ROWS = 1 << 18
"""The most entries that the table of a circuit may have."""
MOST_QUBITS = 15
MOST_ROWS = 1 << 23
"""The same where many sets are run together: their table is read once for as many sets as a vector has lanes."""
_LEAST_SETS = 8
_SETS_BITS = 9
"""From one set for so many bits of the index, tabulating takes less time than encoding a plan for each set. (Measured
with 164 gates on 14 qubits: 57 ms once and 0.5 ms a set, 5 ms a set by the way of large circuits.)"""
_NEVER = 1 << 62

_ROUNDING = 1e-15
_P = ParamSpec("_P")
_T = TypeVar("_T")

Rows = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Table:
    """A small circuit, ready to run. Coefficients are numbered: cosines of the angles, sines, negative sines,
    constants, then the entries of ``matrices``: gates whose matrix has to be asked for, set by set."""

    num_qubits: int
    instructions: npt.NDArray[np.int64]
    rows: Rows
    row_of: Rows
    angles: Angles
    constants: npt.NDArray[np.float64]
    matrices: tuple[Gate, ...]

    @property
    def num_coefficients(self) -> int:
        entries = sum(1 << 2 * num_targets(gate) for gate in self.matrices)
        return 3 * len(self.angles.offsets) + len(self.constants) + 2 * entries


@dataclass(frozen=True)
class Readout:
    """Observables as weights: entry k of ``terms`` is (observable, is diagonal, first in rows, rows, first in weights).

    A diagonal term adds weight * |amplitude|**2 row by row; any other weights the product of the two amplitudes of each
    pair of rows, the real parts of a pair's weights and products being as in ``pair_weights``.
    """

    terms: npt.NDArray[np.int64]
    rows: Rows
    weights: npt.NDArray[np.float64]


def is_small(circuit: Circuit, num_sets: int = 1, num_terms: int = 0, shots: int | None = None) -> bool:
    """Whether a circuit is one for this package's batches: narrow, short, and measured at the end alone; wider and
    longer where there are many sets of parameters, and observables of not too many terms.

    Shots are of so many qubits only that the way of large circuits draws them in one step, too, and gives the same.
    """
    num_qubits, rows = circuit.num_qubits, _gate_rows(circuit)
    if num_qubits <= MAX_QUBITS and rows <= MAX_ROWS:
        return True
    if num_sets < _LEAST_SETS or num_sets << _SETS_BITS < 1 << num_qubits:
        return False
    if rows + (num_terms << num_qubits) > MOST_ROWS:
        return False
    return not shots or len({measure.qubit for measure in lower(circuit).final_measures}) <= MAX_QUBITS


@lru_cache(maxsize=1024)
def _gate_rows(circuit: Circuit) -> int:
    """Rows of all gates, those of loops as often as they come; more than there can be for a circuit that is too wide,
    or not measured at the end alone."""
    if circuit.num_qubits > MOST_QUBITS or len(circuit.instructions) << circuit.num_qubits > MOST_ROWS:
        return _NEVER
    program = lower(circuit)
    if not program.is_pure:
        return _NEVER
    num_gates = sum(len(program.segments[step.segment]) for step in program.code if isinstance(step, Apply))
    return num_gates << circuit.num_qubits


def kept(make: Callable[Concatenate[Circuit, _P], _T]) -> Callable[Concatenate[Circuit, _P], _T]:
    """Keep what is made of circuits: the last few of large ones, which take some ten megabytes each."""
    many: Callable[..., _T] = lru_cache(maxsize=256)(make)
    few: Callable[..., _T] = lru_cache(maxsize=4)(make)

    def found(circuit: Circuit, /, *arguments: _P.args, **options: _P.kwargs) -> _T:
        keeper = many if _gate_rows(circuit) <= MAX_ROWS else few
        return keeper(circuit, *arguments, **options)

    return found


@kept
def tabulate(circuit: Circuit, lanes: int = 1) -> Table:
    """The table of a circuit for which ``is_small`` holds, rows as offsets into planes of ``lanes`` numbers a row.

    Cost: some ten microseconds a gate.
    """
    program = lower(circuit)
    writer = _Writer(circuit.num_qubits, len(circuit.parameters))
    for step in program.code:
        if isinstance(step, Apply):
            for gate in program.segments[step.segment]:
                writer.add(gate)
    return writer.finish(np.int32(lanes))


def num_targets(gate: Gate) -> int:
    return len(gate.qubits) - gate.num_controls


class _Writer:
    """Writes the instructions of one gate after the other."""

    def __init__(self, num_qubits: int, num_parameters: int) -> None:
        self._num_qubits, self._num_parameters = num_qubits, num_parameters
        self._row_of = np.arange(1 << num_qubits, dtype=np.int32)
        self._index = np.arange(1 << num_qubits).reshape((2,) * num_qubits)
        self._rows: list[Rows] = []
        self._num_rows = 0
        self._instructions: list[tuple[int, int, int, tuple[str, int], tuple[str, int], int]] = []
        self._angles: dict[tuple[str, float, float], int] = {}
        self._constants: list[float] = []
        self._matrices: list[Gate] = []
        self._num_entries = 0

    def add(self, gate: Gate) -> None:
        blocks = self._indices(gate)
        row = gates.BASE.get(gate.base)
        if row is not None and row.structure == "identity":
            return
        if row is not None and row.turns is not None:
            for turn in row.turns:
                self._turn(turn, gate, blocks)
        elif any(isinstance(angle, str) for angle in gate.params):
            self._matrix_of_each_set(gate, blocks)
        else:
            self._constant(gate, blocks)

    def _indices(self, gate: Gate) -> npt.NDArray[np.int64]:
        """The indices that a gate works on, shape (blocks, 2**targets): column k has the targets' value k."""
        num_controls = gate.num_controls
        controls, targets = gate.qubits[:num_controls], gate.qubits[num_controls:]
        others = [qubit for qubit in range(self._num_qubits) if qubit not in gate.qubits]
        axes = [self._num_qubits - 1 - qubit for qubits in (others, controls, targets) for qubit in reversed(qubits)]
        by_qubit = self._index.transpose(axes)
        blocks: npt.NDArray[np.int64] = by_qubit.reshape(-1, 1 << len(controls), 1 << len(targets))[
            :, gate.control_value
        ]
        return blocks

    def _turn(self, turn: gates.Turn, gate: Gate, blocks: npt.NDArray[np.int64]) -> None:
        angle = gate.params[turn.angle] if turn.angle >= 0 else 0.0
        half = 1.0 if turn.kind == "phase" else 0.5
        cosine, sine = self._cosine_and_sine(angle, turn.factor * half, turn.offset * half)
        kind = {"phase": PHASE, "x": TURN_X, "y": TURN_Y}[turn.kind]
        parts = [self._row_of[blocks[:, list(rows)]] for rows in turn.rows]
        self._write(kind, np.concatenate(parts), cosine, sine)

    def _cosine_and_sine(
        self, angle: formula.Angle, factor: float, offset: float
    ) -> tuple[tuple[str, int], tuple[str, int]]:
        if not isinstance(angle, str):
            x = factor * angle + offset
            first = self._constant_numbers((math.cos(x), math.sin(x)))
            return ("constant", first), ("constant", first + 1)
        key = (angle, abs(factor), math.copysign(offset, offset * factor))
        number = self._angles.setdefault(key, len(self._angles))
        return ("cosine", number), ("sine" if factor > 0 else "minus sine", number)

    def _matrix_of_each_set(self, gate: Gate, blocks: npt.NDArray[np.int64]) -> None:
        size = blocks.shape[1]
        first = self._num_entries
        self._matrices.append(gate)
        self._num_entries += 2 * size * size
        kind = {2: PAIR, 4: QUAD}.get(size, DENSE)
        self._write(kind, self._row_of[blocks], ("entry", first), ("entry", first + 1))

    def _constant(self, gate: Gate, blocks: npt.NDArray[np.int64]) -> None:
        """A constant matrix: what only moves amplitudes is done here."""
        parts = _parts(gate.base, gate.angles(), gate.matrix)
        if parts.source is not None:
            self._row_of[blocks] = self._row_of[blocks[:, parts.source]]
        for rows, kind, numbers in parts.blocks:
            first = self._constant_numbers(numbers)
            self._write(kind, self._row_of[blocks[:, rows]], ("constant", first), ("constant", first + 1))

    def _constant_numbers(self, numbers: Sequence[float]) -> int:
        self._constants.extend(numbers)
        return len(self._constants) - len(numbers)

    def _write(self, kind: int, rows: Rows, first: tuple[str, int], second: tuple[str, int]) -> None:
        if rows.size:
            self._instructions.append((kind, self._num_rows, len(rows), first, second, rows.shape[1]))
            self._rows.append(np.ascontiguousarray(rows).reshape(-1))
            self._num_rows += rows.size

    def finish(self, lanes: np.int32) -> Table:
        count = len(self._angles)
        starts = {"cosine": 0, "sine": count, "minus sine": 2 * count, "constant": 3 * count}
        starts["entry"] = 3 * count + len(self._constants)
        instructions = [
            (kind, row, blocks, starts[place] + number, starts[other] + behind, size)
            for kind, row, blocks, (place, number), (other, behind), size in self._instructions
        ]
        return Table(
            self._num_qubits,
            np.array(instructions, dtype=np.int64).reshape(-1, 6),
            np.concatenate([*self._rows, np.zeros(1, dtype=np.int32)]) * lanes,
            self._row_of * lanes,
            linear_forms(list(self._angles), self._num_parameters),
            np.array(self._constants, dtype=np.float64),
            tuple(self._matrices),
        )


class _Parts(NamedTuple):
    """A constant matrix: what comes into which row, where it moves amplitudes, and what is left, in small blocks (rows,
    kind, numbers)."""

    source: npt.NDArray[np.int64] | None
    blocks: tuple[tuple[list[int], int, tuple[float, ...]], ...]


@lru_cache(maxsize=1024)
def _parts(base: str, angles: tuple[float, ...], data: bytes) -> _Parts:
    """Those of a base gate with these angles, or with the matrix of this data."""
    matrix = Gate(base, tuple(range(_width(base, data))), angles, matrix=data).base_matrix()
    there, source = np.abs(matrix) > _ROUNDING, None
    if (there.sum(axis=0) == 1).all() and (there.sum(axis=1) == 1).all():
        source = there.argmax(axis=1)
        matrix = np.diag(matrix[np.arange(len(matrix)), source])
    blocks = [(rows, *_block(matrix[np.ix_(rows, rows)])) for rows in components(matrix)]
    moves = source is not None and not np.array_equal(source, np.arange(len(matrix)))
    return _Parts(source if moves else None, tuple(block for block in blocks if block[1] != _NOTHING))


def _width(base: str, data: bytes) -> int:
    """How many targets a base gate has, or one with the matrix of this data."""
    if base in gates.BASE:
        return gates.BASE[base].num_targets
    return (math.isqrt(len(data) // 16) - 1).bit_length()


def _block(matrix: gates.Matrix) -> tuple[int, tuple[float, ...]]:
    """The kind of a matrix, and its numbers."""
    if len(matrix) == 1:
        factor = complex(matrix[0, 0])
        return _NOTHING if abs(factor - 1) <= _ROUNDING else PHASE, (factor.real, factor.imag)
    real = len(matrix) == 2 and not matrix.imag.any()
    kind = REAL if real else {2: PAIR, 4: QUAD}.get(len(matrix), DENSE)
    numbers = matrix.real if real else np.stack([matrix.real, matrix.imag], axis=-1)
    return kind, tuple(numbers.reshape(-1).tolist())


def components(matrix: gates.Matrix) -> Iterator[list[int]]:
    """The smallest sets of rows that a matrix does not mix with one another."""
    there = (np.abs(matrix) > _ROUNDING) | (np.abs(matrix.T) > _ROUNDING)
    left = set(range(len(matrix)))
    while left:
        found = {min(left)}
        while True:
            reached = found | set(np.flatnonzero(there[sorted(found)].any(axis=0)).tolist())
            if reached == found:
                break
            found = reached
        left -= found
        yield sorted(found)


@kept
def read_out(circuit: Circuit, observables: tuple[Observable, ...], lanes: int = 1) -> Readout:
    """The weights of observables on the rows of ``tabulate``; terms that flip the same qubits share a pass."""
    return readout_of(tabulate(circuit, lanes).row_of, circuit.num_qubits, observables)


def readout_of(row_of: Rows, num_qubits: int, observables: tuple[Observable, ...]) -> Readout:
    """The same where the amplitude of an index lies in row ``row_of[index]``."""
    terms, rows, weights = list[tuple[int, ...]](), list[Rows](), list[npt.NDArray[np.float64]]()
    num_rows = num_weights = 0
    for number, observable in enumerate(observables):
        for flips, factors in _weights(observable, num_qubits).items():
            index = np.arange(1 << num_qubits)
            if flips:
                index = index[index & (1 << (flips.bit_length() - 1)) == 0]
                places = row_of[np.stack([index, index ^ flips], axis=1)].reshape(-1)
                numbers = 2 * np.stack([factors.real[index], -factors.imag[index]], axis=1).reshape(-1)
            else:
                places, numbers = row_of, factors.real
            terms.append((number, int(not flips), num_rows, len(index), num_weights))
            rows.append(places.astype(np.int32))
            weights.append(numbers.astype(np.float64))
            num_rows, num_weights = num_rows + len(places), num_weights + len(numbers)
    return Readout(
        np.array(terms, dtype=np.int64).reshape(-1, 5),
        np.concatenate([*rows, np.zeros(1, dtype=np.int32)]),
        np.concatenate([*weights, np.zeros(1)]),
    )


def _weights(observable: Observable, num_qubits: int) -> dict[int, npt.NDArray[np.complex128]]:
    """For each mask of flipped qubits: what each index contributes, summed over the terms with that mask."""
    index = np.arange(1 << num_qubits)
    weights: dict[int, npt.NDArray[np.complex128]] = {}
    for pauli, coefficient in observable.terms:
        flips = signs = 0
        for qubit, letter in enumerate(reversed(pauli)):
            flips |= (letter in "XY") << qubit
            signs |= (letter in "YZ") << qubit
        parity = np.bitwise_count(index & signs).astype(np.int64) & 1
        term = coefficient * 1j ** (pauli.count("Y") % 4) * (1 - 2 * parity)
        weights[flips] = weights.get(flips, 0) + term
    return weights
