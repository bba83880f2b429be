"""The self-test of a machine: a Bell pair on each rank, a GHZ state on the widest team. Pure: tasks and their check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qsimenv.circuit import Circuit, Measure, gate
from qsimenv.errors import QSimEnvError
from qsimenv.qpm_plugin.api import TaskRecord, TaskState
from qsimenv.task import Task

SHOTS = 200


def test_tasks(ranks: int, widest: int) -> tuple[list[Task], list[tuple[int, ...]]]:
    """Tasks, and the ranks that are to run each: ``ranks`` Bell pairs, and a GHZ state on ``widest`` ranks together."""
    tasks = [Task(circuit=ghz(2), shots=SHOTS, seed=rank, name=f"test: rank {rank}") for rank in range(ranks)]
    teams: list[tuple[int, ...]] = [(rank,) for rank in range(ranks)]
    num_qubits = 8 + widest.bit_length()
    tasks.append(Task(circuit=ghz(num_qubits), shots=SHOTS, seed=0, name=f"test: {widest} ranks together"))
    teams.append(tuple(range(widest)))
    return tasks, teams


def ghz(num_qubits: int) -> Circuit:
    """All zeros or all ones, each half of the time."""
    chain = [gate("cx", qubit, qubit + 1) for qubit in range(num_qubits - 1)]
    measures = [Measure(qubit, qubit) for qubit in range(num_qubits)]
    return Circuit(num_qubits, num_qubits, (gate("h", 0), *chain, *measures))


def check_outcomes(records: Sequence[TaskRecord], teams: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """What was measured, for each team. QSimEnvError where a task failed or measured what it cannot have measured."""
    outcomes = []
    for record, team in zip(records, teams, strict=True):
        if record.state != TaskState.DONE or record.result is None:
            reason = record.error.message if record.error else record.state.name
            raise QSimEnvError(f"test: on ranks {list(team)}: {reason}")
        counts = record.result.counts
        if any(len(set(key)) != 1 for key in counts) or not 0.2 * SHOTS < max(counts.values()) < 0.8 * SHOTS:
            raise QSimEnvError(f"test: ranks {list(team)} measured {counts}, about half zeros and half ones is right")
        outcomes.append({"ranks": list(team), "counts": counts, "seconds": record.execution_s})
    return {"ok": True, "teams": outcomes}
