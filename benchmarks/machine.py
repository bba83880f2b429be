"""What a figure was measured on and with: kept in every result file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from qsimenv.statevec.costs.rates import processor

RESULTS = Path(__file__).parent / "results"


def describe() -> dict[str, Any]:
    """Processor, cores, memory, commit and versions; and how many processes wanted a core in the last minute."""
    names = ("numpy", "numba", "mpi4py", "pyzmq", "msgspec", "qiskit")
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in names},
        "load_average": round(os.getloadavg()[0], 1),
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def save(name: str, figures: dict[str, Any]) -> Path:
    """Write ``results/<name>.json``: the figures and the machine."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": describe(), "figures": figures}, indent=2) + "\n", encoding="utf-8")
    return path


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return done.stdout.strip() or "unknown"
