"""For the tests that run on the ranks of one MPI job (or on one rank without MPI): the oracle, and the team."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "oracle"))

from qsimenv import comm


@pytest.fixture(scope="session")
def team() -> comm.Team:
    """All ranks that were launched together; the tests need a power of two."""
    world = comm.world()
    if world.size & (world.size - 1):
        pytest.skip(f"{world.size} ranks are not a power of two")
    return world


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``--with-mpi`` the tests of this folder are left to test_launch, which runs them on 1, 2 and 4 ranks.

    pytest-mpi takes every test below a folder called ``mpi`` for marked; test_launch itself is an ordinary one.
    """
    if config.getoption("--with-mpi"):
        return
    for item in items:
        if item.get_closest_marker("mpi") is None:
            item.own_markers = [mark for mark in item.own_markers if "--with-mpi" not in mark.kwargs.get("reason", "")]
    here = Path(__file__).parent
    left_out = [item for item in items if item.path.parent == here and item.get_closest_marker("mpi") is not None]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
