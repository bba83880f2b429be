"""One lasting DVM for all instances, which PMIx spawns into it; PMIx events tell how they end."""

from __future__ import annotations

import asyncio
from typing import Any

from qsimenv.errors import BadStateError, QSimEnvError, TimedOutError
from qsimenv.launcher.commands import RANK_SETUP, RANK_SHELL, InstanceSpec, find_program, map_by, tool_environment
from qsimenv.launcher.dvm import DVM, program_version
from qsimenv.launcher.instance import Instance, Launcher
from qsimenv.launcher.tool_client import ToolClient

_REQUEST_TIMEOUT_S = 60.0
_KILL_TIMEOUT_S = 20.0
_EARLY_ENDS = 64


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

    def __post_init__(self) -> None:
        super().__post_init__()
        self._dvm = DVM(self.allocation, self.run_folder, self.options, self.environ)
        self._tool: ToolClient | None = None
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
            "map_by": map_by(self.allocation, spec.ranks, spec.ranks_per_node, self.options.cores_per_rank),
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
        return self._describe("pmix", self._dvm.pid)

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
