"""What tests in several folders need: the command, run folders that must be left empty, and waiting with a deadline."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from qsimenv.errors import QSimEnvError
from qsimenv.launcher.bindings import find_pmix_module
from qsimenv.launcher.commands import find_program
from tests.processes import family_of, is_there, kill_all, processes_of, words_of

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
ENGINES = ROOT / "tests" / "service" / "engines"
"""On PYTHONPATH, this gives an environment the test engine."""
COMMAND = (sys.executable, "-m", "qsimenv.cli")
BELL = EXAMPLES / "bell.qasm"
QASM2 = 'OPENQASM 2.0;\ninclude "qelib1.inc";\n'
QASM3 = 'OPENQASM 3.0;\ninclude "stdgates.inc";\n'


def qsimenv(*arguments: object, timeout_s: float = 120, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command as a user calls it, in a process of its own, with nothing to read."""
    return run_and_end([*COMMAND, *map(str, arguments)], timeout_s, environ)


def run_and_end(
    command: Sequence[str], timeout_s: float, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; after ``timeout_s`` seconds it is ended with all its family, and the test fails.

    Its stderr is what it ``told``.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, cwd=ROOT, env=os.environ | (environ or {})
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        family = [*family_of(process.pid), psutil.Process(process.pid)]
        process.terminate()
        kill_all(psutil.wait_procs(family, timeout=5)[1])
        out, err = process.communicate()
        pytest.fail(f"not done after {timeout_s} s: {command}\n{out.decode()}\n{err.decode()}")
    return subprocess.CompletedProcess(list(command), process.returncode, out.decode(), told(err.decode()))


def told(stderr: str) -> str:
    """What was said, less the lines about kernels that are compiled: whoever comes first on a machine says them."""
    compiling = re.compile(r"qsimenv: (compiling|compiled|another process compiles) ")
    return "".join(line for line in stderr.splitlines(keepends=True) if not compiling.match(line))


def refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    """Exit code 2, nothing on stdout, and one line on stderr that says ``message`` (a regular expression)."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.endswith("\n"), done.stderr
    assert done.stderr.startswith("qsimenv"), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.search(message, done.stderr), done.stderr


def long_program(num_qubits: int, layers: int) -> str:
    layer = "".join(f"rx(0.3) q[{k}];\nry(0.4) q[{k}];\n" for k in range(num_qubits))
    layer += "".join(f"cx q[{k}], q[{k + 1}];\n" for k in range(num_qubits - 1))
    return (
        f"{QASM3}qubit[{num_qubits}] q;\nbit[{num_qubits}] c;\n"
        f"for uint k in [1:{layers}] {{\n{layer}}}\nc = measure q;\n"
    )


class Hold:
    """``name`` is that of a task for the test engine which runs until ``let_go``."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.name = f"hold {file}"

    def let_go(self) -> None:
        """The task ends now, and those of its name that begin later end at once."""
        self._file.touch()


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for a condition; AssertionError with ``what`` after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s: {what}"
        time.sleep(0.02)


def skip_without_prte() -> None:
    """Skip where there is no PRTE to start an environment with."""
    try:
        find_program("prte")
    except QSimEnvError as error:
        pytest.skip(str(error))


@contextmanager
def run_folder(parent: Path) -> Iterator[Path]:
    """A run folder of one's own, for as long as the block lasts; no process that knew it may be left then."""
    run = parent / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSIMENV_RUN_FOLDER", str(run))
        patch.delenv("QSIMENV_CONNECTION", raising=False)
        try:
            yield run
        finally:
            left = processes_of(run)
            words = [" ".join(words_of(process))[:150] for process in left if is_there(process)]
            kill_all(left)
            assert not words, f"left running: {words}"


@pytest.fixture(params=["pmix", "prterun"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to launch; the PMIx one is skipped where there are no bindings, unless QSIMENV_REQUIRE names it."""
    skip_without_prte()
    missing = request.param == "pmix" and find_pmix_module() is None
    if missing and "pmix" not in os.environ.get("QSIMENV_REQUIRE", ""):
        pytest.skip("no PMIx Python bindings for this interpreter (Debian: python3-pmix)")
    monkeypatch.setenv("QSIMENV_LAUNCHER", request.param)
    return str(request.param)


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Hold]:
    """Held tasks end with the test at the latest."""
    made = Hold(tmp_path / "let go")
    yield made
    made.let_go()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A run folder for one test; the test must leave it gone, and no process that knew it."""
    with run_folder(tmp_path) as run:
        yield run
