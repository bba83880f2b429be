"""Classical expressions of a Circuit as Qiskit's, which are typed: ``qiskit_out`` calls it.

Types follow from what the Circuit does say: the width of every operation, the number of bits of a register.
A variable has the type of the values that are stored in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qiskit.circuit import ClassicalRegister, Clbit
from qiskit.circuit.classical import expr, types

from qsimenv.circuit import Assign, Bits, Circuit, Expression, Literal, Operation, Variable, walk
from qsimenv.errors import NotSupportedError

_DEFAULT_WIDTH = 64
_ARITHMETIC = frozenset({"add", "sub", "mul", "div", "negate"})
_ORDER = frozenset({"less", "less_equal", "greater", "greater_equal"})
_SHIFTS = frozenset({"shift_left", "shift_right"})
_BITWISE = frozenset({"bit_and", "bit_or", "bit_xor"})
_EQUALITY = frozenset({"equal", "not_equal"})


class Expressions:
    """Turns expressions of one circuit into Qiskit's; the bits and registers are those of the circuit that is made."""

    def __init__(self, circuit: Circuit, clbits: Sequence[Clbit], registers: Sequence[ClassicalRegister]) -> None:
        self._clbits = clbits
        self._registers: dict[tuple[int, ...], ClassicalRegister] = {}
        for row, register in zip(circuit.registers, registers, strict=True):
            if row.clbits:
                self._registers.setdefault(row.clbits, register)
        self._types: dict[str, Any] = {}
        self._infer(circuit)
        self._variables = {name: expr.Var.new(name, self._types[name]) for name in circuit.variables}

    def declared(self) -> list[tuple[Any, Any]]:
        """Every variable with the zero that it starts from."""
        return [(variable, _literal(0, variable.type)) for variable in self._variables.values()]

    def boolean(self, expression: Expression) -> Any:
        """The expression as a condition."""
        return self._as(expression, types.Bool())

    def value(self, expression: Expression) -> Any:
        """The expression with whatever type it has."""
        return self._convert(expression, None)

    def store(self, target: Variable | Bits, value: Expression) -> tuple[Any, Any]:
        """Where to and what. Raises NotSupportedError for bits that are neither one bit nor a register."""
        if isinstance(target, Variable):
            place = self._variables[target.name]
        elif target.clbits in self._registers:
            place = expr.lift(self._registers[target.clbits])
        elif len(target.clbits) == 1:
            place = expr.lift(self._clbits[target.clbits[0]])
        else:
            raise NotSupportedError("to_qiskit: an assignment to bits that are neither one bit nor a register")
        return place, self._as(value, place.type)

    # --- types ---

    def _infer(self, circuit: Circuit) -> None:
        stores = [i for i in walk(circuit.instructions) if isinstance(i, Assign) and isinstance(i.target, Variable)]
        for _ in range(1 + len(circuit.variables)):  # a variable may get its type from another one
            for store in stores:
                found = self._type(store.value)
                name = store.target.name  # type: ignore[union-attr]
                if found is not None:
                    self._types[name] = _wider(self._types.get(name), found)
        for name in circuit.variables:
            self._types.setdefault(name, types.Uint(_DEFAULT_WIDTH))

    def _type(self, expression: Expression) -> Any:
        """The type of an expression; None for a whole number, which takes that of its neighbour."""
        match expression:
            case Literal(value=value):
                return types.Float() if isinstance(value, float) else None
            case Bits(clbits=clbits):
                one = len(clbits) == 1 and clbits not in self._registers
                return types.Bool() if one else types.Uint(max(1, len(clbits)))
            case Variable(name=name):
                return self._types.get(name)
            case Operation(operator=operator, arguments=arguments, width=width):
                if width:
                    return types.Uint(width)
                if operator == "cast":
                    return types.Float()
                return self._joint(arguments) if operator in _ARITHMETIC else types.Bool()
        raise AssertionError("unreachable: these are all kinds of expressions")

    def _joint(self, arguments: tuple[Expression, ...]) -> Any:
        found = None
        for argument in arguments:
            kind = self._type(argument)
            if kind is not None:
                found = _wider(found, kind)
        return found

    # --- values ---

    def _as(self, expression: Expression, kind: Any) -> Any:
        if isinstance(expression, Literal):
            return _literal(expression.value, kind)
        made = self._convert(expression, kind)
        return made if made.type == kind else expr.cast(made, kind)

    def _convert(self, expression: Expression, wanted: Any) -> Any:
        match expression:
            case Literal(value=value):
                return expr.lift(value) if wanted is None else _literal(value, wanted)
            case Bits(clbits=clbits):
                return self._bits(clbits)
            case Variable(name=name):
                return self._variables[name]
            case Operation(operator=operator, arguments=arguments, width=width):
                return self._operation(operator, arguments, width)
        raise AssertionError("unreachable: these are all kinds of expressions")

    def _bits(self, clbits: tuple[int, ...]) -> Any:
        if clbits in self._registers:
            return expr.lift(self._registers[clbits])
        if len(clbits) == 1:
            return expr.lift(self._clbits[clbits[0]])
        kind = types.Uint(max(1, len(clbits)))
        total: Any = _literal(0, kind)
        for place, clbit in enumerate(clbits):
            bit = expr.cast(expr.lift(self._clbits[clbit]), kind)
            total = expr.bit_or(total, expr.shift_left(bit, place) if place else bit)
        return total

    def _operation(self, operator: str, arguments: tuple[Expression, ...], width: int) -> Any:
        result = types.Uint(width) if width else None
        if operator in ("cast", "bool"):
            return self._as(arguments[0], types.Bool() if operator == "bool" else result or types.Float())
        if operator in ("logic_not", "logic_and", "logic_or"):
            return getattr(expr, operator)(*(self.boolean(argument) for argument in arguments))
        if operator in _SHIFTS:
            return getattr(expr, operator)(self._as(arguments[0], result), self.value(arguments[1]))
        if operator == "index":
            return expr.index(self.value(arguments[0]), self.value(arguments[1]))
        kind = result or self._common(operator, arguments)
        return getattr(expr, operator)(*(self._as(argument, kind) for argument in arguments))

    def _common(self, operator: str, arguments: tuple[Expression, ...]) -> Any:
        """The type in which an operation without a width is done."""
        if operator in _BITWISE or operator == "bit_not":
            return types.Bool()
        kind = self._joint(arguments)
        largest = max((int(a.value) for a in arguments if isinstance(a, Literal)), default=0)
        if kind is None:
            return types.Uint(max(1, largest.bit_length()))
        if kind.kind is types.Bool and (operator in _ORDER or largest > 1):
            return types.Uint(max(1, largest.bit_length()))
        if kind.kind is types.Uint and largest.bit_length() > kind.width:
            return types.Uint(largest.bit_length())
        return kind


def _literal(value: float, kind: Any) -> Any:
    if kind.kind is types.Bool:
        return expr.lift(bool(value))
    if kind.kind is types.Float:
        return expr.lift(float(value))
    return expr.lift(int(value) & ((1 << kind.width) - 1), kind)


def _wider(first: Any, second: Any) -> Any:
    """The type that holds the values of both."""
    if first is None:
        return second
    order = (types.Bool, types.Uint, types.Float)
    if first.kind is types.Uint and second.kind is types.Uint:
        return first if first.width >= second.width else second
    return max(first, second, key=lambda kind: order.index(kind.kind))
