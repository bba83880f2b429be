"""A program under a guard (`guard.py`), as `dvm.py` and `spawn.py` use it: started, watched, ended without remains.

The program, its descendants and its scratch folders end with `stop`, with the death of the program, and with the
death of this process by any cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from qsimenv.launcher import guard
from qsimenv.launcher.commands import python_environment

_GUARD_SLACK_S = 5.0
_LONGEST_WORDS = 400


class GuardedProcess:
    """A started program. `ended` gets its exit status (128 + n for signal n) once nothing of it is alive any more."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        log_path: Path,
        scratch: Sequence[Path],
        grace_s: float = 5.0,
    ) -> None:
        """Start `command` in the running event loop; output is added to `log_path`, `scratch` folders are made."""
        self.log_path, self._scratch, self._grace_s = log_path, tuple(scratch), grace_s
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._process = self._start(command, environ)
        threading.Thread(target=self._wait, name="qsimenv-guard", daemon=True).start()

    async def stop(self) -> None:
        """End the program: SIGTERM, after the grace SIGKILL; returns when nothing of it is left. Harmless twice.

        What becomes an orphan by the program's end has the same grace.
        """
        below = guard.descendants(self._process.pid) if not self.ended.done() else []
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            await asyncio.wait_for(asyncio.shield(self.ended), 2 * self._grace_s + _GUARD_SLACK_S)
        except TimeoutError:
            for pid in (self._process.pid, *below):
                guard.kill(pid, 9)
            await self.ended
        for folder in self._scratch:  # the guard did this, unless somebody killed it
            shutil.rmtree(folder, ignore_errors=True)

    def last_words(self) -> str:
        """The end of the program's output on one line, without PRTE's frames; empty if it said nothing."""
        return last_words(self.log_path)

    def _start(self, command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        folders = [token for folder in self._scratch for token in ("--scratch", str(folder))]
        guarded = [sys.executable, "-m", guard.__name__, "--grace", str(self._grace_s), *folders, "--", *command]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                guarded, stdin=subprocess.PIPE, stdout=log, stderr=log, env=python_environment(environ)
            )

    def _wait(self) -> None:
        status = self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop may be closed already
            self._loop.call_soon_threadsafe(self._set_ended, status if status >= 0 else 128 - status)

    def _set_ended(self, status: int) -> None:
        if not self.ended.done():
            self.ended.set_result(status)


def last_words(log_path: Path) -> str:
    """The end of a log on one line of at most 400 characters, without PRTE's frames of dashes."""
    try:
        text = log_path.read_bytes()[-4096:].decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not set(line.strip()) <= {"-", "="}]
    return " ".join(lines)[-_LONGEST_WORDS:]
