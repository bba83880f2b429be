"""The task table and the completion queues: what was accepted, what became of it, and who waits for what.

Plain data without I/O or clock. Each client has a completion queue, which holds its tasks in the order in which they
were submitted until they are read; a ``Waiting`` is a read that waits, and is told of each end it waits for in O(1).
What was read stays, for whoever asks for it by its id, until it is deleted or more than ``kept_results`` were read.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from qsimenv.circuit import Circuit
from qsimenv.errors import BadStateError, NotFoundError
from qsimenv.qpm_plugin.api import ErrorInfo, TaskRecord, TaskState
from qsimenv.qpm_plugin.messages import Job
from qsimenv.qpm_plugin.records import Filter
from qsimenv.qpm_plugin.sealed import Sealed
from qsimenv.task import Estimate

MOST_APPLICATIONS = 50
"""Telemetry tells of so many: each client may be one."""
PAGE_RECORDS, PAGE_LOOKS = 1000, 20_000
"""A page of the log holds so many records at most, and looks at so many tasks: milliseconds."""
KEPT_RESULTS = 200_000
"""So many tasks that were read are kept where the user does not say how many; older ones are forgotten."""


@dataclass(eq=False, slots=True)
class Entry:
    """One task. ``job`` and ``circuit`` go when it ends, ``result`` when it is read (the journal still has it).

    ``large`` names the file that its result lies in; ``reader`` is the read that waits for it, or has yet to take it.
    ``key`` is that of the request that brought it; ``deaths`` counts the instances that died while it ran, for a reason
    that may have been the task; ``written`` says that the journal has it, or will have it with the next commit.
    """

    record: TaskRecord
    order: int
    client: str
    job: Job | None
    circuit: Circuit | Sealed | None
    estimate: Estimate
    pinned: tuple[int, ...] = ()
    result: msgspec.Raw | None = None
    to_cancel: bool = False
    reader: Waiting | None = None
    read: bool = False
    key: str = ""
    written: bool = False
    deaths: int = 0
    size_bytes: int = 0
    large: str = ""

    @property
    def task_id(self) -> str:
        return self.record.task_id


@dataclass(eq=False, slots=True)
class Waiting:
    """A read of ``entries``; ``missing`` have not ended and ``short`` more have not even been submitted."""

    client: str
    entries: list[Entry]
    short: int
    missing: int
    ready: Callable[[Waiting], None]

    @property
    def is_ready(self) -> bool:
        return not self.missing and not self.short


class TaskTable:
    """All tasks of the environment by id, in order of submission. ``on_end`` hears of each end, before the reads do."""

    def __init__(self, kept_results: int = KEPT_RESULTS, on_end: Callable[[Entry], None] = lambda _entry: None) -> None:
        self._kept_results, self._on_end = kept_results, on_end
        self._entries: dict[str, Entry] = {}
        self._by_order: dict[int, Entry] = {}
        self._requests: dict[str, list[str]] = {}
        self._unread: dict[str, dict[str, Entry]] = {}
        self._read: dict[str, None] = {}
        self._short: list[Waiting] = []
        self.by_state = [0] * len(TaskState)
        """How many tasks are in each state."""
        self.by_application: dict[str, list[int]] = {}
        """The same of each application."""
        self.orders = 0
        self.unfinished_bytes = 0

    def add(self, entries: Sequence[Entry]) -> None:
        """Take tasks in; reads that wait for more tasks of their client get them."""
        for entry in entries:
            self.restore(entry)
        for waiting in list(self._short):
            self._fill(waiting)

    def restore(self, entry: Entry) -> None:
        """Take in a task in whatever state it is; it counts as read where ``entry.read``."""
        record, task_id = entry.record, entry.record.task_id
        self._entries[task_id] = self._by_order[entry.order] = entry
        if entry.key:
            self._requests.setdefault(entry.key, []).append(task_id)
        if entry.read:
            self._read[task_id] = None
        else:
            self._unread.setdefault(entry.client, {})[task_id] = entry
        for numbers in (self.by_state, self.by_application.setdefault(record.application, [0] * len(TaskState))):
            numbers[record.state] += 1
        self.orders = max(self.orders, entry.order + 1)
        if not record.state.is_final:
            self.unfinished_bytes += entry.size_bytes

    def request(self, key: str) -> list[str] | None:
        """The tasks that a request with this key brought, in order; None where there was none."""
        return self._requests.get(key)

    @property
    def num_unfinished(self) -> int:
        return sum(self.by_state[: TaskState.DONE])

    def applications(self) -> dict[str, dict[str, int]]:
        """Those MOST_APPLICATIONS that have most to do: what waits, what runs, what has ended and is kept."""
        busiest = heapq.nlargest(
            MOST_APPLICATIONS,
            self.by_application.items(),
            key=lambda item: (sum(item[1][: TaskState.DONE]), sum(item[1])),
        )
        return {
            name: {
                "waiting": sum(numbers[: TaskState.RUNNING]),
                "running": numbers[TaskState.RUNNING],
                "ended": sum(numbers[TaskState.DONE :]),
                "failed": numbers[TaskState.FAILED],
            }
            for name, numbers in busiest
        }

    def get(self, task_id: str) -> Entry:
        """NotFoundError for an id that is not (or no longer) known."""
        entry = self._entries.get(task_id)
        if entry is None:
            raise NotFoundError(f"task {task_id!r} is not known to this environment")
        return entry

    def find(self, task_id: str) -> Entry | None:
        return self._entries.get(task_id)

    def all(self) -> Iterable[Entry]:
        return self._entries.values()

    def page(self, before: int | None, wanted: Filter) -> tuple[list[TaskRecord], int | None]:
        """The newest records among those submitted before ``before``, and where the next page begins (None: nowhere).

        Bounded by PAGE_RECORDS and PAGE_LOOKS, so a page may be empty though others follow.
        """
        end = self.orders if before is None else min(before, self.orders)
        first = next(iter(self._by_order), end)
        stop = max(first, end - PAGE_LOOKS)
        found: list[TaskRecord] = []
        for order in range(end - 1, stop - 1, -1):
            entry = self._by_order.get(order)
            if entry is not None and wanted.matches(entry.record):
                found.append(entry.record)
                if len(found) == PAGE_RECORDS:
                    stop = order
                    break
        return found, stop if stop > first else None

    def unfinished(self) -> list[Entry]:
        """In order of submission. Looks at every unread task."""
        found = (e for queue in self._unread.values() for e in queue.values() if not e.record.state.is_final)
        return sorted(found, key=lambda entry: entry.order)

    def move(self, entry: Entry, state: TaskState) -> None:
        """Change the state of a task that has not ended."""
        record = entry.record
        for numbers in (self.by_state, self.by_application[record.application]):
            numbers[record.state] -= 1
            numbers[state] += 1
        record.state = state

    def finish(
        self,
        entry: Entry,
        state: TaskState,
        now: float,
        error: ErrorInfo | None = None,
        result: msgspec.Raw | None = None,
    ) -> None:
        """Put a task on the completion queue in its final state, and tell the reads that wait for it."""
        if entry.record.state.is_final:
            return
        self.move(entry, state)
        record = entry.record
        record.error, record.times.cq_enqueue_time, entry.result = error, now, result
        self._on_end(entry)
        self.unfinished_bytes -= entry.size_bytes
        entry.job = entry.circuit = None
        waiting = entry.reader
        if waiting is not None:
            waiting.missing -= 1
            if waiting.is_ready:
                waiting.ready(waiting)

    def finished_unread(self, client: str) -> list[TaskRecord]:
        """The records on a client's completion queue, in order of submission."""
        return [e.record for e in self._unread.get(client, {}).values() if e.record.state.is_final and e.reader is None]

    # --- reads ---

    def wait_for_count(self, count: int | None, ready: Callable[[Waiting], None], client: str) -> Waiting:
        """Wait for the next ``count`` tasks of the client that nobody has read or waits to read; None: for all of them.

        ``ready`` is called once, at once where nothing is missing.
        """
        queue = self._unread.get(client, {})
        wanted = sum(entry.reader is None for entry in queue.values()) if count is None else count
        waiting = Waiting(client, [], wanted, 0, ready)
        self._short.append(waiting)
        self._fill(waiting)
        return waiting

    def wait_for_ids(self, task_ids: Sequence[str], ready: Callable[[Waiting], None], client: str) -> Waiting:
        """Wait for these tasks, in this order, whoever submitted or has read them. NotFoundError; BadStateError where
        another read waits for one."""
        entries = [self.get(task_id) for task_id in dict.fromkeys(task_ids)]
        for entry in entries:
            if entry.reader is not None:
                raise BadStateError(f"read_cq: task {entry.task_id!r} is waited for by another read")
        waiting = Waiting(client, [], 0, 0, ready)
        for entry in entries:
            self._claim(waiting, entry)
        if waiting.is_ready:
            ready(waiting)
        return waiting

    def give_up(self, waiting: Waiting) -> None:
        """End a read without taking anything: what it claimed is there for others."""
        if waiting in self._short:
            self._short.remove(waiting)
        for entry in waiting.entries:
            entry.reader = None

    def take(self, waiting: Waiting, now: float) -> list[Entry]:
        """A read that is ready gets its entries, off the completion queue. Returns those that were on it."""
        taken = [entry for entry in waiting.entries if not entry.read]
        for entry in waiting.entries:
            entry.reader = None
        for entry in taken:
            entry.record.times.cq_dequeue_time = now
            entry.read = True
            self._forget_unread(entry)
            self._read[entry.task_id] = None
        return taken

    def put_back(self, taken: Sequence[Entry]) -> None:
        """Undo ``take``: the reader is gone."""
        for entry in taken:
            entry.read = False
            entry.record.times.cq_dequeue_time = None
            self._read.pop(entry.task_id, None)
            queue = self._unread.setdefault(entry.client, {})
            queue[entry.task_id] = entry
            self._unread[entry.client] = dict(sorted(queue.items(), key=lambda pair: pair[1].order))

    def outdated(self) -> list[Entry]:
        """The oldest of those that were read, where they are more than are kept."""
        number = max(0, len(self._read) - self._kept_results)
        return [self._entries[task_id] for task_id in itertools.islice(self._read, number)]

    def drop(self, entry: Entry) -> None:
        """Forget a task, and that its request ever came."""
        self._read.pop(entry.task_id, None)
        self._forget_unread(entry)
        self._requests.pop(entry.key, None)
        del self._entries[entry.task_id], self._by_order[entry.order]
        self.by_state[entry.record.state] -= 1
        numbers = self.by_application[entry.record.application]
        numbers[entry.record.state] -= 1
        if not any(numbers):
            del self.by_application[entry.record.application]
        if not entry.record.state.is_final:
            self.unfinished_bytes -= entry.size_bytes

    def _fill(self, waiting: Waiting) -> None:
        for entry in self._unread.get(waiting.client, {}).values():
            if not waiting.short:
                break
            if entry.reader is None:
                waiting.short -= 1
                self._claim(waiting, entry)
        if not waiting.short:
            self._short.remove(waiting)
            if waiting.is_ready:
                waiting.ready(waiting)

    def _claim(self, waiting: Waiting, entry: Entry) -> None:
        entry.reader = waiting
        waiting.entries.append(entry)
        waiting.missing += not entry.record.state.is_final

    def _forget_unread(self, entry: Entry) -> None:
        queue = self._unread.get(entry.client, {})
        queue.pop(entry.task_id, None)
        if not queue:
            self._unread.pop(entry.client, None)
