"""A long queue: so many tasks wait at once in a real controller with its journal, which is then killed.

    python -m benchmarks queue [--tasks 100000]

Another client has reserved both ranks, so that all of them wait. What is kept: how fast they are submitted, 1,000 in a
request (the slowest tenth, too); how long `status` of one takes meanwhile; the controller's memory; after SIGKILL, how
long until the next controller answers and until the first task has run; and that each task ends once, with the counts
that its seed gives in process.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

import qsimenv as qs
from benchmarks.circuits import ghz, measured
from benchmarks.machine import save
from benchmarks.table import Row, show
from qsimenv.launcher import environment
from qsimenv.qpm_plugin import QPM, TaskState
from qsimenv.qpm_plugin.client import connect
from qsimenv.qpm_plugin.connection import FILE_NAME

AT_ONCE = 1000
LOOKS = 500
CIRCUIT = measured(ghz(3))
SEEDS = 64
"""The tasks differ by their seeds, which come again after so many: as many counts are known beforehand."""


def submit(qpm: QPM, number: int) -> tuple[list[str], list[float]]:
    """Let so many tasks wait; their ids, and when each request had been answered, from the beginning on."""
    tasks = [qs.Task(CIRCUIT, shots=100, seed=order % SEEDS) for order in range(number)]
    ids: list[str] = []
    times = [time.perf_counter()]
    for first in range(0, number, AT_ONCE):
        ids += qpm.async_run(tasks[first : first + AT_ONCE])
        times.append(time.perf_counter())
    return ids, times


def rates(number: int, times: list[float]) -> tuple[float, float]:
    """Submissions a second: of all, and of the slowest tenth of the requests side by side."""
    span = max(1, (len(times) - 1) // 10)
    ends = times[::span]
    slowest = max(after - before for before, after in pairwise(ends))
    return number / (times[-1] - times[0]), span * AT_ONCE / slowest


def look(qpm: QPM, ids: list[str]) -> list[float]:
    """Seconds that ``status`` of one task takes, of tasks anywhere in the queue."""
    seconds = []
    for task_id in random.Random(1).choices(ids, k=LOOKS):  # noqa: S311
        began = time.perf_counter()
        assert qpm.status([task_id])[0].state == TaskState.QUEUED
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)


def check(records: list[Any], ids: list[str]) -> None:
    """Each task has ended once, with the counts of its seed."""
    wanted = [qs.run(CIRCUIT, shots=100, seed=seed).counts for seed in range(SEEDS)]
    assert [record.task_id for record in records] == ids
    assert len(set(ids)) == len(ids)
    assert all(record.result.counts == wanted[order % SEEDS] for order, record in enumerate(records))


def measure(path: Path, number: int) -> dict[str, float]:
    """All figures, of the environment whose connection file it is; kills its controller."""
    with connect(path) as qpm:
        with connect(path) as holder:
            claim = holder.reserve(2, 3600.0)
            ids, times = submit(qpm, number)
            looks = look(qpm, ids)
            controller = psutil.Process(qpm.describe()["controller"]["pid"])
            memory = controller.memory_info().rss
            controller.kill()
        began = time.perf_counter()
        assert qpm.status(ids[-1:])[0].task_id == ids[-1]
        answered = time.perf_counter() - began
        qpm.release(claim.reservation_id)  # it has outlived the controller, too
        qpm.read_cq(task_ids=ids[:1], timeout_s=120)
        worked = time.perf_counter() - began
        check(qpm.read_cq(task_ids=ids, timeout_s=1200), ids)
        ended = time.perf_counter() - began
    rate, slowest = rates(number, times)
    return {
        "submitted_per_second": round(rate), "submitted_per_second_slowest_tenth": round(slowest),
        "controller_mib": round(memory / 2**20, 1), "status_median_ms": round(1e3 * statistics.median(looks), 3),
        "status_p99_ms": round(1e3 * looks[int(0.99 * len(looks))], 3), "status_longest_ms": round(1e3 * looks[-1], 3),
        "answers_after_kill_s": round(answered, 2), "works_after_kill_s": round(worked, 2),
        "all_ended_after_kill_s": round(ended, 1),
    }  # fmt: skip


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000, help="at least 1000  [default: 100000]")
    options = parser.parse_args(arguments)
    with TemporaryDirectory(prefix="qsimenv-bench-") as scratch:
        folder = Path(scratch) / "run"
        environment.start(run_folder=folder, ranks_per_node=2)
        try:
            found = measure(folder / FILE_NAME, options.tasks)
        finally:
            environment.stop(run_folder=folder)
    show(f"{options.tasks:,} tasks wait, then the controller is killed", [
        Row("submitted", found["submitted_per_second"], "1/s", at_least=5000),
        Row("submitted, slowest tenth", found["submitted_per_second_slowest_tenth"], "1/s", at_least=5000),
        Row("memory of the controller", found["controller_mib"], "MiB", at_most=600),
        Row("status of one, median", found["status_median_ms"], "ms", at_most=5),
        Row("status of one, 99 %", found["status_p99_ms"], "ms", at_most=5),
        Row("status of one, longest", found["status_longest_ms"], "ms", at_most=5),
        Row("answers again after SIGKILL", found["answers_after_kill_s"], "s", at_most=10),
        Row("runs tasks again after SIGKILL", found["works_after_kill_s"], "s", at_most=10),
        Row("all have ended, each once and as it should, after", found["all_ended_after_kill_s"], "s"),
    ])  # fmt: skip
    figures = {"tasks": options.tasks, **found}
    save("queue", figures)
    return figures
