"""Ways to launch by one process for each instance, watched as a process: `prterun`, and `srun` with the site's MPI.

Each is a class of a few lines around its pure command line (`commands.py`). Nothing outlives an instance, so `lost` is
never set.
"""

from __future__ import annotations

import asyncio
import re
import sys
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from qsimenv.errors import BadStateError
from qsimenv.launcher.commands import (
    RANK_SETUP,
    InstanceSpec,
    find_program,
    prte_environment,
    prterun_command,
    srun_command,
)
from qsimenv.launcher.dvm import new_memory_folder, program_version
from qsimenv.launcher.guarded import GuardedProcess
from qsimenv.launcher.instance import Instance, Launcher
from qsimenv.launcher.pmix_tool import describe_end


class _ProcessInstance(Instance):
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
        reason = self._killed or end_reason(ended.result(), self._process.log_path)
        self._end(reason, ended.result())


class ProcessLauncher(Launcher):
    """A program that runs one MPI job and ends with it, under a guard."""

    lasts = False
    program: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._path: Path | None = None
        self._count = 0
        self._instances: list[_ProcessInstance] = []

    @abstractmethod
    def command(self, path: Path, spec: InstanceSpec, session_folder: Path) -> list[str]:
        """The tokens that run the instance. Pure."""

    def mpi_program(self, path: Path) -> Path:
        """A program that came with the ranks' MPI, by whose place they know where the rest of it is."""
        return path

    async def start(self, timeout_s: float = 60.0) -> None:
        _ = self.lost
        self._path = find_program(self.program, self.environ)
        self.run_folder.mkdir(parents=True, exist_ok=True)
        self._version = await asyncio.to_thread(program_version, self._path, self.environ)
        try:
            await self._check_probe(self.spawn(self._probe_spec()), timeout_s)
        except BaseException:
            await self.stop()
            raise

    async def spawn(self, spec: InstanceSpec) -> Instance:
        if self._path is None:
            raise BadStateError("spawn: the launcher is not running; start it")
        self._count += 1
        name = f"{self.program}-{self._count}"
        folder, memory = self.run_folder / name, new_memory_folder(self.run_folder)
        command = self.command(self._path, spec, folder)
        environ = prte_environment(self.environ, self._path)
        environ[RANK_SETUP] = self._setup_text(spec, self.mpi_program(self._path), memory)
        log_path = self.run_folder / f"{name}.log"
        instance = _ProcessInstance(name, GuardedProcess(command, environ, log_path=log_path, scratch=[folder, memory]))
        self._instances = [old for old in self._instances if not old.ended.done()] + [instance]
        return instance

    async def stop(self) -> None:
        await asyncio.gather(*(instance.end_because("stopped with the environment") for instance in self._instances))
        self._path = None

    def describe(self) -> dict[str, Any]:
        return self._describe(self.program, None)


class PrterunLauncher(ProcessLauncher):
    """PRTE and Open MPI without the PMIx bindings: a DVM for each instance."""

    program = "prterun"

    def command(self, path: Path, spec: InstanceSpec, session_folder: Path) -> list[str]:
        return prterun_command(path, self.allocation, spec, session_folder, self.options)


class SrunLauncher(ProcessLauncher):
    """A step of the Slurm job for each instance, with the MPI that the site's Slurm serves (Cray MPICH, or by PMIx)."""

    program = "srun"

    def command(self, path: Path, spec: InstanceSpec, session_folder: Path) -> list[str]:
        return srun_command(path, self.allocation, spec, self.options)

    def mpi_program(self, path: Path) -> Path:
        beside = Path(sys.executable).with_name("prte")
        return beside if beside.exists() else path


def end_reason(status: int, log_path: Path) -> str:
    """The reason in one line from the program's exit status and what it wrote, which names the first rank to fail."""
    try:
        text = log_path.read_text(errors="replace")[-4096:]
    except OSError:
        text = ""
    match = re.search(r"Process name:\s*\[\S+,(\d+)\]|process rank (\d+)|: task (\d+): ", text)
    rank = next((int(group) for group in match.groups() if group), None) if match else None
    return describe_end(status, rank, text)
