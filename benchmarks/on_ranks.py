"""For the benchmarks of ranks: an MPI job of this package on this machine, and the time of one run on a team."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from qsimenv.circuit import Circuit
from qsimenv.comm import Team
from qsimenv.statevec.simulate import Run, forget_prepared, prepare
from qsimenv.statevec.state import Work
from qsimenv.task import Precision


def launch(module: str, ranks: int, arguments: list[str], threads: int = 1, timeout_s: float = 3600) -> list[Any]:
    """Run ``python -m module arguments`` on so many ranks; the objects that it printed as lines of JSON."""
    mpirun = Path(sys.executable).parent / "mpirun"
    command = [str(mpirun), "--oversubscribe", "--bind-to", "none", "-n", str(ranks), sys.executable, "-m", module]
    environ = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environ |= dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    if ranks > len(os.sched_getaffinity(0)):
        environ["OMPI_MCA_mpi_yield_when_idle"] = "1"
    done = subprocess.run(
        [*command, *arguments], stdout=subprocess.PIPE, text=True, timeout=timeout_s, check=True, env=environ
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def final_state(circuit: Circuit, team: Team, precision: Precision) -> tuple[float, Work]:
    """Seconds from the circuit to its final state, planned anew, and what was done. *Collective* over ``team``."""
    forget_prepared()
    work = Work()
    team.barrier()
    began = time.perf_counter()
    prepared = prepare(circuit, circuit.num_qubits - (team.size.bit_length() - 1), precision)
    Run(prepared, team, np.zeros(0), 0, 0, 0, 0, work).final_state()
    team.barrier()
    return time.perf_counter() - began, work
