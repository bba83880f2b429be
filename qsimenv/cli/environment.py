"""``qsimenv start``, ``status`` and ``stop``: the life of an environment."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click

from qsimenv.cli.options import json_option

name_option = click.option("--name", default="default", show_default=True, help="Which environment.")


def environment_connection(name: str) -> Path | None:
    """The connection file of a named environment; None lets ``connect`` look where it always does."""
    from qsimenv.qpm_plugin.connection import FILE_NAME, default_run_folder

    return None if name == "default" else default_run_folder(name) / FILE_NAME


@click.command()
@name_option
@click.option("--hosts", metavar="A:2,B:2|@FILE", help="Hosts with their slots.  [default: Slurm's, or this machine]")
@click.option("--ranks-per-node", type=click.IntRange(min=1), help="Workers a node.  [default: one a cache domain]")
@click.option("--het-group", type=click.IntRange(min=0), help="Group of a heterogeneous Slurm job to start on.")
@click.option("--timeout", "timeout_s", default=120.0, show_default=True, help="Seconds that each phase may take.")
@json_option
def start(name: str, as_json: bool, **options: Any) -> None:
    """Start an environment and return when every worker has answered.

    \b
    Examples:
        qsimenv start                          this machine, or the Slurm allocation we are in
        qsimenv start --ranks-per-node 8
        qsimenv start --hosts node1:4,node2:4 --name big

    It writes a connection file that only you can read; clients find it by themselves, or through QSIMENV_CONNECTION.
    """
    from qsimenv.launcher import environment

    began = time.perf_counter()
    with _phases(as_json) as on_phase:
        environment.start(name, on_phase=on_phase, **options)
    _show_status(name, as_json, f"started in {time.perf_counter() - began:.1f} s")


def _phases(as_json: bool) -> AbstractContextManager[Any]:
    """What is being done, as a spinner for a person, as lines on stderr otherwise."""
    if as_json:
        return nullcontext(lambda _phase: None)
    if not sys.stderr.isatty():
        return nullcontext(lambda phase: click.echo(phase, err=True))
    from contextlib import contextmanager

    from rich.console import Console

    @contextmanager
    def spinning() -> Any:
        with Console(stderr=True).status("starting") as status:
            yield status.update

    return spinning()


@click.command()
@name_option
@json_option
def status(name: str, as_json: bool) -> None:
    """Show the running environment: its DVM, its workers and its tasks."""
    _show_status(name, as_json)


@click.command()
@name_option
@click.option("--drain", is_flag=True, help="Finish what was accepted first.")
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds until it is ended by force.")
def stop(name: str, drain: bool, timeout_s: float) -> None:
    """Stop the running environment; leaves no process and no file behind."""
    from qsimenv.launcher import environment

    environment.stop(name, drain=drain, timeout_s=timeout_s)
    click.echo(f"environment {name!r} is stopped", err=True)


def _show_status(name: str, as_json: bool, note: str = "") -> None:
    from qsimenv.cli import show
    from qsimenv.qpm_plugin.client import connect

    with connect(environment_connection(name)) as qpm:
        facts, counters = qpm.describe(), qpm.telemetry()
    if as_json:
        show.echo_json({"device": facts, "telemetry": counters})
        return
    _print_status(facts, counters, note)


def _print_status(facts: dict[str, Any], counters: dict[str, Any], note: str) -> None:
    from rich.table import Table

    from qsimenv.cli import show

    out = show.console()
    ranks, seconds = counters["ranks"], counters["work_rank_seconds"]
    tasks = [f"{number} {state.lower()}" for state, number in counters["tasks"].items() if number]
    rows = {
        "environment": _state_text(facts),
        "DVM": _dvm_text(facts["launcher"]),
        "controller": f"process {facts['controller']['pid']} on {facts['controller']['host']}",
        "workers": _workers_text(facts),
        "instance": f"number {facts['generation']} of this environment",
        "qubits": ", ".join(f"{number} in {precision} precision" for precision, number in facts["num_qubits"].items()),
        "tasks": ", ".join(tasks) or "none yet",
        "ranks": f"{ranks['busy']} busy, {ranks['free']} free; {seconds:.1f} rank seconds of work done",
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for label, text in rows.items():
        table.add_row(label, text)
    out.print(table)
    if note:
        out.print(f"[dim]{note}[/dim]")


def _state_text(facts: dict[str, Any]) -> str:
    from qsimenv.qpm_plugin import DeviceState

    reason = f": {facts['reason']}" if facts["reason"] else ""
    return f"[bold]{facts['name']}[/bold] is {DeviceState(facts['state']).name}{reason}"


def _dvm_text(launcher: dict[str, Any]) -> str:
    if launcher["kind"] == "prterun":
        return f"prterun for each instance (no PMIx bindings), PRTE {launcher['prte']}"
    if launcher["kind"] != "pmix":
        return "none: it is being made anew"
    return f"prte {launcher['prte']}, process {launcher['pid']}, on {', '.join(launcher['nodes'])} (PMIx spawn)"


def _workers_text(facts: dict[str, Any]) -> str:
    by_host: dict[str, list[str]] = {}
    for worker in facts["workers"]:
        by_host.setdefault(worker["host"], []).append(f"rank {worker['rank']} = {worker['pid']}")
    return "; ".join(f"{host}: {', '.join(ranks)}" for host, ranks in by_host.items()) or "none yet"
