"""The life of the workers: launch an instance, notice its end, launch the next one, give up when that is pointless.

How ranks are started is the launcher's business (``InstanceLauncher``): PRTE in ``qsimenv.launcher``, ``mpirun`` in the
tests. Each instance has a generation; what a worker of another generation says is ignored. An instance is up when
all its ranks have said hello. One that ends before that, or soon after with nothing running, counts as a quick death.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from qsimenv.errors import QSimEnvError
from qsimenv.qpm_plugin.connection import GENERATION_VARIABLE
from qsimenv.qpm_plugin.messages import WORKER_CIRCUIT_BYTES, Hello
from qsimenv.qpm_plugin.recent import Recent
from qsimenv.qpm_plugin.sockets import worker_identity

UNANSWERED_PINGS = 8
"""An idle worker that leaves so many pings (one every PING_SECONDS) unanswered is stuck."""
PING_SECONDS = 2.0
_log = logging.getLogger("qsimenv.controller")


class InstanceHandle(Protocol):
    """One launched MPI job. ``ended`` gets a line that says why, when its processes are gone (or are being killed)."""

    ended: asyncio.Future[str]

    async def kill(self) -> None:
        """End all its processes now; harmless where they have ended."""

    async def close(self) -> None:
        """Let go of what the launcher keeps for it; called once, after ``ended``."""


class InstanceLauncher(Protocol):
    """A way to start workers; it outlives the instances and belongs to whoever made it."""

    async def launch(self, ranks: int, environ: dict[str, str]) -> InstanceHandle:
        """Start ``python -m qsimenv.qpm_plugin.worker`` on that many ranks, with ``environ`` added to its environment.

        Returns when they have been started, not when they are up. Raises QSimEnvError or OSError where they cannot be.
        """

    def describe(self) -> dict[str, Any]:
        """What launches them, for people: ``kind``, versions, nodes, process ids."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the controller is; seconds, and numbers of deaths."""

    start_s: float = 120.0
    stop_s: float = 5.0
    quick_s: float = 10.0
    quick_deaths: int = 5
    backoff_s: float = 0.5


@dataclass(eq=False)
class Worker:
    """A rank as the controller knows it; ``unanswered`` counts pings since it was heard."""

    identity: bytes
    hello: Hello
    known: Recent[bool] = field(default_factory=lambda: Recent(WORKER_CIRCUIT_BYTES))
    unanswered: int = 0
    free_bytes: int = 0


@dataclass(eq=False)
class Instance:
    """One generation of workers."""

    generation: int
    workers: dict[int, Worker] = field(default_factory=dict)
    up: asyncio.Event = field(default_factory=asyncio.Event)
    handle: InstanceHandle | None = None
    reason: str = ""
    """Why we ended it, where we did."""
    explained: bool = False
    """Whether that is known to be no other task's fault than the one that has failed for it."""

    @property
    def size(self) -> int:
        return next(iter(self.workers.values())).hello.size if self.workers else 0

    @property
    def has_ended(self) -> bool:
        return self.handle is not None and self.handle.ended.done()


class Supervisor:
    """Keeps an instance running. ``is_busy`` says whether tasks run; ``on_up`` and ``on_down(reason)`` are told."""

    def __init__(
        self,
        launcher: InstanceLauncher,
        ranks: int,
        environ: dict[str, str],
        limits: Limits,
        is_busy: Callable[[], bool],
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
    ) -> None:
        self.launcher, self._ranks, self._environ, self._limits = launcher, ranks, environ, limits
        self._is_busy, self._on_up, self._on_down = is_busy, on_up, on_down
        self._quick_deaths = 0
        self._stopping = asyncio.Event()
        self.instance = Instance(0)
        self.launches = 0

    async def run(self) -> str:
        """Launch instances one after the other; returns why it gave up, or "" after ``stop``."""
        while not self._stopping.is_set():
            self.launches += 1
            self.instance = Instance(self.launches)
            reason, quick = await self._one_instance()
            reason = self.instance.reason or reason
            if self._stopping.is_set():
                break
            self._quick_deaths = self._quick_deaths + 1 if quick else 0
            _log.warning("instance %d ended: %s", self.launches, reason)
            self._on_down(reason)
            if self._quick_deaths >= self._limits.quick_deaths:
                return f"{self._quick_deaths} instances in a row ended at once, the last one because: {reason}"
            if quick:
                await self._pause(self._limits.backoff_s * 2 ** (self._quick_deaths - 1))
        return ""

    def stop(self) -> None:
        """The workers have been told to end: launch no more. ``run`` returns when they have ended or were killed."""
        self._stopping.set()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def greet(self, identity: bytes, hello: Hello) -> bool:
        """A worker is there, under the identity that it was told to take; the last one makes the instance up.

        False for one that nobody launched, or another generation's.
        """
        instance = self.instance
        if hello.generation != instance.generation or identity != worker_identity(hello.generation, hello.rank):
            return False
        instance.workers[hello.rank] = Worker(identity, hello, free_bytes=hello.free_bytes)
        if len(instance.workers) == hello.size and not instance.up.is_set():
            instance.up.set()
            self._on_up()
        return True

    def knows(self, identity: bytes) -> bool:
        """Whether a worker of the instance talks under that identity."""
        rank = identity.rpartition(b":")[2]
        worker = self.instance.workers.get(int(rank)) if rank.isdigit() else None
        return worker is not None and worker.identity == identity

    def worker(self, generation: int, rank: int) -> Worker | None:
        """The worker that says so, heard just now; None where it belongs to another generation."""
        worker = self.instance.workers.get(rank) if generation == self.instance.generation else None
        if worker is not None:
            worker.unanswered = 0
        return worker

    def stuck(self, busy_ranks: int) -> list[int]:
        """Count one more ping; which idle ranks (not in the set ``busy_ranks``) have left too many unanswered."""
        found = []
        for rank, worker in self.instance.workers.items():
            worker.unanswered = 0 if busy_ranks >> rank & 1 else worker.unanswered + 1
            if worker.unanswered > UNANSWERED_PINGS:
                found.append(rank)
        return found

    async def kill(self, reason: str = "", explained: bool = False) -> None:
        """End the instance that runs now, for this reason; the next one follows unless we are stopping."""
        instance = self.instance
        instance.reason = instance.reason or reason
        instance.explained = instance.explained or explained
        if instance.handle is not None:
            try:
                await instance.handle.kill()
            except (QSimEnvError, OSError) as error:
                _log.error("instance %d could not be killed: %s", instance.generation, error)

    async def _one_instance(self) -> tuple[str, bool]:
        """(why it ended, whether that was quick)."""
        environ = {**self._environ, GENERATION_VARIABLE: str(self.instance.generation)}
        try:
            handle = await self.launcher.launch(self._ranks, environ)
        except (QSimEnvError, OSError) as error:
            return f"it could not be launched ({error})", True
        self.instance.handle = handle
        try:
            return await self._watch(handle)
        finally:
            if not handle.ended.done():
                await handle.kill()
            with contextlib.suppress(QSimEnvError, OSError):
                await handle.close()

    async def _watch(self, handle: InstanceHandle) -> tuple[str, bool]:
        up = asyncio.ensure_future(self.instance.up.wait())
        try:
            either: set[asyncio.Future[Any]] = {up, handle.ended}
            await asyncio.wait(either, timeout=self._limits.start_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if not self.instance.up.is_set():
            if handle.ended.done():
                return f"{handle.ended.result()} (before all ranks had answered)", True
            said = len(self.instance.workers)
            return f"after {self._limits.start_s:.0f} s only {said} of {self._ranks} ranks had answered", True
        began = time.monotonic()
        reason = await asyncio.shield(handle.ended)
        return reason, time.monotonic() - began < self._limits.quick_s and not self._is_busy()
