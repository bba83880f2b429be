"""Answers that wait for the journal: nobody hears of what is not on paper, and one commit serves all that came at once.

The controller calls ``settle`` when a port has read all that had come: what can start is started, the ledger is
committed, the answers go out. Where the journal cannot be written, what was to be accepted is refused instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

from qsimenv.errors import QSimEnvError
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.ledger import Ledger
from qsimenv.qpm_plugin.outside import Asker
from qsimenv.qpm_plugin.service import Service

_WRITE_WITHIN_S = 0.02
"""So soon the journal has what nobody is told of."""
_RETRY_S = 1.0
"""So soon it is tried again where it could not be written."""
_log = logging.getLogger("qsimenv.controller")


class Answer(NamedTuple):
    """An answer in one or more parts; ``lost`` is called if nobody gets it."""

    asker: Asker
    parts: Sequence[m.ReplyBody]
    lost: Callable[[], None] | None = None


class Outbox:
    """The answers of a controller. ``send`` puts one on its way."""

    def __init__(self, ledger: Ledger, service: Service, send: Callable[[Answer], None]) -> None:
        self._ledger, self._service, self._send = ledger, service, send
        self._answers: list[Answer] = []
        self._is_settling = False
        self._write_error = ""
        self._writing: asyncio.TimerHandle | None = None

    def add(self, answer: Answer) -> None:
        """Send it with the next ``settle``, which whoever calls this will call."""
        self._answers.append(answer)

    def post(self, answer: Answer) -> None:
        """Send it soon: nobody else may call ``settle``."""
        self._answers.append(answer)
        if not self._is_settling:
            self._settle_soon()

    def settle(self) -> None:
        """Everything that has come is dealt with: start what can start, write the journal, tell the clients.

        Ranks need not wait for the disk: what they were given is withdrawn where it cannot be written. What nobody is
        about to be told (a task has ended that nobody waits for, say) is written a little later, with whatever else has
        come by then.
        """
        self._is_settling = True  # whatever is answered from here on goes out below
        if not self._write_error:
            self._service.execution.start_tasks()
        if self._answers and self._ledger.has_news:
            self._write()
        answers, self._answers = self._answers, []
        for answer in answers:
            self._send(answer)
        self._service.execution.start_tasks()
        self._is_settling = False
        if self._answers:
            self._settle_soon()
        elif self._ledger.has_news and self._writing is None:
            delay_s = _RETRY_S if self._write_error else _WRITE_WITHIN_S
            self._writing = asyncio.get_running_loop().call_later(delay_s, self._write_late)

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits for the next ``settle``."""
        return not self._is_settling

    def close(self) -> None:
        """Write nothing more."""
        if self._writing is not None:
            self._writing.cancel()

    def _settle_soon(self) -> None:
        self._is_settling = True
        asyncio.get_running_loop().call_soon(self.settle)

    def _write_late(self) -> None:
        self._writing = None
        if self._ledger.has_news:
            self._write()
        self.settle()

    def _write(self) -> None:
        """Where that fails, what was to be accepted is refused; the rest is kept in memory until there is room."""
        try:
            self._ledger.commit()
        except QSimEnvError as error:
            self._refuse_accepted(error)
        else:
            if self._write_error:
                _log.warning("the journal can be written again")
            self._write_error = ""

    def _refuse_accepted(self, error: QSimEnvError) -> None:
        if not self._write_error:
            _log.error("%s", error)
        self._write_error = error.message
        refused = self._ledger.undo()
        self._service.execution.withdraw(refused)
        ids = {entry.task_id for entry in refused}
        self._answers = [_without_acceptance(answer, ids, error) for answer in self._answers]


def _without_acceptance(answer: Answer, refused: Container[str], error: QSimEnvError) -> Answer:
    """Nobody is told that a task was accepted that is not in the journal."""
    body = answer.parts[0]
    if not isinstance(body, m.Accepted) or body.task_ids[0] not in refused:
        return answer
    return answer._replace(parts=[m.Failed(error.code, f"submit: {error.message}")])
