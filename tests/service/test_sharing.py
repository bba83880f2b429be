"""Applications and priorities on a real environment: who has queued little does not wait for who has queued much."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from environments import Environment

import qsimenv as qs
from qsimenv.circuit import Circuit, Measure, gate
from qsimenv.errors import InvalidArgumentError
from tests.support import Hold, wait_until

pytestmark = pytest.mark.slow


def layered(num_qubits: int = 14, layers: int = 30) -> Circuit:
    """Some milliseconds of work, so that tasks are not bundled."""
    gates = [
        gate(name, qubit, params=[0.1 * (qubit + layer + 1)])
        for layer in range(layers)
        for name in ("rx", "ry")
        for qubit in range(num_qubits)
    ]
    return Circuit(num_qubits, num_qubits, (*gates, *(Measure(qubit, qubit) for qubit in range(num_qubits))))


def tasks(count: int, **options: object) -> list[qs.Task]:
    circuit = layered()
    return [qs.Task(circuit, shots=10, seed=seed, time_limit_s=300.0, **options) for seed in range(count)]


@contextmanager
def all_ranks_held(shared: Environment, hold: Hold) -> Iterator[None]:
    """What is submitted in the block waits until its end: who goes first is then up to the scheduler alone."""
    with shared.connect(application="before") as client:
        task = qs.Task(Circuit(1, 0, ()), save="statevector", engine="test", name=hold.name)
        ids = client.async_run([task, task])
        wait_until(lambda: client.telemetry()["tasks"]["RUNNING"] == 2, 60, "the ranks are not held")
        yield
        hold.let_go()
        client.read_cq(task_ids=ids, timeout_s=60)


def test_a_short_queue_is_served_beside_a_long_one(shared: Environment, hold: Hold) -> None:
    with shared.connect(application="long") as one, shared.connect(application="short") as other:
        with all_ranks_held(shared, hold):
            ids = one.async_run(tasks(200))
            few_ids = other.async_run(tasks(3))
        few = other.read_cq(task_ids=few_ids, timeout_s=120)
        many = one.read_cq(task_ids=ids, timeout_s=240)
        assert {record.application for record in few} == {"short"}
        assert {record.application for record in many} == {"long"}
        last = max(record.times.completion_time for record in few)
        after = sum(record.times.launch_time > last for record in many)
        assert after > len(many) / 2


def test_a_higher_priority_goes_first(shared: Environment, hold: Hold) -> None:
    with shared.connect() as client:
        with all_ranks_held(shared, hold):
            low = client.async_run(tasks(60))
            high = client.async_run(tasks(2, priority=5))
        records = {record.task_id: record for record in client.read_cq(task_ids=[*low, *high], timeout_s=240)}
        urgent = max(records[task_id].times.launch_time for task_id in high)
        launches = np.array([records[task_id].times.launch_time for task_id in low])
        assert (launches > urgent).sum() > len(low) / 2


def test_the_environment_names_the_application(shared: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSIMENV_APPLICATION", "from the environment")
    with shared.connect() as client:
        ids = client.async_run([*tasks(1), *tasks(1, application="own")])
        records = client.read_cq(task_ids=ids, timeout_s=120)
        assert [record.application for record in records] == ["from the environment", "own"]


@pytest.mark.parametrize("options", [{"priority": 1001}, {"application": "x" * 65}, {"application": "a\nb"}])
def test_what_cannot_be_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{next(iter(options))}: .* needed$"):
        tasks(1, **options)
