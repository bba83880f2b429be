"""Small circuits gate by gate: one state, all gates, what is asked of it.

``running`` comes here with one set of values for which ``listing.is_gatewise`` holds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from qsimenv.statevec.batches.batch import bins_of, result_of, room_for
from qsimenv.statevec.batches.batch_plan import Readout, readout_of
from qsimenv.statevec.gatewise import gates_numba as kernels
from qsimenv.statevec.gatewise.applying import apply
from qsimenv.statevec.gatewise.lines_numba import LANES
from qsimenv.statevec.gatewise.listing import listed
from qsimenv.statevec.measuring.sampling import EVENT_OF_FIRST_CHUNK
from qsimenv.task import Observable, Result, Task


def run(task: Task, seed: int, go_on: Callable[[int, int], None]) -> Result:
    """Run a circuit without parameters. *Local.* Long ones call ``go_on(gates done, all gates)`` some times a second.

    The arrays of the result have a leading axis of length 1, as ``batch.run`` has them. Cost: some tens of microseconds
    and, a gate, about one (listed once) and 2**num_qubits / 4 nanoseconds.
    """
    circuit = task.circuit
    re, im = np.zeros((2, max(LANES, 1 << circuit.num_qubits)))
    re[0] = 1
    apply(listed(circuit), re, im, go_on)
    room = room_for(task, 1)
    if task.save:
        size = 1 << circuit.num_qubits
        room.statevector[0].real, room.statevector[0].imag = re[:size], im[:size]
    if task.observables or task.shots:
        readout, bins = _readout(circuit.num_qubits, task.observables), bins_of(task)
        draw = (
            _rows(circuit.num_qubits), bins.bin_of, bins.outcomes, np.uint64(seed), np.uint64(EVENT_OF_FIRST_CHUNK), 0,
        )  # fmt: skip
        read = (readout.terms, readout.rows, readout.weights)
        kernels.read(re, im, read, draw, room.expectation_values[0], room.samples[0])
    return result_of(task, room, threads=1)


@lru_cache(maxsize=16)
def _rows(num_qubits: int) -> np.ndarray:
    """Where the amplitude of each index is: there."""
    return np.arange(1 << num_qubits, dtype=np.int32)


@lru_cache(maxsize=64)
def _readout(num_qubits: int, observables: tuple[Observable, ...]) -> Readout:
    return readout_of(_rows(num_qubits), num_qubits, observables)
