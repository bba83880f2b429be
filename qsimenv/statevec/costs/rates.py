"""Rates: how fast this machine moves and computes, as the cost model (``cost``) wants to know it.

Measured once by ``calibrate`` (``qsimenv doctor --measure``) and kept in the user's cache folder, one file a kind of
machine. ``QSIMENV_RATES`` names another file, for machines that are planned for but not at hand. Without a
measurement there are assumed rates of an ordinary machine, which say that they are.
"""

from __future__ import annotations

import hashlib
import os
import platform
from functools import lru_cache
from pathlib import Path

import msgspec

from qsimenv.errors import InvalidArgumentError
from qsimenv.task import Precision

PASS_KINDS = ("rotate", "phases", "permute", "dense", "plain")
"""What ``cost`` tells apart: rotations, quadratic phases, affine permutation, dense matrices (the figure is that of one
on two bits), all others."""


class PassRates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One precision. ``flops_per_s``: peak of one thread. The others: seconds an amplitude and thread of one pass."""

    flops_per_s: float
    rotate: float
    phases: float
    permute: float
    dense: float
    plain: float

    def seconds(self, kind: str) -> float:
        """Seconds an amplitude and thread of one pass of a kind."""
        cost: float = getattr(self, kind)
        return cost


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``memory_bytes_per_s``: what all threads of a node read plus write together while they sweep over a state.
    ``store_bytes_per_s``: what they write where they read next to nothing; 0 where that was not measured.
    ``exchange_bytes_per_s``: what a rank sends while it receives as much. ``sweep_s``, ``exchange_s``: what it costs to
    start one, however small it is. ``source``: where the figures come from."""

    source: str
    memory_bytes_per_s: float
    sweep_s: float
    exchange_bytes_per_s: float
    exchange_s: float
    single: PassRates
    double: PassRates
    store_bytes_per_s: float = 0.0

    def memory_s(self, num_bytes: float, stored_bytes: float = 0.0) -> float:
        """Seconds of a node to move so many bytes, of which ``stored_bytes`` are written without being read."""
        moved_s = (num_bytes - stored_bytes) / self.memory_bytes_per_s
        return moved_s + stored_bytes / (self.store_bytes_per_s or self.memory_bytes_per_s)

    def of(self, precision: Precision) -> PassRates:
        return self.single if precision == "single" else self.double


ASSUMED = Rates(
    source="assumed, not measured: `qsimenv doctor --measure` measures this machine",
    memory_bytes_per_s=20e9,
    sweep_s=5e-5,
    exchange_bytes_per_s=5e9,
    exchange_s=5e-5,
    single=PassRates(50e9, 4e-10, 4e-10, 1e-9, 8e-10, 8e-10),
    double=PassRates(25e9, 8e-10, 8e-10, 2e-9, 1.6e-9, 1.6e-9),
)


def rates_file() -> Path:
    """Where the rates of this kind of machine are kept: ``QSIMENV_RATES``, or the user's cache folder."""
    named = os.environ.get("QSIMENV_RATES")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "qsimenv" / f"rates-{_machine_key()}.json"


def load() -> Rates:
    """The rates of this machine, or assumed ones. Raises InvalidArgumentError where a named file cannot be used."""
    path = rates_file()
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        if os.environ.get("QSIMENV_RATES"):
            raise InvalidArgumentError(f"rates: QSIMENV_RATES names {path}, which is not there; unset it") from None
        return ASSUMED
    return _read(path, stamp)


def save(rates: Rates) -> Path:
    """Keep the rates for this kind of machine; returns the file. Raises InvalidArgumentError where that cannot be."""
    path = rates_file()
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(rates), indent=2) + b"\n")
        fresh.replace(path)
    except OSError as error:
        raise InvalidArgumentError(
            f"rates: {path} cannot be written ({error.strerror}); name a file with QSIMENV_RATES"
        ) from None
    return path


@lru_cache(maxsize=4)
def _read(path: Path, stamp: int) -> Rates:
    """The file as it was at ``stamp``: read again only when it changes."""
    try:
        rates = msgspec.json.decode(path.read_bytes(), type=Rates)
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidArgumentError(f"rates: {path} holds no rates ({error}); delete it and measure again") from None
    for name in ("memory_bytes_per_s", "exchange_bytes_per_s"):
        if not getattr(rates, name) > 0:
            raise InvalidArgumentError(f"rates: {name} in {path} is {getattr(rates, name)}, more than 0 is needed")
    return rates


@lru_cache(maxsize=1)
def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _machine_key() -> str:
    """Tells kinds of machines apart whose users share a home folder."""
    return hashlib.sha256(f"{processor()} {os.cpu_count()}".encode()).hexdigest()[:12]
