"""Steps: what the planner orders. Gates stripped of all that costs nothing, in terms of wires. Pure.

A *wire* is the name of a qubit's place before the first gate: SWAP puts another qubit on it, X turns it over, and
neither is a step. A CX, one-qubit phases on its target and the same CX again are phases of the parity of two wires,
which mix nothing; between two others they are phases of the parity of three, and so on: a chain of CX, an angle and
the chain backwards are one phase. What is left is an order only between steps on a wire that one of them mixes.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qsimenv import gates
from qsimenv.circuit import Gate

Masks = npt.NDArray[np.int64]


class Step(NamedTuple):
    """Gate number ``gate`` on ``wires``; bit k of ``flips``: ``wires[k]`` is turned over.

    ``mixed`` and ``still`` list the positions in ``wires`` of its targets, those between whose values it moves
    amplitude and those that it only reads. Before the targets come the controls. ``parity``: a phase on the exclusive
    or of the wires, ``flips`` the value that is added to it.
    """

    gate: int
    wires: tuple[int, ...]
    flips: int
    mixed: tuple[int, ...]
    still: tuple[int, ...]
    parity: bool = False


@dataclass(frozen=True)
class Steps:
    """All steps of a run of gates. Of each: ``mixed`` and ``used``, masks of wires; ``affine``, whether it is a CX.

    ``wire_of[qubit]`` is the wire that a qubit ends on, ``flips`` the mask of the wires that end turned over.
    """

    steps: tuple[Step, ...]
    mixed: Masks
    used: Masks
    affine: npt.NDArray[np.bool_]
    wire_of: tuple[int, ...]
    flips: int

    @cached_property
    def work(self) -> Masks:
        """What each step does in a sweep, as a number of wires that are turned: a dense matrix on k of them takes
        ``2**k`` products a number, a CX none. Shape (steps,)."""
        widths = np.bitwise_count(self.mixed).astype(np.int64)
        return np.where(self.affine, 0, np.where(widths > 1, 1 << widths, widths))


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


def steps_of(gate_list: Sequence[Gate], num_qubits: int, most_in_parity: int = 2) -> Steps:
    """The steps of a run of gates, in its order, with parities of at most so many wires. Cost: some microseconds a
    gate."""
    wire_of, flips, is_untouched = list(range(num_qubits)), 0, True
    pairs, is_cx = _Pairs(most_in_parity), list[bool]()
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


_MOST_BETWEEN = 32
"""So many phases on the target of a CX are looked at to find an equal one before them."""


class _Pairs:
    """Takes steps one by one; where a CX comes again, and there were nothing but phases on its target and nothing that
    mixes its control, both are dropped: what was a phase of the target is one of the parity of both."""

    def __init__(self, most_wires: int) -> None:
        self._most_wires = most_wires
        self._steps: list[Step | None] = []
        self._is_phase: list[bool] = []
        self._value: list[int] = []
        """Of a CX the control's value at which it acts, of others -1."""
        self._on: defaultdict[int, list[int]] = defaultdict(list)
        """By wire the steps on it that were not dropped, in their order."""

    def take(self, step: Step, form: Form, gate: Gate) -> None:
        value = -1
        if form.is_cx:
            value = (gate.control_state ^ step.flips) & 1  # -1: all ones
            if self._undo(step.wires[0], step.wires[1], value):
                return
        for wire in step.wires:
            self._on[wire].append(len(self._steps))
        self._steps.append(step)
        self._is_phase.append(form.is_phase)
        self._value.append(value)

    def steps(self) -> tuple[Step, ...]:
        return tuple(step for step in self._steps if step is not None)

    def _undo(self, control: int, target: int, value: int) -> bool:
        """Drop the last CX like this one if nothing since keeps both from it."""
        on_target, phases = self._on[target], list[int]()
        for place in reversed(on_target):
            step = self._steps[place]
            assert step is not None  # noqa: S101 - tells mypy that what was dropped is on no wire
            if self._value[place] == value and step.wires == (control, target):
                break
            if not self._is_phase[place] or len(phases) == _MOST_BETWEEN:
                return False
            if control not in step.wires and len(step.wires) >= self._most_wires:
                return False
            phases.append(place)
        else:
            return False
        for number in reversed(self._on[control]):
            if number <= place:
                break
            if self._mixes(number, control):
                return False
        self._steps[place] = None
        for wire in (control, target):
            self._on[wire].remove(place)
        for number in phases:
            self._add_to_parity(number, control, value)
        return True

    def _mixes(self, number: int, wire: int) -> bool:
        step = self._steps[number]
        return step is not None and any(step.wires[k] == wire for k in step.mixed)

    def _add_to_parity(self, number: int, wire: int, value: int) -> None:
        """Make a phase one of its parity with one more wire, or with one less that it had twice."""
        step = self._steps[number]
        assert step is not None  # noqa: S101 - as above
        if wire in step.wires:
            wires = tuple(each for each in step.wires if each != wire)
            self._on[wire].remove(number)
        else:
            wires = (*step.wires, wire)
            insort(self._on[wire], number)
        self._steps[number] = Step(step.gate, wires, step.flips ^ 1 ^ value, (), (0,), parity=len(wires) > 1)
