"""Engines: the ways to simulate, the registry they come from, and ``run``, where all paths meet.

``qs.run``, ``mpirun … qsimenv run`` and a worker of the service all call ``run(task, team)``. Engines register under
the entry point group ``qsimenv.engines``; this module imports none of them until one is needed, because the
controller asks for estimates only and must stay light.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from qsimenv import arrays
from qsimenv.comm import Team
from qsimenv.errors import InvalidArgumentError, LibraryNotFoundError, NotSupportedError, QSimEnvError
from qsimenv.task import Estimate, Result, Task, validate

if TYPE_CHECKING:
    from qsimenv.checkpoints import Checkpointing


@dataclass(frozen=True)
class Watch:
    """What somebody wants of a run while it goes on, besides its result.

    ``progress`` is told on rank 0, after every sweep, how many are done and how many there will be (None: not known).
    """

    progress: Callable[[int, int | None], None] | None = None
    checkpointing: Checkpointing | None = None


class Engine(ABC):
    """A way to simulate. One object serves all tasks of a process and may keep plans and buffers between them."""

    name: str

    @abstractmethod
    def estimate(self, task: Task, max_ranks: int, free_bytes_per_rank: int) -> Estimate:
        """The smallest power-of-two team that holds the task, and what it would cost there. Imports no compiler.

        Raises OutOfMemoryError where ``max_ranks`` ranks with ``free_bytes_per_rank`` do not hold it (the message
        says what would), NotSupportedError where the engine cannot do it at all.
        """

    def is_immediate(self, task: Task) -> bool:
        """Whether the task needs so little that comparing engines and asking for memory would cost more than it."""
        return False

    @abstractmethod
    def run(self, task: Task, team: Team) -> Result:
        """Simulate on the ranks of ``team``, a power of two. *Collective*; every rank returns the same result."""

    def run_watched(self, task: Task, team: Team, watch: Watch) -> Result:
        """As ``run``, and do what ``watch`` asks for, as far as it goes. *Collective.*

        Raises NotSupportedError where checkpoints are asked for and the engine writes none.
        """
        if watch.checkpointing is not None:
            raise NotSupportedError(f"engine {self.name}: it writes no checkpoints; run without")
        return self.run(task, team)


@lru_cache
def names() -> tuple[str, ...]:
    """The engines that are installed."""
    return tuple(sorted(entry.name for entry in entry_points(group="qsimenv.engines")))


@lru_cache
def engine(name: str) -> Engine:
    """The engine of that name. Raises InvalidArgumentError for an unknown one."""
    for entry in entry_points(group="qsimenv.engines"):
        if entry.name == name:
            try:
                made: Engine = entry.load()()
            except ImportError as error:
                raise LibraryNotFoundError(f"engine {name}: {error}; install what it needs") from error
            return made
    raise InvalidArgumentError(f"engine: {name!r} found, one of {', '.join(('auto', *names()))} needed")


def evaluate(task: Task, max_ranks: int, free_bytes_per_rank: int) -> Estimate:
    """What the task would need on a machine of ``max_ranks`` ranks with ``free_bytes_per_rank`` bytes free on each.

    ``engine="auto"`` takes the fastest of those that can do it. Raises like ``Engine.estimate``.
    """
    if task.engine != "auto":
        return engine(task.engine).estimate(task, max_ranks, free_bytes_per_rank)
    estimates, refusals = [], list[QSimEnvError]()
    for name in names():
        try:
            estimates.append(engine(name).estimate(task, max_ranks, free_bytes_per_rank))
        except QSimEnvError as error:
            refusals.append(error)
    if estimates:
        return min(estimates, key=lambda estimate: estimate.seconds)
    raise refusals[0] if refusals else NotSupportedError("run: no engine is installed; reinstall qsimenv")


def is_immediate(task: Task) -> bool:
    """Whether an engine that may run the task is done with it sooner than engines could be compared."""
    return _immediate(task) is not None


def power_of_two(team: Team, allow_idle: bool = False) -> Team | None:
    """The team itself where its size is a power of two. Else, with ``allow_idle``, the largest part of it that is one,
    and None on the ranks that are left out; without, InvalidArgumentError on every rank. *Collective.*"""
    working = 1 << (team.size.bit_length() - 1)
    if working == team.size:
        return team
    if not allow_idle:
        raise InvalidArgumentError(
            f"run: {team.size} ranks found, a state is shared by a power of two of them; "
            f"launch {working} or {2 * working}, or pass --idle-ranks to run on {working} of the {team.size}"
        )
    return team.subteam(range(working)) if team.rank < working else None


def run(task: Task, team: Team, watch: Watch | None = None) -> Result:
    """Run a task on all ranks of ``team`` (a power of two). *Collective*; every rank returns the same result.

    Raises, on every rank alike, InvalidArgumentError, NotSupportedError or OutOfMemoryError; with checkpoints also
    BadStateError (none is good) and SuspendedError (one was written, the run ends as it was asked to).
    """
    validate(task)
    power_of_two(team)
    found = engine(_choose(task, team))
    return found.run(task, team) if watch is None else found.run_watched(task, team, watch)


def _immediate(task: Task) -> str | None:
    candidates = names() if task.engine == "auto" else (task.engine,)
    return next((name for name in candidates if engine(name).is_immediate(task)), None)


def _choose(task: Task, team: Team) -> str:
    immediate = _immediate(task)
    if immediate is not None:
        return immediate
    free = int(team.minimum(arrays.free_bytes(task.device)))
    return evaluate(task, team.size, free).engine
