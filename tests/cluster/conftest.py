"""One mini-cluster for all tests of this folder; skipped with the reason where there can be none."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import qsimenv as qs
from tests.cluster import cluster as mini
from tests.support import EXAMPLES


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


@pytest.fixture(scope="session")
def compiled() -> None:
    """The kernels are there, as far as one rank needs them: time limits of jobs are not for the compiler."""
    for name in ("adder", "bell", "ghz", "qft", "teleport", "tfim"):
        qs.run(EXAMPLES / f"{name}.qasm", shots=10, seed=1)
    qs.run(EXAMPLES / "ansatz" / "hydrogen.qasm", parameters={"theta": 0.1}, observables=["ZZ"])


@pytest.fixture
def cluster(_running: mini.Cluster) -> Iterator[mini.Cluster]:
    """Three hosts with Slurm; a test must leave them as it found them."""
    _running.cancel_all()
    yield _running
    _running.cancel_all()
    _running.assert_clean()
