"""What a task asks of its ranks: bytes, seconds, and how many ranks can share its state.

The engine estimates with it before a task is accepted, and chooses by it how a task is run; where nothing fits,
``refusal`` says what would. Pure, but for the rates and the threads of this machine.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import msgspec

from qsimenv.circuit import Circuit, Gate, walk
from qsimenv.statevec.batches.batch_plan import is_small
from qsimenv.statevec.costs import rates
from qsimenv.statevec.costs.cost import Machine, kinds_of, rough_s
from qsimenv.statevec.gatewise.listing import is_gatewise, is_narrow
from qsimenv.statevec.planning.steps import mixed_qubits
from qsimenv.statevec.threads import default_threads
from qsimenv.task import AMPLITUDE_BYTES, WHOLE, Task
from qsimenv.wording import plural, readable

MAX_QUBITS = 60
OVERHEAD_BYTES = 64 << 20
"""Exchange buffers, scratch blocks and tables beside the planes."""
_SMALL_SECONDS, _SMALL_SECONDS_A_ROW = 3e-5, 1e-9
"""Of a small circuit: for the call, and for each amplitude of each gate."""
_GATEWISE_SECONDS_A_GATE, _GATEWISE_SECONDS_A_ROW = 1.5e-6, 3e-10
"""The same of one without parameters, to list each gate and to do it."""


def usable_ranks(circuit: Circuit, ranks: int) -> int:
    """How many of ``ranks`` can share the state: every gate must find the qubits it mixes in one rank's memory."""
    if ranks == 1:
        return 1
    reach = max((len(mixed_qubits(i)) for i in walk(circuit.instructions) if isinstance(i, Gate)), default=0)
    while ranks > 1 and circuit.num_qubits - (ranks.bit_length() - 1) < max(reach, 1):
        ranks //= 2
    return ranks


def num_rows(task: Task) -> int:
    """Sets of parameter values."""
    return task.batch_shape[0] if task.batch_shape else 1


def bytes_per_rank(task: Task, ranks: int) -> int:
    """Of each of so many ranks that share the state of a row, with the results of all rows."""
    state = (AMPLITUDE_BYTES[task.precision] << task.circuit.num_qubits) // ranks
    whole = AMPLITUDE_BYTES[task.precision] << task.circuit.num_qubits if task.save == WHOLE else 0
    return state + state // 8 + 3 * whole + 2 * result_bytes(task) + OVERHEAD_BYTES


def result_bytes(task: Task) -> int:
    """The arrays of the result for all rows."""
    amplitudes = AMPLITUDE_BYTES[task.precision] << task.circuit.num_qubits if task.save == WHOLE else 0
    samples = (task.shots or 0) * -(-task.circuit.num_clbits // 8)
    return num_rows(task) * (amplitudes + samples + 8 * len(task.observables))


def seconds(task: Task, ranks: int, fits_one: bool) -> float:
    """Of all rows: run apart on the ranks where there are enough and their states fit, else one after the other."""
    runs = num_rows(task)
    if fits_one and runs >= ranks:
        return -(-runs // ranks) * seconds_a_run(task, 1)
    return runs * seconds_a_run(task, ranks)


def seconds_a_run(task: Task, ranks: int) -> float:
    """A guess from the gates and the rates of this machine, with some microseconds a gate for deciding."""
    kinds = _kinds(task.circuit)
    rows, drawing = kinds.total() << task.circuit.num_qubits, 1e-8 * (task.shots or 0)
    if num_rows(task) == 1 and (is_gatewise(task.circuit) or (ranks == 1 and is_narrow(task.circuit))):
        return _SMALL_SECONDS + _GATEWISE_SECONDS_A_GATE * kinds.total() + _GATEWISE_SECONDS_A_ROW * rows + drawing
    if is_batch(task):
        return _SMALL_SECONDS / num_rows(task) + _SMALL_SECONDS_A_ROW * rows + drawing
    num_local = task.circuit.num_qubits - (ranks.bit_length() - 1)
    machine = Machine(rates.load(), default_threads())
    return 1e-4 + kinds.total() * 1e-6 + rough_s(kinds, num_local, task.precision, machine)


def is_batch(task: Task) -> bool:
    """Whether all its rows are run in one compiled call, where that is the CPU's."""
    if is_small(task.circuit) or (num_rows(task) == 1 and is_gatewise(task.circuit)):
        return True
    num_terms = sum(len(each.terms) for each in task.observables)
    return is_small(task.circuit, num_rows(task), num_terms, task.shots)


@lru_cache(maxsize=256)
def _kinds(circuit: Circuit) -> Counter[tuple[int, bool]]:
    return kinds_of(each for each in walk(circuit.instructions) if isinstance(each, Gate))


def refusal(task: Task, ranks: int, free: int) -> str:
    """What was asked for, what there is, and at which number of ranks or precision it would fit."""
    qubits = task.circuit.num_qubits
    total = AMPLITUDE_BYTES[task.precision] << qubits
    if qubits > MAX_QUBITS:
        return f"run: {qubits} qubits found, a state vector has at most {MAX_QUBITS}; use another engine"
    needed = ranks
    while bytes_per_rank(task, needed) > free and needed < 1 << qubits:
        needed *= 2
    single = msgspec.structs.replace(task, precision="single")
    advice = f"use {needed} ranks like these"
    if task.precision == "double" and bytes_per_rank(single, ranks) <= free:
        advice += " or precision='single'"
    if task.save == WHOLE:
        advice += ", or do not ask for the whole statevector on every rank"
    return (
        f"run: {qubits} qubits in {task.precision} precision need {readable(total)}, "
        f"{plural(ranks, 'rank')} found with {readable(free)} free each; {advice}"
    )
