"""Processes that may end while one looks at them: what is gone has no name and no words, and is not there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil

Named = psutil.Process | int
"""A process, or its number."""


def name_of(named: Named) -> str:
    """The name of its program."""
    with contextlib.suppress(psutil.Error):
        return str(_process(named).name())
    return ""


def words_of(named: Named) -> list[str]:
    """Its command line."""
    with contextlib.suppress(psutil.Error):
        return list(_process(named).cmdline())
    return []


def cpu_seconds_of(named: Named) -> float:
    """What it has computed."""
    with contextlib.suppress(psutil.Error):
        return float(_process(named).cpu_times().user)
    return 0.0


def is_there(named: Named) -> bool:
    """Whether it runs still; a zombie does not."""
    with contextlib.suppress(psutil.Error):
        process = _process(named)
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def family_of(named: Named) -> list[psutil.Process]:
    """All that it started, and what those started."""
    with contextlib.suppress(psutil.Error):
        return list(_process(named).children(recursive=True))
    return []


def kill_all(family: Iterable[Named]) -> None:
    """Kill what is left of them."""
    for named in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            _process(named).kill()


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process that names a folder on its command line or in its environment, but ourselves."""
    return [
        process
        for process in psutil.process_iter()
        if any(str(folder) in word for word in [*words_of(process), *_environment_of(process)])
        and process != psutil.Process()
        and is_there(process)
    ]


def _process(named: Named) -> psutil.Process:
    return psutil.Process(named) if isinstance(named, int) else named


def _environment_of(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error, OSError):
        return list(process.environ().values())
    return []
