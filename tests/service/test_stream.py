"""Submissions that do not wait for each other: all accepted once, in order, also when the controller dies meanwhile."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from environments import Environment

from qsimenv.circuit import Circuit, Measure, gate
from qsimenv.errors import InvalidArgumentError
from qsimenv.launcher import environment
from qsimenv.qpm_plugin.client import Client, connect
from qsimenv.qpm_plugin.connection import FILE_NAME
from qsimenv.qpm_plugin.stream import WINDOW
from qsimenv.task import Task

pytestmark = pytest.mark.environment

SOON = 120.0


def coin(seed: int, number: int = 0) -> Task:
    circuit = Circuit(2, 2, (*[gate("x", 0)] * number, gate("h", 0), gate("cx", 0, 1), Measure(0, 0), Measure(1, 1)))
    return Task(circuit=circuit, shots=64, seed=seed)


def test_a_stream_accepts_every_task_once_and_in_order(client: Client) -> None:
    number = WINDOW + 100
    with client.stream() as stream:
        for seed in range(number):
            stream.submit([coin(seed), coin(seed)] if seed == 7 else coin(seed))
    ids = stream.finish()
    assert len(set(ids)) == number + 1
    records = client.read_cq(task_ids=ids, timeout_s=SOON)
    wanted = [seed for seed in range(number) for _ in range(2 if seed == 7 else 1)]
    assert [record.result.metadata["seed"] for record in records] == wanted
    assert client.sync_run(coin(3)).counts == records[3].result.counts


def test_a_refusal_is_told_and_takes_only_its_own_task(client: Client) -> None:
    unmeasured = Task(circuit=Circuit(1, 0, ()), shots=10)
    with client.stream() as stream:
        for task in (coin(0), unmeasured, coin(1)):
            stream.submit(task)
        with pytest.raises(InvalidArgumentError, match="no measurement"):
            stream.finish()
    assert len(client.read_cq(task_ids=stream.finish(), timeout_s=SOON)) == 2


def test_circuits_that_the_controller_forgot_are_sent_again(client: Client, shared: Environment) -> None:
    with client.stream() as stream, shared.connect() as other:
        stream.submit(coin(0, number=2))
        stream.finish()
        other.delete_circuit(coin(0, number=2).circuit.hash)
        stream.submit(coin(1, number=2))
    assert len(client.read_cq(task_ids=stream.finish(), timeout_s=SOON)) == 2


@pytest.mark.slow
def test_a_stream_goes_on_with_the_next_controller(folder: Path) -> None:
    environment.start("stream", run_folder=folder, ranks_per_node=2)
    try:
        with connect(folder / FILE_NAME) as client, client.stream() as stream:
            for seed in range(2 * WINDOW):
                stream.submit(coin(seed))
                if seed == WINDOW // 2:
                    psutil.Process(client.describe()["controller"]["pid"]).kill()
            ids = stream.finish()
            records = client.read_cq(task_ids=ids, timeout_s=SOON)
            assert [record.result.metadata["seed"] for record in records] == list(range(2 * WINDOW))
            assert len(client.status()) == 2 * WINDOW
    finally:
        environment.stop("stream", run_folder=folder)
