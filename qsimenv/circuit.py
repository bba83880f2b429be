"""Circuit: what the house runs. Frozen, compact, hashable by content, with named free parameters.

Formats make one from what the user has; it travels as msgpack; the engines read it. Qubits and classical bits
are plain numbers, qubit 0 the least significant. Control flow is structured (if, switch, while, for), and its
conditions are small expression trees over classical bits, so that a worker needs nothing but this file.
"""

from __future__ import annotations

import builtins
import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Union

import msgspec
import numpy as np
import numpy.typing as npt

from qsimenv import formula, gates
from qsimenv.errors import InvalidArgumentError, OutOfRangeError
from qsimenv.formula import Angle

DEFAULT_MAX_ITERATIONS = 100_000
"""A while loop that turns more often than this in one shot is taken for one that never ends."""


class Gate(msgspec.Struct, frozen=True, tag="gate", omit_defaults=True):
    """A row of the gate table on ``qubits``: added controls first, then those of the row, then the targets.

    ``controls`` counts controls on top of the row's own. ``control_state`` holds the value every control
    (added and own) must have, bit k for ``qubits[k]``; -1 stands for all ones. ``matrix`` is set for ``unitary``
    alone: its complex128 entries, row by row, little endian.
    """

    name: str
    qubits: tuple[int, ...]
    params: tuple[Angle, ...] = ()
    controls: int = 0
    control_state: int = -1
    matrix: bytes = b""

    @property
    def base(self) -> str:
        """The base gate in the table."""
        return gates.base_and_controls(self.name, len(self.qubits) - self.controls)[0]

    @property
    def num_controls(self) -> int:
        """All controls, added ones and those of the row."""
        return self.controls + gates.base_and_controls(self.name, len(self.qubits) - self.controls)[1]

    @property
    def control_value(self) -> int:
        """The value that the controls must have, as a number over ``qubits[:num_controls]``."""
        return (1 << self.num_controls) - 1 if self.control_state < 0 else self.control_state

    def angles(self, values: Sequence[float] | npt.NDArray[np.float64] = ()) -> tuple[float, ...]:
        """The angles in radians for parameter ``values`` of shape (P,); InvalidArgumentError where one is no number."""
        angles = tuple([
            angle if type(angle) is float else float(formula.evaluate(angle, values)) for angle in self.params
        ])  # fmt: skip
        if not all(map(math.isfinite, angles)):
            angle, text = next(each for each in zip(angles, self.params, strict=True) if not math.isfinite(each[0]))
            raise InvalidArgumentError(f"gate {self.name}: {text!r} is {angle} for these parameters, not a number")
        return angles

    def base_matrix(self, values: Sequence[float] | npt.NDArray[np.float64] = ()) -> gates.Matrix:
        """The matrix on the targets, shape (2**targets, 2**targets), for parameter ``values`` of shape (P,)."""
        if self.name == gates.UNITARY:
            size = 1 << (len(self.qubits) - self.controls)
            return np.frombuffer(self.matrix, dtype="<c16").reshape(size, size)
        return gates.BASE[self.base].matrix(*self.angles(values))

    def inverse(self) -> Gate:
        """The gate that undoes this one."""
        if self.name == gates.UNITARY:
            adjoint = np.ascontiguousarray(self.base_matrix().conj().T)
            return msgspec.structs.replace(self, matrix=adjoint.tobytes())
        name, params = gates.BASE[self.base].inverse(self.params)
        return controlled(name, self.qubits, params, self.num_controls, self.control_state)


class Measure(msgspec.Struct, frozen=True, tag="measure"):
    """Measure ``qubit`` in the Z basis into classical bit ``clbit``."""

    qubit: int
    clbit: int


class Reset(msgspec.Struct, frozen=True, tag="reset"):
    """Put ``qubit`` into |0>, by measuring it and flipping it where it was 1."""

    qubit: int


class Barrier(msgspec.Struct, frozen=True, tag="barrier"):
    """Keeps passes from moving gates across; means nothing to an engine."""

    qubits: tuple[int, ...]


# --- classical expressions: values are Python ints, bools and floats ---


class Literal(msgspec.Struct, frozen=True, tag="literal"):
    value: int | float


class Bits(msgspec.Struct, frozen=True, tag="bits"):
    """The unsigned number that the classical bits spell, ``clbits[0]`` the least significant."""

    clbits: tuple[int, ...]


class Variable(msgspec.Struct, frozen=True, tag="variable"):
    name: str


class Operation(msgspec.Struct, frozen=True, tag="operation"):
    """``operator`` on one or two arguments; ``width``: that of the result in bits, 0 for a bool or a float."""

    operator: str
    arguments: tuple[Expression, ...]
    width: int = 0


Expression = Union[Literal, Bits, Variable, Operation]  # noqa: UP007 - msgspec resolves this name at run time


class Assign(msgspec.Struct, frozen=True, tag="assign"):
    """Store the value of an expression in a variable or in classical bits."""

    target: Variable | Bits
    value: Expression


class IfElse(msgspec.Struct, frozen=True, tag="if"):
    condition: Expression
    then: tuple[Instruction, ...]
    otherwise: tuple[Instruction, ...] = ()


class Case(msgspec.Struct, frozen=True):
    """One branch of a switch; no values stand for the default."""

    values: tuple[int, ...]
    body: tuple[Instruction, ...]


class Switch(msgspec.Struct, frozen=True, tag="switch"):
    target: Expression
    cases: tuple[Case, ...]


class While(msgspec.Struct, frozen=True, tag="while"):
    condition: Expression
    body: tuple[Instruction, ...]
    max_iterations: int = DEFAULT_MAX_ITERATIONS


class Repeat(msgspec.Struct, frozen=True, tag="repeat"):
    """A for loop whose turns are written out: one body a turn, its loop variable already put in."""

    bodies: tuple[tuple[Instruction, ...], ...]


class Break(msgspec.Struct, frozen=True, tag="break"):
    pass


class Continue(msgspec.Struct, frozen=True, tag="continue"):
    pass


Instruction = Union[  # noqa: UP007 - as above
    Gate, Measure, Reset, Barrier, Assign, IfElse, Switch, While, Repeat, Break, Continue
]


class Register(msgspec.Struct, frozen=True):
    """A named row of classical bits, least significant first."""

    name: str
    clbits: tuple[int, ...]


class _Content(msgspec.Struct, frozen=True, dict=True):
    """The fields of a circuit, not checked."""

    num_qubits: int
    num_clbits: int
    instructions: tuple[Instruction, ...]
    registers: tuple[Register, ...] = ()
    parameters: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    name: str = ""


class _OtherTypesError(Exception):
    """A qubit, classical bit, angle or name is not of the type that Python has for it."""


class Circuit(_Content, frozen=True, dict=True):
    """A program. Checked on construction: what exists is valid, and its numbers are Python's where NumPy's came in.

    ``parameters`` names the free parameters that formulas read as ``p0, p1, …``; ``variables`` names the classical
    variables, which start at 0. Raises InvalidArgumentError or OutOfRangeError where an instruction does not fit.
    """

    def __post_init__(self) -> None:
        try:
            self._check()
        except _OtherTypesError:
            self._take_plain_numbers()
            self._check()

    def _take_plain_numbers(self) -> None:
        """NumPy's integers have too few bits for what is made of qubits, and do not travel."""
        try:
            plain = _CONTENT_DECODER.decode(_ENCODER.encode(self))
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidArgumentError(f"circuit: {error}") from None
        for field in plain.__struct_fields__:
            msgspec.structs.force_setattr(self, field, getattr(plain, field))

    def _check(self) -> None:
        if type(self.num_qubits) is not int or type(self.num_clbits) is not int:
            raise _OtherTypesError
        if not all(type(field) is tuple for field in (self.instructions, self.registers, self.parameters)):
            raise _OtherTypesError
        if self.num_qubits < 0 or self.num_clbits < 0:
            raise InvalidArgumentError("circuit: the numbers of qubits and classical bits cannot be negative")
        for register in self.registers:
            _check_indices("clbit", register.clbits, self.num_clbits, f"register {register.name}")
        for instruction in walk(self.instructions):
            if type(instruction) is Gate:
                _check_gate(instruction, self)
            else:
                _check_instruction(instruction, self)

    def __hash__(self) -> int:
        return hash(self.hash)

    @cached_property
    def bytes(self) -> bytes:
        """The circuit as msgpack, less its name: what travels and what is hashed."""
        return _ENCODER.encode(
            _Content(
                self.num_qubits, self.num_clbits, self.instructions, self.registers, self.parameters, self.variables
            )
        )

    @cached_property
    def hash(self) -> str:
        """32 hexadecimal digits that name the content; two circuits that do the same in the same words share it."""
        return hashlib.blake2b(self.bytes, digest_size=16).hexdigest()

    @classmethod
    def from_bytes(cls, data: builtins.bytes, name: str = "") -> Circuit:
        """The circuit that ``bytes`` spells. Raises InvalidArgumentError for anything else."""
        try:
            circuit: Circuit = _DECODER.decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, OverflowError) as error:
            raise InvalidArgumentError(f"circuit: these bytes are not a circuit ({error})") from None
        return msgspec.structs.replace(circuit, name=name) if name else circuit

    @cached_property
    def has_control_flow(self) -> bool:
        return any(isinstance(i, IfElse | Switch | While | Repeat) for i in self.instructions)

    def inverse(self) -> Circuit:
        """The circuit that undoes this one; only gates and barriers can be undone (else InvalidArgumentError)."""
        undone: list[Instruction] = []
        for instruction in reversed(self.instructions):
            match instruction:
                case Gate():
                    undone.append(instruction.inverse())
                case Barrier():
                    undone.append(instruction)
                case _:
                    kind = type(instruction).__name__.lower()
                    raise InvalidArgumentError(f"inverse: the circuit has a {kind}, only gates can be undone")
        return msgspec.structs.replace(self, instructions=tuple(undone))


def gate(name: str, *qubits: int, params: Sequence[Angle] = (), matrix: npt.ArrayLike | None = None) -> Gate:
    """A gate by its name in the table (or an alias): ``gate("crz", 0, 1, params=[0.5])``."""
    data = b"" if matrix is None else np.ascontiguousarray(matrix, dtype="<c16").tobytes()
    return Gate(gates.ALIASES.get(name, name), qubits, tuple(params), matrix=data)


def controlled(
    base: str, qubits: Sequence[int], params: Sequence[Angle], num_controls: int, control_state: int = -1
) -> Gate:
    """``base`` under controls (the first of ``qubits``), by the field's name where there is one."""
    name = gates.controlled_name(base, num_controls)
    state = -1 if control_state == (1 << num_controls) - 1 else control_state
    if name is None:
        return Gate(base, tuple(qubits), tuple(params), num_controls, state)
    return Gate(name, tuple(qubits), tuple(params), 0, state)


def bodies(instruction: Instruction) -> tuple[tuple[Instruction, ...], ...]:
    """The blocks inside of a control-flow instruction; none for any other."""
    match instruction:
        case IfElse():
            return (instruction.then, instruction.otherwise)
        case Switch():
            return tuple(case.body for case in instruction.cases)
        case While():
            return (instruction.body,)
        case Repeat():
            return instruction.bodies
    return ()


def walk(instructions: Sequence[Instruction]) -> Iterator[Instruction]:
    """Every instruction, those inside of control flow included, in the order in which they are written."""
    for instruction in instructions:
        yield instruction
        if type(instruction) is not Gate:
            for body in bodies(instruction):
                yield from walk(body)


def clbits_of(expression: Expression) -> frozenset[int]:
    """The classical bits that an expression reads."""
    match expression:
        case Bits():
            return frozenset(expression.clbits)
        case Operation():
            return frozenset().union(*(clbits_of(argument) for argument in expression.arguments))
    return frozenset()


def _check_indices(kind: str, indices: Sequence[int], size: int, where: str) -> None:
    for index in indices:
        if type(index) is not int:
            raise _OtherTypesError
        if not 0 <= index < size:
            raise OutOfRangeError(f"{where}: {kind} {index} found, the circuit has {size}")


def _check_instruction(instruction: Instruction, circuit: Circuit) -> None:
    match instruction:
        case Measure():
            _check_indices("qubit", (instruction.qubit,), circuit.num_qubits, "measure")
            _check_indices("clbit", (instruction.clbit,), circuit.num_clbits, "measure")
        case Reset():
            _check_indices("qubit", (instruction.qubit,), circuit.num_qubits, "reset")
        case Barrier():
            _check_indices("qubit", instruction.qubits, circuit.num_qubits, "barrier")
        case Assign(target=target, value=value):
            _check_expression(value, circuit)
            _check_expression(target, circuit)
        case IfElse(condition=expression) | While(condition=expression) | Switch(target=expression):
            _check_expression(expression, circuit)
        case Repeat() | Break() | Continue():
            pass
        case _:
            raise _OtherTypesError


def _check_expression(expression: Expression, circuit: Circuit) -> None:
    match expression:
        case Bits(clbits=clbits):
            _check_indices("clbit", clbits, circuit.num_clbits, "condition")
        case Variable(name=name) if name not in circuit.variables:
            raise InvalidArgumentError(f"condition: variable {name!r} is not one of the circuit's")
        case Operation(operator=operator, arguments=arguments):
            if OPERATORS.get(operator) != len(arguments):
                raise InvalidArgumentError(
                    f"condition: operator {operator!r} with {len(arguments)} arguments is not known"
                )
            for argument in arguments:
                _check_expression(argument, circuit)


OPERATORS = {
    "bit_not": 1, "logic_not": 1, "negate": 1, "cast": 1, "bool": 1,
    "bit_and": 2, "bit_or": 2, "bit_xor": 2, "logic_and": 2, "logic_or": 2, "equal": 2, "not_equal": 2,
    "less": 2, "less_equal": 2, "greater": 2, "greater_equal": 2, "shift_left": 2, "shift_right": 2,
    "add": 2, "sub": 2, "mul": 2, "div": 2, "index": 2,
}  # fmt: skip
"""Operators of classical expressions with their number of arguments."""


@lru_cache(maxsize=1024)
def _signature(name: str, num_qubits: int) -> tuple[int, int]:
    """(controls of the row, number of angles)."""
    return gates.base_and_controls(name, num_qubits)[1], gates.num_params(name)


def _check_gate(gate: Gate, circuit: Circuit) -> None:
    qubits, controls = gate.qubits, gate.controls
    if type(gate.name) is not str or type(controls) is not int or type(gate.control_state) is not int:
        raise _OtherTypesError
    if controls < 0 or controls > len(qubits):
        raise InvalidArgumentError(f"gate {gate.name}: {controls} added controls on {len(qubits)} qubits")
    own_controls, num_params = _signature(gate.name, len(qubits) - controls)
    for qubit in qubits:
        if type(qubit) is not int:
            raise _OtherTypesError
        if not 0 <= qubit < circuit.num_qubits:
            raise OutOfRangeError(f"gate {gate.name}: qubit {qubit} found, the circuit has {circuit.num_qubits}")
    if len(qubits) > 1 and len(set(qubits)) != len(qubits):
        raise InvalidArgumentError(f"gate {gate.name}: the qubits {list(qubits)} are not distinct")
    if len(gate.params) != num_params:
        raise InvalidArgumentError(f"gate {gate.name}: {len(gate.params)} angles found, {num_params} needed")
    if gate.control_state != -1 and gate.control_state >> (controls + own_controls) != 0:
        raise InvalidArgumentError(f"gate {gate.name}: control state {gate.control_state} has more bits than controls")
    for angle in gate.params:
        if type(angle) is not float or not math.isfinite(angle):
            _check_angle(angle, gate.name, circuit)
    if gate.name == gates.UNITARY:
        _check_unitary(gate)


def _check_angle(angle: Angle, name: str, circuit: Circuit) -> None:
    if type(angle) is str:
        missing = [k for k in formula.indices(angle) if k >= len(circuit.parameters)]
        if missing:
            raise OutOfRangeError(f"gate {name}: {angle!r} reads p{missing[0]}, there are {len(circuit.parameters)}")
    elif type(angle) is not float and type(angle) is not int:
        raise _OtherTypesError
    elif not math.isfinite(angle):
        raise InvalidArgumentError(f"gate {name}: the angle {angle} is not a finite number")


def _check_unitary(gate: Gate) -> None:
    size = 1 << (len(gate.qubits) - gate.controls)
    if len(gate.matrix) != 16 * size * size:
        raise InvalidArgumentError(f"gate unitary: {len(gate.matrix)} bytes of matrix found, {16 * size * size} needed")
    matrix = gate.base_matrix()
    deviation = float(np.abs(matrix @ matrix.conj().T - np.eye(size)).max())
    if not deviation < 1e-6:
        raise InvalidArgumentError(f"gate unitary: the matrix is off from unitary by {deviation:.1e}, 1e-6 is allowed")


def _plain(value: object) -> object:
    """For msgspec: a number of NumPy as Python's."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    raise TypeError(f"{value!r} found, which is neither a number nor text")


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain)
_DECODER = msgspec.msgpack.Decoder(Circuit)
_CONTENT_DECODER = msgspec.msgpack.Decoder(_Content)
