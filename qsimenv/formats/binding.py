"""Binding: a Circuit with values in place of some of its free parameters.

``formats.load(…, inputs=…)`` calls it. The parameters that stay free are numbered anew, in their old order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np

from qsimenv import formula
from qsimenv.circuit import Case, Circuit, Gate, IfElse, Instruction, Repeat, Switch, While
from qsimenv.errors import InvalidArgumentError
from qsimenv.formula import Angle


def bind(circuit: Circuit, values: Mapping[str, float]) -> Circuit:
    """The circuit with ``values`` put in by name. Raises InvalidArgumentError for an unknown name or a bad number."""
    for name, value in values.items():
        if name not in circuit.parameters:
            known = ", ".join(circuit.parameters) or "none"
            raise InvalidArgumentError(f"inputs: {name!r} is not a free parameter of the circuit, which has: {known}")
        if not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise InvalidArgumentError(f"inputs: {name!r} is {value!r}, a finite number is needed")
    free = tuple(name for name in circuit.parameters if name not in values)
    replacements: tuple[Angle, ...] = tuple(
        float(values[name]) if name in values else f"p{free.index(name)}" for name in circuit.parameters
    )
    instructions = _bound(circuit.instructions, replacements)
    return msgspec.structs.replace(circuit, instructions=instructions, parameters=free)


def _bound(block: tuple[Instruction, ...], replacements: tuple[Angle, ...]) -> tuple[Instruction, ...]:
    return tuple(_bound_instruction(instruction, replacements) for instruction in block)


def _bound_instruction(instruction: Instruction, new: tuple[Angle, ...]) -> Instruction:
    replace = msgspec.structs.replace
    match instruction:
        case Gate(params=params) if any(isinstance(angle, str) for angle in params):
            return replace(instruction, params=tuple(_angle(angle, new) for angle in params))
        case IfElse(then=then, otherwise=otherwise):
            return replace(instruction, then=_bound(then, new), otherwise=_bound(otherwise, new))
        case Switch(cases=cases):
            return replace(instruction, cases=tuple(Case(case.values, _bound(case.body, new)) for case in cases))
        case While(body=body):
            return replace(instruction, body=_bound(body, new))
        case Repeat(bodies=bodies):
            return Repeat(tuple(_bound(body, new) for body in bodies))
    return instruction


def _angle(angle: Angle, replacements: tuple[Angle, ...]) -> Angle:
    return formula.substitute(angle, replacements) if isinstance(angle, str) else angle
