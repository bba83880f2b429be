"""``qsimenv start``, ``status`` and ``stop``: the life of an environment."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

from qsimenv.cli.options import json_option, name_option, seconds

_JOURNAL_HELP = "File for tasks and results, on a disk of this node.  [default: in the run folder]"
_MOST_HOSTS, _MOST_PIDS = 8, 8
_REASONS = {"OFFLINE": "its workers are being started again", "MAINTENANCE": "it ends when all tasks have ended"}


def connection_file(name: str | None) -> Path | None:
    """The connection file of a named environment; None, for no name, lets ``connect`` look where it always does."""
    from qsimenv.qpm_plugin.connection import FILE_NAME, default_run_folder

    return None if name is None else default_run_folder(name) / FILE_NAME


@click.command()
@name_option
@click.option("--hosts", metavar="A:2,B:2|@FILE", help="Hosts with their slots.  [default: Slurm's, or this machine]")
@click.option("--ranks-per-node", type=click.IntRange(min=1), help="Workers a node.  [default: one a cache domain]")
@click.option("--het-group", type=click.IntRange(min=0), help="Group of a heterogeneous Slurm job to start on.")
@click.option("--profile", metavar="NAME|FILE", help="Site profile.  [default: QSIMENV_PROFILE, or by the allocation]")
@click.option(
    "--timeout", "timeout_s", type=seconds, metavar="SECONDS", default=120, help="For each phase.  [default: 120]"
)
@click.option("--journal", type=click.Path(path_type=Path, dir_okay=False), help=_JOURNAL_HELP)
@click.option(
    "--durable", is_flag=True, help="Survive a power failure, too: what was accepted or has ended is on the disk first."
)
@click.option("--keep-results", type=click.IntRange(min=0), help="Fetched results to keep.  [default: 200000]")
@click.option("--max-queued", type=click.IntRange(min=1), help="Tasks that may wait and run.  [default: 1000000]")
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="Serve OpenMetrics on this port of loopback.")
@json_option
def start(name: str | None, as_json: bool, **options: Any) -> None:
    """Start an environment and return when every worker has answered.

    \b
    Examples:
        qsimenv start                          this machine, or the Slurm allocation we are in
        qsimenv start --ranks-per-node 8
        qsimenv start --hosts node1:4,node2:4 --name big
        qsimenv start --profile frontier       or a file of your own; `qsimenv setup-job --help` names those we have

    It writes a connection file that only you can read; clients find it by themselves, or through QSIMENV_CONNECTION.
    Tasks and results are in a journal: an environment that was killed, or stopped with --keep, goes on where it was.
    """
    from qsimenv.launcher import environment

    name = "default" if name is None else name
    path = connection_file(name)
    began = time.perf_counter()
    with _phases("starting", as_json) as on_phase:
        environment.start(name, on_phase=on_phase, **options)
    _show_status(path, as_json, f"started in {time.perf_counter() - began:.1f} s")
    named = os.environ.get("QSIMENV_CONNECTION")
    if named and path and Path(named).absolute() != path.absolute():
        click.echo(f"note: QSIMENV_CONNECTION names another file ({named}), and clients go by that", err=True)


def _phases(first: str, quiet: bool = False) -> AbstractContextManager[Any]:
    """What is being done, ``first`` of all that, as a spinner for a person, as lines on stderr otherwise."""
    if quiet:
        return nullcontext(lambda _phase: None)
    if not sys.stderr.isatty():
        return nullcontext(lambda phase: click.echo(phase, err=True))
    return _spinning(first)


@contextmanager
def _spinning(first: str) -> Iterator[Any]:
    from rich.console import Console

    with Console(stderr=True, markup=False).status(first) as status:
        yield status.update


@click.command()
@name_option
@click.option("--metrics", is_flag=True, help="Its counters as OpenMetrics text, for a collector.")
@json_option
def status(name: str | None, metrics: bool, as_json: bool) -> None:
    """Show the running environment: its DVM, its workers and its tasks.

    \b
    Examples:
        qsimenv status
        qsimenv status --name big --json
        qsimenv status --metrics > /var/lib/node_exporter/qsimenv.prom

    `qsimenv top` shows it live, `qsimenv log` its tasks one by one.
    """
    if metrics and as_json:
        raise click.UsageError("--metrics and --json exclude each other")
    if metrics:
        _print_metrics(connection_file(name))
    else:
        _show_status(connection_file(name), as_json)


@click.command()
@name_option
@click.option("--drain", is_flag=True, help="Finish what was accepted first.")
@click.option("--keep", is_flag=True, help="Keep tasks and results for the next start.")
@click.option(
    "--grace", "grace_s", type=seconds, metavar="SECONDS", default=0,
    help="Let what runs end first; nothing new starts.",
)  # fmt: skip
@click.option(
    "--within", "within_s", type=seconds, metavar="SECONDS", default=None,
    help="With --drain: stop after so long all the same, and keep what has not ended.",
)  # fmt: skip
@click.option(
    "--timeout", "timeout_s", type=seconds, metavar="SECONDS", default=60,
    help="How long its processes may take to end once they are told; then by force.  [default: 60]",
)  # fmt: skip
def stop(name: str | None, drain: bool, keep: bool, grace_s: float, within_s: float | None, timeout_s: float) -> None:
    """Stop the running environment; leaves no process and no file behind, but for the journal with --keep.

    \b
    Examples:
        qsimenv stop                           what still runs or waits is canceled
        qsimenv stop --drain                   what was accepted is finished first
        qsimenv stop --drain --within 600      the same for ten minutes; what is left goes on with the next start
        qsimenv stop --keep                    what was not finished goes on with the next `qsimenv start`
        qsimenv stop --keep --grace 60         the same, but what runs now may take a minute to finish
    """
    from qsimenv.launcher import environment

    if within_s is not None and not drain:
        raise click.UsageError("--within needs --drain; for what runs now there is --grace")
    named = os.environ.get("QSIMENV_CONNECTION")
    folder = Path(named).parent if named and name is None else None
    with _phases("stopping") as on_phase:
        environment.stop(
            "default" if name is None else name,
            run_folder=folder,
            drain=drain,
            keep=keep,
            grace_s=grace_s,
            within_s=within_s,
            timeout_s=timeout_s,
            on_phase=on_phase,
        )
    click.echo("the environment is stopped", err=True)


def _show_status(path: Path | None, as_json: bool, note: str = "") -> None:
    from qsimenv.cli import show
    from qsimenv.qpm_plugin.client import connect, find_connection

    path = path or find_connection()
    with connect(path) as qpm:
        facts, counters = qpm.describe(), qpm.telemetry()
    if as_json:
        show.echo_json({"device": facts, "telemetry": counters})
    else:
        _print_status(facts, counters, str(path), note)


def _print_metrics(path: Path | None) -> None:
    from qsimenv.qpm_plugin.client import connect
    from qsimenv.qpm_plugin.metrics import text

    with connect(path) as qpm:
        click.echo(text(qpm.telemetry()), nl=False)


def _print_status(facts: dict[str, Any], counters: dict[str, Any], path: str, note: str) -> None:
    from rich.text import Text

    from qsimenv.cli import show

    out = show.console()
    lost = facts["launcher"].get("lost", [])
    rows = [
        ("environment", Text(_state_text(facts, counters["uptime_s"]), style="bold")),
        ("DVM", _dvm_text(facts["launcher"])),
        *([("lost", f"{_some(lost)}: left out, since nothing starts there")] if lost else []),
        ("controller", f"process {facts['controller']['pid']} on {facts['controller']['host']}"),
        *(("" if k else "workers", line) for k, line in enumerate(_workers_lines(facts))),
        (
            "qubits",
            ", ".join(f"{number} in {precision} precision" for precision, number in facts["num_qubits"].items()),
        ),
        ("tasks", _tasks_text(counters["tasks"])),
        ("ranks", _ranks_text(counters)),
        ("connection", path),
        *([("metrics", f"http://127.0.0.1:{port}/metrics")] if (port := facts.get("metrics_port")) else []),
        *([("log", facts["launcher"]["log"])] if "log" in facts["launcher"] else []),
    ]
    show.fields(out, rows)
    if note:
        out.print(Text(note, style="dim"))


def _state_text(facts: dict[str, Any], uptime_s: float) -> str:
    from qsimenv.qpm_plugin import DeviceState

    state = DeviceState(facts["state"])
    reason = facts["reason"] or _REASONS.get(state.name, "")
    return f"{facts['name']} is {state.name}{reason and f' ({reason})'}, up for {duration(uptime_s)}"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 05 min``."""
    minutes = int(seconds // 60)
    if minutes == 0:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _dvm_text(launcher: dict[str, Any]) -> str:
    if launcher["kind"] == "prterun":
        return f"none that lasts: prterun {launcher['prte']} for each instance (there are no PMIx bindings)"
    if launcher["kind"] == "srun":
        return f"none: srun {launcher['prte']} starts the workers on {_some(launcher['nodes'])}"
    if launcher["kind"] != "pmix":
        return "none: it is being made anew"
    return f"prte {launcher['prte']}, process {launcher['pid']}, on {_some(launcher['nodes'])} (PMIx spawn)"


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_HOSTS
    return ", ".join(names[:_MOST_HOSTS]) + (f" and {more} more" if more > 0 else "")


def _workers_lines(facts: dict[str, Any]) -> list[str]:
    """A line for each host, and one where they were started again."""
    by_host: dict[str, list[dict[str, Any]]] = {}
    for worker in facts["workers"] if facts["ranks"] else ():
        by_host.setdefault(worker["host"], []).append(worker)
    lines = [f"{host}: {_ranks_of_host(workers)}" for host, workers in list(by_host.items())[:_MOST_HOSTS]]
    more = len(by_host) - _MOST_HOSTS
    return [
        *(lines or ["none"]),
        *([f"and more on {more} other hosts (--json names all)"] if more > 0 else []),
        *([f"started {facts['generation']} times"] if facts["generation"] > 1 else []),
    ]


def _ranks_of_host(workers: list[dict[str, Any]]) -> str:
    if len(workers) > _MOST_PIDS:
        return f"{len(workers)} ranks, {workers[0]['rank']} to {workers[-1]['rank']}"
    return ", ".join(f"rank {worker['rank']} is process {worker['pid']}" for worker in workers)


def _tasks_text(tasks: dict[str, int]) -> str:
    return ", ".join(f"{number} {state.lower()}" for state, number in tasks.items() if number) or "none yet"


def _ranks_text(counters: dict[str, Any]) -> str:
    from qsimenv.cli import show

    ranks, work_s = counters["ranks"], counters["work_rank_seconds"]
    return f"{ranks['busy']} busy, {ranks['free']} free, {show.seconds_text(work_s)} of work done by all together"
