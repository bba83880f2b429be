"""Every kernel once, so that no later run has to compile: ``qsimenv doctor --compile`` calls this.

Which kernels there are is not written down here: small tasks of each kind are run as users run them, with one thread
and with several, and whatever they call is compiled with the very types that it is called with. Kernels that no task
reached are named, so that a test can tell when a new one needs a task of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import get_args

import numpy as np

from qsimenv.circuit import Circuit, Gate, Instruction, Measure, Reset, gate
from qsimenv.comm import Team
from qsimenv.statevec.encoding.rows import REAL_TYPE
from qsimenv.statevec.engine import StateVectorEngine, gradient
from qsimenv.statevec.kernel_cache import is_kept, kernels
from qsimenv.statevec.kernels import slots_numba
from qsimenv.statevec.kernels.lanes_numba import HAS_VECTORS
from qsimenv.statevec.measuring import pauli_numba, sampling_numba, weights_numba
from qsimenv.statevec.measuring.sampling import Draw, sample
from qsimenv.statevec.planning.layout import identity
from qsimenv.statevec.state import State
from qsimenv.task import Precision, Task, task

_SMALL, _ONE_THREAD, _MANY_THREADS = 4, 14, 19
"""Qubits: a batch in vector lanes, a state too small for threads, and one that is worth them."""
_MANY_SHOTS = 100_000
_CHUNKS = (10, 6, 3)
"""Qubits of each chunk of a draw in three chunks, as states of many ranks have it."""
_LEFT_OUT = ("move_numbers" if HAS_VECTORS else "move_lines",)
"""What moves numbers on processors of another kind."""
_MANY_ROWS = 200_000


def rehearse(precisions: Sequence[Precision] = get_args(Precision)) -> list[str]:
    """Load or compile every kernel. Returns the names of those that nothing called in any process so far. *Local.*"""
    for precision in precisions:
        with _threads(1):
            _run_all(precision)
        _run_all(precision)
    unreached = [kernel.py_func.__name__ for kernel in kernels if not is_kept(kernel)]
    return [name for name in unreached if name not in _LEFT_OUT]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def _run_all(precision: Precision) -> None:
    """Two processes, each with a precision, begin at both ends: what both need is compiled by whoever comes first."""
    engine, alone = StateVectorEngine(), Team()

    def run_tasks() -> None:
        for made in _tasks(precision):
            engine.run(made, alone)

    def differentiate() -> None:
        for made in _differentiated(precision):
            gradient(made, alone)

    def work_with_others() -> None:
        for num_bits in (8, _MANY_THREADS):
            _exchange(num_bits, REAL_TYPE[precision])
        _share(precision)

    steps = (run_tasks, differentiate, work_with_others)
    for step in steps if precision == "double" else steps[::-1]:
        step()


def _tasks(precision: Precision) -> Iterator[Task]:
    """Shots, observables and amplitudes, for one set of parameters and for many; measurement and reset on the way."""
    for num_qubits in (_SMALL, _ONE_THREAD, _MANY_THREADS):
        gates, measures = _gates(num_qubits), tuple(map(Measure, range(num_qubits), range(num_qubits)))
        final = Circuit(num_qubits, num_qubits, (*gates, *measures), parameters=("angle",))
        some = Circuit(num_qubits, num_qubits, (*gates, *measures[::-2]), parameters=("angle",))
        mixed: list[Instruction] = [*gates, Measure(0, 0), Reset(1), *gates, *measures]
        branching = Circuit(num_qubits, num_qubits, tuple(mixed), parameters=("angle",))
        observables = ["Z" * num_qubits, "X" + "Y" * (num_qubits - 1)]
        for rows in (1, _MANY_ROWS) if num_qubits == _SMALL else (1,):
            values = np.linspace(0, 1, rows)[:, None]
            yield task(final, parameters=values, shots=10, seed=1, precision=precision)
            yield task(final, parameters=values, observables=observables, precision=precision)
            yield task(final, parameters=values[:9], save="statevector", precision=precision)
        for measured in (final, some):
            yield task(measured, parameters=[0.1], shots=_MANY_SHOTS, seed=1, precision=precision)
        if num_qubits == _SMALL and precision == "double":  # gate by gate there is no other
            plain = Circuit(num_qubits, num_qubits, (gate("h", 0), *measures))
            yield task(plain, observables=observables, shots=10, seed=1)
        yield task(branching, parameters=[0.1], shots=10, seed=1, precision=precision)


def _differentiated(precision: Precision) -> Iterator[Task]:
    """Strings of all kinds, over low and high qubits."""
    for num_qubits in (_ONE_THREAD, _MANY_THREADS):
        circuit = Circuit(num_qubits, 0, _gates(num_qubits), parameters=("angle",))
        letters = "Z" * (num_qubits - 2)
        observable = {f"{letters}XY": 0.5, f"XY{letters}": 0.3, f"I{letters}Z": 1.0}
        yield task(circuit, parameters=[0.1], observables=observable, precision=precision)


def _gates(num_qubits: int) -> tuple[Gate, ...]:
    turns = [gate("rx", qubit, params=["p0"]) for qubit in range(num_qubits)]
    fused = [gate(name, 0, 1, params=[0.3]) for name in ("rxx", "ryy")]
    return (*turns, *(gate("cx", qubit, qubit + 1) for qubit in range(num_qubits - 1)), *fused, *turns)


def _exchange(num_bits: int, real: type[np.floating]) -> None:
    """What an exchange with another rank would call."""
    plane, positions = np.zeros(1 << num_bits, dtype=real), np.array([num_bits - 2])
    piece = np.zeros(1 << (num_bits - 1), dtype=real)
    offsets = slots_numba.offsets_for(positions.tolist(), len(piece))
    slots_numba.pack(plane, positions, offsets, 0, 0, piece)
    slots_numba.unpack(plane, positions, offsets, 0, 0, piece)
    slots_numba.keep_slot(plane, positions, 0, 1 << (num_bits - 2))


def _share(precision: Precision) -> None:
    """What sampling and Pauli sums with other ranks would call: chunks in between, parts of weights, small pieces."""
    state = State.zero(identity(_MANY_THREADS, _MANY_THREADS), Team(), precision)
    state.re[:] = 1
    shots = np.arange(_MANY_SHOTS)
    sample(state, range(_MANY_THREADS), Draw(1, 0, shots), _CHUNKS)
    rows = np.zeros((1, 4))
    weights_numba.spread(np.zeros((1, 2)), np.arange(2), rows, 2)
    spans, numbers, drawn = np.array([[0, len(shots)]]), np.zeros(len(shots)), np.zeros(len(shots), dtype=np.uint16)
    sampling_numba.search(rows + 1, spans, shots, numbers, drawn)
    few = np.zeros(4, dtype=REAL_TYPE[precision])
    pauli_numba.pauli_sums(few, few, few, few, 0, 0, np.zeros((1, 4), np.int64), np.zeros(1, np.int64), True)
