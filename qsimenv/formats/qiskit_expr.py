"""Classical expressions and formulas of parameters: Qiskit's into the house's.

``qiskit_in`` calls it. A classical bit is a number 0 or 1 here, a register the unsigned number its bits spell; every
operator whose result has a width says so, because arithmetic wraps around there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from qiskit.circuit import ClassicalRegister, Clbit, Parameter, ParameterExpression
from qiskit.circuit.classical import expr, types

from qsimenv import formula
from qsimenv.circuit import Assign, Bits, Expression, Literal, Operation, Variable
from qsimenv.errors import InvalidArgumentError, NotSupportedError, OutOfRangeError
from qsimenv.formula import Angle

_UNARY = {
    expr.Unary.Op.BIT_NOT: "bit_not", expr.Unary.Op.LOGIC_NOT: "logic_not", expr.Unary.Op.NEGATE: "negate",
}  # fmt: skip
_BINARY = {operator: operator.name.lower() for operator in expr.Binary.Op}


class Angles:
    """Turns what Qiskit takes for an angle into a float or a formula over ``p0, p1, …``."""

    def __init__(self, parameters: list[Parameter]) -> None:
        self._index = {parameter: k for k, parameter in enumerate(parameters)}
        self._numbered = {parameter: Parameter(f"p{k}") for k, parameter in enumerate(parameters)}

    def __call__(self, value: Any) -> Angle:
        """Raises InvalidArgumentError for a complex number or something that is no number at all."""
        if type(value) is float:
            return value
        if isinstance(value, Parameter):
            return f"p{self._place(value)}"
        if isinstance(value, ParameterExpression):
            return self._formula(value)
        return _real(value)

    def _place(self, parameter: Parameter) -> int:
        index = self._index.get(parameter)
        if index is None:
            raise NotSupportedError(f"circuit: parameter {parameter.name!r} is not one of the circuit's own")
        return index

    def _formula(self, value: ParameterExpression) -> Angle:
        read = value.parameters
        if not read:
            return _real(value.numeric())
        for parameter in read:
            self._place(parameter)
        text = str(value.subs({parameter: self._numbered[parameter] for parameter in read}))
        return text if formula.indices(text) else float(formula.evaluate(text, ()))


def _real(value: Any) -> float:
    try:
        number = complex(value)
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"circuit: the angle {value!r} is not a number") from None
    if abs(number.imag) > 1e-12 * max(1.0, abs(number)):
        raise InvalidArgumentError(f"circuit: the angle {number} is complex, a real one is needed")
    return float(number.real)


def bits(target: Clbit | ClassicalRegister, clbits: Mapping[Clbit, int]) -> Bits:
    """The numbers of a classical bit or of a register's bits. Raises OutOfRangeError for one that is not there."""
    members = (target,) if isinstance(target, Clbit) else tuple(target)
    try:
        return Bits(tuple(clbits[bit] for bit in members))
    except KeyError:
        raise OutOfRangeError(f"circuit: the condition reads {target!r}, which is not in the circuit") from None


def condition(value: Any, clbits: Mapping[Clbit, int], variables: Mapping[Any, str]) -> Expression:
    """The condition of an if or a while: Qiskit's pair of target and value, or an expression."""
    if isinstance(value, tuple):
        target, wanted = value
        return Operation("equal", (bits(target, clbits), Literal(int(wanted))))
    return expression(value, clbits, variables)


def expression(node: Any, clbits: Mapping[Clbit, int], variables: Mapping[Any, str]) -> Expression:
    """Qiskit's expression tree (or a bare bit or register) as ours. Raises NotSupportedError for durations."""
    match node:
        case Clbit() | ClassicalRegister():
            return bits(node, clbits)
        case expr.Var():
            return variable(node, clbits, variables)
        case expr.Value():
            return _literal(node)
        case expr.Cast():
            return _cast(expression(node.operand, clbits, variables), node.type)
        case expr.Unary():
            operator = "logic_not" if node.op is expr.Unary.Op.BIT_NOT and _width(node.type) == 0 else _UNARY[node.op]
            return Operation(operator, (expression(node.operand, clbits, variables),), _width(node.type))
        case expr.Binary():
            sides = (expression(node.left, clbits, variables), expression(node.right, clbits, variables))
            return Operation(_BINARY[node.op], sides, _width(node.type))
        case expr.Index():
            sides = (expression(node.target, clbits, variables), expression(node.index, clbits, variables))
            return Operation("index", sides)
    raise NotSupportedError(f"circuit: the classical expression {node!r} is not supported")


def variable(node: Any, clbits: Mapping[Clbit, int], variables: Mapping[Any, str]) -> Bits | Variable:
    """A Var: bits of the circuit, or a variable of its own."""
    if isinstance(node.var, Clbit | ClassicalRegister):
        return bits(node.var, clbits)
    if node.var not in variables:
        raise NotSupportedError(f"circuit: the variable {node.name!r} is read but nowhere declared")
    return Variable(variables[node.var])


def assign(target: Any, value: Any, clbits: Mapping[Clbit, int], variables: Mapping[Any, str]) -> Assign:
    """A Store. One into a bit of something wider becomes: clear the bit, set it to the value."""
    new = expression(value, clbits, variables)
    if isinstance(target, expr.Var):
        if isinstance(new, Literal) and _width(target.type):
            new = Operation("cast", (new,), _width(target.type))
        return Assign(variable(target, clbits, variables), new)
    if not (isinstance(target, expr.Index) and isinstance(target.target, expr.Var)):
        raise NotSupportedError(f"circuit: a store into {target!r} is not supported")
    whole = variable(target.target, clbits, variables)
    width = _width(target.target.type)
    place = expression(target.index, clbits, variables)
    one = Operation("cast", (Literal(1),), width)
    mask = Operation("bit_not", (Operation("shift_left", (one, place), width),), width)
    bit = Operation("shift_left", (Operation("cast", (new,), width), place), width)
    kept = Operation("bit_and", (whole, mask), width)
    return Assign(whole, Operation("bit_or", (kept, bit), width))


def _literal(node: Any) -> Literal:
    if isinstance(node.value, bool | np.bool_):
        return Literal(int(node.value))
    if isinstance(node.value, int | float):
        return Literal(node.value)
    raise NotSupportedError(f"circuit: the value {node.value!r} in a classical expression is not supported")


def _cast(operand: Expression, kind: Any) -> Expression:
    if kind.kind is types.Bool:
        return Operation("bool", (operand,))
    return Operation("cast", (operand,), _width(kind))


def _width(kind: Any) -> int:
    """Bits of an unsigned integer; 0 for a Boolean or a float. Raises NotSupportedError for durations."""
    if kind.kind is types.Uint:
        return int(kind.width)
    if kind.kind in (types.Bool, types.Float):
        return 0
    raise NotSupportedError(f"circuit: classical values of type {kind!r} are not supported")
