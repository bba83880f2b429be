"""The journal: what was accepted, what became of it, who has read it; one SQLite file that outlives the controller.

Pure storage: ``ledger`` says what is written and reads it back, the controller says when (one transaction for all that
came in together). Rows are only ever added, each kind in a table of its own, until a task is deleted. Write-ahead log
with synchronous=NORMAL: a commit survives the death of the process; ``durable`` waits for the disk, too, and survives
a power failure. The file is locked as long as it is open. Long circuits lie beside it (``circuit_files``).
Python's own ``sqlite3`` is all it relies on.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import sqlite3
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from qsimenv.errors import BadStateError, InvalidArgumentError, NotFoundError, QSimEnvError
from qsimenv.qpm_plugin import circuit_files

FILE_NAME = "journal.sqlite"
SCHEMA_VERSION = 2
_APPLICATION_ID = 0x71_73_65_6A  # "qsej"
_LOCK_TIMEOUT_S = 10.0
"""A predecessor that was just killed may need a moment to let go."""
_CHECKPOINT_PAGES = 4000
_MARKS = ("application_id", "user_version")
_TASKS_QUERY = (
    "SELECT ord, client, key, tasks.data, ends.data, reader, time, coalesce(number, 0) FROM tasks "
    "LEFT JOIN ends USING (ord) LEFT JOIN reads USING (ord) LEFT JOIN deaths USING (ord) ORDER BY ord"
)
_SCHEMA = """
CREATE TABLE circuits (hash TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE tasks (ord INTEGER PRIMARY KEY, client TEXT NOT NULL, key TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE ends (ord INTEGER NOT NULL UNIQUE, data BLOB NOT NULL, result BLOB);
CREATE TABLE reads (ord INTEGER PRIMARY KEY, reader BLOB NOT NULL, time REAL NOT NULL);
CREATE TABLE deaths (ord INTEGER PRIMARY KEY, number INTEGER NOT NULL);
CREATE TABLE claims (name TEXT PRIMARY KEY, client TEXT NOT NULL, ranks TEXT NOT NULL, expires REAL NOT NULL);
"""
"""Tasks of many ranks do not end in their order. Ends are kept as they come, with an index: rows that are put between
others, each on a page of its own, cost twice the time."""


class CircuitRow(NamedTuple):
    """The bytes of a circuit that accepted tasks need; none of one that has a file (``circuit_files``)."""

    hash: str
    data: bytes


class TaskRow(NamedTuple):
    """A task that was accepted; ``order`` numbers tasks by submission, ``key`` is that of the request."""

    order: int
    client: str
    key: str
    data: bytes


class EndRow(NamedTuple):
    """What became of it."""

    order: int
    data: bytes
    result: bytes | None


class AgainRow(NamedTuple):
    """It has not ended after all, and nobody has read it."""

    order: int


class ReadRow(NamedTuple):
    """Taken off the completion queue by the request ``reader``."""

    order: int
    reader: bytes
    time: float


class UnreadRow(NamedTuple):
    """Put back there: the reader was gone."""

    order: int


class DeathRow(NamedTuple):
    """So many instances have died while it ran."""

    order: int
    number: int


class DropRow(NamedTuple):
    """Forget the task and all about it."""

    order: int


class ClaimRow(NamedTuple):
    """A reservation, new or renewed; ``ranks`` is the set of its ranks, as a hexadecimal number."""

    name: str
    client: str
    ranks: str
    expires: float


class UnclaimRow(NamedTuple):
    """A reservation has ended."""

    name: str


Row = CircuitRow | TaskRow | EndRow | AgainRow | ReadRow | UnreadRow | DeathRow | DropRow | ClaimRow | UnclaimRow
_STATEMENTS: dict[type[Row], tuple[str, ...]] = {
    CircuitRow: ("INSERT OR IGNORE INTO circuits VALUES (?, ?)",),
    TaskRow: ("INSERT INTO tasks VALUES (?, ?, ?, ?)",),
    EndRow: ("INSERT OR REPLACE INTO ends VALUES (?, ?, ?)",),
    AgainRow: ("DELETE FROM ends WHERE ord = ?", "DELETE FROM reads WHERE ord = ?"),
    ReadRow: ("INSERT OR REPLACE INTO reads VALUES (?, ?, ?)",),
    UnreadRow: ("DELETE FROM reads WHERE ord = ?",),
    DeathRow: ("INSERT OR REPLACE INTO deaths VALUES (?, ?)",),
    ClaimRow: ("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)",),
    UnclaimRow: ("DELETE FROM claims WHERE name = ?",),
    DropRow: tuple(f"DELETE FROM {table} WHERE ord = ?" for table in ("tasks", "ends", "reads", "deaths")),  # noqa: S608
}


class Stored(NamedTuple):
    """A task as the journal knows it; ``end`` None: it has not ended; ``reader`` None: nobody has read it."""

    order: int
    client: str
    key: str
    data: bytes
    end: bytes | None
    reader: bytes | None
    read_time: float | None
    deaths: int


class Journal:
    """An open journal; ``path`` None keeps it in memory, for an environment that need not survive.

    Raises BadStateError where another process holds the file, InvalidArgumentError where it is damaged or not a
    journal of this version, QSimEnvError where it cannot be written.
    """

    def __init__(self, path: Path | None = None, durable: bool = False) -> None:
        self.path, self.durable, self._closed = path, durable, False
        if path is not None:
            _make_private(path)
        self._database = sqlite3.connect(
            ":memory:" if path is None else path, timeout=_LOCK_TIMEOUT_S, isolation_level=None
        )
        try:
            self._prepare(durable)
        except (sqlite3.Error, QSimEnvError) as error:
            self._database.close()
            raise _explained(path, error) from None

    def write(self, rows: Sequence[Row]) -> None:
        """Write all rows in one transaction, or none. QSimEnvError where that cannot be (a full disk, say)."""
        if not rows:
            return
        execute = self._database.executemany
        try:
            self._database.execute("BEGIN")
            for kind, group in itertools.groupby(rows, key=type):
                several = tuple(group)
                for statement in _STATEMENTS[kind]:
                    execute(statement, several)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise QSimEnvError(
                f"journal: {self.path} cannot be written ({error}); make room on the disk, it goes on by itself then"
            ) from None

    def tasks(self) -> Iterator[Stored]:
        """All tasks in order of submission, without their results."""
        try:
            yield from map(Stored._make, self._database.execute(_TASKS_QUERY))
        except sqlite3.Error as error:
            raise _explained(self.path, error) from None

    def circuits(self) -> dict[str, bytes]:
        """All circuits that were kept, by hash. Leaves out those whose files somebody has taken away."""
        found: dict[str, bytes] = dict(self._database.execute("SELECT hash, data FROM circuits"))
        for name in [name for name, data in found.items() if not data]:
            try:
                found[name] = (circuits_folder(self.path) / name).read_bytes() if self.path is not None else b""
            except OSError:
                del found[name]
        return found

    def has_file(self, circuit_hash: str) -> bool:
        """Whether a circuit is in a file of its own already."""
        return self.path is not None and (circuits_folder(self.path) / circuit_hash).exists()

    def keep_circuits(self, hashes: Container[str]) -> None:
        """Forget all circuits but these, where the disk allows."""
        if self.path is not None:
            circuit_files.keep_only(circuits_folder(self.path), hashes)
        unneeded = [(name,) for (name,) in self._database.execute("SELECT hash FROM circuits") if name not in hashes]
        with contextlib.suppress(sqlite3.Error):
            self._database.executemany("DELETE FROM circuits WHERE hash = ?", unneeded)

    def result(self, order: int) -> bytes | None:
        """The result of a task, where it gave one."""
        found = self._database.execute("SELECT result FROM ends WHERE ord = ?", (order,)).fetchone()
        return None if found is None else found[0]

    def first_bytes(self) -> Iterator[tuple[int, bytes]]:
        """Order and first byte of all results."""
        try:
            yield from self._database.execute("SELECT ord, substr(result, 1, 1) FROM ends WHERE length(result) > 0")
        except sqlite3.Error as error:
            raise _explained(self.path, error) from None

    def claims(self) -> list[ClaimRow]:
        """All reservations, those whose time is over included."""
        return [ClaimRow(*row) for row in self._database.execute("SELECT name, client, ranks, expires FROM claims")]

    @property
    def is_empty(self) -> bool:
        """Whether it holds no task and no reservation; one that cannot be read may hold some."""
        try:
            query = "SELECT 1 FROM tasks UNION ALL SELECT 1 FROM claims LIMIT 1"
            return self._database.execute(query).fetchone() is None
        except sqlite3.Error:
            return False

    def close(self, remove: bool = False) -> None:
        """Let go of the file; ``remove`` it, or leave it as one file without its log. An empty one is removed, too.

        Harmless twice.
        """
        if self._closed:
            return
        self._closed, empty = True, self.is_empty
        self._database.close()
        if (remove or empty) and self.path is not None:
            remove_journal(self.path)

    def _prepare(self, durable: bool) -> None:
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        application, version = self._pragma("application_id"), self._pragma("user_version")
        if (application, version) != (_APPLICATION_ID, SCHEMA_VERSION):
            self._check_new(application, version)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._database.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        if application == 0:
            self._database.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA application_id = {_APPLICATION_ID};"
                f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        else:
            self._database.execute("BEGIN IMMEDIATE")  # takes the lock now, not with the first task
            self._database.execute("COMMIT")
            self._database.execute(
                "SELECT count(*) FROM tasks, ends, reads, deaths, circuits, claims WHERE 0"
            ).fetchone()

    def _pragma(self, name: str) -> int:
        return int(self._database.execute(f"PRAGMA {name}").fetchone()[0])

    def _check_new(self, application: int, version: int) -> None:
        if application == _APPLICATION_ID:
            raise InvalidArgumentError(
                f"journal: {self.path} has schema version {version}, this program knows {SCHEMA_VERSION}; "
                "use the version of qsimenv that wrote it, or move the file away"
            )
        if application or self._database.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise InvalidArgumentError(f"journal: {self.path} is some other program's database; move it away")


def read_journal(path: Path) -> list[Stored]:
    """All tasks of a journal that nobody has open, without their results; changes nothing in it.

    NotFoundError where there is none; otherwise raises what ``Journal`` raises.
    """
    if not path.exists():
        raise NotFoundError(f"journal: there is none in {path.parent}")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            found = tuple(int(database.execute(f"PRAGMA {name}").fetchone()[0]) for name in _MARKS)
            if found != (_APPLICATION_ID, SCHEMA_VERSION):
                raise InvalidArgumentError(f"journal: {path} was not written by this version of qsimenv")
            return [Stored._make(row) for row in database.execute(_TASKS_QUERY)]
    except sqlite3.Error as error:
        raise _explained(path, error) from None


def results_folder(path: Path) -> Path:
    """Where the large results of the journal at ``path`` lie; see ``result_files``."""
    return path.with_name(f"{path.name}.results")


def circuits_folder(path: Path) -> Path:
    """Where the long circuits of the journal at ``path`` lie; see ``circuit_files``."""
    return path.with_name(f"{path.name}.circuits")


def memory_folder(path: Path) -> Path:
    """Where they lie before they are there, on this host: a name that no other journal gets."""
    mark = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:16]
    return Path("/dev/shm") / f"qsimenv-{os.getuid()}-{mark}-results"  # noqa: S108 - memory, where the host has it


def remove_journal(path: Path) -> None:
    """Delete a journal with its log, its long circuits and its large results."""
    for folder in (memory_folder(path), results_folder(path), circuits_folder(path)):
        shutil.rmtree(folder, ignore_errors=True)
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _make_private(path: Path) -> None:
    """Make the file where there is none, readable by its owner alone: it holds circuits and results."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise QSimEnvError(f"journal: {path} cannot be opened ({error.strerror})") from None


def _explained(path: Path | None, error: Exception) -> QSimEnvError:
    if isinstance(error, QSimEnvError):
        return error
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return BadStateError(f"journal: {path} is in use by another process")
    if isinstance(error, sqlite3.OperationalError):
        return QSimEnvError(f"journal: {path} cannot be opened ({error})")
    return InvalidArgumentError(f"journal: {path} is damaged or no journal ({error}); move it away, or restore it")
