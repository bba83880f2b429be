"""Site profiles: those that we ship, those of a site, and the placement that follows from them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qsimenv.errors import InvalidArgumentError, NotFoundError
from qsimenv.launcher.allocation import Allocation, Node, default_ranks_per_node, threads_per_core
from qsimenv.launcher.profiles import Placement, Profile, find_profile, launch_options, names, place

MACHINE = Allocation("machine", (Node("here", 8),))
SLURM = Allocation("slurm", (Node("n1", 64), Node("n2", 48)))
FRONTIER = Allocation("slurm", (Node("frontier00001", 112), Node("frontier00002", 112)))


def test_the_allocation_chooses_a_profile() -> None:
    assert names() == ["frontier", "generic-slurm", "workstation"]
    assert find_profile(None, MACHINE, {}) == find_profile("workstation", SLURM, {})
    assert find_profile(None, SLURM, {}) == find_profile("generic-slurm", MACHINE, {})
    assert find_profile(None, SLURM, {"QSIMENV_PROFILE": "frontier"}).launcher == "srun"
    assert find_profile("workstation", SLURM, {"QSIMENV_PROFILE": "frontier"}).launcher == "prte"


def test_frontier_uses_all_cores_and_devices() -> None:
    profile = find_profile("frontier", FRONTIER, {})
    placement = place(FRONTIER, profile, hardware_threads=2)
    assert placement == Placement(8, 7)
    options = launch_options(profile, placement)
    assert options.srun_options == ("--gpus-per-task=1", "--gpu-bind=closest")
    assert sorted(options.devices) == list(range(8))
    assert place(FRONTIER, profile, 4, hardware_threads=2) == Placement(4, 14)


def test_placement_uses_all_cores_of_the_smallest_node() -> None:
    profile = Profile(description="", ranks_per_node=4, bind_to="core")
    assert place(SLURM, profile, hardware_threads=1) == Placement(4, 12)
    assert place(SLURM, profile, hardware_threads=2) == Placement(4, 6)
    assert place(SLURM, profile, 100, hardware_threads=1) == Placement(100, None), "no whole core for each: not bound"
    assert place(SLURM, Profile(description="", ranks_per_node=4), hardware_threads=1) == Placement(4, None)
    assert place(SLURM, Profile(description=""), 3) == Placement(3, None)
    assert place(SLURM, Profile(description="")).ranks_per_node == default_ranks_per_node(SLURM)
    with pytest.raises(InvalidArgumentError, match="devices"):
        place(SLURM, Profile(description="", ranks_per_node="device"))


def test_threads_per_core(tmp_path: Path) -> None:
    topology = tmp_path / "cpu0" / "topology"
    topology.mkdir(parents=True)
    for text, threads in (("0", 1), ("0,64", 2), ("0-3", 4), ("", 1)):
        (topology / "thread_siblings_list").write_text(text)
        assert threads_per_core(tmp_path) == threads
    assert threads_per_core(tmp_path / "none") == 1


def test_a_sites_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'description = "mine"\nnetwork = "10.1.0.0/16"\nprte_mca = { a = "1" }\nranks_per_node = 3\n'
        '[environment]\nA = "b"\n[job]\nsbatch = ["--account=x"]\n'
    )
    profile = find_profile(str(path), MACHINE, dict(os.environ))
    assert (profile.environment, profile.job.sbatch, profile.job.modules) == ({"A": "b"}, ("--account=x",), ())
    options = launch_options(profile, place(MACHINE, profile))
    assert (options.network, options.prte_mca, options.cores_per_rank) == ("10.1.0.0/16", (("a", "1"),), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("launcher = 3", "launcher|description"),
        ('description = ""\nranks = 2', "ranks"),
        ('description = ""\nlauncher = "ssh"', "ssh"),
        ("description = ", "value"),
        ('description = ""\nranks_per_node = "gpu"', "ranks_per_node"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        find_profile(str(path), MACHINE, {})
    assert "\n" not in caught.value.message
    assert str(path) in caught.value.message


def test_an_unknown_profile_names_those_there_are(tmp_path: Path) -> None:
    for name in ("nowhere", str(tmp_path / "none.toml")):
        with pytest.raises(NotFoundError, match="frontier, generic-slurm, workstation"):
            find_profile(name, MACHINE, {})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidArgumentError, match="not text"):
        find_profile(str(tmp_path / "binary.toml"), MACHINE, {})
