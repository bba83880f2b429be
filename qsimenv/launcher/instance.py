"""What it is to launch: `Launcher` starts instances (MPI jobs of workers) on an allocation, `Instance` tells their end.

The ways to do it are classes in `pmix_launcher.py` and `process_launchers.py`; `spawn.py` chooses one. All of it runs
in one asyncio event loop; nothing here knows what a worker does.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from qsimenv.errors import QSimEnvError, TimedOutError
from qsimenv.launcher.allocation import Allocation
from qsimenv.launcher.commands import PLAIN, InstanceSpec, LaunchOptions, device_choice, rank_environment, rank_setup

_PROBE = ("/bin/true",)


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


@dataclass(eq=False)
class Launcher(ABC):
    """Starts instances on an allocation; `lost` gets the reason when the means to launch is gone for good."""

    allocation: Allocation
    run_folder: Path
    options: LaunchOptions = PLAIN
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    lasts: ClassVar[bool] = True
    """Whether there is something between instances that `lost` tells of."""

    def __post_init__(self) -> None:
        self.run_folder, self.environ = self.run_folder.absolute(), dict(self.environ)
        self._version = "unknown"
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
        """kind ("pmix", ...), prte (version), nodes and lost (nodes left out; names), pid (of the DVM, or None)."""

    def _describe(self, kind: str, pid: int | None) -> dict[str, Any]:
        nodes = [node.name for node in self.allocation.nodes]
        return {"kind": kind, "prte": self._version, "nodes": nodes, "lost": [*self.allocation.left_out], "pid": pid}

    def _setup_text(self, spec: InstanceSpec, program: Path, memory_folder: Path) -> str:
        return rank_setup(
            rank_environment(self.environ, spec.environ, program),
            cwd=spec.cwd,
            log_path=spec.log_path.absolute(),
            log_per_host=len(self.allocation.nodes) > 1,
            memory_folder=memory_folder,
            device_choice=device_choice(self.options, spec.ranks_per_node),
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
