"""Where records come from: the running environment, or the journal that a stopped or killed one left behind.

``qsimenv log`` and ``report`` ask here and do not mind which it was.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

from qsimenv.errors import InvalidArgumentError, NotFoundError
from qsimenv.qpm_plugin.api import TaskRecord
from qsimenv.qpm_plugin.records import Filter

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class History(NamedTuple):
    """Records in order of submission. ``ranks``: how many the environment has, 0 where that is not known any more."""

    name: str
    records: list[TaskRecord]
    ranks: int
    source: str


def run_folder(name: str | None) -> Path:
    """The run folder of a named environment; without a name the one that clients find by themselves."""
    from qsimenv.qpm_plugin.connection import CONNECTION_VARIABLE, default_run_folder

    named = os.environ.get(CONNECTION_VARIABLE)
    if named and name is None:
        return Path(named).absolute().parent
    return default_run_folder("default" if name is None else name)


def is_served(folder: Path) -> bool:
    """Whether to ask an environment; else its journal is all there is. One without a lock may run on another host."""
    from qsimenv.launcher.environment import is_running
    from qsimenv.launcher.folder import LOCK_NAME
    from qsimenv.qpm_plugin.connection import FILE_NAME

    return (folder / FILE_NAME).exists() and (not (folder / LOCK_NAME).exists() or is_running(folder))


def read(name: str | None, wanted: Filter, limit: int = 0) -> History:
    """The newest ``limit`` records that are ``wanted`` (0: all). NotFoundError without environment and journal."""
    from qsimenv.qpm_plugin.client import connect
    from qsimenv.qpm_plugin.connection import FILE_NAME
    from qsimenv.qpm_plugin.journal import FILE_NAME as JOURNAL_NAME
    from qsimenv.qpm_plugin.ledger import read_records

    folder = run_folder(name)
    if is_served(folder):
        with connect(folder / FILE_NAME) as qpm:
            facts = qpm.describe()
            return History(facts["name"], qpm.log(wanted, limit), facts["ranks"], "the running environment")
    journal = folder / JOURNAL_NAME
    if not journal.exists():
        raise NotFoundError(f"log: in {folder} no environment is running and none has left a journal; start one")
    found = [record for record in read_records(journal) if wanted.matches(record)]
    return History(name or folder.name, found[-limit:] if limit else found, 0, str(journal))


def moment(text: str, now: float | None = None) -> float:
    """``90s``, ``10m``, ``2h``, ``1d`` ago, or an ISO date and time of this time zone, in seconds since the epoch.

    Raises InvalidArgumentError.
    """
    from datetime import datetime

    number, unit = text[:-1], text[-1:]
    if unit in _UNITS and number.replace(".", "", 1).isdecimal():
        return (time.time() if now is None else now) - float(number) * _UNITS[unit]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise InvalidArgumentError(
            f"since: {text!r} found; needed is a time ago like 10m, 2h or 1d, or a date like 2026-05-17T09:30"
        ) from None
