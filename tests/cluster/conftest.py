"""One mini-cluster for all tests of this folder; skipped with the reason where there can be none."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster import cluster as mini


def require(reason: str | None) -> None:
    """Skip for this reason, or fail where QSIMENV_REQUIRE names `cluster`."""
    if reason is None:
        return
    if "cluster" in os.environ.get("QSIMENV_REQUIRE", ""):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mini.Cluster]:
    require(mini.missing())
    output = tmp_path_factory.mktemp("cluster") / "output"
    with mini.running(3, shared=[tmp_path_factory.getbasetemp()], output=output) as made:
        yield made


@pytest.fixture
def cluster(_running: mini.Cluster) -> Iterator[mini.Cluster]:
    """Three hosts with Slurm; a test must leave them as it found them."""
    _running.cancel_all()
    yield _running
    _running.cancel_all()
    _running.assert_clean()
