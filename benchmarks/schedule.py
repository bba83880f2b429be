"""The scheduler on thousands of simulated ranks: three applications at once, with credits and without.

    python -m benchmarks schedule [--ranks 10000] [--seconds 60]

The very scheduler of the service, driven by simulated time. Applications follow the three patterns of the paper from
which the system comes (section 4): many quantum tasks and hardly any classical work; long classical work with a few
quantum tasks in between; both in equal shares. What is kept: how much of the ranks' time is used while anything waits,
and for each application how long its next task waits while it has credits, beside its bound. `sharing` does the same on
two real ranks.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.machine import save
from benchmarks.table import Row, show
from qsimenv.qpm_plugin.credits import CREDIT_SECONDS, Credits
from qsimenv.qpm_plugin.scheduler import Item, Schedule


class Step(NamedTuple):
    """Submit ``tasks`` of ``width`` ranks and about ``seconds`` each, wait for all, compute for ``classical_s``."""

    tasks: int
    width: int
    seconds: float
    classical_s: float


Pattern = Callable[[int, random.Random], Iterator[Step]]


def high_quantum(ranks: int, generator: random.Random) -> Iterator[Step]:
    """Pattern 1: epochs that keep all ranks busy for long, with hardly a pause."""
    while True:
        yield Step(5 * ranks, 1, generator.uniform(1.0, 3.0), 0.1)


def low_quantum(ranks: int, generator: random.Random) -> Iterator[Step]:
    """Pattern 2: now and then a few tasks, on which the rest of the application waits."""
    while True:
        yield Step(generator.randint(1, 4), 1 << generator.randint(0, 3), generator.uniform(0.2, 1.0), 3.0)


def balanced(ranks: int, generator: random.Random) -> Iterator[Step]:
    """Pattern 3: as much classical work as quantum work, in turn."""
    while True:
        yield Step(max(1, ranks // 4), 2, 2.0, 2.0)


PATTERNS: dict[str, Pattern] = {"high quantum": high_quantum, "low quantum": low_quantum, "balanced": balanced}


@dataclass
class _Application:
    name: str
    steps: Iterator[Step]
    left: int = 0
    classical_s: float = 0.0
    eligible_since: float | None = None
    next_waits: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


class Simulation:
    """Runs applications on a ``Schedule`` of ``ranks`` ranks by a clock of its own. The same for the same seed."""

    def __init__(self, ranks: int, credit_seconds: float, seed: int = 1) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a simulation
        self._schedule = Schedule(credits=Credits(credit_seconds))
        self._schedule.restart(ranks)
        self._ranks = ranks
        self._events: list[tuple[float, int, str, str]] = []
        self._applications = {name: _Application(name, make(ranks, self._random)) for name, make in PATTERNS.items()}
        self._tasks: dict[str, tuple[_Application, float, float, int]] = {}
        self._count, self._now, self._longest = 0, 0.0, 0.0
        self._busy = self._used = self._wanted = 0.0

    def run(self, seconds: float) -> dict[str, Any]:
        """Simulate so many seconds; figures as described at the top of the file."""
        began = time.perf_counter()
        for application in self._applications.values():
            self._submit(application)
        self._start()
        while self._events and self._events[0][0] <= seconds:
            self._advance(self._events[0][0])
            while self._events and self._events[0][0] <= self._now:
                _, _, kind, name = heapq.heappop(self._events)
                if kind == "end":
                    self._finish(name)
                else:
                    self._submit(self._applications[name])
            self._start()
        return self._figures(time.perf_counter() - began)

    def _advance(self, until: float) -> None:
        """Count used and usable time while anything waits."""
        if self._schedule.waiting:
            self._used += self._busy * (until - self._now)
            self._wanted += self._ranks * (until - self._now)
        self._now = until

    def _submit(self, application: _Application) -> None:
        step = next(application.steps)
        application.left, application.classical_s = step.tasks, step.classical_s
        for _ in range(step.tasks):
            name = f"t{self._count}"
            seconds = step.seconds * self._random.uniform(0.7, 1.3)
            self._longest = max(self._longest, seconds)
            self._tasks[name] = (application, seconds, self._now, step.width)
            self._schedule.add(Item(name, self._count, application.name, step.width, step.seconds))
            self._count += 1
        self._watch(application)

    def _watch(self, application: _Application) -> None:
        """From when on the application has credits and a task that waits."""
        spent, _ = self._schedule.credits.rank(application.name, self._ranks)
        waits = any(lane.application == application.name for lane in self._schedule.lanes)
        if spent or not waits:
            application.eligible_since = None
        elif application.eligible_since is None:
            application.eligible_since = self._now

    def _start(self) -> None:
        for placement in self._schedule.next_launches():
            for name in placement.task_ids:
                application, seconds, submitted, width = self._tasks[name]
                application.waits.append(self._now - submitted)
                if application.eligible_since is not None:
                    application.next_waits.append(self._now - application.eligible_since)
                    application.eligible_since = None
                heapq.heappush(self._events, (self._now + seconds, self._count, "end", name))
                self._busy += width
        for application in self._applications.values():
            self._watch(application)

    def _finish(self, name: str) -> None:
        application, _, _, width = self._tasks.pop(name)
        self._schedule.finish(name)
        self._busy -= width
        application.left -= 1
        if not application.left:
            heapq.heappush(self._events, (self._now + application.classical_s, self._count, "submit", application.name))

    def _figures(self, took_s: float) -> dict[str, Any]:
        bound = self._schedule.credits.wait_bound_s(len(self._applications) - 1, self._longest)
        applications = {
            each.name: {
                "tasks_started": len(each.waits),
                "wait_median_s": round(statistics.median(each.waits), 3) if each.waits else None,
                "wait_longest_s": round(max(each.waits, default=0.0), 3),
                "next_task_wait_longest_s": round(max(each.next_waits, default=0.0), 3),
            }
            for each in self._applications.values()
        }
        return {
            "utilisation": round(self._used / self._wanted, 4) if self._wanted else None,
            "bound_s": round(bound, 3),
            "tasks": self._count,
            "scheduling_us_a_task": round(1e6 * took_s / max(1, self._count), 1),
            "applications": applications,
        }


def _rows(found: dict[str, Any]) -> Iterator[Row]:
    bound = found["bound_s"]
    yield Row("ranks' time used while tasks wait", 100 * found["utilisation"], "%", at_least=95)
    for name, each in found["applications"].items():
        most = bound if math.isfinite(bound) else None
        yield Row(f"next task of {name} waits, longest", each["next_task_wait_longest_s"], "s", at_most=most)
    for name, each in found["applications"].items():
        yield Row(f"a task of {name} waits, median", each["wait_median_s"] or 0.0, "s")
    yield Row("scheduling a task", found["scheduling_us_a_task"], "µs")


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=10_000, help="simulated ranks  [default: 10000]")
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated seconds  [default: 60]")
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {"ranks": options.ranks, "seconds": options.seconds}
    for title, credit_seconds in (("with credits", CREDIT_SECONDS), ("without", 0.0)):
        found = Simulation(options.ranks, credit_seconds).run(options.seconds)
        figures[title] = found
        show(f"{options.ranks:,} simulated ranks {title}, {found['tasks']:,} tasks", list(_rows(found)))
    save("schedule", figures)
    return figures
