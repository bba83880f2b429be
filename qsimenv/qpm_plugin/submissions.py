"""The way in: a submission is known already, refused for now, refused for good, or accepted.

Part of the ``Service``. What is accepted is in the task table, in the schedule and among the ledger's rows; the
answer leaves when the journal has them. A request with a key that came before is a retry and brings nothing new.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence

import msgspec

from qsimenv.errors import BadStateError, InvalidArgumentError, OutOfRangeError, from_code
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.admission import Admission, Appraise, Appraised, Finding
from qsimenv.qpm_plugin.api import TaskRecord, TaskState, Times
from qsimenv.qpm_plugin.ledger import Ledger
from qsimenv.qpm_plugin.mode import Mode
from qsimenv.qpm_plugin.scheduler import Schedule
from qsimenv.qpm_plugin.tasks import KEPT_RESULTS, Entry, TaskTable
from qsimenv.task import Estimate

_SHORTEST_RETRY_S, _LONGEST_RETRY_S = 0.05, 30.0
_NO_WORKER = m.Full(0.5, "no worker has answered yet; how much fits is not known")


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """How much an environment takes in: tasks that have not ended, their bytes, and tasks that were read."""

    queued_tasks: int = 1_000_000
    queued_bytes: int = 4 << 30
    kept_results: int = KEPT_RESULTS


class Submissions:
    """Takes tasks in. ``queue`` is called with each that is accepted."""

    def __init__(
        self,
        tasks: TaskTable,
        schedule: Schedule,
        admission: Admission,
        ledger: Ledger,
        mode: Mode,
        capacity: Capacity,
        queue: Callable[[Entry], None],
    ) -> None:
        self._tasks, self._schedule, self._admission = tasks, schedule, admission
        self._ledger, self._mode, self._capacity, self._queue = ledger, mode, capacity, queue
        self._began = time.time()
        self._prefix = uuid.uuid4().hex[:6]

    def submit(
        self, client: str, body: m.Submit, finding: Finding | None = None
    ) -> m.Accepted | m.Full | m.NeedCircuits | Appraise:
        """Or a question to the appraiser: it is to be called again with what that has found.

        BadStateError where nothing is taken in any more; InvalidArgumentError, OutOfRangeError, OutOfMemoryError
        or NotSupportedError where a task can never run here."""
        task_ids = self._submitted_before(body)
        if task_ids is not None:
            return m.Accepted(tuple(task_ids))
        self._check_accepting()
        full = self._check_room(len(body.jobs))
        if full is not None:
            return full
        estimates = self._estimates(body.jobs, body.circuits, finding)
        if isinstance(estimates, Appraise):
            return msgspec.structs.replace(estimates, folder=self._ledger.circuits, durable=self._ledger.is_durable)
        if not isinstance(estimates, Sequence):
            return estimates
        self._check_pinned(body)
        return m.Accepted(tuple(entry.task_id for entry in self._accept(client, body, estimates)))

    def evaluate(
        self, body: m.Evaluate, finding: Finding | None = None
    ) -> m.Estimated | m.Full | m.NeedCircuits | Appraise:
        """What a task would take. Raises what ``submit`` raises of a task that can never run here."""
        if not self._admission.max_ranks:
            return _NO_WORKER
        estimates = self._estimates([body.job], body.circuits, finding)
        return m.Estimated(estimates[0]) if isinstance(estimates, Sequence) else estimates

    def create(self, body: m.CreateCircuit, finding: Finding | None = None) -> m.Done | m.NeedCircuits | Appraise:
        """Keep a circuit. InvalidArgumentError where it is none."""
        estimates = self._estimates([], {body.hash: body.data}, finding)
        return m.Done() if isinstance(estimates, Sequence) else estimates

    def _estimates(
        self, jobs: Sequence[m.Job], circuits: dict[str, bytes], finding: Finding | None
    ) -> Sequence[Estimate] | m.NeedCircuits | Appraise:
        """What the jobs would take, after which the circuits are kept; or what has to be asked before."""
        if isinstance(finding, m.Failed):
            raise from_code(finding.code, finding.message)
        unknown = self._admission.unknown(jobs, circuits)
        if unknown:
            return m.NeedCircuits(unknown)
        if isinstance(finding, Appraised) and finding.max_ranks == self._admission.max_ranks:
            self._admission.keep_sealed(circuits)
            return finding.estimates
        lost = finding.hashes if isinstance(finding, m.NeedCircuits) else ()
        question = self._admission.question(jobs, circuits, lost)
        if question is not None:
            return question
        self._admission.learn(circuits)
        return self._admission.estimates(jobs)

    def _submitted_before(self, body: m.Submit) -> list[str] | None:
        """The tasks that a request with the same key brought: this is a retry."""
        task_ids = self._tasks.request(body.key) if body.key else None
        if task_ids is not None and len(task_ids) != len(body.jobs):
            raise InvalidArgumentError(
                f"submit: the key {body.key!r} stands for an earlier request of {len(task_ids)} tasks, "
                f"{len(body.jobs)} found; use a key of its own for each request"
            )
        return task_ids

    def _check_accepting(self) -> None:
        if self._mode.broken:
            raise BadStateError(f"submit: the environment is out of order: {self._mode.broken}")
        if self._mode.draining:
            raise BadStateError("submit: the environment is shutting down and accepts nothing more")

    def _check_room(self, number: int) -> m.Full | None:
        """Refuse for the moment what would make the queue too long; a single request that is too big for good fails."""
        if not self._admission.max_ranks:
            return _NO_WORKER
        limit = self._capacity.queued_tasks
        if number > limit:
            raise InvalidArgumentError(f"submit: {number} tasks found, {limit} can be queued; submit fewer")
        too_many = self._tasks.num_unfinished + number - limit
        if too_many <= 0 and self._tasks.unfinished_bytes <= self._capacity.queued_bytes:
            return None
        return self._full(too_many)

    def _full(self, too_many: int) -> m.Full:
        """Come back when as many as are too many have ended, at the rate at which tasks have ended so far."""
        ended = sum(self._tasks.by_state[TaskState.DONE :])
        rate = max(1.0, ended / (time.time() - self._began))
        wait_s = min(_LONGEST_RETRY_S, max(_SHORTEST_RETRY_S, too_many / rate))
        queued = f"{self._tasks.num_unfinished} tasks ({self._tasks.unfinished_bytes >> 20} MiB) are queued"
        limit = self._capacity.queued_tasks
        text = f"submit: the environment is full: {queued}, the limit is {limit}; retry after {wait_s:.1f} s"
        return m.Full(wait_s, text)

    def _check_pinned(self, body: m.Submit) -> None:
        if body.pinned and len(body.pinned) != len(body.jobs):
            raise InvalidArgumentError(f"submit: {len(body.pinned)} teams found for {len(body.jobs)} tasks")
        for ranks in body.pinned:
            if len(set(ranks)) != len(ranks) or len(ranks).bit_count() != 1 or min(ranks) < 0:
                raise InvalidArgumentError(f"submit: team {list(ranks)} found, a power of two of distinct ranks needed")
            if max(ranks) >= self._schedule.size:
                raise OutOfRangeError(f"submit: rank {max(ranks)} found, there are {self._schedule.size}")

    def _accept(self, client: str, body: m.Submit, estimates: Sequence[Estimate]) -> list[Entry]:
        entries = self._entries(client, body, estimates)
        if not body.wait:  # who waits for the end is told of nothing before it; the end is what is recorded
            self._ledger.accept(entries)
        self._tasks.add(entries)
        for entry in entries:
            self._queue(entry)
        return entries

    def _entries(self, client: str, body: m.Submit, estimates: Sequence[Estimate]) -> list[Entry]:
        now, first, circuits = time.time(), self._tasks.orders, self._admission.circuits(body.jobs)
        entries = []
        for number, (job, estimate) in enumerate(zip(body.jobs, estimates, strict=True)):
            circuit, pinned = circuits[job.circuit], body.pinned[number] if body.pinned else ()
            record = TaskRecord(
                task_id=f"{self._prefix}-{first + number}",
                state=TaskState.QUEUED,
                name=job.task.name,
                times=Times(creation_time=now),
                engine=estimate.engine,
                application=job.task.application or client,
            )
            entries.append(Entry(record, first + number, client, job, circuit, estimate, pinned, key=body.key))
        return entries
