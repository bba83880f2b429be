"""A Circuit into Qiskit's QuantumCircuit, for the writers of OpenQASM and QPY and for whoever wants to draw it.

Loops whose turns differ are written out, because Qiskit's loops have one body. Variables get their types back from
what is stored in them: the Circuit itself does not say.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any

from qiskit.circuit import CASE_DEFAULT, ClassicalRegister, Clbit, Parameter, QuantumCircuit, QuantumRegister
from qiskit.circuit.library import (
    C3SXGate,
    CUGate,
    DCXGate,
    GlobalPhaseGate,
    IGate,
    MCPhaseGate,
    MCXGate,
    PhaseGate,
    RC3XGate,
    RVGate,
    UGate,
    UnitaryGate,
    get_standard_gate_name_mapping,
    iSwapGate,
)

from qsimenv import formula, gates
from qsimenv.circuit import (
    Assign,
    Barrier,
    Break,
    Circuit,
    Continue,
    Gate,
    IfElse,
    Instruction,
    Measure,
    Repeat,
    Reset,
    Switch,
    While,
    bodies,
)
from qsimenv.errors import NotSupportedError
from qsimenv.formats.qiskit_expr_out import Expressions
from qsimenv.formula import Angle

_CLASSES: dict[str, Callable[..., Any]] = {
    gates.ALIASES.get(name, name): gate.base_class for name, gate in get_standard_gate_name_mapping().items()
} | {
    "c3sx": C3SXGate,
    "dcxdg": lambda: DCXGate().inverse(),
    "iswapdg": lambda: iSwapGate().inverse(),
    "rcccxdg": lambda: RC3XGate().inverse(),
    "rv": RVGate,
    "u0": lambda _angle: IGate(),
}


def to_qiskit(circuit: Circuit) -> QuantumCircuit:
    """The circuit as a QuantumCircuit that does the same, global phase included.

    Raises NotSupportedError for a loop with different turns that is left by break or continue, and for an assignment
    to bits that are neither a register nor one bit.
    """
    return _Exporter(circuit).export()


class _Exporter:
    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit
        self._clbits = [Clbit() for _ in range(circuit.num_clbits)]
        self._registers = [
            ClassicalRegister(len(register.clbits), register.name)
            if not register.clbits
            else ClassicalRegister(name=register.name, bits=[self._clbits[k] for k in register.clbits])
            for register in circuit.registers
        ]
        self._parameters = [Parameter(name) for name in circuit.parameters]
        self._expressions = Expressions(circuit, self._clbits, self._registers)
        self._out = QuantumCircuit(name=circuit.name or None)

    def export(self) -> QuantumCircuit:
        out = self._out
        if self._circuit.num_qubits:
            out.add_register(QuantumRegister(self._circuit.num_qubits, self._free_name("q")))
        out.add_bits(self._clbits)
        for register in self._registers:
            out.add_register(register)
        for variable, zero in self._expressions.declared():
            out.add_var(variable, zero)
        self._block(self._circuit.instructions, top=True)
        return out

    def _free_name(self, name: str) -> str:
        while any(register.name == name for register in self._circuit.registers):
            name += "_"
        return name

    def _block(self, instructions: tuple[Instruction, ...], top: bool = False) -> None:
        for instruction in instructions:
            match instruction:
                case Gate():
                    self._gate(instruction, top)
                case Measure(qubit=qubit, clbit=clbit):
                    self._out.measure(qubit, clbit)
                case Reset(qubit=qubit):
                    self._out.reset(qubit)
                case Barrier(qubits=qubits):
                    self._out.barrier(list(qubits))
                case Assign(target=target, value=value):
                    self._out.store(*self._expressions.store(target, value))
                case Break():
                    self._out.break_loop()
                case Continue():
                    self._out.continue_loop()
                case _:
                    self._control_flow(instruction)

    # --- gates ---

    def _gate(self, gate: Gate, top: bool) -> None:
        if gate.base == "gphase" and gate.num_controls == 0 and top:
            self._out.global_phase += self._angle(gate.params[0])
            return
        for operation, qubits in _operations(gate, [self._angle(angle) for angle in gate.params]):
            self._out.append(operation, list(qubits))

    def _angle(self, angle: Angle) -> Any:
        return _symbolic(ast.parse(angle, mode="eval").body, self._parameters) if isinstance(angle, str) else angle

    # --- control flow ---

    def _control_flow(self, instruction: Instruction) -> None:
        out, expressions = self._out, self._expressions
        match instruction:
            case IfElse(condition=condition, then=then, otherwise=otherwise):
                with out.if_test(expressions.boolean(condition)) as otherwise_:
                    self._block(then)
                if otherwise:
                    with otherwise_:
                        self._block(otherwise)
            case While(condition=condition, body=body):
                with out.while_loop(expressions.boolean(condition)):
                    self._block(body)
            case Switch(target=target, cases=cases):
                with out.switch(expressions.value(target)) as case_:
                    for case in cases:
                        with case_(*(case.values or (CASE_DEFAULT,))):
                            self._block(case.body)
            case Repeat(bodies=turns):
                self._repeat(turns)

    def _repeat(self, turns: tuple[tuple[Instruction, ...], ...]) -> None:
        if len(turns) > 1 and all(turn == turns[0] for turn in turns):
            with self._out.for_loop(range(len(turns)), None):
                self._block(turns[0])
        elif not any(_jumps(turn) for turn in turns):
            for turn in turns:
                self._block(turn)
        else:
            raise NotSupportedError("to_qiskit: a loop whose turns differ and which is left by break or continue")


def _jumps(body: tuple[Instruction, ...]) -> bool:
    """Whether a break or continue in the body belongs to the loop around it."""
    return any(
        isinstance(instruction, Break | Continue)
        or (isinstance(instruction, IfElse | Switch) and any(map(_jumps, bodies(instruction))))
        for instruction in body
    )


def _operations(gate: Gate, angles: list[Any]) -> Iterator[tuple[Any, tuple[int, ...]]]:
    """Qiskit's gates for one of ours, with their qubits."""
    count, state = gate.num_controls, gate.control_value
    controls, targets = gate.qubits[:count], gate.qubits[count:]
    if gate.base == "u4" and count != 1:
        yield _under_controls(UGate(*angles[:3]), count, state), gate.qubits
        yield from _phase(angles[3], controls, state)
    elif gate.base == "gphase":
        yield from _phase(angles[0], controls, state)
    elif gate.base == gates.UNITARY:
        yield _under_controls(UnitaryGate(gate.base_matrix()), count, state), gate.qubits
    elif gate.name in _CLASSES and gate.controls == 0:
        yield _with_state(_CLASSES[gate.name], angles, count, state), gate.qubits
    elif gate.base == "x" and count > 2:
        yield MCXGate(count, ctrl_state=state), gate.qubits
    elif gate.base in ("p", "u1") and count > 1:
        yield MCPhaseGate(angles[0], count, ctrl_state=state), gate.qubits
    elif gate.base == "u4":
        yield CUGate(*angles, ctrl_state=state), gate.qubits
    else:
        yield _under_controls(_CLASSES[gate.base](*angles), count, state), (*controls, *targets)


def _with_state(make: Callable[..., Any], angles: list[Any], count: int, state: int) -> Any:
    return make(*angles) if count == 0 or state == (1 << count) - 1 else make(*angles, ctrl_state=state)


def _under_controls(operation: Any, count: int, state: int) -> Any:
    return operation.control(count, ctrl_state=state, annotated=False) if count else operation


def _phase(angle: Any, controls: tuple[int, ...], state: int) -> Iterator[tuple[Any, tuple[int, ...]]]:
    """A phase where the controls spell ``state``: a controlled phase gate on the last one, between X where it is 0."""
    if not controls:
        yield GlobalPhaseGate(angle), ()
        return
    *others, last = controls
    flip = not state >> len(others) & 1
    x = _CLASSES["x"]
    if flip:
        yield x(), (last,)
    yield _under_controls(PhaseGate(angle), len(others), state & ((1 << len(others)) - 1)), controls
    if flip:
        yield x(), (last,)


# --- formulas ---

_CALLS = {
    "arcsin": "arcsin", "asin": "arcsin", "arccos": "arccos", "acos": "arccos", "arctan": "arctan", "atan": "arctan",
    "conj": "conjugate",
}  # fmt: skip
_CONSTANTS = {"pi": 3.141592653589793, "e": 2.718281828459045}


def _symbolic(node: ast.expr, parameters: list[Parameter]) -> Any:
    """A formula as Qiskit's ParameterExpression (or a number where it reads no parameter)."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return _CONSTANTS[name] if name in _CONSTANTS else parameters[int(name[1:])]
        case ast.UnaryOp(op=op, operand=operand):
            value = _symbolic(operand, parameters)
            return -value if isinstance(op, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right):
            return _combined(op, _symbolic(left, parameters), _symbolic(right, parameters))
        case ast.Call(func=ast.Name(id=name), args=args):
            return _called(name, [_symbolic(argument, parameters) for argument in args])
    raise AssertionError("unreachable: a Circuit holds checked formulas only")


def _combined(op: ast.operator, left: Any, right: Any) -> Any:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
    return left**right


def _called(name: str, arguments: list[Any]) -> Any:
    if name == "pow":
        return arguments[0] ** arguments[1]
    (value,) = arguments
    if name == "sqrt":
        return value**0.5
    if isinstance(value, int | float):
        return float(formula.evaluate(f"{name}({value!r})", ()))
    return abs(value) if name == "abs" else getattr(value, _CALLS.get(name, name))()
