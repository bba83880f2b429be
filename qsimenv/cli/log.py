"""``qsimenv log``: one line a task, of a running environment or of what a stopped one has left."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from qsimenv.cli.options import name_option

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from qsimenv.qpm_plugin.api import Event, TaskRecord
    from qsimenv.qpm_plugin.client import Client
    from qsimenv.qpm_plugin.records import Filter

STATES = ("QUEUED", "RUNNING", "DONE", "CANCELED", "FAILED")
_COLUMNS = (
    ("id", 16), ("name", 16), ("application", 12), ("state", 8), ("submitted", 19), ("queued", 8), ("ran", 8),
    ("ranks", 7), ("engine", 11), ("error", 0),
)  # fmt: skip
_WIDTHS = [width for _, width in _COLUMNS]
"""Where what comes is not known beforehand."""
_STYLES = {"DONE": "green", "FAILED": "bold red", "CANCELED": "yellow", "RUNNING": "cyan"}
_WIDE = 110
_HIDDEN = {True: ("error",), False: ("error", "engine", "name")}
_LONGEST_NAME = {True: 20, False: 12}
"""Columns that a terminal has no room for: one of _WIDE characters or more, and a narrower one."""
_MOST_RANKS = 4
_GATHER_S = 0.2
"""A line may come so much later: what ends meanwhile is asked for together."""
_PATIENCE_S = 10.0


@click.command()
@name_option
@click.option("--state", "states", multiple=True, type=click.Choice(STATES, case_sensitive=False), help="Only these.")
@click.option("--application", default="", help="Only the tasks of this application.")
@click.option("--since", metavar="TIME", help="Only what was submitted since: 10m, 2h, 1d ago, or 2026-05-17T09:30.")
@click.option("--sort", type=click.Choice(("queue", "run", "start")), help="By this time.  [default: as submitted]")
@click.option("--limit", type=click.IntRange(min=0), default=100, show_default=True, help="The last ones; 0: all.")
@click.option("--follow", "-f", is_flag=True, help="Go on with a line for each task that ends, until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; with --follow one a line.")
def log(
    name: str | None,
    states: tuple[str, ...],
    application: str,
    since: str | None,
    sort: str | None,
    limit: int,
    follow: bool,
    as_json: bool,
) -> None:
    """Show what became of tasks, one line each: of the running environment, or of the journal of one that has ended.

    \b
    Examples:
        qsimenv log --state failed
        qsimenv log --sort queue --limit 10      the ten that waited longest
        qsimenv log --since 2h --application vqe
        qsimenv log --follow --json

    What --limit leaves are the last ones of the order asked for. Results are fetched with `qsimenv results`.
    """
    from qsimenv.cli import history, show
    from qsimenv.qpm_plugin.api import TaskState
    from qsimenv.qpm_plugin.records import Filter, arranged

    wanted = Filter(
        tuple(TaskState[state.upper()] for state in states), application, history.moment(since) if since else 0.0
    )
    if follow:
        _follow(name, wanted, sort, limit, as_json)
        return
    found = history.read(name, wanted, 0 if sort else limit).records
    records = arranged(found, sort, limit)
    if as_json:
        show.echo_json({"tasks": [as_plain(record) for record in records]})
    else:
        _print(records)


def _follow(name: str | None, wanted: Filter, sort: str | None, limit: int, as_json: bool) -> None:
    from qsimenv.cli import history
    from qsimenv.qpm_plugin.client import connect
    from qsimenv.qpm_plugin.connection import FILE_NAME
    from qsimenv.qpm_plugin.records import arranged

    with connect(history.run_folder(name) / FILE_NAME) as qpm:
        ends = _ends(qpm, wanted)
        next(ends)  # listens from here on, so that nothing is missed between the two
        records = arranged(qpm.log(wanted, 0 if sort else limit), sort, limit)
        told = {record.task_id for record in records if record.state.is_final}
        tell = _tell_json if as_json else _tell_line
        if not as_json:
            click.echo(_line([title for title, _ in _COLUMNS], _WIDTHS))
        for record in records:
            tell(record)
        for ended in ends:
            for record in ended:
                if record.task_id not in told:
                    tell(record)
            told.clear()  # only the first could have been in both


def _tell_line(record: TaskRecord) -> None:
    click.echo(_line(cells(record), _WIDTHS))


def _tell_json(record: TaskRecord) -> None:
    from qsimenv.cli import show

    show.echo_json(as_plain(record))


def _ends(qpm: Client, wanted: Filter) -> Iterator[list[TaskRecord]]:
    """The records of tasks that end, some at a time; an empty list first. Ends with the environment."""
    from qsimenv.errors import TimedOutError
    from qsimenv.qpm_plugin.api import TaskState

    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    stop = qpm.register_event_notification(events.put, kinds=("task", "shutdown"))
    try:
        yield []
        over = False
        while not over:
            batch = _gathered(events)
            over = any(event.kind == "shutdown" for event in batch)
            ends = [event.details for event in batch if event.kind == "task"]
            ids = [str(end["task_id"]) for end in ends if TaskState[end["state"]].is_final]
            if not batch:
                qpm.is_ready()  # raises where the environment has gone without a word
            yield qpm.known(ids, wanted)
    except TimedOutError:
        if not over:
            raise
    finally:
        stop()


def _gathered(events: queue.SimpleQueue[Event]) -> list[Event]:
    """The events of a moment; none where there were none for a while."""
    try:
        batch = [events.get(timeout=_PATIENCE_S)]
    except queue.Empty:
        return []
    time.sleep(_GATHER_S)
    while not events.empty():
        batch.append(events.get())
    return batch


def cells(record: TaskRecord) -> list[str]:
    """The columns of a record as text; what is not known is a dash."""
    from qsimenv.cli import show

    created = record.times.creation_time
    ranks = ",".join(map(str, record.ranks[:_MOST_RANKS])) + (",…" if len(record.ranks) > _MOST_RANKS else "")
    texts = (
        record.task_id,
        record.name,
        record.application,
        record.state.name,
        time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(created)) if created else "",
        show.seconds_text(record.queue_s),
        show.seconds_text(record.execution_s),
        ranks,
        record.engine,
        record.error.message if record.error else "",
    )
    return [show.printable(text) or "-" for text in texts]


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()


def _print(records: Sequence[TaskRecord]) -> None:
    """A table on a terminal, plain columns in a pipe."""
    from qsimenv.cli import show

    out = show.console()
    if out.is_terminal:
        out.print(table(records, out.width) if records else "no such task", soft_wrap=False)
        return
    rows = [[title for title, _ in _COLUMNS], *map(cells, records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    click.echo("\n".join(_line(texts, widths) for texts in rows))


def table(records: Sequence[TaskRecord], width: int) -> Group:
    """For people: names are cut to what the terminal holds, what went wrong stands below the tasks."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from qsimenv.cli import show

    shown = [k for k, (title, _) in enumerate(_COLUMNS) if title not in _HIDDEN[width >= _WIDE]]
    rows = []
    for record in records:
        texts = cells(record)
        texts[2] = show.application_text(record.application)
        texts[4] = texts[4].replace("T", " ")[5:] or "-"
        rows.append((record, [_styled(texts[k]) for k in shown]))
    made = Table(box=None, header_style="bold", pad_edge=False)
    for k in shown:
        title = _COLUMNS[k][0]
        most = _LONGEST_NAME[width >= _WIDE] if title in ("name", "application") else None
        made.add_column(title, no_wrap=True, overflow="ellipsis", max_width=most)
    for _, row in rows:
        made.add_row(*row)
    errors = [
        Text(f"{record.task_id}: {show.printable(record.error.message)}", style="red")
        for record in records
        if record.error is not None
    ]
    return Group(made, *([Text()] if errors else []), *errors)


def _styled(text: str) -> Text:
    from rich.text import Text

    return Text(text, style=_STYLES.get(text, "dim" if text == "-" else ""))


def as_plain(record: TaskRecord) -> dict[str, Any]:
    """The record as plain values, without a result, with what can be computed of its times."""
    import msgspec

    shown: dict[str, Any] = msgspec.to_builtins(record)
    del shown["result"]
    return shown | {"state": record.state.name, "queue_s": record.queue_s, "execution_s": record.execution_s}
