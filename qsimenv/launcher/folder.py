"""The run folder of an environment: whose it is, and what of it is ours to remove.

The keeper holds the folder's lock as long as it lives; ``environment`` asks by it whether one runs. The journal is
never removed here: it is what outlives an environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from qsimenv.errors import BadStateError
from qsimenv.launcher.dvm import memory_mark
from qsimenv.qpm_plugin.connection import FILE_NAME

LOCK_NAME = "lock"
LOG_NAME = "controller.log"
WORKER_LOG_NAME = "workers.log"
DVM_PREFIX = "dvm-"
_OURS = (LOCK_NAME, LOG_NAME, f"{WORKER_LOG_NAME}*", FILE_NAME, f".{FILE_NAME}.*.tmp", f"{DVM_PREFIX}*")
"""What an environment puts into its run folder, and all that it ever removes from there."""


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


def remove(folder: Path) -> None:
    """Take the run folder away, the lock last, so that nobody moves in while we move out."""
    clear(folder, keep=(LOCK_NAME,))
    (folder / LOCK_NAME).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something is there that is not ours, or a journal
        folder.rmdir()


def clear(folder: Path, keep: tuple[str, ...]) -> None:
    """Remove what we put into the folder, or what a predecessor left there that was killed; nothing else."""
    for entry in [entry for pattern in _OURS for entry in folder.glob(pattern)]:
        if entry.name in keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
            for memory in Path("/dev/shm").glob(f"{memory_mark(entry.absolute())}*"):  # noqa: S108 - where it lives
                shutil.rmtree(memory, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
