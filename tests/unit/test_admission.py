"""Admission: tasks of one kind are estimated once, and each is checked all the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qsimenv as qs
from qsimenv import engines
from qsimenv.circuit import Circuit, Measure, gate
from qsimenv.errors import InvalidArgumentError, NotFoundError
from qsimenv.qpm_plugin.admission import Admission
from qsimenv.qpm_plugin.messages import Job
from qsimenv.task import Task

FREE = Circuit(2, 1, (gate("rx", 0, params=["p0"]), gate("rx", 1, params=["p1"]), Measure(0, 0)), parameters=("a", "b"))
GOOD: dict[str, Any] = {"parameters": np.array([0.1, 0.2]), "shots": 10}


def job(**options: Any) -> Job:
    """Of a task that nobody has checked yet."""
    return Job.of(Task(circuit=FREE, **{**GOOD, **options}))


@pytest.fixture
def admission() -> Admission:
    made = Admission()
    made.resize(max_ranks=2, free_bytes=1 << 30)
    made.learn({FREE.hash: FREE.bytes})
    return made


def test_tasks_of_one_kind_are_estimated_once(admission: Admission, monkeypatch: pytest.MonkeyPatch) -> None:
    estimated: list[Task] = []
    evaluate = engines.evaluate

    def counted(task: Task, max_ranks: int, free_bytes: int) -> Any:
        estimated.append(task)
        return evaluate(task, max_ranks, free_bytes)

    monkeypatch.setattr(engines, "evaluate", counted)
    same = [job(seed=seed, name=str(seed), parameters=np.array([seed, 0.2]), priority=seed) for seed in range(5)]
    other = [job(shots=11), job(precision="single"), job(parameters=np.zeros((3, 2))), job(engine="statevector")]
    found = admission.estimates([*same, *other, *same])
    assert len(estimated) == 1 + len(other)
    assert found[:5] == found[-5:] == found[:1] * 5
    admission.resize(max_ranks=1, free_bytes=1 << 30)
    admission.estimates(same)
    assert len(estimated) == 2 + len(other)  # another machine, another estimate


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1 << 64}, "seed: 18446744073709551616 found"),
        ({"parameters": np.array([0.1, np.nan])}, "a value that is not a finite number found"),
        ({"parameters": np.array([np.inf, 0.1])}, "a value that is not a finite number found"),
        ({"parameters": np.array([0.1])}, r"an array of shape \(1,\) found"),
        ({"parameters": None}, "'a' is left unbound"),
        ({"parameters": np.zeros((0, 2))}, "without any set of values"),
        ({"time_limit_s": 0.0}, "time_limit_s: 0.0 found"),
        ({"priority": 1001}, "priority: 1001 found"),
        ({"application": "\n"}, "application: "),
        ({"shots": None}, "nothing is asked for"),
        ({"save": "state.txt"}, "save: "),
    ],
)
def test_each_task_is_checked_whatever_was_estimated_before(
    admission: Admission, options: dict[str, Any], message: str
) -> None:
    admission.estimates([job(), job(parameters=np.zeros((3, 2)))])
    with pytest.raises(InvalidArgumentError, match=message):
        admission.estimates([job(), job(**options)])
    admission.estimates([job()])


def test_circuits_are_known_by_their_names(admission: Admission) -> None:
    other = Circuit(1, 1, (gate("h", 0), Measure(0, 0)))
    unknown = Job.of(qs.Task(other, shots=1))
    assert admission.unknown([job(), unknown]) == (other.hash,)
    with pytest.raises(NotFoundError, match="is not known"):
        admission.estimates([job(), unknown])
    kept = admission.circuits([job()])[FREE.hash]
    admission.learn({FREE.hash: FREE.bytes, other.hash: other.bytes})
    assert admission.circuits([job(), unknown]) == {FREE.hash: FREE, other.hash: other}
    assert admission.circuits([job()])[FREE.hash] is kept  # the same bytes are not opened again
    with pytest.raises(InvalidArgumentError, match="have the hash"):
        admission.learn({FREE.hash: other.bytes})
