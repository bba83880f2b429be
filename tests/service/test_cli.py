"""The command line as its users meet it: real processes, real MPI, a real environment, and every kind of bad input."""

from __future__ import annotations

import io
import json
import math
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from qiskit import QuantumCircuit
from qiskit.primitives import BackendSamplerV2
from qiskit.providers import JobStatus
from rich.console import Console

from qsimenv.cli import show
from qsimenv.cli.main import _COMMANDS
from qsimenv.qiskit import QSimBackend
from qsimenv.qpm_plugin.client import connect
from qsimenv.qpm_plugin.connection import FILE_NAME
from tests.support import (
    COMMAND,
    EXAMPLES,
    ROOT,
    folder,
    qsimenv,
    run_and_end,
    run_folder,
    skip_without_prte,
    wait_until,
)

__all__ = ["folder"]

BELL = EXAMPLES / "bell.qasm"
QASM2 = 'OPENQASM 2.0;\ninclude "qelib1.inc";\n'
QASM3 = 'OPENQASM 3.0;\ninclude "stdgates.inc";\n'
PROGRAMS: dict[str, str | bytes] = {
    "broken2": f"{QASM2}qreg q[2];\ncreg c[2];\nh q[0]\ncx q[0], q[1];\n",
    "broken3": f"{QASM3}qubit[2] q;\nh q[0]\ncx q[0], q[1];\n",
    "unknown2": f"{QASM2}qreg q[2];\ncreg c[2];\nfrobnicate q[0];\nmeasure q -> c;\n",
    "unknown3": f"{QASM3}qubit[2] q;\nbit[2] c;\n  frobnicate q[0];\nc = measure q;\n",
    "wide": f"{QASM2}qreg q[40];\ncreg c[40];\nh q;\nmeasure q -> c;\n",
    "turn": f"{QASM3}input float theta;\nqubit q;\nbit c;\nrx(theta) q;\nc = measure q;\n",
    "unwritten": f"{QASM2}qreg q[2];\ncreg c[2];\ncreg d[1];\nmeasure q -> c;\n",
    "unmeasured": f"{QASM2}qreg q[2];\nh q;\n",
    "empty": "",
    "prose": "Dear simulator,\nplease run my circuit.\n",
    "binary": bytes(range(256)),
    "broken_qpy": b"QISKIT" + bytes(range(40)),
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file for each of PROGRAMS."""
    made = tmp_path_factory.mktemp("programs")
    for name, text in PROGRAMS.items():
        (made / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return made


def refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    """Exit code 2, nothing on stdout, and one line on stderr that says ``message`` (a regular expression)."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.endswith("\n"), done.stderr
    assert done.stderr.startswith("qsimenv"), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.search(message, done.stderr), done.stderr


# --- bad input: one line, exit code 2, nothing left ---

BAD_FILES = {
    "no-such-file": "no file .*no-such-file",
    "broken2": r"broken2:6:1: needed ';'",
    "broken3": r"broken3:5:1: 'cx' is not expected here",
    "unknown2": r"unknown2:5:1: 'frobnicate' is not defined",
    "unknown3": r"unknown3:5:3: gate 'frobnicate' is not defined",
    "wide": r"40 qubits .* need 16 TiB, .* free each; use \d+ ranks like these",
    "turn": "'theta' is left unbound",
    "unwritten": "register 'd' is never written",
    "unmeasured": "no measurement",
    "empty": "the program is empty",
    "prose": r"prose:\d+:\d+: ",
    "binary": "neither QPY nor text",
    "broken_qpy": "not readable as QPY",
    ".": "directory",
    "broken2/below": "no file",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(programs: Path, folder: Path, name: str) -> None:
    refused(qsimenv("run", programs / name), BAD_FILES[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--shots 0", "shots: 0 found, 1 to"),
        ("--shots -1", "shots: -1 found, 1 to"),
        ("--shots many", "'many' is not a valid integer"),
        ("--seed -1", "seed: -1 found"),
        ("--unheard-of", "No such option '--unheard-of'; `qsimenv run --help`"),
        ("-o ZQ", "'ZQ' is not a Pauli sum"),
        ("-o ZZZ", "'ZZZ' has 3 letters, the circuit 2 qubits"),
        ("-p theta", "'theta' found, NAME=VALUE"),
        ("-p theta=1/0", "'theta=1/0' found, NAME=VALUE"),
        ("-p theta=p0", "'theta=p0' found, NAME=VALUE"),
        ("-p theta=1 -p theta=2", "'theta' is given twice"),
        ("-p theta=1", r"'theta' is not one of the circuit's"),
        ("--engine abacus", "engine: 'abacus' found, one of auto, "),
        ("--precision half", "precision: 'half' found"),
        ("--save {folder}/state.npy", "state.npy cannot be written .*no such folder"),
        ("--save {programs}", "cannot be written .*it is a folder"),
        ("--save /dev/full", "cannot be written .*No space left"),
        ("--name other", "add --environment"),
        ("-e --explain", "leave --environment out"),
        ("-e", "no running environment found"),
        ("-e --name ../../other", "'../../other' cannot name an environment"),
        ("another.qasm", "unexpected extra argument"),
    ],
)
def test_bad_options_of_run(programs: Path, folder: Path, options: str, message: str) -> None:
    refused(qsimenv("run", BELL, *options.format(programs=programs, folder=folder).split()), message)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run", "Missing argument 'FILE'"),
        ("dance", "No such command 'dance'; `qsimenv --help`"),
        ("status", "no running environment found"),
        ("status --name ..", "cannot name an environment"),
        ("submit examples/bell.qasm", "no running environment found"),
        ("submit", "Missing argument 'FILE...'"),
        ("submit examples/bell.qasm no-such-file", "no file 'no-such-file'"),
        ("results abc-1", "no running environment found"),
        ("results abc-1 --timeout -1", "not in the range"),
        ("stop", "no environment is running in .*`qsimenv start`"),
        ("stop --name a/b", "cannot name an environment"),
        ("start --ranks-per-node 0", "not in the range"),
        ("start --timeout -1", "not in the range"),
        ("start --name ../../home", "cannot name an environment"),
        ("start --hosts a:0", "'a:0' needs a positive number"),
        ("start --hosts @no-such-file", "hostfile 'no-such-file' cannot be read"),
        ("start --hosts no-such-host-anywhere:2", "host 'no-such-host-anywhere' is not known"),
        ("start --het-group 0", "outside of a Slurm job"),
    ],
)
def test_bad_calls(folder: Path, words: str, message: str) -> None:
    refused(qsimenv(*words.split(), SLURM_JOB_ID=""), message)
    assert not folder.exists()


def test_run_folder_that_cannot_be(programs: Path, folder: Path) -> None:
    refused(qsimenv("start", QSIMENV_RUN_FOLDER=str(programs / "empty")), "run folder .* cannot be made")
    refused(qsimenv("stop", QSIMENV_RUN_FOLDER=str(programs / "empty")), "no environment is running")


# --- the command itself ---


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = qsimenv(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Examples:" in done.stdout
    assert "--json" in done.stdout or command == "stop"


def test_bare_command_explains_itself() -> None:
    done = qsimenv()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == qsimenv("--help").stdout
    assert all(command in done.stdout for command in _COMMANDS)
    assert re.fullmatch(r"qsimenv \d+\.\d+\.\d+\n", qsimenv("--version").stdout)


def test_import_is_light() -> None:
    script = (
        "import sys, time; began = time.perf_counter(); import qsimenv; seconds = time.perf_counter() - began;"
        "print(seconds, *({'qiskit', 'numba', 'mpi4py'} & set(sys.modules)))"
    )
    lines = [run_and_end([sys.executable, "-c", script], 20).stdout.split() for _ in range(5)]
    assert [line[1:] for line in lines] == [[]] * 5
    assert min(float(line[0]) for line in lines) < 0.3


def test_doctor() -> None:
    done = qsimenv("doctor", "--json")
    assert done.returncode == 0, done.stderr
    findings = json.loads(done.stdout)["findings"]
    names = [finding["name"] for finding in findings]
    expected = {
        "packages",
        "prte",
        "mpirun",
        "PMIx bindings",
        "mpi4py",
        "compiler cache",
        "memory",
        "GPU",
        "environment",
    }
    assert set(names) >= expected
    assert len(names) == len(set(names))
    assert all(finding["found"] and (finding["ok"] or finding["advice"]) for finding in findings)
    assert all(name in qsimenv("doctor").stdout for name in names)


# --- run ---


def run_json(*arguments: object) -> dict[str, Any]:
    done = qsimenv("run", *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def test_run_json() -> None:
    shown = run_json(BELL, "--shots", 1000, "--seed", 7, "--metadata")
    assert list(shown) == ["shots", "counts", "metadata"]
    assert shown["shots"] == sum(shown["counts"].values()) == 1000
    assert set(shown["counts"]) == {"00", "11"}
    metadata = shown["metadata"]
    assert (metadata["engine"], metadata["ranks"], metadata["seed"]) == ("statevector", 1, 7)
    assert metadata["seconds"]["total"] > 0


def test_observables_and_parameters(programs: Path) -> None:
    shown = run_json(programs / "turn", "-p", "theta=pi/3", "-o", "Z", "-o", "0.5*Y - 2*Z")
    expected = [math.cos(math.pi / 3), -0.5 * math.sin(math.pi / 3) - 2 * math.cos(math.pi / 3)]
    assert list(shown) == ["expectation_values"]
    assert shown["expectation_values"] == pytest.approx(expected, abs=1e-12)


def test_save_is_the_statevector(programs: Path, tmp_path: Path) -> None:
    path = tmp_path / "state.npy"
    assert run_json(programs / "turn", "-p", "theta=0.8", "--save", path) == {"saved": str(path)}
    np.testing.assert_allclose(np.load(path), [math.cos(0.4), -1j * math.sin(0.4)], atol=1e-14)


def test_explain_prints_the_plan() -> None:
    assert "h (" in run_json(BELL, "--explain")["plan"]
    done = qsimenv("run", BELL, "--explain")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("2 qubits in double precision on 1 rank")


def test_output_in_a_pipe() -> None:
    """No colours, no blanks at the end of a line; a file named like markup is no markup; ASCII where it must be."""
    done = qsimenv("run", BELL, "-o", "ZZ", "--shots", 100, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["outcome", "count", "share"]
    assert lines[1].endswith("#")
    assert "<ZZ> = +1" in lines
    assert all(line == line.rstrip() and "\x1b" not in line for line in lines)


def test_output_that_nobody_takes() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "run", BELL], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.returncode == 2
    assert re.fullmatch(r"qsimenv: output: .*No space left.*\n", done.stderr)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "--help"], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (2, "")


def test_output_on_a_terminal() -> None:
    """Colours; lines that fit."""
    ours, theirs = pty.openpty()
    environ = os.environ | {"COLUMNS": "40", "TERM": "xterm-256color"}
    command = [*COMMAND, "run", EXAMPLES / "qaoa_maxcut.qasm", "--seed", "1"]
    process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, env=environ)
    assert process.wait(60) == 0
    text = os.read(ours, 1 << 16).decode()
    os.close(ours)
    os.close(theirs)
    assert "\x1b[1m" in text
    table = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if "█" in line]
    assert len(table) == show.MOST_ROWS
    assert max(map(len, table)) <= 40


def test_text_from_outside_is_no_markup() -> None:
    out = Console(file=io.StringIO(), width=30, force_terminal=True, markup=False, highlight=False, soft_wrap=True)
    show.fields(out, [("[red]a[/red]", "b[i].qasm " * 5), ("c", "")])
    written = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert written[0] == "[red]a[/red]  b[i].qasm"
    assert written[1] == " " * 14 + "b[i].qasm"
    assert written[-1].rstrip() == "c"


def test_interrupt(tmp_path: Path) -> None:
    program = tmp_path / "long.qasm"
    program.write_text(long_program(22, 3000))
    process = subprocess.Popen([*COMMAND, "run", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(3)  # somewhere in the middle, on purpose
    process.send_signal(signal.SIGINT)
    out, words = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert words.split() == ["qsimenv:", "interrupted"]


def long_program(num_qubits: int, layers: int) -> str:
    layer = "".join(f"rx(0.3) q[{k}];\nry(0.4) q[{k}];\n" for k in range(num_qubits))
    layer += "".join(f"cx q[{k}], q[{k + 1}];\n" for k in range(num_qubits - 1))
    return (
        f"{QASM3}qubit[{num_qubits}] q;\nbit[{num_qubits}] c;\n"
        f"for uint k in [1:{layers}] {{\n{layer}}}\nc = measure q;\n"
    )


# --- under mpirun ---


def mpirun(ranks: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The installed script (else the module) on so many ranks of this machine, be they more than its cores."""
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    program = shutil.which("mpirun", path=places)
    if program is None:
        pytest.skip("no mpirun")
    script = Path(sys.executable).with_name("qsimenv")
    command = [str(script)] if script.exists() else [*COMMAND]
    options = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
    return run_and_end([program, *options, *command, *map(str, arguments)], 90, {"OMPI_MCA_mpi_yield_when_idle": "1"})


def refused_once(done: subprocess.CompletedProcess[str], message: str) -> None:
    """As ``refused``, but for what mpirun itself has to say about a command that failed."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    ours = [line for line in done.stderr.splitlines() if line.startswith("qsimenv")]
    assert len(ours) == 1, done.stderr
    assert re.search(message, ours[0]), ours
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adder", "tfim", "teleport"])
def test_counts_do_not_depend_on_the_number_of_ranks(folder: Path, name: str) -> None:
    arguments = ("run", EXAMPLES / f"{name}.qasm", "--shots", 1000, "--seed", 7, "--json")
    outputs = {ranks: mpirun(ranks, *arguments) for ranks in (1, 2, 4)}
    assert {done.returncode for done in outputs.values()} == {0}
    printed = {done.stdout for done in outputs.values()}
    assert len(printed) == 1, outputs
    counts = json.loads(printed.pop())["counts"]
    assert sum(counts.values()) == 1000
    assert (len(counts) == 1) == (name == "adder")
    if name == "adder":
        assert counts == {"10001": 1000}
        assert qsimenv(*arguments).stdout == outputs[4].stdout


@pytest.mark.slow
def test_three_ranks(folder: Path) -> None:
    arguments = ("run", EXAMPLES / "ghz.qasm", "--seed", 7)
    message = "3 ranks found, .* launch 2 or 4, or pass --idle-ranks to run on 2 of the 3"
    refused_once(mpirun(3, *arguments), message)
    done = mpirun(3, *arguments, "--idle-ranks")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("outcome") == 1
    assert "2 ranks" in done.stdout
    assert "\x1b" not in done.stdout, "mpirun's terminal is not the user's"


@pytest.mark.slow
def test_bad_input_under_mpirun(folder: Path) -> None:
    refused_once(mpirun(2, "run", "no-such-file"), "no file 'no-such-file'")
    refused_once(mpirun(2, "run", BELL, "--save", folder / "x.npy"), "cannot be written")
    refused_once(mpirun(2, "run", BELL, "--unheard-of"), "No such option")


# --- with an environment: one for all of what follows ---


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


environment = [pytest.mark.environment, pytest.mark.slow]
pytestmark: list[pytest.MarkDecorator] = []


def marked(test: Any) -> Any:
    for mark in environment:
        test = mark(test)
    return test


@marked
def test_status(running: Running) -> None:
    shown = running.json("status")
    assert shown["device"]["name"] == "default"
    assert shown["telemetry"]["ranks"]["total"] == 2
    done = running("status")
    assert (done.returncode, done.stderr) == (0, "")
    words = [str(running.connection), *(str(worker["pid"]) for worker in shown["device"]["workers"])]
    assert all(word in done.stdout for word in (*words, "default is IDLE", "none yet", "controller.log"))


@marked
def test_second_start_of_the_same_name(running: Running) -> None:
    refused(running("start"), "environment 'default' is already running; stop it first, or give another --name")
    assert running.json("status")["device"]["ready"]


@marked
def test_submit_then_results(running: Running) -> None:
    """In processes of their own, in the order asked for; a result is handed out once."""
    done = running("submit", EXAMPLES / "ghz.qasm", EXAMPLES / "adder.qasm", "--shots", 50)
    ids = done.stdout.split()
    assert (done.returncode, len(ids)) == (0, 2)
    tasks = running.json("results", *reversed(ids))["tasks"]
    assert [task["task_id"] for task in tasks] == ids[::-1]
    assert [task["state"] for task in tasks] == ["DONE", "DONE"]
    assert tasks[0]["result"]["counts"] == {"10001": 50}
    assert sum(tasks[1]["result"]["counts"].values()) == 50
    refused(running("results", ids[0]), "was read already")


@marked
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
    here = run_json(BELL, "--seed", 7)["counts"]
    assert running.json("run", BELL, "-e", "--seed", 7)["counts"] == here


@marked
def test_failed_task_is_exit_code_1(running: Running, tmp_path: Path) -> None:
    program = tmp_path / "endless.qasm"
    program.write_text(f"{QASM3}qubit q;\nbit c;\nc = measure q;\nwhile (!c) {{ c = measure q; }}\n")
    done = running("submit", program, "--wait")
    assert done.returncode == 1, done
    assert "FAILED" in done.stdout
    assert "DONE" not in done.stdout


@marked
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("results", "no-such-task"), "task 'no-such-task' is not known"),
        (("submit", "{programs}/wide"), "40 qubits .* need 16 TiB"),
        (("submit", BELL, "{programs}/unwritten"), "register 'd' is never written"),
        (("submit", BELL, "--engine", "abacus"), "engine: 'abacus' found"),
        (("submit", BELL, "--shots", "0"), "shots: 0 found"),
        (("run", "-e", BELL, "--shots", str(1 << 31)), "64 MiB travel through the service; ask for fewer"),
        (("run", "-e", BELL, "--save", "{programs}"), "it is a folder"),
    ],
)
def test_bad_input_to_the_environment(
    running: Running, programs: Path, arguments: tuple[object, ...], message: str
) -> None:
    accepted = running.json("status")["telemetry"]["tasks_accepted"]
    refused(running(*(str(word).format(programs=programs) for word in arguments)), message)
    assert running.json("status")["telemetry"]["tasks_accepted"] == accepted


def changed(connection: Path, folder: Path, mode: int = 0o600, **keys: str) -> str:
    """The path of a copy of the connection file with other values."""
    path = folder / "copy.json"
    path.write_text(json.dumps(json.loads(connection.read_text()) | keys))
    path.chmod(mode)
    return str(path)


@marked
@pytest.mark.parametrize("command", ["status", "submit", "results"])
def test_connection_file_with_a_wrong_key(running: Running, tmp_path: Path, command: str) -> None:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    argument = {"status": (), "submit": (BELL,), "results": ("abc-1",)}[command]
    for keys in ({"server_key": public}, {"client_key": public, "client_secret": secret}):
        path = changed(running.connection, tmp_path, **keys)
        refused(qsimenv(command, *argument, QSIMENV_CONNECTION=path), "refuses the key of this connection file")


@marked
def test_unusable_connection_files(running: Running, tmp_path: Path) -> None:
    def asked(path: Path | str) -> subprocess.CompletedProcess[str]:
        return qsimenv("status", QSIMENV_CONNECTION=str(path))

    refused(asked(changed(running.connection, tmp_path, mode=0o644)), "mode 0644, so others can read its keys")
    refused(
        asked(changed(running.connection, tmp_path, client_secret="short")), "not a connection file .*client_secret"
    )
    refused(asked(changed(running.connection, tmp_path, address="somewhere")), "not a connection file .*address")
    refused(asked(changed(running.connection, tmp_path, address="tcp://127.0.0.1:1")), "nobody answers at .*:1 ")
    refused(asked(tmp_path), "cannot be read")
    refused(asked(tmp_path / "none"), "there is no connection file")
    garbage = tmp_path / "garbage"
    for data in (b"", b"garbage", b"\xff\x00", b"[1, 2]"):
        garbage.write_bytes(data)
        garbage.chmod(0o600)
        refused(asked(garbage), "is not a connection file")


@marked
def test_whoever_stops_waiting_hears_the_ids(running: Running, tmp_path: Path) -> None:
    program = tmp_path / "long.qasm"
    program.write_text(long_program(18, 2000))
    environ = os.environ | {"QSIMENV_RUN_FOLDER": str(running.folder)}
    process = subprocess.Popen(
        [*COMMAND, "submit", program, "--wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    )
    with connect(running.connection) as qpm:
        wait_until(lambda: qpm.describe()["state"] == 2, 30, "the task did not start")
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=20)
        assert process.returncode == 130
        told = re.search(r"the tasks go on; fetch them with: qsimenv results (\S+)\n", words)
        assert told, words
        qpm.cancel([told[1]])
    done = running("results", told[1], "--timeout", 30)
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


@marked
def test_backend_finds_the_environment(running: Running, backend: QSimBackend) -> None:
    widths = running.json("status")["device"]["num_qubits"]
    assert backend.num_qubits == widths["double"]
    assert repr(backend) == f"<QSimBackend on environment 'default', {widths['double']} qubits>"
    assert repr(QSimBackend("local")).startswith("<QSimBackend in this process, ")


@marked
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


@marked
def test_backend_cancels(running: Running, backend: QSimBackend) -> None:
    circuit = QuantumCircuit(18)
    for _ in range(2000):
        circuit.rx(0.3, range(18))
        circuit.cx(range(17), range(1, 18))
    circuit.measure_all()
    job = backend.run([circuit] * 4, shots=10)
    assert job.status() in (JobStatus.QUEUED, JobStatus.RUNNING)
    assert job.cancel()
    result = job.result(timeout=30)
    assert job.status() is JobStatus.CANCELLED
    assert not result.success
    assert not job.cancel()


@marked
def test_sampler_over_the_environment(running: Running, backend: QSimBackend) -> None:
    sampler = BackendSamplerV2(backend=backend, options={"seed_simulator": 3})
    results = sampler.run([prepared(5), prepared(2)], shots=30).result()
    assert [result.data.meas.get_counts() for result in results] == [{"101": 30}, {"010": 30}]


@marked
def test_examples_in_python(running: Running) -> None:
    for name in ("qpm_client", "qiskit_application"):
        command = [sys.executable, str(ROOT / "examples" / f"{name}.py")]
        done = run_and_end(command, 60, {"QSIMENV_CONNECTION": str(running.connection)})
        assert (done.returncode, done.stderr) == (0, "")
        assert "default" in done.stdout


# --- stopping ---


@marked
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
