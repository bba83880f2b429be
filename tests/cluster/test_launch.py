"""Launching on several hosts: by PRTE through an agent, and by srun; all nodes are asked, and only those meant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import qsimenv as qs
from tests.cluster import cluster as mini
from tests.cluster.cluster import LOGIN, Cluster
from tests.support import EXAMPLES

pytestmark = [pytest.mark.environment, pytest.mark.slow, pytest.mark.timeout(600)]

SERVE = """
set -e
trap 'qsimenv stop' EXIT
qsimenv start --timeout 120 "$@" >&2
qsimenv status --json
qsimenv submit examples/ghz.qasm --shots 1000 --seed 7 --wait --json
"""
PROFILE = f"""
description = "the mini-cluster without Slurm"
ranks_per_node = 2
network = "{mini.NETWORK}"
ssh_agent = "{mini.AGENT}"
"""


@pytest.fixture
def run_folder(tmp_path: Path, compiled: None) -> Iterator[Path]:
    """Must be gone at the end."""
    yield tmp_path / "run"
    assert not (tmp_path / "run").exists()


def serve(
    cluster: Cluster, run_folder: Path, host: str, *before: str, options: tuple[str, ...], **environ: str
) -> dict:  # type: ignore[type-arg]
    """Start an environment, run one circuit, stop; what it said of itself. The counts must be those of one process."""
    out = cluster.run(
        host,
        *before,
        "bash",
        "-c",
        SERVE,
        "serve",
        *options,
        timeout_s=240,
        QSIMENV_RUN_FOLDER=str(run_folder),
        **environ,
    )
    status, answer = (json.loads(line) for line in out.splitlines())
    counts = qs.run(EXAMPLES / "ghz.qasm", shots=1000, seed=7).counts
    assert [record["result"]["counts"] for record in answer["tasks"]] == [counts]
    device: dict = status["device"]  # type: ignore[type-arg]
    return device


def hosts_of(device: dict) -> list[str]:  # type: ignore[type-arg]
    return [worker["host"] for worker in device["workers"]]


def test_prte_reaches_hosts_through_the_agent(cluster: Cluster, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(PROFILE)
    options = ("--hosts", "node2:2,node3:2", "--profile", str(tmp_path / "site.toml"))
    device = serve(cluster, run_folder, "node1", options=options)
    assert hosts_of(device) == ["node2", "node2", "node3", "node3"]
    assert device["controller"]["host"] == "node1"


@pytest.mark.parametrize("profile", ["generic-slurm", "frontier"])
def test_both_worlds_in_a_slurm_allocation(profile: str, cluster: Cluster, run_folder: Path) -> None:
    """PRTE with Open MPI; and srun with the MPI that Slurm serves: PMIx here, Cray's on Frontier."""
    allocation = ("salloc", "--quiet", "--partition=quantum", "--nodes=2", "--exclusive", "--gpus-per-node=8")
    options = ("--profile", profile, "--ranks-per-node", "2")
    device = serve(cluster, run_folder, LOGIN, *allocation, options=options, SLURM_MPI_TYPE="pmix")
    assert hosts_of(device) == ["node2", "node2", "node3", "node3"]
    assert (device["launcher"]["kind"] == "srun") == (profile == "frontier")


@pytest.mark.parametrize("kind", ["pmix", "prterun"])
def test_a_node_that_does_not_answer_is_told(kind: str, cluster: Cluster, run_folder: Path, tmp_path: Path) -> None:
    """The cable of node3 is pulled: the start must end with one line, and leave nothing on the node that answered."""
    (tmp_path / "site.toml").write_text(PROFILE)
    command = ("qsimenv", "start", "--hosts", "node2:2,node3:2", "--profile", tmp_path / "site.toml", "--timeout", "8")
    cluster.cut("node3")
    try:
        process = cluster.popen("node1", *command, QSIMENV_RUN_FOLDER=str(run_folder), QSIMENV_LAUNCHER=kind)
        out, err = process.communicate(timeout=120)
    finally:
        cluster.mend("node3")
    assert process.returncode == 2, (out, err)
    assert err.splitlines()[-1].startswith("qsimenv: start"), err
