"""The folder of checkpoints: which are kept, which are whole, and that nothing of others is touched."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qsimenv import checkpoints
from qsimenv.checkpoints import FILE_NAME, LOCK_NAME, Checkpointing, Every, claimed, every
from qsimenv.comm import Team
from qsimenv.errors import BadStateError, InvalidArgumentError, NotFoundError


@pytest.fixture
def words() -> list[str]:
    return []


@pytest.fixture
def made(tmp_path: Path, words: list[str]) -> Checkpointing:
    return Checkpointing(tmp_path / "c", Every(sweeps=1), tell=words.append)


def finish(made: Checkpointing) -> Path:
    path = made.make_room(Team())
    path.write_text("whole")
    return path


def test_two_are_kept_and_the_last_whole_one_is_never_removed(made: Checkpointing, words: list[str]) -> None:
    first, second = finish(made), finish(made)
    assert made.whole(Team()) == [second, first]
    third = made.make_room(Team())
    assert made.whole(Team()) == [second]
    assert words == [f"checkpoint {third.parent}: it was never finished; left aside"]
    fourth = made.make_room(Team())
    assert not third.parent.exists()
    fourth.write_text("whole")
    assert made.whole(Team()) == [fourth, second]
    assert [path.parent.name for path in (first, fourth)] == ["checkpoint-000001", "checkpoint-000004"]


def test_nothing_of_others_is_removed(made: Checkpointing) -> None:
    finish(made)
    for name in ("202611", "notes"):
        (made.folder / name).mkdir()
    ours = finish(made).parent
    (ours / "mine").write_text("put here by the user")
    checkpoints.discard(made.folder)
    assert sorted(each.name for each in made.folder.iterdir()) == ["202611", ours.name, "notes"]
    assert [each.name for each in ours.iterdir()] == ["mine"]


def test_the_newest_good_one_is_taken(made: Checkpointing, words: list[str]) -> None:
    first, second = finish(made), finish(made)
    tried: list[Path] = []

    def take(path: Path) -> None:
        tried.append(path)
        if path == second:
            raise BadStateError("shard 7 is missing")

    assert checkpoints.newest(made.whole(Team()), Team(), words.append, take) == first
    assert tried == [second, first]
    assert words == [f"checkpoint {second.parent} refused: shard 7 is missing"]
    assert checkpoints.newest([], Team(), words.append, take) is None

    def refuse(path: Path) -> None:
        raise NotFoundError("gone")

    with pytest.raises(BadStateError, match=r"none of the 2 in .* is whole; remove the folder to begin anew"):
        checkpoints.newest(made.whole(Team()), Team(), words.append, refuse)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadStateError, match="file/c cannot be written"):
        Checkpointing(tmp_path / "file" / "c", Every(sweeps=1)).make_room(Team())


CLAIM = """
import sys
from pathlib import Path
from qsimenv.checkpoints import claimed
from qsimenv.comm import Team
with claimed(Path(sys.argv[1]), Team(), print):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_one_runs_alone_and_vanishes_where_it_stays_empty(tmp_path: Path, words: list[str]) -> None:
    folder = tmp_path / "deep" / "c"
    with claimed(folder, Team(), words.append):
        owner = (folder / LOCK_NAME).read_text()
        assert owner.startswith("process ")
        with (
            pytest.raises(BadStateError, match=f"deep/c is in use by {owner}; wait for its end, or give another"),
            claimed(folder, Team(), words.append),
        ):
            pytest.fail("two runs have it")
    assert not folder.exists()
    with claimed(folder, Team(), words.append):
        (folder / "checkpoint-000001").mkdir()
    assert [each.name for each in folder.iterdir()] == ["checkpoint-000001"]
    assert not words


def test_what_a_killed_run_leaves_is_no_obstacle(tmp_path: Path, words: list[str]) -> None:
    """And a live one is, whatever is written in its file."""
    owner = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(tmp_path / "c")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"claimed\n"
        with (
            pytest.raises(BadStateError, match=f"in use by process {owner.pid} on "),
            claimed(tmp_path / "c", Team(), words.append),
        ):
            pytest.fail("two runs have it")
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    assert (tmp_path / "c" / LOCK_NAME).exists()
    with claimed(tmp_path / "c", Team(), words.append):
        pass
    assert not (tmp_path / "c").exists()


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InvalidArgumentError, match=r"file/c cannot be written \(Not a directory\); give another folder"),
        claimed(tmp_path / "file" / "c", Team(), words.append),
    ):
        pytest.fail("the run began")


def test_how_often() -> None:
    assert every("90s") == Every(seconds=90)
    assert every(" 10 min ") == Every(seconds=600)
    assert every("1.5h") == Every(seconds=5400)
    assert every("500 sweeps") == every("500sweeps") == Every(sweeps=500)
    for text in ("", "10", "0 sweeps", "-1s", "10 years", "min", "1.5 sweeps"):
        with pytest.raises(InvalidArgumentError, match="a time like 10min or a number like '500 sweeps'"):
            every(text)
    assert FILE_NAME.endswith(".h5")
