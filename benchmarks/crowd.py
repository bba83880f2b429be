"""A thousand workers: how many ranks one controller keeps busy. The controller is real, its workers are imitated.

    python -m benchmarks crowd [--ranks 1000] [--task-ms 50] [--seconds 15]

A controller with its journal serves workers that speak the real protocol over connections of their own, encrypted, but
sleep instead of simulating: coroutines in a few processes of this machine, whose time they take, too. Tasks that are
estimated, and last, as long as asked for wait in a queue that does not run empty. What is kept: the share of the ranks'
time spent in tasks; the controller's CPU time a task (of all its threads, and of the one that runs Python, which
bounds it); and from that the number of ranks at which one controller would have no time left, while it runs what was
submitted before, and where the same tasks are submitted and read meanwhile, too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

import qsimenv as qs
from benchmarks.circuits import hea, measured
from benchmarks.crowd_workers import FREE_BYTES
from benchmarks.machine import save
from benchmarks.table import Row, show
from qsimenv import engines
from qsimenv.circuit import Circuit
from qsimenv.qpm_plugin import QPM, TaskState
from qsimenv.qpm_plugin.client import connect
from qsimenv.qpm_plugin.connection import FILE_NAME
from qsimenv.qpm_plugin.controller import Limits, serve
from qsimenv.qpm_plugin.journal import FILE_NAME as JOURNAL_NAME
from qsimenv.qpm_plugin.journal import Journal

RANKS_A_PROCESS = 500
AT_ONCE = 1000
SETTLE_S = 3.0
_NUM_QUBITS = 19


class Crowd:
    """An instance of imitated workers."""

    def __init__(self, processes: list[asyncio.subprocess.Process]) -> None:
        self._processes = processes
        self.ended: asyncio.Future[str] = asyncio.ensure_future(self._wait())

    async def _wait(self) -> str:
        codes = await asyncio.gather(*(process.wait() for process in self._processes))
        return f"the imitated workers ended with {codes}"

    async def kill(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def close(self) -> None:
        await self.ended


class CrowdLauncher:
    """Starts imitated workers instead of MPI ranks."""

    def __init__(self, task_s: float) -> None:
        self._task_s = task_s

    async def launch(self, ranks: int, environ: dict[str, str]) -> Crowd:
        processes = []
        for first in range(0, ranks, RANKS_A_PROCESS):
            numbers = (first, min(RANKS_A_PROCESS, ranks - first), ranks, self._task_s)
            command = [sys.executable, "-m", "benchmarks.crowd_workers", *map(str, numbers)]
            processes.append(await asyncio.create_subprocess_exec(*command, env={**os.environ, **environ}))
        return Crowd(processes)

    def describe(self) -> dict[str, Any]:
        return {"kind": "imitated"}


async def control(path: Path, ranks: int, task_s: float) -> None:
    """The controller's process: serve until shut down; "ready" on stdout when all workers have answered."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)  # type: ignore[union-attr]
    await serve(
        path, "crowd", CrowdLauncher(task_s), ranks, lambda: print("ready", flush=True),
        limits=Limits(), journal=Journal(path.with_name(JOURNAL_NAME)),
    )  # fmt: skip


def circuit_of(seconds: float, ranks: int) -> Circuit:
    """A circuit whose estimate is nearest to so many seconds on one rank."""

    def distance(circuit: Circuit) -> float:
        return abs(engines.evaluate(qs.Task(circuit, shots=10, seed=1), ranks, FREE_BYTES).seconds - seconds)

    return min((measured(hea(_NUM_QUBITS, layers)) for layers in range(1, 40)), key=distance)


def submit(qpm: QPM, circuit: Circuit, number: int) -> list[str]:
    """Let so many tasks wait; their ids."""
    ids: list[str] = []
    for first in range(0, number, AT_ONCE):
        ids += qpm.async_run([qs.Task(circuit, shots=10, seed=first + order) for order in range(AT_ONCE)])
    return ids


def clock(controller: psutil.Process) -> tuple[float, float]:
    """CPU seconds of the controller so far: of all its threads, and of the first one, which runs Python."""
    first = next(thread for thread in controller.threads() if thread.id == controller.pid)
    return sum(controller.cpu_times()[:2]), first.user_time + first.system_time


def watch(qpm: QPM, seconds: float, ranks: int, task_s: float) -> dict[str, float]:
    """What happens in the next ``seconds``, while tasks wait."""
    controller = psutil.Process(qpm.describe()["controller"]["pid"])
    began, before, done_before = time.perf_counter(), clock(controller), qpm.telemetry()["tasks"]["DONE"]
    time.sleep(seconds)
    facts = qpm.telemetry()
    took, after = time.perf_counter() - began, clock(controller)
    assert facts["queue_length"] > 0, "the queue ran empty; ask for fewer seconds"
    done = facts["tasks"]["DONE"] - done_before
    in_all, in_python = ((now - then) / done for then, now in zip(before, after, strict=True))
    return {
        "tasks_per_second": round(done / took), "utilisation": round(done * task_s / (took * ranks), 4),
        "cpu_us_a_task": round(1e6 * in_all, 1), "python_us_a_task": round(1e6 * in_python, 1),
        "python_busy": round(in_python * done / took, 3), "saturates_at_ranks": round(task_s / in_python),
    }  # fmt: skip


def measure(path: Path, ranks: int, task_s: float, seconds: float) -> dict[str, float]:
    """All figures: of the submission while nothing runs, of the run while tasks wait, and of a task's whole way."""
    circuit = circuit_of(task_s, ranks)
    number = int(1.3 * (seconds + SETTLE_S) * ranks / task_s) // AT_ONCE * AT_ONCE
    with connect(path) as qpm:
        with connect(path) as holder:
            claim = holder.reserve(ranks, 3600.0)
            controller = psutil.Process(qpm.describe()["controller"]["pid"])
            began = clock(controller)[1]
            ids = submit(qpm, circuit, number)
            submitted = clock(controller)[1]
            holder.release(claim.reservation_id)
        time.sleep(SETTLE_S)
        found = watch(qpm, seconds, ranks, task_s)
        records = qpm.read_cq(task_ids=ids, timeout_s=600)
        ended = clock(controller)[1]
        assert [record.task_id for record in records] == ids
        assert all(record.state == TaskState.DONE for record in records)
    whole_s = (ended - began) / number
    return found | {
        "submission_python_us_a_task": round(1e6 * (submitted - began) / number, 1),
        "whole_way_python_us_a_task": round(1e6 * whole_s, 1),
        "saturates_at_ranks_whole_way": round(task_s / whole_s),
    }


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=1000, help="imitated workers  [default: 1000]")
    parser.add_argument("--task-ms", type=float, default=50.0, help="how long each task lasts  [default: 50]")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long to watch  [default: 15]")
    options = parser.parse_args(arguments)
    with TemporaryDirectory(prefix="qsimenv-bench-") as scratch:
        path = Path(scratch) / FILE_NAME
        command = [sys.executable, "-m", "benchmarks.crowd", str(path), str(options.ranks), str(options.task_ms / 1e3)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n", "the imitated workers did not come up"
                found = measure(path, options.ranks, options.task_ms / 1e3, options.seconds)
            finally:
                process.terminate()
    show(f"{options.ranks:,} imitated workers, tasks of {options.task_ms:g} ms", [
        Row("ranks' time spent in tasks", 100 * found["utilisation"], "%", at_least=90),
        Row("tasks ended", found["tasks_per_second"], "1/s"),
        Row("controller's CPU time a task", found["cpu_us_a_task"], "µs"),
        Row("of which Python, one thread", found["python_us_a_task"], "µs"),
        Row("Python's thread is busy", 100 * found["python_busy"], "%"),
        Row("ranks at which one controller saturates", found["saturates_at_ranks"]),
        Row("Python's time for submitting a task", found["submission_python_us_a_task"], "µs"),
        Row("Python's time from submission to reading", found["whole_way_python_us_a_task"], "µs"),
        Row("ranks at which it saturates, with submission and reading", found["saturates_at_ranks_whole_way"]),
    ])  # fmt: skip
    figures = {"ranks": options.ranks, "task_ms": options.task_ms, **found}
    save("crowd", figures)
    return figures


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(control(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
