"""What the service needs of the world, and for whom: ``Outside``, played by the controller, or by a test.

Whatever leaves the service leaves it through here: answers, launches, events, timers. The service and its parts
(``submissions``, ``execution``, ``reservations``, ``reads``) hold one; nothing here knows a socket or a process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.admission import Appraise, Finding
from qsimenv.qpm_plugin.scheduler import Placement
from qsimenv.qpm_plugin.tasks import Entry


class Asker(NamedTuple):
    """Who waits for an answer: a link, the number of its request, and the client it speaks for."""

    link: bytes
    number: int
    client: str
    maps: bool = False
    """Whether it sees the folder of large results."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class Outside(Protocol):
    """The way out of the service."""

    def answer(
        self, asker: Asker, parts: Sequence[m.ReplyBody], lost: Callable[[], None] | None = None, at_once: bool = False
    ) -> None:
        """Send the answer when the journal has what it says, or ``at_once``; ``lost`` is called if nobody gets it."""

    def is_there(self, asker: Asker) -> bool:
        """Whether the asker's connection still stands."""

    def launch(self, placement: Placement, entries: Sequence[Entry]) -> None:
        """Send tasks to their ranks. Raises QSimEnvError where they cannot be written down."""

    def cancel(self, ranks: Sequence[int], task_ids: Sequence[str]) -> None:
        """Tell ranks to stop at these tasks."""

    def end_instance(self, reason: str) -> None:
        """End all ranks; a new instance follows."""

    @property
    def is_heard(self) -> bool:
        """Whether anybody has subscribed to events."""

    def emit(self, kind: str, **details: Any) -> None:
        """Tell who has subscribed that something happened."""

    def later(self, delay_s: float, call: Any, *arguments: Any) -> Timer:
        """Call it after so many seconds."""

    def appraise(self, question: Appraise, done: Callable[[Finding], None]) -> None:
        """Have circuits looked into elsewhere; ``done`` hears what was found, later."""

    def drained(self) -> None:
        """The last task has ended after ``drain``."""
