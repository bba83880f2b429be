"""Start pytest on several ranks and wait for it: what test_launch calls. Leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from qsimenv.launcher.commands import find_program, prte_environment
from tests.processes import family_of, kill_all

ROOT = Path(__file__).parents[2]
TEST_SECONDS = 240
"""A single test that takes longer is waiting for a rank that went elsewhere."""


def prterun_pytest(prterun: Path, ranks: int, arguments: tuple[str, ...]) -> list[str]:
    """Tokens that run pytest with ``arguments`` on ``ranks`` ranks of this machine, be they more than its cores."""
    return [
        str(prterun),
        *("--map-by", ":OVERSUBSCRIBE", "--bind-to", "none", "--output", "tag", "-n", str(ranks)),
        *(sys.executable, "-m", "pytest", "--with-mpi", "-m", "mpi"),
        *("-p", "no:cacheprovider", "--no-header", "--color=no"),
        *("-x", "--timeout", str(TEST_SECONDS), "--timeout-method", "thread"),
        *arguments,
    ]


def environment(prterun: Path, ranks: int) -> dict[str, str]:
    """The environment: prefixes for a wheel's PRTE, one thread a rank, and waiting ranks that let others run."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") if ranks > 1 else {}
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return prte_environment(mine, prterun) | threads | {"OMPI_MCA_mpi_yield_when_idle": "1"}


def run_pytest(ranks: int, arguments: tuple[str, ...], timeout_s: float) -> tuple[int, str]:
    """Exit status (124 where it took longer than ``timeout_s``) and the last lines of what all ranks wrote."""
    prterun = find_program("prterun")
    command, environ = prterun_pytest(prterun, ranks, arguments), environment(prterun, ranks)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            status = 124
        finally:
            _end(process)
        output.seek(0)
        lines = output.read().decode(errors="replace").splitlines()
    return status, "\n".join(lines[-150:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a launcher and its ranks, which PRTE puts into process groups of their own."""
    if process.poll() is not None:
        return
    family = family_of(process.pid)
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kill_all(family)
