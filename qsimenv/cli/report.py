"""``qsimenv report``: one HTML page that explains where the time went; pictures and styles are inside it.

The page is made of records alone (``history``), so that of a stopped environment looks like that of a running one.
Whatever comes from outside (names, errors) is escaped.
"""

from __future__ import annotations

import html
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qsimenv.cli.options import name_option
from qsimenv.wording import plural

if TYPE_CHECKING:
    from qsimenv.cli.history import History
    from qsimenv.qpm_plugin.api import TaskRecord
    from qsimenv.qpm_plugin.records import Summary

_MOST_ERRORS, _MOST_APPLICATIONS = 10, 20
_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f4f5f7; color: #23272e; font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 24px; margin: 0; } h1 + p { margin: 2px 0 22px; color: #5d6570; }
h2 { font-size: 16px; margin: 0 0 2px; }
section { background: #fff; border: 1px solid #e1e4e8; border-radius: 8px; padding: 16px 20px; margin: 0 0 16px; }
section > p { margin: 0 0 10px; color: #5d6570; font-size: 13px; }
svg { width: 100%; height: auto; display: block; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 12px; margin: 0 0 16px; }
.tiles div { background: #fff; border: 1px solid #e1e4e8; border-radius: 8px; padding: 10px 14px; }
.tiles b { display: block; font-size: 21px; font-weight: 600; } .tiles span { color: #5d6570; font-size: 13px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 4px 10px; border-bottom: 1px solid #eceef1; white-space: nowrap; }
th { color: #5d6570; font-weight: 500; } tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; }
footer { color: #5d6570; font-size: 12px; }
"""


@click.command()
@name_option
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), default="report.html",
              show_default=True, help="Where the page goes.")  # fmt: skip
@click.option("--application", default="", help="Only the tasks of this application.")
@click.option("--since", metavar="TIME", help="Only what was submitted since: 10m, 2h, 1d ago, or 2026-05-17T09:30.")
def report(name: str | None, output: Path, application: str, since: str | None) -> None:
    """Write one HTML page with plots: utilisation, waiting and execution times, throughput, failures, by application.

    Of the running environment, or of the journal of one that has ended. Needs matplotlib: pip install qsimenv[report].

    \b
    Examples:
        qsimenv report
        qsimenv report --since 12h -o night.html
    """
    from qsimenv.cli import history
    from qsimenv.errors import NotFoundError, NotSupportedError
    from qsimenv.qpm_plugin.records import Filter

    if find_spec("matplotlib") is None:  # before anything is read
        raise NotSupportedError("report: matplotlib is needed for the plots; pip install 'qsimenv[report]'")
    found = history.read(name, Filter((), application, history.moment(since) if since else 0.0))
    if not found.records:
        raise NotFoundError("report: there is no task to tell of; submit some, or ask for a longer time")
    _write(output, page(found))
    click.echo(f"{output}: {plural(len(found.records), 'task')}")


def _write(path: Path, text: str) -> None:
    from qsimenv.errors import InvalidArgumentError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidArgumentError(f"report: {path} cannot be written ({error.strerror})") from None


def page(history: History) -> str:
    """The whole page. There must be a record."""
    from qsimenv.cli import plots, show
    from qsimenv.qpm_plugin import records as r
    from qsimenv.qpm_plugin.api import TaskState

    records = history.records
    begin, end = r.span(records) or (0.0, 0.0)
    seen = 1 + max((rank for record in records for rank in record.ranks), default=0)
    frame = plots.Frame(begin, max(end, begin + 1e-3), max(history.ranks, seen))
    applications = r.by_application(records)
    names = [show.application_text(application) for application in applications]
    groups = plots.grouped(applications, names)
    summaries = [(name, r.summary(own)) for name, own in zip(names, applications.values(), strict=True)]
    total = r.summary(records)
    seconds = frame.end - frame.begin
    running = total.by_state.get(TaskState.RUNNING, 0)
    unfinished = f" What {plural(running, 'task')} still at work took so far is not in it." if running else ""
    sections = [
        ("Utilisation", f"Share of all ranks that work, by application.{unfinished}", plots.utilisation(groups, frame)),
        ("Ranks", "Share of the time that each rank works.", plots.ranks(groups, frame)),
        ("Throughput", "Tasks that end each second.", plots.throughput(groups, frame)),
        ("Queue", "Tasks that wait for ranks.", plots.queues(groups, frame)),
        ("Waiting and execution", "Share of the tasks for which it took no longer.", plots.spreads(groups)),
        ("Applications", "Median, 95th percentile and longest time.", _applications(summaries, total.rank_seconds)),
        ("Failures", *_failures(records, plots.failures(groups, frame))),
    ]
    return _document(history, (begin, end), _tiles(total, frame.ranks, seconds), sections)


def _tiles(total: Summary, ranks: int, seconds: float) -> str:
    from qsimenv.cli.show import seconds_text
    from qsimenv.qpm_plugin.api import TaskState

    ended = sum(number for state, number in total.by_state.items() if state.is_final)
    tiles = [
        (f"{total.tasks:,}", "tasks"),
        (f"{total.by_state.get(TaskState.FAILED, 0):,}", "failed"),
        (f"{100 * total.rank_seconds / (ranks * seconds):.0f} %", f"of {ranks:,} ranks"),
        (_rate(ended / seconds), "tasks a second"),
        (seconds_text(total.queue_s and total.queue_s[0]), "median wait"),
        (seconds_text(total.execution_s and total.execution_s[0]), "median execution"),
    ]
    return "".join(f"<div><b>{html.escape(value)}</b><span>{html.escape(what)}</span></div>" for value, what in tiles)


def _rate(per_second: float) -> str:
    """Three digits of a small number, all of one that people read whole."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def _applications(summaries: Sequence[tuple[str, Summary]], rank_seconds: float) -> str:
    from qsimenv.qpm_plugin.api import TaskState

    titles = ("application", "tasks", "failed", "canceled", "rank-seconds", "share", "waited", "ran")
    rows = [
        (
            name,
            f"{told.tasks:,}",
            f"{told.by_state.get(TaskState.FAILED, 0):,}",
            f"{told.by_state.get(TaskState.CANCELED, 0):,}",
            f"{told.rank_seconds:,.{0 if told.rank_seconds >= 100 else 2}f}",
            f"{100 * told.rank_seconds / rank_seconds:.0f} %" if rank_seconds else "-",
            _spread(told.queue_s),
            _spread(told.execution_s),
        )
        for name, told in summaries[:_MOST_APPLICATIONS]
    ]
    more = len(summaries) - _MOST_APPLICATIONS
    return _table(titles, rows) + (f"<p>and {more} more</p>" if more > 0 else "")


def _spread(values: tuple[float, float, float] | None) -> str:
    from qsimenv.cli.show import seconds_text

    return "-" if values is None else " · ".join(map(seconds_text, values))


def _failures(records: Sequence[TaskRecord], plot: str) -> tuple[str, str]:
    """What to say of failures: a line, and the plot with the most frequent errors."""
    from qsimenv.cli import show
    from qsimenv.qpm_plugin.api import TaskState

    states = Counter(record.state for record in records)
    failed, canceled = states[TaskState.FAILED], states[TaskState.CANCELED]
    again = sum(record.attempts > 1 for record in records)
    line = f"{failed:,} failed, {canceled:,} canceled, {again:,} were started more than once."
    if not failed + canceled:
        return line, ""
    errors = Counter(
        (show.application_text(record.application), record.error.message)
        for record in records
        if record.error is not None and record.state == TaskState.FAILED
    )
    rows = [(name, f"{number:,}", text) for (name, text), number in errors.most_common(_MOST_ERRORS)]
    return line, plot + (_table(("application", "tasks", "error"), rows) if rows else "")


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The column of errors is prose, the others are numbers."""
    kinds = ["text" if title == "error" else "" for title in titles]
    head = "".join(
        f"<th{' style=text-align:left' if kind else ''}>{html.escape(title)}</th>"
        for title, kind in zip(titles, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{kind}">{html.escape(text)}</td>' for text, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _document(history: History, span: tuple[float, float], tiles: str, sections: Iterable[tuple[str, str, str]]) -> str:
    from qsimenv import __version__
    from qsimenv.cli import show
    from qsimenv.cli.environment import duration

    seconds = span[1] - span[0]
    lasted = duration(seconds) if seconds >= 60 else show.seconds_text(seconds)
    name = html.escape(history.name)
    began = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(span[0]))
    body = "".join(
        f"<section><h2>{html.escape(title)}</h2><p>{html.escape(line)}</p>{content}</section>\n"
        for title, line, content in sections
    )
    source = html.escape(history.source)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>qsimenv: {name}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f"<body><main><h1>{name}</h1><p>from {began}, for {lasted}</p>\n"
        f'<div class="tiles">{tiles}</div>\n{body}'
        f"<footer>qsimenv {html.escape(__version__)}, from {source}</footer></main></body></html>\n"
    )
