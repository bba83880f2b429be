"""A worker's shelf: large results are put into memory, and moved beside the journal by a thread, once all is answered.

The worker makes one and ``large`` puts results on it. Memory that is touched for the first time costs several times
what a copy into it does. So the pages of moved files are used again as soon as nobody maps them, where none are left
the thread prepares some for the next result, and after a while without large results they go. The rules that keep
readers from harm are those of ``result_files``.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import mmap
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qsimenv.qpm_plugin import result_files
from qsimenv.qpm_plugin.result_files import SPARE, Folders, Part

_MOST_BYTES = 256 << 20
"""What a worker holds in memory: where so much waits for the disk, more goes there at once, at the disk's pace."""
_KEPT_S = 10.0
"""So long spare pages are kept for the next large result."""
_PAUSE_S = 0.005
"""The answer goes out before the file is moved: both want a core."""
_RETRY_S = 1.0
"""So soon a move is tried again where the disk was full."""
_NICENESS = 10
"""The thread has what the kernels leave."""
_ZEROS = bytes(1 << 20)


@dataclass(eq=False)
class _File:
    """A file in memory; ``mapped``, once there was time for that, all its pages at once."""

    path: Path
    descriptor: int
    size: int
    mapped: mmap.mmap | None = None

    def rename(self, path: Path) -> None:
        self.path = self.path.rename(path)

    def map(self) -> mmap.mmap:
        if self.mapped is None:
            self.mapped = mmap.mmap(self.descriptor, self.size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        return self.mapped

    def fill(self, parts: Sequence[Part]) -> None:
        for offset, data in parts:
            self.map()[offset : offset + len(data)] = data

    def take(self) -> bool:
        """Keep everybody from mapping it, unless somebody does."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def give(self) -> None:
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)
        if self.mapped is not None:
            self.mapped.close()


class Shelf:
    """Where a worker's large results go. Where they have to survive a power failure, the disk gets them at once."""

    def __init__(self, folders: Folders, durable: bool = False) -> None:
        self._folders, self._durable = folders, durable
        self._news = threading.Condition()
        self._waiting: list[_File] = []
        self._spares: list[_File] = []
        self._numbers = itertools.count()
        self._mover: threading.Thread | None = None

    def put(self, name: str, parts: Sequence[Part], size: int) -> bool:
        """Write the file of a result; False, with nothing left behind, where there is no room for it anywhere."""
        if not result_files.is_name(name):
            return False
        memory = self._folders.memory
        if memory is not None and not self._durable and self._put_in_memory(memory / name, parts, size):
            return True
        try:
            os.close(result_files.write(self._folders.disk / name, parts, size, self._durable))
        except OSError:
            return False
        return True

    def _put_in_memory(self, path: Path, parts: Sequence[Part], size: int) -> bool:
        try:
            file = self._take_spare(size)
            if file is not None:
                file.fill(parts)
                file.give()
            elif self._has_room(size):
                file = self._fresh(path.parent, parts, size)
            else:
                return False
        except OSError:
            return False
        try:
            file.rename(path)
        except OSError:  # somebody has swept it away
            file.discard()
            return False
        with self._news:
            self._waiting.append(file)
            self._news.notify()
        if self._mover is None:
            self._mover = threading.Thread(target=self._move_all, name="shelf", daemon=True)
            self._mover.start()
        return True

    def _take_spare(self, size: int) -> _File | None:
        """A file of that size that nobody maps, and nobody can."""
        with self._news:
            for file in self._spares:
                if file.size == size and file.take():
                    self._spares.remove(file)
                    return file
        return None

    def _has_room(self, size: int) -> bool:
        """Whether a file more may be had; the oldest spare ones go for it."""
        with self._news:
            left = _MOST_BYTES - size - _sum(self._waiting)
            self._drop_spares(left)
            return left >= 0

    def _drop_spares(self, left: int) -> None:
        while self._spares and _sum(self._spares) > left:
            self._spares.pop(0).discard()

    def _fresh(self, memory: Path, parts: Sequence[Part], size: int) -> _File:
        path = memory / f"{SPARE}{os.getpid()}-{next(self._numbers)}"
        return _File(path, result_files.write(path, parts, size), size)

    # --- in the thread ---

    def _move_all(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while True:
            file = self._next()
            time.sleep(_PAUSE_S)
            with contextlib.suppress(OSError):
                self._prepare(file)
            try:
                result_files.copy_to_disk(self._folders, file.path.name, file.descriptor, file.map())
            except OSError:
                time.sleep(_RETRY_S)
            else:
                self._retire(file)

    def _next(self) -> _File:
        """The file that has waited longest."""
        with self._news:
            if not self._news.wait_for(lambda: self._waiting, _KEPT_S):
                self._drop_spares(0)
                self._news.wait_for(lambda: self._waiting)
            return self._waiting[0]

    def _prepare(self, last: _File) -> None:
        """See to it that there are pages for another result like the last one."""
        spare = self._take_spare(last.size)
        if spare is None:
            if _sum([*self._waiting, *self._spares]) + last.size > _MOST_BYTES:
                return
            spare = self._fresh(last.path.parent, _blank(last.size), last.size)
            spare.map()
        spare.give()
        with self._news:
            self._spares.append(spare)

    def _retire(self, file: _File) -> None:
        """Let a file that was moved be found beside the journal alone, and keep its pages."""
        try:
            file.rename(file.path.parent / f"{SPARE}{os.getpid()}-{next(self._numbers)}")
            kept = [file]
        except OSError:  # its task was deleted
            file.discard()
            kept = []
        with self._news:
            self._waiting.remove(file)
            self._spares += kept


def _blank(size: int) -> list[Part]:
    """Written rather than left out: to write to a page of a full file system through a mapping is death."""
    whole = memoryview(_ZEROS)
    return [(offset, whole[: size - offset]) for offset in range(0, size, len(whole))]


def _sum(files: Sequence[_File]) -> int:
    return sum(file.size for file in files)
