"""What OpenQASM 3 says in constants, worked out before Qiskit's importer reads it.

``openqasm_parsers`` calls it on the syntax tree. ``const`` declarations are put in where they are used, calls of
mathematical functions of constants become numbers, and for loops over known values are written out with the loop
variable put in, because the importer takes none of these as the index of a qubit. Loops with break or continue stay.
"""

from __future__ import annotations

import math
import operator
from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from openqasm3 import ast
from openqasm3.visitor import QASMTransformer, QASMVisitor

MAX_STATEMENTS = 1_000_000
"""Statements that loops may be written out to."""

Number = int | float

_CONSTANTS: dict[str, Number] = {
    "pi": math.pi, "π": math.pi, "tau": math.tau, "τ": math.tau, "euler": math.e, "ℇ": math.e,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "arccos": math.acos, "arcsin": math.asin, "arctan": math.atan, "ceiling": math.ceil, "cos": math.cos,
    "exp": math.exp, "floor": math.floor, "log": math.log, "mod": operator.mod, "pow": pow, "sin": math.sin,
    "sqrt": math.sqrt, "tan": math.tan,
}  # fmt: skip


def _quotient(first: Number, second: Number) -> Number:
    return first // second if isinstance(first, int) and isinstance(second, int) else first / second


_BINARY: dict[str, Callable[[Any, Any], Number]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": _quotient, "%": operator.mod, "**": pow,
    "<<": operator.lshift, ">>": operator.rshift, "&": operator.and_, "|": operator.or_, "^": operator.xor,
}  # fmt: skip


class UnknownError(Exception):
    """The expression is not a constant."""


def expand(program: ast.Program) -> ast.Program:
    """The program with its constants put in and its loops written out; the tree is changed in place.

    Raises ValueError where a constant cannot be worked out or the loops become too long.
    """
    _Expander().visit(program)
    return program


class _Expander(QASMTransformer[None]):
    def __init__(self) -> None:
        self._values: ChainMap[str, Number] = ChainMap({})
        self._written = 0

    def visit_ConstantDeclaration(self, node: ast.ConstantDeclaration) -> Any:  # noqa: N802 - the name is the parser's
        try:
            value = self._value(node.init_expression)
        except UnknownError:
            raise ValueError(f"the value of {node.identifier.name!r} is not a constant number") from None
        self._values[node.identifier.name] = _as(node.type, value)
        return []

    def visit_ForInLoop(self, node: ast.ForInLoop) -> Any:  # noqa: N802
        try:
            turns = list(self._turns(node.set_declaration))
        except UnknownError:
            return self.generic_visit(node)
        if _leaves(node.block):
            return self.generic_visit(node)
        if not _reads(node.block, node.identifier.name):
            written = self._statements(node.block) if turns else []
            self._count((len(turns) - 1) * len(written))
            return written * len(turns)
        written = []
        for value in turns:
            self._values = self._values.new_child({node.identifier.name: value})
            written += self._statements(_copied(node.block))
            self._values = self._values.parents
        return written

    def visit_QuantumGateDefinition(self, node: ast.QuantumGateDefinition) -> Any:  # noqa: N802
        hidden = {name.name for name in (*node.arguments, *node.qubits)}
        outer = self._values
        self._values = ChainMap({name: value for name, value in outer.items() if name not in hidden})
        node.body = self._statements(node.body)
        self._values = outer
        return node

    def visit_QuantumGate(self, node: ast.QuantumGate) -> Any:  # noqa: N802
        node.modifiers = [self.visit(modifier) for modifier in node.modifiers]
        node.arguments = [self._folded(argument) for argument in node.arguments]
        node.qubits = [
            self.visit(qubit) if isinstance(qubit, ast.IndexedIdentifier) else qubit for qubit in node.qubits
        ]
        return node

    def visit_QuantumPhase(self, node: ast.QuantumPhase) -> Any:  # noqa: N802
        node.argument = self._folded(node.argument)
        node.modifiers = [self.visit(modifier) for modifier in node.modifiers]
        return node

    def visit_IndexedIdentifier(self, node: ast.IndexedIdentifier) -> Any:  # noqa: N802
        node.indices = [
            [self._folded_index(index) for index in group] if isinstance(group, list) else self.visit(group)
            for group in node.indices
        ]
        return node

    def visit_IndexExpression(self, node: ast.IndexExpression) -> Any:  # noqa: N802
        if isinstance(node.index, list):
            node.index = [self._folded_index(index) for index in node.index]
        return node

    def visit_Identifier(self, node: ast.Identifier) -> Any:  # noqa: N802
        return _literal(self._values[node.name], node) if node.name in self._values else node

    def _statements(self, statements: Sequence[Any]) -> list[Any]:
        written: list[Any] = []
        for statement in statements:
            new = self.visit(statement)
            written += new if isinstance(new, list) else [new]
        self._count(len(written))
        return written

    def _count(self, statements: int) -> None:
        self._written += statements
        if self._written > MAX_STATEMENTS:
            raise ValueError(f"the loops write out more than {MAX_STATEMENTS} statements")

    def _turns(self, declared: Any) -> Iterator[int]:
        """The values that a loop variable takes. Raises UnknownError where they are not constants."""
        if isinstance(declared, ast.DiscreteSet):
            yield from (int(self._value(value)) for value in declared.values)
            return
        if not isinstance(declared, ast.RangeDefinition) or declared.start is None or declared.end is None:
            raise UnknownError
        start, end = int(self._value(declared.start)), int(self._value(declared.end))
        step = 1 if declared.step is None else int(self._value(declared.step))
        if step == 0:
            raise ValueError("a for loop with step 0 never ends")
        turns = range(start, end + (1 if step > 0 else -1), step)
        if len(turns) > MAX_STATEMENTS:
            raise ValueError(f"a for loop has {len(turns)} turns, {MAX_STATEMENTS} are allowed")
        yield from turns

    def _folded_index(self, node: Any) -> Any:
        return self.visit(node) if isinstance(node, ast.RangeDefinition) else self._folded(node)

    def _folded(self, node: Any) -> Any:
        """A number where the expression is one that the importer would not see; else it, with its constants put in."""
        try:
            return _literal(self._value(node), node) if _needs_folding(node, self._values) else node
        except UnknownError:
            return self.visit(node)

    def _value(self, node: Any) -> Number:
        match node:
            case ast.IntegerLiteral() | ast.FloatLiteral():
                number: Number = node.value
                return number
            case ast.Identifier(name=name):
                if name not in self._values and name not in _CONSTANTS:
                    raise UnknownError
                return self._values[name] if name in self._values else _CONSTANTS[name]
            case ast.UnaryExpression(op=op, expression=inner) if op.name == "-":
                return -self._value(inner)
            case ast.BinaryExpression(op=op, lhs=left, rhs=right) if op.name in _BINARY:
                return self._computed(_BINARY[op.name], left, right)
            case ast.FunctionCall(name=name, arguments=arguments) if name.name in _FUNCTIONS:
                return self._computed(_FUNCTIONS[name.name], *arguments)
        raise UnknownError

    def _computed(self, function: Callable[..., Number], *arguments: Any) -> Number:
        values = [self._value(argument) for argument in arguments]
        try:
            return function(*values)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise ValueError(f"a constant cannot be worked out: {error}") from None


def _copied(tree: Any) -> Any:
    """A tree of its own, but for places in the text, which are shared; ``copy.deepcopy`` takes six times as long."""
    if isinstance(tree, list):
        return [_copied(part) for part in tree]
    if not isinstance(tree, ast.QASMNode):
        return tree
    made = object.__new__(type(tree))
    vars(made).update({name: _copied(part) for name, part in vars(tree).items()})
    return made


class _Finder(QASMVisitor[None]):
    """Whether a tree has a node of some kinds, or reads one of some names."""

    def __init__(self, kinds: tuple[type, ...], names: ChainMap[str, Number] | None = None) -> None:
        self._kinds, self._names, self.found = kinds, names or ChainMap({}), False

    def generic_visit(self, node: Any, context: Any = None) -> None:
        self.found |= isinstance(node, self._kinds)
        self.found |= isinstance(node, ast.Identifier) and node.name in self._names
        super().generic_visit(node, context)


def _leaves(block: Sequence[Any]) -> bool:
    finder = _Finder((ast.BreakStatement, ast.ContinueStatement))
    for statement in block:
        finder.visit(statement)
    return finder.found


def _reads(tree: Any, name: str) -> bool:
    """Whether a name occurs in a tree, be it as that of something else. The parser's visitor leaves out lists in lists,
    which indices are."""
    if isinstance(tree, list):
        return any(_reads(part, name) for part in tree)
    if isinstance(tree, ast.Identifier):
        return bool(tree.name == name)
    return isinstance(tree, ast.QASMNode) and any(_reads(part, name) for part in vars(tree).values())


def _needs_folding(node: Any, names: ChainMap[str, Number]) -> bool:
    finder = _Finder((ast.FunctionCall,), names)
    finder.visit(node)
    return finder.found


def _as(kind: Any, value: Number) -> Number:
    return int(value) if isinstance(kind, ast.IntType | ast.UintType) else float(value)


def _literal(value: Number, like: Any) -> Any:
    """A literal of the value, in the place of another node; a minus is an expression of its own."""
    made: Any = ast.IntegerLiteral(abs(value)) if isinstance(value, int) else ast.FloatLiteral(abs(value))
    if value < 0:
        made.span = like.span
        made = ast.UnaryExpression(ast.UnaryOperator["-"], made)
    made.span = like.span
    return made
