"""The plots of ``qsimenv report``: records in, SVG text out. The only file that knows matplotlib.

Each plot is drawn by one function from what ``records`` computes. Time runs from the first task that is shown; an
application has the same colour everywhere, and those beyond the busiest ones are drawn as one.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from qsimenv.qpm_plugin.api import TaskRecord, TaskState
from qsimenv.qpm_plugin.records import busy, busy_rows, waited

COLOURS = ("#3566a8", "#e0862a", "#43936b", "#a8477a", "#7563b3")
REST_COLOUR = "#9aa0a6"
_FAILED, _CANCELED = "#c0392b", "#d9a441"
_BINS, _CURVE_POINTS = 120, 400
_MOST_ROWS = 128
"""More ranks than this are drawn several to a row."""
_WIDTH, _HEIGHT = 9.2, 2.6
_STYLE: Any = {  # matplotlib types the keys one by one
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a9099",
    "axes.labelcolor": "#4a5058",
    "xtick.color": "#4a5058",
    "ytick.color": "#4a5058",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "text.parse_math": False,  # names are no formulas
    "svg.hashsalt": "qsimenv",
}


class Group(NamedTuple):
    """The tasks of an application, or of the rest of them, under one name and colour."""

    name: str
    colour: str
    records: Sequence[TaskRecord]


class Frame(NamedTuple):
    """The time that is shown, in seconds since the epoch, and the number of ranks."""

    begin: float
    end: float
    ranks: int

    @property
    def edges(self) -> np.ndarray:
        return np.linspace(self.begin, self.end, _BINS + 1)


def grouped(applications: Mapping[str, Sequence[TaskRecord]], names: Sequence[str]) -> list[Group]:
    """The applications with their colours under these ``names``; the last ones together where they are too many."""
    items = list(zip(names, applications.values(), strict=True))
    own = items if len(items) <= len(COLOURS) else items[: len(COLOURS) - 1]
    groups = [Group(name, colour, records) for (name, records), colour in zip(own, COLOURS, strict=False)]
    rest = items[len(own) :]
    if rest:
        groups.append(Group(f"{len(rest)} others", REST_COLOUR, [record for _, records in rest for record in records]))
    return groups


def utilisation(groups: Sequence[Group], frame: Frame) -> str:
    """Share of the ranks that work, over time, by application."""
    figure, axes = _axes()
    shares = [100 / frame.ranks * busy(group.records).means(frame.edges) for group in groups]
    _stack(axes, frame, groups, shares)
    axes.set_ylim(0, 100)
    axes.set_ylabel("ranks at work")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    _legend(axes, groups)
    return _svg(figure)


def ranks(groups: Sequence[Group], frame: Frame) -> str:
    """Share of the time that each rank works, over time: one row a rank."""
    together = -(-frame.ranks // _MOST_ROWS)
    rows = -(-frame.ranks // together)
    picture = np.zeros((rows, _BINS))
    for row, worked in busy_rows((record for group in groups for record in group.records), together).items():
        picture[row] = worked.means(frame.edges) / together
    figure, axes = _axes(height=min(4.5, 0.9 + 0.3 * rows))
    unit, factor = _unit(frame)
    image = axes.imshow(
        picture,
        aspect="auto",
        interpolation="nearest",
        cmap="Blues",
        vmin=0,
        vmax=1,
        origin="lower",
        extent=(0, (frame.end - frame.begin) / factor, -0.5, rows * together - 0.5),
    )
    axes.grid(visible=False)
    axes.set_ylim(-0.5, frame.ranks - 0.5)
    axes.set_ylabel("rank" if together == 1 else f"rank ({together} a row)")
    axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel(f"time ({unit})")
    bar = figure.colorbar(image, ax=axes, pad=0.015, fraction=0.03, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0 %", "50 %", "100 %"])
    bar.outline.set_visible(False)
    return _svg(figure)


def throughput(groups: Sequence[Group], frame: Frame) -> str:
    """Tasks that end each second, over time, by application."""
    figure, axes = _axes()
    width_s = (frame.end - frame.begin) / _BINS
    _stack(axes, frame, groups, [np.histogram(_ends(group.records), frame.edges)[0] / width_s for group in groups])
    axes.set_ylabel("tasks ended a second")
    _count_up(axes)
    _legend(axes, groups)
    return _svg(figure)


def queues(groups: Sequence[Group], frame: Frame) -> str:
    """Tasks that wait for ranks, over time, by application."""
    figure, axes = _axes()
    _stack(axes, frame, groups, [waited(group.records, frame.end).means(frame.edges) for group in groups])
    axes.set_ylabel("tasks waiting")
    _count_up(axes, 1.0)
    _legend(axes, groups)
    return _svg(figure)


def spreads(groups: Sequence[Group]) -> str:
    """Which share of the tasks waited, and ran, no longer than so long, by application."""
    layout = ConstrainedLayoutEngine(wspace=0.08)  # the last tick's label of one does not touch the other's first
    figure = Figure(figsize=(_WIDTH, _HEIGHT + 0.3), layout=layout)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, title, name in ((left, "waiting for ranks", "queue_s"), (right, "on its ranks", "execution_s")):
        for group in groups:
            values = [value for record in group.records if (value := getattr(record, name)) is not None]
            if values:
                shares = np.linspace(0, 100, min(len(values) + 1, _CURVE_POINTS))
                found = np.percentile(values, shares, method="inverted_cdf").clip(min=1e-7)
                axes.step(found, shares, where="post", color=group.colour, linewidth=1.6)
        _set_decades(axes)
        axes.set_xlabel(f"time {title}")
        axes.set_ylim(0, 102)
    left.set_ylabel("tasks")
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    _legend(right, groups)
    return _svg(figure)


def failures(groups: Sequence[Group], frame: Frame) -> str:
    """Tasks that failed or were canceled, over time."""
    figure, axes = _axes(height=1.9)
    unit, factor = _unit(frame)
    records = [record for group in groups for record in group.records]
    edges, below = frame.edges[::3], np.zeros(_BINS // 3)
    for state, colour in ((TaskState.FAILED, _FAILED), (TaskState.CANCELED, _CANCELED)):
        counts, _ = np.histogram(_ends([record for record in records if record.state == state]), edges)
        left = (edges[:-1] - frame.begin) / factor
        axes.bar(
            left, counts, np.diff(edges) / factor * 0.9, below, align="edge", color=colour, label=state.name.lower()
        )
        below = below + counts
    axes.set_xlim(0, (frame.end - frame.begin) / factor)
    axes.set_ylim(0, max(1.0, 1.1 * float(below.max())))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_ylabel("tasks")
    axes.set_xlabel(f"time ({unit})")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure)


def _set_decades(axes: Axes) -> None:
    """A logarithmic axis of times over whole decades, of which there is one at least."""
    low, high = axes.dataLim.intervalx
    first, last = (math.floor(math.log10(low)), math.ceil(math.log10(high))) if 0 < low <= high < math.inf else (-3, 0)
    axes.set_xscale("log")
    axes.set_xlim(10.0**first, 10.0 ** max(last, first + 1))
    axes.xaxis.set_major_formatter(FuncFormatter(_seconds))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _axes(height: float = _HEIGHT) -> tuple[Figure, Axes]:
    mpl.rcParams.update(_STYLE)
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _stack(axes: Axes, frame: Frame, groups: Sequence[Group], heights: Sequence[np.ndarray]) -> None:
    unit, factor = _unit(frame)
    edges = (frame.edges - frame.begin) / factor
    below = np.zeros(_BINS)
    for group, height in zip(groups, heights, strict=True):
        axes.stairs(below + height, edges, baseline=below, fill=True, color=group.colour, linewidth=0)
        below = below + height
    axes.set_xlim(0, edges[-1])
    axes.set_xlabel(f"time ({unit})")


def _count_up(axes: Axes, least: float = 0.0) -> None:
    """From nothing to ``least`` or more, with the thousands apart."""
    axes.set_ylim(0, max(least, axes.get_ylim()[1]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _legend(axes: Axes, groups: Sequence[Group]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=group.colour, label=group.name) for group in groups]
    axes.legend(handles=patches, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.0, handleheight=1.0)


def _unit(frame: Frame) -> tuple[str, float]:
    """What the time axis counts in."""
    seconds = frame.end - frame.begin
    for unit, factor in (("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0)):
        if seconds < 180 * factor:
            return unit, factor
    return "days", 86400.0


def _seconds(value: float, _: Any = None) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= factor or unit == "us":
            break
    return f"{value / factor:g} {unit}"


def _ends(records: Sequence[TaskRecord]) -> list[float]:
    return [record.times.cq_enqueue_time for record in records if record.times.cq_enqueue_time is not None]


def _svg(figure: Figure) -> str:
    """The picture as an element of a page: scaled to its width, without what only a file of its own needs."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
