"""The task table and the completion queues: what was accepted, what became of it, and who waits for what.

Plain data without I/O or clock. Each client has a completion queue, which holds its tasks in the order in which they
were submitted until they are read; a ``Waiting`` is a read that waits, and is told of each end it waits for in O(1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from qsimenv.circuit import Circuit
from qsimenv.errors import BadStateError, NotFoundError
from qsimenv.qpm_plugin.api import ErrorInfo, TaskRecord, TaskState
from qsimenv.qpm_plugin.messages import Job
from qsimenv.task import Estimate

KEPT_RECORDS = 200_000
"""Records of tasks that were read; older ones are forgotten."""


@dataclass(eq=False, slots=True)
class Entry:
    """One task. ``job`` and ``circuit`` go when it ends, ``result`` when it is read."""

    record: TaskRecord
    order: int
    client: str
    job: Job | None
    circuit: Circuit | None
    estimate: Estimate
    pinned: tuple[int, ...] = ()
    result: msgspec.Raw | None = None
    to_cancel: bool = False
    claimed: bool = False
    read: bool = False
    waiting: list[Waiting] = field(default_factory=list)

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
    """All tasks of the environment by id, in order of submission."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._unread: dict[str, dict[str, Entry]] = {}
        self._read: dict[str, None] = {}
        self._short: list[Waiting] = []
        self.by_state: Counter[TaskState] = Counter()
        self.orders = 0

    def add(self, entries: Sequence[Entry]) -> None:
        """Take tasks in; reads that wait for more tasks of their client get them."""
        for entry in entries:
            self._entries[entry.task_id] = entry
            self._unread.setdefault(entry.client, {})[entry.task_id] = entry
            self.by_state[entry.record.state] += 1
            self.orders = max(self.orders, entry.order + 1)
        for waiting in list(self._short):
            self._fill(waiting)

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

    def unfinished(self) -> list[Entry]:
        """In order of submission. Looks at every unread task."""
        found = (e for queue in self._unread.values() for e in queue.values() if not e.record.state.is_final)
        return sorted(found, key=lambda entry: entry.order)

    def move(self, entry: Entry, state: TaskState) -> None:
        """Change the state of a task that has not ended."""
        self.by_state[entry.record.state] -= 1
        self.by_state[state] += 1
        entry.record.state = state

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
        entry.record.error, entry.result = error, result
        entry.job = entry.circuit = None
        entry.record.times.cq_enqueue_time = now
        for waiting in entry.waiting:
            waiting.missing -= 1
            if waiting.is_ready:
                waiting.ready(waiting)
        entry.waiting.clear()

    def finished_unread(self, client: str) -> list[TaskRecord]:
        """The records on a client's completion queue, in order of submission."""
        return [e.record for e in self._unread.get(client, {}).values() if e.record.state.is_final and not e.claimed]

    # --- reads ---

    def wait_for_count(self, count: int | None, ready: Callable[[Waiting], None], client: str) -> Waiting:
        """Wait for the next ``count`` tasks of the client that nobody has read or waits to read; None: for all of them.

        ``ready`` is called once, at once where nothing is missing.
        """
        queue = self._unread.get(client, {})
        wanted = sum(not entry.claimed for entry in queue.values()) if count is None else count
        waiting = Waiting(client, [], wanted, 0, ready)
        self._short.append(waiting)
        self._fill(waiting)
        return waiting

    def wait_for_ids(self, task_ids: Sequence[str], ready: Callable[[Waiting], None], client: str) -> Waiting:
        """Wait for these tasks, in this order, whoever submitted them. NotFoundError, BadStateError if read already."""
        entries = [self.get(task_id) for task_id in dict.fromkeys(task_ids)]
        for entry in entries:
            if entry.read or entry.claimed:
                raise BadStateError(f"read_cq: task {entry.task_id!r} was read already or is waited for")
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
            entry.claimed = False
            if waiting in entry.waiting:
                entry.waiting.remove(waiting)

    def take(self, waiting: Waiting, now: float) -> list[tuple[TaskRecord, msgspec.Raw | None]]:
        """What a read that is ready gets; it is off the completion queue then."""
        taken = []
        for entry in waiting.entries:
            entry.record.times.cq_dequeue_time = now
            taken.append((entry.record, entry.result))
            entry.result, entry.claimed, entry.read = None, False, True
            self._forget_unread(entry)
            self._read[entry.task_id] = None
        while len(self._read) > KEPT_RECORDS:
            self._drop(next(iter(self._read)))
        return taken

    def put_back(self, waiting: Waiting, taken: Sequence[tuple[TaskRecord, msgspec.Raw | None]]) -> None:
        """Undo ``take``: the reader is gone."""
        for entry, (_, result) in zip(waiting.entries, taken, strict=True):
            entry.result, entry.read = result, False
            entry.record.times.cq_dequeue_time = None
            self._read.pop(entry.task_id, None)
            queue = self._unread.setdefault(entry.client, {})
            queue[entry.task_id] = entry
            self._unread[entry.client] = dict(sorted(queue.items(), key=lambda pair: pair[1].order))

    def _fill(self, waiting: Waiting) -> None:
        for entry in self._unread.get(waiting.client, {}).values():
            if not waiting.short:
                break
            if not entry.claimed:
                waiting.short -= 1
                self._claim(waiting, entry)
        if not waiting.short:
            self._short.remove(waiting)
            if waiting.is_ready:
                waiting.ready(waiting)

    def _claim(self, waiting: Waiting, entry: Entry) -> None:
        entry.claimed = True
        waiting.entries.append(entry)
        if not entry.record.state.is_final:
            waiting.missing += 1
            entry.waiting.append(waiting)

    def _forget_unread(self, entry: Entry) -> None:
        queue = self._unread.get(entry.client, {})
        queue.pop(entry.task_id, None)
        if not queue:
            self._unread.pop(entry.client, None)

    def _drop(self, task_id: str) -> None:
        del self._read[task_id]
        entry = self._entries.pop(task_id)
        self.by_state[entry.record.state] -= 1
