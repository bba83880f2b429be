"""``qsimenv submit`` and ``results``: circuits to the running environment, and back what became of them."""

from __future__ import annotations

from typing import Any

import click

from qsimenv.cli.environment import environment_connection, name_option
from qsimenv.cli.options import json_option, make_task, task_options


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@task_options
@name_option
@click.option("--wait", is_flag=True, help="Wait for the results and show them.")
@json_option
def submit(files: tuple[str, ...], name: str, wait: bool, as_json: bool, **options: Any) -> None:
    """Submit circuits (OpenQASM or QPY files) to the running environment, all in one request.

    Prints one task id a line, in the order of the files; `qsimenv results ID...` fetches what they gave.

    \b
    Examples:
        qsimenv submit examples/*.qasm --shots 1000 --wait
        ids=$(qsimenv submit bell.qasm ghz.qasm); qsimenv results $ids
    """
    from qsimenv.formats import load
    from qsimenv.qpm_plugin.client import connect

    tasks = [make_task(load(file), options) for file in files]
    with connect(environment_connection(name)) as qpm:
        ids = qpm.async_run(tasks)
        if wait:
            _show_records(_wait_for(qpm, ids, as_json), as_json, options["observables"], files)
        elif as_json:
            from qsimenv.cli import show

            show.echo_json({"task_ids": ids})
        else:
            click.echo("\n".join(ids))


@click.command()
@click.argument("task_ids", nargs=-1, required=True, metavar="ID...")
@name_option
@click.option("--timeout", "timeout_s", type=float, help="Give up after so many seconds; nothing is lost then.")
@json_option
def results(task_ids: tuple[str, ...], name: str, timeout_s: float | None, as_json: bool) -> None:
    """Fetch the results of submitted tasks, in the order of the IDs. Waits for those that still run."""
    from qsimenv.qpm_plugin.client import connect

    with connect(environment_connection(name)) as qpm:
        _show_records(_wait_for(qpm, list(task_ids), as_json, timeout_s), as_json, (), task_ids)


def _wait_for(qpm: Any, ids: list[str], as_json: bool, timeout_s: float | None = None) -> list[Any]:
    """The records of the tasks, with a progress bar on a terminal."""
    import sys

    if as_json or not sys.stderr.isatty() or len(ids) == 1:
        return list(qpm.read_cq(task_ids=ids, timeout_s=timeout_s))
    from rich.console import Console
    from rich.progress import track

    records = []
    for task_id in track(ids, description="tasks", console=Console(stderr=True), transient=True):
        records += qpm.read_cq(task_ids=[task_id], timeout_s=timeout_s)
    return records


def _show_records(records: list[Any], as_json: bool, observables: tuple[str, ...], labels: tuple[str, ...]) -> None:
    from qsimenv.cli import show

    if as_json:
        show.echo_json([_record_as_json(record) for record in records])
        return
    out = show.console()
    for record, label in zip(records, labels, strict=True):
        out.print(f"[bold]{label}[/bold]  {record_line(record)}")
        if record.result is not None:
            if record.result.samples is not None:
                out.print(show.counts_table(record.result.counts))
            for text, value in zip(observables, record.result.expectation_values if observables else (), strict=False):
                out.print(f"<{text}> = {value:+.12g}")


def record_line(record: Any) -> str:
    """``DONE on ranks 0-1: queued 0.2 ms, ran 1.3 ms`` or why it failed."""
    from qsimenv.cli import show

    line = str(record.state.name)
    if record.ranks:
        line += f" on rank{'s' if len(record.ranks) > 1 else ''} {', '.join(map(str, record.ranks))}"
    if record.queue_s is not None:
        line += f": queued {show.seconds_text(record.queue_s)}, ran {show.seconds_text(record.execution_s)}"
    return line + (f": {record.error.message}" if record.error else "")


def _record_as_json(record: Any) -> dict[str, Any]:
    import msgspec

    from qsimenv.cli import show

    shown: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(record, result=None))
    shown["state"] = record.state.name
    shown["result"] = None if record.result is None else show.result_as_json(record.result, metadata=True)
    return shown
