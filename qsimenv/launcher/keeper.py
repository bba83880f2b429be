"""The keeper: the process of an environment that starts its controller, and starts it again when it dies or hangs.

``environment.start`` runs it as ``python -m qsimenv.launcher.keeper``, detached, with the settings as JSON on the
command line and a pipe on which it says what is being done. It holds the run folder's lock, does nothing but wait, and
imports little: it is what has to live on. The controller (``serving``) tells it through a pipe of its own that it is
alive, that it is ready, and that it is meant to end; from then on, or after SIGTERM, nothing is started again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from qsimenv.errors import QSimEnvError
from qsimenv.launcher import guard
from qsimenv.launcher.folder import LOCK_NAME, LOG_NAME, clear, lock, remove
from qsimenv.launcher.settings import ALIVE, ENDING, FAILED, READY, Progress, Settings

SILENCE_S = 20.0
"""A controller that has said nothing for so long hangs."""
END_S = 20.0
"""So long a controller may take to end in order."""
FAILURES = 5
"""So many controllers in a row may end before they are ready."""
_BACKOFF_S = 0.5
_REMAINS_S = 15.0
_START_FAILED = 2
_log = logging.getLogger("qsimenv.keeper")


class Keeper:
    """One environment's keeper. ``pipe`` is where whoever started it listens."""

    def __init__(self, settings: Settings, pipe: int) -> None:
        self._settings, self._pipe = settings, pipe
        self._was_ready = False
        self._failures = 0
        self._ends_at: float | None = None
        """Set once the environment is meant to end: when the controller is killed if it has not ended."""
        self._wakeup = guard.wakeup_pipe()

    def run(self) -> int:
        """Keep a controller running until it is meant to end; the exit status."""
        guard.become_reaper()
        while True:
            status = self._run_controller()
            self._end_remains()
            if status == 0 or self._ends_at is not None:
                return 0
            if not self._was_ready:
                return _START_FAILED
            self._failures += 1
            _log.error("the controller ended with status %d", status)
            if self._failures >= FAILURES:
                _log.error("%d controllers in a row ended before they were ready: giving up", FAILURES)
                return _START_FAILED
            self._pause(_BACKOFF_S * (self._failures - 1))
            if self._ends_at is not None:
                return 0
            clear(Path(self._settings.run_folder), keep=(LOCK_NAME, LOG_NAME))

    def _run_controller(self) -> int:
        """Start one, listen to it until it has ended; its status (negative: the signal)."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        settings = msgspec.json.encode(self._settings).decode()
        command = [sys.executable, "-m", "qsimenv.launcher.serving", settings, str(writing), str(os.getpid())]
        with contextlib.closing(os.fdopen(reading, "rb", buffering=0)) as pipe:
            try:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[writing])
            finally:
                os.close(writing)
            try:
                return self._listen(process, pipe.fileno())
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def _listen(self, process: subprocess.Popen[bytes], pipe: int) -> int:
        buffer, heard = b"", time.monotonic()
        while True:
            patience_s = max(0.0, (self._ends_at or heard + SILENCE_S) - time.monotonic())
            ready, _, _ = select.select([pipe, self._wakeup], [], [], patience_s)
            if self._was_told_to_end(ready):
                process.terminate()
            status = process.poll()  # asked first: what it said before it ended is in the pipe by now
            data = _read(pipe) if pipe in ready or status is not None else b""
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                heard = time.monotonic()
                self._hear(msgspec.json.decode(line, type=Progress))
            if status is not None and not data:
                return status
            if pipe in ready and not data:  # it has closed its end
                return _wait_or_kill(process)
            if not ready and time.monotonic() >= (self._ends_at or heard + SILENCE_S):
                _log.error("the controller (process %d) does not answer: it is killed", process.pid)
                process.kill()
                return process.wait()

    def _hear(self, progress: Progress) -> None:
        if progress.phase == ENDING:
            self._ends_at = self._ends_at or time.monotonic() + END_S
        elif progress.phase != ALIVE and not self._was_ready:
            self._tell(progress)
        if progress.phase == READY:
            self._was_ready, self._failures = True, 0

    def _was_told_to_end(self, ready: list[int]) -> bool:
        """Take in the signals that have come; whether one of them was the first to end us."""
        signals = _read(self._wakeup) if self._wakeup in ready else b""
        first = self._ends_at is None and any(number != signal.SIGCHLD for number in signals)
        if first:
            self._ends_at = time.monotonic() + END_S
        return first

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._ends_at is None and (left_s := deadline - time.monotonic()) > 0:
            self._was_told_to_end(select.select([self._wakeup], [], [], left_s)[0])

    def _end_remains(self) -> None:
        """Wait until the guards have ended what the controller started; end what they have not."""
        deadline = time.monotonic() + _REMAINS_S
        while left := guard.descendants(os.getpid()):
            if time.monotonic() > deadline:
                for pid in left:
                    guard.kill(pid, signal.SIGKILL)
            guard.reap()
            time.sleep(0.01)
        guard.reap()

    def _tell(self, progress: Progress) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(self._pipe, msgspec.json.encode(progress) + b"\n")


def _wait_or_kill(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return b""


def main(arguments: list[str]) -> int:
    """``keeper SETTINGS PIPE``: settings as JSON, the number of the descriptor to report on."""
    settings, pipe = msgspec.json.decode(arguments[0], type=Settings), int(arguments[1])
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.INFO)
    folder = Path(settings.run_folder)
    keeper = Keeper(settings, pipe)
    try:
        lock(folder)
    except QSimEnvError as error:
        keeper._tell(Progress(FAILED, error.code, error.message))
        return _START_FAILED
    try:
        clear(folder, keep=(LOCK_NAME, LOG_NAME))
        return keeper.run()
    finally:
        remove(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
