"""Planner: from a run of gates and a layout to stages of sweeps. Pure; the plan is a value that can be printed.

Two levels do the same thing. A *stage* is what can be done while one set of qubits is local; between two stages ranks
exchange bits. A *sweep* is what can be done while one block of bits is in cache. At both levels only the bits on which
a gate *mixes* amplitudes matter: controls and diagonal factors work anywhere, X and SWAP only rename. Gates that share
a qubit on which neither mixes commute, and may be taken out of order.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from qsimenv import gates
from qsimenv.circuit import Gate
from qsimenv.errors import OutOfRangeError
from qsimenv.statevec.layout import Layout

LOW_BITS = 7
"""Every block holds the lowest bits of the index, so that memory is read in runs of whole cache lines."""

Kind = Literal["matrix", "diagonal"]


@dataclass(frozen=True)
class Op:
    """One piece of a gate on index bits, as the kernels see it.

    ``matrix``: the part of gate ``gate``'s matrix that its unmixed targets' value ``unmixed_value`` picks, on ``bits``.
    ``diagonal``: the gate's diagonal as a table over ``bits``. ``flips`` tells (bit k for ``bits[k]``) which bits are
    stored inverted. The op acts where ``index & control_mask == control_value``.
    """

    gate: int
    kind: Kind
    bits: tuple[int, ...]
    flips: int
    control_mask: int
    control_value: int
    unmixed_value: int = 0


@dataclass(frozen=True)
class Sweep:
    """One pass over the rank's memory: a block of bits at a time, all ops on it. ``block`` is sorted."""

    block: tuple[int, ...]
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class Stage:
    """``exchange`` lists the (local bit, rank bit) pairs to trade first; then the sweeps."""

    exchange: tuple[tuple[int, int], ...]
    sweeps: tuple[Sweep, ...]


@dataclass(frozen=True)
class Plan:
    """How to run ``gates`` on a state in layout ``start``; it is in layout ``end`` afterwards."""

    gates: tuple[Gate, ...]
    start: Layout
    end: Layout
    stages: tuple[Stage, ...]

    @cached_property
    def num_exchanges(self) -> int:
        return sum(bool(stage.exchange) for stage in self.stages)

    @cached_property
    def num_sweeps(self) -> int:
        return sum(len(stage.sweeps) for stage in self.stages)

    def bytes_sent(self, amplitude_bytes: int, from_zero: bool = False) -> tuple[int, ...]:
        """Bytes that one rank sends before each stage. ``from_zero``: the start is |0…0>, and the first trade of a rank
        bit is free."""
        local, traded, sent = amplitude_bytes << self.start.num_local, set[int](), list[int]()
        for stage in self.stages:
            ranks = {rank for _, rank in stage.exchange}
            sent.append(local - (local >> len(ranks & traded if from_zero else ranks)))
            traded |= ranks
        return tuple(sent)

    def bytes_exchanged(self, amplitude_bytes: int, from_zero: bool = False) -> int:
        """Bytes that one rank sends in all."""
        return sum(self.bytes_sent(amplitude_bytes, from_zero))

    def __str__(self) -> str:
        lines = [
            f"{len(self.gates)} gates, {len(self.start.bits)} qubits ({self.start.num_local} local): "
            f"{len(self.stages)} stages, {self.num_exchanges} exchanges, {self.num_sweeps} sweeps"
        ]
        for number, stage in enumerate(self.stages):
            trade = ", ".join(f"{local}<->{rank}" for local, rank in stage.exchange) or "none"
            lines.append(f"stage {number}: exchange of bits {trade}")
            for sweep in stage.sweeps:
                lines.append(f"  sweep over bits {ranges_text(sweep.block)}: {len(sweep.ops)} ops")
                lines += [f"    {self.describe(op)}" for op in sweep.ops]
        return "\n".join(lines)

    def describe(self, op: Op) -> str:
        """One op in a line."""
        controls = [bit for bit in range(op.control_mask.bit_length()) if op.control_mask >> bit & 1]
        under = f" where bits {controls} are {[op.control_value >> bit & 1 for bit in controls]}" if controls else ""
        return f"{self.gates[op.gate].name} ({op.kind}) on bits {list(op.bits)}{under}"


def ranges_text(bits: Sequence[int]) -> str:
    """``0-5,9,11`` for a sorted row of numbers."""
    runs: list[list[int]] = []
    for bit in bits:
        if runs and bit == runs[-1][1] + 1:
            runs[-1][1] = bit
        else:
            runs.append([bit, bit])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


# --- what the planner needs to know of a gate ---


@dataclass(frozen=True)
class _Footprint:
    """``mixed``: qubits that must be in reach; ``renames``: X and SWAP without controls, done in the layout."""

    mixed: tuple[int, ...]
    unmixed: tuple[int, ...]
    renames: bool


@lru_cache(maxsize=65536)
def _footprint(gate: Gate) -> _Footprint:
    num_controls = gate.num_controls
    controls, targets = gate.qubits[:num_controls], gate.qubits[num_controls:]
    if num_controls == 0 and gate.name in ("x", "swap"):
        return _Footprint(targets, (), renames=True)
    still = unmixed_targets(gate)
    mixed = tuple(qubit for k, qubit in enumerate(targets) if k not in still)
    return _Footprint(mixed, (*controls, *(targets[k] for k in sorted(still))), renames=False)


def unmixed_targets(gate: Gate) -> frozenset[int]:
    """Which targets (counted from 0) the gate does not mix."""
    if gate.name == gates.UNITARY:
        return gates.unmixed_bits(gate.base_matrix())
    return gates.unmixed_targets(gate.base)


def mixed_qubits(gate: Gate) -> tuple[int, ...]:
    """The qubits that must be local while the gate runs."""
    footprint = _footprint(gate)
    return () if footprint.renames else footprint.mixed


# --- order ---


class _Front:
    """The gates not yet taken, as a graph of who waits for whom; ``take`` hands out those that are ready."""

    def __init__(self, gate_list: Sequence[Gate], members: Sequence[int]) -> None:
        self._followers: dict[int, list[int]] = {index: [] for index in members}
        self._waits_for: dict[int, int] = dict.fromkeys(members, 0)
        self._footprints = {index: _footprint(gate_list[index]) for index in members}
        self.levels: dict[int, int] = {}
        """The earliest step at which a gate could be done if nothing but its order held it back."""
        last_mixed: dict[int, int] = {}
        since: dict[int, list[int]] = {}
        for index in members:
            footprint = self._footprints[index]
            before: set[int] = set()
            for qubit in footprint.unmixed:
                if qubit in last_mixed:
                    before.add(last_mixed[qubit])
                since.setdefault(qubit, []).append(index)
            for qubit in footprint.mixed:
                before.update(since.get(qubit) or ([last_mixed[qubit]] if qubit in last_mixed else []))
                last_mixed[qubit] = index
                since[qubit] = []
            for earlier in before:
                self._followers[earlier].append(index)
            self._waits_for[index] = len(before)
            self.levels[index] = 1 + max((self.levels[earlier] for earlier in before), default=-1)
        self._ready = [index for index in members if self._waits_for[index] == 0]
        heapq.heapify(self._ready)

    def __bool__(self) -> bool:
        return bool(self._waits_for)

    def can_take(self, fits: Callable[[_Footprint], bool]) -> bool:
        """Whether any ready gate fits as things stand."""
        return any(fits(self._footprints[index]) for index in self._ready)

    def remaining(self) -> list[int]:
        """Those not taken, in an order in which they could be: by level, then as written."""
        return sorted(self._waits_for, key=lambda index: (self.levels[index], index))

    def take(self, fits: Callable[[_Footprint], bool]) -> list[int]:
        """All gates that can be done, in order, while ``fits`` says yes; those refused stay ready for the next time."""
        taken: list[int] = []
        refused: list[int] = []
        while self._ready:
            index = heapq.heappop(self._ready)
            if not fits(self._footprints[index]):
                refused.append(index)
                continue
            taken.append(index)
            del self._waits_for[index]
            for follower in self._followers[index]:
                self._waits_for[follower] -= 1
                if self._waits_for[follower] == 0:
                    heapq.heappush(self._ready, follower)
        self._ready = refused
        return taken


# --- stages ---


def make_plan(gate_list: Sequence[Gate], start: Layout, block_bits: int) -> Plan:
    """The plan for ``gate_list`` on a state in layout ``start``, with blocks of at most ``block_bits`` bits.

    Raises OutOfRangeError where a gate mixes more qubits than are local or fit a block. Cost: about the number of
    gates times the number of stages and sweeps.
    """
    gate_list = tuple(gate_list)
    # A block that is not all of the rank's memory has its lowest bits taken already.
    _check_reach(gate_list, start.num_local if start.num_local <= block_bits else block_bits - LOW_BITS)
    front = _Front(gate_list, range(len(gate_list)))
    layout, stages = start, list[Stage]()
    while front:
        exchange = () if front.can_take(_Local(layout).fits) else _choose_exchange(gate_list, front, layout)
        layout = layout.exchanged(exchange)
        members = front.take(_Local(layout).fits)
        sweeps, layout = _plan_sweeps(gate_list, members, layout, block_bits)
        if exchange or sweeps:
            stages.append(Stage(exchange, sweeps))
    return Plan(gate_list, start, layout, tuple(stages))


def choose_start(gate_list: Sequence[Gate], num_qubits: int, num_local: int) -> Layout:
    """The first layout, free to choose because |0…0> looks the same in all: qubits that are mixed first are local."""
    uses = _first_uses(gate_list, _Front(gate_list, range(len(gate_list))).remaining())
    order = sorted(range(num_qubits), key=lambda qubit: (uses.get(qubit, len(gate_list)), qubit))
    bits = [0] * num_qubits
    for bit, qubit in enumerate((*sorted(order[:num_local]), *sorted(order[num_local:]))):
        bits[qubit] = bit
    return Layout(tuple(bits), num_local)


def _check_reach(gate_list: Sequence[Gate], reach: int) -> None:
    for gate in gate_list:
        if len(mixed_qubits(gate)) > reach:
            raise OutOfRangeError(
                f"plan: gate {gate.name} mixes {len(mixed_qubits(gate))} qubits, "
                f"{reach} are within reach of a rank; use fewer ranks"
            )


def _first_uses(gate_list: Sequence[Gate], members: Sequence[int]) -> dict[int, int]:
    """For each qubit the first of ``members`` that mixes it, followed through the SWAPs on the way."""
    label: dict[int, int] = {}
    uses: dict[int, int] = {}
    for position, index in enumerate(members):
        gate = gate_list[index]
        if gate.name == "swap" and not gate.num_controls:
            a, b = gate.qubits
            label[a], label[b] = label.get(b, b), label.get(a, a)
            continue
        for qubit in mixed_qubits(gate):
            uses.setdefault(label.get(qubit, qubit), position)
    return uses


def _choose_exchange(gate_list: Sequence[Gate], front: _Front, layout: Layout) -> tuple[tuple[int, int], ...]:
    """Bring in the qubits that are mixed soonest for the local ones that are mixed latest (Belady's rule)."""
    members = front.remaining()
    never = len(members)
    uses = _first_uses(gate_list, members)
    ranked = sorted(range(len(layout.bits)), key=lambda q: (uses.get(q, never), not layout.is_local(q), q))
    wanted = set(ranked[: layout.num_local])
    incoming = [q for q in ranked if q in wanted and not layout.is_local(q)]
    outgoing = sorted((q for q in layout.local_qubits if q not in wanted), key=lambda q: -layout.bits[q])
    return tuple((layout.bits[out], layout.bits[into]) for out, into in zip(outgoing, incoming, strict=True))


# --- sweeps ---


def _plan_sweeps(
    gate_list: Sequence[Gate], members: Sequence[int], layout: Layout, block_bits: int
) -> tuple[tuple[Sweep, ...], Layout]:
    """Group the gates of a stage into blocks; renaming gates change the layout where they stand."""
    front = _Front(gate_list, members)
    sweeps = []
    while front:
        block = _Block(layout, block_bits)
        ops: list[Op] = []
        for index in front.take(block.fits):
            gate = gate_list[index]
            if _footprint(gate).renames:
                layout = _renamed(gate, layout)
            else:
                ops += _ops(index, gate, layout)
        if ops:
            sweeps.append(Sweep(block.bits(), tuple(ops)))
    return tuple(sweeps), layout


def _renamed(gate: Gate, layout: Layout) -> Layout:
    return layout.flipped(gate.qubits[0]) if gate.name == "x" else layout.swapped(*gate.qubits)


class _Local:
    """What fits a stage: gates that mix local bits only. Follows the SWAPs that are taken."""

    def __init__(self, layout: Layout) -> None:
        self._num_local = layout.num_local
        self._bit_of = list(layout.bits)

    def fits(self, footprint: _Footprint) -> bool:
        if footprint.renames:
            self._rename(footprint)
            return True
        return self._reaches([self._bit_of[qubit] for qubit in footprint.mixed])

    def _rename(self, footprint: _Footprint) -> None:
        if len(footprint.mixed) == 2:
            a, b = footprint.mixed
            self._bit_of[a], self._bit_of[b] = self._bit_of[b], self._bit_of[a]

    def _reaches(self, bits: Sequence[int]) -> bool:
        return all(bit < self._num_local for bit in bits)


class _Block(_Local):
    """What fits a sweep: a block that grows with the gates put into it, up to its size."""

    def __init__(self, layout: Layout, block_bits: int) -> None:
        super().__init__(layout)
        self._size = min(block_bits, layout.num_local)
        self._chosen = set(range(min(LOW_BITS, self._size)))

    def _reaches(self, bits: Sequence[int]) -> bool:
        grown = self._chosen.union(bits)
        if len(grown) > self._size:
            return False
        self._chosen = grown
        return True

    def bits(self) -> tuple[int, ...]:
        """The bits chosen, filled up from the lowest."""
        spare = (bit for bit in range(self._num_local) if bit not in self._chosen)
        while len(self._chosen) < self._size:
            self._chosen.add(next(spare))
        return tuple(sorted(self._chosen))


def _ops(index: int, gate: Gate, layout: Layout) -> list[Op]:
    """The pieces of one gate on the bits of ``layout``: one for each value of the targets that it does not mix."""
    num_controls = gate.num_controls
    controls, targets = gate.qubits[:num_controls], gate.qubits[num_controls:]
    still = sorted(unmixed_targets(gate))
    mask, value = layout.mask(controls), layout.place(controls, gate.control_value)
    if len(still) == len(targets):
        bits = tuple(layout.bits[qubit] for qubit in targets)
        return [Op(index, "diagonal", bits, _flips(bits, layout), mask, value)]
    bits = tuple(layout.bits[qubit] for k, qubit in enumerate(targets) if k not in still)
    fixed = [targets[k] for k in still]
    return [
        Op(index, "matrix", bits, _flips(bits, layout), mask | layout.mask(fixed), value | layout.place(fixed, v), v)
        for v in range(1 << len(fixed))
    ]


def _flips(bits: Sequence[int], layout: Layout) -> int:
    return sum((layout.flips >> bit & 1) << k for k, bit in enumerate(bits))
