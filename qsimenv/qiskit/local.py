"""This process as a provider of runs: the few calls of the QPM contract that a job needs, without any service.

``QSimBackend`` uses it where no environment runs. Tasks run one after the other on one background thread of the
process (an engine uses all cores by itself). Under ``mpirun`` every rank makes the same calls, so tasks run at once,
in the caller's thread: a collective call must not wait behind what another rank's thread happens to do.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import lru_cache
from typing import Any

from qsimenv import comm, engines, memory
from qsimenv.errors import NotFoundError, QSimEnvError, TimedOutError
from qsimenv.qpm_plugin.api import ErrorInfo, TaskRecord, TaskState
from qsimenv.task import AMPLITUDE_BYTES, Result, Task

Runner = Callable[[Task], Result]


def run_here(task: Task) -> Result:
    """Run on this process, or on all ranks of the MPI job (*collective* then)."""
    return engines.run(task, comm.world())


class LocalProvider:
    """Runs tasks in this process. The calls mean what ``qpm_plugin.api.QPM`` says; records stay until they are read."""

    def __init__(self, runner: Runner = run_here) -> None:
        self._run = runner
        self._lock = threading.Lock()
        self._records: dict[str, TaskRecord] = {}
        self._futures: dict[str, Future[None]] = {}

    def describe(self) -> dict[str, Any]:
        """``num_qubits``: how wide a state vector this process (or the MPI job) has memory for, at each precision."""
        free = memory.free_bytes_per_process() * comm.world().size
        widths = {precision: max(1, (free // size).bit_length() - 1) for precision, size in AMPLITUDE_BYTES.items()}
        return {"name": "qsimenv", "num_qubits": widths}

    def async_run(self, tasks: Sequence[Task]) -> list[str]:
        """Put the tasks into the queue of this process, in their order."""
        alone = comm.world().size == 1
        ids = []
        for task in tasks:
            record = TaskRecord(task_id=uuid.uuid4().hex, state=TaskState.QUEUED, name=task.name)
            record.times.creation_time = time.time()
            self._records[record.task_id] = record
            ids.append(record.task_id)
            if alone:
                self._futures[record.task_id] = _thread().submit(self._work, record, task)
            else:
                self._work(record, task)
        return ids

    def status(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """The records, without waiting. NotFoundError for an id that is not known or was read."""
        return [self._record(task_id) for task_id in task_ids]

    def read_cq(self, task_ids: Sequence[str], timeout_s: float | None = None) -> list[TaskRecord]:
        """Wait for the tasks and take their records. TimedOutError after ``timeout_s`` seconds; nothing is lost."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        for task_id in task_ids:
            self._record(task_id)
            self._wait(task_id, end)
        for task_id in task_ids:
            self._futures.pop(task_id, None)
        now = time.time()
        records = [self._records.pop(task_id) for task_id in task_ids]
        for record in records:
            record.times.cq_dequeue_time = now
        return records

    def cancel(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """Cancel what has not begun; a circuit that runs in this process runs to its end."""
        with self._lock:
            for task_id in task_ids:
                record = self._record(task_id)
                if record.state is TaskState.QUEUED:
                    self._end(record, TaskState.CANCELED)
        return self.status(task_ids)

    def _record(self, task_id: str) -> TaskRecord:
        if task_id not in self._records:
            raise NotFoundError(f"task {task_id}: not known in this process, or already read")
        return self._records[task_id]

    def _wait(self, task_id: str, end: float | None) -> None:
        future = self._futures.get(task_id)
        if future is None or self._record(task_id).state.is_final:
            return
        try:
            future.result(None if end is None else max(0.0, end - time.monotonic()))
        except FutureTimeoutError:
            raise TimedOutError(
                f"result: task {task_id} has not ended in the time given; ask again, or cancel"
            ) from None

    def _work(self, record: TaskRecord, task: Task) -> None:
        with self._lock:
            if record.state is not TaskState.QUEUED:
                return
            record.state, record.attempts = TaskState.RUNNING, 1
            record.times.launch_time = record.times.exec_time = time.time()
        result, error = self._outcome(task)
        with self._lock:
            record.result, record.error = result, error
            if result is not None:
                record.engine = str(result.metadata.get("engine", ""))
            self._end(record, TaskState.FAILED if error else TaskState.DONE)

    def _outcome(self, task: Task) -> tuple[Result | None, ErrorInfo | None]:
        try:
            return self._run(task), None
        except QSimEnvError as error:
            return None, ErrorInfo(error.code, error.message)
        except MemoryError:
            return None, ErrorInfo(-2, "run: the machine ran out of memory")
        except Exception as error:  # noqa: BLE001 - a thread must not swallow it: it becomes the task's failure
            return None, ErrorInfo(QSimEnvError.code, f"run: {type(error).__name__}: {error}")

    @staticmethod
    def _end(record: TaskRecord, state: TaskState) -> None:
        record.state = state
        record.times.completion_time = record.times.cq_enqueue_time = time.time()


@lru_cache(maxsize=1)
def _thread() -> ThreadPoolExecutor:
    """The one background thread of the process."""
    return ThreadPoolExecutor(1, thread_name_prefix="qsimenv")
