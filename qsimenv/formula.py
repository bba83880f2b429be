"""Formulas of free parameters: the angles of a parametric gate.

An angle is a float, or a short text over ``p0, p1, …`` (indices into ``Circuit.parameters``), for example
``"2*p0 + 0.5"``. Text is compact, hashable and readable in a plan; it is parsed once by Python's own parser,
checked against a white list, and evaluated with NumPy, so one call serves a whole array of parameter values.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from qsimenv.errors import InvalidArgumentError

Angle = float | str
"""A number of radians, or a formula of the circuit's free parameters."""

MAX_LENGTH = 4096
_MAX_DEPTH = 64

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(np, name)
    for name in ("sin", "cos", "tan", "arcsin", "arccos", "arctan", "exp", "log", "sqrt", "abs", "sign", "conj")
} | {"asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "pow": np.power}

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.true_divide,
    ast.Pow: np.power,
    ast.USub: np.negative,
    ast.UAdd: np.positive,
}
_CONSTANTS = {"pi": math.pi, "e": math.e}
_PARAMETER = re.compile(r"p(\d+)\Z")


def negate(angle: Angle) -> Angle:
    """Minus the angle."""
    return f"-({angle})" if isinstance(angle, str) else -angle


def shift(angle: Angle, offset: float) -> Angle:
    """The angle plus ``offset`` radians."""
    return f"({angle}) + {offset!r}" if isinstance(angle, str) else angle + offset


def indices(formula: str) -> frozenset[int]:
    """Which parameters the formula reads. Raises InvalidArgumentError where the text is not a formula."""
    return _parse(formula)[1]


def evaluate(angle: Angle, values: Sequence[float] | npt.NDArray[np.float64]) -> Any:
    """The angle in radians for ``values``, whose *last* axis numbers the parameters: shape (P,) or (B, P)."""
    if not isinstance(angle, str):
        return angle
    columns = np.asarray(values, dtype=np.float64)
    tree, _ = _parse(angle)
    return _value(tree, columns)


def linear(angle: Angle) -> tuple[dict[int, float], float] | None:
    """The angle as sum of ``factor[k] * p_k`` plus a constant; None where it is not linear in the parameters."""
    if not isinstance(angle, str):
        return {}, float(angle)
    return _linear(_parse(angle)[0])


def _linear(node: ast.expr) -> tuple[dict[int, float], float] | None:
    match node:
        case ast.Name(id=name) if name not in _CONSTANTS:
            return {int(name[1:]): 1.0}, 0.0
        case ast.UnaryOp(op=op, operand=operand):
            inner = _linear(operand)
            return _scaled(inner, -1.0 if isinstance(op, ast.USub) else 1.0) if inner else None
        case ast.BinOp(left=left, op=op, right=right):
            return _linear_of_two(_linear(left), op, _linear(right))
    if any(isinstance(part, ast.Name) and _PARAMETER.match(part.id) for part in ast.walk(node)):
        return None
    return {}, float(_value(node, np.empty(0)))


_Linear = tuple[dict[int, float], float]


def _scaled(form: _Linear, factor: float) -> _Linear:
    return {index: factor * value for index, value in form[0].items()}, factor * form[1]


def _linear_of_two(left: _Linear | None, op: ast.operator, right: _Linear | None) -> _Linear | None:
    """A sum, a difference, a multiple or a fraction of linear forms, where that is one."""
    if left is None or right is None:
        return None
    match op:
        case ast.Add() | ast.Sub():
            right = right if isinstance(op, ast.Add) else _scaled(right, -1.0)
            names = left[0].keys() | right[0].keys()
            return {name: left[0].get(name, 0.0) + right[0].get(name, 0.0) for name in names}, left[1] + right[1]
        case ast.Mult() if not right[0]:
            return _scaled(left, right[1])
        case ast.Mult() if not left[0]:
            return _scaled(right, left[1])
        case ast.Div() if not right[0] and right[1]:
            return _scaled(left, 1.0 / right[1])
        case ast.Pow() if not left[0] and not right[0]:
            return {}, float(np.power(left[1], right[1]))
    return None


def gradient(angle: Angle, values: Sequence[float] | npt.NDArray[np.float64]) -> dict[int, float]:
    """The derivative of the angle by each parameter that it reads, at ``values`` of shape (P,)."""
    form = linear(angle)
    if form is not None:
        return form[0]
    return _dual(_parse(str(angle))[0], np.asarray(values, dtype=np.float64))[1]


_DERIVATIVES: dict[str, Callable[[float], float]] = {
    "sin": math.cos, "cos": lambda x: -math.sin(x), "tan": lambda x: 1 / math.cos(x) ** 2,
    "arcsin": lambda x: 1 / math.sqrt(1 - x * x), "arccos": lambda x: -1 / math.sqrt(1 - x * x),
    "arctan": lambda x: 1 / (1 + x * x), "exp": math.exp, "log": lambda x: 1 / x,
    "sqrt": lambda x: 0.5 / math.sqrt(x), "abs": lambda x: math.copysign(1.0, x), "sign": lambda _: 0.0,
    "conj": lambda _: 1.0,
}  # fmt: skip
_DERIVATIVES |= {f"a{name}": _DERIVATIVES[f"arc{name}"] for name in ("sin", "cos", "tan")}

_Dual = tuple[float, dict[int, float]]


def _dual(node: ast.expr, values: npt.NDArray[np.float64]) -> _Dual:
    """Value and derivatives, by the rules of calculus."""
    value = float(_value(node, values))
    match node:
        case ast.Name(id=name) if name not in _CONSTANTS:
            return value, {int(name[1:]): 1.0}
        case ast.UnaryOp(op=op, operand=operand):
            return value, _combined((-1.0 if isinstance(op, ast.USub) else 1.0, _dual(operand, values)))
        case ast.Call(func=ast.Name(id="pow"), args=[left, right]):
            return value, _of_two(ast.Pow(), value, _dual(left, values), _dual(right, values))
        case ast.BinOp(left=left, op=op, right=right):
            return value, _of_two(op, value, _dual(left, values), _dual(right, values))
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            inner = _dual(argument, values)
            return value, _combined((_DERIVATIVES[name](inner[0]), inner)) if inner[1] else {}
    return value, {}


def _of_two(op: ast.operator, value: float, left: _Dual, right: _Dual) -> dict[int, float]:
    match op:
        case ast.Add() | ast.Sub():
            return _combined((1.0, left), (1.0 if isinstance(op, ast.Add) else -1.0, right))
        case ast.Mult():
            return _combined((right[0], left), (left[0], right))
        case ast.Div():
            return _combined((1 / right[0], left), (-value / right[0], right))
    by_base = right[0] * left[0] ** (right[0] - 1) if left[1] else 0.0
    return _combined((by_base, left), (value * math.log(left[0]) if right[1] else 0.0, right))


def _combined(*parts: tuple[float, _Dual]) -> dict[int, float]:
    total: dict[int, float] = {}
    for factor, (_, derivatives) in parts:
        for index, derivative in derivatives.items():
            total[index] = total.get(index, 0.0) + factor * derivative
    return total


def substitute(formula: str, replacements: Sequence[Angle]) -> Angle:
    """The formula with parameter ``k`` replaced by ``replacements[k]``; a float where no parameter is left."""
    _parse(formula)

    class Replace(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            match = _PARAMETER.match(node.id)
            if match is None:
                return node
            return ast.parse(f"({replacements[int(match[1])]!s})", mode="eval").body

    text = ast.unparse(Replace().visit(ast.parse(formula, mode="eval")))
    return text if indices(text) else float(_value(_parse(text)[0], np.empty(0)))


@lru_cache(maxsize=4096)
def _parse(formula: str) -> tuple[ast.expr, frozenset[int]]:
    if len(formula) > MAX_LENGTH:
        raise InvalidArgumentError(f"angle: a formula of {len(formula)} characters, {MAX_LENGTH} are allowed")
    try:
        tree = ast.parse(formula, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidArgumentError(f"angle: {formula!r} is not a formula ({error})") from None
    found: set[int] = set()
    _check(tree, formula, found, _MAX_DEPTH)
    return tree, frozenset(found)


def _check(node: ast.expr, formula: str, found: set[int], depth: int) -> None:
    """Refuse whatever is not arithmetic on parameters and numbers."""
    if depth == 0:
        raise InvalidArgumentError(f"angle: {formula!r} is nested more than {_MAX_DEPTH} deep")
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return
        case ast.Name(id=name) if name in _CONSTANTS:
            return
        case ast.Name(id=name) if _PARAMETER.match(name):
            found.add(int(name[1:]))
            return
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            _check(left, formula, found, depth - 1)
            _check(right, formula, found, depth - 1)
            return
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            _check(operand, formula, found, depth - 1)
            return
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            for argument in args:
                _check(argument, formula, found, depth - 1)
            return
    raise InvalidArgumentError(
        f"angle: {ast.unparse(node)!r} in {formula!r} is not arithmetic on p0, p1, … and numbers"
    )


def _value(node: ast.expr, columns: npt.NDArray[np.float64]) -> Any:
    match node:
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]
        case ast.Name(id=name):
            return _CONSTANTS[name] if name in _CONSTANTS else columns[..., int(name[1:])]
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left, columns), _value(right, columns))
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATORS[type(op)](_value(operand, columns))
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name](*(_value(argument, columns) for argument in args))
    raise AssertionError("unreachable: _check lets nothing else through")
