"""Checkpoints: what one costs beside `dd` of as many bytes, and whether a killed run ends as an undisturbed one.

    python -m benchmarks checkpoint [--qubits 26] [--sweeps 60] [--folder .]

A run over two ranks is killed (SIGKILL) after two thirds of its sweeps and gone on with on four ranks and on one. Costs
are medians: of the checkpoints of those runs, synced, and of `dd conv=fsync` in the same folder just before and after.
The promises: a checkpoint costs at most twice what dd takes, and the states agree to 1e-12.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.machine import save
from qsimenv import comm, engines
from qsimenv.checkpoints import Checkpointing, Every
from qsimenv.circuit import Circuit, Gate, gate
from qsimenv.statevec.kernels.sweep_numba import block_bits
from qsimenv.statevec.planning.planner import plan_from_zero
from qsimenv.task import task

MOST_COST, MOST_DIFFERENCE = 2.0, 1e-12
RANKS, RESUMED_ON = 2, (4, 1)
DD_BLOCK = 16 << 20


def circuit(num_qubits: int, sweeps: int) -> Circuit:
    """Layers of random turns and CX rings, so many that a plan for two ranks has ``sweeps`` sweeps."""
    random, gates = np.random.default_rng(3), list[Gate]()
    num_local = num_qubits - 1
    while True:
        gates += [gate("u", q, params=[float(a) for a in random.uniform(-3, 3, 3)]) for q in range(num_qubits)]
        gates += [gate("cx", q, (q + 1) % num_qubits) for q in range(num_qubits)]
        plan = plan_from_zero(gates, num_qubits, num_local, block_bits(num_local, 1))
        if plan.num_sweeps >= sweeps:
            return Circuit(num_qubits, 0, tuple(gates), name="layers")


def on_rank(options: argparse.Namespace) -> None:
    """What each rank does; rank 0 dies where it is told to."""
    team = comm.world()

    def progress(done: int, _: int | None) -> None:
        if done == options.kill:
            os.kill(os.getpid(), signal.SIGKILL)

    every = Every(sweeps=options.every) if options.every else Every(seconds=1e9)
    checkpointing = Checkpointing(Path(options.checkpoint), every, tell=lambda line: print(line, flush=True))
    made = task(circuit(options.qubits, options.sweeps), save=options.state, seed=1)
    result = engines.run(made, team, engines.Watch(progress, checkpointing))
    if team.rank == 0:
        print(json.dumps({"written_s": checkpointing.written_s, **result.metadata}))


def launch(ranks: int, options: argparse.Namespace, *words: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "mpirun"), "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
    command += [sys.executable, "-m", "benchmarks", "checkpoint", "--on-rank", "--qubits", str(options.qubits)]
    environ = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command += ["--sweeps", str(options.sweeps), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=environ)


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def dd_s(folder: Path, num_bytes: int) -> float:
    """Seconds that dd takes to write so many bytes and sync them."""
    file = folder / "dd"
    began = time.perf_counter()
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={file}", f"bs={DD_BLOCK}", f"count={num_bytes // DD_BLOCK}", "conv=fsync"],
        check=True, capture_output=True,
    )  # fmt: skip
    took = time.perf_counter() - began
    file.unlink()
    return took


def largest_difference(one: Path, other: Path) -> float:
    """Between the numbers of two saved states, piece by piece."""
    worst, step = 0.0, 1 << 22
    with h5py.File(one, "r") as a, h5py.File(other, "r") as b:
        for name in ("re", "im"):
            for start in range(0, len(a[name]), step):
                piece = slice(start, start + step)
                worst = max(worst, float(np.abs(a[name][piece] - b[name][piece]).max()))
    return worst


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    num_bytes = 16 << options.qubits
    plain = last_line(launch(RANKS, options, "--checkpoint", folder / "none", "--state", folder / "plain.h5"))
    dd = [dd_s(folder, num_bytes) for _ in range(3)]
    every = ("--every", options.sweeps // 6, "--checkpoint", folder / "all")
    full = last_line(launch(RANKS, options, *every, "--state", folder / "full.h5"))
    dd += [dd_s(folder, num_bytes) for _ in range(3)]
    kill = ("--every", options.sweeps // 6, "--checkpoint", folder / "killed", "--kill", 2 * plain["sweeps"] // 3)
    if launch(RANKS, options, *kill, "--state", folder / "killed.h5").returncode == 0:
        sys.exit("benchmarks: the run that was to be killed was not")
    differences, one_rank = {}, []
    for ranks in RESUMED_ON:
        shutil.copytree(folder / "killed", folder / "copy")
        words = ("--every", options.sweeps // 6, "--checkpoint", folder / "copy", "--state", folder / "resumed.h5")
        done = last_line(launch(ranks, options, *words))
        one_rank = done["written_s"]
        differences[ranks] = largest_difference(folder / "plain.h5", folder / "resumed.h5")
        shutil.rmtree(folder / "copy")
    cost, dd_median = statistics.median(full["written_s"]), statistics.median(dd)
    return {
        "qubits": options.qubits,
        "sweeps": plain["sweeps"],
        "sweeps_with_checkpoints": full["sweeps"],
        "state_gib": num_bytes / 2**30,
        "dd_s": [round(each, 3) for each in dd],
        "checkpoint_s_2_ranks": [round(each, 3) for each in full["written_s"]],
        "checkpoint_s_1_rank": [round(each, 3) for each in one_rank],
        "cost_in_dd": round(cost / dd_median, 3),
        "cost_in_dd_1_rank": round(statistics.median(one_rank) / dd_median, 3) if one_rank else None,
        "promised_cost": MOST_COST,
        "largest_difference": differences,
        "promised_difference": MOST_DIFFERENCE,
    }


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qubits", type=int, default=26)
    parser.add_argument("--sweeps", type=int, default=60)
    parser.add_argument("--folder", default=".", help="where to write; about five states of room")
    for name in ("--checkpoint", "--state"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--every", "--kill"):
        parser.add_argument(name, type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--on-rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.on_rank:
        on_rank(options)
        return {}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="checkpoint-") as folder:
        figures = measure(options, Path(folder))
    kept = figures["cost_in_dd"] <= MOST_COST and max(figures["largest_difference"].values()) <= MOST_DIFFERENCE
    worst = max(figures["largest_difference"].values())
    print(
        f"{options.qubits} qubits, {figures['sweeps']} sweeps: a checkpoint over {RANKS} ranks costs "
        f"{figures['cost_in_dd']:.2f} x dd ({statistics.median(figures['dd_s']):.2f} s; promise {MOST_COST:g}); "
        f"killed and resumed, states differ by {worst:.1e} at most (promise {MOST_DIFFERENCE:g}): "
        f"{'kept' if kept else 'BROKEN'}"
    )
    save("checkpoint", figures)
    return figures
