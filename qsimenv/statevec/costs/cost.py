"""The cost model: what an encoded plan moves and computes, how long that takes, and how long it must take at least.

Pure functions of encoded sweeps and ``Rates``. The *bound* is what no program that runs this plan can beat: all bytes
at the memory's bandwidth, or all operations at the processor's peak, whichever takes longer. The *prediction* adds up
what each kind of pass was measured to cost on this machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qsimenv.circuit import Gate
from qsimenv.statevec.costs.rates import Rates
from qsimenv.statevec.encoding import rows as form
from qsimenv.statevec.encoding.rows import EncodedSweep
from qsimenv.statevec.planning.plan import Plan, Sweep
from qsimenv.statevec.planning.steps import mixed_qubits
from qsimenv.task import AMPLITUDE_BYTES, Precision

_MOST_LANE_BITS = 4
_TURN_WITH_PHASES = 1 / 6
"""What each bit that a row of phases turns costs, against the phases (measured: 1.25 ns a vector, 2.75 with six)."""
_SHARED = 4
"""Gates of one kind that share a pass; of controlled ones, which cancel or merge, its square."""
_MIXED_A_SWEEP = 30
"""Qubits that gates mix in one sweep."""


@dataclass(frozen=True)
class Machine:
    """What a team runs on: ``rates`` of its nodes, threads a rank (a half where two ranks share a core), and ranks that
    share a node's memory."""

    rates: Rates
    threads: float
    ranks_per_node: int = 1


@dataclass(frozen=True)
class SweepCost:
    """One sweep of one rank. ``passes``: amplitudes that each kind of pass (see ``rates.PASS_KINDS``) works on.

    Of its ``bytes`` read and written, ``stored_bytes`` are written where nothing was read.
    """

    bytes: int
    flops: float
    passes: Mapping[str, float] = field(default_factory=dict)
    stored_bytes: int = 0

    def __bool__(self) -> bool:
        return self.bytes > 0

    def bound_s(self, machine: Machine, precision: Precision) -> float:
        return max(self.memory_s(machine), self.flops / (machine.rates.of(precision).flops_per_s * machine.threads))

    def memory_s(self, machine: Machine) -> float:
        return machine.rates.memory_s(self.bytes, self.stored_bytes) * machine.ranks_per_node

    def predicted_s(self, machine: Machine, precision: Precision) -> float:
        rates = machine.rates.of(precision)
        work = sum(amplitudes * rates.seconds(kind) for kind, amplitudes in self.passes.items())
        return machine.rates.sweep_s + self.memory_s(machine) + work / machine.threads


NOTHING = SweepCost(0, 0.0)


@dataclass(frozen=True)
class PlanCost:
    """A whole plan of one rank: its sweeps by stage, and the bytes that it sends before each stage."""

    stages: tuple[tuple[SweepCost, ...], ...]
    sent: tuple[int, ...]
    precision: Precision

    @property
    def sweeps(self) -> list[SweepCost]:
        return [sweep for stage in self.stages for sweep in stage if sweep]

    def bound_s(self, machine: Machine) -> float:
        """Bytes over bandwidth or operations over peak, whichever is more; and the bytes sent over their rate."""
        sweeps = self.sweeps
        whole = SweepCost(
            sum(sweep.bytes for sweep in sweeps),
            sum(sweep.flops for sweep in sweeps),
            stored_bytes=sum(sweep.stored_bytes for sweep in sweeps),
        )
        return whole.bound_s(machine, self.precision) + sum(self.sent) / machine.rates.exchange_bytes_per_s

    def predicted_s(self, machine: Machine) -> float:
        swept = sum(sweep.predicted_s(machine, self.precision) for sweep in self.sweeps)
        return swept + sum(exchange_s(sent, machine) for sent in self.sent)


def exchange_s(num_bytes: int, machine: Machine) -> float:
    """Seconds to send so many bytes and receive as many."""
    return machine.rates.exchange_s + num_bytes / machine.rates.exchange_bytes_per_s if num_bytes else 0.0


def kinds_of(gate_list: Iterable[Gate]) -> Counter[tuple[int, bool]]:
    """Gates by how many qubits they mix, and whether they are controlled. Cost: some microseconds a gate."""
    return Counter((len(mixed_qubits(each)), each.num_controls > 0) for each in gate_list)


def rough_s(kinds: Mapping[tuple[int, bool], int], num_local: int, precision: Precision, machine: Machine) -> float:
    """Seconds that a circuit should take, from its gates (``kinds_of``) alone, without a plan: right within a factor of
    a few.

    Gates of a kind are thought to share passes as they do in the circuits that people run, and sweeps likewise.
    """
    work, mixing, rates = 0.0, 0.0, machine.rates.of(precision)
    for (mixed, is_controlled), number in kinds.items():
        mixing += number * (mixed / _SHARED if is_controlled else mixed)
        if mixed > 1:
            work += number * rates.seconds("dense") * 2.0 ** (mixed - 2)
        elif mixed and is_controlled:
            work += number * rates.seconds("permute") / _SHARED**2
        else:
            work += number * rates.seconds("rotate" if mixed else "phases") / _SHARED
    amplitudes = 2.0**num_local
    sweep = SweepCost(2 * AMPLITUDE_BYTES[precision] << num_local, 0.0)
    sweeps = 1 + mixing / _MIXED_A_SWEEP
    return sweeps * sweep.predicted_s(machine, precision) + work * amplitudes / machine.threads


def cost_of(
    plan: Plan, encoded: Sequence[Sequence[EncodedSweep]], precision: Precision, from_zero: bool = True
) -> PlanCost:
    """What one rank moves and computes to run ``plan``, ``from_zero``: on |0…0>. Cost: about a microsecond a pass.

    What is zero because no sweep has reached it yet is neither read nor worked on (see ``State``).
    """
    num_local = plan.start.num_local
    unset = -(1 << form.MOST_RUN_BITS) if from_zero else 0
    stages = []
    for stage, sweeps in zip(plan.stages, encoded, strict=True):
        unset = stage.unset_after_exchange(unset)
        costs, unset = _stage(stage.sweeps, sweeps, num_local, AMPLITUDE_BYTES[precision], unset)
        stages.append(costs)
    return PlanCost(tuple(stages), plan.bytes_sent(AMPLITUDE_BYTES[precision], from_zero), precision)


def _stage(
    planned: Sequence[Sweep], encoded: Sequence[EncodedSweep], num_local: int, amplitude_bytes: int, unset: int
) -> tuple[tuple[SweepCost, ...], int]:
    """A cost for each planned sweep (``NOTHING`` where the encoding found nothing left to do in it), and what is unset
    afterwards."""
    queue, costs = list(encoded), []
    for sweep in planned:
        outer = [bit for bit in range(num_local) if bit not in sweep.block]
        if not queue or queue[0].outer.tolist() != outer:
            costs.append(NOTHING)
            continue
        each = queue.pop(0)
        before, unset = unset, unset & ~each.mixes
        block = (1 << num_local) - 1 & ~sum(1 << bit for bit in outer)
        blocks = 1 << sum(not before >> bit & 1 for bit in outer)
        read, written = (blocks * amplitude_bytes << (block & ~mask).bit_count() for mask in (before, unset))
        flops, passes = _work(each, float(blocks << len(sweep.block)))
        costs.append(SweepCost(read + written, flops, passes, written - read))
    return tuple(costs), unset


def _work(sweep: EncodedSweep, amplitudes: float) -> tuple[float, dict[str, float]]:
    """Operations of a sweep, and the amplitudes that each kind of pass works on."""
    flops, passes = 0.0, dict[str, float]()
    for row in sweep.ops.tolist():
        kind, part, operations = _pass(row, sweep)
        passes[kind] = passes.get(kind, 0.0) + part * amplitudes
        flops += operations * amplitudes
    return flops, passes


def _pass(row: list[int], sweep: EncodedSweep) -> tuple[str, float, float]:
    """Kind of a pass, the part of the amplitudes that it works on, and its operations an amplitude."""
    kind, targets = row[form.KIND], row[form.NUM_TARGETS]
    if kind == form.ROTATE:
        at = row[form.OFFSET] + 4
        lanes = int((sweep.coefficients[at : at + _MOST_LANE_BITS] != 0).sum()) if row[form.HAS_LANES] else 0
        return "rotate", 1.0, 4.0 * (targets + lanes)
    if kind == form.QUADRATIC:
        part = 0.5 if row[form.BASE] else 1.0  # all terms share a bit: where it is 0 nothing is multiplied
        turns = row[form.NUM_TURNS]
        return "phases", part * (1.0 + turns * _TURN_WITH_PHASES), 6.0 * part + 4.0 * turns
    if kind == form.BUTTERFLIES:
        return "phases", 0.5 * targets, (3.0 + 2.0) * targets  # turned by sums and differences
    if kind == form.PERMUTE:
        return "permute", float(row[form.HAS_LANES]), 0.0  # without lanes it is done by the stores of the sweep
    if kind == form.ARRANGE:
        return "permute", 0.0, 0.0  # done by the loads
    if kind == form.SPREAD:
        return "plain", 0.0, 2.0  # done by the loads of the sweep, a product a number
    if kind == form.TWO_TARGETS:
        return "dense", 1.0, 24.0  # three real products a complex one; the additions have units of their own
    if kind == form.DENSE:
        part = 0.5 ** (row[form.NUM_FIXED] - targets + row[form.HAS_LANES] + row[form.OUTER_MASK].bit_count())
        return "dense", part * 2.0 ** (targets - 2), 6.0 * 2**targets * part
    controls = row[form.NUM_FIXED] - targets + row[form.OUTER_MASK].bit_count()
    part = 0.5**controls
    if kind == form.PHASE:
        return "plain", part / 2, 6 * part
    if kind in (form.FLIP, form.REAL):
        return "plain", part, (8.0 if kind == form.REAL else 0.0) * part
    return "plain", part * 2.0 ** (targets - 1), 8.0 * 2**targets * part
