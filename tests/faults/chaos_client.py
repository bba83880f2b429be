"""A client of the chaos test: ``python chaos_client.py CONNECTION FIRST COUNT OUT`` runs tasks of the seeds FIRST on.

It submits them in requests of different sizes, reads what has ended in between by count, and runs some synchronously.
OUT gets one line of JSON a task: seed, task id, state, counts. It knows nothing of what is being killed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import qsimenv as qs
from qsimenv.circuit import Circuit, Measure, Register, gate
from qsimenv.qpm_plugin.client import Client, connect

PATIENCE_S = 150.0
SIZES = (1, 40, 7, 2, 90, 10)
SHOTS = 100


def circuit_of(seed: int) -> Circuit:
    """Mostly small ones, some that take a while."""
    num_qubits = 20 if seed % 25 == 0 else 2 + seed % 9
    gates = [gate("h", 0), *(gate("cx", qubit, qubit + 1) for qubit in range(num_qubits - 1))]
    gates += [gate("ry", qubit, params=(0.1 * (seed % 7 + qubit),)) for qubit in range(num_qubits)]
    measures = [Measure(qubit, qubit) for qubit in range(num_qubits)]
    return Circuit(num_qubits, num_qubits, (*gates, *measures), (Register("c", tuple(range(num_qubits))),))


def task_of(seed: int) -> qs.Task:
    return qs.Task(circuit_of(seed), shots=SHOTS, seed=seed, name=str(seed))


def work(qpm: Client, first: int, count: int, out: Path) -> None:
    seeds = iter(range(first, first + count))
    waiting = 0
    turn = 0
    with out.open("w", encoding="utf-8") as file:
        while batch := [seed for _, seed in zip(range(SIZES[turn % len(SIZES)]), seeds, strict=False)]:
            turn += 1
            if len(batch) == 1:
                counts = qpm.sync_run(task_of(batch[0])).counts
                file.write(json.dumps([batch[0], "", "DONE", counts]) + "\n")
                continue
            ids = qpm.async_run([task_of(seed) for seed in batch])
            assert len(set(ids)) == len(batch)
            waiting += len(ids)
            if waiting > 100:
                waiting -= take(qpm, waiting // 2, file)
        take(qpm, waiting, file)


def take(qpm: Client, count: int, file: object) -> int:
    for record in qpm.read_cq(count=count):
        counts = None if record.result is None else record.result.counts
        line = [int(record.name), record.task_id, record.state.name, counts]
        print(json.dumps(line), file=file)  # type: ignore[call-overload]
    return count


if __name__ == "__main__":
    with connect(sys.argv[1], timeout_s=PATIENCE_S) as client:
        work(client, int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
