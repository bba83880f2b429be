"""What a test run is made of: the device that states live on, what `make check` has left, and what runs together.

``pytest --device gpu``, or ``--device stand-in`` without a GPU. `make test` gives two processes the files one by one:
one begins with the mini-cluster, which mostly waits, the other with the longest of the rest.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CLUSTER = "tests/cluster/"
FIRST = ("cluster", "mpi", "faults", "unit")
"""Folders whose tests take longest: they begin, so that no process works alone at the end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=("auto", "cpu", "gpu", "stand-in"),
        default="auto",
        help="where states live. auto: on a GPU if there is one. gpu: small circuits too. stand-in: the GPU's kernels, "
        "compiled by g++ and run on the CPU; for tests in this process and under mpirun.",
    )
    parser.addoption(
        "--beyond-check", action="store_true", help="without the tests of `make check`: layers, and the fast unit tests"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was run already, and begin with what takes longest."""
    if config.getoption("--beyond-check"):
        checked = [item for item in items if _is_checked(item)]
        config.hook.pytest_deselected(items=checked)
        items[:] = sorted((item for item in items if not _is_checked(item)), key=_turn)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For ``--dist loadfile``: the mini-cluster's files go to one process, which starts it; the others one by one."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByFolderOrFile(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return CLUSTER if file.startswith(CLUSTER) else file

    return ByFolderOrFile(config, log)


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""


def _is_checked(item: pytest.Item) -> bool:
    marked = any(item.get_closest_marker(name) for name in ("slow", "environment"))
    return _folder(item) == "test_layers.py" or (_folder(item) == "unit" and not marked)


def _turn(item: pytest.Item) -> int:
    return FIRST.index(_folder(item)) if _folder(item) in FIRST else len(FIRST)


def pytest_configure(config: pytest.Config) -> None:
    """Before any test file is imported."""
    from qsimenv import arrays

    device = config.getoption("--device")
    if device == "auto" and not arrays.has_gpu():
        return
    os.environ["QSIMENV_DEVICE"] = "cpu" if device == "cpu" else "gpu"
    if device == "stand-in":
        from tests.gpu.stand_in import StandIn

        arrays.set_gpu(StandIn(takes_messages=os.environ.get("QSIMENV_GPU_AWARE_MPI") == "1"))
