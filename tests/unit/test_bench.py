"""``qsimenv bench``: finds every benchmark, hands arguments on, writes figures where it is told to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import benchmarks
from benchmarks import machine
from benchmarks.table import Row, show
from qsimenv.cli import bench
from qsimenv.errors import InvalidArgumentError, NotFoundError

FILES = {path.stem for path in Path(benchmarks.__file__).parent.glob("*.py")}


@pytest.fixture(autouse=True)
def _keep_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr("sys.argv", ["before"])
    monkeypatch.setattr(machine, "RESULTS", tmp_path / "results")


def test_every_benchmark_is_found_and_titled() -> None:
    found = benchmarks.titles()
    assert set(found) < FILES
    assert {"service", "schedule", "scaling"} <= set(found)
    assert not {"table", "machine", "__main__", "on_ranks"} & set(found)
    assert all(found.values())


def test_without_a_name_all_are_listed() -> None:
    done = CliRunner().invoke(bench.bench, [])
    assert done.exit_code == 0
    assert dict(line.split("\t") for line in done.output.splitlines()) == benchmarks.titles()


def test_figures_go_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    arguments = ["--json", str(path), "schedule", "--ranks", "16", "--seconds", "3"]
    done = CliRunner().invoke(bench.bench, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(path.read_text())
    assert (found["benchmark"], found["figures"]["ranks"]) == ("schedule", 16)
    assert found["figures"] == json.loads((machine.RESULTS / "schedule.json").read_text())["figures"]


def test_help_after_the_name_is_the_benchmarks() -> None:
    done = CliRunner().invoke(bench.bench, ["schedule", "--help"])
    assert "usage: qsimenv bench schedule" in done.output


def test_what_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgumentError, match=r"'nothing' found, one of .*service.* needed"):
        CliRunner().invoke(bench.bench, ["nothing"], catch_exceptions=False)
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    with pytest.raises(NotFoundError, match="they come with the source tree"):
        CliRunner().invoke(bench.bench, ["schedule"], catch_exceptions=False)


def test_rows_say_whether_they_are_as_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("rate", 12_345.6, "1/s", at_least=5000), Row("time", 7.71, "ms", at_most=5), Row("tasks", 3)]
    assert [row.holds for row in rows] == [True, False, None]
    show("title", rows)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "# title", "rate\t12,346\t1/s\t≥ 5,000\theld", "time\t7.71\tms\t≤ 5\tMISSED", "tasks\t3\t\t\t",
    ]  # fmt: skip
