"""Where workers may run, from text and environment variables alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qsimenv.errors import InvalidArgumentError, NotFoundError, QSimEnvError
from qsimenv.launcher.allocation import (
    Allocation,
    Node,
    cache_domains,
    default_ranks_per_node,
    expand_cpu_counts,
    expand_nodelist,
    find_allocation,
    usable_cores,
)

SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2],big", "SLURM_JOB_CPUS_PER_NODE": "4(x2),8"}
HET = {
    "SLURM_JOB_ID": "7",
    "SLURM_HET_SIZE": "2",
    "SLURM_JOB_NODELIST": "a1",
    "SLURM_JOB_CPUS_PER_NODE": "1",
    "SLURM_JOB_NODELIST_HET_GROUP_1": "b[08-10]",
    "SLURM_JOB_CPUS_PER_NODE_HET_GROUP_1": "56(x3)",
}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("login1", ["login1"]),
        ("node[01-03,07],login1", ["node01", "node02", "node03", "node07", "login1"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("r[1-2]n[1,3]", ["r1n1", "r1n3", "r2n1", "r2n3"]),
        ("a[1-2]-ib,b.site.org", ["a1-ib", "a2-ib", "b.site.org"]),
    ],
)
def test_nodelist(text: str, names: list[str]) -> None:
    assert list(expand_nodelist(text)) == names


@pytest.mark.parametrize("text", ["", "a,,b", "n[1-", "n1-3]", "n[]", "n[x]", "n[3-1]", "n[1,]", "n[[1]]"])
def test_broken_nodelist(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        expand_nodelist(text)


def test_cpu_counts() -> None:
    assert expand_cpu_counts("4(x2),8") == (4, 4, 8)
    assert expand_cpu_counts("1") == (1,)
    for text in ("", "4(2)", "x", "4(x)", "4,"):
        with pytest.raises(InvalidArgumentError):
            expand_cpu_counts(text)


def test_slurm_job() -> None:
    assert find_allocation(environ=SLURM) == Allocation("slurm", (Node("n1", 4), Node("n2", 4), Node("big", 8)))


def test_slurm_het_group() -> None:
    nodes = (Node("b08", 56), Node("b09", 56), Node("b10", 56))
    assert find_allocation(environ=HET, het_group=1) == Allocation("slurm", nodes, 1)


@pytest.mark.parametrize(
    ("environ", "het_group", "words"),
    [
        (HET, None, "2 het groups"),
        (HET, 5, "SLURM_JOB_NODELIST_HET_GROUP_5"),
        ({}, 1, "outside of a Slurm job"),
        ({"SLURM_JOB_ID": "7"}, None, "no SLURM_JOB_NODELIST"),
        ({**SLURM, "SLURM_JOB_CPUS_PER_NODE": "4"}, None, "names 3 nodes"),
    ],
)
def test_slurm_that_does_not_fit(environ: dict[str, str], het_group: int | None, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        find_allocation(environ=environ, het_group=het_group)


def test_this_machine() -> None:
    allocation = find_allocation(environ={})
    assert allocation.source == "machine"
    assert [node.cores for node in allocation.nodes] == [len(os.sched_getaffinity(0))]
    assert find_allocation(environ={"SLURM_JOB_NODELIST": "n1"}).source == "machine", "no job id: not in a job"


def test_hosts_win_over_slurm() -> None:
    assert find_allocation("a:2,b:3", SLURM) == Allocation("hosts", (Node("a", 2), Node("b", 3)))


def test_hosts_without_cores_and_twice() -> None:
    cores = usable_cores()
    assert find_allocation("a, b", {}).nodes == (Node("a", cores), Node("b", cores))
    assert find_allocation("a:1,b:1,a:2", {}).nodes == (Node("a", 3), Node("b", 1))


@pytest.mark.parametrize("hosts", ["", ",", "a:0", "a:x", "a:", ":2", "a b", "-x", "a:2:3"])
def test_broken_hosts(hosts: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        find_allocation(hosts, {})
    assert "\n" not in caught.value.message


def test_hosts_and_het_group_contradict() -> None:
    with pytest.raises(InvalidArgumentError):
        find_allocation("a:2", HET, het_group=1)


def test_hostfile(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# ours\na slots=2\n\nb:3   # big\nc max_slots=9 slots=4\n")
    nodes = (Node("a", 2), Node("b", 3), Node("c", 4))
    assert find_allocation(f"@{file}", {}).nodes == nodes
    assert find_allocation(str(file), {}).nodes == nodes


@pytest.mark.parametrize("text", ["", "# none\n", "a slot=2\n", "a slots=two\n", "a slots=0\n", "a b\n"])
def test_broken_hostfile(text: str, tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(InvalidArgumentError):
        find_allocation(f"@{file}", {})


def test_missing_hostfile() -> None:
    with pytest.raises(NotFoundError, match="no-such-file"):
        find_allocation("@no-such-file", {})
    with pytest.raises(QSimEnvError):
        find_allocation("folder/no-such-file", {})


def sysfs(folder: Path, caches: dict[int, str], numa: dict[int, int]) -> Path:
    for cpu, cache in caches.items():
        (folder / f"cpu{cpu}/cache/index3").mkdir(parents=True)
        (folder / f"cpu{cpu}/cache/index3/id").write_text(f"{cache}\n")
    for cpu, node in numa.items():
        (folder / f"cpu{cpu}/node{node}").mkdir(parents=True)
    return folder


def test_cache_domains(tmp_path: Path) -> None:
    machine = sysfs(tmp_path / "l3", {0: "0", 1: "0", 2: "1", 3: "1", 4: "4"}, dict.fromkeys(range(5), 0))
    assert cache_domains(machine, frozenset(range(5))) == 3
    assert cache_domains(machine, frozenset({2, 3})) == 1
    assert cache_domains(sysfs(tmp_path / "numa", {}, {0: 0, 1: 1}), frozenset({0, 1})) == 2
    assert cache_domains(tmp_path / "empty", frozenset({0, 1})) == 1


@pytest.mark.parametrize(("cores", "ranks"), [(1, 1), (2, 2), (64, None)])
def test_default_ranks_per_node(cores: int, ranks: int | None) -> None:
    expected = ranks if ranks is not None else min(64, max(2, cache_domains()))
    assert default_ranks_per_node(Allocation("hosts", (Node("a", 64), Node("b", cores)))) == expected


def test_a_list_of_many_hosts_is_no_file() -> None:
    names = [f"node{k}" for k in range(2000)]
    allocation = find_allocation(",".join(f"{name}:4" for name in names), {})
    assert [node.name for node in allocation.nodes] == names
