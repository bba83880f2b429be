"""Site profiles: what differs between machines when ranks are launched, as small TOML files beside this one.

`find_profile` takes one of ours by name, or a site's own file by its path; `place` turns it and an allocation into
numbers. Both are pure but for the reading. `launcher/serving.py` launches by them, `qsimenv setup-job` writes scripts.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from qsimenv.errors import InvalidArgumentError, NotFoundError
from qsimenv.launcher.allocation import Allocation, default_ranks_per_node, threads_per_core
from qsimenv.launcher.commands import LaunchOptions

FOLDER = Path(__file__).parent
VARIABLE = "QSIMENV_PROFILE"


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What batch scripts on this site begin with: options of sbatch, and modules to load."""

    sbatch: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one kind of machine wants ranks launched. Every field has its meaning beside it in the TOML files."""

    description: str
    launcher: Literal["prte", "srun"] = "prte"
    ranks_per_node: int | Literal["cache", "device"] = "cache"
    bind_to: Literal["none", "core"] = "none"
    cores_per_node: int | None = None
    devices: tuple[int, ...] = ()
    device_variable: str | None = None
    ssh_agent: str | None = None
    network: str | None = None
    prte_mca: dict[str, str] = {}
    srun_options: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    job: Job = Job()


@dataclass(frozen=True)
class Placement:
    """Where ranks go: so many a node, each bound to so many cores (None: not bound, the cores are shared)."""

    ranks_per_node: int
    cores_per_rank: int | None = None


def names() -> list[str]:
    """The profiles that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find_profile(name: str | None, allocation: Allocation, environ: Mapping[str, str] = os.environ) -> Profile:
    """The profile ``name`` (one of ours, or the path of a file), else QSIMENV_PROFILE's, else what the allocation asks
    for: ``generic-slurm`` in a Slurm job, ``workstation`` outside.

    Raises NotFoundError for a name that is neither, InvalidArgumentError for a file that is not a profile.
    """
    return read_named(
        name or environ.get(VARIABLE) or ("generic-slurm" if allocation.source == "slurm" else "workstation")
    )


def read_named(name: str) -> Profile:
    """One of our profiles by its name, or the file at a path. Raises NotFoundError, InvalidArgumentError."""
    path = Path(name) if "/" in name or name.endswith(".toml") else FOLDER / f"{name}.toml"
    return read(path)


def read(path: Path) -> Profile:
    """The profile in a file. Raises NotFoundError, InvalidArgumentError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        known = ", ".join(names())
        raise NotFoundError(
            f"profile: {path} cannot be read ({error.strerror}); give a path or one of {known}"
        ) from None
    except UnicodeDecodeError:
        raise InvalidArgumentError(f"profile: {path} is not text; see {FOLDER / 'generic-slurm.toml'}") from None
    try:
        return msgspec.convert(tomllib.loads(text), Profile)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidArgumentError(f"profile: {path}: {reason}; see {FOLDER / 'generic-slurm.toml'}") from None


def place(
    allocation: Allocation, profile: Profile, ranks_per_node: int | None = None, hardware_threads: int | None = None
) -> Placement:
    """How many ranks a node, and how many cores each, so that all cores are used.

    ``ranks_per_node`` is what the user asked for, ``hardware_threads`` a core's (None: as on this machine; Slurm counts
    threads, PRTE binds to cores). Where a rank would not get a whole core nothing is bound. Raises InvalidArgumentError
    for a profile that wants a rank a device and names none.
    """
    ranks = ranks_per_node or _ranks_per_node(allocation, profile)
    if profile.bind_to == "none":
        return Placement(ranks)
    smallest = min(node.cores for node in allocation.nodes) // (hardware_threads or threads_per_core())
    cores = min(smallest, profile.cores_per_node or smallest) // ranks
    return Placement(ranks, cores or None)


def launch_options(profile: Profile, placement: Placement) -> LaunchOptions:
    """What the command lines need of both."""
    return LaunchOptions(
        world=profile.launcher,
        cores_per_rank=placement.cores_per_rank,
        devices=profile.devices,
        device_variable=profile.device_variable,
        ssh_agent=profile.ssh_agent,
        network=profile.network,
        prte_mca=tuple(profile.prte_mca.items()),
        srun_options=profile.srun_options,
    )


def _ranks_per_node(allocation: Allocation, profile: Profile) -> int:
    if isinstance(profile.ranks_per_node, int):
        return profile.ranks_per_node
    if profile.ranks_per_node == "cache":
        return default_ranks_per_node(allocation)
    if not profile.devices:
        raise InvalidArgumentError('profile: ranks_per_node = "device", but no devices are named; add devices = [0, 1]')
    return len(profile.devices)
