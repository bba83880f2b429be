"""Chaos: four clients work while everything that can die is killed at random. Nothing is lost, nothing doubled."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import qsimenv as qs
from qsimenv.errors import QSimEnvError
from qsimenv.launcher import environment
from qsimenv.launcher.dvm import memory_mark
from qsimenv.launcher.folder import LOCK_NAME
from qsimenv.qpm_plugin.client import connect
from qsimenv.qpm_plugin.connection import FILE_NAME
from tests.faults import chaos_client
from tests.processes import family_of, name_of, processes_of, words_of
from tests.support import skip_without_prte

pytestmark = [pytest.mark.environment, pytest.mark.slow, pytest.mark.timeout(900)]
CLIENTS, TASKS, KILLS = 4, 3000, 20
READY_S = 60.0
ALL_S = 600.0
"""For a slow machine; it takes under four minutes on two busy cores."""


class Killer:
    """Kills what it finds below the environment's keeper, one kind after the other, and counts what it has hit."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._random = folder, random.Random(seed)  # noqa: S311 - no secret
        self.kills: list[str] = []

    def pause(self) -> None:
        """Mostly until the environment is at work again, so that there is something to lose; else in the middle."""
        if len(self.kills) % 4 != 3:
            deadline = time.monotonic() + READY_S
            while not self._is_ready() and time.monotonic() < deadline:
                time.sleep(0.2)
        time.sleep(self._random.uniform(0.2, 2.0))

    def _is_ready(self) -> bool:
        try:
            with connect(self._folder / FILE_NAME, timeout_s=5) as qpm:
                return qpm.is_ready()
        except QSimEnvError:
            return False

    def kill_one(self) -> None:
        """Kill something; nothing happens where nothing of the kind is there just now."""
        kind = ("worker", "prte", "worker", "controller", "worker", "worker", "instance", "controller")[
            len(self.kills) % 8
        ]
        victims = [process for process in self._family() if _kind(process) == kind.replace("instance", "worker")]
        if not victims:
            return
        for victim in victims if kind == "instance" else [self._random.choice(victims)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGKILL)
        self.kills.append(kind)

    def _family(self) -> list[psutil.Process]:
        with contextlib.suppress(OSError, ValueError):
            return family_of(int((self._folder / "lock").read_text(encoding="ascii")))
        return []


def _kind(process: psutil.Process) -> str:
    if name_of(process) in ("prte", "prted", "prterun"):
        return "prte"
    words = words_of(process)
    if "qsimenv.qpm_plugin.worker" in words and "python" in name_of(process):
        return "worker"
    return "controller" if "qsimenv.launcher.serving" in words else ""


def lines_of(path: Path) -> Iterator[tuple[int, str, str, dict[str, int] | None]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield tuple(json.loads(line))


def test_chaos(folder: Path, tmp_path: Path) -> None:
    skip_without_prte()
    environment.start(ranks_per_node=2)
    share = TASKS // CLIENTS
    outs = [tmp_path / f"client-{number}" for number in range(CLIENTS)]
    clients = [
        subprocess.Popen(
            [sys.executable, chaos_client.__file__, str(folder / FILE_NAME), str(k * share), str(share), str(out)]
        )
        for k, out in enumerate(outs)
    ]
    try:
        killer = Killer(folder, seed=1)
        deadline = time.monotonic() + ALL_S
        while any(client.poll() is None for client in clients) or len(killer.kills) < KILLS:
            assert time.monotonic() < deadline, f"not done; killed: {killer.kills}"
            assert (folder / LOCK_NAME).exists(), "the keeper has given up"
            killer.pause()
            killer.kill_one()
    finally:
        for client in clients:
            client.kill()
            client.wait()
    assert [client.returncode for client in clients] == [0] * CLIENTS
    seen = {seed: (task_id, state, counts) for out in outs for seed, task_id, state, counts in lines_of(out)}
    assert sum(len(list(lines_of(out))) for out in outs) == TASKS
    assert set(seen) == set(range(TASKS))
    for seed, (_, state, counts) in seen.items():
        assert state == "DONE", seed
        task = chaos_client.task_of(seed)
        assert counts == qs.run(task.circuit, shots=task.shots, seed=seed).counts, seed
    assert_nothing_was_doubled(folder)
    environment.stop()
    assert not folder.exists()
    assert not processes_of(folder)
    assert not list(Path("/dev/shm").glob(f"{memory_mark(folder)}*"))  # noqa: S108 - where it lives


def assert_nothing_was_doubled(folder: Path) -> None:
    """Each task is in the environment's books once, and has ended."""
    with connect(folder / FILE_NAME, timeout_s=60) as qpm:
        records = qpm.status()
        assert sorted(int(record.name) for record in records) == list(range(TASKS))
        assert {record.state.name for record in records} == {"DONE"}
        assert qpm.peek_cq() == []
