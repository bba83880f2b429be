"""Long circuits through the service: the controller has them looked into elsewhere and hears everybody meanwhile."""

from __future__ import annotations

import asyncio
import resource
import sys
import threading

import psutil
import pytest
from environments import Environment, wait_until

from qsimenv import run
from qsimenv.circuit import Circuit, gate
from qsimenv.errors import InvalidArgumentError, NotFoundError, OutOfMemoryError, QSimEnvError
from qsimenv.qpm_plugin import TaskState, appraiser
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.admission import Appraise, Finding
from qsimenv.qpm_plugin.sealed import OPENED_BYTES
from qsimenv.task import Task, observable
from tests.processes import words_of

pytestmark = pytest.mark.environment
SOON = 60.0


def long_circuit(seed: int = 0, num_qubits: int = 1) -> Circuit:
    circuit = Circuit(num_qubits, 0, tuple(gate("rx", 0, params=[0.1 + k + seed]) for k in range(3000)))
    assert len(circuit.bytes) > OPENED_BYTES
    return circuit


SHORT = Circuit(1, 0, ())


def played(circuit: Circuit, what: str = "") -> Task:
    """A task for the test engine; see ``engines/qsimenv_test_engine.py``."""
    return Task(circuit=circuit, save="statevector", engine="test", precision="single", name=what)


def appraisers(made: Environment) -> list[psutil.Process]:
    children = psutil.Process(made.process.pid).children(recursive=True)
    return [child for child in children if "qsimenv.qpm_plugin.appraiser" in words_of(child)]


def test_a_long_circuit_runs_as_a_short_one_does(client):
    tasks = [played(long_circuit()), played(SHORT), played(long_circuit(1)), played(long_circuit())]
    records = client.read_cq(task_ids=client.async_run(tasks), timeout_s=SOON)
    assert [record.state for record in records] == [TaskState.DONE] * 4
    counted = client.sync_run(Task(circuit=long_circuit(2), observables=(observable("Z"),)))
    assert counted.expectation_values == pytest.approx(run(long_circuit(2), observables=["Z"]).expectation_values)
    assert client.evaluate(played(long_circuit())) == client.evaluate(played(SHORT))
    name = client.create_circuit(long_circuit(3))
    client.delete_circuit(name)
    with pytest.raises(NotFoundError):
        client.delete_circuit(name)


def test_what_is_wrong_with_a_long_circuit_is_told(client):
    with pytest.raises(OutOfMemoryError, match="4 ranks are needed"):
        client.async_run([played(SHORT), played(long_circuit(num_qubits=3))])
    with pytest.raises(InvalidArgumentError, match="2 letters"):
        client.async_run(Task(circuit=long_circuit(), observables=(observable("ZZ"),)))
    with client._link() as link:
        data = bytes(OPENED_BYTES + 1)
        assert isinstance(reply := link.ask(m.CreateCircuit("no such thing", data)), m.Failed)
        assert "not a circuit" in reply.message
        assert isinstance(reply := link.ask(m.CreateCircuit("0" * 32, long_circuit().bytes)), m.Failed)
        assert "have the hash" in reply.message


def test_a_stream_sends_a_long_circuit_once(client):
    before = client.telemetry()["bytes"]["received"]
    circuit = long_circuit(4)
    with client.stream() as stream:
        for _ in range(20):
            stream.submit(played(circuit))
    records = client.read_cq(task_ids=stream.finish(), timeout_s=SOON)
    assert [record.state for record in records] == [TaskState.DONE] * 20
    assert client.telemetry()["bytes"]["received"] - before < 2 * len(circuit.bytes)


def test_what_comes_meanwhile_is_answered_before_a_long_circuit(fresh):
    with fresh.connect() as client, fresh.connect() as other:
        client.sync_run(played(long_circuit(1)))
        [process] = appraisers(fresh)
        process.suspend()
        ids: list[str] = []
        submitting = threading.Thread(target=lambda: ids.extend(client.async_run(played(long_circuit(2)))))
        received = other.telemetry()["bytes"]["received"]
        submitting.start()
        wait_until(lambda: other.telemetry()["bytes"]["received"] > received + OPENED_BYTES, SOON, "it has not come")
        for _ in range(100):
            assert other.sync_run(played(SHORT)).metadata["engine"] == "test"
        assert not ids
        assert submitting.is_alive()
        process.resume()
        submitting.join(SOON)
        assert client.read_cq(task_ids=ids, timeout_s=SOON)[0].state == TaskState.DONE


def test_an_appraiser_that_dies_is_replaced(fresh):
    with fresh.connect() as client:
        client.sync_run(played(long_circuit(1)))
        [process] = appraisers(fresh)
        process.kill()
        client.sync_run(played(long_circuit(2)))
        client.sync_run(played(long_circuit(1)))  # which the new one has never seen
        [process] = appraisers(fresh)
        client.shutdown()
    assert fresh.process.wait(SOON) == 0
    assert not psutil.wait_procs([process], timeout=SOON)[1]


def test_a_disk_that_is_full_refuses_long_circuits_and_passes(fresh):
    """RLIMIT_FSIZE stands in for the disk, as the appraiser sees it."""
    with fresh.connect() as client:
        client.sync_run(played(long_circuit(1)))
        [process] = appraisers(fresh)
        _, hard = process.rlimit(resource.RLIMIT_FSIZE)
        process.rlimit(resource.RLIMIT_FSIZE, (1, hard))
        with pytest.raises(QSimEnvError, match=r"submit: journal.*cannot be written.*make room"):
            client.async_run(played(long_circuit(2)))
        assert client.sync_run(played(SHORT)).metadata["engine"] == "test"
        assert client.telemetry()["tasks_accepted"] == 2
        process.rlimit(resource.RLIMIT_FSIZE, (hard, hard))
        [record] = client.read_cq(task_ids=client.async_run(played(long_circuit(2))), timeout_s=SOON)
        assert record.state == TaskState.DONE


def test_a_question_that_no_appraiser_survives_is_refused(monkeypatch):
    monkeypatch.setattr(appraiser, "COMMAND", (sys.executable, "-c", "import sys; sys.stdin.read(1)"))

    async def ask() -> list[Finding]:
        found, both = list[Finding](), asyncio.Event()
        asked = appraiser.Appraiser()
        for _ in range(2):
            asked.ask(Appraise((), {}, 1, 1), lambda finding: (found.append(finding), len(found) == 2 and both.set()))
        await asyncio.wait_for(both.wait(), SOON)
        await asked.close()
        return found

    for finding in asyncio.run(ask()):
        assert isinstance(finding, m.Failed)
        assert "died 2 times" in finding.message


def test_the_appraiser_ends_with_a_controller_that_is_killed(fresh):
    with fresh.connect() as client:
        client.sync_run(played(long_circuit()))
    [process] = appraisers(fresh)
    fresh.process.kill()
    assert not psutil.wait_procs([process], timeout=SOON)[1]
