"""Reads that wait: who asked for which results, until when, and how the answer is put together.

The service hands reads and synchronous runs over to ``Reads``, which answers them through ``Outside`` when the task
table says that they are ready, when their time is over, or never, where whoever asked has gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from qsimenv.errors import TimedOutError
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.api import TaskRecord
from qsimenv.qpm_plugin.ledger import Ledger
from qsimenv.qpm_plugin.outside import Asker, Outside, Timer
from qsimenv.qpm_plugin.tasks import Entry, TaskTable, Waiting

_PART_BYTES = 64 << 20
_NUMBER_BYTES = 8
_LINGER_S = 5.0
"""So long the file of a large result is left after its task was forgotten: somebody may be about to map it."""


class Reads:
    """The reads of an environment that wait. ``cancel`` is called with the ids of a run whose time is over.

    ``answered`` holds, after a restart, what the last read of each link had taken, so that a link which asks again,
    because its answer was lost with the old controller, gets just that.
    """

    def __init__(
        self, tasks: TaskTable, ledger: Ledger, outside: Outside, cancel: Callable[[Sequence[str]], object]
    ) -> None:
        self._tasks, self._ledger, self._outside, self._cancel = tasks, ledger, outside, cancel
        self._timers: dict[Waiting, Timer] = {}
        self._waiting: dict[Asker, Waiting] = {}
        self._answered: dict[bytes, tuple[int, list[str]]] = {}

    def remember(self, reader: bytes, task_id: str) -> None:
        """The journal says that the request ``reader`` has taken this task."""
        link, number = reader[:-_NUMBER_BYTES], int.from_bytes(reader[-_NUMBER_BYTES:], "big")
        last, taken = self._answered.get(link, (-1, []))
        if number > last:
            self._answered[link] = (number, [task_id])
        elif number == last:
            taken.append(task_id)

    def wait_for_run(self, asker: Asker, task_ids: Sequence[str], timeout_s: float | None) -> None:
        """Answer when these tasks have ended; cancel them after ``timeout_s``."""
        waiting = self._tasks.wait_for_ids(task_ids, self._answer_with(asker, at_once=True), asker.client)
        self._remember(asker, waiting, timeout_s, self._give_up_run)

    def close(self, farewell: m.Failed) -> None:
        """Answer everybody who still waits."""
        for asker in list(self._waiting):
            self.abandon(asker)
            self._outside.answer(asker, [farewell])

    def read(self, asker: Asker, body: m.Read) -> None:
        """Answer when the tasks asked for have ended, or after ``timeout_s``. Raises like ``wait_for_ids``."""
        ready = self._answer_with(asker)
        task_ids = self._answer_before(asker) or body.task_ids
        if task_ids is not None:
            self._forget_the_gone(None)
            waiting = self._tasks.wait_for_ids(task_ids, ready, asker.client)
        else:
            self._forget_the_gone(asker.client)
            waiting = self._tasks.wait_for_count(body.count, ready, asker.client)
        self._remember(asker, waiting, body.timeout_s, self._give_up_read)

    def _answer_before(self, asker: Asker) -> Sequence[str] | None:
        """What this very request has taken before the controller was started again."""
        number, taken = self._answered.pop(asker.link, (-1, []))
        return taken if number == asker.number else None

    def _remember(self, asker: Asker, waiting: Waiting, timeout_s: float | None, give_up: Any) -> None:
        if waiting.is_ready:
            return
        self._waiting[asker] = waiting
        if timeout_s is not None:
            self._timers[waiting] = self._outside.later(timeout_s, give_up, asker, waiting, timeout_s)

    def _forget(self, asker: Asker, waiting: Waiting) -> None:
        self._waiting.pop(asker, None)
        timer = self._timers.pop(waiting, None)
        if timer is not None:
            timer.cancel()

    def abandon(self, asker: Asker) -> None:
        """Forget a read; its tasks are there for others."""
        waiting = self._waiting.get(asker)
        if waiting is not None:
            self._forget(asker, waiting)
            self._tasks.give_up(waiting)

    def _forget_the_gone(self, client: str | None) -> None:
        """End the reads (of one client) whose connection broke, so that a new one finds the tasks."""
        for asker in [asker for asker in self._waiting if client in (None, asker.client)]:
            if not self._outside.is_there(asker):
                self.abandon(asker)

    def _answer_with(self, asker: Asker, at_once: bool = False) -> Any:
        def ready(waiting: Waiting) -> None:
            self._forget(asker, waiting)
            now = time.time()
            taken = self._tasks.take(waiting, now)
            self._ledger.read(taken, _reader(asker), now)
            parts = _parts([(entry.record, self._ledger.result(entry, asker.maps)) for entry in waiting.entries])
            self._outside.answer(asker, parts, lambda: self._put_back(taken), at_once)
            self.forget(self._tasks.outdated())

        return ready

    def _put_back(self, taken: Sequence[Entry]) -> None:
        there = [entry for entry in taken if self._tasks.find(entry.task_id) is entry]
        self._tasks.put_back(there)
        self._ledger.unread(there)

    def forget(self, entries: Sequence[Entry]) -> None:
        """Let go of tasks that have ended and of their results; who was sent one just now can still map its file."""
        self._ledger.drop(entries)
        for entry in entries:
            self._tasks.drop(entry)
            if entry.large:
                self._outside.later(_LINGER_S, self._ledger.discard, entry.large, self._outside.later)

    def _give_up_read(self, asker: Asker, waiting: Waiting, timeout_s: float) -> None:
        self._forget(asker, waiting)
        self._tasks.give_up(waiting)
        missing, wanted = waiting.missing + waiting.short, len(waiting.entries) + waiting.short
        text = f"read_cq: after {timeout_s:g} s {missing} of {wanted} tasks have not ended"
        self._outside.answer(asker, [m.Failed(TimedOutError.code, text)])

    def _give_up_run(self, asker: Asker, waiting: Waiting, timeout_s: float) -> None:
        self._forget(asker, waiting)
        self._tasks.give_up(waiting)
        self._cancel([entry.task_id for entry in waiting.entries])
        text = f"sync_run: the task had not ended after {timeout_s:g} s and was canceled"
        self._outside.answer(asker, [m.Failed(TimedOutError.code, text)])


def _reader(asker: Asker) -> bytes:
    """Names the request in the journal."""
    return asker.link + asker.number.to_bytes(_NUMBER_BYTES, "big")


def _parts(taken: Sequence[tuple[TaskRecord, msgspec.Raw | None]]) -> list[m.ReplyBody]:
    """Records with their results, in as many messages as their size asks for."""
    parts: list[m.ReplyBody] = []
    records: list[TaskRecord] = []
    results: list[msgspec.Raw] = []
    size = 0
    for number, (record, result) in enumerate(taken, start=1):
        records.append(record)
        results.append(m.NO_RESULT if result is None else result)
        size += len(bytes(results[-1]))
        if size > _PART_BYTES and number < len(taken):
            parts.append(m.Records(tuple(records), tuple(results), more=True))
            records, results, size = [], [], 0
    parts.append(m.Records(tuple(records), tuple(results)))
    return parts
