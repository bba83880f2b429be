"""How long a circuit should take on a machine that need not be at hand: the planner's own plan, and rates.

``predict`` and ``scaling`` call it. Pure but for the reading of a file: plans are made without running. Sweeps cost
what ``costs.cost`` says of them. An exchange costs what its bytes take inside a node and between nodes, one after the
other, as a rank trades with its partners in turn, and what it takes to put them in their places in memory.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from qsimenv import memory
from qsimenv.circuit import Circuit, Gate
from qsimenv.errors import InvalidArgumentError, NotFoundError
from qsimenv.statevec.costs import rates as measured
from qsimenv.statevec.costs.cost import Machine, cost_of
from qsimenv.statevec.costs.rates import PASS_KINDS, PassRates, Rates
from qsimenv.statevec.encoding.encode import encode
from qsimenv.statevec.kernels.sweep_numba import block_bits
from qsimenv.statevec.planning.plan import Plan
from qsimenv.statevec.planning.planner import plan_from_zero
from qsimenv.statevec.planning.program import lower
from qsimenv.task import AMPLITUDE_BYTES, Precision

MACHINES = Path(__file__).parent / "machines"
HERE = "here"
BUFFERS = 1.125
"""Times the state: what a rank needs with the buffers of an exchange (``exchange`` keeps them below an eighth)."""


@dataclass(frozen=True)
class Links:
    """``inside_bytes_per_s``: what a rank sends to another of its node while it receives as much;
    ``between_bytes_per_s``: what all ranks of a node send to other nodes; ``message_s``: for each partner."""

    inside_bytes_per_s: float
    between_bytes_per_s: float
    message_s: float


@dataclass(frozen=True)
class Site:
    """A machine in numbers. ``rank_bytes``: memory of a rank; ``block_bits``, ``low_bits``: of a sweep's block, and the
    lowest of them that every block has, by precision. None: as they are on processors."""

    name: str
    rates: Rates
    links: Links
    ranks_per_node: int
    rank_bytes: float
    threads: float = 1
    block_bits: Mapping[Precision, int] | None = None
    low_bits: Mapping[Precision, int] | None = None
    assumptions: tuple[str, ...] = ()

    @property
    def machine(self) -> Machine:
        return Machine(self.rates, self.threads, self.ranks_per_node)


@dataclass(frozen=True)
class Traffic:
    """What one rank sends in an exchange."""

    inside_bytes: int = 0
    between_bytes: int = 0
    partners: int = 0

    @property
    def bytes(self) -> int:
        return self.inside_bytes + self.between_bytes

    def seconds(self, site: Site) -> float:
        links = site.links
        between_s = self.between_bytes * site.ranks_per_node / links.between_bytes_per_s
        sent_s = self.inside_bytes / links.inside_bytes_per_s + between_s + self.partners * links.message_s
        return sent_s + 2 * self.bytes * site.ranks_per_node / site.rates.memory_bytes_per_s


@dataclass(frozen=True)
class StageTimes:
    """One stage of one rank: its exchange, and the sweeps after it."""

    pairs: int
    traffic: Traffic
    exchange_s: float
    sweeps: int
    sweep_bytes: int
    sweep_s: float


@dataclass(frozen=True)
class Prediction:
    """A circuit on so many nodes. Seconds do not hold the planning, which every rank does for itself."""

    circuit: str
    num_qubits: int
    precision: Precision
    nodes: int
    ranks: int
    stages: tuple[StageTimes, ...]

    @property
    def state_bytes(self) -> int:
        """Of one rank."""
        return (AMPLITUDE_BYTES[self.precision] << self.num_qubits) // self.ranks

    @cached_property
    def sweep_s(self) -> float:
        return sum(stage.sweep_s for stage in self.stages)

    @cached_property
    def exchange_s(self) -> float:
        return sum(stage.exchange_s for stage in self.stages)

    @property
    def seconds(self) -> float:
        return self.sweep_s + self.exchange_s


def predict(circuit: Circuit, site: Site, nodes: int, precision: Precision) -> Prediction:
    """The plan for ``nodes`` nodes and what it should take there. Raises InvalidArgumentError for a number of ranks
    that is no power of two or more than the amplitudes, or a circuit that is more than gates.

    Costs the planning and encoding: milliseconds.
    """
    ranks = nodes * site.ranks_per_node
    num_local = circuit.num_qubits - (ranks.bit_length() - 1)
    if ranks & (ranks - 1) or num_local < 1:
        raise InvalidArgumentError(
            f"predict: {nodes} nodes x {site.ranks_per_node} ranks found for {circuit.num_qubits} qubits, a power of "
            f"two of at most {1 << (circuit.num_qubits - 1)} ranks needed"
        )
    size = site.block_bits[precision] if site.block_bits else block_bits(num_local, max(1, round(site.threads)))
    low_bits = site.low_bits[precision] if site.low_bits else None
    plan = plan_from_zero(_gates(circuit), circuit.num_qubits, num_local, size, low_bits)
    cost = cost_of(plan, encode(plan, (), precision, from_zero=True), precision)
    sent = traffic(plan, AMPLITUDE_BYTES[precision], site.ranks_per_node.bit_length() - 1)
    stages = []
    for stage, each, sweeps in zip(plan.stages, sent, cost.stages, strict=True):
        real = [sweep for sweep in sweeps if sweep]
        sweep_s = sum(sweep.predicted_s(site.machine, precision) for sweep in real)
        sweep_bytes = sum(sweep.bytes for sweep in real)
        stages.append(
            StageTimes(len(stage.exchange), each, each.seconds(site), len(real), sweep_bytes, sweep_s),
        )
    return Prediction(circuit.name, circuit.num_qubits, precision, nodes, ranks, tuple(stages))


def traffic(plan: Plan, amplitude_bytes: int, node_bits: int) -> list[Traffic]:
    """What one rank sends before each stage, on |0…0>, where ranks are numbered node by node: the lowest ``node_bits``
    of the rank bits tell ranks of one node apart. The first trade of a rank bit is free (see ``Plan.bytes_sent``)."""
    num_local, traded, found = plan.start.num_local, set[int](), list[Traffic]()
    for stage in plan.stages:
        bits = {rank for _, rank in stage.exchange}
        paid = bits & traded
        traded |= bits
        near = sum(bit < num_local + node_bits for bit in paid)
        slot = amplitude_bytes << num_local >> len(paid)
        inside = (1 << near) - 1
        partners = (1 << len(paid)) - 1
        found.append(Traffic(inside * slot, (partners - inside) * slot, partners))
    return found


def fewest_nodes(circuit: Circuit, site: Site, precision: Precision) -> int:
    """The smallest power of two of nodes whose memory holds the state and its buffers."""
    nodes, needed = 1, BUFFERS * (AMPLITUDE_BYTES[precision] << circuit.num_qubits)
    while nodes * site.ranks_per_node * site.rank_bytes < needed:
        nodes *= 2
    return nodes


def efficiency(made: Prediction, base: Prediction) -> float:
    """What part of its nodes' time is put to use, against the same circuit on ``base.nodes`` nodes."""
    return base.seconds * base.nodes / (made.seconds * made.nodes)


def _gates(circuit: Circuit) -> Sequence[Gate]:
    program = lower(circuit)
    if not program.is_static or len(program.segments) != 1:
        raise InvalidArgumentError(
            f"predict: {circuit.name} measures or branches in the middle, its sweeps hang on outcomes; leave that out"
        )
    return program.segments[0]


# --- machines ---


class _Reached(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    memory: float
    block: float
    inside: float
    between: float


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file in ``machines/`` says; each field has its meaning beside it there."""

    description: str
    source: str
    ranks_per_node: int
    rank_bytes: float
    memory_bytes_per_s: float
    block_bits: dict[Precision, int]
    line_bytes: int
    block_bytes_per_s: float
    flops_per_s: dict[Precision, float]
    sweep_s: float
    inside_bytes_per_s: float
    between_bytes_per_s: float
    message_s: float
    reached: _Reached
    assumptions: tuple[str, ...] = ()


def machines() -> list[str]:
    """The machines whose rates are at hand."""
    return sorted(path.stem for path in MACHINES.glob("*.toml"))


def read_site(name: str) -> Site:
    """A machine of ours by its name, or the file at a path. Raises NotFoundError, InvalidArgumentError."""
    path = Path(name) if "/" in name or name.endswith(".toml") else MACHINES / f"{name}.toml"
    try:
        given = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
    except OSError as error:
        raise NotFoundError(
            f"predict: {path} cannot be read ({error.strerror}); give a path or one of here, {', '.join(machines())}"
        ) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InvalidArgumentError(f"predict: {path}: {error}; see {MACHINES / 'frontier.toml'}") from None
    return _site(path.stem, given)


def site_here(ranks: int, threads: int | None = None) -> Site:
    """This machine with so many ranks on it, at the rates that were measured, or at assumed ones, which say so.

    ``threads`` a rank; None: as many as the cores allow.
    """
    found, cores = measured.load(), len(os.sched_getaffinity(0))
    links = Links(found.exchange_bytes_per_s, float("inf"), found.exchange_s)
    crowded = (f"{ranks} ranks share {cores} cores",) if ranks > cores else ()
    assumptions = ("every pair of ranks exchanges at the rate of one pair", *crowded)
    free = memory.free_bytes() / ranks
    return Site(HERE, found, links, ranks, free, threads=min(threads or cores, cores / ranks), assumptions=assumptions)


def _site(name: str, given: _File) -> Site:
    reached = given.reached
    passes = {
        precision: PassRates(
            flops,
            **dict.fromkeys(PASS_KINDS, 2 * AMPLITUDE_BYTES[precision] / (given.block_bytes_per_s * reached.block)),
        )
        for precision, flops in given.flops_per_s.items()
    }
    rates = Rates(
        source=given.source,
        memory_bytes_per_s=given.memory_bytes_per_s * reached.memory * given.ranks_per_node,
        sweep_s=given.sweep_s,
        exchange_bytes_per_s=given.inside_bytes_per_s * reached.inside,
        exchange_s=given.message_s,
        single=passes["single"],
        double=passes["double"],
    )
    links = Links(
        given.inside_bytes_per_s * reached.inside, given.between_bytes_per_s * reached.between, given.message_s
    )
    shares = ", ".join(f"{field} {100 * getattr(reached, field):.0f} %" for field in reached.__struct_fields__)
    assumptions = (f"reached of the peaks: {shares}", *given.assumptions)
    real_bytes = {precision: AMPLITUDE_BYTES[precision] // 2 for precision in given.block_bits}
    low_bits = {precision: (given.line_bytes // size).bit_length() - 1 for precision, size in real_bytes.items()}
    return Site(name, rates, links, given.ranks_per_node, given.rank_bytes, 1, given.block_bits, low_bits, assumptions)
