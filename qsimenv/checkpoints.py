"""Checkpoints: a folder with the last two that a run wrote, when to write the next, and what a run is told.

A checkpoint is a set of shards (``shards``) in a numbered folder of its own, a *generation*. The oldest is removed
before the next is written, so that the last whole one is always there and the disk holds two at most. What stands in
one is the engine's business; who makes a ``Checkpointing`` and gives it to a run is the command line or ``qs.run``.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from qsimenv import shards
from qsimenv.comm import Team
from qsimenv.errors import BadStateError, InvalidArgumentError, NotFoundError, QSimEnvError

FILE_NAME = "state.h5"
LOCK_NAME = "in-use"
KEPT = 2
_SECONDS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}
_NAME = re.compile(r"checkpoint-(\d{6,})")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True)
class Every:
    """How often: after so many seconds, or after so many sweeps; the other one is None."""

    seconds: float | None = None
    sweeps: int | None = None


def every(text: str) -> Every:
    """``90s``, ``10min``, ``2h`` or ``500 sweeps``. Raises InvalidArgumentError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|sec|min|h)|([1-9]\d*)\s*sweeps?", text.strip())
    if match is None:
        raise InvalidArgumentError(
            f"checkpoint: {text!r} found as how often, a time like 10min or a number like '500 sweeps' needed"
        )
    if match[3]:
        return Every(sweeps=int(match[3]))
    return Every(seconds=float(match[1]) * _SECONDS[match[2]])


def _ignore(_: str) -> None:
    pass


@dataclass
class Checkpointing:
    """What a run is told about checkpoints. ``tell`` gets lines for the user, on rank 0; ``stop_asked`` says, on any
    rank, that the run is to write a checkpoint and end with SuspendedError; ``written_s``: what each one took."""

    folder: Path
    every: Every
    tell: Callable[[str], None] = _ignore
    stop_asked: Callable[[], bool] = lambda: False
    written_s: list[float] = field(default_factory=list)

    def whole(self, team: Team) -> list[Path]:
        """The checkpoints that were finished, newest first; tells of those that were not. *Collective.*"""
        found: list[str] = []
        if team.rank == 0:
            for generation in reversed(_generations(self.folder)):
                if (generation / FILE_NAME).is_file():
                    found.append(str(generation / FILE_NAME))
                else:
                    self.tell(f"checkpoint {generation}: it was never finished; left aside")
        names = msgspec.msgpack.decode(team.broadcast(msgspec.msgpack.encode(found)), type=list[str])
        return [Path(name) for name in names]

    def make_room(self, team: Team) -> Path:
        """A new generation to write to, after the oldest ones and those never finished have gone. *Collective.*"""
        error, name = None, ""
        if team.rank == 0:
            try:
                name = str(self._make_room())
            except OSError as found:
                error = BadStateError(f"checkpoint: {self.folder} cannot be written ({found.strerror}); give another")
        team.agree(error)
        return Path(team.broadcast(name.encode()).decode()) / FILE_NAME

    def _make_room(self) -> Path:
        generations = _generations(self.folder)
        whole = [each for each in generations if (each / FILE_NAME).is_file()]
        for generation in generations:
            if generation not in whole[1 - KEPT :]:
                _remove(generation)
        made = self.folder / f"checkpoint-{_number(generations[-1]) + 1 if generations else 1:06d}"
        made.mkdir(parents=True)
        return made

    def give_up(self, path: Path) -> None:
        """Remove a checkpoint that could not be written. *Local*: rank 0 does it."""
        _remove(path.parent)


@contextmanager
def logged(folder: str | Path, often: str, team: Team) -> Iterator[Checkpointing]:
    """Checkpoints whose words go to the log; removed at the end of a block that comes to its end. *Collective.*

    Raises like ``claimed``.
    """
    tell = logging.getLogger("qsimenv").warning
    with claimed(Path(folder), team, tell):
        yield Checkpointing(Path(folder), every(often), tell)
        if team.rank == 0:
            discard(Path(folder))


@contextmanager
def claimed(folder: Path, team: Team, tell: Callable[[str], None]) -> Iterator[None]:
    """The folder belongs to this run for the block; made where it is not there, and removed where it stays empty.

    Rank 0 holds a lock of the system on a file in it, which ends with the process, however it ends: what a dead run
    leaves is no obstacle. Where a file system knows no locks ``tell`` gets a line. *Collective.* Raises, on every rank,
    InvalidArgumentError for a folder that cannot be written, BadStateError for one that another run holds.
    """
    error: QSimEnvError | None = None
    if team.rank == 0:
        try:
            descriptor = _claim(folder, tell)
        except QSimEnvError as found:
            error = found
    team.agree(error)
    try:
        yield
    finally:
        if team.rank == 0:
            with suppress(OSError):
                (folder / LOCK_NAME).unlink()  # while it is locked, so that nobody waits for a file that is gone
            os.close(descriptor)
            with suppress(OSError):
                folder.rmdir()


def _claim(folder: Path, tell: Callable[[str], None]) -> int:
    """The open and locked file."""
    file = folder / LOCK_NAME
    try:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                _lock(descriptor, file, tell)
                if _is_still(descriptor, file):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its owner ended, and removed it, after it was opened here
    except OSError as found:
        raise InvalidArgumentError(
            f"checkpoint: {folder} cannot be written ({found.strerror}); give another folder"
        ) from None


def _lock(descriptor: int, file: Path, tell: Callable[[str], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
        raise BadStateError(
            f"checkpoint: {file.parent} is in use by {owner}; wait for its end, or give another folder"
        ) from None
    except OSError as found:
        if found.errno not in _NO_LOCKS:
            raise
        tell(f"checkpoint {file.parent}: this file system knows no locks; see to it that no other run writes there")


def _is_still(descriptor: int, file: Path) -> bool:
    """Whether the open file is the one that has the name."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def discard(folder: Path) -> None:
    """Remove all checkpoints, and the folder where nothing else is in it. *Local*: rank 0 does it."""
    for generation in _generations(folder):
        _remove(generation)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def newest(found: list[Path], team: Team, tell: Callable[[str], None], take: Callable[[Path], None]) -> Path | None:
    """Try checkpoints, newest first, until ``take`` succeeds on every rank. *Collective.* Returns the one taken.

    ``take`` raises BadStateError or NotFoundError for a damaged one; the user is told which and why. Raises
    BadStateError where there are some and none is good: to begin anew is the user's decision.
    """
    for path in found:
        error: QSimEnvError | None = None
        try:
            take(path)
        except (BadStateError, NotFoundError) as damaged:
            error = damaged
        try:
            team.agree(error)
        except (BadStateError, NotFoundError) as damaged:
            if team.rank == 0:
                tell(f"checkpoint {path.parent} refused: {damaged.message}")
            continue
        return path
    if found:
        raise BadStateError(
            f"checkpoint: none of the {len(found)} in {found[0].parents[1]} is whole; remove the folder to begin anew"
        )
    return None


def _generations(folder: Path) -> list[Path]:
    """The numbered folders, oldest first."""
    if not folder.is_dir():
        return []
    found = [each for each in folder.iterdir() if _NAME.fullmatch(each.name) and each.is_dir()]
    return sorted(found, key=_number)


def _number(generation: Path) -> int:
    return int(generation.name.rpartition("-")[2])


def _remove(generation: Path) -> None:
    """The manifest goes first: what a removal leaves that was broken off is no whole checkpoint. Nothing of others."""
    shards.remove(generation / FILE_NAME)
    with suppress(OSError):
        generation.rmdir()
