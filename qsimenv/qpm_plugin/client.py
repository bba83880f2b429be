"""The client: the QPM contract over the network, synchronous, safe to use from several threads.

Each call borrows a link (a CURVE socket with a monitor), so that a read that waits does not keep another thread from
cancelling. A link whose connection broke asks again when it stands again; the controller carries a request out once.
Nothing polls: the controller answers when there is something to say. A wrong key and a silent address are told apart.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import zmq

from qsimenv.circuit import Circuit
from qsimenv.errors import BadStateError, NotFoundError, QSimEnvError, from_code
from qsimenv.qpm_plugin import large
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.api import QPM, Event, Reservation, TaskRecord, TaskState
from qsimenv.qpm_plugin.connection import Connection, find_connection
from qsimenv.qpm_plugin.link import Link, T, expect
from qsimenv.qpm_plugin.listener import Listener
from qsimenv.qpm_plugin.records import ALL, Filter
from qsimenv.qpm_plugin.result_files import Folders
from qsimenv.qpm_plugin.selftest import check_outcomes, test_tasks
from qsimenv.qpm_plugin.stream import Stream
from qsimenv.qpm_plugin.tasks import PAGE_RECORDS
from qsimenv.task import Estimate, Result, Task

__all__ = ["Client", "connect", "find_connection"]

_LONGEST_BACKOFF_S = 30.0

APPLICATION_VARIABLE = "QSIMENV_APPLICATION"
_Body = Callable[[dict[str, bytes]], m.RequestBody]
"""A request, made with the bytes of the circuits that have to go with it."""


def connect(
    connection_file: str | Path | None = None,
    timeout_s: float = 10.0,
    client_id: str | None = None,
    application: str | None = None,
) -> Client:
    """The running environment, by its connection file (default: ``find_connection``).

    With the ``client_id`` of an earlier client its tasks and their results are found again. The environment shares its
    ranks fairly between applications; clients that belong together name the same ``application`` (default:
    ``$QSIMENV_APPLICATION``, else each client is one of its own). Raises NotFoundError where
    there is no environment, PermissionDeniedError where the key is not its own, TimedOutError where nobody answers.
    """
    path = Path(connection_file) if connection_file is not None else find_connection()
    if path is None:
        raise NotFoundError("connect: no running environment found; start one, or set QSIMENV_CONNECTION to its file")
    named = os.environ.get(APPLICATION_VARIABLE, "") if application is None else application
    client = Client(Connection.read(path), timeout_s, client_id or uuid.uuid4().hex, path, named)
    try:
        client.greet()
    except BaseException:
        client.close()
        raise
    return client


class Client(QPM):
    """``QPM`` for the environment behind a connection. ``timeout_s`` bounds how long a connection may stay lost.

    ``path`` is the connection file, by which a controller that was started again is found.
    """

    def __init__(
        self,
        connection: Connection,
        timeout_s: float,
        client_id: str,
        path: Path | None = None,
        application: str = "",
    ) -> None:
        self.connection, self.client_id = connection, client_id
        self._application = application
        self._timeout_s, self._path = timeout_s, path
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._lock = threading.Lock()
        self._idle: list[Link] = []
        self._listeners: list[Listener] = []
        self._sent: set[str] = set()
        self._closed = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def greet(self) -> None:
        """Wait until the controller has answered; raises what ``connect`` raises."""
        with self._link() as link:
            expect(link.ask(m.Describe(), self._timeout_s), m.Facts)

    # --- resource management ---

    def describe(self) -> dict[str, Any]:
        return self._ask(m.Describe(), m.Facts).facts

    def evaluate(self, task: Task) -> Estimate:
        job = m.Job.of(task)
        return self._ask_with([task], lambda circuits: m.Evaluate(job, circuits), m.Estimated).estimate

    def reserve(self, ranks: int, duration_s: float) -> Reservation:
        return self._ask(m.Reserve(ranks, duration_s), m.Reservations).reservations[0]

    def renew(self, reservation_id: str, duration_s: float) -> Reservation:
        return self._ask(m.Renew(reservation_id, duration_s), m.Reservations).reservations[0]

    def release(self, reservation_id: str) -> None:
        self._ask(m.Release(reservation_id), m.Done)

    def list_reservations(self) -> list[Reservation]:
        return list(self._ask(m.ListReservations(), m.Reservations).reservations)

    # --- runtime ---

    def is_ready(self) -> bool:
        return bool(self.describe()["ready"])

    def create_circuit(self, circuit: Circuit) -> str:
        self._ask(m.CreateCircuit(circuit.hash, circuit.bytes), m.Done)
        self._sent.add(circuit.hash)
        return circuit.hash

    def delete_circuit(self, circuit_hash: str) -> None:
        self._sent.discard(circuit_hash)
        self._ask(m.DeleteCircuit(circuit_hash), m.Done)

    def sync_run(self, task: Task, timeout_s: float | None = None) -> Result:
        """Run one task and wait; one message there, one back. After ``timeout_s`` seconds the task is canceled."""
        jobs, key = (self._job(task),), uuid.uuid4().hex
        records = self._ask_records(
            [task], lambda circuits: m.Submit(jobs, circuits, wait=True, timeout_s=timeout_s, key=key)
        )
        return _result_of(records[0])

    def async_run(self, tasks: Task | Sequence[Task], key: str = "") -> list[str]:
        """See ``QPM.async_run``. A ``key`` of one's own makes the request safe to repeat, by a program that is started
        again, say: what came with the same key before is not submitted a second time, and the ids are the same.

        Where the environment is full, it is asked again when it said, for as long as it takes.
        """
        return self._submit([tasks] if isinstance(tasks, Task) else list(tasks), key=key)

    @contextmanager
    def stream(self) -> Iterator[Stream]:
        """Many submissions that do not wait for each other's answers; leaving it waits for all of them::

        with qpm.stream() as stream:
            for task in tasks:
                stream.submit(task)
        records = qpm.read_cq(task_ids=stream.finish())
        """
        with self._link() as link:
            stream = Stream(link, self._job, self._sent)
            yield stream
            stream.finish()

    def read_cq(
        self, count: int | None = None, timeout_s: float | None = None, task_ids: Sequence[str] | None = None
    ) -> list[TaskRecord]:
        """See ``QPM.read_cq``. ``count`` takes the first unread tasks in order of submission, and waits for just these.

        ``task_ids`` may name tasks of other clients, and such as were read before: results stay until they are deleted.
        """
        ids = None if task_ids is None else tuple(task_ids)
        return self._ask_records([], lambda _: m.Read(count, timeout_s, ids))

    def peek_cq(self) -> list[TaskRecord]:
        return list(self._ask(m.Peek(), m.Records).records)

    def status(self, task_ids: Sequence[str] | None = None) -> list[TaskRecord]:
        return list(self._ask(m.Status(None if task_ids is None else tuple(task_ids)), m.Records).records)

    def log(self, wanted: Filter = ALL, limit: int = 0) -> list[TaskRecord]:
        """Records without results, in order of submission: the newest ``limit`` of those ``wanted`` (0: all).

        They come in pages of at most ``tasks.PAGE_RECORDS``, so that the controller is never kept from its work.
        """
        records: list[TaskRecord] = []
        before: int | None = None
        while not limit or len(records) < limit:
            page = self._ask(m.Log(before, wanted), m.Page)
            records.extend(page.records)
            before = page.before
            if before is None:
                break
        return records[: limit or None][::-1]

    def known(self, task_ids: Sequence[str], wanted: Filter = ALL) -> list[TaskRecord]:
        """Like ``log``, of those of these tasks that are (still) known, in the order given."""
        records: list[TaskRecord] = []
        for k in range(0, len(task_ids), PAGE_RECORDS):
            ids = tuple(task_ids[k : k + PAGE_RECORDS])
            records.extend(self._ask(m.Log(wanted=wanted, task_ids=ids), m.Page).records)
        return records

    def cancel(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        return list(self._ask(m.CancelTasks(tuple(task_ids)), m.Records).records)

    def delete(self, task_ids: Sequence[str]) -> None:
        """Forget tasks that have ended, and their results. NotFoundError; BadStateError for one that has not ended."""
        self._ask(m.DeleteTasks(tuple(task_ids)), m.Done)

    def register_event_notification(
        self, callback: Callable[[Event], None], kinds: Sequence[str] = ()
    ) -> Callable[[], None]:
        listener = Listener(self._new_link(), callback, tuple(kinds))
        with self._lock:
            self._listeners.append(listener)
        return listener.stop

    def telemetry(self) -> dict[str, Any]:
        return self._ask(m.Telemetry(), m.Facts).facts

    def test(self) -> dict[str, Any]:
        facts = self.describe()
        tasks, teams = test_tasks(int(facts["ranks"]), int(facts["max_team"]))
        records = self.read_cq(task_ids=self._submit(tasks, teams))
        return check_outcomes(records, teams)

    def shutdown(
        self, drain: bool = False, keep: bool = False, grace_s: float = 0.0, within_s: float | None = None
    ) -> int:
        """End the environment; returns when its workers have ended (with ``drain``: after the last task, or after
        ``within_s`` seconds, where that comes first: what has not ended is kept then).

        ``keep`` leaves tasks and results to the next environment with the same journal; without it they are gone.
        Without ``drain`` what runs is given ``grace_s`` seconds to end, and nothing starts meanwhile.
        """
        return self._ask(m.Shutdown(drain, keep, grace_s, within_s), m.Ended).left

    def close(self) -> None:
        with self._lock:
            self._closed = True
            links, self._idle = self._idle, []
            listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.stop()
        for link in links:
            link.close()
        self._context.destroy(linger=0)

    # --- asking ---

    def _submit(self, tasks: Sequence[Task], teams: Sequence[tuple[int, ...]] = (), key: str = "") -> list[str]:
        jobs, key = tuple(map(self._job, tasks)), key or uuid.uuid4().hex
        if not jobs:
            return []
        reply = self._ask_with(tasks, lambda circuits: m.Submit(jobs, circuits, tuple(teams), key=key), m.Accepted)
        return list(reply.task_ids)

    def _job(self, task: Task) -> m.Job:
        """The task as it travels; without an application of its own it belongs to the client's."""
        if self._application and not task.application:
            task = msgspec.structs.replace(task, application=self._application)
        return m.Job.of(task)

    def _ask(self, body: m.RequestBody, kind: type[T]) -> T:
        with self._link() as link:
            return expect(link.ask(body), kind)

    def _ask_records(self, tasks: Sequence[Task], body: _Body) -> list[TaskRecord]:
        records: list[TaskRecord] = []
        with self._link() as link:
            part = expect(self._ask_on(link, tasks, body), m.Records)
            records.extend(_dressed(part, link.results))
            while part.more:
                part = expect(link.more(), m.Records)
                records.extend(_dressed(part, link.results))
        return records

    def _ask_with(self, tasks: Sequence[Task], body: _Body, kind: type[T]) -> T:
        with self._link() as link:
            return expect(self._ask_on(link, tasks, body), kind)

    def _ask_on(self, link: Link, tasks: Sequence[Task], body: _Body) -> m.ReplyBody:
        """Ask with the bytes of those circuits that were not sent before, and again where the controller lacks some."""
        circuits = {task.circuit.hash: task.circuit for task in tasks}
        new = {name: circuit.bytes for name, circuit in circuits.items() if name not in self._sent}
        refusals = 0
        reply = link.ask(body(new))
        while isinstance(reply, m.NeedCircuits | m.Full):
            if isinstance(reply, m.NeedCircuits):
                new |= {name: circuits[name].bytes for name in reply.hashes}
            else:
                time.sleep(_backoff_s(reply.retry_after_s, refusals))
                refusals += 1
            reply = link.ask(body(new))
        if not isinstance(reply, m.Failed):
            self._sent.update(new)
        return reply

    @contextmanager
    def _link(self) -> Iterator[Link]:
        """A link that nobody else uses; one that failed in the middle of a request is not used again."""
        with self._lock:
            link = self._idle.pop() if self._idle else None
        link = link or self._new_link()
        try:
            yield link
        except QSimEnvError:
            self._put_back(link, link.is_clean)
            raise
        except BaseException:
            link.abandon()
            self._put_back(link, False)
            raise
        self._put_back(link, True)

    def _put_back(self, link: Link, is_clean: bool) -> None:
        with self._lock:
            if link.connection.started > self.connection.started:
                self.connection = link.connection
            if is_clean and not self._closed:
                self._idle.append(link)
                return
        link.close()

    def _new_link(self) -> Link:
        if self._closed:
            raise BadStateError("client: it was closed; connect again")
        return Link(self._context, self.connection, self.client_id, self._timeout_s, self._path)


def _backoff_s(asked_s: float, refusals: int) -> float:
    """As long as was asked for, longer each time, and not all clients at once."""
    return min(_LONGEST_BACKOFF_S, asked_s * 1.5**refusals) * random.uniform(1.0, 1.3)  # noqa: S311 - no secret


def _dressed(part: m.Records, folders: Folders | None) -> list[TaskRecord]:
    if not part.results:
        return list(part.records)
    pairs = zip(part.records, part.results, strict=True)
    return [msgspec.structs.replace(record, result=large.read(folders, result)) for record, result in pairs]


def _result_of(record: TaskRecord) -> Result:
    if record.state == TaskState.CANCELED:
        raise BadStateError(f"sync_run: task {record.task_id} was canceled")
    if record.error is not None:
        raise from_code(record.error.code, record.error.message)
    if record.result is None:
        raise QSimEnvError(f"sync_run: task {record.task_id} ended without a result")
    return record.result
