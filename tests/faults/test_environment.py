"""The life of an environment, and its death by every kill that can be done here. Real PRTE, real workers."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

import qsimenv as qs
from qsimenv.circuit import Circuit, Measure, Register, gate
from qsimenv.errors import BadStateError, NotFoundError, QSimEnvError
from qsimenv.launcher import environment
from qsimenv.qpm_plugin import TaskState
from qsimenv.qpm_plugin.client import Client, connect
from qsimenv.qpm_plugin.connection import FILE_NAME
from qsimenv.qpm_plugin.journal import FILE_NAME as JOURNAL_NAME
from qsimenv.qpm_plugin.journal import results_folder
from tests.processes import family_of, name_of, processes_of
from tests.support import COMMAND, ENGINES, Hold, wait_until

pytestmark = [pytest.mark.environment, pytest.mark.slow, pytest.mark.timeout(300)]
SOON_S = 60.0


def ghz(num_qubits: int) -> Circuit:
    gates = [gate("h", 0), *(gate("cx", qubit, qubit + 1) for qubit in range(num_qubits - 1))]
    measures = [Measure(qubit, qubit) for qubit in range(num_qubits)]
    return Circuit(num_qubits, num_qubits, (*gates, *measures), (Register("c", tuple(range(num_qubits))),))


def quiet_counts(num_qubits: int, seed: int) -> dict[str, int]:
    """What the task must give, from a run in this process."""
    counts: dict[str, int] = qs.run(ghz(num_qubits), shots=100, seed=seed).counts
    return counts


def end(folder: Path) -> None:
    environment.stop()
    assert not folder.exists()


def worker_pids(qpm: Client) -> list[int]:
    return [worker["pid"] for worker in qpm.describe()["workers"]]


def test_start_run_stop(folder: Path, kind: str) -> None:
    connection = environment.start(ranks_per_node=2)
    assert (folder / FILE_NAME).stat().st_mode & 0o777 == 0o600
    with connect() as qpm:
        facts = qpm.describe()
        assert facts["launcher"]["kind"] == kind
        assert facts["ranks"] == len(facts["workers"]) == 2
        assert facts["controller"]["pid"] == connection.pid
        assert qpm.sync_run(qs.Task(ghz(3), shots=100, seed=7)).counts == quiet_counts(3, 7)
    with pytest.raises(BadStateError, match="already running"):
        environment.start()
    end(folder)
    with pytest.raises(NotFoundError):
        environment.stop()


def test_stop_with_drain_finishes_what_was_accepted(folder: Path) -> None:
    environment.start(ranks_per_node=2)
    with connect() as qpm:
        ids = qpm.async_run([qs.Task(ghz(18), shots=100, seed=seed) for seed in range(20)])
        stopping = subprocess.Popen([*COMMAND, "stop", "--drain"])
        records = qpm.read_cq(task_ids=ids, timeout_s=60)
    assert [record.state for record in records] == [TaskState.DONE] * 20
    assert stopping.wait(60) == 0
    assert not folder.exists()


def test_a_drain_that_takes_too_long_leaves_the_rest_to_the_next_start(
    folder: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ENGINES))
    environment.start(ranks_per_node=2)
    with connect(client_id="us") as qpm:
        held = qs.Task(Circuit(1, 0, ()), save="statevector", engine="test", name=hold.name)
        ids = qpm.async_run([held, held, *(qs.Task(ghz(20), shots=100, seed=seed) for seed in range(200))])
    command = [*COMMAND, "stop", "--drain", "--within", "0"]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert stopped.returncode != 0
    assert "tasks had not ended after 0 s" in stopped.stderr
    assert not environment.is_running(folder)
    hold.let_go()
    environment.start(ranks_per_node=2)
    with connect(client_id="us") as qpm:
        records = qpm.read_cq(task_ids=ids, timeout_s=120)
        assert [record.state for record in records] == [TaskState.DONE] * 202
        assert records[201].result is not None
        assert records[201].result.counts == quiet_counts(20, 199)
    end(folder)


def test_killed_worker(folder: Path, kind: str, hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    """The instance is started again, and every task ends with the counts of a quiet system."""
    monkeypatch.setenv("PYTHONPATH", str(ENGINES))
    environment.start(ranks_per_node=2)
    with connect() as qpm:
        held = qpm.async_run(qs.Task(Circuit(1, 0, ()), save="statevector", engine="test", name=hold.name))
        ids = qpm.async_run([qs.Task(ghz(20), shots=100, seed=seed) for seed in range(40)])
        wait_until(lambda: qpm.status(ids[3:4])[0].state == TaskState.DONE, SOON_S, "no task was done")
        psutil.Process(worker_pids(qpm)[1]).kill()
        wait_until(lambda: qpm.describe()["generation"] == 2, SOON_S, "no new instance comes up")
        hold.let_go()
        records = qpm.read_cq(task_ids=ids, timeout_s=120)
        assert [record.state for record in records] == [TaskState.DONE] * 40
        [again] = qpm.read_cq(task_ids=held, timeout_s=120)
        assert (again.state, again.attempts) == (TaskState.DONE, 2)
    for seed, record in enumerate(records):
        assert record.result is not None
        assert record.result.counts == quiet_counts(20, seed)
    end(folder)


def everybody(qpm: Client) -> list[psutil.Process]:
    """The controller, all that it started, and the workers."""
    controller = psutil.Process(qpm.describe()["controller"]["pid"])
    return [controller, *family_of(controller), *map(psutil.Process, worker_pids(qpm))]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_killed_or_hung_controller(folder: Path, kind: str, how: signal.Signals) -> None:
    """It is started again; what was accepted still runs, what had ended can be read, and the client goes on."""
    if how == signal.SIGSTOP and kind == "prterun":
        pytest.skip("nothing in it depends on how workers are launched")
    environment.start(ranks_per_node=2)
    with connect() as qpm:
        early = qpm.async_run([qs.Task(ghz(3), shots=100, seed=seed) for seed in range(10)])
        qpm.read_cq(task_ids=early[:5], timeout_s=SOON_S)
        ids = qpm.async_run([qs.Task(ghz(20), shots=100, seed=seed) for seed in range(20)])
        family = everybody(qpm)
        family[0].send_signal(how)
        records = qpm.read_cq(task_ids=ids, timeout_s=120)
        assert [record.state for record in records] == [TaskState.DONE] * 20
        for seed, record in enumerate(records):
            assert record.result is not None
            assert record.result.counts == quiet_counts(20, seed)
        assert [record.task_id for record in qpm.read_cq(timeout_s=SOON_S)] == early[5:]
        assert qpm.describe()["controller"]["pid"] != family[0].pid
    assert not psutil.wait_procs(family, timeout=SOON_S)[1]
    end(folder)


def test_killed_keeper(folder: Path) -> None:
    """All of it is gone soon, and a start goes on from what was there."""
    environment.start(ranks_per_node=2)
    with connect() as qpm:
        ids = qpm.async_run([qs.Task(ghz(20), shots=100, seed=seed) for seed in range(20)])
        family = everybody(qpm)
    psutil.Process(int((folder / "lock").read_text(encoding="ascii"))).kill()
    assert not psutil.wait_procs(family, timeout=SOON_S)[1]
    environment.start(ranks_per_node=2)
    with connect() as qpm:
        records = qpm.read_cq(task_ids=ids, timeout_s=120)
        assert [record.state for record in records] == [TaskState.DONE] * 20
    end(folder)


def test_what_is_kept_goes_on_with_the_next_start(folder: Path) -> None:
    environment.start(ranks_per_node=2)
    with connect(client_id="somebody") as qpm:
        ended = qpm.async_run([qs.Task(ghz(3), shots=100, seed=seed) for seed in range(3)], key="mine")
        qpm.read_cq(task_ids=ended[:1], timeout_s=SOON_S)
        ids = qpm.async_run([qs.Task(ghz(20), shots=100, seed=seed) for seed in range(30)])
    environment.stop(keep=True)
    journal = folder / JOURNAL_NAME
    assert {*folder.iterdir()} == {journal, results_folder(journal)}
    with pytest.raises(NotFoundError, match="goes on with the tasks"):
        environment.stop()
    environment.start(ranks_per_node=2, keep_results=1)
    with connect(client_id="somebody") as qpm:
        assert qpm.async_run([qs.Task(ghz(3), shots=100, seed=seed) for seed in range(3)], key="mine") == ended
        records = qpm.read_cq(count=32, timeout_s=120)
        assert [record.task_id for record in records] == [*ended[1:], *ids]
        assert {record.state for record in records} == {TaskState.DONE}
        [again] = qpm.read_cq(task_ids=ids[-1:], timeout_s=SOON_S)
        assert again.result is not None
        assert again.result.counts == quiet_counts(20, 29)
        with pytest.raises(NotFoundError):
            qpm.status(ids[:1])  # one of those that were read is kept
        qpm.delete(ids[-1:])
        with pytest.raises(NotFoundError):
            qpm.read_cq(task_ids=ids[-1:])
    end(folder)


def test_a_controller_that_is_to_end_is_not_started_again(folder: Path) -> None:
    """It is killed while it ends."""
    environment.start(ranks_per_node=2)
    with connect() as qpm:
        family = everybody(qpm)
    keeper = psutil.Process(int((folder / "lock").read_text(encoding="ascii")))
    family[0].suspend()
    keeper.terminate()
    time.sleep(0.2)  # so that the keeper has most likely heard before the controller dies; any order must do
    family[0].kill()
    assert not psutil.wait_procs([*family, keeper], timeout=SOON_S)[1]
    assert not processes_of(folder)


def launching_process(qpm: Client) -> psutil.Process:
    """The DVM, or the prterun that holds the workers where there is none."""
    controller = psutil.Process(qpm.describe()["controller"]["pid"])
    return next(process for process in family_of(controller) if name_of(process) in ("prte", "prterun"))


def test_killed_dvm(folder: Path, kind: str) -> None:
    """A new DVM is made, and what was accepted still runs."""
    environment.start(ranks_per_node=2)
    with connect() as qpm:
        ids = qpm.async_run([qs.Task(ghz(20), shots=100, seed=seed) for seed in range(20)])
        killed = launching_process(qpm)
        killed.kill()
        records = qpm.read_cq(task_ids=ids, timeout_s=120)
        assert [record.state for record in records] == [TaskState.DONE] * 20
        assert launching_process(qpm).pid != killed.pid
    end(folder)


def test_interrupted_start_leaves_nothing(folder: Path, kind: str) -> None:
    for delay_s in (0.3, 1.0):
        process = subprocess.Popen([*COMMAND, "start"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_until((folder / "lock").exists, SOON_S, "the environment's process did not begin")
        time.sleep(delay_s)  # somewhere in the middle, on purpose: that is what an interrupt is
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=60)
        if process.returncode == 0:  # it was ready before
            environment.stop()
        else:
            assert process.returncode == 130, words
            assert b"interrupted" in words
        assert not folder.exists()
        assert not processes_of(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hosts": "no-such-host-anywhere:2"}, "no-such-host"),
        ({"hosts": "a:0"}, "a:0"),
        ({"timeout_s": 0.05}, "in time|0.05 s"),
    ],
)
def test_failed_start_leaves_nothing(folder: Path, kind: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(QSimEnvError, match=message):
        environment.start(ranks_per_node=2, **options)  # type: ignore[arg-type]
    assert not folder.exists()
    assert not processes_of(folder)


def test_workers_that_cannot_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that die at once: start says so and leaves nothing."""
    monkeypatch.setattr("qsimenv.launcher.serving.WORKER_COMMAND", ("/bin/false",))
    script = (
        "from qsimenv.launcher import serving; import sys;"
        "serving.WORKER_COMMAND = ('/bin/false',); sys.exit(serving.main([*sys.argv[1:], str(serving.os.getppid())]))"
    )
    real = subprocess.Popen

    def with_false(command: list[str], **options: object) -> object:
        return real([command[0], "-c", script, *command[3:]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr("qsimenv.launcher.environment.subprocess.Popen", with_false)
    with pytest.raises(BadStateError, match="no instance of workers came up"):
        environment.start(ranks_per_node=2)
    monkeypatch.undo()
    assert not folder.exists()
