"""Where the files of large results lie: in memory first, on a file system that is, and beside the journal in the end.

So no disk keeps a client waiting. The worker that wrote a file moves it (``shelf``); the controller moves what workers
that died have left, and all that is left when it ends. A name in either folder stands for a whole file. A move gives
the file its name beside the journal before it takes that in memory away, and who reads looks in memory first: there is
no moment at which a result is nowhere. Pages in memory are used again for other results; who maps a file there holds a
shared lock on it, which lasts as long as the mapping does, and whoever has an exclusive one may write.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import re
import socket
import stat
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from qsimenv.qpm_plugin.circuit_files import sync_folder
from qsimenv.qpm_plugin.connection import Connection
from qsimenv.qpm_plugin.journal import memory_folder, results_folder

SPARE = ".spare-"
"""So begins the name of a file in memory that is no task's: of pages to be used again."""
_MOVING = ".moving-"
"""So begins the name of a file beside the journal that is not whole yet; the id of its process follows."""
_ROOM = 4
"""Only where the file system has so many times the room: it may be memory."""
_PIECE_BYTES = 1 << 20
"""Written at once: 16 MiB in one call took ext4 ten times as long as in such pieces (41 and 4 ms)."""
_NAME = re.compile(r"[0-9a-f]+-[0-9]+\.[0-9]+")

Part = tuple[int, memoryview]
"""Bytes, and where in the file they belong."""


class Folders(NamedTuple):
    """``disk`` is the folder beside the journal; ``memory`` is None where there is none."""

    disk: Path
    memory: Path | None = None


def folders_of(journal: Path) -> Folders:
    """The folders of a journal, be they there or not."""
    memory = memory_folder(journal)
    return Folders(results_folder(journal), memory if memory.parent.is_dir() else None)


def make(folders: Folders, server_key: str) -> Folders:
    """Make them, for their owner alone, with the mark of the controller that has ``server_key``, and no other.

    Returns those that can be had. Raises OSError where that beside the journal cannot.
    """
    _make_private(folders.disk, server_key)
    try:
        if folders.memory is not None:
            _make_private(folders.memory, server_key)
    except OSError:
        return Folders(folders.disk)
    return folders


def here(connection: Connection) -> Folders | None:
    """The controller's folders where this process sees the very same ones; else None."""
    if not connection.results or connection.host != socket.gethostname():
        return None
    folders = Folders(Path(connection.results), Path(connection.memory) if connection.memory else None)
    mark = _mark(connection.server_key)
    is_seen = all(os.access(folder / mark, os.R_OK) for folder in folders if folder is not None)
    return folders if is_seen else None


def is_name(name: str) -> bool:
    """Whether a file may be called that: task and generation."""
    return _NAME.fullmatch(name) is not None


def names(folders: Folders) -> set[str]:
    """The files in the folders, whoever they belong to."""
    return {name for folder in folders if folder is not None for name in _listed(folder) if is_name(name)}


def opened(folders: Folders, name: str) -> BinaryIO:
    """The file, to be mapped: what is mapped stays, whatever becomes of the file. Raises OSError where it is gone."""
    if folders.memory is not None:
        with contextlib.suppress(OSError):
            return _opened_in_memory(folders.memory / name)
    return (folders.disk / name).open("rb")


def write(path: Path, parts: Iterable[Part], size: int, durable: bool = False) -> int:
    """Write a file, which is ``size`` bytes long, and return its descriptor; ``durable`` waits for the disk.

    Raises OSError, with nothing left behind, where there is no room.
    """
    about = os.statvfs(path.parent)
    if about.f_bavail * about.f_frsize < _ROOM * size:
        raise OSError(f"no room for {size} bytes")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for offset, data in parts:
            _write_at(descriptor, data, offset)
        os.ftruncate(descriptor, size)
        if durable:
            os.fsync(descriptor)
            sync_folder(path.parent)
    except OSError:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def copy_to_disk(folders: Folders, name: str, descriptor: int, mapped: mmap.mmap) -> None:
    """The first half of a move: afterwards the file lies beside the journal, too, unless it was removed meanwhile.

    ``descriptor`` is that of the file in memory, which is ``mapped``. Raises OSError where there is no room.
    """
    assert folders.memory is not None  # noqa: S101 - there it lies
    unfinished = folders.disk / f"{_MOVING}{os.getpid()}-{name}"
    with memoryview(mapped) as data:
        os.close(write(unfinished, [(0, data)], len(data)))
    if _is_at(descriptor, folders.memory / name):
        unfinished.rename(folders.disk / name)
    else:
        unfinished.unlink(missing_ok=True)


def remove(folders: Folders, name: str) -> bool:
    """Remove a file; who has mapped it keeps what it mapped. Whether it was in memory, and perhaps half moved."""
    was_in_memory = folders.memory is not None and _unlink(folders.memory / name)
    _unlink(folders.disk / name)
    return was_in_memory


def sweep(folders: Folders, kept: Container[str]) -> list[str]:
    """Remove all files but these, and what others left half done. Returns those that are (still) in memory.

    No other process may write here.
    """
    for name in names(folders):
        if name not in kept:
            remove(folders, name)
    for entry in _listed(folders.disk):
        if entry.startswith(_MOVING) and not entry.startswith(f"{_MOVING}{os.getpid()}-"):
            _unlink(folders.disk / entry)
    if folders.memory is None:
        return []
    found = _listed(folders.memory)
    for entry in found:
        if entry.startswith(SPARE):
            _unlink(folders.memory / entry)
    return [entry for entry in found if is_name(entry)]


def move(folders: Folders, moved: Sequence[str]) -> None:
    """Move files out of memory, for a process that died. Raises OSError where the disk takes no more."""
    if folders.memory is None:
        return
    for name in moved:
        path = folders.memory / name
        try:
            file = _opened_in_memory(path)
        except OSError:
            continue  # somebody else has moved it, or it was removed
        with file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            copy_to_disk(folders, name, file.fileno(), mapped)
        _unlink(path)


def leave_memory(folders: Folders) -> None:
    """Move all there is and remove the folder in memory. No other process may write. Raises OSError like ``move``."""
    if folders.memory is None or not folders.memory.is_dir():
        return
    move(folders, sweep(folders, names(folders)))
    for mark in folders.memory.glob(".mark-*"):
        mark.unlink(missing_ok=True)
    folders.memory.rmdir()


def _make_private(folder: Path, server_key: str) -> None:
    """Somebody else may have made a folder of that name where everybody may, or a link."""
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise PermissionError(f"{folder} is open to others")
    for mark in folder.glob(".mark-*"):
        mark.unlink(missing_ok=True)
    (folder / _mark(server_key)).touch(0o600)


def _mark(server_key: str) -> str:
    return f".mark-{hashlib.sha256(server_key.encode()).hexdigest()[:16]}"


def _opened_in_memory(path: Path) -> BinaryIO:
    """With a shared lock; raises OSError where the file is not (or no longer) the one of that name."""
    file = path.open("rb")
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if not _is_at(file.fileno(), path):
            raise FileNotFoundError(path)
    except OSError:
        file.close()
        raise
    return file


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data[:_PIECE_BYTES], offset)
        data, offset = data[written:], offset + written
