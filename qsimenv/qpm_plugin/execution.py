"""From the queue to the end: tasks are started on their ranks, and their answers, limits and accidents dealt with.

Part of the ``Service``; the controller brings it the news of the workers (``answered``, ``broke``, ``instance_up``,
``instance_down``) and calls ``start_tasks`` after each batch of them. Who is next is the ``Schedule``'s decision, and
what was accepted ends in the ledger once, whatever dies: a task of an instance that ended runs again, MAX_ATTEMPTS
times at most.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from qsimenv.errors import OutOfRangeError, QSimEnvError, TimedOutError
from qsimenv.qpm_plugin import large
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.admission import Admission
from qsimenv.qpm_plugin.api import ErrorInfo, TaskRecord, TaskState
from qsimenv.qpm_plugin.ledger import Ledger
from qsimenv.qpm_plugin.mode import Mode
from qsimenv.qpm_plugin.outside import Outside
from qsimenv.qpm_plugin.scheduler import Item, Placement, Schedule
from qsimenv.qpm_plugin.tasks import Entry, TaskTable

MAX_ATTEMPTS = 3
"""A task during which so many instances died is FAILED."""
_LIMIT_GRACE_S = 10.0
"""So much later than its time limit a task is ended by force: one sweep, or one exchange, may take a while."""


class Execution:
    """Starts tasks and ends them. ``work_seconds`` is what they have taken so far, in rank-seconds."""

    def __init__(
        self, tasks: TaskTable, schedule: Schedule, admission: Admission, ledger: Ledger, outside: Outside, mode: Mode
    ) -> None:
        self._tasks, self._schedule, self._admission = tasks, schedule, admission
        self._ledger, self._outside, self._mode = ledger, outside, mode
        self.work_seconds = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, and nothing waits that is to run."""
        return (self._mode.holding or not self._schedule.waiting) and not self._tasks.by_state[TaskState.RUNNING]

    # --- starting ---

    def queue(self, entry: Entry) -> None:
        """Let a task wait for its ranks."""
        self._schedule.add(_item(entry))

    def start_tasks(self) -> None:
        """Send out what can start now."""
        if self._mode.holding or not self._schedule.waiting or not self._schedule.has_room:
            return
        now = time.time()
        for placement in self._schedule.next_launches():
            self._start(placement, now)

    def _start(self, placement: Placement, now: float) -> None:
        entries = [self._tasks.get(task_id) for task_id in placement.task_ids]
        for entry in entries:
            self._tasks.move(entry, TaskState.RUNNING)
            entry.record.attempts += 1
            entry.record.ranks = placement.ranks
            entry.record.times.launch_time = now
            self._tell_state(entry)
            self._limit(entry)
        try:
            self._outside.launch(placement, entries)
        except QSimEnvError as error:
            self._refuse(entries, error)

    def _refuse(self, entries: Sequence[Entry], error: QSimEnvError) -> None:
        for entry in entries:
            self._schedule.finish(entry.task_id)
            self._finish(entry, TaskState.FAILED, ErrorInfo(error.code, error.message))

    def _limit(self, entry: Entry) -> None:
        """Its ranks end a task whose time is over; where they do not, its instance is ended."""
        limit_s = entry.job.task.time_limit_s if entry.job is not None else None
        if limit_s is not None:
            self._outside.later(limit_s + _LIMIT_GRACE_S, self._overrun, entry, entry.record.attempts, limit_s)

    def _overrun(self, entry: Entry, attempt: int, limit_s: float) -> None:
        if entry.record.state != TaskState.RUNNING or entry.record.attempts != attempt:
            return
        text = f"run: the time limit of {limit_s:g} s was over, and its ranks did not come back to be told"
        self._finish(entry, TaskState.FAILED, ErrorInfo(TimedOutError.code, text))
        self._outside.end_instance(f"task {entry.task_id} did not end at its time limit")

    # --- ending ---

    def answered(self, answer: m.Answer) -> None:
        """A task has ended on its ranks."""
        self._schedule.finish(answer.task_id)
        entry = self._tasks.find(answer.task_id)
        file = large.file_of(answer.result)
        if entry is None or entry.record.state != TaskState.RUNNING:
            self._ledger.discard(file, self._outside.later)
            return
        if answer.canceled and not entry.to_cancel and self._mode.keeping:
            return  # it was stopped with the environment, and goes on with the next one
        self._note_times(entry, answer)
        entry.record.engine = answer.engine or entry.record.engine
        self.work_seconds += (answer.completion_time - answer.exec_time) * len(entry.record.ranks)
        if entry.to_cancel or answer.canceled:
            self._ledger.discard(file, self._outside.later)
            self._finish(entry, TaskState.CANCELED)
        elif answer.error is not None:
            self._finish(entry, TaskState.FAILED, answer.error)
        else:
            entry.large = file
            self._finish(entry, TaskState.DONE, result=answer.result.copy())

    def broke(self, answer: m.Answer) -> None:
        """A task has failed in a way that ends its instance; its ranks are not given to anybody before that."""
        entry = self._tasks.find(answer.task_id)
        if entry is not None and entry.record.state == TaskState.RUNNING:
            self._note_times(entry, answer)
            self._finish(entry, TaskState.FAILED, answer.error)

    def cancel(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """End what waits, tell the ranks of what runs, leave what has ended. NotFoundError: none was touched."""
        entries = [self._tasks.get(task_id) for task_id in task_ids]
        for entry in entries:
            if entry.record.state == TaskState.RUNNING:
                entry.to_cancel = True
                self._outside.cancel(entry.record.ranks, (entry.task_id,))
            elif not entry.record.state.is_final:
                self._schedule.withdraw(entry.task_id)
                self._finish(entry, TaskState.CANCELED)
        return [entry.record for entry in entries]

    def withdraw(self, entries: Sequence[Entry]) -> None:
        """Forget tasks that could not be recorded; what ranks make of those that have started is dropped."""
        for entry in entries:
            self._schedule.withdraw(entry.task_id)
            if entry.record.state == TaskState.RUNNING:
                self._outside.cancel(entry.record.ranks, (entry.task_id,))
            self._tasks.drop(entry)

    def end_all(self, state: TaskState, error: ErrorInfo | None) -> None:
        """End everything that has not ended, and let every read that waits end with it."""
        for entry in self._tasks.unfinished():
            self._schedule.withdraw(entry.task_id)
            self._finish(entry, state, error)

    def _finish(
        self, entry: Entry, state: TaskState, error: ErrorInfo | None = None, result: msgspec.Raw | None = None
    ) -> None:
        self._tasks.finish(entry, state, time.time(), error, result)
        self._tell_state(entry)
        if self._mode.draining and self.is_idle:
            self._outside.drained()

    def _tell_state(self, entry: Entry) -> None:
        if self._outside.is_heard:
            record = entry.record
            self._outside.emit("task", task_id=record.task_id, state=record.state.name, name=record.name)

    @staticmethod
    def _note_times(entry: Entry, answer: m.Answer) -> None:
        times = entry.record.times
        times.exec_time, times.completion_time = answer.exec_time, answer.completion_time

    # --- instances come and go ---

    def instance_up(self, size: int, free_bytes: int) -> None:
        """A new instance is ready; tasks take less room where it is smaller, what it cannot hold any more is FAILED."""
        self._schedule.restart(size)
        self._admission.resize(self._schedule.max_width, free_bytes)
        for entry in self._tasks.unfinished():
            if entry.estimate.ranks > self._schedule.max_width or max(entry.pinned, default=0) >= size:
                self._fit(entry, size)
        self.start_tasks()

    def _fit(self, entry: Entry, size: int) -> None:
        """Place a task on fewer ranks than it was meant for, or end it with the reason."""
        self._schedule.withdraw(entry.task_id)
        try:
            if entry.pinned or entry.job is None or entry.circuit is None:
                raise OutOfRangeError(f"run: it is for ranks {list(entry.pinned)}, the new instance has {size}")
            entry.estimate = self._admission.estimate(entry.job, entry.circuit)
        except QSimEnvError as error:
            self._finish(entry, TaskState.FAILED, ErrorInfo(error.code, error.message))
        else:
            self.queue(entry)

    def instance_down(self, reason: str, was_ended: bool = False) -> None:
        """What ran goes back to the front of the queue, or has FAILED where it saw too many instances die.

        An instance that ``was_ended`` by us for a known reason does not count.
        """
        self._schedule.restart(0)
        self._ledger.sweep(self._tasks.all())
        for entry in self._tasks.unfinished():
            if entry.record.state != TaskState.RUNNING:
                continue
            if entry.to_cancel:
                self._finish(entry, TaskState.CANCELED)
            else:
                self._run_again(entry, reason, blamed=not was_ended)

    def _run_again(self, entry: Entry, reason: str, blamed: bool) -> None:
        entry.deaths += blamed
        if entry.deaths >= MAX_ATTEMPTS:
            text = f"run: {entry.deaths} instances ended while the task ran; the last one: {reason}"
            self._finish(entry, TaskState.FAILED, ErrorInfo(QSimEnvError.code, text))
            return
        if blamed and entry.written:
            self._ledger.death(entry)
        self._tasks.move(entry, TaskState.QUEUED)
        entry.record.ranks = ()
        entry.record.interruption = reason
        self.queue(entry)


def _item(entry: Entry) -> Item:
    task = entry.job.task if entry.job is not None else None
    return Item(
        task_id=entry.task_id,
        order=entry.order,
        client=entry.client,
        width=len(entry.pinned) or entry.estimate.ranks,
        seconds=entry.estimate.seconds,
        attempts=entry.deaths,
        pinned=entry.pinned,
        application=task.application if task is not None else "",
        priority=task.priority if task is not None else 0,
        is_timed=task is not None and task.time_limit_s is not None,
    )
