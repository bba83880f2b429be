"""Qiskit's QuantumCircuit into a Circuit: what every import ends in.

Standard gates go by name through one dictionary, others by what they are: controlled, annotated, a matrix, and at last
by their definition, again and again until only gates of the table are left. Control flow stays control flow, except
that for loops are written out and boxes are opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qiskit.circuit import (
    CASE_DEFAULT,
    Barrier,
    BoxOp,
    BreakLoopOp,
    Clbit,
    ContinueLoopOp,
    Delay,
    ForLoopOp,
    IfElseOp,
    Measure,
    Parameter,
    QuantumCircuit,
    Qubit,
    Reset,
    Store,
    SwitchCaseOp,
    WhileLoopOp,
)

from qsimenv import circuit as qs
from qsimenv.circuit import Circuit, Instruction
from qsimenv.errors import InvalidArgumentError, NotSupportedError
from qsimenv.formats import qiskit_expr
from qsimenv.formats.qiskit_gates import ROWS, GateImporter

_MAX_TURNS = 1_000_000


def from_qiskit(circuit: QuantumCircuit) -> Circuit:
    """The circuit as a Circuit; parameters keep Qiskit's order (that of ``QuantumCircuit.parameters``).

    Delays mean nothing here and are dropped. Raises NotSupportedError, naming it, for an instruction without a
    definition, for input variables and for values of duration type.
    """
    inputs = [variable.name for variable in circuit.iter_input_vars()]
    if inputs:
        raise NotSupportedError(f"circuit: {inputs[0]!r} is an input variable; use a Parameter or add_var")
    parameters = list(circuit.parameters)
    importer = _Importer(parameters)
    scope = _Scope(
        {qubit: k for k, qubit in enumerate(circuit.qubits)}, {clbit: k for k, clbit in enumerate(circuit.clbits)}
    )
    instructions = importer.block(circuit, scope)
    return Circuit(
        num_qubits=circuit.num_qubits,
        num_clbits=circuit.num_clbits,
        instructions=tuple(instructions),
        registers=tuple(
            qs.Register(register.name, tuple(scope.clbits[bit] for bit in register)) for register in circuit.cregs
        ),
        parameters=tuple(parameter.name for parameter in parameters),
        variables=tuple(importer.variables.values()),
        name=circuit.name or "",
    )


@dataclass(frozen=True)
class _Scope:
    """Which numbers the bits of a circuit (or of a block or definition inside of it) have."""

    qubits: Mapping[Qubit, int]
    clbits: Mapping[Clbit, int]

    def inner(self, block: QuantumCircuit, qubits: tuple[int, ...], clbits: tuple[int, ...]) -> _Scope:
        """The scope of a block: its bits stand for ours by position; a condition may name ours directly too."""
        own = dict(zip(block.clbits, clbits, strict=True))
        return _Scope(dict(zip(block.qubits, qubits, strict=True)), {**self.clbits, **own})


class _Importer:
    def __init__(self, parameters: list[Parameter]) -> None:
        self.variables: dict[Any, str] = {}
        self._angles = qiskit_expr.Angles(parameters)
        self._gates = GateImporter(self._angles)

    def block(self, circuit: QuantumCircuit, scope: _Scope) -> list[Instruction]:
        """The instructions of a circuit, block or definition."""
        for variable in (*circuit.iter_declared_vars(), *circuit.iter_input_vars()):
            self._declare(variable)
        out: list[Instruction] = []
        if phase := self._angles(circuit.global_phase):
            out.append(qs.Gate("gphase", (), (phase,)))
        number, angle, append = scope.qubits.__getitem__, self._angles, out.append
        for item in circuit.data:
            qubits = tuple(map(number, item.qubits))
            if item.is_standard_gate() and (row := ROWS.get(item.name)):
                params = item.params
                append(qs.Gate(row, qubits, tuple(map(angle, params))) if params else qs.Gate(row, qubits))
            else:
                clbits = tuple([scope.clbits[clbit] for clbit in item.clbits])
                self._operation(item.operation, qubits, clbits, scope, out)
        return out

    def _operation(
        self, operation: Any, qubits: tuple[int, ...], clbits: tuple[int, ...], scope: _Scope, out: list[Instruction]
    ) -> None:
        match operation:
            case Measure():
                out.append(qs.Measure(qubits[0], clbits[0]))
            case Barrier():
                out.append(qs.Barrier(qubits))
            case Reset():
                out.append(qs.Reset(qubits[0]))
            case Delay():
                pass
            case Store():
                out.append(qiskit_expr.assign(operation.lvalue, operation.rvalue, scope.clbits, self.variables))
            case BreakLoopOp():
                out.append(qs.Break())
            case ContinueLoopOp():
                out.append(qs.Continue())
            case BoxOp():
                out.extend(self._inner(operation.body, qubits, clbits, scope))
            case IfElseOp() | SwitchCaseOp() | WhileLoopOp() | ForLoopOp():
                out.append(self._control_flow(operation, qubits, clbits, scope))
            case _:
                gates = self._gates.gates(operation, qubits)
                out.extend(self._defined(operation, qubits, clbits, scope) if gates is None else gates)

    def _inner(
        self, block: QuantumCircuit, qubits: tuple[int, ...], clbits: tuple[int, ...], scope: _Scope
    ) -> list[Instruction]:
        return self.block(block, scope.inner(block, qubits, clbits))

    def _defined(
        self, operation: Any, qubits: tuple[int, ...], clbits: tuple[int, ...], scope: _Scope
    ) -> list[Instruction]:
        definition = getattr(operation, "definition", None)
        if definition is None:
            raise NotSupportedError(
                f"circuit: instruction {operation.name!r} on {len(qubits)} qubit(s) has no definition; "
                "give it one, or replace it by gates"
            )
        return self._inner(definition, qubits, clbits, scope)

    def _control_flow(
        self, operation: Any, qubits: tuple[int, ...], clbits: tuple[int, ...], scope: _Scope
    ) -> Instruction:
        blocks = [tuple(self._inner(block, qubits, clbits, scope)) for block in self._blocks(operation)]
        match operation:
            case IfElseOp():
                return qs.IfElse(self._condition(operation, scope), *blocks)
            case WhileLoopOp():
                return qs.While(self._condition(operation, scope), blocks[0])
            case SwitchCaseOp():
                target = qiskit_expr.expression(operation.target, scope.clbits, self.variables)
                labels = [values for values, _ in operation.cases_specifier()]
                return qs.Switch(target, tuple(map(_case, labels, blocks)))
        return qs.Repeat(self._turns(operation, qubits, clbits, scope))

    @staticmethod
    def _blocks(operation: Any) -> tuple[QuantumCircuit, ...]:
        return () if isinstance(operation, ForLoopOp) else tuple(operation.blocks)

    def _condition(self, operation: Any, scope: _Scope) -> qs.Expression:
        return qiskit_expr.condition(operation.condition, scope.clbits, self.variables)

    def _turns(
        self, loop: ForLoopOp, qubits: tuple[int, ...], clbits: tuple[int, ...], scope: _Scope
    ) -> tuple[tuple[Instruction, ...], ...]:
        """One body a turn, the loop's variable put in: as a number where it is a Parameter, else by an assignment."""
        indices, name, body = loop.params
        if len(indices) > _MAX_TURNS:
            raise NotSupportedError(f"circuit: a for loop of {len(indices)} turns, {_MAX_TURNS} are supported")
        if isinstance(name, Parameter) and name in body.parameters:
            return tuple(
                tuple(self._inner(body.assign_parameters({name: index}), qubits, clbits, scope)) for index in indices
            )
        once = tuple(self._inner(body, qubits, clbits, scope))
        if name is None or isinstance(name, Parameter):
            return (once,) * len(indices)
        variable = qs.Variable(self.variables[name.var])
        width = int(name.type.width)
        return tuple(
            (qs.Assign(variable, qs.Operation("cast", (qs.Literal(int(index)),), width)), *once) for index in indices
        )

    def _declare(self, variable: Any) -> None:
        if variable.var in self.variables:
            return
        taken = set(self.variables.values())
        name, number = variable.name, 1
        while name in taken:
            name, number = f"{variable.name}_{number}", number + 1
        self.variables[variable.var] = name


def _case(labels: tuple[Any, ...], body: tuple[Instruction, ...]) -> qs.Case:
    if any(label is CASE_DEFAULT for label in labels):
        return qs.Case((), body)
    if not labels:
        raise InvalidArgumentError("circuit: a case of a switch has no values")
    return qs.Case(tuple(int(label) for label in labels), body)
