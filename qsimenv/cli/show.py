"""How results and states look: rich tables on a terminal, plain text in a pipe, JSON where asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from qsimenv.task import Result

MOST_ROWS = 16


def console() -> Console:
    """A console that is as wide as it needs to be where no terminal says otherwise."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=160)


def echo_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def result_as_json(result: Result, metadata: bool = False) -> dict[str, Any]:
    """What the result holds as plain values. Without metadata it is the same on any number of ranks."""
    shown: dict[str, Any] = {}
    if result.samples is not None:
        shown["shots"] = result.shots
        shown["counts"] = result.counts
    if result.expectation_values is not None:
        shown["expectation_values"] = result.expectation_values.tolist()
    if metadata:
        shown["metadata"] = result.metadata
    return shown


def counts_table(counts: Mapping[str, int], title: str | None = None) -> Table:
    """The most frequent outcomes with their share as a bar."""
    shots = sum(counts.values())
    table = Table(title=title, box=None, pad_edge=False, header_style="bold")
    table.add_column("outcome")
    table.add_column("count", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for outcome, count in ranked[:MOST_ROWS]:
        table.add_row(
            outcome, str(count), f"{100 * count / shots:.1f} %", "█" * max(1, round(30 * count / ranked[0][1]))
        )
    if len(ranked) > MOST_ROWS:
        rest = sum(count for _, count in ranked[MOST_ROWS:])
        table.add_row(f"{len(ranked) - MOST_ROWS} more", str(rest), f"{100 * rest / shots:.1f} %", "")
    return table


def show_result(result: Result, observables: Sequence[str] = ()) -> None:
    """Counts, expectation values and one line on how they came about."""
    out = console()
    if result.samples is not None:
        out.print(counts_table(result.counts))
    if result.expectation_values is not None:
        for text, value in zip(observables, result.expectation_values.tolist(), strict=True):
            out.print(f"<{text}> = {value:+.12g}")
    out.print(f"[dim]{summary(result.metadata)}[/dim]")


def summary(metadata: Mapping[str, Any]) -> str:
    """``statevector, 2 ranks x 1 thread, double precision, seed 7: 0.012 s (…)``."""
    ranks, threads = metadata["ranks"], metadata["threads"]
    seconds = metadata["seconds"]
    phases = ", ".join(f"{phase} {seconds_text(s)}" for phase, s in seconds.items() if phase != "total")
    return (
        f"{metadata['engine']}, {plural(ranks, 'rank')} x {plural(threads, 'thread')}, "
        f"{metadata['precision']} precision, seed {metadata['seed']}: {seconds_text(seconds['total'])} ({phases})"
    )


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def seconds_text(seconds: float | None) -> str:
    """Three digits and a unit that suits."""
    if seconds is None:
        return "-"
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1 or unit == "us":
            break
    return f"{seconds * factor:.3g} {unit}"
