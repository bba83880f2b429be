"""What the controller knows and decides: tasks, completion queues, ranks, reservations. No sockets in here.

``Service.handle`` takes a request and returns its answer, or None where the answer comes later through ``Outside``.
``answered``, ``instance_up`` and ``instance_down`` tell it of the workers. Whoever drives it calls ``start_tasks``
after each batch of news; everything that reaches the outside goes through ``Outside``, which tests can play.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from qsimenv import engines, gates
from qsimenv.errors import BadStateError, InvalidArgumentError, OutOfRangeError, QSimEnvError, TimedOutError
from qsimenv.memory import peak_bytes
from qsimenv.qpm_plugin import large
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.admission import Admission
from qsimenv.qpm_plugin.api import DeviceState, ErrorInfo, Reservation, TaskRecord, TaskState, Times
from qsimenv.qpm_plugin.ledger import Ledger
from qsimenv.qpm_plugin.reads import LINGER_S, Asker, Outside, Reads
from qsimenv.qpm_plugin.scheduler import Item, Schedule
from qsimenv.qpm_plugin.tasks import KEPT_RESULTS, PAGE_RECORDS, Entry, TaskTable
from qsimenv.task import Estimate

_VERSION = version("qsimenv")
MAX_ATTEMPTS = 3
"""A task during which so many instances died is FAILED."""
_SHORTEST_RETRY_S, _LONGEST_RETRY_S = 0.05, 30.0
_NO_WORKER = m.Full(0.5, "no worker has answered yet; how much fits is not known")
_LIMIT_GRACE_S = 10.0
"""So much later than its time limit a task is ended by force: one sweep, or one exchange, may take a while."""


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """How much an environment takes in: tasks that have not ended, their bytes, and tasks that were read."""

    queued_tasks: int = 1_000_000
    queued_bytes: int = 4 << 30
    kept_results: int = KEPT_RESULTS


class Service:
    """The state of an environment and its rules."""

    def __init__(self, name: str, outside: Outside, ledger: Ledger, capacity: Capacity) -> None:
        self.name = name
        self._outside, self._ledger, self._capacity = outside, ledger, capacity
        self.tasks = TaskTable(capacity.kept_results, ledger.end)
        self.schedule = Schedule()
        self.admission = Admission()
        self.draining = False
        self.holding = False
        """Whether what waits is left waiting."""
        self.kept = False
        self.broken = ""
        self.started = time.time()
        self.work_seconds = 0.0
        self._prefix = uuid.uuid4().hex[:6]
        self.reads = Reads(self.tasks, ledger, outside, self._cancel)

    def recover(self) -> None:
        """Go on from the journal: what had not ended waits again, what had ended can be read."""
        for entry, reader in self._ledger.recover():
            if reader is not None:
                self.reads.remember(reader, entry.task_id)
                entry.read = True
            self.tasks.restore(entry)
            if not entry.record.state.is_final:
                self.schedule.add(_item(entry))
        self._ledger.sweep(self.tasks.all())
        self.schedule.claims.update(self._ledger.claims())
        for claim in self.schedule.claims.values():
            self._outside.later(claim.expires - time.time(), self._expire)

    # --- requests ---

    def handle(self, asker: Asker, body: m.RequestBody) -> m.ReplyBody | None:  # noqa: PLR0912 - one line a message
        """Carry out a request. Raises QSimEnvError where it cannot be; None: the answer comes later."""
        match body:
            case m.Submit():
                return self._submit(asker, body)
            case m.Read():
                self.reads.read(asker, body)
                return None
            case m.Evaluate():
                return self._evaluate(body)
            case m.Status():
                return m.Records(tuple(self._status(body.task_ids)))
            case m.Log():
                return self._log(body)
            case m.Peek():
                return m.Records(tuple(self.tasks.finished_unread(asker.client)))
            case m.CancelTasks():
                return m.Records(tuple(self._cancel(body.task_ids)))
            case m.DeleteTasks():
                self._delete(body.task_ids)
            case m.CreateCircuit():
                self.admission.learn({body.hash: body.data})
            case m.Abandon(number=number):
                self.reads.abandon(asker._replace(number=number))
                return None
            case m.DeleteCircuit():
                self.admission.forget(body.hash)
            case m.Reserve():
                return self._reserve(asker.client, body)
            case m.Renew():
                claim = self.schedule.renew(body.reservation_id, self._expiry("renew", body.duration_s))
                self._ledger.claim(body.reservation_id, claim)
                self._outside.later(body.duration_s, self._expire)
                return m.Reservations((_reservation(body.reservation_id, claim.ranks, claim.expires),))
            case m.Release():
                self.schedule.release(body.reservation_id)
                self._ledger.unclaim([body.reservation_id])
            case m.ListReservations():
                claims = self.schedule.claims.items()
                return m.Reservations(tuple(_reservation(name, claim.ranks, claim.expires) for name, claim in claims))
            case m.Describe():
                return m.Facts(self.describe())
            case m.Telemetry():
                return m.Facts(self.telemetry())
            case _:
                raise InvalidArgumentError(f"{type(body).__name__}: not a request for the service")
        return m.Done()

    def _submit(self, asker: Asker, body: m.Submit) -> m.ReplyBody | None:
        task_ids = self._submitted_before(body)
        if task_ids is None:
            self._check_accepting()
            full = self._check_room(body)
            if full is not None:
                return full
            self.admission.learn(body.circuits)
            unknown = self.admission.unknown(body.jobs)
            if unknown:
                return m.NeedCircuits(unknown)
            self._check_pinned(body)
            task_ids = [entry.task_id for entry in self._accept(asker.client, body)]
        if not body.wait:
            return m.Accepted(tuple(task_ids))
        self.reads.wait_for_run(asker, task_ids, body.timeout_s)
        return None

    def _submitted_before(self, body: m.Submit) -> list[str] | None:
        """The tasks that a request with the same key brought: this is a retry."""
        task_ids = self.tasks.request(body.key) if body.key else None
        if task_ids is not None and len(task_ids) != len(body.jobs):
            raise InvalidArgumentError(
                f"submit: the key {body.key!r} stands for an earlier request of {len(task_ids)} tasks, "
                f"{len(body.jobs)} found; use a key of its own for each request"
            )
        return task_ids

    def _check_room(self, body: m.Submit) -> m.Full | None:
        """Refuse for the moment what would make the queue too long; a single request that is too big for good fails."""
        if not self.admission.max_ranks:
            return _NO_WORKER
        unfinished, limit = self.tasks.num_unfinished, self._capacity.queued_tasks
        too_many = unfinished + len(body.jobs) - limit
        if len(body.jobs) > limit:
            raise InvalidArgumentError(f"submit: {len(body.jobs)} tasks found, {limit} can be queued; submit fewer")
        if too_many <= 0 and self.tasks.unfinished_bytes <= self._capacity.queued_bytes:
            return None
        ended = sum(number for state, number in self.tasks.by_state.items() if state.is_final)
        rate = max(1.0, ended / (time.time() - self.started))
        wait_s = min(_LONGEST_RETRY_S, max(_SHORTEST_RETRY_S, too_many / rate))
        queued = f"{unfinished} tasks ({self.tasks.unfinished_bytes >> 20} MiB) are queued"
        text = f"submit: the environment is full: {queued}, the limit is {limit}; retry after {wait_s:.1f} s"
        return m.Full(wait_s, text)

    def _accept(self, client: str, body: m.Submit) -> list[Entry]:
        now = time.time()
        first = self.tasks.orders
        entries = []
        admitted = self.admission.admit(body.jobs)
        for number, (job, (circuit, estimate)) in enumerate(zip(body.jobs, admitted, strict=True)):
            pinned = body.pinned[number] if body.pinned else ()
            record = TaskRecord(
                task_id=f"{self._prefix}-{first + number}",
                state=TaskState.QUEUED,
                name=job.task.name,
                times=Times(creation_time=now),
                engine=estimate.engine,
                application=job.task.application or client,
            )
            entries.append(Entry(record, first + number, client, job, circuit, estimate, pinned, key=body.key))
        if not body.wait:  # who waits for the end is told of nothing before it; the end is what is recorded
            self._ledger.accept(entries)
        self.tasks.add(entries)
        for entry in entries:
            self.schedule.add(_item(entry))
        return entries

    def _check_accepting(self) -> None:
        if self.broken:
            raise BadStateError(f"submit: the environment is out of order: {self.broken}")
        if self.draining:
            raise BadStateError("submit: the environment is shutting down and accepts nothing more")

    def _check_pinned(self, body: m.Submit) -> None:
        if body.pinned and len(body.pinned) != len(body.jobs):
            raise InvalidArgumentError(f"submit: {len(body.pinned)} teams found for {len(body.jobs)} tasks")
        for ranks in body.pinned:
            distinct = set(ranks)
            if len(distinct) != len(ranks) or len(ranks).bit_count() != 1 or min(ranks) < 0:
                raise InvalidArgumentError(f"submit: team {list(ranks)} found, a power of two of distinct ranks needed")
            if max(ranks) >= self.schedule.size:
                raise OutOfRangeError(f"submit: rank {max(ranks)} found, there are {self.schedule.size}")

    def _evaluate(self, body: m.Evaluate) -> m.ReplyBody:
        if not self.admission.max_ranks:
            return _NO_WORKER
        self.admission.learn(body.circuits)
        unknown = self.admission.unknown([body.job])
        if unknown:
            return m.NeedCircuits(unknown)
        return m.Estimated(self.admission.admit([body.job])[0][1])

    def _status(self, task_ids: Sequence[str] | None) -> list[TaskRecord]:
        if task_ids is None:
            return [entry.record for entry in self.tasks.all()]
        return [self.tasks.get(task_id).record for task_id in task_ids]

    def _log(self, body: m.Log) -> m.Page:
        if body.task_ids:
            entries = map(self.tasks.find, body.task_ids[:PAGE_RECORDS])
            return m.Page(tuple(e.record for e in entries if e is not None and body.wanted.matches(e.record)))
        records, before = self.tasks.page(body.before, body.wanted)
        return m.Page(tuple(records), before)

    def _cancel(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        entries = [self.tasks.get(task_id) for task_id in task_ids]
        for entry in entries:
            if entry.record.state == TaskState.RUNNING:
                entry.to_cancel = True
                self._outside.cancel(entry.record.ranks, (entry.task_id,))
            elif not entry.record.state.is_final:
                self.schedule.withdraw(entry.task_id)
                self._finish(entry, TaskState.CANCELED)
        return [entry.record for entry in entries]

    def _delete(self, task_ids: Sequence[str]) -> None:
        entries = [self.tasks.get(task_id) for task_id in dict.fromkeys(task_ids)]
        for entry in entries:
            if not entry.record.state.is_final or entry.claimed:
                raise BadStateError(f"delete: task {entry.task_id!r} has not ended; cancel it first")
        self._ledger.drop(entries)
        for entry in entries:
            self.tasks.drop(entry)
            if entry.large:
                self._outside.later(LINGER_S, self._ledger.discard, entry.large)

    def withdraw(self, entries: Sequence[Entry]) -> None:
        """Tasks that could not be recorded: they were never here."""
        for entry in entries:
            self.schedule.withdraw(entry.task_id)
            self.tasks.drop(entry)

    # --- reservations ---

    def _reserve(self, client: str, body: m.Reserve) -> m.ReplyBody:
        expires = self._expiry("reserve", body.duration_s)
        name = uuid.uuid4().hex[:12]
        claim = self.schedule.claim(name, client, body.ranks, expires)
        self._ledger.claim(name, claim)
        self._outside.later(body.duration_s, self._expire)
        return m.Reservations((_reservation(name, claim.ranks, claim.expires),))

    def _expiry(self, call: str, duration_s: float) -> float:
        if not (math.isfinite(duration_s) and 0 < duration_s <= 1e7):
            raise InvalidArgumentError(f"{call}: a duration of {duration_s} s found, between 0 and 1e7 s needed")
        return time.time() + duration_s

    def _expire(self) -> None:
        self._ledger.unclaim(self.schedule.expire(time.time() + 0.001))
        self.start_tasks()

    # --- workers ---

    def start_tasks(self) -> None:
        """Send out what can start now."""
        if self.holding or not self.schedule.waiting or not self.schedule.free:
            return
        now = time.time()
        for placement in self.schedule.next_launches():
            entries = [self.tasks.get(task_id) for task_id in placement.task_ids]
            for entry in entries:
                self.tasks.move(entry, TaskState.RUNNING)
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
            self.schedule.finish(entry.task_id)
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

    def answered(self, answer: m.Answer) -> None:
        """A task has ended on its ranks."""
        self.schedule.finish(answer.task_id)
        entry = self.tasks.find(answer.task_id)
        file = large.file_of(answer.result)
        if entry is None or entry.record.state != TaskState.RUNNING:
            self._ledger.discard(file)
            return
        if answer.canceled and not entry.to_cancel and self.kept:
            return  # it was stopped with the environment, and goes on with the next one
        times = entry.record.times
        times.exec_time, times.completion_time = answer.exec_time, answer.completion_time
        entry.record.engine = answer.engine or entry.record.engine
        self.work_seconds += (answer.completion_time - answer.exec_time) * len(entry.record.ranks)
        if entry.to_cancel or answer.canceled:
            self._ledger.discard(file)
            self._finish(entry, TaskState.CANCELED)
        elif answer.error is not None:
            self._finish(entry, TaskState.FAILED, answer.error)
        else:
            entry.large = file
            self._finish(entry, TaskState.DONE, result=answer.result.copy())

    def broke(self, answer: m.Answer) -> None:
        """A task has failed in a way that ends its instance; its ranks are not given to anybody before that."""
        entry = self.tasks.find(answer.task_id)
        if entry is not None and entry.record.state == TaskState.RUNNING:
            entry.record.times.exec_time = answer.exec_time
            entry.record.times.completion_time = answer.completion_time
            self._finish(entry, TaskState.FAILED, answer.error)

    def instance_up(self, size: int, free_bytes: int) -> None:
        """A new instance is ready; tasks take less room where it is smaller, what it cannot hold any more is FAILED."""
        self.schedule.restart(size)
        self.admission.resize(self.schedule.max_width, free_bytes)
        for entry in self.tasks.unfinished():
            if entry.estimate.ranks > self.schedule.max_width or max(entry.pinned, default=0) >= size:
                self._fit(entry, size)
        self.start_tasks()

    def _fit(self, entry: Entry, size: int) -> None:
        """Place a task on fewer ranks than it was meant for, or end it with the reason."""
        self.schedule.withdraw(entry.task_id)
        try:
            if entry.pinned or entry.job is None or entry.circuit is None:
                raise OutOfRangeError(f"run: it is for ranks {list(entry.pinned)}, the new instance has {size}")
            entry.estimate = self.admission.estimate(entry.job, entry.circuit)
        except QSimEnvError as error:
            self._finish(entry, TaskState.FAILED, ErrorInfo(error.code, error.message))
        else:
            self.schedule.add(_item(entry))

    def instance_down(self, reason: str, was_ended: bool = False) -> None:
        """What ran goes back to the front of the queue, or has FAILED where it saw too many instances die.

        An instance that ``was_ended`` by us for a known reason does not count.
        """
        self.schedule.restart(0)
        self._ledger.sweep(self.tasks.all())
        for entry in self.tasks.unfinished():
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
        self.tasks.move(entry, TaskState.QUEUED)
        entry.record.ranks = ()
        entry.record.interruption = reason
        self.schedule.add(_item(entry))

    def fail_all(self, state: TaskState, error: ErrorInfo | None) -> None:
        """End everything that has not ended, and let every read that waits end with it."""
        for entry in self.tasks.unfinished():
            self.schedule.withdraw(entry.task_id)
            self._finish(entry, state, error)

    def close(self, keep: bool = False) -> None:
        """The environment ends: what has not ended is CANCELED or, with ``keep``, left to the next one; who waits is
        told."""
        error = ErrorInfo(BadStateError.code, "run: the environment was shut down")
        self.draining, self.kept = True, keep
        if not keep:
            self.fail_all(TaskState.CANCELED, error)
        self.reads.close(m.Failed(error.code, "read_cq: the environment was shut down"))

    def give_up(self, reason: str) -> None:
        """No instance can be kept alive: the device is in ERROR."""
        self.broken = reason
        self.fail_all(TaskState.FAILED, ErrorInfo(BadStateError.code, f"run: {reason}"))

    def _finish(
        self, entry: Entry, state: TaskState, error: ErrorInfo | None = None, result: msgspec.Raw | None = None
    ) -> None:
        self.tasks.finish(entry, state, time.time(), error, result)
        self._tell_state(entry)
        if self.draining and self.is_idle:
            self._outside.drained()

    def _tell_state(self, entry: Entry) -> None:
        record = entry.record
        self._outside.emit("task", task_id=record.task_id, state=record.state.name, name=record.name)

    # --- facts ---

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, and nothing waits that is to run."""
        return (self.holding or not self.schedule.waiting) and not self.tasks.by_state[TaskState.RUNNING]

    @property
    def state(self) -> DeviceState:
        if self.broken:
            return DeviceState.ERROR
        if not self.schedule.size:
            return DeviceState.OFFLINE
        if self.draining:
            return DeviceState.MAINTENANCE
        return DeviceState.BUSY if self.schedule.running else DeviceState.IDLE

    def describe(self) -> dict[str, Any]:
        """What ``QPM.describe`` tells, less what only the controller knows."""
        return {
            "name": self.name,
            "version": _VERSION,
            "state": int(self.state),
            "ready": bool(self.schedule.size) and not self.draining and not self.broken,
            "reason": self.broken,
            "ranks": self.schedule.size,
            "max_team": self.schedule.max_width,
            "num_qubits": self.admission.max_qubits,
            "free_bytes_per_rank": self.admission.free_bytes,
            "engines": list(engines.names()),
            "gates": sorted(gates.BASE),
            "limits": {"frame_bytes": m.MAX_FRAME_BYTES, "result_bytes": m.MAX_RESULT_BYTES, "attempts": MAX_ATTEMPTS},
        }

    def telemetry(self) -> dict[str, Any]:
        """Counters and gauges; see ``QPM.telemetry``."""
        size, free = self.schedule.size, self.schedule.free.bit_count()
        return {
            "uptime_s": time.time() - self.started,
            "tasks": {state.name: self.tasks.by_state[state] for state in TaskState},
            "tasks_accepted": self.tasks.orders,
            "queue_length": len(self.schedule.waiting),
            "applications": self.tasks.applications(),
            "ranks": {"total": size, "free": free, "busy": size - free},
            "reservations": len(self.schedule.claims),
            "work_rank_seconds": self.work_seconds,
            "circuits": self.admission.num_circuits,
            "controller_peak_bytes": peak_bytes(),
        }


def _item(entry: Entry) -> Item:
    estimate: Estimate = entry.estimate
    width = len(entry.pinned) or estimate.ranks
    is_timed = entry.job is not None and entry.job.task.time_limit_s is not None
    asked = entry.job.task if entry.job is not None else None
    application, priority = (asked.application, asked.priority) if asked is not None else ("", 0)
    return Item(
        entry.task_id, entry.order, entry.client, width, estimate.seconds, entry.deaths, entry.pinned, application,
        priority, is_timed,
    )  # fmt: skip


def _reservation(name: str, ranks: int, expires: float) -> Reservation:
    return Reservation(name, ranks.bit_count(), expires)
