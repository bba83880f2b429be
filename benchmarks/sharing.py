"""Three applications at once on two real ranks: how much of the ranks they use, and how long the next task waits.

    python -m benchmarks sharing [--seconds 30]

Applications follow the three patterns of the paper from which the system comes (section 4), each with a client of its
own, as in `schedule`, which simulates thousands of ranks: here a state vector is behind every task, and classical work
is a pause. What is kept: the share of the ranks' time spent inside tasks while any task waits; and for each application
how long its next task waits at most, from its submission or the launch of the one before it, beside the bound that
credits give it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import qsimenv as qs
from benchmarks.circuits import hea, measured
from benchmarks.machine import save
from benchmarks.table import Row, show
from qsimenv.launcher import environment
from qsimenv.qpm_plugin import TaskState
from qsimenv.qpm_plugin.api import TaskRecord
from qsimenv.qpm_plugin.client import connect
from qsimenv.qpm_plugin.connection import FILE_NAME
from qsimenv.qpm_plugin.credits import Credits

RANKS = 2
NUM_QUBITS = 20
SHORT, MEDIUM, LONG = 5, 15, 30
"""Layers of a circuit; some hundredths to tenths of a second."""


class Step(NamedTuple):
    """Submit so many tasks of so many layers, wait for all, pause for ``classical_s``."""

    tasks: int
    layers: int
    classical_s: float


Pattern = Callable[[random.Random], Iterator[Step]]


def high_quantum(generator: random.Random) -> Iterator[Step]:
    while True:
        yield Step(generator.randint(30, 60), LONG, 0.05)


def low_quantum(generator: random.Random) -> Iterator[Step]:
    while True:
        yield Step(generator.randint(1, 3), SHORT, generator.uniform(0.5, 1.5))


def balanced(generator: random.Random) -> Iterator[Step]:
    while True:
        yield Step(generator.randint(4, 8), MEDIUM, generator.uniform(0.4, 0.8))


PATTERNS: dict[str, Pattern] = {"high quantum": high_quantum, "low quantum": low_quantum, "balanced": balanced}


class Application(threading.Thread):
    """Follows a pattern until ``end`` (of ``time.time``); ``records`` are those of its tasks."""

    def __init__(self, path: Path, name: str, pattern: Pattern, end: float) -> None:
        super().__init__(name=name)
        self._path, self._steps, self._end = path, pattern(random.Random(1)), end  # noqa: S311
        self.records: list[TaskRecord] = []

    def run(self) -> None:
        with connect(self._path, application=self.name) as qpm:
            for step in self._steps:
                if time.time() > self._end:
                    return
                circuit = measured(hea(NUM_QUBITS, step.layers))
                first = len(self.records)
                ids = qpm.async_run([qs.Task(circuit, shots=100, seed=first + k) for k in range(step.tasks)])
                self.records += qpm.read_cq(task_ids=ids, timeout_s=600)
                time.sleep(step.classical_s)


def figures_of(records: Sequence[TaskRecord], ranks: int) -> dict[str, Any]:
    """Utilisation of ``ranks`` ranks while anything waits, and the waiting times of each application."""
    spans = union([(record.times.creation_time or 0.0, record.times.launch_time or 0.0) for record in records])
    wanted = ranks * sum(end - begin for begin, end in spans)
    used = sum(
        len(record.ranks) * overlap(record.times.exec_time or 0.0, record.times.completion_time or 0.0, spans)
        for record in records
    )
    longest = max((record.times.completion_time or 0.0) - (record.times.launch_time or 0.0) for record in records)
    names = dict.fromkeys(record.application for record in records)
    return {
        "tasks": len(records),
        "seconds_with_work_waiting": round(wanted / ranks, 2),
        "utilisation": round(used / wanted, 4),
        "longest_task_s": round(longest, 3),
        "bound_s": round(Credits().wait_bound_s(len(names) - 1, longest), 3),
        "applications": {name: waits_of([each for each in records if each.application == name]) for name in names},
    }


def waits_of(records: Sequence[TaskRecord]) -> dict[str, float]:
    """Of one application: how long tasks waited, and how long the next one did."""
    launched = sorted((record.times.launch_time or 0.0, record.times.creation_time or 0.0) for record in records)
    waits = [launch - created for launch, created in launched]
    before = [0.0, *(launch for launch, _ in launched)]
    following = [launch - max(created, last) for (launch, created), last in zip(launched, before, strict=False)]
    return {
        "tasks": len(records), "wait_median_s": round(statistics.median(waits), 3),
        "wait_longest_s": round(max(waits), 3), "next_task_wait_longest_s": round(max(following), 3),
    }  # fmt: skip


def union(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The times that any of the spans covers, as spans that do not touch."""
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def overlap(begin: float, end: float, spans: Sequence[tuple[float, float]]) -> float:
    """How much of one span the others cover, which do not touch each other."""
    return sum(max(0.0, min(end, other_end) - max(begin, other_begin)) for other_begin, other_end in spans)


def measure(path: Path, seconds: float) -> dict[str, Any]:
    with connect(path) as qpm:  # every rank has loaded its kernels and seen every circuit
        warm = [
            qs.Task(measured(hea(NUM_QUBITS, layers)), shots=100, seed=1) for layers in (SHORT, MEDIUM, LONG)
        ] * RANKS
        qpm.read_cq(task_ids=qpm.async_run(warm), timeout_s=600)
    end = time.time() + seconds
    applications = [Application(path, name, pattern, end) for name, pattern in PATTERNS.items()]
    for application in applications:
        application.start()
    for application in applications:
        application.join()
    records = [record for application in applications for record in application.records]
    assert {record.application for record in records} == set(PATTERNS)
    assert all(record.state == TaskState.DONE for record in records)
    return figures_of(records, RANKS)


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long they submit  [default: 30]")
    options = parser.parse_args(arguments)
    with TemporaryDirectory(prefix="qsimenv-bench-") as scratch:
        folder = Path(scratch) / "run"
        environment.start(run_folder=folder, ranks_per_node=RANKS)
        try:
            figures = measure(folder / FILE_NAME, options.seconds)
        finally:
            environment.stop(run_folder=folder)
    bound = figures["bound_s"]
    show(f"three applications on {RANKS} ranks for {options.seconds:g} s, {figures['tasks']} tasks", [
        Row("ranks' time spent in tasks while any waits", 100 * figures["utilisation"], "%", at_least=95),
        *(
            Row(f"next task of {name} waits, longest", each["next_task_wait_longest_s"], "s", at_most=bound)
            for name, each in figures["applications"].items()
        ),
        *(
            Row(f"a task of {name} waits, median", each["wait_median_s"], "s")
            for name, each in figures["applications"].items()
        ),
        Row("the longest task", figures["longest_task_s"], "s"),
    ])  # fmt: skip
    save("sharing", figures)
    return figures
