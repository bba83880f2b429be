"""Tasks as rows of one task: which of them, and that each gets its own result."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

import qsimenv as qs
from qsimenv import engines
from qsimenv.circuit import Circuit, gate
from qsimenv.comm import Team
from qsimenv.qpm_plugin import rows
from qsimenv.qpm_plugin.messages import Job

CIRCUIT = Circuit(2, 0, (gate("ry", 0, params=["p0"]), gate("cx", 0, 1), gate("rx", 1, params=["p1"])), (), ("a", "b"))
OTHER = Circuit(2, 0, (gate("ry", 1, params=["p0"]), gate("rx", 0, params=["p1"])), (), ("a", "b"))


def job(number: int, circuit: Circuit = CIRCUIT, **changes: object) -> tuple[str, Job]:
    task = qs.Task(circuit, parameters=[0.1 * number, 0.2], observables=["ZZ", "XI"])
    return f"task-{number}", Job.of(msgspec.structs.replace(task, **changes))


def test_neighbours_that_differ_in_values_alone_are_rows_together():
    tasks = [job(0), job(1, seed=5, name="so", priority=2), job(2, OTHER), job(3), job(4, precision="single")]
    assert rows.alike(tasks) == [tasks[:2], tasks[2:3], tasks[3:4], tasks[4:]]


@pytest.mark.parametrize(
    "changes",
    [{"shots": 10}, {"save": "statevector"}, {"time_limit_s": 5.0}, {"parameters": np.zeros((2, 2))}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_has_more_than_a_row_of_values_stays_alone(changes):
    tasks = [job(0, **changes), job(1, **changes)]
    assert rows.alike(tasks) == [tasks[:1], tasks[1:]]


def test_each_row_has_the_result_of_its_task_alone():
    tasks = [job(number, seed=number) for number in range(37)]
    together = rows.as_one(tasks).with_circuit(CIRCUIT)
    assert engines.is_immediate(together)
    results = rows.apart(engines.run(together, Team()), tasks)
    assert len(results) == 37
    for (_, each), result in zip(tasks, results, strict=True):
        alone = engines.run(each.with_circuit(CIRCUIT), Team())
        np.testing.assert_allclose(result.expectation_values, alone.expectation_values, rtol=0, atol=1e-15)
        assert result.metadata.keys() == alone.metadata.keys()
        assert result.metadata["seed"] == each.task.seed
        assert (result.shots, result.num_clbits, result.registers) == (None, 0, ())
