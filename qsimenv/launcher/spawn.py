"""Launches instances (MPI jobs of workers) and reports their ends: one class per way to launch.

`PMIxLauncher` keeps one DVM and spawns into it; `PrterunLauncher` gives each instance a `prterun` of its own where
the PMIx Python bindings are missing. `launcher/environment.py` joins either with the controller. All of it runs in
one asyncio event loop; nothing here knows what a worker does.
"""

from __future__ import annotations

import asyncio
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsimenv.errors import BadStateError, InvalidArgumentError, LibraryNotFoundError, QSimEnvError, TimedOutError
from qsimenv.launcher.allocation import Allocation
from qsimenv.launcher.bindings import find_pmix_module
from qsimenv.launcher.commands import (
    RANK_SETUP,
    RANK_SHELL,
    LaunchOptions,
    find_program,
    map_by,
    prte_environment,
    prterun_command,
    rank_environment,
    rank_setup,
    tool_environment,
)
from qsimenv.launcher.dvm import DVM, new_memory_folder, program_version
from qsimenv.launcher.guarded import GuardedProcess
from qsimenv.launcher.pmix_tool import describe_end
from qsimenv.launcher.tool_client import ToolClient

_REQUEST_TIMEOUT_S = 60.0
_KILL_TIMEOUT_S = 20.0
_EARLY_ENDS = 64
_PROBE = ("/bin/true",)


@dataclass(frozen=True)
class InstanceSpec:
    """What to launch: `ranks` ranks of `argv` (`argv[0]` is found on the ranks' PATH), as many a node as asked for
    (None: as many as cores), `environ` on top of ours, output added to `log_path` (on several nodes one file a node,
    with ``.host`` after the name)."""

    ranks: int
    ranks_per_node: int | None
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    cwd: str | None
    log_path: Path


@dataclass
class InstanceEnd:
    """How an instance ended: text for people, and PRTE's status (0 well, 128 + n signal n, None unknown)."""

    reason: str
    status: int | None


class Instance(ABC):
    """A launched instance; `ended` is set when PRTE has ended (after a failure: killed) all its ranks.

    A killed rank may need some milliseconds more to vanish.
    Wait for `ended` with `asyncio.wait` or under `asyncio.shield`: a bare `wait_for` cancels it when time is up.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.ended: asyncio.Future[InstanceEnd] = asyncio.get_running_loop().create_future()

    @abstractmethod
    async def kill(self) -> None:
        """End every rank and wait for it. Harmless when ended. Raises TimedOutError, QSimEnvError."""

    def _end(self, reason: str, status: int | None) -> None:
        if not self.ended.done():
            self.ended.set_result(InstanceEnd(reason, status))


class Launcher(ABC):
    """Starts instances on an allocation; `lost` gets the reason when the means to launch is gone for good."""

    def __init__(
        self,
        allocation: Allocation,
        run_folder: Path,
        options: LaunchOptions | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.allocation, self.run_folder = allocation, run_folder.absolute()
        self.options, self.environ = options or LaunchOptions(), dict(environ)
        self._lost: asyncio.Future[str] | None = None

    @property
    def lost(self) -> asyncio.Future[str]:
        """Set when the DVM is gone by itself (not after `stop`): no spawn will work, every instance has ended."""
        if self._lost is None:
            self._lost = asyncio.get_running_loop().create_future()
        return self._lost

    @abstractmethod
    async def start(self, timeout_s: float = 60.0) -> None:
        """Get ready and check that every node answers. Raises QSimEnvError (one line) and leaves nothing behind."""

    @abstractmethod
    async def spawn(self, spec: InstanceSpec) -> Instance:
        """Launch an instance. Raises InvalidArgumentError (no room), BadStateError (lost), QSimEnvError (failed)."""

    @abstractmethod
    async def stop(self) -> None:
        """End all instances and the DVM; no process and no file but the logs is left. Harmless twice."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """kind ("pmix" or "prterun"), prte (version), nodes (names), pid (of the DVM, or None)."""

    def _describe(self, kind: str, version: str, pid: int | None) -> dict[str, Any]:
        return {"kind": kind, "prte": version, "nodes": [node.name for node in self.allocation.nodes], "pid": pid}

    def _setup_text(self, spec: InstanceSpec, program: Path, memory_folder: Path) -> str:
        return rank_setup(
            rank_environment(self.environ, spec.environ, program),
            cwd=spec.cwd,
            log_path=spec.log_path.absolute(),
            log_per_host=len(self.allocation.nodes) > 1,
            memory_folder=memory_folder,
        )

    def _probe_spec(self) -> InstanceSpec:
        return InstanceSpec(len(self.allocation.nodes), 1, _PROBE, {}, None, Path(os.devnull))

    async def _check_probe(self, probe: Coroutine[Any, Any, Instance], timeout_s: float) -> None:
        """Run one trivial rank on every node: only then has every node really answered."""
        try:
            end = await asyncio.wait_for(asyncio.shield((await probe).ended), timeout_s)
        except TimeoutError:
            raise TimedOutError(f"start: not every node answered in {timeout_s:g} s; see {self.run_folder}") from None
        if end.status != 0:
            raise QSimEnvError(f"start: a first trivial job on every node failed: {end.reason}")


class _PMIxInstance(Instance):
    def __init__(self, name: str, tool: ToolClient, turn: asyncio.Lock) -> None:
        super().__init__(name)
        self._tool, self._turn = tool, turn
        self._killed = False

    async def kill(self) -> None:
        async with self._turn:
            if self.ended.done():
                return
            self._killed = True
            try:
                await self._tool.request(_KILL_TIMEOUT_S, kill=self.name)
            except QSimEnvError:
                if not self.ended.done():
                    raise
            await asyncio.wait({self.ended}, timeout=_KILL_TIMEOUT_S)
        if not self.ended.done():
            raise TimedOutError(f"kill {self.name}: ranks are left after {_KILL_TIMEOUT_S:g} s")

    def end(self, reason: str, status: int | None) -> None:
        self._end("killed on request" if self._killed else reason, status)


class PMIxLauncher(Launcher):
    """One DVM for all instances; PMIx events tell how they end, within a second."""

    def __init__(
        self,
        allocation: Allocation,
        run_folder: Path,
        options: LaunchOptions | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        super().__init__(allocation, run_folder, options, environ)
        self._dvm = DVM(allocation, self.run_folder, self.options, self.environ)
        self._tool: ToolClient | None = None
        self._version = "unknown"
        self._instances: dict[str, _PMIxInstance] = {}
        self._early: dict[str, dict[str, Any]] = {}  # ends that came before the reply that names their job
        self._watcher: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # one spawn or kill at a time: prte 3.0.14 has races between them

    async def start(self, timeout_s: float = 60.0) -> None:
        _ = self.lost
        await self._dvm.start(timeout_s)
        try:
            self._version = await asyncio.to_thread(program_version, find_program("prte", self.environ), self.environ)
            self._tool = await ToolClient.start(
                self._dvm.uri_file,
                tool_environment(self.environ, self._dvm.session_folder),
                log_path=self.run_folder / "pmix_tool.log",
                on_event=self._on_event,
                timeout_s=timeout_s,
            )
            await self._check_probe(self.spawn(self._probe_spec()), timeout_s)
        except BaseException:
            await self.stop()
            raise
        self._watcher = asyncio.create_task(self._watch(self._tool))

    async def spawn(self, spec: InstanceSpec) -> Instance:
        if self._tool is None or self._dvm.prte is None or self.lost.done():
            raise BadStateError("spawn: the DVM is not running; start it (anew)")
        request = {
            "argv": [*RANK_SHELL, *spec.argv],
            "ranks": spec.ranks,
            "map_by": map_by(self.allocation, spec.ranks, spec.ranks_per_node),
            "bind_to": self.options.bind_to,
            "variable": RANK_SETUP,
            "setup": self._setup_text(spec, self._dvm.prte, self._dvm.memory_folder),
        }
        async with self._turn:
            reply = await self._tool.request(_REQUEST_TIMEOUT_S, spawn=request)
        instance = _PMIxInstance(reply["namespace"], self._tool, self._turn)
        self._instances[instance.name] = instance
        if instance.name in self._early:
            self._on_event(self._early.pop(instance.name))
        return instance

    async def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        await self._dvm.stop()
        if self._tool is not None:
            await self._tool.stop()
        self._end_all("stopped with the environment")

    def describe(self) -> dict[str, Any]:
        return self._describe("pmix", self._version, self._dvm.pid)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["event"] not in ("job_end", "job_failed"):
            return  # the end of the DVM is taken from prte itself, see _watch
        instance = self._instances.pop(event["namespace"], None)
        if instance is None:
            self._early[event["namespace"]] = event
            while len(self._early) > _EARLY_ENDS:  # those of spawns that failed are never asked for
                self._early.pop(next(iter(self._early)))
        else:
            instance.end(event["reason"], event["status"])

    async def _watch(self, tool: ToolClient) -> None:
        """Turn the end of prte or of the tool into `lost`, after everything of the DVM is gone."""
        ends: list[asyncio.Future[Any]] = [self._dvm.ended, tool.ended]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        reason = self._dvm.end_reason() if self._dvm.ended.done() else "the PMIx tool is gone"
        await self._dvm.stop()
        self._end_all(reason)
        self.lost.set_result(reason)

    def _end_all(self, reason: str) -> None:
        for instance in self._instances.values():
            instance.end(reason, None)
        self._instances.clear()


class _PrterunInstance(Instance):
    def __init__(self, name: str, process: GuardedProcess) -> None:
        super().__init__(name)
        self._process = process
        self._killed: str | None = None
        process.ended.add_done_callback(self._on_end)

    async def kill(self) -> None:
        await self.end_because("killed on request")

    async def end_because(self, reason: str) -> None:
        self._killed = self._killed or reason
        await self._process.stop()
        await asyncio.wait({self.ended})

    def _on_end(self, ended: asyncio.Future[int]) -> None:
        reason = self._killed or prterun_reason(ended.result(), self._process.log_path)
        self._end(reason, ended.result())


class PrterunLauncher(Launcher):
    """No bindings: one prterun a instance, watched as a process. `lost` is never set: nothing outlives an instance."""

    def __init__(
        self,
        allocation: Allocation,
        run_folder: Path,
        options: LaunchOptions | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        super().__init__(allocation, run_folder, options, environ)
        self._prterun: Path | None = None
        self._version = "unknown"
        self._count = 0
        self._instances: list[_PrterunInstance] = []

    async def start(self, timeout_s: float = 60.0) -> None:
        _ = self.lost
        self._prterun = find_program("prterun", self.environ)
        self.run_folder.mkdir(parents=True, exist_ok=True)
        self._version = await asyncio.to_thread(program_version, self._prterun, self.environ)
        try:
            await self._check_probe(self.spawn(self._probe_spec()), timeout_s)
        except BaseException:
            await self.stop()
            raise

    async def spawn(self, spec: InstanceSpec) -> Instance:
        if self._prterun is None:
            raise BadStateError("spawn: the launcher is not running; start it")
        self._count += 1
        name = f"prterun-{self._count}"
        folder, memory = self.run_folder / name, new_memory_folder(self.run_folder)
        command = prterun_command(
            self._prterun,
            self.allocation,
            ranks=spec.ranks,
            ranks_per_node=spec.ranks_per_node,
            argv=spec.argv,
            session_folder=folder,
            options=self.options,
        )
        environ = prte_environment(self.environ, self._prterun)
        environ[RANK_SETUP] = self._setup_text(spec, self._prterun, memory)
        log_path = self.run_folder / f"{name}.log"
        instance = _PrterunInstance(name, GuardedProcess(command, environ, log_path=log_path, scratch=[folder, memory]))
        self._instances = [old for old in self._instances if not old.ended.done()] + [instance]
        return instance

    async def stop(self) -> None:
        await asyncio.gather(*(instance.end_because("stopped with the environment") for instance in self._instances))
        self._prterun = None

    def describe(self) -> dict[str, Any]:
        return self._describe("prterun", self._version, None)


def prterun_reason(status: int, log_path: Path) -> str:
    """The reason in one line from prterun's exit status and what it wrote, which names the first rank that failed."""
    try:
        text = log_path.read_text(errors="replace")[-4096:]
    except OSError:
        text = ""
    match = re.search(r"Process name:\s*\[\S+,(\d+)\]|process rank (\d+)", text)
    return describe_end(status, int(match[1] or match[2]) if match else None, text)


def choose_launcher(
    allocation: Allocation,
    run_folder: Path,
    options: LaunchOptions | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Launcher:
    """PMIxLauncher where the bindings are found, else PrterunLauncher; ``QSIMENV_LAUNCHER`` (pmix, prterun) decides.

    Raises InvalidArgumentError for another value, LibraryNotFoundError when pmix is demanded and missing.
    """
    wanted = environ.get("QSIMENV_LAUNCHER") or "auto"
    if wanted not in ("auto", "pmix", "prterun"):
        raise InvalidArgumentError(f"QSIMENV_LAUNCHER is {wanted!r}; use pmix or prterun, or unset it")
    if wanted == "prterun":
        return PrterunLauncher(allocation, run_folder, options, environ)
    if find_pmix_module(environ) is not None:
        return PMIxLauncher(allocation, run_folder, options, environ)
    if wanted == "pmix":
        raise LibraryNotFoundError("QSIMENV_LAUNCHER=pmix, but no PMIx Python bindings were found; see qsimenv doctor")
    return PrterunLauncher(allocation, run_folder, options, environ)
