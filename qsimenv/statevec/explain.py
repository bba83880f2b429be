"""The plan of a task as text, for people: ``qsimenv run --explain``. Makes plans and touches no state."""

from __future__ import annotations

from qsimenv.statevec.engine import readable, usable_ranks
from qsimenv.statevec.plan import choose_start, make_plan
from qsimenv.statevec.program import lower
from qsimenv.statevec.state import BLOCK_BITS
from qsimenv.task import AMPLITUDE_BYTES, Task


def explain(task: Task, max_ranks: int) -> str:
    """Stages, sweeps and ops of every segment on the ranks that could share the state, with the bytes they move."""
    circuit = task.circuit
    ranks = usable_ranks(circuit, 1 << (max_ranks.bit_length() - 1))
    num_local = circuit.num_qubits - (ranks.bit_length() - 1)
    program = lower(circuit)
    lines = [
        f"{circuit.num_qubits} qubits in {task.precision} precision on {ranks} rank(s): "
        f"{readable(AMPLITUDE_BYTES[task.precision] << num_local)} each; "
        f"{len(program.final_measures)} measurements drawn at the end, {len(program.segments)} segment(s) of gates"
    ]
    for number, segment in enumerate(program.segments):
        plan = make_plan(segment, choose_start(segment, circuit.num_qubits, num_local), BLOCK_BITS[task.precision])
        sent = readable(plan.bytes_exchanged(AMPLITUDE_BYTES[task.precision]))
        lines.append(f"segment {number}, {sent} sent by each rank: {plan}")
    return "\n".join(lines)
