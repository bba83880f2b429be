"""``qsimenv events``: one line for each thing that happens to the running environment, as it happens."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from qsimenv.cli.options import name_option

if TYPE_CHECKING:
    from qsimenv.qpm_plugin.api import Event

KINDS = ("instance-up", "instance-down", "task", "drain", "stop", "shutdown")


@click.command()
@name_option
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Only these.  [default: all]")
@click.option("--count", type=click.IntRange(min=1), help="End after so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def events(name: str | None, kinds: tuple[str, ...], count: int | None, as_json: bool) -> None:
    """Tell what happens to the running environment: instances that come and go, tasks that change state, its end.

    \b
    Examples:
        qsimenv events --kind instance-down --kind instance-up
        qsimenv events --kind instance-up --count 1      wait for the next instance
        qsimenv events --json

    It ends with the environment. The ends of tasks with their times are told by `qsimenv log --follow`.
    """
    from qsimenv.cli import history
    from qsimenv.qpm_plugin.client import connect
    from qsimenv.qpm_plugin.connection import FILE_NAME
    from qsimenv.qpm_plugin.events import EventQueue

    with connect(history.run_folder(name) / FILE_NAME) as qpm, EventQueue(qpm, kinds) as queue:
        lost = 0
        for number, event in enumerate(queue, start=1):
            if queue.lost > lost:
                click.echo(f"qsimenv events: {queue.lost - lost} were lost, they came too fast", err=True)
                lost = queue.lost
            _tell(event, as_json)
            if number == count:
                return


def _tell(event: Event, as_json: bool) -> None:
    if as_json:
        from qsimenv.cli import show

        show.echo_json({"kind": event.kind, "time": event.time, **event.details})
        return
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
    details = " ".join(f"{key}={value}" for key, value in event.details.items() if value not in ("", [], None))
    click.echo(f"{moment}  {event.kind:13}  {details}".rstrip())
