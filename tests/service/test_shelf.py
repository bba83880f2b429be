"""Files of large results: in memory first, beside the journal in the end, and never nowhere."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from environments import wait_until

from qsimenv.errors import NotFoundError
from qsimenv.qpm_plugin import large, result_files, shelf
from qsimenv.qpm_plugin.result_files import Folders
from qsimenv.qpm_plugin.shelf import Shelf
from qsimenv.task import Result

SOON, SIZE = 120.0, 1 << 17


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Both on whatever file system: the rules are the same."""
    return result_files.make(Folders(tmp_path / "disk", tmp_path / "memory"), "key")


def result_of(number: int) -> Result:
    return Result(statevector=np.full(SIZE, number, complex))


def put(on: Shelf, number: int) -> msgspec.Raw:
    named = large.write(on, f"ab12-{number}", 1, result_of(number))
    assert named is not None
    return msgspec.Raw(named)


def hold_moves(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Nothing is moved until what is returned is called."""
    real, held = result_files.copy_to_disk, [True]

    def copy_to_disk(*arguments: object) -> None:
        if held:
            raise OSError("not now")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(result_files, "copy_to_disk", copy_to_disk)
    monkeypatch.setattr(shelf, "_RETRY_S", 0.01)
    return held.clear


def test_a_result_is_in_memory_first_and_on_the_disk_in_the_end(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = hold_moves(monkeypatch)
    named = put(Shelf(folders), 7)
    assert result_files.names(Folders(folders.disk)) == set()
    assert (folders.memory / "ab12-7.1").stat().st_mode & 0o777 == 0o600
    early = large.read(folders, named)
    go_on()
    wait_until(lambda: not (folders.memory / "ab12-7.1").exists(), SOON, "it is not moved")
    late = large.read(folders, named)
    for back in (early, late):
        assert np.array_equal(back.statevector, result_of(7).statevector)
    assert (folders.disk / "ab12-7.1").stat().st_mode & 0o777 == 0o600


def test_at_no_moment_is_a_result_nowhere(folders: Folders) -> None:
    """Read all the time, by one who keeps some of what was read: pages are used again, but never under his eyes."""
    on, kept = Shelf(folders), list[Result]()
    for number in range(40):
        named, ends_at = put(on, number), time.monotonic() + SOON
        while time.monotonic() < ends_at:
            on_disk = not (folders.memory / f"ab12-{number}.1").exists()
            back = large.read(folders, named)
            assert np.array_equal(back.statevector, result_of(number).statevector)
            if on_disk or number % 3:
                break
        kept = [*kept[-3:], back]
        for each, was in zip(kept, range(number - len(kept) + 1, number + 1), strict=True):
            assert each.statevector[0] == each.statevector[-1] == was
    wait_until(lambda: len(result_files.names(Folders(folders.disk))) == 40, SOON, "they are not moved")


def test_pages_are_used_again_when_nobody_maps_them(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "_KEPT_S", 10 * SOON)
    on = Shelf(folders)
    put(on, 0)
    inodes = set()
    for number in range(1, 20):
        wait_until(lambda: result_files.names(Folders(folders.memory)) == set(), SOON, "they are not moved")
        inodes.update(entry.stat().st_ino for entry in folders.memory.glob(f"{result_files.SPARE}*"))
        put(on, number)
    assert len(inodes) <= 3


def test_deleted_before_it_was_moved_is_deleted(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    real = result_files._is_at

    def is_at(descriptor: int, path: Path) -> bool:
        if path.name == "ab12-7.1":
            assert result_files.remove(folders, "ab12-7.1")
        return real(descriptor, path)

    monkeypatch.setattr(result_files, "_is_at", is_at)
    on = Shelf(folders)
    put(on, 7)
    named = put(on, 8)
    wait_until((folders.disk / "ab12-8.1").exists, SOON, "it is not moved")
    assert result_files.names(folders) == {"ab12-8.1"}
    assert not list(folders.disk.glob(".moving*"))
    result_files.remove(folders, "ab12-8.1")
    with pytest.raises(NotFoundError, match="deleted"):
        large.read(folders, named)


def test_a_disk_that_is_full_is_waited_for(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    real, is_full = result_files.write, [True]

    def write(path: Path, *arguments: object) -> int:
        if is_full and path.parent == folders.disk:
            raise OSError("no room")
        return real(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(result_files, "write", write)
    monkeypatch.setattr(shelf, "_RETRY_S", 0.01)
    monkeypatch.setattr(shelf, "_MOST_BYTES", 3 * 16 * SIZE)
    on = Shelf(folders)
    named = [put(on, number) for number in range(3)]
    assert large.write(on, "ab12-3", 1, result_of(3)) is None
    assert all(large.read(folders, each) for each in named)
    is_full.clear()
    wait_until(lambda: len(result_files.names(Folders(folders.disk))) == 3, SOON, "they are not moved")


def test_what_does_not_fit_in_memory_goes_to_the_disk(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "_MOST_BYTES", 16 * SIZE - 1)
    named = put(Shelf(folders), 7)
    assert result_files.names(Folders(folders.memory)) == set()
    assert np.array_equal(large.read(Folders(folders.disk), named).statevector, result_of(7).statevector)


def test_the_controller_moves_what_a_worker_has_left(folders: Folders) -> None:
    named = [put(Shelf(Folders(folders.memory)), number) for number in range(3)]
    (folders.disk / ".moving-1-ab12-0.1").touch()
    (folders.memory / f"{result_files.SPARE}1-1").touch()
    left = result_files.sweep(folders, {"ab12-0.1", "ab12-1.1"})
    assert set(left) == {"ab12-0.1", "ab12-1.1"}
    result_files.move(folders, left)
    assert {path.name for path in folders.disk.glob("*-*.1")} == {"ab12-0.1", "ab12-1.1"}
    assert result_files.names(Folders(folders.memory)) == set()
    result_files.leave_memory(folders)
    assert not folders.memory.exists()
    for number, each in enumerate(named[:2]):
        assert np.array_equal(large.read(folders, each).statevector, result_of(number).statevector)


def test_a_mapping_holds_its_pages(folders: Folders) -> None:
    """The lock goes with the mapping, not with the file that was opened for it."""
    path = folders.memory / "ab12-7.1"
    Shelf(Folders(folders.memory)).put(path.name, [(0, memoryview(bytes(4096)))], 4096)
    named = large.Large(path.name, (), msgspec.Raw(b"\xc0"))
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(FileNotFoundError):
            result_files.opened(folders, named.file)
    held = result_files.opened(folders, path.name)
    mapped = np.memmap(held, np.uint8, "r")
    held.close()
    with path.open("rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        del mapped
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_folders_that_others_may_read_are_not_used(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.mkdir(mode=0o755)
    memory.chmod(0o755)
    assert result_files.make(Folders(tmp_path / "disk", memory), "key") == Folders(tmp_path / "disk")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert result_files.make(Folders(tmp_path / "disk", tmp_path / "link"), "key").memory is None
