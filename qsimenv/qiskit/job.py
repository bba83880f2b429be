"""QSimJob: the circuits of one ``backend.run`` as Qiskit's job.

The tasks themselves live with a provider: the running environment, or this process (``local``). The job knows their
ids, reads their records once, and dresses them as Qiskit's Result.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from qiskit.providers import JobStatus, JobV1
from qiskit.providers.exceptions import JobTimeoutError
from qiskit.result import Result

from qsimenv.errors import BadStateError, TimedOutError
from qsimenv.qiskit.results import Experiment, qiskit_result
from qsimenv.qpm_plugin.api import TaskRecord, TaskState
from qsimenv.task import Task

_STATUS = {
    TaskState.CREATED: JobStatus.INITIALIZING,
    TaskState.SUBMITTED: JobStatus.QUEUED,
    TaskState.QUEUED: JobStatus.QUEUED,
    TaskState.RUNNING: JobStatus.RUNNING,
    TaskState.DONE: JobStatus.DONE,
    TaskState.CANCELED: JobStatus.CANCELLED,
    TaskState.FAILED: JobStatus.ERROR,
}


class Provider(Protocol):
    """What the backend and its jobs need of a QPM."""

    def describe(self) -> dict[str, Any]: ...

    def async_run(self, tasks: Sequence[Task]) -> list[str]: ...

    def read_cq(self, *, task_ids: Sequence[str], timeout_s: float | None = None) -> list[TaskRecord]: ...

    def status(self, task_ids: Sequence[str]) -> list[TaskRecord]: ...

    def cancel(self, task_ids: Sequence[str]) -> list[TaskRecord]: ...


class QSimJob(JobV1):  # type: ignore[misc]
    """Circuits that were submitted together. ``QSimBackend.run`` makes it; results keep the order of the circuits."""

    def __init__(
        self, backend: Any, provider: Provider, tasks: Sequence[Task], experiments: Sequence[Experiment]
    ) -> None:
        super().__init__(backend, uuid.uuid4().hex)
        self._provider = provider
        self._tasks = list(tasks)
        self._experiments = list(experiments)
        self._ids: list[str] = []
        self._records: list[TaskRecord] | None = None
        self._result: Result | None = None

    def submit(self) -> None:
        """Send all circuits in one request. BadStateError where that has happened."""
        if self._ids:
            raise BadStateError(
                f"submit: job {self.job_id()} was submitted before; run the circuits again for a new job"
            )
        self._ids = self._provider.async_run(self._tasks)
        self._tasks = []

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the outcome, ``timeout`` seconds at most (JobTimeoutError then; it can be asked for again).

        A circuit that failed has ``success`` False and the reason in ``status``; the others are there all the same.
        """
        if self._result is None:
            backend = self.backend()
            self._result = qiskit_result(
                self.job_id(), (backend.name, backend.backend_version), self._experiments, self.records(timeout)
            )
        return self._result

    def records(self, timeout: float | None = None) -> list[TaskRecord]:
        """The records of the tasks, with their times, ranks and results, once all have ended. Waits like ``result``."""
        if self._records is None:
            try:
                self._records = self._provider.read_cq(task_ids=self._ids, timeout_s=timeout)
            except TimedOutError as error:
                raise JobTimeoutError(error.message) from None
        return self._records

    def status(self) -> JobStatus:
        """One status for all: running while any runs or some have ended and others not; else the worst end."""
        if not self._ids:
            return JobStatus.INITIALIZING
        records = self._records if self._records is not None else self._provider.status(self._ids)
        return combined({record.state for record in records})

    def cancel(self) -> bool:
        """Cancel what has not ended; True where at least one circuit was canceled."""
        if self._records is not None or not self._ids:
            return False
        return any(record.state is TaskState.CANCELED for record in self._provider.cancel(self._ids))


def combined(states: set[TaskState]) -> JobStatus:
    """The status of a job whose tasks are in these states."""
    open_states = {state for state in states if not state.is_final}
    if TaskState.RUNNING in open_states or (open_states and open_states != states):
        return JobStatus.RUNNING
    if open_states:
        return _STATUS[max(open_states)]
    for state in (TaskState.FAILED, TaskState.CANCELED):
        if state in states:
            return _STATUS[state]
    return JobStatus.DONE
