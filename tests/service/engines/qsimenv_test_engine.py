"""An engine that does what a task's name says: "sleep 0.3", "hold FILE", "raise", "refuse", "die", "die on 1", "wide".

"hold" ends when the file is there: what is to happen while a task runs happens then, however slow the machine is.

Put this folder on PYTHONPATH, and controller and workers find it as ``engine="test"``. A task on n qubits takes
2**(n - 1) ranks, or as many as there are where it has a classical bit; ``precision="single"`` makes it a small one in
the eyes of the scheduler.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from qsimenv.comm import Team
from qsimenv.engines import Engine
from qsimenv.errors import NotSupportedError, OutOfMemoryError
from qsimenv.task import Estimate, Result, Task


class TestEngine(Engine):
    """See the module."""

    name = "test"

    def estimate(self, task: Task, max_ranks: int, free_bytes_per_rank: int) -> Estimate:
        if task.engine != "test":
            raise NotSupportedError("test: asked for by name only")
        ranks = 1 << (task.circuit.num_qubits - 1)
        if task.circuit.num_clbits:
            ranks = min(ranks, max_ranks)
        if ranks > max_ranks:
            raise OutOfMemoryError(f"run: {ranks} ranks are needed, there are {max_ranks}")
        return Estimate("test", ranks, 1, 0.0001 if task.precision == "single" else 1.0)

    def run(self, task: Task, team: Team) -> Result:
        verb, _, argument = task.name.partition(" ")
        if verb == "sleep":
            time.sleep(float(argument))
        elif verb == "hold":
            while not Path(argument).exists():
                time.sleep(0.01)
        elif verb == "raise":
            raise ValueError("as the task wanted")
        elif verb == "refuse":
            raise NotSupportedError("refused as the task wanted")
        elif verb == "die" and (not argument or int(argument.removeprefix("on ")) == team.rank):
            os.kill(os.getpid(), signal.SIGKILL)
        team.barrier()
        return Result(shots=task.shots, metadata={"engine": "test", "ranks": team.size, "pid": os.getpid()})
