"""Which records somebody wants to see, in which order, and what they say together: pure, of ``TaskRecord``s alone.

The controller filters by ``Filter`` before it sends a page, readers of a stopped environment's journal do it
themselves; ``qsimenv log`` and ``report`` sort and count what they got. Times are seconds since the epoch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from qsimenv.qpm_plugin.api import TaskRecord, TaskState


class Filter(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tasks in one of ``states`` (none: in any), of ``application`` ("": of any), accepted at ``since`` or later."""

    states: tuple[TaskState, ...] = ()
    application: str = ""
    since: float = 0.0

    def matches(self, record: TaskRecord) -> bool:
        return (
            (not self.states or record.state in self.states)
            and (not self.application or record.application == self.application)
            and (record.times.creation_time or 0.0) >= self.since
        )


ALL = Filter()
SORTS = {
    "queue": lambda record: _or_last(record.queue_s),
    "run": lambda record: _or_last(record.execution_s),
    "start": lambda record: _or_last(record.times.launch_time),
}
"""What records can be sorted by; those that have no such time come first, the greatest last."""


def arranged(records: Sequence[TaskRecord], sort: str | None, limit: int) -> list[TaskRecord]:
    """The ``limit`` records that come last (0: all), in order of submission or by one of SORTS.

    ``records`` come in order of submission.
    """
    ordered = sorted(records, key=SORTS[sort]) if sort else list(records)
    return ordered[-limit:] if limit else ordered


def _or_last(value: float | None) -> float:
    return -math.inf if value is None else value


@dataclass(frozen=True)
class Intervals:
    """When something went on: ``weights[k]`` ranks (or tasks) from ``starts[k]`` to ``ends[k]``."""

    starts: np.ndarray
    ends: np.ndarray
    weights: np.ndarray

    def means(self, edges: np.ndarray) -> np.ndarray:
        """The mean sum of weights in each bin between two edges. O((intervals + bins) log intervals)."""
        totals = _weight_seconds(self.starts, self.weights, edges) - _weight_seconds(self.ends, self.weights, edges)
        means: np.ndarray = np.diff(totals) / np.diff(edges)
        return means.clip(min=0.0)  # what is left of rounding is no negative number of ranks


def busy(records: Iterable[TaskRecord]) -> Intervals:
    """When ranks worked, with the number of ranks that did."""
    return _intervals(
        [
            (record.times.exec_time, record.times.completion_time, len(record.ranks))
            for record in records
            if record.execution_s is not None
        ]
    )


def busy_rows(records: Iterable[TaskRecord], together: int = 1) -> dict[int, Intervals]:
    """The same for each row of ``together`` neighbouring ranks on which anything ran."""
    rows: dict[int, list[tuple[float | None, float | None, int]]] = {}
    for record in records:
        if record.execution_s is not None:
            for row, number in Counter(rank // together for rank in record.ranks).items():
                rows.setdefault(row, []).append((record.times.exec_time, record.times.completion_time, number))
    return {row: _intervals(found) for row, found in rows.items()}


def waited(records: Iterable[TaskRecord], now: float) -> Intervals:
    """When tasks waited to be launched; what was not launched waits until it ended, or until ``now``."""
    rows = []
    for record in records:
        times = record.times
        until = times.launch_time if times.launch_time is not None else times.cq_enqueue_time
        rows.append((times.creation_time or now, now if until is None else until, 1))
    return _intervals(rows)


def span(records: Iterable[TaskRecord]) -> tuple[float, float] | None:
    """From the first acceptance to the last thing that is known to have happened; None for no records."""
    moments = [
        moment
        for record in records
        for moment in (record.times.creation_time, record.times.launch_time, record.times.cq_enqueue_time)
        if moment is not None
    ]
    return (min(moments), max(moments)) if moments else None


@dataclass(frozen=True)
class Summary:
    """What became of tasks; seconds are None where no task has such a time."""

    tasks: int
    by_state: dict[TaskState, int]
    rank_seconds: float
    queue_s: tuple[float, float, float] | None
    """Median, 95th percentile and longest."""
    execution_s: tuple[float, float, float] | None


def summary(records: Sequence[TaskRecord]) -> Summary:
    """Counts and the spread of times of some records."""
    states = [record.state for record in records]
    return Summary(
        len(records),
        {state: states.count(state) for state in TaskState if state in states},
        sum((record.execution_s or 0.0) * len(record.ranks) for record in records),
        _spread([record.queue_s for record in records]),
        _spread([record.execution_s for record in records]),
    )


def by_application(records: Iterable[TaskRecord]) -> dict[str, list[TaskRecord]]:
    """The records of each application, the one that used most rank-seconds first."""
    groups: dict[str, list[TaskRecord]] = {}
    for record in records:
        groups.setdefault(record.application, []).append(record)
    return dict(sorted(groups.items(), key=lambda item: -summary(item[1]).rank_seconds))


def _spread(values: Iterable[float | None]) -> tuple[float, float, float] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    median, high, longest = np.percentile(known, (50, 95, 100))
    return float(median), float(high), float(longest)


def _intervals(rows: Sequence[tuple[float | None, float | None, int]]) -> Intervals:
    table = np.array(rows, dtype=float).reshape(-1, 3)
    return Intervals(table[:, 0], np.maximum(table[:, 0], table[:, 1]), table[:, 2])


def _weight_seconds(moments: np.ndarray, weights: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """For each edge e the sum of weight × (e - moment) over the moments before it."""
    order = np.argsort(moments)
    # moments relative to the first edge: epoch seconds times many tasks would cost the digits that matter
    before = moments[order] - edges[0]
    counted = np.concatenate(([0.0], np.cumsum(weights[order])))
    shifted = np.concatenate(([0.0], np.cumsum(weights[order] * before)))
    places = np.searchsorted(before, edges - edges[0])
    found: np.ndarray = counted[places] * (edges - edges[0]) - shifted[places]
    return found
