"""A stream: submissions of a client that do not wait for each other's answers; ``Client.stream`` makes it.

One link carries many requests at a time, each with a key of its own, so that one which is sent again (the connection
broke, the controller lacked a circuit, or was full) is carried out once. What the controller reads together it writes
to the journal together, so a stream of single tasks costs little more than one request with all of them.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

from qsimenv.errors import QSimEnvError, from_code
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.link import Link, expect
from qsimenv.task import Task

WINDOW = 500
"""So many submissions are under way at most; below what ZeroMQ keeps for a socket that does not read."""


class _Submission(NamedTuple):
    tasks: Sequence[Task]
    jobs: tuple[m.Job, ...]
    key: str


class Stream:
    """Submits without waiting. For one thread; ``job`` makes what travels, ``sent`` names the circuits that did."""

    def __init__(self, link: Link, job: Callable[[Task], m.Job], sent: set[str]) -> None:
        self._link, self._job, self._sent = link, job, sent
        self._name = uuid.uuid4().hex
        self._submitted = 0
        self._open: dict[int, _Submission] = {}
        self._accepted: dict[int, tuple[str, ...]] = {}
        self._turned_away: dict[int, float] = {}
        self._refusal: QSimEnvError | None = None

    def submit(self, tasks: Task | Sequence[Task]) -> None:
        """Send tasks off, all of which are accepted or none is; waits only where WINDOW submissions have no answer.

        Raises what an earlier submission was refused for, as ``async_run`` would have; that one took nothing with it.
        """
        several = [tasks] if isinstance(tasks, Task) else list(tasks)
        if not several:
            return
        ticket = self._submitted
        self._open[ticket] = _Submission(several, tuple(map(self._job, several)), f"{self._name}-{ticket}")
        self._submitted += 1
        self._post(ticket)
        while len(self._open) >= WINDOW:
            self._collect()
        self._complain()

    def finish(self) -> list[str]:
        """Wait for all answers. Returns the ids of the tasks in order of submission; raises like ``submit``."""
        while self._open:
            self._collect()
        self._complain()
        return [task_id for ticket in range(self._submitted) for task_id in self._accepted.get(ticket, ())]

    def _post(self, ticket: int, missing: Sequence[str] = ()) -> None:
        submission = self._open[ticket]
        circuits = {task.circuit.hash: task.circuit for task in submission.tasks}
        new = {name: c.bytes for name, c in circuits.items() if name in missing or name not in self._sent}
        self._sent.update(new)
        self._link.post(ticket, m.Submit(submission.jobs, new, key=submission.key))

    def _collect(self) -> None:
        if not self._link.posted:
            self._try_again()
        ticket, reply = self._link.collect()
        match reply:
            case m.Accepted(task_ids=task_ids):
                self._accepted[ticket] = task_ids
                del self._open[ticket]
            case m.NeedCircuits(hashes=hashes):
                self._post(ticket, hashes)
            case m.Full(retry_after_s=wait_s):
                self._turned_away[ticket] = wait_s
            case m.Failed(code=code, message=message):
                self._refusal = self._refusal or from_code(code, message)
                del self._open[ticket]
            case _:
                expect(reply, m.Accepted)

    def _try_again(self) -> None:
        """The environment was full: all that it turned away goes there once more, when it said."""
        time.sleep(max(self._turned_away.values()))
        turned_away, self._turned_away = sorted(self._turned_away), {}
        for ticket in turned_away:
            self._post(ticket)

    def _complain(self) -> None:
        if self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            raise refusal
