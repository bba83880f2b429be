"""The workers' door: launches go out, answers come in, and pings find those that are stuck.

The controller opens it; what workers say goes to ``execution`` (their tasks) and to the ``Supervisor`` (their lives).
A worker that says what makes no sense, or that leaves others waiting, costs its instance; a stranger is ignored.
Relies on ``ports`` for the socket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from qsimenv.errors import QSimEnvError
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.execution import Execution
from qsimenv.qpm_plugin.instances import Supervisor, Worker
from qsimenv.qpm_plugin.ports import Keys, Port
from qsimenv.qpm_plugin.scheduler import Placement
from qsimenv.qpm_plugin.sockets import WORKERS, Socket
from qsimenv.qpm_plugin.tasks import Entry

_PING = m.encode(m.Ping())
_EXPLAINED_WITHIN_S = 0.5
"""Of a rank that has died its launcher knows more than that it does not answer."""
_log = logging.getLogger("qsimenv.controller")


class WorkerDoor:
    """Talks with the workers of the supervisor's instance. ``settle`` is called after each batch of their news."""

    def __init__(
        self,
        context: zmq.Context[Socket],
        host: str,
        keys: Keys,
        supervisor: Supervisor,
        execution: Execution,
        settle: Callable[[], None],
    ) -> None:
        self._supervisor, self._execution = supervisor, execution
        self.port = Port(context, host, WORKERS, keys, self._receive, settle)
        self.messages = self.refused = 0

    def launch(self, placement: Placement, entries: Sequence[Entry]) -> None:
        """Send tasks to all ranks of their team, with the circuits that each does not hold yet."""
        jobs = tuple(entry.job for entry in entries if entry.job is not None)
        frames: dict[tuple[str, ...], bytes] = {}
        for rank in placement.ranks:
            worker = self._supervisor.instance.workers[rank]
            circuits = _new_circuits(worker, entries)
            names = tuple(circuits)
            if names not in frames:
                frames[names] = m.encode(m.Launch(placement.ranks, placement.task_ids, jobs, circuits))
            self.port.send(worker.identity, frames[names])

    def cancel(self, ranks: Sequence[int], task_ids: Sequence[str]) -> None:
        """Stop tasks on all ranks of a team: each may be at work on parameter sets of its own."""
        frame = m.encode(m.Cancel(tuple(task_ids)))
        for rank in ranks:
            worker = self._supervisor.instance.workers.get(rank)
            if worker is not None:
                self.port.send(worker.identity, frame)

    def stop(self) -> None:
        """Tell all workers to end."""
        frame = m.encode(m.Stop())
        for worker in self._supervisor.instance.workers.values():
            self.port.send(worker.identity, frame)

    async def ping(self, busy_ranks: int) -> None:
        """Ping every worker; one whose connection is gone, or that has been idle and silent, costs its instance."""
        stuck = self._supervisor.stuck(busy_ranks)
        instance = self._supervisor.instance
        gone = [rank for rank, worker in instance.workers.items() if not self.port.reaches(worker.identity, _PING)]
        if gone and not stuck:
            await asyncio.sleep(_EXPLAINED_WITHIN_S)
        if (stuck or gone) and instance is self._supervisor.instance and not instance.has_ended:
            await self._supervisor.kill(f"ranks {stuck or gone} do not answer any more")

    def kill_soon(self, reason: str, explained: bool = False) -> None:
        """What a worker had to say is lost; a new instance will do its tasks again."""
        self._killing = asyncio.ensure_future(self._supervisor.kill(reason, explained))

    def describe(self) -> dict[str, Any]:
        """Where the workers are, and what they run on: their part of ``QPM.describe``."""
        instance = self._supervisor.instance
        workers = sorted(instance.workers.values(), key=lambda worker: worker.hello.rank)
        return {
            "nodes": sorted({worker.hello.host for worker in workers}),
            "workers": [{"rank": w.hello.rank, "pid": w.hello.pid, "host": w.hello.host} for w in workers],
            "versions": workers[0].hello.versions if workers else {},
            "generation": instance.generation,
            "launcher": self._supervisor.launcher.describe(),
        }

    def _receive(self, identity: bytes, frame: bytes) -> bool:
        """Hear what a worker says; False where that makes no sense."""
        self.messages += 1
        try:
            message = m.decode_from_worker(frame)
        except QSimEnvError as error:
            self.refused += 1
            if self._supervisor.knows(identity):
                self.kill_soon(f"a worker's message cannot be read ({error})")
            return False
        try:
            return self._hear(identity, message)
        except Exception:  # noqa: BLE001 - the controller lives on, whatever a worker says
            _log.exception("a worker's message failed in a way nobody foresaw")
            self.kill_soon("a worker's message could not be dealt with")
            return False

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
                    self._execution.answered(answer)
            case m.Pong(free_bytes=free_bytes):
                worker.free_bytes = free_bytes
            case m.Broken(answer=answer):
                self._execution.broke(answer)
                self.kill_soon(f"rank {message.rank} failed while others waited for it", explained=True)
        return True


def _new_circuits(worker: Worker, entries: Sequence[Entry]) -> dict[str, bytes]:
    """The bytes of the circuits that the worker does not hold yet; it will. Uses ``known`` just as the worker does."""
    circuits = {entry.circuit.hash: entry.circuit for entry in entries if entry.circuit is not None}
    new = {name: circuit.bytes for name, circuit in circuits.items() if worker.known.get(name) is None}
    for name, data in new.items():
        worker.known.put(name, True, len(data))
    return new
