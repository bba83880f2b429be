"""Starts controller processes with two real workers under ``mpirun`` for the service tests, and ends them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from qsimenv.qpm_plugin.client import Client, connect
from tests.processes import family_of, kill_all, words_of
from tests.support import ENGINES, wait_until

HERE = Path(__file__).parent
START_S = 300.0


@dataclass
class Environment:
    """A controller process; ``log`` holds what it and its workers wrote."""

    process: subprocess.Popen[bytes]
    connection: Path
    log: Path

    def connect(self, **options: object) -> Client:
        return connect(self.connection, **options)  # type: ignore[arg-type]

    @property
    def workers(self) -> list[psutil.Process]:
        """In the order of their ranks, as ``mpirun`` started them; without ``mpirun`` itself, which names them."""
        found = [(process, words_of(process)) for process in family_of(self.process.pid)]
        return [process for process, words in found if words[1:3] == ["-m", "qsimenv.qpm_plugin.worker"]]


@contextmanager
def environment(folder: Path, ranks: int = 2) -> Iterator[Environment]:
    """An environment that is ready; it is gone afterwards, with all its processes."""
    path = os.pathsep.join([str(ENGINES), os.environ.get("PYTHONPATH", "")])
    connection, log, out = folder / "run" / "connection.json", folder / "log", folder / "out"
    with log.open("wb") as log_file, out.open("wb") as out_file:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "mpirun_launcher.py"), str(connection), str(ranks)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=out_file,
            stderr=log_file,
        )
    made = Environment(process, connection, log)
    try:
        wait_until(
            lambda: b"ready" in out.read_bytes() or process.poll() is not None, START_S, "the workers are not ready"
        )
        assert process.poll() is None, log.read_text()
        yield made
    finally:
        family = family_of(process.pid)
        process.terminate()
        try:
            process.wait(60)
        finally:
            kill_all(family)
            process.kill()
