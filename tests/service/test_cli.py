"""The command line as its users meet it: real processes, real MPI, and every kind of bad input."""

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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from qsimenv.cli import show
from qsimenv.cli.main import _COMMANDS
from tests.support import BELL, COMMAND, EXAMPLES, QASM2, QASM3, long_program, qsimenv, refused, run_and_end, told

_WITHOUT_JSON = ("stop", "top", "report", "setup-job")
"""Commands whose outcome is no data: a deed, a live view, a page, a script."""

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


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """No command below has to say that it compiles: its kernels are there."""
    assert qsimenv("run", BELL, "--shots", 1, timeout_s=240).returncode == 0


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file for each of PROGRAMS."""
    made = tmp_path_factory.mktemp("programs")
    for name, text in PROGRAMS.items():
        (made / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return made


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
        ("--save state.txt", r"state.txt cannot be written .*\.npy or \.h5 is needed"),
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
    assert "--json" in done.stdout or command in _WITHOUT_JSON


def test_bare_command_explains_itself() -> None:
    done = qsimenv()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == qsimenv("--help").stdout
    assert all(command in done.stdout for command in _COMMANDS)
    assert re.fullmatch(r"qsimenv \d+\.\d+\.\d+\n", qsimenv("--version").stdout)


def test_import_is_light() -> None:
    """Nothing but our own names; the seconds: ``python -m benchmarks overheads``."""
    script = (
        "import sys; before = set(sys.modules); import qsimenv;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    assert run_and_end([sys.executable, "-c", script], 60).stdout.split() == ["qsimenv"]


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
    printed = qsimenv("doctor").stdout
    assert all(name in printed for name in names)


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
    assert (done.returncode, done.stderr) == (1, "")


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
    out = Console(file=io.StringIO(), width=36, force_terminal=True, markup=False, highlight=False, soft_wrap=True)
    show.fields(out, [("[red]a[/red]", "b[i].qasm " * 3), ("c", "")])
    written = [line.rstrip() for line in out.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert written == ["[red]a[/red]  b[i].qasm b[i].qasm", " " * 14 + "b[i].qasm", "c"]


def test_interrupt(tmp_path: Path) -> None:
    program = tmp_path / "long.qasm"
    program.write_text(long_program(22, 3000))
    process = subprocess.Popen([*COMMAND, "run", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(3)  # somewhere in the middle, on purpose
    process.send_signal(signal.SIGINT)
    out, words = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert told(words).split() == ["qsimenv:", "interrupted"]


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
    return run_and_end([program, *options, *command, *map(str, arguments)], 240, {"OMPI_MCA_mpi_yield_when_idle": "1"})


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
