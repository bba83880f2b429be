"""How results and states look: coloured on a terminal, plain text in a pipe, JSON where asked for.

Text that comes from outside (file names, error messages) is printed as it is, never read as markup. Lines have no
blanks at their end, and a pipe gets them whole, however long they are.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from qsimenv.comm import is_launched
from qsimenv.task import Result
from qsimenv.wording import plural

MOST_ROWS = 16
BAR_WIDTH = 30
_LONGEST_NAME, _HEX_ID = 20, 32


def console() -> Console:
    """Where results go. A terminal that mpirun makes up for the ranks is none: its own output may be a file."""
    return Console(
        highlight=False, markup=False, emoji=False, soft_wrap=True, force_terminal=False if is_launched() else None
    )


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


def fields(out: Console, rows: Iterable[tuple[str | Text, str | Text]]) -> None:
    """Two columns, a label and what there is to say about it; wrapped inside its column on a terminal."""
    pairs = [(_text(label), _text(text)) for label, text in rows]
    width = max((label.cell_len for label, _ in pairs), default=0)
    for label, text in pairs:
        label.pad_right(width + 2 - label.cell_len)
        for line in _wrapped(out, text, width + 2):
            out.print(Text.assemble(label, line))
            label = Text(" " * (width + 2))  # noqa: PLW2901 - the label stands beside the first line only


def _wrapped(out: Console, text: Text, indent: int) -> list[Text]:
    if not out.is_terminal or text.cell_len + indent <= out.width:
        return [text]
    lines = textwrap.wrap(text.plain, max(20, out.width - indent), break_long_words=False, break_on_hyphens=False)
    return [Text(line, style=text.style) for line in lines]


def _text(text: str | Text) -> Text:
    return text.copy() if isinstance(text, Text) else Text(text)


def counts(out: Console, counted: Mapping[str, int]) -> None:
    """The most frequent outcomes with their share as a bar, as long as there is room for one."""
    shots = sum(counted.values())
    ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    rest = ranked[MOST_ROWS:]
    rows = [(outcome, count, _bar(out, count / ranked[0][1])) for outcome, count in ranked[:MOST_ROWS]]
    if rest:
        rows.append((f"{len(rest)} more", sum(count for _, count in rest), ""))
    outcome_width = max(len("outcome"), *(len(row[0]) for row in rows))
    count_width = max(len("count"), len(str(max(row[1] for row in rows))))
    room = max(0, out.width - outcome_width - count_width - 13) if out.is_terminal else BAR_WIDTH
    out.print(Text(f"{'outcome':{outcome_width}}  {'count':>{count_width}}    share", style="bold"))
    for outcome, count, bar in rows:
        share = f"{100 * count / shots:.1f} %"
        out.print(f"{outcome:{outcome_width}}  {count:{count_width}}  {share:>7}  {bar[:room]}".rstrip())


def _bar(out: Console, share: float) -> str:
    return ("█" if out.encoding.startswith("utf") else "#") * max(1, round(BAR_WIDTH * share))


def values(out: Console, expectation_values: Sequence[float], observables: Sequence[str] = ()) -> None:
    """One line for each observable; by number where nobody knows any more what was asked for."""
    names = [f"<{text}>" for text in observables] or [f"observable {k}" for k in range(1, len(expectation_values) + 1)]
    width = max(map(len, names), default=0)
    for name, value in zip(names, expectation_values, strict=True):
        out.print(f"{name:{width}} = {value:+.12g}")


def show_result(result: Result, observables: Sequence[str] = (), metadata: bool = False) -> None:
    """Counts, expectation values, and how they came about: in two lines, or all that is known."""
    out = console()
    outcome_of(out, result, observables)
    if metadata:
        fields(out, [(name.replace("_", " "), _plain(value)) for name, value in result.metadata.items()])
    else:
        for line in summary(result.metadata):
            out.print(Text(line, style="dim"))


def outcome_of(out: Console, result: Result, observables: Sequence[str] = ()) -> None:
    if result.samples is not None:
        counts(out, result.counts)
    if result.expectation_values is not None:
        values(out, result.expectation_values.tolist(), observables)


def summary(metadata: Mapping[str, Any]) -> tuple[str, str]:
    """``statevector, 2 ranks x 1 thread, double precision, seed 7`` and ``12 ms: sweeps 10 ms, …``."""
    ranks, threads = metadata["ranks"], metadata["threads"]
    seconds = metadata["seconds"]
    phases = {phase: s for phase, s in seconds.items() if phase != "total"}
    return (
        f"{metadata['engine']}, {plural(ranks, 'rank')} x {plural(threads, 'thread')}, "
        f"{metadata['precision']} precision, seed {metadata['seed']}",
        seconds_text(seconds["total"]) + (f": {_plain(phases)}" if phases else ""),
    )


def _plain(value: Any) -> str:
    """A value of the metadata; those that have parts are seconds by phase."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {seconds_text(part)}" for name, part in value.items())
    return str(value)


def printable(text: str) -> str:
    """One line without control characters: names come from other programs, and a terminal may obey them."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


def application_text(application: str) -> str:
    """A name that fits a column or a legend; a client that named no application is one by its id."""
    name = printable(application) or "unnamed"
    if len(name) == _HEX_ID and all(letter in "0123456789abcdef" for letter in name):
        return f"client {name[:8]}"
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def seconds_text(seconds: float | None) -> str:
    """Three digits and a unit that suits; what takes long in minutes or hours."""
    if not seconds:
        return "-" if seconds is None else "0 s"
    if seconds >= 600:
        return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 0.9995 or unit == "us":
            break
    return f"{seconds * factor:.3g} {unit}"
