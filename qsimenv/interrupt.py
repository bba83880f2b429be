"""Whether the work at hand is still wanted: asked between sweeps, and agreed on by the whole team.

A worker says with ``watch`` how to find out; engines call ``check`` where they can be broken off, as often as they
like. In a process where nobody watches, nothing is asked. A rank whose launcher has died is not wanted any more: it
ends there.
"""

from __future__ import annotations

from collections.abc import Callable

from qsimenv import comm
from qsimenv.comm import Team
from qsimenv.errors import BadStateError, TimedOutError

WANTED, CANCELED, TIMED_OUT = 0, 1, 2
CANCELED_MESSAGE = "run: the task was canceled"
Verdict = int
_probe: Callable[[], Verdict] | None = None


def watch(probe: Callable[[], Verdict] | None) -> None:
    """Ask ``probe`` from now on, which must be quick. Either all ranks of a job watch, or none."""
    global _probe  # noqa: PLW0603 - a process does one thing at a time
    _probe = probe


def check(team: Team) -> None:
    """Raise BadStateError where the task was canceled, TimedOutError where its time is over; on all ranks alike.

    *Collective*: one small reduction for a team of several ranks, which should see to it that it is rare.
    """
    comm.look()
    if _probe is None:
        return
    verdict = _probe() if team.size == 1 else int(team.maximum(_probe()))
    if verdict == CANCELED:
        raise BadStateError(CANCELED_MESSAGE)
    if verdict == TIMED_OUT:
        raise TimedOutError("run: the task's time limit was over before it ended")
