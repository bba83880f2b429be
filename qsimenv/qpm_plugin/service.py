"""What the controller knows and decides: tasks, completion queues, ranks, reservations. No sockets in here.

``Service.handle`` takes a request and returns its answer, or None where the answer comes later through ``Outside``.
It hands requests to its parts: ``submissions`` takes tasks in, ``reads`` gives results out, ``execution`` (which also
hears of the workers) has them run in between, ``reservations`` keeps ranks for a client. The controller calls it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

from qsimenv import engines, gates
from qsimenv.errors import BadStateError, InvalidArgumentError, QSimEnvError
from qsimenv.memory import peak_bytes
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.admission import Admission, Appraise, Finding
from qsimenv.qpm_plugin.api import DeviceState, ErrorInfo, TaskRecord, TaskState
from qsimenv.qpm_plugin.execution import MAX_ATTEMPTS, Execution
from qsimenv.qpm_plugin.ledger import Ledger
from qsimenv.qpm_plugin.mode import Mode
from qsimenv.qpm_plugin.outside import Asker, Outside
from qsimenv.qpm_plugin.reads import Reads
from qsimenv.qpm_plugin.reservations import Reservations
from qsimenv.qpm_plugin.scheduler import Schedule
from qsimenv.qpm_plugin.submissions import Capacity, Submissions
from qsimenv.qpm_plugin.tasks import PAGE_RECORDS, TaskTable

_VERSION = version("qsimenv")


class Service:
    """The state of an environment and its rules."""

    def __init__(self, name: str, outside: Outside, ledger: Ledger, capacity: Capacity) -> None:
        self.name, self._ledger, self._outside = name, ledger, outside
        self._started = time.time()
        self._mode = mode = Mode()
        self.tasks = tasks = TaskTable(capacity.kept_results, ledger.end)
        self.schedule = schedule = Schedule(looks_ahead=True)
        self.admission = admission = Admission()
        self.execution = Execution(tasks, schedule, admission, ledger, outside, mode)
        self.submissions = Submissions(tasks, schedule, admission, ledger, mode, capacity, self.execution.queue)
        self.reads = Reads(tasks, ledger, outside, self.execution.cancel)
        self.reservations = Reservations(schedule, ledger, outside, self.execution.start_tasks)

    def recover(self) -> None:
        """Go on from the journal: what had not ended waits again, what had ended can be read."""
        for entry, reader in self._ledger.recover():
            if reader is not None:
                self.reads.remember(reader, entry.task_id)
                entry.read = True
            self.tasks.restore(entry)
            if not entry.record.state.is_final:
                self.execution.queue(entry)
        self._ledger.sweep(self.tasks.all())
        self.reservations.recover()

    # --- requests ---

    def handle(self, asker: Asker, body: m.RequestBody) -> m.ReplyBody | None:  # noqa: PLR0912 - one line a message
        """Carry out a request. Raises QSimEnvError where it cannot be; None: the answer comes later."""
        match body:
            case m.Submit() | m.Evaluate() | m.CreateCircuit():
                return self._take_in(asker, body)
            case m.Read():
                self.reads.read(asker, body)
                return None
            case m.Abandon(number=number):
                self.reads.abandon(asker._replace(number=number))
                return None
            case m.Status():
                return m.Records(tuple(self._status(body.task_ids)))
            case m.Log():
                return self._log(body)
            case m.Peek():
                return m.Records(tuple(self.tasks.finished_unread(asker.client)))
            case m.CancelTasks():
                return m.Records(tuple(self.execution.cancel(body.task_ids)))
            case m.DeleteTasks():
                self._delete(body.task_ids)
            case m.DeleteCircuit():
                self.admission.forget(body.hash)
            case m.Reserve():
                return self.reservations.reserve(asker.client, body)
            case m.Renew():
                return self.reservations.renew(body)
            case m.Release():
                self.reservations.release(body.reservation_id)
            case m.ListReservations():
                return self.reservations.list()
            case m.Describe():
                return m.Facts(self.describe())
            case m.Telemetry():
                return m.Facts(self.telemetry())
            case _:
                raise InvalidArgumentError(f"{type(body).__name__}: not a request for the service")
        return m.Done()

    def _take_in(
        self, asker: Asker, body: m.Submit | m.Evaluate | m.CreateCircuit, finding: Finding | None = None
    ) -> m.ReplyBody | None:
        answer: m.ReplyBody | Appraise
        match body:
            case m.Submit():
                answer = self.submissions.submit(asker.client, body, finding)
            case m.Evaluate():
                answer = self.submissions.evaluate(body, finding)
            case m.CreateCircuit():
                answer = self.submissions.create(body, finding)
        if isinstance(answer, Appraise):
            self._outside.appraise(answer, partial(self._go_on, asker, body, answer))
            return None
        if isinstance(body, m.Submit) and body.wait and isinstance(answer, m.Accepted):
            self.reads.wait_for_run(asker, answer.task_ids, body.timeout_s)
            return None
        return answer

    def _go_on(
        self, asker: Asker, body: m.Submit | m.Evaluate | m.CreateCircuit, question: Appraise, finding: Finding
    ) -> None:
        """The appraiser has looked into the circuits of a request."""
        self.admission.answered(question)
        try:
            answer = self._take_in(asker, body, finding)
        except QSimEnvError as error:
            answer = m.Failed(error.code, error.message)
        if answer is not None:
            self._outside.answer(asker, [answer])

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

    def _delete(self, task_ids: Sequence[str]) -> None:
        entries = [self.tasks.get(task_id) for task_id in dict.fromkeys(task_ids)]
        for entry in entries:
            if not entry.record.state.is_final or entry.reader is not None:
                raise BadStateError(f"delete: task {entry.task_id!r} has not ended; cancel it first")
        self.reads.forget(entries)

    # --- the end ---

    def wind_down(self, drain: bool) -> bool:
        """Accept nothing more; ``drain``: run what waits, else leave it. Whether nothing has to be waited for."""
        self._mode.draining, self._mode.holding = True, not drain
        return self.execution.is_idle or bool(self._mode.broken)

    def close(self, keep: bool = False) -> None:
        """The environment ends: what has not ended is CANCELED or, with ``keep``, left to the next one; who waits is
        told."""
        error = ErrorInfo(BadStateError.code, "run: the environment was shut down")
        self._mode.draining, self._mode.keeping = True, keep
        if not keep:
            self.execution.end_all(TaskState.CANCELED, error)
        self.reads.close(m.Failed(error.code, "read_cq: the environment was shut down"))

    def give_up(self, reason: str) -> None:
        """No instance can be kept alive: the device is in ERROR."""
        self._mode.broken = reason
        self.execution.end_all(TaskState.FAILED, ErrorInfo(BadStateError.code, f"run: {reason}"))

    # --- facts ---

    @property
    def state(self) -> DeviceState:
        if self._mode.broken:
            return DeviceState.ERROR
        if not self.schedule.size:
            return DeviceState.OFFLINE
        if self._mode.draining:
            return DeviceState.MAINTENANCE
        return DeviceState.BUSY if self.schedule.running else DeviceState.IDLE

    def describe(self) -> dict[str, Any]:
        """What ``QPM.describe`` tells, less what only the controller knows."""
        return {
            "name": self.name,
            "version": _VERSION,
            "state": int(self.state),
            "ready": bool(self.schedule.size) and not self._mode.draining and not self._mode.broken,
            "reason": self._mode.broken,
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
            "uptime_s": time.time() - self._started,
            "tasks": {state.name: self.tasks.by_state[state] for state in TaskState},
            "tasks_accepted": self.tasks.orders,
            "queue_length": len(self.schedule.waiting),
            "applications": self.tasks.applications(),
            "ranks": {"total": size, "free": free, "busy": size - free},
            "reservations": len(self.schedule.claims),
            "work_rank_seconds": self.execution.work_seconds,
            "circuits": self.admission.num_circuits,
            "controller_peak_bytes": peak_bytes(),
        }
