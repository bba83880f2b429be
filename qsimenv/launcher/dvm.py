"""The DVM: one `prte` on the nodes of the allocation, under a guard, with all its files in one folder that goes away.

`spawn.PMIxLauncher` owns it. prte ends its jobs and daemons on SIGTERM and removes its session folder; what is left
after a few seconds (or after a SIGKILL of prte itself) the guard kills.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import subprocess
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

import psutil

from qsimenv.errors import BadStateError, QSimEnvError, TimedOutError
from qsimenv.launcher.allocation import Allocation
from qsimenv.launcher.commands import LaunchOptions, find_program, prte_command, prte_environment
from qsimenv.launcher.guarded import GuardedProcess, last_words

_READY = b"DVM ready"
_POLL_S = 0.01
_ORPHAN_END_S = 5.0


class DVM:
    """One PRTE DVM; files: ``prte.log`` (stays) and the folder ``prte`` (removed) in `run_folder`."""

    def __init__(
        self,
        allocation: Allocation,
        run_folder: Path,
        options: LaunchOptions | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.allocation, self.options, self.environ = allocation, options or LaunchOptions(), dict(environ)
        self.log_path = run_folder / "prte.log"
        self.session_folder = run_folder / "prte"
        self.memory_folder = new_memory_folder(run_folder)
        self.uri_file = self.session_folder / "uri"
        self.prte: Path | None = None
        self._pid_file = self.session_folder / "pid"
        self._process: GuardedProcess | None = None
        self._prte_process: psutil.Process | None = None

    @property
    def ended(self) -> asyncio.Future[int]:
        """Gets prte's exit status when prte and its ranks on this node are gone (call `stop` for the last of it)."""
        if self._process is None:
            raise BadStateError("the DVM has not been started")
        return self._process.ended

    @property
    def pid(self) -> int | None:
        """The process id of prte, None while it is unknown."""
        try:
            return int(self._pid_file.read_text())
        except (OSError, ValueError):
            return None

    def end_reason(self) -> str:
        """Why the DVM ended, in one line for people: the node that was lost, else prte's status and last words."""
        log = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        lost = re.search(r"Remote daemon:.*? on node (\S+)", log)
        if lost is not None:
            return f"the DVM is gone: prte lost its daemon on node {lost[1]}"
        said = last_words(self.log_path).replace(_READY.decode(), "").strip()
        status = self.ended.result() if self.ended.done() else "unknown"
        return f"the DVM is gone: prte ended with status {status}" + (f", it said: {said}" if said else "")

    async def start(self, timeout_s: float = 60.0) -> None:
        """Start prte and wait until it is ready.

        Raises LibraryNotFoundError without a prte, QSimEnvError with prte's last words when it ends, TimedOutError
        after `timeout_s` seconds; in each case nothing stays behind but the log.
        """
        if self._process is not None:
            raise BadStateError("the DVM has been started already")
        self.prte = find_program("prte", self.environ)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self.log_path.write_bytes(b"")
        command = prte_command(
            self.prte,
            self.allocation,
            uri_file=self.uri_file,
            pid_file=self._pid_file,
            session_folder=self.session_folder,
            options=self.options,
        )
        environ = prte_environment(self.environ, self.prte)
        scratch = [self.session_folder, self.memory_folder]
        self._process = GuardedProcess(command, environ, log_path=self.log_path, scratch=scratch)
        try:
            await self._wait_until_ready(self._process, timeout_s)
            if self.pid is not None:
                self._prte_process = psutil.Process(self.pid)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the DVM and everything in it; returns when nothing is left on this node. Harmless when not started."""
        if self._process is not None:
            await self._process.stop()
        if self._prte_process is not None:
            await asyncio.to_thread(_make_sure_of_its_end, self._prte_process)

    async def _wait_until_ready(self, process: GuardedProcess, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not self._is_ready():
            if process.ended.done():
                said = process.last_words() or f"nothing; see {self.log_path}"
                raise QSimEnvError(f"start DVM: prte ended with status {process.ended.result()}, it said: {said}")
            if time.monotonic() > deadline:
                said = process.last_words() or "nothing"
                raise TimedOutError(f"start DVM: prte was not ready after {timeout_s:g} s, it said: {said}")
            await asyncio.sleep(_POLL_S)

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return _READY in self.log_path.read_bytes() and b";" in self.uri_file.read_bytes()
        return False


def _make_sure_of_its_end(prte: psutil.Process) -> None:
    """Matters only when somebody killed the guard: prte then ends by itself (PR_SET_PDEATHSIG), in a moment."""
    with contextlib.suppress(psutil.NoSuchProcess):
        try:
            prte.wait(_ORPHAN_END_S)
        except psutil.TimeoutExpired:
            prte.kill()


def new_memory_folder(run_folder: Path) -> Path:
    """A fresh name below /dev/shm for the shared memory of the ranks; the guard makes and removes the folder.

    The name bears a mark of the run folder, so that one can see whose it is (`memory_mark`).
    """
    return Path("/dev/shm") / f"{memory_mark(run_folder)}{secrets.token_hex(4)}"  # noqa: S108  that is where it lives


def memory_mark(run_folder: Path) -> str:
    """How the names of all shared memory folders of a run folder begin."""
    return f"qsimenv-{os.getuid()}-{zlib.crc32(os.fsencode(run_folder)):08x}-"


def program_version(program: Path, environ: Mapping[str, str] = os.environ) -> str:
    """The version that prte or prterun reports, such as ``3.0.14``; ``unknown`` if it reports none."""
    try:
        done = subprocess.run(
            [str(program), "--version"],
            capture_output=True,
            text=True,
            timeout=5,
            env=prte_environment(environ, program),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    words = done.stdout.splitlines()[0].split() if done.stdout.strip() else []
    return words[-1] if words and done.returncode == 0 else "unknown"
