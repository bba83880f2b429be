"""The controller process: two doors, a timer, the supervisor of the workers, and the service that decides.

``serve`` is its life; the launcher's ``serving`` calls it, and tests do. Thin on purpose: it joins the ``Service`` to
``client_door``, ``worker_door``, ``outbox`` and ``instances``, starts them in order and ends them in order. Imports
neither Numba nor mpi4py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from qsimenv.errors import BadStateError, InvalidArgumentError
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin import metrics
from qsimenv.qpm_plugin.admission import Appraise, Finding
from qsimenv.qpm_plugin.appraiser import Appraiser
from qsimenv.qpm_plugin.client_door import ClientDoor
from qsimenv.qpm_plugin.connection import CONNECTION_VARIABLE, Connection, new_keys
from qsimenv.qpm_plugin.garbage import Garbage, old_objects_left_alone
from qsimenv.qpm_plugin.instances import PING_SECONDS, InstanceHandle, InstanceLauncher, Limits, Supervisor
from qsimenv.qpm_plugin.journal import Journal
from qsimenv.qpm_plugin.ledger import Ledger
from qsimenv.qpm_plugin.outbox import Answer, Outbox
from qsimenv.qpm_plugin.outside import Asker
from qsimenv.qpm_plugin.ports import Guard, Keys
from qsimenv.qpm_plugin.scheduler import Placement
from qsimenv.qpm_plugin.service import Service
from qsimenv.qpm_plugin.sockets import CLIENTS, WORKERS, Socket
from qsimenv.qpm_plugin.submissions import Capacity
from qsimenv.qpm_plugin.tasks import Entry
from qsimenv.qpm_plugin.vigil import Vigil
from qsimenv.qpm_plugin.worker_door import WorkerDoor

__all__ = ["Capacity", "InstanceHandle", "InstanceLauncher", "Limits", "serve"]

_LONGEST_WAIT_S = 1e6
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


class Controller:
    """Joins the service to the doors and the supervisor. It is the service's ``Outside``."""

    def __init__(
        self,
        connection_path: Path,
        setting: Setting,
        launcher: InstanceLauncher,
        journal: Journal,
        on_ready: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self._path, self._setting = connection_path, setting
        self._on_ready, self._on_end, self._was_ready = on_ready, on_end, False
        self._ledger, self._appraiser = Ledger(journal), Appraiser()
        self._service = service = Service(setting.name, self, self._ledger, setting.capacity)
        self._outbox = Outbox(self._ledger, service, self._send)
        environ = {CONNECTION_VARIABLE: str(connection_path.absolute())}
        self._supervisor = Supervisor(
            launcher,
            setting.ranks,
            environ,
            setting.limits,
            lambda: bool(service.schedule.running),
            self._up,
            self._down,
        )
        self._stop = asyncio.Event()
        self._farewells: list[Asker] = []
        self._is_to_be_removed = False

    # --- its life ---

    async def run(self) -> None:
        """Recover, open, serve until told to stop, close in order."""
        try:
            with old_objects_left_alone():
                self._service.recover()
                await self._open_and_serve()
        finally:
            self._outbox.close()
            self._ledger.close(self._is_to_be_removed)

    async def _open_and_serve(self) -> None:
        context: zmq.Context[Socket] = zmq.Context()
        connection = self._open(context)
        try:
            connection.write(self._path)
            async with metrics.serve(self._setting.metrics_port, self._telemetry):
                await self._serve()
        finally:
            self._path.unlink(missing_ok=True)
            self._clients.port.close()
            self._workers.port.close()
            self._guard.close()
            await asyncio.get_running_loop().run_in_executor(None, context.term)

    def _open(self, context: zmq.Context[Socket]) -> Connection:
        server, client, worker = new_keys(), new_keys(), new_keys()
        results, memory = self._ledger.open_results(server[0])
        self._guard = Guard(context, {CLIENTS: client[0], WORKERS: worker[0]})
        host, settle = self._setting.host, self._deal_with_news
        self._clients = ClientDoor(context, host, Keys(*server, client[1]), self._carry_out, self._outbox, settle)
        self._workers = WorkerDoor(
            context, host, Keys(*server, worker[1]), self._supervisor, self._service.execution, settle
        )
        self._vigil = Vigil(lambda: self._workers.port.has_news or self._clients.port.has_news)
        return Connection(
            name=self._service.name,
            address=self._clients.port.address,
            worker_address=self._workers.port.address,
            server_key=server[0],
            client_key=client[0],
            client_secret=client[1],
            worker_key=worker[0],
            worker_secret=worker[1],
            pid=os.getpid(),
            host=socket.gethostname(),
            started=time.time(),
            keeper_pid=self._setting.keeper_pid,
            results=results,
            memory=memory,
            durable=self._ledger.is_durable,
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
            self._on_end()
            await self._appraiser.close()
            self._service.close(keep=not self._is_to_be_removed)
            self.emit("shutdown")
            await self._stop_instances(instances)
            self._say_farewell()

    async def _ping(self) -> None:
        garbage = Garbage()
        while True:
            await asyncio.sleep(PING_SECONDS)
            garbage.look(self._service.execution.is_idle, self._clients.requests)
            schedule = self._service.schedule
            await self._workers.ping(busy_ranks=(1 << schedule.size) - 1 & ~schedule.free)

    def _give_up(self, reason: str) -> None:
        _log.error("the device is out of order: %s", reason)
        if not self._was_ready:  # what the journal holds is left to a better start
            raise BadStateError(f"start: no instance of workers came up: {reason}")
        self._service.give_up(reason)
        self._outbox.settle()

    async def _stop_instances(self, instances: asyncio.Future[str]) -> None:
        """Tell the workers to end; kill what has not ended in time."""
        self._supervisor.stop()
        self._workers.stop()
        if not self._supervisor.instance.up.is_set():
            await self._supervisor.kill()
        done, _ = await asyncio.wait({instances}, timeout=self._setting.limits.stop_s)
        if not done:
            await self._supervisor.kill()
            instances.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await instances

    def _say_farewell(self) -> None:
        """Tell who asked for the end that it has come."""
        left = 0 if self._is_to_be_removed else self._service.tasks.num_unfinished
        for asker in self._farewells:
            self._outbox.add(Answer(asker, [m.Ended(left)]))
        self._outbox.settle()

    def _up(self) -> None:
        instance = self._supervisor.instance
        free_bytes = min(worker.hello.free_bytes for worker in instance.workers.values())
        self._service.execution.instance_up(instance.size, free_bytes)
        lost = self._supervisor.launcher.describe().get("lost", [])
        self.emit("instance-up", generation=instance.generation, ranks=instance.size, lost=lost)
        if not self._was_ready:
            self._was_ready = True
            self._on_ready()

    def _down(self, reason: str) -> None:
        self._service.execution.instance_down(reason, self._supervisor.instance.explained)
        self._outbox.settle()
        self.emit("instance-down", generation=self._supervisor.instance.generation, reason=reason)

    # --- requests, and what only the controller can answer ---

    def _carry_out(self, asker: Asker, body: m.RequestBody) -> m.ReplyBody | None:
        match body:
            case m.Subscribe(kinds=kinds):
                self._clients.subscribers.add(asker.link, kinds)
                return m.Done()
            case m.Shutdown():
                self._shut_down(asker, body)
                return None
        answer = self._service.handle(asker, body)
        if isinstance(answer, m.Facts):
            answer.facts.update(self._traffic() if isinstance(body, m.Telemetry) else self._whereabouts())
        return answer

    def _shut_down(self, asker: Asker, how: m.Shutdown) -> None:
        for name, seconds in (("grace", how.grace_s), ("limit", how.within_s or 0.0)):
            if not 0 <= seconds <= _LONGEST_WAIT_S:
                raise InvalidArgumentError(
                    f"shutdown: a {name} of {seconds} s found, between 0 and {_LONGEST_WAIT_S:g} s needed"
                )
        self._farewells.append(asker)
        self._is_to_be_removed = not how.keep
        is_done = self._service.wind_down(how.drain)
        self.emit("drain" if how.drain else "stop")
        if is_done:
            self._stop.set()
        elif not how.drain:
            self.later(how.grace_s, self._stop.set)
        elif how.within_s is not None:
            self.later(how.within_s, self._end_drain)

    def _end_drain(self) -> None:
        """The time to drain is over: what has not ended goes on with the next environment."""
        if not self._stop.is_set():
            self._is_to_be_removed = False
            self._service.wind_down(drain=False)
            self._stop.set()

    def _telemetry(self) -> dict[str, Any]:
        return self._service.telemetry() | self._traffic()

    def _traffic(self) -> dict[str, Any]:
        """The controller's part of ``QPM.telemetry``."""
        clients, workers = self._clients, self._workers
        ports = (clients.port, workers.port)
        ranks = self._supervisor.instance.workers.items()
        return {
            "requests": clients.requests,
            "worker_messages": workers.messages,
            "refused": clients.refused + workers.refused,
            "events_dropped": clients.subscribers.dropped,
            "bytes": {
                "received": sum(port.received_bytes for port in ports),
                "sent": sum(port.sent_bytes for port in ports),
            },
            "instances": self._supervisor.launches,
            "free_bytes": {str(rank): worker.free_bytes for rank, worker in ranks},
        }

    def _whereabouts(self) -> dict[str, Any]:
        """The controller's part of ``QPM.describe``."""
        return {
            **self._workers.describe(),
            "controller": {"pid": os.getpid(), "host": socket.gethostname()},
            "metrics_port": self._setting.metrics_port,
        }

    def _deal_with_news(self) -> None:
        """A port has been read. Where tasks come one at a time, the next news may be worth staying awake for."""
        self._vigil.end()
        self._outbox.settle()
        running = self._service.schedule.running
        if len(running) <= 1 and self._outbox.is_settled and self._vigil.keep(bool(running)):
            self._workers.port.read_soon()
            self._clients.port.read_soon()

    # --- what the service wants done ---

    def answer(
        self,
        asker: Asker,
        parts: Sequence[m.ReplyBody],
        lost: Callable[[], None] | None = None,
        at_once: bool = False,
    ) -> None:
        answer = Answer(asker, parts, lost)
        if at_once:
            self._send(answer)
        else:
            self._outbox.post(answer)

    def _send(self, answer: Answer) -> None:
        self._clients.send(answer)

    def is_there(self, asker: Asker) -> bool:
        return self._clients.is_there(asker)

    def launch(self, placement: Placement, entries: Sequence[Entry]) -> None:
        self._workers.launch(placement, entries)

    def cancel(self, ranks: Sequence[int], task_ids: Sequence[str]) -> None:
        self._workers.cancel(ranks, task_ids)

    def end_instance(self, reason: str) -> None:
        self._workers.kill_soon(reason, explained=True)

    @property
    def is_heard(self) -> bool:
        return self._clients.subscribers.are_there

    def emit(self, kind: str, **details: Any) -> None:
        self._clients.subscribers.emit(kind, details)

    def later(self, delay_s: float, call: Any, *arguments: Any) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(max(0.0, delay_s), call, *arguments)

    def appraise(self, question: Appraise, done: Callable[[Finding], None]) -> None:
        self._appraiser.ask(question, done)

    def drained(self) -> None:
        self._stop.set()
