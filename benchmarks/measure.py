"""Samples and expectation values of a state that is there, in units of one sweep over it, on one and on two ranks.

    python -m benchmarks measure [--qubits 26] [--repeats 5]

A sweep turns ten qubits of one block; a pass reads and writes all amplitudes and does no more than that. Drawn are a
million shots of all qubits as integers; the Pauli sums are one of 100 random strings with 10 distinct sets of flipped
qubits, and the terms of a transverse-field Ising chain. All in turn, in one run; minima and medians. The state is
random, in double precision. On two ranks each has one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import save
from qsimenv import arrays, comm
from qsimenv.circuit import gate
from qsimenv.comm import Team
from qsimenv.statevec.encoding.encode import encode
from qsimenv.statevec.kernels import sweep_numba
from qsimenv.statevec.kernels.sweep_numba import block_bits
from qsimenv.statevec.measuring.expectation import expectation_values
from qsimenv.statevec.measuring.sampling import Draw, sample
from qsimenv.statevec.planning.layout import identity
from qsimenv.statevec.planning.planner import make_plan
from qsimenv.statevec.state import State
from qsimenv.statevec.threads import set_threads
from qsimenv.task import Observable, observable

SHOTS = 1_000_000
PROMISES = {"million shots": 4.0, "100 strings": 14.0}
"""Sweeps' time."""


def random_state(num_qubits: int, team: Team) -> State:
    layout = identity(num_qubits, num_qubits - (team.size.bit_length() - 1))
    random = np.random.default_rng(team.rank)
    planes = [arrays.empty(1 << layout.num_local, np.float64) for _ in range(2)]
    for plane in planes:
        random.standard_normal(out=plane)
    norm = np.sqrt(team.sum(np.array([sum(np.vdot(plane, plane) for plane in planes)]))[0])
    for plane in planes:
        np.divide(plane, norm, out=plane)
    return State(planes[0], planes[1], layout, team)


def strings(num_qubits: int) -> Observable:
    random = np.random.default_rng(5)
    flips = [random.integers(2, size=num_qubits) for _ in range(9)] + [np.zeros(num_qubits, dtype=int)]
    words = ["".join(random.choice(list("XY" if flip else "IZ")) for flip in flips[k % 10]) for k in range(100)]
    return observable([(word, float(random.normal())) for word in words])


def ising(num_qubits: int) -> Observable:
    terms = [("I" * k + "ZZ" + "I" * (num_qubits - 2 - k), 1.0) for k in range(num_qubits - 1)]
    return observable(terms + [("I" * k + "X" + "I" * (num_qubits - 1 - k), 1.0) for k in range(num_qubits)])


def on_rank(num_qubits: int, repeats: int) -> dict[str, Any]:
    """Seconds of each, and how many sweeps' time that is: of the medians and of the minima; and passes' time."""
    team, threads = comm.world(), set_threads()
    state = random_state(num_qubits, team)
    plan = make_plan(
        [gate("h", qubit) for qubit in range(10)], state.layout, block_bits(state.layout.num_local, threads)
    )
    assert plan.num_sweeps == 1
    encoded = encode(plan, [], "double")
    draw, qubits = Draw(7, 0, np.arange(SHOTS)), range(num_qubits)
    jobs: dict[str, Callable[[], Any]] = {
        "sweep": lambda: state.run(plan, encoded),
        "pass": lambda: sweep_numba.collapse(state.re, state.im, 63, 0, 1.0),
        "million shots": lambda: sample(state, qubits, draw),
        "100 strings": lambda: expectation_values(state, [strings(num_qubits)]),
        "ising chain": lambda: expectation_values(state, [ising(num_qubits)]),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(repeats + 1):
        for name, job in jobs.items():
            team.barrier()
            began = time.perf_counter()
            job()
            team.barrier()
            if number:  # the first time loads compiled code
                times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(each) for name, each in times.items()}
    minima = {name: min(each) for name, each in times.items()}
    return {
        "ranks": team.size, "threads": threads, "seconds": medians, "least_seconds": minima,
        "sweeps": {name: medians[name] / medians["sweep"] for name in jobs},
        "sweeps_of_minima": {name: minima[name] / minima["sweep"] for name in jobs},
        "passes_of_minima": {name: minima[name] / minima["pass"] for name in jobs},
    }  # fmt: skip


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qubits", type=int, default=26)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--on-rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.on_rank:
        result = on_rank(options.qubits, options.repeats)
        if comm.world().rank == 0:
            print(json.dumps(result))
        return result
    figures: dict[str, Any] = {"qubits": options.qubits, "shots": SHOTS, "promises": PROMISES}
    for ranks in (1, 2):
        figures[f"{ranks} ranks"] = result = _launched(ranks, options)
        shown = [
            f"{name} {result['sweeps'][name]:.2f} ({result['sweeps_of_minima'][name]:.2f}; "
            f"{result['passes_of_minima'][name]:.2f} passes)"
            for name in result["sweeps"] if name not in ("sweep", "pass")
        ]  # fmt: skip
        least = result["least_seconds"]
        print(
            f"{ranks} rank(s): a sweep {least['sweep'] * 1e3:.1f} ms, a pass {least['pass'] * 1e3:.1f} ms; "
            f"sweeps' time (of minima): {', '.join(shown)}"
        )
    save("measure", figures)
    return figures


def _launched(ranks: int, options: argparse.Namespace) -> dict[str, Any]:
    mpirun = Path(sys.executable).parent / "mpirun"
    command = [sys.executable, "-m", "benchmarks", "measure", "--on-rank"]
    command += ["--qubits", str(options.qubits), "--repeats", str(options.repeats)]
    if ranks > 1:
        command = [str(mpirun), "--oversubscribe", "--bind-to", "none", "-n", str(ranks), *command]
    environ = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True, env=environ)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result
