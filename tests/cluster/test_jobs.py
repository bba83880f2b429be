"""The scripts of jobs/ on the mini-cluster: each ends COMPLETED with the right counts, and nothing of it is left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import qsimenv as qs
from tests.cluster.cluster import LOGIN, ROOT, Cluster, wait_until
from tests.processes import words_of
from tests.support import EXAMPLES, QASM3

pytestmark = [pytest.mark.environment, pytest.mark.slow, pytest.mark.timeout(900)]

JOBS = ROOT / "jobs"
SLOW_DAEMON = ROOT / "tests" / "cluster" / "slow_daemon"
SCRIPTS = sorted(JOBS.glob("*.sh"))
QUANTUM = "--partition=quantum"


@pytest.fixture
def work(tmp_path: Path, cluster: Cluster, compiled: None) -> Iterator[Path]:
    """A folder to submit from; only what jobs are meant to write may be in it afterwards."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name, target in ((".venv", Path(sys.prefix)), ("examples", EXAMPLES), ("jobs", JOBS)):
        (folder / name).symlink_to(target)
    yield folder
    cluster.cancel_all()
    cluster.assert_clean()
    meant = (".out", ".json", ".qasm", ".py", ".journal")
    left = {path.name for path in folder.iterdir() if path.suffix not in meant}
    assert left == {".venv", "examples", "jobs"}


def submit(cluster: Cluster, work: Path, script: str, *options: str, arguments: tuple[str, ...] = ()) -> int:
    return cluster.submit(f"--chdir={work}", *options, JOBS / script, *arguments)


def outputs(work: Path) -> str:
    return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(work.glob("*.out")))


def completed(cluster: Cluster, work: Path, number: int, timeout_s: float = 300) -> str:
    """Wait for a job; what it printed."""
    states = cluster.wait(number, timeout_s)
    assert set(states) == {"COMPLETED"}, f"{states}\n{cluster.job(number).text}\n{outputs(work)}"
    cluster.assert_clean()
    return outputs(work)


def expected(name: str) -> dict[str, int]:
    """What a run of an example on one rank gives."""
    counts: dict[str, int] = qs.run(EXAMPLES / f"{name}.qasm", shots=1000, seed=7).counts
    return counts


def result(work: Path, pattern: str) -> Any:
    (path,) = work.glob(pattern)
    return json.loads(path.read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_pass_shellcheck(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        if "shellcheck" in os.environ.get("QSIMENV_REQUIRE", ""):
            pytest.fail("there is no shellcheck")
        pytest.skip("there is no shellcheck (Debian: shellcheck)")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_slurm_takes_every_script(script: Path, cluster: Cluster) -> None:
    partition = [] if "hetjob" in script.read_text() else [QUANTUM]
    cluster.run(LOGIN, "sbatch", "--test-only", *partition, script)


def tangled_program(num_qubits: int, layers: int, times: int = 1) -> str:
    """Rotations, and a cx between far qubits in both directions: no order of the qubits keeps it local."""
    body = ""
    for layer in range(layers):
        body += "".join(f"ry({0.3 + 0.1 * layer}) q[{k}];\nrx(0.7) q[{k}];\n" for k in range(num_qubits))
        step = num_qubits // 2 - layer
        body += "".join(f"cx q[{k}], q[{(k + step) % num_qubits}];\n" for k in range(num_qubits))
    return f"{QASM3}qubit[{num_qubits}] q;\nbit[{num_qubits}] c;\n{body * times}c = measure q;\n"


def test_big_circuit(cluster: Cluster, work: Path) -> None:
    """2^26 amplitudes over 4 ranks on 2 hosts give the counts of one rank."""
    (work / "big.qasm").write_text(tangled_program(26, 4))
    completed(cluster, work, submit(cluster, work, "big-circuit.sh", QUANTUM, arguments=("big.qasm",)))
    answer = result(work, "result-*.json")
    assert answer["metadata"]["ranks"] == 4
    assert answer["metadata"]["bytes_exchanged"] > 0
    assert answer["counts"] == qs.run(work / "big.qasm", shots=1000, seed=7).counts


def test_parameter_scan(cluster: Cluster, work: Path) -> None:
    """Submitted again it runs what has no result, and nothing else."""
    completed(cluster, work, submit(cluster, work, "parameter-scan.sh", QUANTUM))
    files = [work / f"qsimenv-scan-theta={theta}.json" for theta in ("-0.4", "-0.3", "-0.2", "-0.1")]
    answers = [json.loads(file.read_text()) for file in files]
    energies = [answer["expectation_values"][0] for answer in answers]
    assert len(set(energies)) == 4
    assert min(energies) == energies[2] == pytest.approx(-1.857, abs=0.001)

    files[1].unlink()
    times = [file.stat().st_mtime_ns for file in files if file.exists()]
    completed(cluster, work, submit(cluster, work, "parameter-scan.sh", QUANTUM))
    assert [json.loads(file.read_text()) for file in files] == answers
    assert [file.stat().st_mtime_ns for file in files if file != files[1]] == times


def test_scaling(cluster: Cluster, work: Path) -> None:
    completed(cluster, work, submit(cluster, work, "scaling.sh", QUANTUM, "--export=ALL,REPEATS=1"))
    for ranks in (1, 2, 4):
        answer = result(work, f"scaling-*-{ranks}-1.json")
        assert (answer["counts"], answer["metadata"]["ranks"]) == (expected("ghz"), ranks)


def programs(cluster: Cluster, host: str) -> set[str]:
    """The names of the programs on a host, workers and runs by these names."""
    found = set()
    for pid in cluster.pids(host):
        words = words_of(pid)
        if "qsimenv.qpm_plugin.worker" in words:
            found.add("worker")
        elif [Path(word).name for word in words[1:3]] == ["qsimenv", "run"]:
            found.add("run")
        else:
            found.add(Path(words[0]).name if words else "")
    return found


def printed_without_a_service(application: str, work: Path) -> set[str]:
    """The lines of an example that runs in its own process, but for the first, which says so."""
    environ = {**os.environ, "QSIMENV_RUN_FOLDER": str(work / "none")}
    command = [sys.executable, EXAMPLES / application]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=120, check=True)
    lines = done.stdout.splitlines()[1:]
    assert any("GHZ: {'00000': " in line for line in lines), done.stdout
    return set(lines)


def test_heterogeneous(cluster: Cluster, work: Path) -> None:
    """The application's node has no daemon and no worker; all nodes of the other group have both. The application finds
    what it finds without a service."""
    number = submit(cluster, work, "heterogeneous.sh")
    seen: dict[str, set[str]] = {host: set() for host in cluster.hosts}

    def has_ended() -> bool:
        for host in cluster.hosts:
            seen[host] |= programs(cluster, host)
        return set(cluster.states(number)) <= {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}

    wait_until(has_ended, 300, lambda: outputs(work))
    out = completed(cluster, work, number)
    assert printed_without_a_service("qiskit_application.py", work) <= set(out.splitlines())
    assert "on node2, node3" in out
    assert not seen["node1"] & {"prted", "worker"}
    assert all(seen[host] >= {"prted", "worker"} for host in cluster.quantum)


ENDLESS = """
from pathlib import Path
import qsimenv as qs
from qsimenv.qpm_plugin import connect
with connect() as qpm:
    while True:
        tasks = [qs.Task(qs.load("examples/ghz.qasm"), shots=1000, seed=seed) for seed in range(50)]
        assert qpm.read_cq(task_ids=qpm.async_run(tasks), timeout_s=100)[-1].state.name == "DONE"
        Path("busy.out").write_text("busy")
"""


def busy_job(cluster: Cluster, work: Path, *options: str, application: str = ENDLESS) -> int:
    """A heterogeneous job whose application never ends, in the middle of its work."""
    (work / "mine.py").write_text(application)
    number = submit(cluster, work, "heterogeneous.sh", *options, arguments=("mine.py",))

    def works() -> bool:
        assert set(cluster.states(number)) <= {"PENDING", "CONFIGURING", "RUNNING"}, outputs(work)
        return (work / "busy.out").exists()

    wait_until(works, 240, lambda: outputs(work))
    assert all("worker" in programs(cluster, host) for host in cluster.quantum)
    return number


def test_many_circuits_after_scancel(cluster: Cluster, work: Path) -> None:
    number = busy_job(cluster, work)
    cluster.run(LOGIN, "scancel", number)
    assert set(cluster.wait(number)) == {"CANCELLED"}
    cluster.assert_clean()
    completed(cluster, work, submit(cluster, work, "many-circuits.sh", QUANTUM))
    records = result(work, "results-*.json")["tasks"]
    names = ["adder", "bell", "ghz", "qft", "teleport", "tfim"]
    assert [record["state"] for record in records] == ["DONE"] * 6
    assert [record["result"]["counts"] for record in records] == [expected(name) for name in names]


STEPS = """
import json, time
from pathlib import Path
import qsimenv as qs
from qsimenv.qpm_plugin import connect
circuit = qs.load("examples/ghz.qasm")
with connect() as qpm:
    for step in range(2):
        ids = qpm.async_run([qs.Task(circuit, shots=1000, seed=7 + k) for k in range(50)], key=f"step {step}")
        records = qpm.read_cq(task_ids=ids, timeout_s=100)
        seen = [[r.task_id, r.state.name, r.attempts, r.times.completion_time, r.result.counts] for r in records]
        Path(f"step-{step}.json").write_text(json.dumps(seen))
        if not Path("again.out").exists():
            Path("busy.out").write_text("busy")
            time.sleep(1000)
"""


def test_an_application_finds_what_an_interrupted_job_has_done(cluster: Cluster, work: Path) -> None:
    """A signal before the time limit; the second job answers the first step from the journal, and runs the second."""
    number = busy_job(cluster, work, application=STEPS)
    first = result(work, "step-0.json")
    cluster.run(LOGIN, "scancel", "--batch", "--signal=USR1", number)
    assert cluster.wait(number)[0] == "FAILED"
    assert cluster.job(number).exit_code == "75:0"
    assert "the time is nearly up" in outputs(work)
    cluster.assert_clean()

    (work / "again.out").write_text("")
    completed(cluster, work, submit(cluster, work, "heterogeneous.sh", arguments=("mine.py",)))
    assert not list(work.glob("*.journal")), "what is done needs no journal to go on from"
    assert result(work, "step-0.json") == first, "the same tasks, done when they were done, none twice"
    second = result(work, "step-1.json")
    assert [record[1:3] for record in second] == [["DONE", 1]] * 50
    assert not {record[0] for record in first} & {record[0] for record in second}
    assert first[0][4] == expected("ghz")


CONNECT = """
import subprocess, sys, time
from qsimenv.errors import QSimEnvError
from qsimenv.qpm_plugin import connect
while True:
    try:
        qpm = connect()
        break
    except QSimEnvError:
        if not subprocess.run(["squeue", "--noheader", "--jobs", sys.argv[1]], stdout=subprocess.PIPE).stdout:
            sys.exit("the job is over")
        time.sleep(0.2)
"""
HOLD = f"""{CONNECT}
while qpm.telemetry()["tasks"]["DONE"] < int(sys.argv[2]):
    time.sleep(0.01)
qpm.reserve(qpm.describe()["ranks"], 1e6)
"""
"""Waits until so many tasks are done, and then keeps all ranks from the others: what runs ends, nothing else begins."""
GO_ON = f"""{CONNECT}
for reservation in qpm.list_reservations():
    qpm.release(reservation.reservation_id)
"""
"""Reservations are in the journal, so that the next job finds them."""


DIFFERENT = 20


def write_circuits(work: Path, number: int) -> tuple[str, ...]:
    """So many files, of so few different circuits, quick to read and some milliseconds long."""
    for k in range(number):
        body = f"ry({0.3 + 0.01 * (k % DIFFERENT)}) q;\ncx q[0], q[9];\nrx(0.7) q;\nc = measure q;\n"
        (work / f"{k:04}.qasm").write_text(f"{QASM3}qubit[18] q;\nbit[18] c;\n{body}")
    return tuple(f"{k:04}.qasm" for k in range(number))


def hold_after(cluster: Cluster, work: Path, job: int, done: int) -> None:
    """Let the service of a job do so many tasks, and nothing more."""
    talk(cluster, work, job, HOLD, done)


def talk(cluster: Cluster, work: Path, job: int, script: str, *arguments: object) -> None:
    """Run a client of a job's service."""
    folder = str(work / f"qsimenv-{job}")
    cluster.run(LOGIN, "python", "-c", script, job, *arguments, timeout_s=300, QSIMENV_RUN_FOLDER=folder)


UNWARNED = "--signal=B:USR1@0"
"""Of a job whose time runs out: where Slurm looks once between what it is told and the end, it would warn, and the job
would end by itself."""


def let_time_run_out(cluster: Cluster, number: int) -> None:
    """The time limit of a running job comes now: Slurm ends it when it looks next, which is twice a minute.

    It takes no time that is over, and a second may end before it looks at what it was told. The job is ``UNWARNED``, or
    its script asks for no warning.
    """
    cluster.run(LOGIN, "scontrol", "update", f"JobId={number}", "EndTime=now+5seconds")


def test_a_job_that_hit_its_time_limit_goes_on_when_it_is_submitted_again(cluster: Cluster, work: Path) -> None:
    """Half of 2,000 circuits or more are done when the time is over; the second job runs the others, and none twice."""
    number = 2000
    files = write_circuits(work, number)
    first = submit(cluster, work, "many-circuits.sh", QUANTUM, UNWARNED, arguments=files)
    hold_after(cluster, work, first, number // 2)
    let_time_run_out(cluster, first)
    assert cluster.wait(first) == ["TIMEOUT"], outputs(work)
    cluster.assert_clean()
    assert [path.suffix for path in work.glob("qsimenv-*") if path.suffix != ".out"] == [".journal"]
    assert not list(work.glob("results-*"))

    began = time.time()
    second = submit(cluster, work, "many-circuits.sh", QUANTUM, arguments=files)
    talk(cluster, work, second, GO_ON)
    completed(cluster, work, second)
    assert not list(work.glob("*.journal")), "what is done needs no journal to go on from"
    records = result(work, "results-*.json")["tasks"]
    assert [record["state"] for record in records] == ["DONE"] * number
    assert [record["attempts"] for record in records] == [1] * number, "none was started twice"
    ends = [record["times"]["completion_time"] for record in records]
    starts = [record["times"]["launch_time"] for record in records]
    before, after = sum(end < began for end in ends), sum(start > began for start in starts)
    assert number // 2 <= before < number
    assert before + after == number
    counts = [qs.run(work / file, shots=1000, seed=7).counts for file in files[:DIFFERENT]]
    assert [record["result"]["counts"] for record in records] == counts * (number // DIFFERENT)


def write_long(work: Path) -> None:
    """Circuits that take minutes: `long.qasm` to run, and one to read in the place of the scan's own."""
    (work / "long.qasm").write_text(tangled_program(26, 12, times=12))
    (work / "examples").unlink()
    (work / "examples" / "ansatz").mkdir(parents=True)
    scanned = "input float theta;\nqubit[2] q;\n" + "ry(theta) q[0];\ncx q[0], q[1];\n" * 200_000
    (work / "examples" / "ansatz" / "hydrogen.qasm").write_text(QASM3 + scanned)


@pytest.mark.parametrize(
    ("how", "end", "on_quantum", "nodes", "on_compute"),
    [
        ("scancel", "CANCELLED", "scaling.sh", 1, "one-node.sh"),
        ("time limit", "TIMEOUT", "big-circuit.sh", 2, "parameter-scan.sh"),
    ],
)
def test_what_is_ended_in_the_middle_leaves_nothing(
    how: str, end: str, on_quantum: str, nodes: int, on_compute: str, cluster: Cluster, work: Path
) -> None:
    """Two jobs at once, on different hosts; the other scripts have tests of their own."""
    write_long(work)
    options = ("--array=0-1",) if on_compute == "parameter-scan.sh" else ()
    jobs = [
        submit(cluster, work, on_quantum, QUANTUM, arguments=("long.qasm",)),
        submit(cluster, work, on_compute, "--partition=compute", *options, arguments=("long.qasm",)),
    ]
    busy = "worker" if on_compute == "one-node.sh" else "run"

    def both_work() -> bool:
        assert all(set(cluster.states(job)) <= {"PENDING", "CONFIGURING", "RUNNING"} for job in jobs), outputs(work)
        there = sum("run" in programs(cluster, host) for host in cluster.quantum)
        return there == nodes and busy in programs(cluster, "node1")

    wait_until(both_work, 240, lambda: outputs(work))
    for job in jobs:
        if how == "scancel":
            cluster.run(LOGIN, "scancel", job)
        else:
            let_time_run_out(cluster, job)
    assert {state for job in jobs for state in cluster.wait(job)} == {end}, outputs(work)
    cluster.assert_clean()


def test_one_node_after_a_time_limit(cluster: Cluster, work: Path) -> None:
    number = busy_job(cluster, work, UNWARNED)
    let_time_run_out(cluster, number)
    assert cluster.wait(number)[0] == "TIMEOUT"
    cluster.assert_clean()

    arguments = ("examples/ghz.qasm", *write_circuits(work, 300))
    first = submit(cluster, work, "one-node.sh", QUANTUM, arguments=arguments)
    wait_until((work / f"qsimenv-{first}" / "connection.json").exists, 240, lambda: outputs(work))
    cluster.run(LOGIN, "scancel", "--batch", "--signal=USR1", first)
    assert (cluster.wait(first), cluster.job(first).exit_code) == (["FAILED"], "75:0"), outputs(work)
    kept = set(work.glob("*.journal"))
    out = completed(cluster, work, submit(cluster, work, "one-node.sh", QUANTUM, arguments=arguments))
    assert set(work.glob("*.journal")) < kept, "what is done needs no journal to go on from"
    assert all(f"{outcome}    {count}" in out for outcome, count in expected("ghz").items()), out


@pytest.mark.parametrize("script", ["big-circuit.sh", "many-circuits.sh"])
def test_daemons_on_other_nodes_have_time_to_tidy_up(script: str, cluster: Cluster, work: Path, tmp_path: Path) -> None:
    """They end after `mpirun`, and after a DVM; a job that is over then kills them before their folders are gone."""
    settings = tmp_path / ".prte" / "mca-params.conf"
    settings.parent.mkdir()
    settings.write_text(f"prte_launch_agent = {SLOW_DAEMON}\n")
    environ = f"--export=ALL,HOME={tmp_path},XDG_CACHE_HOME={Path.home() / '.cache'}"
    completed(cluster, work, submit(cluster, work, script, QUANTUM, environ))
