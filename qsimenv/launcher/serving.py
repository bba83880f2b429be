"""The controller process of an environment: the DVM, the controller, and the way between them.

The keeper runs it as ``python -m qsimenv.launcher.serving`` with the settings as JSON on the command line and a pipe on
which it says what it is doing, and once a second that it is alive. It goes on from the journal in the run folder, ends
in order on SIGTERM, and at once with the keeper. Where it is killed, guard and heartbeats end the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from qsimenv.errors import NotFoundError, QSimEnvError
from qsimenv.launcher import guard
from qsimenv.launcher.allocation import Allocation, find_allocation
from qsimenv.launcher.folder import DVM_PREFIX, LOG_NAME, WORKER_LOG_NAME
from qsimenv.launcher.probing import nodes_that_answer
from qsimenv.launcher.profiles import Profile, find_profile, launch_options, place
from qsimenv.launcher.settings import ALIVE, ENDING, FAILED, READY, Progress, Settings
from qsimenv.launcher.spawn import Instance as SpawnedInstance
from qsimenv.launcher.spawn import InstanceSpec, Launcher, choose_launcher
from qsimenv.qpm_plugin.connection import FILE_NAME
from qsimenv.qpm_plugin.controller import serve
from qsimenv.qpm_plugin.instances import Limits
from qsimenv.qpm_plugin.journal import FILE_NAME as JOURNAL_NAME
from qsimenv.qpm_plugin.journal import Journal
from qsimenv.qpm_plugin.submissions import Capacity

_ALIVE_S = 1.0
_KILL_S = 8.0
"""So long an instance may take to end when it is killed; it takes a second where all nodes answer."""
_log = logging.getLogger("qsimenv.controller")
WORKER_COMMAND = (sys.executable, "-m", "qsimenv.qpm_plugin.worker")


class _Handle:
    """An instance as the controller sees it. One that cannot be killed is on a node that is gone: so is its DVM."""

    def __init__(self, instance: SpawnedInstance, give_up: Callable[[], Awaitable[None]]) -> None:
        self._instance, self._give_up = instance, give_up
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        instance.ended.add_done_callback(self._tell)

    def _tell(self, ended: asyncio.Future[Any]) -> None:
        if not self.ended.done():
            self.ended.set_result("its launcher was stopped" if ended.cancelled() else ended.result().reason)

    async def kill(self) -> None:
        try:
            await asyncio.wait_for(self._instance.kill(), _KILL_S)
        except (QSimEnvError, TimeoutError) as error:
            reason = str(error) or f"after {_KILL_S:g} s"
            _log.warning("the instance cannot be killed (%s): its DVM is given up", reason)
            await self._give_up()

    async def close(self) -> None:
        pass


class Workers:
    """Launches instances of workers, in a new DVM where the old one is lost. The controller's ``InstanceLauncher``.

    A new DVM is built on those nodes of the allocation that answer then; with fewer of them there are fewer ranks.
    """

    def __init__(
        self, allocation: Allocation, folder: Path, profile: Profile, ranks_per_node: int | None, timeout_s: float
    ) -> None:
        placement = place(allocation, profile, ranks_per_node)
        self._given = self._allocation = allocation
        self._folder = folder
        self._ranks_per_node, self._timeout_s = placement.ranks_per_node, timeout_s
        self._environ, self._options = profile.environment, launch_options(profile, placement)
        self._launcher: Launcher | None = None
        self._is_first = True
        self._folders = 0

    @property
    def ranks(self) -> int:
        return self._ranks_per_node * len(self._allocation.nodes)

    async def start(self) -> None:
        """Bring the DVM up, in a folder of its own."""
        launcher = choose_launcher(self._allocation, self._new_folder(), self._options)
        await launcher.start(self._timeout_s)
        self._launcher = launcher

    async def launch(self, ranks: int, environ: dict[str, str]) -> _Handle:
        """Start at most ``ranks`` ranks, as many as there is room for on the nodes that are left."""
        if self._launcher is None or self._launcher.lost.done() or not (self._launcher.lasts or self._is_first):
            await self._start_anew()
        self._is_first = False
        assert self._launcher is not None  # noqa: S101 - start sets it or raises
        environ = {**self._environ, **environ}
        log_path = (self._folder / WORKER_LOG_NAME).absolute()
        spec = InstanceSpec(min(ranks, self.ranks), self._ranks_per_node, WORKER_COMMAND, environ, None, log_path)
        return _Handle(await self._launcher.spawn(spec), self.stop)

    async def _start_anew(self) -> None:
        await self.stop()
        self._allocation = await nodes_that_answer(self._given, self._new_folder(), self._options)
        if self._allocation.left_out:
            _log.warning("nodes are lost and left out: %s", ", ".join(self._allocation.left_out))
        await self.start()

    def _new_folder(self) -> Path:
        # The number of the process keeps us out of the way of a killed predecessor's guard, which may still clean up.
        self._folders += 1
        return self._folder / f"{DVM_PREFIX}{os.getpid()}-{self._folders}"

    async def stop(self) -> None:
        if self._launcher is not None:
            launcher, self._launcher = self._launcher, None
            await launcher.stop()

    def describe(self) -> dict[str, Any]:
        if self._launcher is None:
            return {"kind": "none", "source": self._allocation.source, "lost": [*self._allocation.left_out]}
        return {**self._launcher.describe(), "source": self._allocation.source, "log": str(self._folder / LOG_NAME)}


async def run(settings: Settings, tell: Any) -> None:
    """Bring the environment up, serve until it is shut down, take it down; in this order, whatever goes wrong."""
    folder = Path(settings.run_folder)
    alive = asyncio.ensure_future(_say_alive(tell))
    allocation = find_allocation(settings.hosts, het_group=settings.het_group)
    address = address_towards(allocation)
    profile = find_profile(settings.profile, allocation)
    workers = Workers(allocation, folder, profile, settings.ranks_per_node, settings.timeout_s)
    nodes = ", ".join(node.name for node in allocation.nodes[:4]) + (", …" if len(allocation.nodes) > 4 else "")
    journal = Journal(Path(settings.journal or folder / JOURNAL_NAME), settings.durable)
    try:
        tell(Progress(f"starting the DVM on {nodes}"))
        await workers.start()
        tell(Progress(f"starting {workers.ranks} workers (the first time they compile their kernels)"))
        await serve(
            folder / FILE_NAME,
            settings.name,
            workers,
            workers.ranks,
            lambda: tell(Progress(READY)),
            on_end=lambda: tell(Progress(ENDING)),
            host=address,
            limits=Limits(start_s=settings.timeout_s),
            journal=journal,
            capacity=_capacity(settings),
            keeper_pid=os.getppid(),
            metrics_port=settings.metrics_port,
        )
    finally:
        journal.close()  # serve has done so, where it came to that
        alive.cancel()
        await workers.stop()


async def _say_alive(tell: Any) -> None:
    while True:
        tell(Progress(ALIVE))
        await asyncio.sleep(_ALIVE_S)


def _capacity(settings: Settings) -> Capacity:
    given = {"kept_results": settings.keep_results, "queued_tasks": settings.max_queued}
    return Capacity(**{name: value for name, value in given.items() if value is not None})


def address_towards(allocation: Allocation) -> str:
    """The address of this machine that the nodes can reach: loopback where there is no other node.

    Raises NotFoundError for a node whose name does not resolve: PRTE would only say that something failed.
    """
    here = {"localhost", "127.0.0.1", socket.gethostname(), socket.gethostname().partition(".")[0]}
    others = [node.name for node in allocation.nodes if node.name not in here]
    if not others:
        return "127.0.0.1"
    for name in others:
        try:
            socket.getaddrinfo(name, None)
        except OSError as error:
            reason = error.strerror or error
            raise NotFoundError(
                f"start: host {name!r} is not known ({reason}); check the name, or /etc/hosts"
            ) from None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((others[0], 9))  # a UDP connect sends nothing: it only asks the routing table
        except OSError as error:
            raise QSimEnvError(f"start: there is no way to node {others[0]} ({error.strerror or error})") from None
        address: str = probe.getsockname()[0]
        return address


async def _until_signalled(settings: Settings, tell: Any) -> None:
    task = asyncio.ensure_future(run(settings, tell))
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main(arguments: list[str]) -> int:
    """``serving SETTINGS PIPE KEEPER``: settings as JSON, the descriptor to report on, the keeper's process id."""
    settings, pipe = msgspec.json.decode(arguments[0], type=Settings), int(arguments[1])
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.INFO)

    def tell(progress: Progress) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(pipe, msgspec.json.encode(progress) + b"\n")

    guard.die_with_parent(int(arguments[2]), signal.SIGKILL)
    failure = None
    try:
        asyncio.run(_until_signalled(settings, tell))
    except QSimEnvError as error:
        failure = Progress(FAILED, error.code, error.message)
    except Exception as error:  # noqa: BLE001 - whatever it is, the user hears of it and nothing stays behind
        traceback.print_exc()
        failure = Progress(FAILED, QSimEnvError.code, f"start: {type(error).__name__}: {error}")
    if failure is not None:
        tell(failure)
    return 0 if failure is None else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
