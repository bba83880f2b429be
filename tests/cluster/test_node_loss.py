"""Nodes that are lost while a batch runs: the environment goes on with what is left, and every task ends once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import qsimenv as qs
from tests.cluster import cluster as mini
from tests.cluster.cluster import LOGIN, Cluster, wait_until
from tests.cluster.test_jobs import tangled_program
from tests.processes import family_of, kill_all, name_of
from tests.support import ENGINES

pytestmark = [pytest.mark.environment, pytest.mark.slow, pytest.mark.timeout(600)]

NUMBER = 500
CIRCUIT = tangled_program(14, 4)
BATCH = f"""
import json, sys, time
from pathlib import Path
import qsimenv as qs
from qsimenv.errors import QSimEnvError
from qsimenv.circuit import Circuit
from qsimenv.qpm_plugin import connect
from qsimenv.task import Observable
folder, events = Path(sys.argv[1]), []
circuit = qs.load(folder / "batch.qasm")
with connect(timeout_s=60) as qpm:
    qpm.register_event_notification(lambda event: events.append([event.kind, event.details]), ["instance-up"])
    before = qpm.describe()
    num_qubits = before["num_qubits"]["double"]
    widest = qs.Task(Circuit(num_qubits, 0, ()), observables=[Observable((("Z" * num_qubits, 1.0),))])
    assert qpm.evaluate(widest).ranks == 4
    hold = qs.Task(Circuit(1, 0, ()), save="statevector", engine="test", name=f"hold {{folder}}/let go")
    held = qpm.async_run(hold)  # so that something runs whenever a node is lost, and the batch does not end before
    ids = qpm.async_run([qs.Task(circuit, shots=1000, seed=seed) for seed in range({NUMBER})])
    while (done := qpm.telemetry()["tasks"]["DONE"]) < {NUMBER} + 1:
        (folder / "seen.new").write_text(json.dumps(dict(done=done, instances=1 + len(events))))
        (folder / "seen.new").rename(folder / "seen")
        time.sleep(0.05)
    records, [last] = qpm.read_cq(task_ids=ids), qpm.read_cq(task_ids=held)
    try:
        qpm.evaluate(widest)
        refused = ""
    except QSimEnvError as error:
        refused = error.message
    print(json.dumps(dict(
        ids=ids, before=before, after=qpm.describe(), events=events, refused=refused,
        held=[last.state.name, last.attempts, last.interruption],
        records=[[r.task_id, r.state.name, r.result.counts, r.attempts, r.interruption] for r in records],
    )))
"""
SERVE = """
trap 'qsimenv stop' EXIT
qsimenv start --timeout 120 --ranks-per-node 2 "${@:3}" >&2 || exit
python -c "$2" "$1" || exit
qsimenv status >&2
"""
PROFILE = f"""
description = "the mini-cluster without Slurm"
network = "{mini.NETWORK}"
ssh_agent = "{mini.AGENT}"
"""


@pytest.fixture
def run_folder(tmp_path: Path, compiled: None) -> Iterator[Path]:
    """Must be gone at the end."""
    yield tmp_path / "run"
    assert not (tmp_path / "run").exists()


def kill_daemon(cluster: Cluster, host: str) -> None:
    """SIGKILL the DVM's daemon on a host; it has two processes."""
    daemons = [pid for pid in cluster.pids(host) if name_of(pid) == "prted"]
    assert daemons
    kill_all(daemons)


def has_done(folder: Path, tasks: int, instance: int) -> bool:
    """Whether the client has seen so many tasks done, and the instance of that number up."""
    if not (folder / "seen").exists():
        return False
    seen = json.loads((folder / "seen").read_text())
    return bool(seen["done"] >= tasks and seen["instances"] >= instance)


def lose(cluster: Cluster, folder: Path, run_folder: Path, world: str) -> tuple[dict[str, Any], str]:
    """Run the batch; after a fifth of it node2's daemon is killed, and as it goes on node3 is cut off.

    What the client saw, and the status at the end.
    """
    (folder / "site.toml").write_text(PROFILE)
    (folder / "batch.qasm").write_text(CIRCUIT)
    serve = ("bash", "-c", SERVE, "serve", folder, BATCH)
    if world == "slurm":
        command = (LOGIN, "salloc", "--quiet", "--no-kill", "--partition=quantum", "--nodes=2", "--exclusive", *serve)
    else:
        command = ("node1", *serve, "--hosts", "node2:2,node3:2", "--profile", folder / "site.toml")
    process = cluster.popen(*command, QSIMENV_RUN_FOLDER=str(run_folder), PYTHONPATH=str(ENGINES))

    def wait_for(tasks: int, instance: int) -> None:
        def is_there() -> bool:
            assert process.poll() is None, process.communicate()
            return has_done(folder, tasks, instance)

        wait_until(is_there, 180, lambda: f"not there: {tasks} tasks done, instance {instance} up")

    try:
        wait_for(NUMBER // 5, instance=1)
        kill_daemon(cluster, "node2")
        wait_for(NUMBER // 5, instance=2)
        cluster.cut("node3")
        wait_for(NUMBER // 5, instance=3)
        (folder / "let go").touch()
        out, err = process.communicate(timeout=240)
    except BaseException:
        kill_all([*family_of(process.pid), process.pid])
        raise
    finally:
        cluster.mend("node3")
        # nobody could tidy up there while the cable was out
        cluster.run("node3", "sh", "-c", "rm -rf /tmp/prted.* /dev/shm/sm_segment.*")
    assert process.returncode == 0, (out, err)
    return json.loads(out), err


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, int]]:
    """What the tasks of the batch give, by seed."""
    path = tmp_path_factory.mktemp("batch") / "batch.qasm"
    path.write_text(CIRCUIT)
    circuit = qs.load(path)
    return [qs.run(circuit, shots=1000, seed=seed).counts for seed in range(NUMBER)]


@pytest.mark.parametrize("world", ["ssh", "slurm"])
def test_a_batch_survives_a_killed_daemon_and_a_cut_link(
    world: str, cluster: Cluster, run_folder: Path, tmp_path: Path, expected: list[dict[str, int]]
) -> None:
    """A node whose daemon was killed answers again and stays; one that is cut off is left out, and said to be lost."""
    seen, status = lose(cluster, tmp_path, run_folder, world)
    assert [record[0] for record in seen["records"]] == seen["ids"]
    assert {record[1] for record in seen["records"]} == {"DONE"}
    assert [record[2] for record in seen["records"]] == expected
    assert seen["held"][:2] == ["DONE", 3], "it was running when each node was lost"
    assert seen["held"][2]
    assert all(record[4] for record in seen["records"] if record[3] > 1)

    assert seen["before"]["ranks"] == 4
    assert seen["events"] == [
        ["instance-up", {"generation": 2, "ranks": 4, "lost": []}],
        ["instance-up", {"generation": 3, "ranks": 2, "lost": ["node3"]}],
    ]
    assert (seen["after"]["ranks"], seen["after"]["launcher"]["lost"]) == (2, ["node3"])
    assert "lost         node3" in status, status
    assert seen["refused"], "what took all ranks and their memory fits no more"
