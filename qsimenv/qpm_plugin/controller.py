"""The controller process: two sockets, a timer, the supervisor of the workers, and the service that decides.

Thin on purpose: a frame comes in, is decoded and handed to the ``Service``; what it wants said goes out when the
journal has it: one commit for all that came in together (group commit). A request that a client sends twice (its
connection broke) is carried out once: the answer is kept until the link's next request. Imports neither Numba nor
mpi4py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from qsimenv.errors import BadStateError, InvalidArgumentError, QSimEnvError
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin import metrics
from qsimenv.qpm_plugin.api import Event, EventKind
from qsimenv.qpm_plugin.connection import CONNECTION_VARIABLE, Connection, new_keys
from qsimenv.qpm_plugin.instances import PING_SECONDS, InstanceHandle, InstanceLauncher, Limits, Supervisor, Worker
from qsimenv.qpm_plugin.journal import Journal
from qsimenv.qpm_plugin.ledger import Ledger
from qsimenv.qpm_plugin.ports import Guard, Port
from qsimenv.qpm_plugin.reads import Asker
from qsimenv.qpm_plugin.scheduler import Placement
from qsimenv.qpm_plugin.service import Capacity, Service
from qsimenv.qpm_plugin.tasks import Entry

__all__ = ["Capacity", "InstanceHandle", "InstanceLauncher", "Limits", "serve"]

_KEPT_LINKS = 10_000
_LARGE_BYTES = 1 << 20
_LARGE_KEPT_S = 60.0
_WRITE_WITHIN_S, _RETRY_JOURNAL_S = 0.02, 1.0
"""So soon the journal has what nobody has been told yet; so soon it is tried again where it could not be written."""
_LONGEST_GRACE_S = 1e6
"""An answer over LARGE_BYTES can be asked for again for so long only."""
_ARE_YOU_THERE = m.encode(m.Reply(0, m.Done()))
_log = logging.getLogger("qsimenv.controller")


async def serve(
    connection_path: Path,
    name: str,
    launcher: InstanceLauncher,
    ranks: int,
    on_ready: Callable[[], None] = lambda: None,
    *,
    on_end: Callable[[], None] = lambda: None,
    host: str = "127.0.0.1",
    limits: Limits | None = None,
    journal: Journal | None = None,
    capacity: Capacity | None = None,
    keeper_pid: int = 0,
    metrics_port: int | None = None,
) -> None:
    """Serve the QPM API on ``host`` (an address of this machine) until a client shuts it down or the task is cancelled.

    Goes on from ``journal`` and owns it from now on: it is removed when a client ends the environment without ``keep``,
    or where it holds no task, and left as it is otherwise; without one, nothing outlives this process. Writes the
    connection file first (the workers read it, too) and removes it at the end; ``keeper_pid`` goes there. ``on_ready``
    is called once, when every worker of the first instance has answered, ``on_end`` once, when the end begins. Raises
    BadStateError where no instance ever came up, InvalidArgumentError for a damaged journal. The workers are told to
    end, and killed where they have not after ``limits.stop_s``; ``launcher`` stays the caller's.
    """
    setting = Setting(name, ranks, host, limits or Limits(), capacity or Capacity(), keeper_pid, metrics_port)
    controller = Controller(connection_path, setting, launcher, journal or Journal(), on_ready, on_end)
    await controller.run()


class Setting(NamedTuple):
    """What a controller is told."""

    name: str
    ranks: int
    host: str
    limits: Limits
    capacity: Capacity
    keeper_pid: int
    metrics_port: int | None


class _Answer(NamedTuple):
    """An answer that waits for the journal."""

    asker: Asker
    parts: Sequence[m.ReplyBody]
    lost: Callable[[], None] | None


@dataclass(eq=False)
class _Link:
    """A client's connection: its last request, and the answer in case it asks again."""

    number: int = -1
    frames: list[bytes] = field(default_factory=list)


@dataclass(eq=False)
class _Subscriber:
    """A link that wants events of these kinds (none: of all); ``lost`` of them had no room on their way since."""

    kinds: tuple[str, ...]
    lost: int = 0


class Controller:
    """Joins the service to the sockets and the supervisor. It is the service's ``Outside``."""

    def __init__(
        self,
        connection_path: Path,
        setting: Setting,
        launcher: InstanceLauncher,
        journal: Journal,
        on_ready: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self._path, self._setting, self._limits = connection_path, setting, setting.limits
        self._on_ready, self._on_end, self._was_ready = on_ready, on_end, False
        self._ledger = Ledger(journal)
        self._service = Service(setting.name, self, self._ledger, setting.capacity)
        environ = {CONNECTION_VARIABLE: str(connection_path.absolute())}
        self._supervisor = Supervisor(
            launcher, setting.ranks, environ, self._limits, lambda: bool(self._service.schedule.running), self._up,
            self._down,
        )  # fmt: skip
        self._links: OrderedDict[bytes, _Link] = OrderedDict()
        self._subscribers: dict[bytes, _Subscriber] = {}
        self._stop = asyncio.Event()
        self._farewells: list[Asker] = []
        self._answers: list[_Answer] = []
        self._settling = False
        self._write_error = ""
        self._writing: asyncio.TimerHandle | None = None
        self._is_to_be_removed = False
        self._counters = {"requests": 0, "worker_messages": 0, "refused": 0, "events_dropped": 0}

    async def run(self) -> None:
        """Recover, open, serve until told to stop, close in order."""
        try:
            self._service.recover()
            await self._open_and_serve()
        finally:
            if self._writing is not None:
                self._writing.cancel()
            self._ledger.close(self._is_to_be_removed)

    async def _open_and_serve(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        connection = self._open(context)
        try:
            connection.write(self._path)
            async with metrics.serve(self._setting.metrics_port, self._telemetry):
                await self._serve()
        finally:
            self._path.unlink(missing_ok=True)
            self._clients.close()
            self._workers.close()
            self._guard.close()
            await asyncio.get_running_loop().run_in_executor(None, context.term)

    def _open(self, context: zmq.Context[zmq.Socket[bytes]]) -> Connection:
        server, client, worker = new_keys(), new_keys(), new_keys()
        self._guard = Guard(context, {"clients": client[0], "workers": worker[0]})
        host = self._setting.host
        self._clients = Port(context, host, "clients", server[1], self._from_client, self._settle)
        self._workers = Port(context, host, "workers", server[1], self._from_worker, self._settle)
        return Connection(
            name=self._service.name,
            address=self._clients.address,
            worker_address=self._workers.address,
            server_key=server[0],
            client_key=client[0],
            client_secret=client[1],
            worker_key=worker[0],
            worker_secret=worker[1],
            pid=os.getpid(),
            host=socket.gethostname(),
            started=time.time(),
            keeper_pid=self._setting.keeper_pid,
            results=self._ledger.open_results(server[0]),
        )

    async def _serve(self) -> None:
        instances = asyncio.ensure_future(self._supervisor.run())
        pings = asyncio.ensure_future(self._ping())
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({instances, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.done():
                self._give_up(instances.result())
                await stop
        finally:
            pings.cancel()
            stop.cancel()
            await self._stop_instances(instances)

    def _give_up(self, reason: str) -> None:
        _log.error("the device is out of order: %s", reason)
        if not self._was_ready:  # what the journal holds is left to a better start
            raise BadStateError(f"start: no instance of workers came up: {reason}")
        self._service.give_up(reason)
        self._settle()

    async def _stop_instances(self, instances: asyncio.Future[str]) -> None:
        """Tell the workers to end; kill what has not ended in time; then say farewell to who asked for it."""
        self._on_end()
        self._service.close(keep=not self._is_to_be_removed)
        self.emit("shutdown")
        self._supervisor.stop()
        for worker in self._supervisor.instance.workers.values():
            self._tell(worker, m.Stop())
        if not self._supervisor.instance.up.is_set():
            await self._supervisor.kill()
        done, _ = await asyncio.wait({instances}, timeout=self._limits.stop_s)
        if not done:
            await self._supervisor.kill()
            instances.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await instances
        for asker in self._farewells:
            self.answer(asker, [m.Done()])
        self._settle()

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS)
            schedule = self._service.schedule
            stuck = self._supervisor.stuck((1 << schedule.size) - 1 & ~schedule.free)
            ping = m.encode(m.Ping())
            workers = self._supervisor.instance.workers
            gone = [rank for rank, worker in workers.items() if not self._workers.reaches(worker.identity, ping)]
            if stuck or gone:
                await self._supervisor.kill(f"ranks {stuck or gone} do not answer any more")

    # --- clients ---

    def _from_client(self, link_id: bytes, frame: bytes) -> bool:
        """Answer a request, sooner or later; False for one that makes no sense, or came before."""
        self._counters["requests"] += 1
        try:
            request = m.decode_request(frame)
        except QSimEnvError as error:
            self._counters["refused"] += 1
            self._clients.send(link_id, m.encode(m.Reply(0, m.Failed(error.code, error.message))))
            return False
        link = self._link(link_id)
        again = isinstance(request.body, m.Abandon | m.Subscribe)
        if request.number == link.number and not again:
            for answer in link.frames:
                self._clients.send(link_id, answer)
            return False
        if request.number < link.number:
            return False
        if not isinstance(request.body, m.Abandon):
            link.number, link.frames = request.number, []
        asker = Asker(link_id, request.number, request.client, request.maps)
        try:
            body = self._carry_out(asker, request.body)
        except QSimEnvError as error:
            self._counters["refused"] += 1
            body = m.Failed(error.code, error.message)
        except Exception as error:  # noqa: BLE001 - the controller lives on, whatever a request does
            _log.exception("a request failed in a way nobody foresaw")
            body = m.Failed(QSimEnvError.code, f"{type(request.body).__name__}: {type(error).__name__}: {error}")
        if body is not None:
            self._answers.append(_Answer(asker, [body], None))  # the port settles when it has read all that came
        return True

    def _carry_out(self, asker: Asker, body: m.RequestBody) -> m.ReplyBody | None:
        match body:
            case m.Subscribe(kinds=kinds):
                self._subscribers[asker.link] = _Subscriber(kinds)
                return m.Done()
            case m.Shutdown():
                self._shut_down(asker, body)
                return None
        answer = self._service.handle(asker, body)
        if isinstance(answer, m.Facts):
            answer.facts.update(self._more_facts(body))
        return answer

    def _shut_down(self, asker: Asker, how: m.Shutdown) -> None:
        if not 0 <= how.grace_s <= _LONGEST_GRACE_S:
            raise InvalidArgumentError(
                f"shutdown: a grace of {how.grace_s} s found, between 0 and {_LONGEST_GRACE_S:g} s needed"
            )
        self._farewells.append(asker)
        self._is_to_be_removed = not how.keep
        self._service.draining = True
        self._service.holding = not how.drain
        self.emit("drain" if how.drain else "stop")
        if self._service.is_idle or self._service.broken:
            self._stop.set()
        elif not how.drain:
            self.later(how.grace_s, self._stop.set)

    def _more_facts(self, body: m.RequestBody) -> dict[str, Any]:
        instance = self._supervisor.instance
        if isinstance(body, m.Telemetry):
            ranks = {str(rank): worker.free_bytes for rank, worker in instance.workers.items()}
            ports = (self._clients, self._workers)
            traffic = {
                "received": sum(port.received_bytes for port in ports),
                "sent": sum(port.sent_bytes for port in ports),
            }
            launches = self._supervisor.launches
            return {**self._counters, "bytes": traffic, "instances": launches, "free_bytes": ranks}
        workers = sorted(instance.workers.values(), key=lambda worker: worker.hello.rank)
        return {
            "nodes": sorted({worker.hello.host for worker in workers}),
            "workers": [{"rank": w.hello.rank, "pid": w.hello.pid, "host": w.hello.host} for w in workers],
            "versions": workers[0].hello.versions if workers else {},
            "generation": instance.generation,
            "launcher": self._supervisor.launcher.describe(),
            "controller": {"pid": os.getpid(), "host": socket.gethostname()},
            "metrics_port": self._setting.metrics_port,
        }

    def _telemetry(self) -> dict[str, Any]:
        return self._service.telemetry() | self._more_facts(m.Telemetry())

    def _link(self, link_id: bytes) -> _Link:
        link = self._links.setdefault(link_id, _Link())
        self._links.move_to_end(link_id)
        if len(self._links) > _KEPT_LINKS:
            self._links.popitem(last=False)
        return link

    # --- what the service wants done ---

    def answer(
        self,
        asker: Asker,
        parts: Sequence[m.ReplyBody],
        lost: Callable[[], None] | None = None,
        at_once: bool = False,
    ) -> None:
        answer = _Answer(asker, parts, lost)
        if at_once:
            self._send_answer(answer)
            return
        self._answers.append(answer)
        if not self._settling:
            self._settling = True
            asyncio.get_running_loop().call_soon(self._settle)

    def _settle(self) -> None:
        """Everything that has come is dealt with: write the journal, tell the clients, start what can start.

        What nobody is about to be told (a task has ended that nobody waits for, say) is written a little later, with
        whatever else has come by then.
        """
        self._settling = True  # whatever is answered from here on goes out below
        if self._answers and self._ledger.has_news:
            self._write_journal()
        answers, self._answers = self._answers, []
        for answer in answers:
            self._send_answer(answer)
        self._service.start_tasks()
        self._settling = False
        if self._answers:
            self._settling = True
            asyncio.get_running_loop().call_soon(self._settle)
        elif self._ledger.has_news and self._writing is None:
            delay_s = _RETRY_JOURNAL_S if self._write_error else _WRITE_WITHIN_S
            self._writing = self.later(delay_s, self._write_late)

    def _write_late(self) -> None:
        self._writing = None
        if self._ledger.has_news:
            self._write_journal()
        self._settle()

    def _write_journal(self) -> None:
        """Where that fails, what was to be accepted is refused; the rest is kept in memory until there is room."""
        try:
            self._ledger.commit()
        except QSimEnvError as error:
            if not self._write_error:
                _log.error("%s", error)
            self._write_error = error.message
            refused = self._ledger.undo()
            self._service.withdraw(refused)
            ids = {entry.task_id for entry in refused}
            self._answers = [_without_acceptance(answer, ids, error) for answer in self._answers]
        else:
            if self._write_error:
                _log.warning("the journal can be written again")
            self._write_error = ""

    def _send_answer(self, answer: _Answer) -> None:
        asker = answer.asker
        try:
            frames = [m.encode(m.Reply(asker.number, part)) for part in answer.parts]
        except QSimEnvError as error:
            frames = [m.encode(m.Reply(asker.number, m.Failed(error.code, error.message)))]
        link = self._link(asker.link)
        if link.number == asker.number:
            link.frames = frames
            if sum(map(len, frames)) > _LARGE_BYTES:
                self.later(_LARGE_KEPT_S, link.frames.clear)
        sent = [self._clients.send(asker.link, frame) for frame in frames]
        if not all(sent) and answer.lost is not None:
            answer.lost()

    def is_there(self, asker: Asker) -> bool:
        return self._clients.send(asker.link, _ARE_YOU_THERE)

    def launch(self, placement: Placement, entries: Sequence[Entry]) -> None:
        jobs = tuple(entry.job for entry in entries if entry.job is not None)
        frames: dict[tuple[str, ...], bytes] = {}
        for rank in placement.ranks:
            worker = self._supervisor.instance.workers[rank]
            circuits = _new_circuits(worker, entries)
            names = tuple(circuits)
            if names not in frames:
                frames[names] = m.encode(m.Launch(placement.ranks, placement.task_ids, jobs, circuits))
            self._workers.send(worker.identity, frames[names])

    def cancel(self, ranks: Sequence[int], task_ids: Sequence[str]) -> None:
        for rank in ranks:  # all of them: each may be at work on parameter sets of its own
            worker = self._supervisor.instance.workers.get(rank)
            if worker is not None:
                self._tell(worker, m.Cancel(tuple(task_ids)))

    def end_instance(self, reason: str) -> None:
        self._kill_soon(reason, explained=True)

    def emit(self, kind: str, **details: Any) -> None:
        if not self._subscribers:
            return
        frame = _notice(kind, details)
        for link_id, subscriber in list(self._subscribers.items()):
            if not subscriber.kinds or kind in subscriber.kinds:
                self._notify(link_id, subscriber, frame)

    def _notify(self, link_id: bytes, subscriber: _Subscriber, frame: bytes) -> None:
        """Nobody waits for who reads slowly: it is told how many events it has missed as soon as it has room again."""
        if subscriber.lost and self._clients.send(link_id, _notice(EventKind.LOST, {"number": subscriber.lost})):
            subscriber.lost = 0
        if subscriber.lost or not self._clients.send(link_id, frame):
            self._counters["events_dropped"] += 1
            subscriber.lost += 1
            if not self._clients.reaches(link_id, _ARE_YOU_THERE):
                del self._subscribers[link_id]

    def later(self, delay_s: float, call: Any, *arguments: Any) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(max(0.0, delay_s), call, *arguments)

    def drained(self) -> None:
        self._stop.set()

    # --- workers ---

    def _tell(self, worker: Worker, message: m.ToWorker) -> None:
        self._workers.send(worker.identity, m.encode(message))

    def _from_worker(self, identity: bytes, frame: bytes) -> bool:
        """Hear what a worker says; False where that makes no sense."""
        self._counters["worker_messages"] += 1
        try:
            message = m.decode_from_worker(frame)
        except QSimEnvError as error:
            self._counters["refused"] += 1
            if self._supervisor.knows(identity):
                self._kill_soon(f"a worker's message cannot be read ({error})")
            return False
        try:
            return self._hear(identity, message)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("a worker's message failed in a way nobody foresaw")
            self._kill_soon("a worker's message could not be dealt with")
            return False

    def _kill_soon(self, reason: str, explained: bool = False) -> None:
        """What a worker had to say is lost; a new instance will do its tasks again."""
        self._killing = asyncio.ensure_future(self._supervisor.kill(reason, explained))

    def _hear(self, identity: bytes, message: m.FromWorker) -> bool:
        """False for what comes from nobody that is a worker now."""
        if isinstance(message, m.Hello):
            return self._supervisor.greet(identity, message)
        worker = self._supervisor.worker(message.generation, message.rank)
        if worker is None or worker.identity != identity:
            return False
        match message:
            case m.Answers(answers=answers):
                for answer in answers:
                    self._service.answered(answer)
            case m.Pong(free_bytes=free_bytes):
                worker.free_bytes = free_bytes
            case m.Broken(answer=answer):
                self._service.broke(answer)
                self._kill_soon(f"rank {message.rank} failed while others waited for it", explained=True)
        return True

    def _up(self) -> None:
        instance = self._supervisor.instance
        free_bytes = min(worker.hello.free_bytes for worker in instance.workers.values())
        self._service.instance_up(instance.size, free_bytes)
        lost = self._supervisor.launcher.describe().get("lost", [])
        self.emit("instance-up", generation=instance.generation, ranks=instance.size, lost=lost)
        if not self._was_ready:
            self._was_ready = True
            self._on_ready()

    def _down(self, reason: str) -> None:
        self._service.instance_down(reason, self._supervisor.instance.explained)
        self._settle()
        self.emit("instance-down", generation=self._supervisor.instance.generation, reason=reason)


def _notice(kind: str, details: dict[str, Any]) -> bytes:
    return m.encode(m.Reply(0, m.Notice(Event(kind, time.time(), details))))


def _without_acceptance(answer: _Answer, refused: Container[str], error: QSimEnvError) -> _Answer:
    """Nobody is told that a task was accepted that is not in the journal."""
    body = answer.parts[0]
    if not isinstance(body, m.Accepted) or body.task_ids[0] not in refused:
        return answer
    return answer._replace(parts=[m.Failed(error.code, f"submit: {error.message}")])


def _new_circuits(worker: Worker, entries: Sequence[Entry]) -> dict[str, bytes]:
    """The bytes of the circuits that the worker does not hold yet; it will. Uses ``known`` just as the worker does."""
    circuits = {entry.circuit.hash: entry.circuit for entry in entries if entry.circuit is not None}
    new = {name: circuit.bytes for name, circuit in circuits.items() if worker.known.get(name) is None}
    for name, data in new.items():
        worker.known.put(name, True, len(data))
    return new
