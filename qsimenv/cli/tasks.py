"""``qsimenv submit`` and ``results``: circuits to the running environment, and back what became of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from qsimenv.cli.environment import connection_file
from qsimenv.cli.options import json_option, make_task, name_option, seconds, task_options
from qsimenv.errors import InvalidArgumentError
from qsimenv.task import SHARDED
from qsimenv.wording import plural

EXIT_FAILED = 1


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@task_options
@name_option
@click.option("--wait", is_flag=True, help="Wait for the results and show them.")
@click.option("--priority", type=int, default=0, show_default=True, help="Higher ones start first.")
@click.option(
    "--application", default="", help="What shares its part of the ranks.  [default: $QSIMENV_APPLICATION, else itself]"
)
@click.option(
    "--save", type=click.Path(path_type=Path), help="The ranks write the state here, in shards (.h5); one FILE only."
)
@click.option("--key", default="", help="A word for this request; said again, it gives the same IDs and runs nothing.")
@json_option
def submit(
    files: tuple[str, ...], name: str | None, wait: bool, save: Path | None, key: str, as_json: bool, **options: Any
) -> None:
    """Submit circuits (OpenQASM or QPY files) to the running environment, all in one request.

    Prints one task id a line, in the order of the files; `qsimenv results ID...` fetches what they gave.

    \b
    Examples:
        qsimenv submit examples/*.qasm --shots 1000 --wait
        ids=$(qsimenv submit bell.qasm ghz.qasm); qsimenv results $ids
        qsimenv submit big.qasm --save /shared/state.h5

    With --wait it ends with exit code 1 where a task failed.
    """
    from qsimenv.cli import show
    from qsimenv.formats import load
    from qsimenv.qpm_plugin.client import connect

    where = _where_to_save(save, files)
    tasks = [make_task(load(file), options, where) for file in files]
    with connect(connection_file(name)) as qpm:
        ids = qpm.async_run(tasks, key=key)
        if wait:
            with _telling(ids):
                records = _wait_for(qpm, ids, as_json)
            _show_records(records, as_json, files, options["observables"])
        elif as_json:
            show.echo_json({"task_ids": ids})
        else:
            click.echo("\n".join(ids))


@click.command()
@click.argument("task_ids", nargs=-1, required=True, metavar="ID...")
@name_option
@click.option("--timeout", "timeout_s", type=seconds, metavar="SECONDS", help="Then give up; nothing is lost.")
@click.option("--delete", is_flag=True, help="Forget the results once they are shown.")
@json_option
def results(task_ids: tuple[str, ...], name: str | None, timeout_s: float | None, delete: bool, as_json: bool) -> None:
    """Fetch the results of submitted tasks, in the order of the IDs. Waits for those that still run.

    \b
    Examples:
        qsimenv results 3e2b74-1 3e2b74-2
        qsimenv results 3e2b74-1 --timeout 60 --json

    Results stay until they are deleted or the environment is stopped without --keep. Exit code 1 where a task failed.
    """
    from qsimenv.qpm_plugin.client import connect

    with connect(connection_file(name)) as qpm:
        records = _wait_for(qpm, list(task_ids), as_json, timeout_s)
        if delete:
            qpm.delete(task_ids)
    _show_records(records, as_json, task_ids)


def _where_to_save(path: Path | None, files: tuple[str, ...]) -> str | None:
    """For the ranks, which have their own working folders and may be on other hosts: the path in full."""
    if path is None:
        return None
    if len(files) > 1:
        raise InvalidArgumentError(f"save: {len(files)} circuits found for one file; submit them one by one")
    if path.suffix not in SHARDED:
        raise InvalidArgumentError(
            f"save: {path} found, an .h5 file needed: the ranks write it; `qsimenv run -e --save` fetches an .npy"
        )
    return str(path.absolute())


@contextmanager
def _telling(ids: list[str]) -> Iterator[None]:
    """Whoever breaks off the wait hears how to get the results later."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\nthe tasks go on; fetch them with: qsimenv results {' '.join(ids)}", err=True, nl=False)
        raise


def _wait_for(qpm: Any, ids: list[str], as_json: bool, timeout_s: float | None = None) -> list[Any]:
    """The records of the tasks; a person sees that it waits."""
    if as_json or not sys.stderr.isatty():
        return list(qpm.read_cq(task_ids=ids, timeout_s=timeout_s))
    from rich.console import Console

    with Console(stderr=True).status(f"waiting for {plural(len(ids), 'task')}"):
        return list(qpm.read_cq(task_ids=ids, timeout_s=timeout_s))


def _show_records(
    records: list[Any], as_json: bool, labels: tuple[str, ...], observables: tuple[str, ...] = ()
) -> None:
    """The records with their results. Exits with EXIT_FAILED where a task did not end as it should."""
    from rich.text import Text

    from qsimenv.cli import show

    if as_json:
        show.echo_json({"tasks": [_record_as_json(record) for record in records]})
    else:
        out = show.console()
        for k, (record, label) in enumerate(zip(records, labels, strict=True)):
            out.print(("\n" if k else "") + label, style="bold", end="  ")
            out.print(Text(record_line(record)))
            if record.result is not None:
                show.outcome_of(out, record.result, observables)
    if any(record.state.name != "DONE" for record in records):
        click.get_current_context().exit(EXIT_FAILED)


def record_line(record: Any) -> str:
    """``DONE on ranks 0, 1: queued 0.2 ms, ran 1.3 ms`` or why it failed."""
    from qsimenv.cli import show

    line = str(record.state.name)
    if record.ranks:
        line += f" on rank{'s' if len(record.ranks) > 1 else ''} {', '.join(map(str, record.ranks))}"
    if record.queue_s is not None:
        line += f": queued {show.seconds_text(record.queue_s)}, ran {show.seconds_text(record.execution_s)}"
    if record.attempts > 1 and record.interruption:
        line += f", attempt {record.attempts} since {record.interruption}"
    return line + (f": {record.error.message}" if record.error else "")


def _record_as_json(record: Any) -> dict[str, Any]:
    import msgspec

    from qsimenv.cli import show

    shown: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(record, result=None))
    shown["state"] = record.state.name
    shown["result"] = None if record.result is None else show.result_as_json(record.result, metadata=True)
    return shown
