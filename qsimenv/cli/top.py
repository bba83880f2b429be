"""``qsimenv top``: the running environment, live: its ranks, the queues of its applications, and what it gets done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from qsimenv.cli.environment import connection_file, duration
from qsimenv.cli.options import name_option
from qsimenv.wording import readable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

_MOST_APPLICATIONS = 12
_BAR_WIDTH = 40
_FINAL = ("DONE", "CANCELED", "FAILED")
NOTHING: Mapping[str, Any] = {
    "uptime_s": 0.0, "tasks": {}, "tasks_accepted": 0, "requests": 0, "work_rank_seconds": 0.0,
    "bytes": {"received": 0, "sent": 0}, "applications": {},
}  # fmt: skip
"""What the counters were when the environment began."""


@click.command()
@name_option
@click.option("--interval", "interval_s", type=click.FloatRange(0.1, 3600), metavar="SECONDS", default=1.0,
              help="Between two looks.  [default: 1]")  # fmt: skip
@click.option("--once", is_flag=True, help="One look, with the rates since the controller began.")
def top(name: str | None, interval_s: float, once: bool) -> None:
    """Watch the running environment: its ranks, queues by application, and rates since the last look.

    \b
    Examples:
        qsimenv top
        qsimenv top --once                     for a log file, or a terminal that cannot be drawn over

    Ends with Ctrl-C.
    """
    from rich.live import Live

    from qsimenv.cli import show
    from qsimenv.qpm_plugin.client import connect

    out = show.console()
    with connect(connection_file(name)) as qpm:
        facts, counters = qpm.describe(), qpm.telemetry()
        if once:
            out.print(frame(facts, NOTHING, counters), soft_wrap=False)
            return
        with Live(frame(facts, NOTHING, counters), console=out, screen=out.is_terminal, auto_refresh=False) as live:
            while True:
                time.sleep(interval_s)
                before, facts, counters = counters, qpm.describe(), qpm.telemetry()
                live.update(frame(facts, before, counters), refresh=True)


def frame(facts: Mapping[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]) -> Group:
    """One picture: the state ``now``, the rates since ``before`` (both as ``QPM.telemetry`` tells them)."""
    from rich.console import Group
    from rich.text import Text

    from qsimenv.qpm_plugin import DeviceState

    if now["uptime_s"] < before["uptime_s"]:
        before = NOTHING  # the controller was started again
    seconds = max(now["uptime_s"] - before["uptime_s"], 1e-9)
    state = f"{facts['name']} is {DeviceState(facts['state']).name}, up for {duration(now['uptime_s'])}"
    return Group(
        Text(state, style="bold"),
        Text(),
        _ranks(now, (now["work_rank_seconds"] - before["work_rank_seconds"]) / seconds),
        _tasks(now),
        _rates(before, now, seconds),
        Text(),
        _queues(before["applications"], now["applications"], seconds),
    )


def _ranks(now: Mapping[str, Any], working: float) -> Text:
    from rich.text import Text

    ranks = now["ranks"]
    total = ranks["total"]
    filled = round(_BAR_WIDTH * ranks["busy"] / total) if total else 0
    share = f"{100 * min(1.0, working / total):.0f} % worked" if total else "no instance"
    return Text.assemble(
        ("ranks  ", "dim"),
        ("█" * filled, "green"),
        ("░" * (_BAR_WIDTH - filled), "dim"),
        f"  {ranks['busy']} of {total} busy, {share}",
    )


def _tasks(now: Mapping[str, Any]) -> Text:
    from rich.text import Text

    numbers = ", ".join(f"{number:,} {state.lower()}" for state, number in now["tasks"].items() if number)
    return Text.assemble(("tasks  ", "dim"), numbers or "none yet")


def _rates(before: Mapping[str, Any], now: Mapping[str, Any], seconds: float) -> Text:
    from rich.text import Text

    accepted = (now["tasks_accepted"] - before["tasks_accepted"]) / seconds
    requests = (now["requests"] - before["requests"]) / seconds
    received, sent = ((now["bytes"][way] - before["bytes"][way]) / seconds for way in ("received", "sent"))
    return Text.assemble(
        ("rates  ", "dim"),
        f"{_number(accepted)} tasks/s accepted, {_number(_ended(before, now) / seconds)} ended\n",
        ("wire   ", "dim"),
        f"{_number(requests)} requests/s, {readable(received)}/s in, {readable(sent)}/s out",
    )


def _ended(before: Mapping[str, Any], now: Mapping[str, Any]) -> int:
    """Tasks that ended between two looks; fewer where records were forgotten meanwhile."""
    return max(0, sum(int(now["tasks"].get(state, 0)) - int(before["tasks"].get(state, 0)) for state in _FINAL))


def _queues(before: Mapping[str, Any], now: Mapping[str, Any], seconds: float) -> Table:
    from rich.table import Table
    from rich.text import Text

    from qsimenv.cli import show

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("application", no_wrap=True, overflow="ellipsis", max_width=32, min_width=16)
    for title in ("waiting", "running", "ended", "ended/s", "failed"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, numbers in list(now.items())[:_MOST_APPLICATIONS]:
        ended = max(0, numbers["ended"] - before.get(name, {}).get("ended", 0)) / seconds
        failed = Text(f"{numbers['failed']:,}", style="bold red" if numbers["failed"] else "dim")
        table.add_row(
            Text(show.application_text(name)),
            *(f"{numbers[column]:,}" for column in ("waiting", "running", "ended")),
            _number(ended),
            failed,
        )
    more = len(now) - _MOST_APPLICATIONS
    if more > 0:
        table.add_row(Text(f"and {more} more", style="dim"))
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"
