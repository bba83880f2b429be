"""A table of figures with what is wanted beside them: drawn on a terminal, tab-separated lines everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


class Row(NamedTuple):
    """A figure, and the least or the most that it should be, where it should."""

    what: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def wanted(self) -> str:
        if self.at_least is not None:
            return f"≥ {_number(self.at_least)}"
        return "" if self.at_most is None else f"≤ {_number(self.at_most)}"

    @property
    def holds(self) -> bool | None:
        """Whether the figure is as wanted; None where nothing is."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        verdict = {None: "", True: "held", False: "MISSED"}[self.holds]
        return self.what, _number(self.value), self.unit, self.wanted, verdict


def show(title: str, rows: Sequence[Row]) -> None:
    """Print the table; in a pipe one line a row, of the cells and nothing else."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        print(f"# {title}")
        for row in rows:
            print("\t".join(row.cells))
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("unit", style="dim")
    table.add_column("wanted", justify="right", style="dim")
    table.add_column("")
    styles = {None: "", True: "green", False: "bold red"}
    for row in rows:
        *cells, verdict = row.cells
        table.add_row(*map(Text, cells), Text(verdict, styles[row.holds]))
    console.print(table)


def _number(value: float) -> str:
    """Three digits at least, and whole numbers with their thousands apart."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
