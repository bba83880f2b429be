"""The journal on a real disk: what is written is there when it is opened again, and bad files get one clear line."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
from pathlib import Path

import pytest

from qsimenv.errors import BadStateError, InvalidArgumentError, QSimEnvError
from qsimenv.qpm_plugin import circuit_files
from qsimenv.qpm_plugin import journal as module
from qsimenv.qpm_plugin.journal import (
    CircuitRow,
    ClaimRow,
    DeathRow,
    DropRow,
    EndRow,
    Journal,
    ReadRow,
    Row,
    TaskRow,
    UnclaimRow,
    UnreadRow,
    circuits_folder,
    remove_journal,
)

ROWS: list[Row] = [
    CircuitRow("c0", b"circuit"),
    TaskRow(0, "client", "key", b"first"),
    TaskRow(1, "client", "key", b"second"),
    EndRow(0, b"record", b"result"),
    ReadRow(0, b"reader", 1.5),
    DeathRow(1, 2),
    ClaimRow("a", "client", "3", 10.0),
    ClaimRow("b", "client", "ffffffffffffffffffff", 11.0),
    ClaimRow("a", "client", "3", 20.0),
    UnclaimRow("b"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / module.FILE_NAME


def test_what_was_written_is_there_again(path: Path) -> None:
    journal = Journal(path)
    journal.write(ROWS)
    journal.close()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o077 == 0
    again = Journal(path)
    first, second = again.tasks()
    assert first == (0, "client", "key", b"first", b"record", b"reader", 1.5, 0)
    assert second == (1, "client", "key", b"second", None, None, None, 2)
    assert again.circuits() == {"c0": b"circuit"}
    assert (again.result(0), again.result(1)) == (b"result", None)
    assert again.claims() == [("a", "client", "3", 20.0)]
    again.close(remove=True)
    assert list(path.parent.iterdir()) == []


def test_a_long_circuit_lies_in_a_file_of_its_own(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, folder = Journal(path), circuits_folder(path)
    assert not journal.has_file("c1")
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    circuit_files.write(folder, "c1", b"long", durable=True)
    circuit_files.write(folder, "c1", b"the same: a circuit is named by what it is")
    circuit_files.write(folder, "c2", b"nobody's")
    assert synced == [str(folder / "c1.unfinished"), str(folder), str(folder.parent)]
    assert [(folder / name).stat().st_mode & 0o777 for name in (".", "c1")] == [0o700, 0o600]
    assert journal.has_file("c1")
    journal.write([*ROWS, CircuitRow("c1", b""), CircuitRow("c3", b"")])
    assert journal.circuits() == {"c0": b"circuit", "c1": b"long"}
    journal.keep_circuits({"c0", "c1"})
    assert journal.circuits() == {"c0": b"circuit", "c1": b"long"}
    assert [entry.name for entry in folder.iterdir()] == ["c1"]
    journal.close(remove=True)
    assert list(path.parent.iterdir()) == []


def test_a_circuit_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "circuits"

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        circuit_files.write(folder, "c1", b"long", durable=True)
    assert list(folder.iterdir()) == []


def test_a_journal_that_was_not_closed_is_whole(path: Path) -> None:
    """The file of a killed process: its log is still beside it."""
    journal = Journal(path)
    journal.write(ROWS)
    copy = path.with_name("copy")
    for suffix in ("", "-wal"):
        copy.with_name(copy.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
    journal.close()
    again = Journal(copy)
    assert len(list(again.tasks())) == 2
    again.close()


def test_tasks_are_unread_and_dropped(path: Path) -> None:
    journal = Journal(path)
    journal.write(ROWS)
    journal.write([UnreadRow(0), DropRow(1)])
    [left] = journal.tasks()
    assert (left.order, left.reader) == (0, None)
    assert not journal.is_empty
    journal.write([DropRow(0)])
    assert not journal.is_empty
    journal.write([UnclaimRow("a")])
    assert journal.is_empty
    journal.keep_circuits(())
    assert journal.circuits() == {}
    journal.close()


def test_without_a_path_it_is_in_memory() -> None:
    journal = Journal()
    journal.write(ROWS)
    assert len(list(journal.tasks())) == 2
    journal.close(remove=True)


def test_all_rows_are_written_or_none(path: Path) -> None:
    journal = Journal(path)
    with pytest.raises(QSimEnvError, match=r"journal: .* cannot be written"):
        journal.write([TaskRow(0, "client", "key", b"first"), TaskRow(0, "client", "key", b"the same again")])
    assert journal.is_empty
    journal.write(ROWS)
    journal.close()


def test_a_full_disk_is_told_and_goes_by(path: Path) -> None:
    journal = Journal(path)
    journal._database.execute("PRAGMA max_page_count = 20")  # SQLite's own way to be out of room
    with pytest.raises(QSimEnvError, match=r"full.*make room"):
        journal.write([TaskRow(0, "client", "key", bytes(1 << 20))])
    assert journal.is_empty
    journal._database.execute("PRAGMA max_page_count = 100000")
    journal.write([TaskRow(0, "client", "key", bytes(1 << 20))])
    assert not journal.is_empty
    journal.close()


def test_two_processes_cannot_have_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOCK_TIMEOUT_S", 0.1)
    first = Journal(path)
    with pytest.raises(BadStateError, match="in use by another"):
        Journal(path)
    first.close()
    Journal(path).close()


def test_a_file_that_is_no_journal_gets_one_line(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"hello " * 1000)
    with pytest.raises(InvalidArgumentError, match="damaged or no journal"):
        Journal(path)
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE other (x)")
    database.close()
    with pytest.raises(InvalidArgumentError, match="some other program's"):
        Journal(path)
    remove_journal(path)
    journal = Journal(path)
    journal.write(ROWS)
    journal._database.execute("PRAGMA user_version = 99")
    journal.close()
    with pytest.raises(InvalidArgumentError, match="schema version 99"):
        Journal(path)


def test_a_damaged_journal_gets_one_line(path: Path) -> None:
    journal = Journal(path)
    journal.write([TaskRow(order, "client", "key", bytes([order % 256]) * 1000) for order in range(1000)])
    journal.close()
    with path.open("r+b") as file:
        file.seek(100_000)
        file.write(b"\xff" * 200_000)
    with pytest.raises(InvalidArgumentError, match="damaged"):
        list(Journal(path).tasks())


def test_a_folder_that_cannot_be_made_gets_one_line(path: Path) -> None:
    path.parent.write_bytes(b"a file")
    with pytest.raises(QSimEnvError, match="cannot be opened"):
        Journal(path)


def test_ends_that_come_in_any_order_are_found_by_their_tasks(path: Path) -> None:
    orders = list(range(1000))
    journal = Journal(path)
    journal.write([TaskRow(order, "client", "key", b"") for order in orders])
    random.Random(1).shuffle(orders)  # noqa: S311 - a test
    for order in orders:
        journal.write([EndRow(order, b"record %d" % order, b"result %d" % order)])
    journal.write([EndRow(7, b"again", None), DropRow(8)])
    journal.close()
    again = Journal(path)
    ends = {stored.order: stored.end for stored in again.tasks()}
    assert ends == {order: b"record %d" % order for order in orders if order != 8} | {7: b"again"}
    assert (again.result(6), again.result(7), again.result(8)) == (b"result 6", None, None)
    again.close()
