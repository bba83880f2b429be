"""Batches of small circuits: one circuit for any number of sets of parameters, in one compiled call.

The engine comes here with tasks for which ``batch_plan.is_small`` holds, be it for one set or for a million. What a
set gives, its shots included, is what it would give alone: it depends on the seed, the set's number and its values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qsimenv import formula
from qsimenv.circuit import Circuit, Gate, Measure
from qsimenv.errors import InvalidArgumentError
from qsimenv.statevec.batches import batch_numba as kernels
from qsimenv.statevec.batches.batch_plan import Table, kept, read_out, tabulate
from qsimenv.statevec.batches.vectors_numba import LANES
from qsimenv.statevec.encoding.rows import REAL_TYPE
from qsimenv.statevec.measuring.sampling import EVENT_OF_FIRST_CHUNK
from qsimenv.statevec.pinning_numba import pin_helpers
from qsimenv.statevec.planning.program import lower
from qsimenv.statevec.shares_numba import shares_of
from qsimenv.statevec.threads_numba import launcher
from qsimenv.task import Precision, Result, Task

_PARALLEL_FROM = 1 << 20
"""Vectors of amplitudes to work on, from which starting threads pays: some three milliseconds of work."""
_LARGEST_MATRIX = 32

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Prepared:
    """A circuit in the terms of the kernel, with ``lanes`` sets side by side."""

    table: Table
    lanes: int
    arrays: tuple[np.ndarray, ...]
    sizes: tuple[int, int, int]


@dataclass(frozen=True)
class _Bins:
    """Outcomes of the measurements at the end: the bin of each index, and the classical bits of each bin as bytes."""

    bin_of: _Ints
    outcomes: npt.NDArray[np.uint8]


def run(task: Task, values: _Floats, seed: int, first_set: int, threads_here: Callable[[], int]) -> Result:
    """Run a small circuit for ``values`` of shape (B, P), numbered from ``first_set`` on. *Local.* Uses up to
    ``threads_here()`` threads.

    All arrays of the result have a leading axis B; its metadata say how many threads there were. Raises
    InvalidArgumentError where an angle is not a finite number. Cost: some microseconds, and about
    2**num_qubits / 4 nanoseconds a gate and set.
    """
    circuit = task.circuit
    prepared = _prepare(circuit, task.precision)
    room = room_for(task, len(values))
    inputs = (_with_formulas(values, prepared.table), _entries(prepared.table.matrices, values), first_set)
    readout = read_out(circuit, task.observables, prepared.lanes)
    bins = bins_of(task)
    draw = (bins.bin_of, bins.outcomes, np.uint64(seed), np.uint64(EVENT_OF_FIRST_CHUNK))
    groups = -(-len(values) // prepared.lanes)
    work = groups * (len(prepared.table.rows) + len(readout.rows)) + len(values) * (task.shots or 0)
    threads = min(groups, threads_here()) if work >= _PARALLEL_FROM else 1
    if threads > 1:
        pin_helpers(threads)
    finite = np.empty(threads, dtype=np.bool_)
    kernels.run_groups(
        launcher(threads), threads, shares_of(groups, threads), prepared.arrays, inputs,
        (readout.terms, readout.rows, readout.weights), draw, prepared.sizes,
        (*room, finite),
    )  # fmt: skip
    if not all(finite.tolist()):
        _complain(circuit, values)
    return result_of(task, room, threads)


@kept
def _prepare(circuit: Circuit, precision: Precision) -> _Prepared:
    real_type = REAL_TYPE[precision]
    lanes = LANES[np.dtype(real_type).itemsize]
    table = tabulate(circuit, lanes)
    angles, constants = table.angles, table.constants.astype(real_type)
    forms = (angles.starts, angles.columns, angles.factors, angles.offsets)
    sizes = (lanes, table.num_coefficients, 2 * min(_LARGEST_MATRIX, 1 << table.num_qubits))
    return _Prepared(table, lanes, (table.instructions, table.rows, table.row_of, constants, *forms), sizes)


_NO_BINS = _Bins(np.zeros(0, dtype=np.int32), np.zeros((0, 1), dtype=np.uint8))


class Room(NamedTuple):
    """The arrays of a result, with an axis for the sets; those of no length are not asked for."""

    expectation_values: _Floats
    samples: npt.NDArray[np.uint8]
    statevector: npt.NDArray[np.complexfloating]


def room_for(task: Task, num_sets: int) -> Room:
    """Room for what is asked for."""
    circuit = task.circuit
    num_bytes = max(1, (circuit.num_clbits + 7) // 8)
    amplitudes = 1 << circuit.num_qubits if task.save else 0
    return Room(
        np.empty((num_sets, len(task.observables))),
        np.empty((num_sets, task.shots or 0, num_bytes), dtype=np.uint8),
        np.empty((num_sets, amplitudes), dtype=np.complex128 if task.precision == "double" else np.complex64),
    )


def result_of(task: Task, room: Room, threads: int) -> Result:
    """What is asked for as a result. Its metadata say how many threads there were."""
    return Result(
        expectation_values=room.expectation_values if task.observables else None,
        samples=room.samples if task.shots is not None else None,
        statevector=room.statevector if task.save else None,
        metadata={"threads": threads},
    )


def _with_formulas(values: _Floats, table: Table) -> _Floats:
    """The values with a column more for each formula that is not linear; contiguous and writable, as compiled for."""
    formulas = table.angles.formulas
    if formulas:
        with np.errstate(all="ignore"):
            more = [np.broadcast_to(formula.evaluate(text, values), len(values)) for text in formulas]
        return np.column_stack([values, *more])
    if values.flags.c_contiguous and values.flags.writeable:
        return values
    return np.array(values)


def _entries(gates: Sequence[Gate], values: _Floats) -> _Floats:
    """The entries of matrices that have no turns, shape (B, numbers)."""
    if not gates:
        return np.zeros((1, 0))
    each = [[gate.base_matrix(row).reshape(-1) for gate in gates] for row in values]
    return np.array([np.concatenate(matrices) for matrices in each]).view(np.float64)


def bins_of(task: Task) -> _Bins:
    """Those of a task with shots; arrays of no length for others."""
    circuit = task.circuit
    if not task.shots:
        return _NO_BINS
    return _bins(lower(circuit).final_measures, circuit.num_qubits, circuit.num_clbits)


@lru_cache(maxsize=256)
def _bins(finals: tuple[Measure, ...], num_qubits: int, num_clbits: int) -> _Bins:
    qubits = sorted({measure.qubit for measure in finals})
    index = np.arange(1 << num_qubits)
    values = np.arange(1 << len(qubits))
    bin_of = sum(((index >> qubit & 1) << k for k, qubit in enumerate(qubits)), np.zeros_like(index))
    num_bytes = max(1, (num_clbits + 7) // 8)
    outcomes = np.zeros((len(values), num_bytes), dtype=np.uint8)
    for measure in finals:
        bits = (values >> qubits.index(measure.qubit) & 1) << measure.clbit % 8
        outcomes[:, num_bytes - 1 - measure.clbit // 8] |= bits.astype(np.uint8)
    return _Bins(bin_of.astype(np.int32), outcomes)


def _complain(circuit: Circuit, values: _Floats) -> None:
    """Raise for the first angle that is not a number."""
    for gate in (each for each in circuit.instructions if isinstance(each, Gate)):
        for text in gate.params:
            with np.errstate(all="ignore"):
                angles = np.broadcast_to(formula.evaluate(text, values), len(values))
            for angle in angles[~np.isfinite(angles)][:1]:
                raise InvalidArgumentError(f"gate {gate.name}: {text!r} is {angle} for these parameters, not a number")
    raise InvalidArgumentError("run: an angle is not a finite number for these parameters")
