"""The folder of checkpoints: which are kept, which are whole, and that nothing of others is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsimenv import checkpoints
from qsimenv.checkpoints import FILE_NAME, Checkpointing, Every, every
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


def test_how_often() -> None:
    assert every("90s") == Every(seconds=90)
    assert every(" 10 min ") == Every(seconds=600)
    assert every("1.5h") == Every(seconds=5400)
    assert every("500 sweeps") == every("500sweeps") == Every(sweeps=500)
    for text in ("", "10", "0 sweeps", "-1s", "10 years", "min", "1.5 sweeps"):
        with pytest.raises(InvalidArgumentError, match="a time like 10min or a number like '500 sweeps'"):
            every(text)
    assert FILE_NAME.endswith(".h5")
