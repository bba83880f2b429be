"""What the service promises beside results: nothing runs twice, a cancel takes effect, limits hold, a full disk passes.

Every task here is a real one, on two real ranks.
"""

from __future__ import annotations

import resource
import threading
import time

import numpy as np
import psutil
import pytest
from environments import environment, wait_until

from qsimenv.circuit import Circuit, Measure, gate
from qsimenv.errors import BadStateError, InvalidArgumentError, NotFoundError, QSimEnvError, TimedOutError
from qsimenv.qpm_plugin.api import TaskState
from qsimenv.task import Task

pytestmark = pytest.mark.environment
SOON = 120.0


def long_task(num_qubits: int = 16, rows: int = 200_000, **options: object) -> Task:
    """Minutes of work in sweeps of less than a millisecond, planned once."""
    gates = [gate("rx", qubit, params=("p0",)) for qubit in range(num_qubits)]
    circuit = Circuit(num_qubits, 1, (*gates, Measure(0, 0)), parameters=("theta",))
    return Task(circuit=circuit, shots=1, parameters=np.full((rows, 1), 0.1), **options)  # type: ignore[arg-type]


def bell(**options: object) -> Task:
    circuit = Circuit(2, 2, (gate("h", 0), gate("cx", 0, 1), Measure(0, 0), Measure(1, 1)))
    return Task(circuit=circuit, shots=100, **options)  # type: ignore[arg-type]


def test_a_request_that_comes_again_runs_once(client, shared):
    accepted = client.telemetry()["tasks_accepted"]
    ids = client.async_run([bell(seed=seed) for seed in range(3)], key="night-1")
    assert client.async_run([bell(seed=seed) for seed in range(3)], key="night-1") == ids
    with shared.connect() as other:
        assert other.async_run([bell(seed=seed) for seed in range(3)], key="night-1") == ids
        with pytest.raises(InvalidArgumentError, match="stands for an earlier request of 3 tasks"):
            other.async_run([bell()], key="night-1")
    assert client.telemetry()["tasks_accepted"] == accepted + 3
    assert len(client.read_cq(timeout_s=SOON)) == 3


def test_results_stay_until_they_are_deleted(client):
    ids = client.async_run([bell(seed=1), Task(circuit=Circuit(16, 0, ()), save="statevector")])
    first = client.read_cq(timeout_s=SOON)
    again = client.read_cq(task_ids=ids, timeout_s=SOON)
    assert first[0].result.counts == again[0].result.counts
    assert np.array_equal(first[1].result.statevector, again[1].result.statevector)  # too large to stay in memory
    client.delete(ids)
    with pytest.raises(NotFoundError):
        client.delete(ids)
    with pytest.raises(NotFoundError):
        client.read_cq(task_ids=ids)


def test_what_has_not_ended_cannot_be_deleted(client):
    [task_id] = client.async_run(long_task())
    with pytest.raises(BadStateError, match="cancel it first"):
        client.delete([task_id])
    client.cancel([task_id])
    assert client.read_cq(timeout_s=SOON)[0].state == TaskState.CANCELED
    client.delete([task_id])


@pytest.mark.parametrize("ranks", [(0,), (0, 1)])
def test_a_running_task_is_canceled_between_two_sweeps(client, ranks):
    [task_id] = client._submit([long_task()], [ranks])
    wait_until(lambda: client.status([task_id])[0].state == TaskState.RUNNING, SOON, "the task does not run")
    time.sleep(0.3)  # so that it is most likely among its sweeps; the outcome is the same if it is not
    client.cancel([task_id])
    [record] = client.read_cq(timeout_s=SOON)
    assert record.state == TaskState.CANCELED
    assert client.describe()["generation"] == 1
    assert client.sync_run(bell(seed=1), timeout_s=SOON).shots == 100


@pytest.mark.parametrize("ranks", [(1,), (0, 1)])
def test_a_time_limit_ends_a_task_and_nothing_else(client, ranks):
    ids = client._submit([long_task(time_limit_s=0.5), bell(seed=3)], [ranks, (0,)])
    limited, other = client.read_cq(task_ids=ids, timeout_s=SOON)
    assert (limited.state, other.state) == (TaskState.FAILED, TaskState.DONE)
    assert limited.error.code == TimedOutError.code
    assert "time limit" in limited.error.message
    assert client.describe()["generation"] == 1
    with pytest.raises(InvalidArgumentError, match="time_limit_s"):
        client.async_run(bell(time_limit_s=0.0))


def test_a_full_queue_makes_clients_wait(tmp_path, monkeypatch):
    monkeypatch.setenv("QSIMENV_TEST_QUEUED", "10")
    with environment(tmp_path) as made, made.connect() as client:
        with pytest.raises(InvalidArgumentError, match="10 can be queued"):
            client.async_run([bell()] * 11)
        blockers = client._submit([long_task(), long_task()], [(0,), (1,)])
        client.async_run([bell(seed=seed) for seed in range(8)])
        more: list[str] = []
        submitting = threading.Thread(target=lambda: more.extend(client.async_run([bell(seed=9)])))
        submitting.start()
        submitting.join(0.5)
        assert submitting.is_alive()
        assert client.telemetry()["tasks_accepted"] == 10
        client.cancel(blockers)
        submitting.join(SOON)
        assert client.read_cq(task_ids=more, timeout_s=SOON)[0].state == TaskState.DONE


def test_a_full_disk_refuses_what_is_new_and_passes(fresh):
    """RLIMIT_FSIZE stands in for the disk: the journal's writes fail until it is lifted."""
    controller = psutil.Process(fresh.process.pid)
    with fresh.connect() as client:
        running = client.async_run([bell(seed=seed) for seed in range(5)])
        client.read_cq(timeout_s=SOON)
        _, hard = controller.rlimit(resource.RLIMIT_FSIZE)
        controller.rlimit(resource.RLIMIT_FSIZE, (1, hard))
        with pytest.raises(QSimEnvError, match=r"journal.*cannot be written.*make room"):
            client.async_run(long_task())  # a rank has begun with it
        with pytest.raises(QSimEnvError, match=r"journal.*cannot be written.*make room"):
            client.async_run([bell(seed=seed) for seed in range(3)])
        wait_until(lambda: client.telemetry()["ranks"]["free"] == 2, SOON, "what was refused still runs")
        assert client.telemetry()["tasks"]["RUNNING"] == 0
        assert client.telemetry()["tasks_accepted"] >= 5
        assert client.peek_cq() == []
        assert client.read_cq(task_ids=running, timeout_s=SOON)[0].state == TaskState.DONE
        controller.rlimit(resource.RLIMIT_FSIZE, (hard, hard))
        client.async_run([bell(seed=seed) for seed in range(3)])
        assert {record.state for record in client.read_cq(count=3, timeout_s=SOON)} == {TaskState.DONE}


def test_a_rank_without_memory_says_so_and_goes_on(fresh):
    with fresh.connect() as client:
        everybody = [(0,), (1,), (0, 1)]
        tasks = [bell(seed=1) for _ in everybody]  # so that the memory need not do for the compiler
        client.read_cq(task_ids=client._submit(tasks, everybody), timeout_s=2 * SOON)
        for worker in fresh.workers:
            worker.rlimit(resource.RLIMIT_AS, (worker.memory_info().vms + (64 << 20), resource.RLIM_INFINITY))
        for ranks in ((0,), (0, 1)):
            [task_id] = client._submit([Task(circuit=Circuit(25, 0, (gate("h", 0),)), observables=zz(25))], [ranks])
            [record] = client.read_cq(task_ids=[task_id], timeout_s=SOON)
            assert record.state == TaskState.FAILED
            assert record.error.code == -2, record.error
        assert client.sync_run(bell(seed=1), timeout_s=SOON).shots == 100
        assert client.describe()["generation"] == 1


def zz(num_qubits: int):
    from qsimenv.task import observable

    return (observable("Z" * num_qubits),)
