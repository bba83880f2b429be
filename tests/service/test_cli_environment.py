"""The command line and Qiskit on a real environment, which the commands start and all tests of the file use."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister, qasm3, qpy
from qiskit.circuit.classical import expr
from qiskit.primitives import BackendSamplerV2
from qiskit.providers import JobStatus

from qsimenv import load_state
from qsimenv.qiskit import QSimBackend
from qsimenv.qpm_plugin.client import connect
from qsimenv.qpm_plugin.connection import FILE_NAME
from tests.processes import processes_of, words_of
from tests.support import (
    BELL,
    COMMAND,
    EXAMPLES,
    QASM2,
    ROOT,
    long_program,
    qsimenv,
    refused,
    run_and_end,
    run_folder,
    skip_without_prte,
    wait_until,
)

pytestmark = [pytest.mark.environment, pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass
class Running:
    """The environment that runs: its folder, and the environment variables by which it is found."""

    folder: Path

    @property
    def connection(self) -> Path:
        return self.folder / FILE_NAME

    def __call__(self, *arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
        return qsimenv(*arguments, QSIMENV_RUN_FOLDER=str(self.folder), **environ)

    def json(self, *arguments: object) -> Any:
        done = self(*arguments, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Started and stopped by the commands, in a folder that has a file of somebody else's."""
    skip_without_prte()
    with run_folder(tmp_path_factory.mktemp("environment")) as folder:
        folder.mkdir()
        (folder / "precious").write_text("keep me")
        made = Running(folder)
        device = made.json("start", "--ranks-per-node", 2)["device"]
        assert (device["ready"], device["ranks"]) == (True, 2)
        try:
            yield made
        finally:
            done = made("stop")
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "the environment is stopped\n")
            refused(made("stop"), "no environment is running")
            assert [entry.name for entry in folder.iterdir()] == ["precious"]


def test_status(running: Running) -> None:
    shown = running.json("status")
    assert shown["device"]["name"] == "default"
    assert shown["telemetry"]["ranks"]["total"] == 2
    done = running("status")
    assert (done.returncode, done.stderr) == (0, "")
    words = [str(running.connection), *(str(worker["pid"]) for worker in shown["device"]["workers"])]
    assert all(word in done.stdout for word in (*words, "default is IDLE", "none yet", "controller.log"))


def test_second_start_of_the_same_name(running: Running) -> None:
    refused(running("start"), "environment 'default' is already running; stop it first, or give another --name")
    assert running.json("status")["device"]["ready"]


def test_submit_then_results(running: Running) -> None:
    """In processes of their own, in the order asked for; a result stays until it is deleted."""
    done = running("submit", EXAMPLES / "ghz.qasm", EXAMPLES / "adder.qasm", "--shots", 50)
    ids = done.stdout.split()
    assert (done.returncode, len(ids)) == (0, 2)
    tasks = running.json("results", *reversed(ids))["tasks"]
    assert [task["task_id"] for task in tasks] == ids[::-1]
    assert [task["state"] for task in tasks] == ["DONE", "DONE"]
    assert tasks[0]["result"]["counts"] == {"10001": 50}
    assert sum(tasks[1]["result"]["counts"].values()) == 50
    assert running("results", ids[0], "--delete").returncode == 0
    refused(running("results", ids[0]), "is not known")


def test_a_state_is_saved_by_the_ranks_and_fetched_by_the_client(running: Running, tmp_path: Path) -> None:
    sharded, fetched = tmp_path / "state.h5", tmp_path / "state.npy"
    bell = tmp_path / "bell.qasm"
    bell.write_text(f"{QASM2}qreg q[2];\nh q[0];\ncx q[0], q[1];\n")
    ids = running.json("submit", bell, "--save", sharded, "-o", "ZZ", "--key", "once")["task_ids"]
    assert running.json("submit", bell, "--save", sharded, "-o", "ZZ", "--key", "once")["task_ids"] == ids
    [told] = running.json("results", *ids, "--delete")["tasks"]
    assert (told["state"], told["result"]["expectation_values"]) == ("DONE", pytest.approx([1]))
    assert running("run", "-e", bell, "--save", fetched).returncode == 0
    wanted = pytest.approx([0.5**0.5, 0, 0, 0.5**0.5])
    assert [abs(amplitude) for amplitude in load_state(sharded)] == wanted
    assert [abs(amplitude) for amplitude in np.load(fetched)] == wanted


def test_submit_and_wait(running: Running) -> None:
    tasks = running.json("submit", BELL, BELL, "--wait", "-o", "ZZ", "-o", "XX")["tasks"]
    assert [task["result"]["expectation_values"] for task in tasks] == [pytest.approx([1, 1])] * 2
    ids = running.json("submit", BELL, "-o", "ZZ")["task_ids"]
    assert "observable 1 = +1" in running("results", *ids).stdout
    done = running("submit", BELL, EXAMPLES / "adder.qasm", "--wait", "--seed", 7)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(
        r"adder.qasm  DONE on rank \d: queued .*s, ran .*s\noutcome +count +share\n10001 +1024", done.stdout
    )
    here = json.loads(qsimenv("run", BELL, "--seed", 7, "--json").stdout)["counts"]
    assert running.json("run", BELL, "-e", "--seed", 7)["counts"] == here


def test_failed_task_is_exit_code_1(running: Running, tmp_path: Path) -> None:
    words = ClassicalRegister(2, "words")
    circuit = QuantumCircuit(QuantumRegister(2), words)
    circuit.measure([0, 1], words)
    with circuit.if_test(expr.equal(expr.div(3, words), 1)):  # words are zero: nobody can know before it runs
        circuit.x(0)
    program = tmp_path / "division.qpy"
    with program.open("wb") as file:
        qpy.dump(circuit, file)
    done = running("submit", program, BELL, "--wait")
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search(r"division.qpy  FAILED on rank \d: .*: .*divides by zero\n", done.stdout)
    assert re.search(r"bell.qasm  DONE on rank \d: ", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("results", "no-such-task"), "task 'no-such-task' is not known"),
        (("submit", "{files}/wide"), "40 qubits .* need 16 TiB"),
        (("submit", BELL, "{files}/unwritten"), "register 'd' is never written"),
        (("submit", BELL, "--engine", "abacus"), "engine: 'abacus' found"),
        (("submit", BELL, "--shots", "0"), "shots: 0 found"),
        (("run", "-e", BELL, "--shots", str(1 << 31)), "64 MiB travel through the service; ask for fewer"),
        (("run", "-e", BELL, "--save", "{files}"), "it is a folder"),
        (("submit", BELL, BELL, "--save", "{files}/state.h5"), "2 circuits found for one file"),
        (("submit", BELL, "--save", "{files}/state.npy"), "an .h5 file needed"),
    ],
)
def test_bad_input_to_the_environment(
    running: Running, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    (tmp_path / "wide").write_text(f"{QASM2}qreg q[40];\ncreg c[40];\nh q;\nmeasure q -> c;\n")
    (tmp_path / "unwritten").write_text(f"{QASM2}qreg q[2];\ncreg c[2];\ncreg d[1];\nmeasure q -> c;\n")
    accepted = running.json("status")["telemetry"]["tasks_accepted"]
    refused(running(*(str(word).format(files=tmp_path) for word in arguments)), message)
    assert running.json("status")["telemetry"]["tasks_accepted"] == accepted


def changed(connection: Path, folder: Path, mode: int = 0o600, **keys: str) -> str:
    """The path of a copy of the connection file with other values."""
    path = folder / "copy.json"
    path.write_text(json.dumps(json.loads(connection.read_text()) | keys))
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("command", ["status", "submit", "results"])
def test_connection_file_with_a_wrong_key(running: Running, tmp_path: Path, command: str) -> None:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    argument = {"status": (), "submit": (BELL,), "results": ("abc-1",)}[command]
    for keys in ({"server_key": public}, {"client_key": public, "client_secret": secret}):
        path = changed(running.connection, tmp_path, **keys)
        refused(qsimenv(command, *argument, QSIMENV_CONNECTION=path), "refuses the key of this connection file")


def test_unusable_connection_files(running: Running, tmp_path: Path) -> None:
    def asked(path: Path | str) -> subprocess.CompletedProcess[str]:
        return qsimenv("status", QSIMENV_CONNECTION=str(path))

    refused(asked(changed(running.connection, tmp_path, mode=0o644)), "mode 0644, so others can read its keys")
    refused(asked(changed(running.connection, tmp_path, server_key="short")), "not a connection file .*server_key")
    refused(asked(changed(running.connection, tmp_path, address="somewhere")), "not a connection file .*address")
    refused(asked(changed(running.connection, tmp_path, address="tcp://127.0.0.1:1")), "nobody answers at .*:1 ")
    refused(asked(tmp_path), "cannot be read")
    refused(asked(tmp_path / "none"), "there is no connection file")
    garbage = tmp_path / "garbage"
    for data in (b"", b"garbage", b"\xff\x00", b"[1, 2]"):
        garbage.write_bytes(data)
        garbage.chmod(0o600)
        refused(asked(garbage), "is not a connection file")


def test_whoever_stops_waiting_hears_the_ids(running: Running, tmp_path: Path) -> None:
    program = tmp_path / "long.qasm"
    program.write_text(long_program(20, 20))
    environ = os.environ | {"QSIMENV_RUN_FOLDER": str(running.folder)}
    with connect(running.connection) as qpm:
        others = qpm.telemetry()["requests"]
        process = subprocess.Popen(
            [*COMMAND, "submit", *[program] * 40, "--wait"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        )

        def waits() -> bool:
            """Its third request is the read: it has come, it has submitted, and it knows the ids."""
            nonlocal others
            others += 1  # this one
            return bool(qpm.telemetry()["requests"] - others >= 3)

        wait_until(waits, 60, "it does not wait for its tasks")
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=60)
        assert process.returncode == 130
        told = re.search(r"the tasks go on; fetch them with: qsimenv results (.*)\n", words)
        assert told, words
        ids = told[1].split()
        assert len(ids) == 40
        qpm.cancel(ids)
    done = running("results", ids[-1], "--timeout", 60)
    assert done.returncode == 1
    assert "CANCELED" in done.stdout


# --- the Qiskit backend on it ---


@pytest.fixture
def backend(running: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[QSimBackend]:
    monkeypatch.setenv("QSIMENV_RUN_FOLDER", str(running.folder))
    made = QSimBackend()
    yield made
    made._provider_of_runs.close()


def prepared(number: int, width: int = 3) -> QuantumCircuit:
    circuit = QuantumCircuit(width)
    for qubit in range(width):
        if number >> qubit & 1:
            circuit.x(qubit)
    circuit.measure_all()
    return circuit


def test_backend_finds_the_environment(running: Running, backend: QSimBackend) -> None:
    widths = running.json("status")["device"]["num_qubits"]
    assert backend.num_qubits == widths["double"]
    assert repr(backend) == f"<QSimBackend on environment 'default', {widths['double']} qubits>"
    assert repr(QSimBackend("local")).startswith("<QSimBackend in this process, ")


def test_backend_runs_many_circuits_in_one_request(
    running: Running, backend: QSimBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = backend._provider_of_runs
    requests = []
    monkeypatch.setattr(provider, "async_run", lambda tasks, send=provider.async_run: requests.append(1) or send(tasks))
    job = backend.run([prepared(number) for number in range(8)], shots=20)
    assert requests == [1]
    assert job.result().get_counts() == [{f"{number:03b}": 20} for number in range(8)]
    assert job.status() is JobStatus.DONE
    assert {record.state.name for record in job.records()} == {"DONE"}


def test_backend_cancels(running: Running, backend: QSimBackend) -> None:
    circuit = qasm3.loads(long_program(20, 20))
    job = backend.run([circuit] * 40, shots=10)
    assert job.status() in (JobStatus.QUEUED, JobStatus.RUNNING)
    assert job.cancel()
    result = job.result(timeout=120)
    assert job.status() is JobStatus.CANCELLED
    assert not result.success
    assert not job.cancel()


def test_sampler_over_the_environment(running: Running, backend: QSimBackend) -> None:
    sampler = BackendSamplerV2(backend=backend, options={"seed_simulator": 3})
    results = sampler.run([prepared(5), prepared(2)], shots=30).result()
    assert [result.data.meas.get_counts() for result in results] == [{"101": 30}, {"010": 30}]


def test_examples_in_python(running: Running) -> None:
    for name in ("qpm_client", "qiskit_application"):
        command = [sys.executable, str(ROOT / "examples" / f"{name}.py")]
        done = run_and_end(command, 60, {"QSIMENV_CONNECTION": str(running.connection)})
        assert (done.returncode, done.stderr) == (0, "")
        assert "default" in done.stdout


# --- stopping ---


def test_stop_goes_by_the_connection_file(folder: Path, tmp_path: Path) -> None:
    """As the other commands do; and with no patience it leaves nothing either."""
    skip_without_prte()
    other = tmp_path / "other"
    refused(qsimenv("stop", QSIMENV_CONNECTION=str(other / FILE_NAME)), f"no environment is running in {other}")
    assert qsimenv("start", "--ranks-per-node", 1).returncode == 0
    path = {"QSIMENV_RUN_FOLDER": str(other), "QSIMENV_CONNECTION": str(folder / FILE_NAME)}
    done = qsimenv("stop", "--timeout", 0, **path)
    assert (done.returncode, done.stderr) == (0, "the environment is stopped\n")
    assert not folder.exists()


def test_stop_clears_up_after_an_environment_that_was_killed(folder: Path) -> None:
    skip_without_prte()
    assert qsimenv("start", "--ranks-per-node", 1).returncode == 0
    keepers = [process for process in processes_of(folder) if "qsimenv.launcher.keeper" in words_of(process)]
    assert keepers
    for keeper in keepers:  # a controller alone it would start again
        keeper.kill()
    wait_until(lambda: qsimenv("status").returncode == 2, 60, "the controller lives")
    done = qsimenv("stop")
    assert (done.returncode, done.stderr) == (0, "the environment is stopped\n")
    wait_until(lambda: not processes_of(folder), 60, "something of it still runs")
    assert not folder.exists()
    refused(qsimenv("stop"), "no environment is running")
