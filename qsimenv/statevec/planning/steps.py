"""Steps: what the planner orders. Gates stripped of all that costs nothing, in terms of wires. Pure.

A *wire* is the name of a qubit's place before the first gate: SWAP puts another qubit on it, X turns it over, and
neither is a step. A CX, one-qubit phases on its target and the same CX again are phases of the parity of two wires,
which mix nothing. What is left is an order only between steps on a wire that one of them mixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qsimenv import gates
from qsimenv.circuit import Gate

Masks = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int32]


class Step(NamedTuple):
    """Gate number ``gate`` on ``wires``; bit k of ``flips``: ``wires[k]`` is turned over.

    ``mixed`` and ``still`` list the positions in ``wires`` of its targets, those between whose values it moves
    amplitude and those that it only reads. Before the targets come the controls. ``parity``: a phase on the exclusive
    or of two wires, ``flips`` the value that is added to it.
    """

    gate: int
    wires: tuple[int, ...]
    flips: int
    mixed: tuple[int, ...]
    still: tuple[int, ...]
    parity: bool = False


@dataclass(frozen=True)
class Steps:
    """All steps of a run of gates. Of each: ``mixed`` and ``used``, masks of wires; ``affine``, whether it is a CX;
    ``turned``, how many wires it turns (a CX none).

    ``wire_of[qubit]`` is the wire that a qubit ends on, ``flips`` the mask of the wires that end turned over.
    """

    steps: tuple[Step, ...]
    mixed: Masks
    used: Masks
    affine: npt.NDArray[np.bool_]
    wire_of: tuple[int, ...]
    flips: int

    @cached_property
    def turned(self) -> Counts:
        return np.where(self.affine, 0, np.bitwise_count(self.mixed)).astype(np.int32)


class Form(NamedTuple):
    """What gates of one name and size have in common; positions count from the gate's first qubit."""

    base: str
    num_controls: int
    mixed: tuple[int, ...]
    still: tuple[int, ...]
    renames: bool
    is_cx: bool
    is_phase: bool


@lru_cache(maxsize=4096)
def form_named(name: str, num_qubits: int, added_controls: int, matrix: bytes) -> Form:
    """What gates of a name, with so many qubits, of them so many controls that were added, have in common."""
    base, own_controls = gates.base_and_controls(name, num_qubits - added_controls)
    num_controls = added_controls + own_controls
    targets = num_qubits - num_controls
    if base == gates.UNITARY:
        size = 1 << targets
        unmixed = gates.unmixed_bits(np.frombuffer(matrix, dtype="<c16").reshape(size, size))
    else:
        unmixed = gates.unmixed_targets(base)
    mixed = tuple(num_controls + k for k in range(targets) if k not in unmixed)
    still = tuple(num_controls + k for k in sorted(unmixed))
    return Form(
        base,
        num_controls,
        mixed,
        still,
        renames=base in ("x", "swap") and not num_controls,
        is_cx=base == "x" and num_controls == 1,
        is_phase=num_qubits == 1 and not mixed,
    )


def form_of(gate: Gate) -> Form:
    """What the planner and the normal form need to know of a gate besides its qubits and angles; kept."""
    return form_named(gate.name, len(gate.qubits), gate.controls, gate.matrix)


def mixed_qubits(gate: Gate) -> tuple[int, ...]:
    """The qubits that must be local while the gate runs."""
    form = form_of(gate)
    return () if form.renames else tuple(gate.qubits[k] for k in form.mixed)


def unmixed_targets(gate: Gate) -> frozenset[int]:
    """Which targets (counted from 0) the gate does not mix."""
    form = form_of(gate)
    return frozenset(k - form.num_controls for k in form.still)


def steps_of(gate_list: Sequence[Gate], num_qubits: int) -> Steps:
    """The steps of a run of gates, in its order. Cost: some microseconds a gate."""
    wire_of, flips, is_untouched = list(range(num_qubits)), 0, True
    pairs, is_cx = _Pairs(), list[bool]()
    for index, gate in enumerate(gate_list):
        form, wires = form_named(gate.name, len(gate.qubits), gate.controls, gate.matrix), gate.qubits
        is_cx.append(form.is_cx)
        if not is_untouched:
            wires = tuple([wire_of[qubit] for qubit in wires])
        if not form.renames:
            turned = sum((flips >> wire & 1) << k for k, wire in enumerate(wires)) if flips else 0
            pairs.take(Step(index, wires, turned, form.mixed, form.still), form, gate)
        elif len(wires) == 1:
            flips ^= 1 << wires[0]
        else:
            a, b = gate.qubits
            wire_of[a], wire_of[b] = wire_of[b], wire_of[a]
            is_untouched = False
    steps = pairs.steps()
    used = [_mask(step.wires) for step in steps]
    mixed = [
        mask if len(step.mixed) == len(step.wires) else _mask([step.wires[k] for k in step.mixed])
        for step, mask in zip(steps, used, strict=True)
    ]
    return Steps(
        steps,
        np.array(mixed, dtype=np.int64),
        np.array(used, dtype=np.int64),
        np.array([is_cx[step.gate] for step in steps], dtype=np.bool_),
        tuple(wire_of),
        flips,
    )


def _mask(wires: Sequence[int]) -> int:
    mask = 0
    for wire in wires:
        mask |= 1 << wire
    return mask


@dataclass
class _Open:
    """A CX whose like may still come: its step, the value at which it acts, and the phases on its target since."""

    place: int
    control: int
    value: int
    phases: list[int]


class _Pairs:
    """Takes steps one by one; where a CX comes again and nothing but phases came between, both are dropped."""

    def __init__(self) -> None:
        self._steps: list[Step | None] = []
        self._open: dict[int, _Open] = {}
        self._targets_of: dict[int, set[int]] = {}

    def take(self, step: Step, form: Form, gate: Gate) -> None:
        if form.is_cx:
            self._take_cx(step, (gate.control_state ^ step.flips) & 1)  # -1: all ones
            return
        if form.is_phase:
            opened = self._open.get(step.wires[0])
            if opened is not None:
                opened.phases.append(len(self._steps))
        elif self._open:
            self._close(step)
        self._steps.append(step)

    def steps(self) -> tuple[Step, ...]:
        return tuple(step for step in self._steps if step is not None)

    def _take_cx(self, step: Step, value: int) -> None:
        control, target = step.wires
        opened = self._open.get(target)
        if opened is not None and (opened.control, opened.value) == (control, value):
            self._steps[opened.place] = None
            for place in opened.phases:
                phase = self._steps[place]
                assert phase is not None  # noqa: S101 - tells mypy that phases are never dropped
                flip = phase.flips ^ 1 ^ value
                self._steps[place] = Step(phase.gate, (target, control), flip, (), (0,), parity=True)
            self._forget(target)
            return
        self._close(step)
        self._open[target] = _Open(len(self._steps), control, value, [])
        self._targets_of.setdefault(control, set()).add(target)
        self._steps.append(step)

    def _close(self, step: Step) -> None:
        """No CX is open any more whose target the step touches or whose control it mixes."""
        for wire in step.wires:
            if wire in self._open:
                self._forget(wire)
        for k in step.mixed:
            for target in tuple(self._targets_of.get(step.wires[k], ())):
                self._forget(target)

    def _forget(self, target: int) -> None:
        self._targets_of[self._open.pop(target).control].discard(target)
