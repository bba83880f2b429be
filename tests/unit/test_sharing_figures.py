"""The figures of ``benchmarks.sharing``, from records whose times are known."""

from __future__ import annotations

import pytest

from benchmarks.sharing import figures_of, overlap, union
from qsimenv.qpm_plugin import TaskState
from qsimenv.qpm_plugin.api import TaskRecord, Times


def record(application: str, created: float, launched: float, ended: float, rank: int) -> TaskRecord:
    times = Times(creation_time=created, launch_time=launched, exec_time=launched + 0.1, completion_time=ended)
    return TaskRecord(
        task_id=f"{application}{created}{rank}", state=TaskState.DONE, times=times, ranks=(rank,),
        application=application,
    )  # fmt: skip


def test_spans_that_touch_are_one() -> None:
    assert union([(3.0, 4.0), (0.0, 1.0), (0.5, 2.0), (2.0, 2.5)]) == [(0.0, 2.5), (3.0, 4.0)]
    assert overlap(2.0, 3.5, [(0.0, 2.5), (3.0, 4.0)]) == 1.0


def test_only_the_time_in_which_something_waits_counts() -> None:
    found = figures_of([record("a", 0.0, 0.0, 1.0, 0), record("a", 0.0, 1.0, 2.0, 0), record("b", 5.0, 5.0, 6.0, 1)], 2)
    assert found["seconds_with_work_waiting"] == 1.0
    assert found["utilisation"] == pytest.approx(0.45)  # rank 0 works from 0.1 to 1.0, rank 1 not at all
    assert found["bound_s"] == 3.0  # one other application, tasks of one second


def test_the_next_task_waits_from_the_launch_of_the_one_before_it() -> None:
    found = figures_of([record("a", 0.0, launch, launch + 1.0, 0) for launch in (0.5, 1.5, 4.0)], 1)
    assert found["applications"]["a"] == {
        "tasks": 3, "wait_median_s": 1.5, "wait_longest_s": 4.0, "next_task_wait_longest_s": 2.5,
    }  # fmt: skip
