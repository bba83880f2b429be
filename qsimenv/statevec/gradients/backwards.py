"""The way back of the adjoint method: which gates are undone, in which plan, and what is read before each. Pure.

The derivative by a parameter is ``2 Re <lambda| K |psi>`` right behind its gate, so that is to be read just before the
gate is undone. Whatever order a plan brings the inverse gates in, those on other qubits do not change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from qsimenv import formula, gates
from qsimenv.circuit import Gate
from qsimenv.statevec.encoding.angles import angles_of
from qsimenv.statevec.encoding.encode import encode
from qsimenv.statevec.encoding.readings import Looks, Reading
from qsimenv.statevec.encoding.recipe import Recipes, Sweeps
from qsimenv.statevec.encoding.rows import Form
from qsimenv.statevec.gradients.generators import generator
from qsimenv.statevec.planning.layout import Layout
from qsimenv.statevec.planning.plan import Plan
from qsimenv.statevec.planning.planner import make_plan, most_in_parity
from qsimenv.statevec.planning.steps import Step, steps_of
from qsimenv.task import Precision

Floats = npt.NDArray[np.float64]


class Backwards:
    """The way back through some gates from one layout, in blocks of at most ``block_bits`` bits."""

    def __init__(
        self, gate_list: Sequence[Gate], num_parameters: int, start: Layout, block_bits: int, low_bits: int | None
    ) -> None:
        alike = start.num_local < len(start.bits)  # what several ranks do
        self._undone = list(_needed(gate_list))
        inverse = [gate.inverse() for gate, _ in self._undone]
        self.plan: Plan = make_plan(inverse, start, block_bits, low_bits)
        most = most_in_parity(min(block_bits, start.num_local))
        self._steps = {step.gate: step for step in steps_of(inverse, len(start.bits), most).steps}
        self._layouts = _layouts(self.plan)
        self._angles, self._recipes = angles_of(inverse, num_parameters), Recipes(alike)
        self._has_fixed_looks = all(_has_fixed_readings(gate) for gate, _ in self._undone if is_parametric(gate))
        self._fixed_looks: Looks | None = None
        self._idle = frozenset(number for number, (_, is_idle) in enumerate(self._undone) if is_idle)

    def sweeps(self, values: Floats, precision: Precision, form: Form) -> Sweeps:
        """The plan's sweeps of both states, for parameter values of shape (P,)."""
        if not self._has_fixed_looks:
            return encode(self.plan, values, precision, form, looks=self._looks(values))
        if self._fixed_looks is None:
            self._fixed_looks = self._looks(values)
        return self._recipes.encode(self.plan, values, self._angles, precision, form, looks=self._fixed_looks)

    def _looks(self, values: Floats) -> Looks:
        """What is read before each gate is undone."""
        readings = {
            number: list(_readings(gate, self._steps[number], self._layouts[number], values))
            for number, (gate, _) in enumerate(self._undone)
            if is_parametric(gate) and number in self._layouts
        }
        return Looks({number: some for number, some in readings.items() if some}, self._idle)


def is_parametric(gate: Gate) -> bool:
    return any(isinstance(angle, str) for angle in gate.params)


def _has_fixed_readings(gate: Gate) -> bool:
    """Whether what is read for its parameters is the same for all values: of a rotation by a multiple of them."""
    return gates.BASE[gate.base].num_params == 1 and formula.linear(gate.params[0]) is not None


def _needed(gate_list: Sequence[Gate]) -> Iterator[tuple[Gate, bool]]:
    """The gates from the last one back that something is read before, or behind; and whether nothing is behind."""
    wanted, kept = set[int](), list[tuple[Gate, bool]]()
    for gate in gate_list:
        is_idle = wanted.isdisjoint(gate.qubits)
        if is_parametric(gate) or not is_idle:
            kept.append((gate, is_idle))
            wanted.update(gate.qubits)
    yield from reversed(kept)


def _layouts(plan: Plan) -> dict[int, Layout]:
    """By the number of a gate, the layout of the wires in its stage."""
    layout, found = plan.start, dict[int, Layout]()
    for stage in plan.stages:
        layout = layout.exchanged(stage.exchange)
        found |= {op.gate: layout for sweep in stage.sweeps for op in sweep.ops}
    return found


def _readings(gate: Gate, step: Step, layout: Layout, values: Floats) -> Iterator[Reading]:
    """The strings of the gate's generators on the bits where they find its qubits."""
    bits = [layout.bits[wire] for wire in step.wires]
    flips = step.flips ^ sum((layout.flips >> bit & 1) << (0 if step.parity else k) for k, bit in enumerate(bits))
    for number, angle in enumerate(gate.params):
        slopes = formula.gradient(angle, values)
        for x, z, b in generator(gate, number, values) if slopes else ():
            signs = (1 << len(bits)) - 1 if step.parity else z
            sign = -1 if (z & flips).bit_count() & 1 else 1
            for parameter, slope in slopes.items():
                yield Reading(_spread(x, bits), _spread(signs, bits), parameter, -sign * b * slope)


def _spread(mask: int, bits: Sequence[int]) -> int:
    return sum((mask >> k & 1) << bit for k, bit in enumerate(bits))
