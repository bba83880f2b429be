"""Qiskit's two parsers of OpenQASM, with one way to say what is wrong and where.

``openqasm`` calls it. The OpenQASM 3 importer is Qiskit's, taught three things more: where it was when something went
wrong, conditions that are more than a comparison of bits with a number, and ``switch``.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from typing import Any

import openqasm3
from openqasm3 import ast
from openqasm3.parser import QASM3ParsingError
from qiskit import QuantumCircuit, qasm2
from qiskit.circuit import ClassicalRegister, Clbit
from qiskit.circuit.classical import expr, types
from qiskit.exceptions import QiskitError
from qiskit_qasm3_import.converter import ConvertVisitor
from qiskit_qasm3_import.exceptions import ConversionError, raise_from_node
from qiskit_qasm3_import.state import LocalScope

from qsimenv.formats.openqasm_constants import expand

_DEFINED = re.compile(r"\b(?:gate|opaque)\s+(\w+)")
_QASM2_PLACE = re.compile(r".*?:(\d+),(\d+): (.*)", re.DOTALL)
_QASM3_PLACE = re.compile(r"L?(\d+)(?::C|,)(\d+): (.*)", re.DOTALL)
_BEFORE_DEFINITION = re.compile(r"cannot use non-builtin custom instruction ('\w+') before definition")


class FlawError(Exception):
    """What is wrong with a program; ``line`` counts from 1 and ``column`` from 0, None where nobody knows."""

    def __init__(self, message: str, line: int | None = None, column: int = 0) -> None:
        super().__init__(message)
        self.message, self.line, self.column = message, line, column


def parse2(text: str, bare: str) -> QuantumCircuit:
    """OpenQASM 2; ``bare`` is the text without comments. Raises FlawError."""
    # A gate that the program defines itself is what its body says, not what Qiskit calls by that name.
    own = set(_DEFINED.findall(bare))
    try:
        return qasm2.loads(
            text,
            include_path=(),
            custom_instructions=[custom for custom in qasm2.LEGACY_CUSTOM_INSTRUCTIONS if custom.name not in own],
            custom_classical=qasm2.LEGACY_CUSTOM_CLASSICAL,
        )
    except QiskitError as error:
        message = _BEFORE_DEFINITION.sub(r"gate \1 is not defined; is its include missing?", one_line(error))
        place = _QASM2_PLACE.fullmatch(message)
        raise (FlawError(place[3], int(place[1]), int(place[2])) if place else FlawError(message)) from None


def parse3(text: str) -> QuantumCircuit:
    """OpenQASM 3. Raises FlawError. Nothing is printed, though the parser would like to."""
    visitor = _Visitor()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            program = openqasm3.parse(text)
        return visitor.convert(expand(program)).circuit
    except QASM3ParsingError as error:
        raise _syntax_flaw(error) from None
    except RecursionError:
        raise FlawError("the program is nested too deeply") from None
    except Exception as error:  # noqa: BLE001 - the importer leaves its mistakes (IndexError, TypeError …) as they are
        raise visitor.flaw(error) from None


def one_line(error: BaseException) -> str:
    """The message of somebody else's error, without line breaks and backtraces."""
    text = str(getattr(error, "message", None) or error) or type(error).__name__
    return " ".join(text.partition("╺")[0].split()).rstrip(" :")


_BINARY = {
    "&&": expr.logic_and, "||": expr.logic_or, "==": expr.equal, "!=": expr.not_equal, "<": expr.less,
    "<=": expr.less_equal, ">": expr.greater, ">=": expr.greater_equal, "&": expr.bit_and, "|": expr.bit_or,
    "^": expr.bit_xor, "<<": expr.shift_left, ">>": expr.shift_right, "+": expr.add, "-": expr.sub, "*": expr.mul,
}  # fmt: skip
_BOOLEAN = types.Bool()
_UNARY = {"!": expr.logic_not, "~": expr.bit_not}


class _Visitor(ConvertVisitor):  # type: ignore[misc]
    """Qiskit's importer, which remembers the innermost statement that it was at when something went wrong."""

    def __init__(self) -> None:
        super().__init__()
        self._failed_at: Any = None

    def visit(self, node: Any, context: Any = None) -> Any:
        try:
            return super().visit(node, context)
        except Exception:
            if self._failed_at is None and getattr(node, "span", None) is not None:
                self._failed_at = node
            raise

    def visit_SwitchStatement(self, node: Any, context: Any) -> Any:  # noqa: N802 - the name is the parser's
        """A switch over bits; OpenQASM has no fall-through."""
        with context.circuit.switch(self._expression(node.target, context)) as case_:
            for labels, block in node.cases:
                with case_(*(self._resolve_constant_int(label, context) for label in labels)):
                    self._block(block, context)
            if node.default is not None:
                with case_(case_.DEFAULT):
                    self._block(node.default, context)
        return context

    def flaw(self, error: Exception) -> FlawError:
        """What went wrong, in words for who wrote the program and not for who wrote the importer."""
        message, node = one_line(error), self._failed_at
        place = _QASM3_PLACE.fullmatch(message) if isinstance(error, ConversionError) else None
        if place is not None:
            return FlawError(place[3], int(place[1]), int(place[2]))
        if isinstance(error, TypeError) and isinstance(node, ast.QuantumGate):
            message = f"gate {node.name.name!r} takes another number of angles than {len(node.arguments)}"
        return FlawError(message, node.span.start_line, node.span.start_column) if node else FlawError(message)

    def _block(self, block: Any, context: Any) -> None:
        with LocalScope(context) as inner:
            for statement in block.statements:
                self.visit(statement, inner)

    def _resolve_condition(self, node: Any, context: Any) -> Any:
        try:
            return super()._resolve_condition(node, context)
        except ConversionError:
            condition = self._expression(node, context)
            return condition if condition.type == _BOOLEAN else expr.cast(condition, _BOOLEAN)

    def _expression(self, node: Any, context: Any) -> Any:
        """A classical expression over bits, registers and constants."""
        try:
            match node:
                case ast.BinaryExpression() if node.op.name in _BINARY:
                    left, right = self._expression(node.lhs, context), self._expression(node.rhs, context)
                    return _BINARY[node.op.name](*_alike(left, right))
                case ast.UnaryExpression() if node.op.name in _UNARY:
                    return _UNARY[node.op.name](self._expression(node.expression, context))
                case ast.BooleanLiteral() | ast.IntegerLiteral():
                    return expr.lift(node.value)
            value, _ = self._resolve_generic(node, context, strict=False)
        except TypeError as error:
            raise_from_node(node, one_line(error))
        if not isinstance(value, Clbit | ClassicalRegister | bool | int):
            raise_from_node(node, "only bits, bit registers and constants can be used in conditions")
        return expr.lift(value)


def _alike(left: Any, right: Any) -> tuple[Any, Any]:
    """Two sides of an operator; a constant takes the type of the other side where it fits in there."""
    if isinstance(right, expr.Value):
        return left, _fitted(right, left.type)
    if isinstance(left, expr.Value):
        return _fitted(left, right.type), right
    return left, right


def _fitted(constant: Any, kind: Any) -> Any:
    if kind == _BOOLEAN and constant.value in (0, 1):
        return expr.lift(bool(constant.value))
    if kind.kind is types.Uint and 0 <= constant.value < 1 << kind.width:
        return expr.lift(int(constant.value), kind)
    return constant


def _syntax_flaw(error: QASM3ParsingError) -> FlawError:
    place = _QASM3_PLACE.fullmatch(str(error))
    if place is not None:
        return FlawError(" ".join(place[3].split()), int(place[1]), int(place[2]))
    token = next((token for token in map(_offending_token, _causes(error)) if token is not None), None)
    if token is None:
        return FlawError(one_line(error) or "syntax error")
    found = "the end of the program" if token.text == "<EOF>" else repr(token.text)
    return FlawError(f"{found} is not expected here", token.line, token.column)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        yield from (argument for argument in error.args if isinstance(argument, BaseException))
        error = error.__cause__ or error.__context__


def _offending_token(error: BaseException) -> Any:
    return getattr(error, "offendingToken", None)
