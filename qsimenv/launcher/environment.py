"""Starting and stopping an environment: what ``qsimenv start`` and ``qsimenv stop`` call, and programs may.

The environment itself is another process (``keeper``) and its children; this side starts it, listens until every
worker has answered, and makes sure that nothing stays behind when that fails or is broken off.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil

from qsimenv.errors import (
    BadStateError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    QSimEnvError,
    TimedOutError,
    from_code,
)
from qsimenv.launcher.folder import LOCK_NAME, LOG_NAME, lock, remove
from qsimenv.launcher.settings import FAILED, READY, Progress, Settings
from qsimenv.qpm_plugin.api import QPM
from qsimenv.qpm_plugin.connection import FILE_NAME, Connection, default_run_folder
from qsimenv.qpm_plugin.journal import FILE_NAME as JOURNAL_NAME
from qsimenv.qpm_plugin.journal import remove_journal
from qsimenv.wording import plural

_END_TIMEOUT_S = 40.0
_GUARD_TIMEOUT_S = 15.0
_TELL_FIRST_S, _TELL_LAST_S = 1.0, 60.0
"""So soon, and so often in the end, it is told what a drain waits for."""


def start(
    name: str = "default",
    *,
    run_folder: Path | None = None,
    hosts: str | None = None,
    ranks_per_node: int | None = None,
    het_group: int | None = None,
    profile: str | None = None,
    timeout_s: float = 120.0,
    journal: Path | None = None,
    durable: bool = False,
    keep_results: int | None = None,
    max_queued: int | None = None,
    metrics_port: int | None = None,
    on_phase: Callable[[str], None] = lambda _phase: None,
) -> Connection:
    """Start an environment and return when every worker has answered.

    It goes on from the journal in the run folder, where an earlier one was killed or stopped with ``keep``; ``journal``
    is a file elsewhere, on a disk of this node where the run folder is on a network file system. ``durable`` makes it
    wait for the disk before a task counts as accepted or ended (power may fail then); ``keep_results`` bounds how many
    tasks that were read are kept, ``max_queued`` how many may wait and run. ``metrics_port`` (of loopback) serves its
    counters. ``hosts`` is ``a:2,b:2`` or ``@file``; without it a Slurm allocation is used where there is one, else this
    machine. ``profile`` names a site profile or its file (``profiles``). ``on_phase`` hears what is being done. Raises
    BadStateError where one of that name runs, TimedOutError after ``timeout_s`` seconds for each phase, any
    QSimEnvError for what went wrong; nothing is left running then.
    """
    folder = (run_folder or default_run_folder(name)).absolute()
    _make(folder)
    if is_running(folder) and not _is_dying(folder):
        raise BadStateError(f"start: environment {name!r} is already running; stop it first, or give another --name")
    settings = Settings(
        name=name,
        run_folder=str(folder),
        hosts=hosts,
        ranks_per_node=ranks_per_node,
        het_group=het_group,
        profile=profile,
        timeout_s=timeout_s,
        journal=None if journal is None else str(journal.absolute()),
        durable=durable,
        keep_results=keep_results,
        max_queued=max_queued,
        metrics_port=metrics_port,
    )
    reading, writing = os.pipe()
    with contextlib.closing(os.fdopen(reading, "rb", buffering=0)) as pipe:
        try:
            process = _spawn(settings, folder, writing)
        finally:
            os.close(writing)
        try:
            _wait_until_ready(process, pipe.fileno(), 3 * timeout_s, on_phase)
        except BaseException:
            _end(process)
            if not is_running(folder):
                remove(folder)  # it was ended before it could do so itself
            raise
    return Connection.read(folder / FILE_NAME)


def _make(folder: Path) -> None:
    """Make the run folder. Raises InvalidArgumentError where that cannot be."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise InvalidArgumentError(
            f"start: the run folder {folder} cannot be made ({reason}); set QSIMENV_RUN_FOLDER to another one"
        ) from None


def _spawn(settings: Settings, folder: Path, pipe: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "qsimenv.launcher.keeper", msgspec.json.encode(settings).decode(), str(pipe)]
    with (folder / LOG_NAME).open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[pipe], start_new_session=True
        )


def _wait_until_ready(
    process: subprocess.Popen[bytes], pipe: int, timeout_s: float, on_phase: Callable[[str], None]
) -> None:
    for progress in _progress(pipe, time.monotonic() + timeout_s):
        if progress.phase == READY:
            return
        if progress.phase == FAILED:
            raise from_code(progress.code or QSimEnvError.code, progress.message)
        on_phase(progress.phase)
    process.wait()
    raise QSimEnvError(f"start: the environment's process ended with status {process.returncode} before it was ready")


def _progress(pipe: int, deadline: float) -> Iterator[Progress]:
    """What the process says, until it closes the pipe. Raises TimedOutError at ``deadline``."""
    buffer = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimedOutError("start: the environment was not ready in time; try a longer --timeout")
        data = os.read(pipe, 65536)
        if not data:
            return
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            yield msgspec.json.decode(line, type=Progress)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the environment's process in order, whatever it is doing; a second interrupt does not leave it behind."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_END_TIMEOUT_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


def is_running(folder: Path) -> bool:
    """Whether a process holds the run folder. One that died has let it go, whatever files it left."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise PermissionDeniedError(f"environment: {folder} is not ours ({error.strerror})") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_dying(folder: Path, patience_s: float = 5.0) -> bool:
    """Whether the process that holds the folder was killed and lets go of it within moments."""
    began = time.monotonic()
    while is_running(folder):
        process = _process_of(folder)
        alive = process is not None and _is_alive(process)
        if time.monotonic() - began > (0.5 if alive else patience_s):  # a kill takes a moment to arrive
            return False
        time.sleep(0.02)
    return True


def stop(
    name: str = "default",
    *,
    run_folder: Path | None = None,
    drain: bool = False,
    keep: bool = False,
    grace_s: float = 0.0,
    within_s: float | None = None,
    timeout_s: float = 60.0,
    on_phase: Callable[[str], None] = lambda _phase: None,
) -> None:
    """Stop an environment and return when its process is gone; ``drain`` lets it finish what it accepted first.

    ``keep`` leaves its tasks and results in the journal, and the next ``start`` goes on with them. What runs is given
    ``grace_s`` seconds to end, and nothing starts meanwhile. A drain takes at most ``within_s`` seconds (None: as long
    as it takes): what has not ended then is kept. ``on_phase`` is told now and then what is waited for.

    Raises NotFoundError where none runs, and none was killed there; TimedOutError where it is stopped but was not
    drained in time. One that does not answer is ended by its process id, and by force where that has not helped after
    ``timeout_s`` seconds.
    """
    from qsimenv.qpm_plugin.client import connect

    folder = (run_folder or default_run_folder(name)).absolute()
    if not is_running(folder):
        if _clear_remains(folder, keep):
            return
        kept = "goes on with the tasks that were kept there" if (folder / JOURNAL_NAME).exists() else "starts one"
        raise NotFoundError(f"stop: no environment is running in {folder}; `qsimenv start` {kept}")
    process, left = _process_of(folder), 0
    try:
        with connect(folder / FILE_NAME, timeout_s=5.0) as qpm, _telling(qpm, on_phase if drain else None):
            left = qpm.shutdown(drain, keep, grace_s, within_s)
    except QSimEnvError:
        if drain:
            raise
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
    _wait_until_gone(folder, process, timeout_s)
    if drain and left:
        limit = "" if within_s is None else f" after {within_s:g} s"
        raise TimedOutError(
            f"stop: the environment is stopped, but {plural(left, 'task')} had not ended{limit}; "
            "the next `qsimenv start` goes on with what is left"
        )
    if not keep:
        _remove_journal(folder)


@contextlib.contextmanager
def _telling(qpm: QPM, on_phase: Callable[[str], None] | None) -> Iterator[None]:
    """Meanwhile ``on_phase``, if any, hears which tasks have not ended, less and less often."""
    if on_phase is None:
        yield
        return
    is_over = threading.Event()

    def tell() -> None:
        pause_s = _TELL_FIRST_S
        with contextlib.suppress(QSimEnvError):
            while not is_over.wait(pause_s):
                tasks = qpm.telemetry()["tasks"]
                if tasks["RUNNING"] or tasks["QUEUED"]:
                    on_phase(f"waiting for {tasks['RUNNING']} running and {tasks['QUEUED']} queued tasks")
                pause_s = min(2 * pause_s, _TELL_LAST_S)

    teller = threading.Thread(target=tell, name="qsimenv-stop", daemon=True)
    teller.start()
    try:
        yield
    finally:
        is_over.set()
        teller.join()


def _remove_journal(folder: Path) -> None:
    """Where the environment was ended by force, and nobody has moved in since."""
    if not (folder / JOURNAL_NAME).exists():
        return
    with contextlib.suppress(BadStateError):
        descriptor = lock(folder)
        remove_journal(folder / JOURNAL_NAME)
        remove(folder)
        os.close(descriptor)


def _clear_remains(folder: Path, keep: bool) -> bool:
    """Remove what an environment left that was killed; whether there was any. Nobody starts there meanwhile."""
    if not (folder / FILE_NAME).exists():
        return False
    descriptor = lock(folder)
    try:
        if not keep:
            remove_journal(folder / JOURNAL_NAME)
        remove(folder)
    finally:
        os.close(descriptor)
    return True


def _process_of(folder: Path) -> psutil.Process | None:
    """The process that holds the folder, where it is one of this machine's."""
    try:
        return psutil.Process(int((folder / LOCK_NAME).read_text(encoding="ascii")))
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None


def _wait_until_gone(folder: Path, process: psutil.Process | None, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while is_running(folder) or (process is not None and _is_alive(process)):
        if time.monotonic() > deadline:
            if process is None:
                raise TimedOutError(f"stop: the environment in {folder} did not end in {timeout_s:g} s")
            _kill(folder, process)
            return
        time.sleep(0.02)


def _kill(folder: Path, process: psutil.Process) -> None:
    """End the environment's process by force and wait for its DVM and workers, whose guard ends them then."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = process.children(recursive=True)
        process.kill()
        psutil.wait_procs([process, *family], timeout=_GUARD_TIMEOUT_S)
    if not is_running(folder):
        remove(folder)


def _is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended and that its parent has not asked about yet does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
