"""Records of made-up services: filters, order, sums over time, pages, journal, and the page that tells of them."""

from __future__ import annotations

import html.parser
import random
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from rich.console import Console

from qsimenv.cli import history, log, report, top
from qsimenv.cli.history import History
from qsimenv.errors import InvalidArgumentError, NotFoundError, NotSupportedError
from qsimenv.qpm_plugin import metrics, tasks
from qsimenv.qpm_plugin import records as r
from qsimenv.qpm_plugin.api import ErrorInfo, TaskRecord, TaskState, Times
from qsimenv.qpm_plugin.journal import Journal, TaskRow, read_journal
from qsimenv.qpm_plugin.tasks import Entry, TaskTable
from qsimenv.task import Estimate

T0 = 1.79e9
"""Seconds since the epoch, as large as they are in earnest."""


def record(number: int = 0, **changes: Any) -> TaskRecord:
    """Accepted at T0 + number, waited 2 s, ran 3 s on rank 0."""
    begin = T0 + number
    times = Times(creation_time=begin, launch_time=begin + 2, exec_time=begin + 2, completion_time=begin + 5,
                  cq_enqueue_time=begin + 5)  # fmt: skip
    given: dict[str, Any] = {"state": TaskState.DONE, "times": times, "ranks": (0,), "application": "vqe"}
    return TaskRecord(task_id=f"t-{number}", **(given | changes))


def night(number: int = 3000, ranks: int = 8, seed: int = 1) -> list[TaskRecord]:
    """Two hours of four applications on some ranks, first come first served."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    free = [0.0] * ranks
    records = []
    applications = {"vqe-hydrogen": 1.0, "qaoa <maxcut>": 6.0, "qft_$scan$": 2.5, "f" * 32: 0.4}
    for k, created in enumerate(sorted(chance.uniform(0, 5400) for _ in range(number))):
        name = chance.choices(list(applications), (5, 2, 2, 4))[0]
        width = chance.choice((1, 1, 1, 2, 4))
        team = sorted(range(ranks), key=lambda rank: free[rank])[:width]
        start = max([created, *(free[rank] for rank in team)]) + 0.001
        end = start + applications[name] * chance.lognormvariate(1.4, 0.7)
        for rank in team:
            free[rank] = end
        failed = name.startswith("qaoa") and chance.random() < 0.05
        times = Times(creation_time=T0 + created, launch_time=T0 + start, exec_time=T0 + start,
                      completion_time=T0 + end, cq_enqueue_time=T0 + end)  # fmt: skip
        error = ErrorInfo(-1, "allocate: 33 qubits need 64 GiB on each of 2 ranks, 20 GiB are free") if failed else None
        state = TaskState.FAILED if failed else TaskState.CANCELED if chance.random() < 0.01 else TaskState.DONE
        records.append(TaskRecord(task_id=f"3e2b74-{k}", state=state, name=f"circuit {k}", times=times,
                                  ranks=tuple(team), engine="statevector", attempts=1, application=name,
                                  error=error))  # fmt: skip
    return records


def test_filter() -> None:
    found = [record(0), record(1, application="qft"), record(2, state=TaskState.FAILED)]
    for wanted, ids in (
        (r.ALL, [0, 1, 2]),
        (r.Filter((TaskState.FAILED, TaskState.RUNNING)), [2]),
        (r.Filter(application="vqe"), [0, 2]),
        (r.Filter(since=T0 + 1), [1, 2]),
    ):
        assert [one for one in found if wanted.matches(one)] == [found[k] for k in ids]


def test_what_the_limit_leaves_comes_last() -> None:
    late = Times(creation_time=T0, launch_time=T0 + 9)
    found = [record(0), record(1, times=late), record(2, times=Times(creation_time=T0)), record(3)]
    assert r.arranged(found, None, 2) == found[2:]
    assert r.arranged(found, "queue", 1) == [found[1]]
    assert r.arranged(found, "start", 0) == [found[2], found[0], found[3], found[1]]


def test_means_over_time_are_those_of_counting() -> None:
    """Against a sum over many moments, for intervals that overlap, touch, and reach over both ends."""
    found = night(200)
    edges = np.linspace(T0 + 100, T0 + 5000, 50)
    means = r.busy(found).means(edges)
    for k in range(len(edges) - 1):
        moments = np.linspace(edges[k], edges[k + 1], 400)
        counted = sum(
            len(one.ranks) * np.mean((moments >= one.times.exec_time) & (moments < one.times.completion_time))
            for one in found
        )
        assert means[k] == pytest.approx(counted, abs=0.2)
    for together in (1, 3):
        rows = r.busy_rows(found, together)
        assert sum(row.means(edges) for row in rows.values()) == pytest.approx(means)


def test_busy_and_waiting_ranks() -> None:
    found = [record(0, ranks=(0, 1)), record(4), record(6, state=TaskState.QUEUED, times=Times(creation_time=T0 + 6))]
    edges = T0 + np.arange(11.0)
    assert r.busy(found).means(edges) == pytest.approx([0, 0, 2, 2, 2, 0, 1, 1, 1, 0])
    assert r.busy_rows(found)[1].means(edges) == pytest.approx([0, 0, 1, 1, 1, 0, 0, 0, 0, 0])
    assert r.waited(found, T0 + 10).means(edges) == pytest.approx([1, 1, 0, 0, 1, 1, 1, 1, 1, 1])
    assert r.span(found) == (T0, T0 + 9)
    assert r.span([]) is None


def test_summary() -> None:
    found = [record(0, ranks=(0, 1)), record(1, state=TaskState.QUEUED, times=Times(creation_time=T0), ranks=())]
    told = r.summary(found)
    assert told == r.Summary(2, {TaskState.QUEUED: 1, TaskState.DONE: 1}, 6.0, (2.0, 2.0, 2.0), (3.0, 3.0, 3.0))
    assert r.summary([]).queue_s is None
    others = [record(2, application="qft", ranks=(0, 1, 2, 3))]
    assert list(r.by_application(found + others)) == ["qft", "vqe"]


def entry(order: int, application: str = "vqe", state: TaskState = TaskState.QUEUED) -> Entry:
    one = record(order, application=application, state=state)
    return Entry(one, order, "client", None, None, Estimate(1, 0, 0.0, "statevector"))


def test_pages_of_the_table_hold_every_task_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "PAGE_RECORDS", 7)
    monkeypatch.setattr(tasks, "PAGE_LOOKS", 11)
    table = TaskTable()
    table.add([entry(k, "qft" if k % 3 else "vqe") for k in range(100)])
    for k in (0, 1, 2, 50, 51, 99):
        table.drop(table.get(f"t-{k}"))
    for wanted in (r.ALL, r.Filter(application="vqe"), r.Filter((TaskState.FAILED,))):
        found: list[TaskRecord] = []
        before: int | None = None
        while True:
            page, before = table.page(before, wanted)
            assert len(page) <= 7
            found += page
            if before is None:
                break
        assert found[::-1] == [one.record for one in table.all() if wanted.matches(one.record)]


def test_the_table_counts_by_application() -> None:
    table = TaskTable()
    entries = [entry(0), entry(1), entry(2, "qft")]
    table.add(entries)
    table.move(entries[0], TaskState.RUNNING)
    table.finish(entries[2], TaskState.FAILED, T0)
    assert table.applications() == {
        "vqe": {"waiting": 1, "running": 1, "ended": 0, "failed": 0},
        "qft": {"waiting": 0, "running": 0, "ended": 1, "failed": 1},
    }
    table.drop(entries[2])
    assert list(table.applications()) == ["vqe"]


def test_a_journal_is_read_without_being_changed(tmp_path: Path) -> None:
    """That of a process that was killed: its newest rows are in the log beside the file."""
    path = tmp_path / "journal.sqlite"
    with pytest.raises(NotFoundError, match="there is none"):
        read_journal(path)
    code = (
        "import os, sys, pathlib; from qsimenv.qpm_plugin.journal import *;"
        "Journal(pathlib.Path(sys.argv[1])).write([TaskRow(k, 'c', '', b'x') for k in range(3)]); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    for _ in range(2):
        assert [stored.order for stored in read_journal(path)] == [0, 1, 2]
    journal = Journal(path)
    journal.write([TaskRow(3, "c", "", b"x")])
    journal.close()
    assert [stored.order for stored in read_journal(path)] == [0, 1, 2, 3]
    sqlite3.connect(tmp_path / "other").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(InvalidArgumentError, match="not written by this version"):
        read_journal(tmp_path / "other")


def test_moments() -> None:
    assert [history.moment(text, T0) for text in ("90s", "1.5m", "2h", "1d")] == [
        T0 - 90,
        T0 - 90,
        T0 - 7200,
        T0 - 86400,
    ]
    assert history.moment("2026-05-17T09:30:00+00:00") == 1779010200
    for text in ("", "m", "yesterday", "5 m", "-3h"):
        with pytest.raises(InvalidArgumentError, match="since: "):
            history.moment(text)


def test_a_line_of_the_log_is_one_line() -> None:
    """Whatever a client calls its tasks: a terminal obeys control characters."""
    error = ErrorInfo(-1, "run: one\nline\x1b]0;owned\x07")
    shown = log.cells(record(0, name="a\nb\x1b[31m", error=error, ranks=tuple(range(8)), engine=""))
    assert all(text.isprintable() for text in shown)
    assert shown[7:9] == ["0,1,2,3,…", "-"]
    plain = log.as_plain(record(0))
    assert (plain["state"], plain["queue_s"], plain["execution_s"]) == ("DONE", 2.0, 3.0)
    assert "result" not in plain


@pytest.mark.parametrize("width", [80, 130])
def test_the_log_fits_the_terminal(width: int) -> None:
    error = ErrorInfo(-1, "allocate: too much")
    records = [record(k, application="f" * 32, name="a long name of a circuit", ranks=(0, 1, 2, 3)) for k in range(3)]
    lines = printed(log.table([*records, record(3, state=TaskState.FAILED, error=error)], width), width).splitlines()
    assert ("name" in lines[0]) == ("engine" in lines[0]) == (width == 130)
    assert lines[0].split()[-1] == ("engine" if width == 130 else "ranks")
    assert "client ffff" in lines[1]
    assert "0,1,2,3" in lines[1]
    assert lines[-1] == "t-3: allocate: too much"


class _Page(html.parser.HTMLParser):
    """Counts elements, and collects what a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]


def test_the_report_stands_on_its_own_and_escapes_names() -> None:
    records = night(400)
    page = _Page(text := report.page(History("<b>night</b>", records, 8, "made up")))
    assert page.counts["svg"] == 6
    assert "script" not in page.counts
    assert "link" not in page.counts
    assert all(target.startswith(("#", "data:")) for target in page.fetched)
    assert "b" in page.counts  # the tiles', not the name's
    assert "<b>night" not in text
    assert "qaoa &lt;maxcut&gt;" in text
    assert "client ffffffff" in text


@pytest.mark.parametrize(
    "records",
    [
        [TaskRecord(task_id="t", state=TaskState.QUEUED, times=Times(creation_time=T0))],
        [record(0, state=TaskState.FAILED, error=ErrorInfo(-1, "run: no"), application="")],
        [record(k, application=f"application {k}", ranks=(k,)) for k in range(30)],
        [record(0, ranks=tuple(range(1024)))],
    ],
    ids=["nothing has run", "one has failed", "many applications", "many ranks"],
)
def test_reports_of_little_and_much(records: list[TaskRecord]) -> None:
    assert _Page(report.page(History("odd", records, 0, "made up"))).counts["svg"] >= 5


def test_without_matplotlib_there_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(report, "find_spec", lambda _name: None)
    command = report.report.callback
    assert command is not None
    with pytest.raises(NotSupportedError, match=r"matplotlib is needed .* pip install 'qsimenv\[report\]'$"):
        command(None, tmp_path / "page.html", "", None)


def telemetry(**changes: Any) -> dict[str, Any]:
    return {
        "uptime_s": 10.0, "tasks": {state.name: int(state) for state in TaskState}, "tasks_accepted": 21,
        "queue_length": 2, "applications": {'a"\n\\b': {"waiting": 2, "running": 3, "ended": 15, "failed": 6}},
        "ranks": {"total": 4, "free": 1, "busy": 3}, "reservations": 0, "work_rank_seconds": 20.0, "circuits": 1,
        "controller_peak_bytes": 1 << 26, "requests": 40, "worker_messages": 50, "refused": 1, "events_dropped": 0,
        "bytes": {"received": 4096, "sent": 1 << 21}, "instances": 1, "free_bytes": {},
    } | changes  # fmt: skip


def test_metrics_are_openmetrics() -> None:
    text = metrics.text(telemetry())
    assert text.endswith("# EOF\n")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["qsimenv_tasks_kept", "failed"] == TaskState.FAILED
    assert samples["qsimenv_tasks", "running"] == TaskState.RUNNING
    assert samples["qsimenv_tasks_waiting", 'a"\n\\b'] == 2
    assert samples["qsimenv_bytes_total", "sent"] == 1 << 21
    assert samples["qsimenv_ranks", "busy"] == 3


def printed(renderable: Any, width: int = 110) -> str:
    out = Console(width=width, highlight=False, force_terminal=False)
    with out.capture() as captured:
        out.print(renderable)
    return captured.get()


def shown(before: Any, now: Any) -> str:
    return printed(top.frame({"name": "big", "state": 2}, before, now))


def test_top_shows_rates_since_the_last_look() -> None:
    later = telemetry(uptime_s=12.0, tasks_accepted=121, work_rank_seconds=24.0, requests=60)
    later["tasks"] = later["tasks"] | {"DONE": 54}
    later["applications"] = {"vqe": {"waiting": 2, "running": 3, "ended": 65, "failed": 6}}
    text = shown(telemetry(applications={"vqe": {"ended": 15}}), later)
    assert all(
        words in text
        for words in (
            "big is BUSY",
            "3 of 4 busy, 50 % worked",
            "50 tasks/s accepted, 25 ended",
            "10 requests/s",
            "vqe",
        )
    )
    assert text.splitlines()[-1].split() == ["vqe", "2", "3", "65", "25", "6"]
    restarted = shown(later, telemetry())
    assert "2.1 tasks/s accepted, 1.5 ended" in restarted
    assert "no instance" in shown(top.NOTHING, telemetry(ranks={"total": 0, "free": 0, "busy": 0}))
