"""What tests/faults/test_checkpoint starts, on any number of ranks: a run with checkpoints that dies where it is told.

    python checkpointed.py FOLDER STATE [sweep N | sync N]

``sweep N``: SIGKILL after sweep N. ``sync N``: SIGKILL instead of the N-th fsync, which is in the midst of writing.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np

from qsimenv import comm, engines
from qsimenv.checkpoints import Checkpointing, Every
from qsimenv.circuit import Circuit, Gate, gate
from qsimenv.task import task

QUBITS = 20
EVERY_SWEEPS = 9


def circuit(num_qubits: int, layers: int) -> Circuit:
    """Layers of turns and entangling gates."""
    random = np.random.default_rng(3)
    gates: list[Gate] = []
    for _ in range(layers):
        gates += [gate("u", q, params=[float(a) for a in random.uniform(-3, 3, 3)]) for q in range(num_qubits)]
        gates += [gate("cx", q, (q + 1) % num_qubits) for q in range(num_qubits)]
    return Circuit(num_qubits, 0, tuple(gates), name="layers")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder: str, state: str, what: str = "", number: str = "0") -> None:
    team, left, sync = comm.world(), int(number), os.fsync

    def progress(done: int, _: int | None) -> None:
        if what == "sweep" and done == left:
            die()

    def syncing(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            die()
        sync(descriptor)

    if what == "sync":
        os.fsync = syncing
    checkpointing = Checkpointing(Path(folder), Every(sweeps=EVERY_SWEEPS), tell=lambda line: print(line, flush=True))
    made = task(circuit(QUBITS, 30), save=state, seed=1)
    result = engines.run(made, team, engines.Watch(progress, checkpointing))
    if team.rank == 0:
        print(f"done after {result.metadata['sweeps']} sweeps")


if __name__ == "__main__":
    main(*sys.argv[1:])
