"""One process compiles, the others wait and load: the lock for that, and the words in the meantime.

``statevec.kernel_cache`` uses it. It relies on file locks, which the system takes back from a process that dies, so
that nothing stale is left behind. Where a file system has no locks, one process of each host does the work.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")
Report = Callable[[str], None]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"qsimenv: {text}\n")
    sys.stderr.flush()


_report: Report = _to_stderr


def report(text: str) -> None:
    """Say how far things are: a line on stderr, or whatever ``reporting`` put in its place."""
    _report(text)


@contextmanager
def reporting(to: Report) -> Iterator[None]:
    """Send reports elsewhere for a while: to a terminal's status line, say."""
    global _report  # noqa: PLW0603 - there is one stderr as well
    before, _report = _report, to
    try:
        yield
    finally:
        _report = before


class Lock:
    """A lock between processes, on a file that stays; given back by ``release``, or by the system when we die."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def try_acquire(self) -> bool:
        """Whether we have it now. Yes where nothing can be locked at all: whoever works there does it for itself."""
        handle = _open(self._path)
        if handle is None:
            return True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        self._handle = handle
        return True

    def acquire(self) -> None:
        """Wait until we have it: for what takes a moment only."""
        while not self.try_acquire():
            time.sleep(_FIRST_PAUSE_S)

    def release(self) -> None:
        """Give it back, if we have it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def find_or_lock(find: Callable[[], Found | None], lock: Lock, when_waiting: Callable[[], None]) -> Found | None:
    """What ``find`` finds, as soon as it does; None when it is ours to make, and the lock ours to release. *Local.*

    ``when_waiting`` is called once if another process has been at it for some seconds.
    """
    pause_s = _FIRST_PAUSE_S
    while (found := find()) is None:
        if lock.try_acquire():
            found = find()  # it may have been made since we looked
            if found is not None:
                lock.release()
            return found
        if pause_s < _LONGEST_PAUSE_S <= 1.5 * pause_s:
            when_waiting()
        time.sleep(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, 1.5 * pause_s)
    return found


def _open(path: Path) -> int | None:
    """The file of a lock; one in the host's own temporary folder where the file system of ``path`` has no locks."""
    mine = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    for place in (path, Path(tempfile.gettempdir()) / f"qsimenv-{os.getuid()}-{mine}.lock"):
        try:
            handle = os.open(place, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            continue
        if _has_locks(handle):
            return handle
        os.close(handle)
    return None


def _has_locks(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno not in _NO_LOCKS
    return True
