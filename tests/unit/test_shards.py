"""Sets of shards: what h5py alone sees of them, and every way in which one can be broken."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import qsimenv as qs
from qsimenv import shards
from qsimenv.comm import Team
from qsimenv.errors import BadStateError, InvalidArgumentError, NotFoundError

COUNT = 5 * (1 << 20) // 4
"""More than one piece, the last of them shorter."""


@pytest.fixture(scope="module")
def numbers() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    return random.normal(size=COUNT), random.normal(size=COUNT)


def write(path: Path, numbers: tuple[np.ndarray, np.ndarray], about: str = "first") -> None:
    shards.write(
        path, Team(), ("re", "im"), np.dtype(np.float64), COUNT, lambda a, b: [each[a:b] for each in numbers],
        {"about": about}, {"small": np.arange(7), "none": np.zeros((0, 3))},
    )  # fmt: skip


@pytest.fixture
def path(tmp_path: Path, numbers: tuple[np.ndarray, np.ndarray]) -> Path:
    folder = tmp_path / "100 %b folder"
    folder.mkdir()
    write(folder / "state.h5", numbers)
    return folder / "state.h5"


def read(path: Path, start: int = 0, count: int = COUNT) -> list[np.ndarray]:
    out = [np.empty(count), np.empty(count)]
    shards.read(path, shards.read_manifest(path), start, out)
    return out


def read_all(path: Path) -> None:
    shards.read_array(path, shards.read_manifest(path), "small")
    read(path)


def shard(path: Path) -> Path:
    (found,) = shards.shard_folder(path).iterdir()
    return found


def test_what_was_written_is_read(path: Path, numbers: tuple[np.ndarray, np.ndarray]) -> None:
    manifest = shards.read_manifest(path)
    assert manifest.about == {"about": "first"}
    assert np.array_equal(shards.read_array(path, manifest, "small"), np.arange(7))
    assert shards.read_array(path, manifest, "none").shape == (0, 3)
    for start, count in ((0, COUNT), (1 << 20, 1 << 10), (12345, COUNT - 54321)):
        for found, written in zip(read(path, start, count), numbers, strict=True):
            assert np.array_equal(found, written[start : start + count])


def test_h5py_alone_reads_it_wherever_it_is_moved(
    path: Path, numbers: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = path.parent.rename(tmp_path / "moved") / path.name
    monkeypatch.chdir("/")
    with h5py.File(moved, "r") as whole:
        assert np.array_equal(whole["re"][:], numbers[0])
        assert np.array_equal(whole["im"][:], numbers[1])
    shutil.rmtree(shards.shard_folder(moved))
    with h5py.File(moved, "r") as whole:
        assert np.isnan(whole["re"][:]).all(), "HDF5 says nothing, so that the numbers must"


def test_a_second_write_replaces_the_first(path: Path, numbers: tuple[np.ndarray, np.ndarray]) -> None:
    old = shard(path)
    write(path, (numbers[1], numbers[0]), "second")
    assert shard(path) != old
    assert shards.read_manifest(path).about == {"about": "second"}
    assert np.array_equal(read(path)[0], numbers[1])
    shards.remove(path)
    assert not list(path.parent.iterdir())


def flip(file: Path, offset: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        byte = opened.read(1)[0]
        opened.seek(offset)
        opened.write(bytes([byte ^ 4]))


def offset_of(file: Path, name: str) -> int:
    with h5py.File(file, "r") as opened:
        return int(opened[name].id.get_offset())


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard cut short": (
        lambda p: os.truncate(shard(p), shard(p).stat().st_size // 2),
        "shard is damaged .*truncated",
    ),
    "a shard of no bytes": (lambda p: os.truncate(shard(p), 0), "shard is damaged"),
    "a shard that is missing": (lambda p: shard(p).unlink(), "this shard is missing"),
    "a byte of a plane": (
        lambda p: flip(shard(p), offset_of(shard(p), "im") + 8 * COUNT - 1),
        "shard is damaged .piece 1 of 'im' does not agree",
    ),
    "a byte of the checksums": (lambda p: flip(shard(p), offset_of(shard(p), "checksums")), "checksums are not those"),
    "a byte of the manifest": (lambda p: flip(p, offset_of(p, "manifest") + 40), "manifest does not agree"),
    "a byte of a small array": (lambda p: flip(p, offset_of(p, "arrays/small")), "array 'small' does not agree"),
    "a manifest cut short": (lambda p: os.truncate(p, p.stat().st_size - 100), "it cannot be read .*truncated"),
    "not HDF5 at all": (lambda p: p.write_text("hello"), "it cannot be read"),
    "another file": (lambda p: h5py.File(p, "w").close(), "it cannot be read .*manifest"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_refused_with_one_line(path: Path, name: str) -> None:
    act, message = BREAKS[name]
    act(path)
    with pytest.raises(BadStateError) as refusal:
        read_all(path)
    assert re.search(message, str(refusal.value)), refusal.value
    assert "\n" not in str(refusal.value)
    assert str(path.parent) in str(refusal.value)


def test_the_shard_of_another_set_is_refused(
    path: Path, numbers: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    write(tmp_path / "other.h5", (numbers[1], numbers[0]))
    shutil.copy(shard(tmp_path / "other.h5"), shard(path))
    with pytest.raises(BadStateError, match="checksums are not those of the manifest"):
        read(path)


def test_a_write_that_fails_leaves_the_set_before_and_nothing_else(
    path: Path, numbers: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system refuses, as it does for a full disk; tests/faults fills one."""

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    before = sorted(path.parent.rglob("*"))
    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(BadStateError, match=r"cannot be written \(No space left on device\); make room"):
        write(path, (numbers[1], numbers[0]))
    assert sorted(path.parent.rglob("*")) == before
    assert np.array_equal(read(path)[0], numbers[0])


def test_states_of_arrays(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for kind in (np.complex128, np.complex64):
        state = (random.normal(size=64) + 1j * random.normal(size=64)).astype(kind)
        qs.save_state(tmp_path / "state.h5", state)
        found = qs.load_state(tmp_path / "state.h5")
        assert found.dtype == kind
        assert np.array_equal(found, state)
    with pytest.raises(InvalidArgumentError, match="63 amplitudes found, a power of two needed"):
        qs.save_state(tmp_path / "state.h5", state[:63])
    with pytest.raises(NotFoundError, match="no such file"):
        qs.load_state(tmp_path / "nothing.h5")
    with pytest.raises(BadStateError, match="cannot be written"):
        qs.save_state(tmp_path / "nowhere" / "state.h5", state)
    with pytest.raises(InvalidArgumentError, match="no statevector"):
        qs.run("OPENQASM 3.0; qubit[1] q; bit[1] c; c = measure q;", shots=1).save(tmp_path / "state.h5")


def test_other_shards_are_no_state(path: Path) -> None:
    with pytest.raises(BadStateError, match="it does not hold a state"):
        qs.load_state(path)
