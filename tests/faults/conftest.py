"""A run folder of its own for every test, and the certainty that nothing of it is left running."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from qsimenv.errors import QSimEnvError
from qsimenv.launcher.bindings import find_pmix_module
from qsimenv.launcher.commands import find_program

COMMAND = (sys.executable, "-m", "qsimenv.cli")


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for a condition; AssertionError with ``what`` after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s: {what}"
        time.sleep(0.02)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process that names the run folder on its command line or in its environment, but ourselves."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        names_it = any(str(folder) in word for word in words)
        if names_it and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


@pytest.fixture(params=["pmix", "prterun"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to launch; the PMIx one is skipped where there are no bindings, unless QSIMENV_REQUIRE names it."""
    try:
        find_program("prte")
    except QSimEnvError as error:
        pytest.skip(str(error))
    missing = request.param == "pmix" and find_pmix_module() is None
    if missing and "pmix" not in os.environ.get("QSIMENV_REQUIRE", ""):
        pytest.skip("no PMIx Python bindings for this interpreter (Debian: python3-pmix)")
    monkeypatch.setenv("QSIMENV_LAUNCHER", request.param)
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run folder for one test; the test must leave it gone, and no process that knew it."""
    run = tmp_path / "run"
    monkeypatch.setenv("QSIMENV_RUN_FOLDER", str(run))
    monkeypatch.delenv("QSIMENV_CONNECTION", raising=False)
    yield run
    left = processes_of(run)
    words = [" ".join(process.cmdline())[:150] for process in left if process.is_running()]
    for process in left:
        process.kill()
    assert not words, f"left running: {words}"
