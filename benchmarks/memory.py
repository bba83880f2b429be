"""Peak memory of a state over two ranks: what all ranks together hold above their own interpreters, against the state.

    python -m benchmarks memory [--qubits 26]

The circuit makes the ranks exchange bits, so the exchange buffers count as well. The promise: at most 1.15 states.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import qsimenv as qs
from benchmarks.machine import save
from qsimenv import comm, memory
from qsimenv.circuit import Circuit, Gate, Measure, Register, gate

PROMISE = 1.15


def circuit(num_qubits: int) -> Circuit:
    """H on every qubit, then entangling and mixing gates over all of them, so that every bit must be local once."""
    gates: list[Gate] = [gate("h", qubit) for qubit in range(num_qubits)]
    gates += [gate("cx", qubit, (qubit + 1) % num_qubits) for qubit in range(num_qubits)]
    gates += [gate("ry", qubit, params=[0.1 * (qubit + 1)]) for qubit in range(num_qubits)]
    measures = [Measure(qubit, qubit) for qubit in range(num_qubits)]
    return Circuit(num_qubits, num_qubits, (*gates, *measures), (Register("c", tuple(range(num_qubits))),))


def on_rank(num_qubits: int) -> None:
    """What each rank does: a small run first, so that compiled code and libraries are in the base line."""
    team = comm.world()
    small = circuit(16)
    for _ in range(2):
        qs.run(small, shots=10, seed=1)
    base = memory.peak_bytes()
    result = qs.run(circuit(num_qubits), shots=1000, seed=1)
    above = int(team.sum(np.array([memory.peak_bytes() - base]))[0])
    if team.rank == 0:
        print(above, team.size, result.metadata["exchanges"])


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qubits", type=int, default=26)
    parser.add_argument("--on-rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.on_rank:
        on_rank(options.qubits)
        return {}
    mpirun = Path(sys.executable).parent / "mpirun"
    command = [str(mpirun), "--oversubscribe", "--bind-to", "none", "-n", "2"]
    command += [sys.executable, "-m", "benchmarks", "memory", "--qubits", str(options.qubits), "--on-rank"]
    environ = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True, env=environ)
    above, ranks, exchanges = map(int, done.stdout.split())
    state = 16 << options.qubits
    figures = {
        "qubits": options.qubits,
        "ranks": ranks,
        "exchanges": exchanges,
        "state_gib": state / 2**30,
        "peak_above_interpreter_gib": round(above / 2**30, 4),
        "ratio": round(above / state, 4),
        "promise": PROMISE,
    }
    verdict = "kept" if above < PROMISE * state else "BROKEN"
    print(
        f"{options.qubits} qubits, double precision, {ranks} ranks, {exchanges} exchange(s): "
        f"peak {above / 2**30:.3f} GiB above the interpreters, "
        f"{above / state:.3f} x the state of {state / 2**30:.3g} GiB (promise {PROMISE}: {verdict})"
    )
    save("memory", figures)
    return figures
