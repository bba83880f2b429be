"""Where the workers may run: the nodes of a Slurm job, of a list of hosts, or this machine.

Pure Python over text and environment variables: nothing is started and no `scontrol` is needed. The launcher
hands an `Allocation` to PRTE (`commands.py`); `default_ranks_per_node` says how many workers suit one node.
"""

from __future__ import annotations

import itertools
import os
import platform
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from qsimenv.errors import InvalidArgumentError, NotFoundError

_HOST_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_CPU_SYSFS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Node:
    """One node and the number of cores we may use on it."""

    name: str
    cores: int


@dataclass(frozen=True)
class Allocation:
    """The nodes we may use and who gave them; `het_group` is the group of a heterogeneous Slurm job, else None.

    `left_out` names the nodes that were given, too, and that are not to be used.
    """

    source: Literal["machine", "hosts", "slurm"]
    nodes: tuple[Node, ...]
    het_group: int | None = None
    left_out: tuple[str, ...] = ()

    def only(self, names: Container[str]) -> Allocation:
        """The nodes of these names; the others are left out."""
        kept = tuple(node for node in self.nodes if node.name in names)
        left_out = tuple(node.name for node in self.nodes if node.name not in names)
        return replace(self, nodes=kept, left_out=self.left_out + left_out)


def find_allocation(
    hosts: str | None = None, environ: Mapping[str, str] = os.environ, het_group: int | None = None
) -> Allocation:
    """The allocation to use: `hosts` if given, else the Slurm job in `environ`, else this machine.

    `hosts` is ``a:2,b:2`` (cores after the colon), ``a,b`` (as many cores as this machine), ``@file`` or the path of
    a hostfile with lines ``name slots=2``. `het_group` chooses the group of a heterogeneous Slurm job.
    Raises InvalidArgumentError for a text that is not understood and NotFoundError for a missing hostfile.
    """
    if hosts is not None:
        if het_group is not None:
            raise InvalidArgumentError("find_allocation: a host list and a het group were given; give one of them")
        return Allocation("hosts", _nodes_of_hosts(hosts))
    if environ.get("SLURM_JOB_ID"):
        return _slurm_allocation(environ, het_group)
    if het_group is not None:
        raise InvalidArgumentError(f"find_allocation: het group {het_group} was asked for outside of a Slurm job")
    return Allocation("machine", (Node(platform.node() or "localhost", usable_cores()),))


def usable_cores() -> int:
    """The number of logical CPUs that this process may run on (its affinity mask)."""
    return len(os.sched_getaffinity(0))


def default_ranks_per_node(allocation: Allocation) -> int:
    """Workers per node: one per L3 domain of this machine, at least two, at most the cores of the smallest node."""
    cores = min(node.cores for node in allocation.nodes)
    return max(1, min(max(2, cache_domains()), cores))


def cache_domains(sysfs: Path = _CPU_SYSFS, cpus: frozenset[int] | None = None) -> int:
    """The number of last-level (L3) caches, or NUMA nodes where no L3 is shown, that our CPUs touch; at least 1."""
    mine = cpus if cpus is not None else frozenset(os.sched_getaffinity(0))
    caches = {name for cpu in mine if (name := _read(sysfs / f"cpu{cpu}/cache/index3/id"))}
    numa = {path.name for cpu in mine for path in (sysfs / f"cpu{cpu}").glob("node[0-9]*")}
    return max(1, len(caches or numa))


def threads_per_core(sysfs: Path = _CPU_SYSFS) -> int:
    """Hardware threads of one core of this machine; 1 where it does not tell."""
    text = _read(sysfs / "cpu0/topology/thread_siblings_list")
    counts = [int(last or first) - int(first) + 1 for first, last in re.findall(r"(\d+)(?:-(\d+))?", text)]
    return max(1, sum(counts))


def expand_nodelist(text: str) -> tuple[str, ...]:
    """Slurm's short form in full: ``node[01-03,07],login1`` gives node01, node02, node03, node07, login1."""
    names: list[str] = []
    for item in _split_outside_brackets(text):
        parts = re.split(r"\[([^\[\]]*)\]", item)
        if any("[" in part or "]" in part for part in parts) or not item:
            raise InvalidArgumentError(f"Slurm node list {text!r}: {item!r} is not a name or name[ranges]")
        choices = [_expand_ranges(part, text) if i % 2 else [part] for i, part in enumerate(parts)]
        names += ["".join(pieces) for pieces in itertools.product(*choices)]
    return tuple(names)


def expand_cpu_counts(text: str) -> tuple[int, ...]:
    """Slurm's SLURM_JOB_CPUS_PER_NODE in full: ``4(x2),8`` gives 4, 4, 8."""
    counts: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item.strip())
        if match is None:
            raise InvalidArgumentError(f"SLURM_JOB_CPUS_PER_NODE {text!r}: {item!r} is not a number or number(xtimes)")
        counts += [int(match[1])] * int(match[2] or 1)
    return tuple(counts)


def _slurm_allocation(environ: Mapping[str, str], het_group: int | None) -> Allocation:
    groups = environ.get("SLURM_HET_SIZE")
    if groups and het_group is None:
        raise InvalidArgumentError(f"find_allocation: this Slurm job has {groups} het groups; say which one to use")
    suffix = "" if het_group is None else f"_HET_GROUP_{het_group}"
    node_list = environ.get(f"SLURM_JOB_NODELIST{suffix}")
    if not node_list:
        raise InvalidArgumentError(
            f"find_allocation: Slurm job {environ['SLURM_JOB_ID']} sets no SLURM_JOB_NODELIST{suffix}; "
            "start inside the allocation (salloc, sbatch) or give a host list"
        )
    names = expand_nodelist(node_list)
    counts = expand_cpu_counts(environ.get(f"SLURM_JOB_CPUS_PER_NODE{suffix}") or f"1(x{len(names)})")
    if len(counts) != len(names):
        raise InvalidArgumentError(
            f"find_allocation: SLURM_JOB_NODELIST{suffix} names {len(names)} nodes, "
            f"SLURM_JOB_CPUS_PER_NODE{suffix} has {len(counts)} counts; they must agree"
        )
    return Allocation("slurm", tuple(map(Node, names, counts)), het_group)


def _nodes_of_hosts(hosts: str) -> tuple[Node, ...]:
    if hosts.startswith("@"):
        entries = _hostfile_entries(Path(hosts[1:]))
    elif "/" in hosts or _is_file(hosts):
        entries = _hostfile_entries(Path(hosts))
    else:
        entries = [_host_entry(item) for item in hosts.split(",") if item.strip()]
    cores: dict[str, int] = {}
    for name, count in entries:
        cores[name] = cores.get(name, 0) + (usable_cores() if count is None else count)
    if not cores:
        raise InvalidArgumentError(f"host list {hosts!r} names no host; write for example a:2,b:2")
    return tuple(Node(name, count) for name, count in cores.items())


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # a list of many hosts is too long for a name
        return False


def _hostfile_entries(path: Path) -> list[tuple[str, int | None]]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError(f"hostfile {str(path)!r} cannot be read: {error}") from None
    bare = [line.split("#", 1)[0].split() for line in lines]
    return [_hostfile_entry(words, path) for words in bare if words]


def _hostfile_entry(words: list[str], path: Path) -> tuple[str, int | None]:
    name, count = _host_entry(words[0])
    for word in words[1:]:
        match = re.fullmatch(r"(slots|max_slots|max-slots)=(\d+)", word)
        if match is None:
            raise InvalidArgumentError(f"hostfile {str(path)!r}: {word!r} is not understood; write `name slots=2`")
        if match[1] == "slots":
            count = int(match[2])
    if count == 0:
        raise InvalidArgumentError(f"hostfile {str(path)!r}: host {name} has 0 slots; it needs at least 1")
    return name, count


def _host_entry(text: str) -> tuple[str, int | None]:
    name, colon, count = text.strip().partition(":")
    if not _HOST_NAME.fullmatch(name):
        raise InvalidArgumentError(f"host list: {text.strip()!r} is not a host name or name:cores")
    if colon and not (count.isdecimal() and int(count) > 0):
        raise InvalidArgumentError(f"host list: {text.strip()!r} needs a positive number of cores after the colon")
    return name, int(count) if colon else None


def _split_outside_brackets(text: str) -> list[str]:
    return re.split(r",(?![^\[]*\])", text.strip())


def _expand_ranges(text: str, whole: str) -> list[str]:
    numbers: list[str] = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise InvalidArgumentError(f"Slurm node list {whole!r}: {item!r} is not a number or a rising range")
        width = len(match[1])
        numbers += [f"{n:0{width}d}" for n in range(int(match[1]), int(match[2] or match[1]) + 1)]
    return numbers


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
