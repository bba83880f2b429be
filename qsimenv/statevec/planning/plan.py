"""Plan: what to do with the state, as a value. It can be compared, kept and printed; ``planner`` makes it.

A *stage* is what can be done while one set of qubits is local; between two stages ranks exchange bits. A *sweep* is
what can be done while one block of bits is in cache.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import msgspec

from qsimenv.circuit import Gate
from qsimenv.statevec.planning.layout import Layout

NORMAL_FORM_BITS = 8
"""Ops on blocks of fewer bits are done one by one, those on others in a normal form (see ``encoding``)."""
Kind = Literal["matrix", "diagonal", "parity"]


class Op(msgspec.Struct, frozen=True, gc=False):
    """One piece of a gate on index bits, as the kernels see it.

    ``matrix``: the part of gate ``gate``'s matrix that its unmixed targets' value ``unmixed_value`` picks, on ``bits``.
    ``diagonal``: the gate's diagonal as a table over ``bits``. ``parity``: the gate's diagonal of two numbers, picked
    by the exclusive or of ``bits`` and ``flips``. For the others ``flips`` tells (bit k for ``bits[k]``) which bits are
    stored inverted. The op acts where ``index & control_mask == control_value``.
    """

    gate: int
    kind: Kind
    bits: tuple[int, ...]
    flips: int
    control_mask: int
    control_value: int
    unmixed_value: int = 0


class Sweep(msgspec.Struct, frozen=True):
    """One pass over the rank's memory: a block of bits at a time, all ops on it. ``block`` is sorted."""

    block: tuple[int, ...]
    ops: tuple[Op, ...]


class Stage(msgspec.Struct, frozen=True):
    """``exchange`` lists the (local bit, rank bit) pairs to trade first; then the sweeps."""

    exchange: tuple[tuple[int, int], ...]
    sweeps: tuple[Sweep, ...]

    def unset_after_exchange(self, unset: int) -> int:
        """The bits, as a mask, that are 0 wherever the state is not zero after the exchange, from those before it.

        An unset bit of the rank that is traded for a local one is unset there; the reverse is not looked for.
        """
        for local, rank in self.exchange:
            arrives = (unset >> rank & 1) << local
            unset = unset & ~(1 << local | 1 << rank) | arrives
        return unset


@dataclass(frozen=True)
class Plan:
    """How to run ``gates`` on a state in layout ``start``; it is in layout ``end`` afterwards."""

    gates: tuple[Gate, ...]
    start: Layout
    end: Layout
    stages: tuple[Stage, ...]
    kept: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)
    """What others keep with the plan, and with all that differ in angles alone."""

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
