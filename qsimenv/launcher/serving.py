"""The process of an environment: the DVM, the controller, and the way between them.

``environment.start`` runs it as ``python -m qsimenv.launcher.serving``, detached, with the settings as JSON on the
command line and a pipe on which it says what it is doing. It holds a lock on the run folder as long as it lives, ends
in order on SIGTERM, and takes the folder away with it. Where it is killed, guard and heartbeats end the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

from qsimenv.errors import BadStateError, NotFoundError, QSimEnvError
from qsimenv.launcher.allocation import Allocation, default_ranks_per_node, find_allocation
from qsimenv.launcher.spawn import Instance as SpawnedInstance
from qsimenv.launcher.spawn import InstanceSpec, Launcher, choose_launcher
from qsimenv.qpm_plugin.connection import FILE_NAME
from qsimenv.qpm_plugin.controller import serve
from qsimenv.qpm_plugin.instances import Limits

LOCK_NAME = "lock"
LOG_NAME = "controller.log"
WORKER_LOG_NAME = "workers.log"
_DVM_PREFIX = "dvm-"
_OURS = (LOCK_NAME, LOG_NAME, WORKER_LOG_NAME, FILE_NAME, f".{FILE_NAME}.*.tmp", f"{_DVM_PREFIX}*")
"""What an environment puts into its run folder, and all that it ever removes from there."""
WORKER_COMMAND = (sys.executable, "-m", "qsimenv.qpm_plugin.worker")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for. ``ranks_per_node`` None: one worker a cache domain, at least two a node."""

    name: str
    run_folder: str
    hosts: str | None = None
    ranks_per_node: int | None = None
    het_group: int | None = None
    timeout_s: float = 120.0


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line on the pipe: a phase that begins, the end of the start, or why it failed (code and message)."""

    phase: str
    code: int | None = None
    message: str = ""


READY, FAILED = "ready", "failed"


class _Handle:
    """An instance as the controller sees it."""

    def __init__(self, instance: SpawnedInstance) -> None:
        self._instance = instance
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        instance.ended.add_done_callback(self._tell)

    def _tell(self, ended: asyncio.Future[Any]) -> None:
        if not self.ended.done():
            self.ended.set_result("its launcher was stopped" if ended.cancelled() else ended.result().reason)

    async def kill(self) -> None:
        await self._instance.kill()

    async def close(self) -> None:
        pass


class Workers:
    """Launches instances of workers, in a new DVM where the old one is lost. The controller's ``InstanceLauncher``."""

    def __init__(self, allocation: Allocation, folder: Path, ranks_per_node: int, timeout_s: float) -> None:
        self._allocation, self._folder = allocation, folder
        self._ranks_per_node, self._timeout_s = ranks_per_node, timeout_s
        self._launcher: Launcher | None = None
        self._launchers = 0

    @property
    def ranks(self) -> int:
        return self._ranks_per_node * len(self._allocation.nodes)

    async def start(self) -> None:
        """Bring the DVM up, in a folder of its own."""
        self._launchers += 1
        # The number of the process keeps us out of the way of a killed predecessor's guard, which may still clean up.
        folder = self._folder / f"{_DVM_PREFIX}{os.getpid()}-{self._launchers}"
        launcher = choose_launcher(self._allocation, folder)
        await launcher.start(self._timeout_s)
        self._launcher = launcher

    async def launch(self, ranks: int, environ: dict[str, str]) -> _Handle:
        if self._launcher is None or self._launcher.lost.done():
            await self.stop()
            await self.start()
        assert self._launcher is not None  # noqa: S101 - start sets it or raises
        spec = InstanceSpec(
            ranks, self._ranks_per_node, WORKER_COMMAND, environ, None, (self._folder / WORKER_LOG_NAME).absolute()
        )
        return _Handle(await self._launcher.spawn(spec))

    async def stop(self) -> None:
        if self._launcher is not None:
            launcher, self._launcher = self._launcher, None
            await launcher.stop()

    def describe(self) -> dict[str, Any]:
        if self._launcher is None:
            return {"kind": "none", "source": self._allocation.source}
        return {**self._launcher.describe(), "source": self._allocation.source, "log": str(self._folder / LOG_NAME)}


def lock(folder: Path) -> int:
    """Take the run folder for this process; the lock ends with it. Raises BadStateError where another one holds it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BadStateError(
            f"start: an environment is already running in {folder}; stop it first, or give another --name"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


async def run(settings: Settings, tell: Any) -> None:
    """Bring the environment up, serve until it is shut down, take it down; in this order, whatever goes wrong."""
    folder = Path(settings.run_folder)
    allocation = find_allocation(settings.hosts, het_group=settings.het_group)
    address = address_towards(allocation)
    per_node = settings.ranks_per_node or default_ranks_per_node(allocation)
    workers = Workers(allocation, folder, per_node, settings.timeout_s)
    nodes = ", ".join(node.name for node in allocation.nodes[:4]) + (", …" if len(allocation.nodes) > 4 else "")
    tell(Progress(f"starting the DVM on {nodes}"))
    try:
        await workers.start()
        tell(Progress(f"starting {workers.ranks} workers (the first time they compile their kernels)"))
        await serve(
            folder / FILE_NAME,
            settings.name,
            workers,
            workers.ranks,
            lambda: tell(Progress(READY)),
            host=address,
            limits=Limits(start_s=settings.timeout_s),
        )
    finally:
        await workers.stop()


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


def remove(folder: Path) -> None:
    """Take the run folder away, the lock last, so that nobody moves in while we move out."""
    _clear(folder, keep=(LOCK_NAME,))
    (folder / LOCK_NAME).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something is there that is not ours
        folder.rmdir()


def _clear(folder: Path, keep: tuple[str, ...]) -> None:
    """Remove what we put into the folder, or what a predecessor left there that was killed; nothing else."""
    for entry in [entry for pattern in _OURS for entry in folder.glob(pattern)]:
        if entry.name in keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


async def _until_signalled(settings: Settings, tell: Any) -> None:
    task = asyncio.ensure_future(run(settings, tell))
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main(arguments: list[str]) -> int:
    """``serving SETTINGS PIPE``: settings as JSON, the number of the descriptor to report on."""
    settings, pipe = msgspec.json.decode(arguments[0], type=Settings), int(arguments[1])
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.INFO)

    def tell(progress: Progress) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(pipe, msgspec.json.encode(progress) + b"\n")

    try:
        lock(Path(settings.run_folder))
        _clear(Path(settings.run_folder), keep=(LOCK_NAME, LOG_NAME))
    except QSimEnvError as error:
        tell(Progress(FAILED, error.code, error.message))
        return 2
    failure = None
    try:
        asyncio.run(_until_signalled(settings, tell))
    except QSimEnvError as error:
        failure = Progress(FAILED, error.code, error.message)
    except Exception as error:  # noqa: BLE001 - whatever it is, the user hears of it and nothing stays behind
        traceback.print_exc()
        failure = Progress(FAILED, QSimEnvError.code, f"start: {type(error).__name__}: {error}")
    finally:
        remove(Path(settings.run_folder))
    if failure is not None:
        tell(failure)
    return 0 if failure is None else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
