"""Program: a circuit lowered to flat code that a loop can run and a branch can be resumed in.

Gates between two classical events form a *segment*, which the planner sees as a whole. Structured control flow
becomes jumps, so that the place where a shot stands is one number. Measurements that nothing depends on any more are
taken out: they are drawn together from the final state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from qsimenv.circuit import (
    Assign,
    Barrier,
    Bits,
    Break,
    Circuit,
    Continue,
    Expression,
    Gate,
    IfElse,
    Instruction,
    Literal,
    Measure,
    Operation,
    Repeat,
    Reset,
    Switch,
    Variable,
    While,
    walk,
)
from qsimenv.errors import InvalidArgumentError


@dataclass(frozen=True)
class Apply:
    """Run segment number ``segment``."""

    segment: int


@dataclass(frozen=True)
class Jump:
    target: int


@dataclass(frozen=True)
class JumpUnless:
    condition: Expression
    target: int


@dataclass(frozen=True)
class Choose:
    """Go to where ``targets`` says for the value of ``selector``, else to ``default``."""

    selector: Expression
    targets: tuple[tuple[int, int], ...]
    default: int


@dataclass(frozen=True)
class StartLoop:
    """Begin counting the turns of a while loop."""

    loop: int


@dataclass(frozen=True)
class CountTurn:
    """One more turn; an error after ``max_iterations``."""

    loop: int
    max_iterations: int


Code = Apply | Measure | Reset | Assign | Jump | JumpUnless | Choose | StartLoop | CountTurn


@dataclass(frozen=True)
class Program:
    """``code`` to run, the ``segments`` it refers to, and the measurements drawn from the final state.

    ``final_resets`` are left out of the code: no shot sees them, only who looks at the state in the end.
    """

    code: tuple[Code, ...]
    segments: tuple[tuple[Gate, ...], ...]
    final_measures: tuple[Measure, ...]
    final_resets: tuple[Reset, ...] = ()

    @property
    def is_static(self) -> bool:
        """Whether the state is the same for every shot: nothing is measured before the end."""
        return all(isinstance(step, Apply) for step in self.code)

    @property
    def is_pure(self) -> bool:
        """Whether the state of all shots is the one that is left in the end."""
        return self.is_static and not self.final_resets


@lru_cache(maxsize=64)
def lower(circuit: Circuit) -> Program:
    """The program of a circuit. Cost: about half a microsecond an instruction, once."""
    body, final_measures, final_resets = _split_ends(_without_first_resets(circuit.instructions))
    lowering = _Lowering()
    lowering.block(body)
    lowering.close_segment()
    return Program(tuple(lowering.code), tuple(lowering.segments), final_measures, final_resets)


def _split_ends(
    instructions: Sequence[Instruction],
) -> tuple[list[Instruction], tuple[Measure, ...], tuple[Reset, ...]]:
    """Take out the measurements after which neither their qubit nor their bit is used, and the resets after which their
    qubit is not. Read from the back."""
    body: list[Instruction] = []
    finals: list[Measure] = []
    resets: list[Reset] = []
    used_qubits: set[int] = set()
    read_qubits: set[int] = set()
    used_clbits: set[int] = set()
    blocked = False
    for instruction in reversed(instructions):
        if type(instruction) is Gate:  # quicker than a pattern
            used_qubits.update(instruction.qubits)
            body.append(instruction)
            continue
        match instruction:
            case Measure(qubit=qubit, clbit=clbit) if (
                not blocked and qubit not in used_qubits and clbit not in used_clbits
            ):
                finals.append(instruction)
                used_clbits.add(clbit)
                read_qubits.add(qubit)
                continue
            case Reset(qubit=qubit) if not blocked and qubit not in used_qubits and qubit not in read_qubits:
                resets.append(instruction)
                continue
            case Barrier():
                continue
            case Measure(qubit=qubit, clbit=clbit):
                used_qubits.add(qubit)
                used_clbits.add(clbit)
            case Reset(qubit=qubit):
                used_qubits.add(qubit)
            case _:
                blocked = True
        body.append(instruction)
    return body[::-1], tuple(finals[::-1]), tuple(resets[::-1])


def _without_first_resets(instructions: Sequence[Instruction]) -> Sequence[Instruction]:
    """Less the resets of qubits that nothing has touched yet: they are 0."""
    if Reset not in set(map(type, instructions)):
        return instructions
    kept, used = list[Instruction](), set[int]()
    for number, instruction in enumerate(instructions):
        match instruction:
            case Gate(qubits=qubits):
                used.update(qubits)
            case Reset(qubit=qubit) if qubit not in used:
                continue
            case Measure() | Reset() | Assign() | Barrier():  # what was measured before any gate is 0, too
                pass
            case _:
                return [*kept, *instructions[number:]]
        kept.append(instruction)
    return kept


@dataclass
class _Loop:
    """Jumps out of a loop that still wait for their targets."""

    breaks: list[int] = field(default_factory=list)
    continues: list[int] = field(default_factory=list)


def _leaves(loop: Repeat) -> bool:
    """Whether the loop has a break or a continue (its own or one of a loop inside)."""
    return any(isinstance(instruction, Break | Continue) for instruction in walk((loop,)))


class _Lowering:
    def __init__(self) -> None:
        self.code: list[Code] = []
        self.segments: list[tuple[Gate, ...]] = []
        self._known: dict[tuple[Gate, ...], int] = {}
        self._open: list[Gate] = []
        self._loops: list[_Loop] = []
        self._num_whiles = 0

    def block(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            if type(instruction) is Gate:
                self._open.append(instruction)
                continue
            match instruction:
                case Barrier():
                    pass
                case Repeat() if not _leaves(instruction):
                    for body in instruction.bodies:
                        self.block(body)
                case _:
                    self.close_segment()
                    self._classical(instruction)

    def close_segment(self) -> None:
        """End the run of gates; equal runs share one segment, and so one plan."""
        if self._open:
            gates = tuple(self._open)
            self._open.clear()
            number = 0
            if self.segments:  # to look a run up takes as long as all the rest
                if not self._known:
                    self._known[self.segments[0]] = 0
                number = self._known.setdefault(gates, len(self.segments))
            if number == len(self.segments):
                self.segments.append(gates)
            self.code.append(Apply(number))

    def _classical(self, instruction: Instruction) -> None:
        match instruction:
            case Measure() | Reset() | Assign():
                self.code.append(instruction)
            case IfElse():
                self._if(instruction)
            case Switch():
                self._switch(instruction)
            case While():
                self._while(instruction)
            case Repeat():
                self._repeat(instruction)
            case Break():
                self._loop("break").breaks.append(self._hole())
            case Continue():
                self._loop("continue").continues.append(self._hole())

    def _loop(self, word: str) -> _Loop:
        if not self._loops:
            raise InvalidArgumentError(f"circuit: {word} outside of a loop")
        return self._loops[-1]

    def _here(self) -> int:
        self.close_segment()
        return len(self.code)

    def _hole(self) -> int:
        """A jump whose target is filled in later."""
        self.code.append(Jump(-1))
        return len(self.code) - 1

    def _fill(self, holes: Sequence[int], target: int) -> None:
        for hole in holes:
            self.code[hole] = Jump(target)

    def _if(self, instruction: IfElse) -> None:
        test = self._hole()
        self.block(instruction.then)
        self.close_segment()
        leave = self._hole() if instruction.otherwise else None
        self.code[test] = JumpUnless(instruction.condition, self._here())
        if leave is not None:
            self.block(instruction.otherwise)
            self._fill([leave], self._here())

    def _switch(self, instruction: Switch) -> None:
        choice = self._hole()
        targets: dict[int, int] = {}
        default = None
        leaves = []
        for case in instruction.cases:
            start = self._here()
            for value in case.values:
                targets.setdefault(value, start)
            default = start if not case.values and default is None else default
            self.block(case.body)
            self.close_segment()
            leaves.append(self._hole())
        end = self._here()
        self._fill(leaves, end)
        self.code[choice] = Choose(instruction.target, tuple(targets.items()), end if default is None else default)

    def _while(self, instruction: While) -> None:
        loop = self._num_whiles
        self._num_whiles += 1
        self.code.append(StartLoop(loop))
        start = self._here()
        test = self._hole()
        self.code.append(CountTurn(loop, instruction.max_iterations))
        self._loops.append(_Loop())
        self.block(instruction.body)
        self.close_segment()
        self.code.append(Jump(start))
        end = self._here()
        self.code[test] = JumpUnless(instruction.condition, end)
        holes = self._loops.pop()
        self._fill(holes.continues, start)
        self._fill(holes.breaks, end)

    def _repeat(self, instruction: Repeat) -> None:
        breaks: list[int] = []
        for body in instruction.bodies:
            self._loops.append(_Loop())
            self.block(body)
            holes = self._loops.pop()
            self._fill(holes.continues, self._here())
            breaks += holes.breaks
        self._fill(breaks, self._here())


_Number = int | float


def _masked(value: _Number, width: int) -> _Number:
    return int(value) & ((1 << width) - 1) if width else value


def _divide(dividend: _Number, divisor: _Number, width: int) -> _Number:
    if divisor == 0:
        raise InvalidArgumentError("circuit: a classical expression divides by zero")
    return int(dividend) // int(divisor) if width else dividend / divisor


# Each takes the values of its arguments and the width of the result in bits (0 for a bool or a float).
_OPERATORS: dict[str, Callable[..., _Number]] = {
    "bit_not": lambda a, width: _masked(~int(a), width),
    "logic_not": lambda a, _: int(not a),
    "bool": lambda a, _: int(bool(a)),
    "negate": lambda a, width: _masked(-a, width),
    "cast": _masked,
    "bit_and": lambda a, b, _: int(a) & int(b),
    "bit_or": lambda a, b, _: int(a) | int(b),
    "bit_xor": lambda a, b, _: int(a) ^ int(b),
    "logic_and": lambda a, b, _: int(bool(a) and bool(b)),
    "logic_or": lambda a, b, _: int(bool(a) or bool(b)),
    "equal": lambda a, b, _: int(a == b),
    "not_equal": lambda a, b, _: int(a != b),
    "less": lambda a, b, _: int(a < b),
    "less_equal": lambda a, b, _: int(a <= b),
    "greater": lambda a, b, _: int(a > b),
    "greater_equal": lambda a, b, _: int(a >= b),
    "shift_left": lambda a, b, width: _masked(int(a) << int(b), width) if b < width else 0,
    "shift_right": lambda a, b, _: int(a) >> int(b),
    "add": lambda a, b, width: _masked(a + b, width),
    "sub": lambda a, b, width: _masked(a - b, width),
    "mul": lambda a, b, width: _masked(a * b, width),
    "div": _divide,
    "index": lambda a, b, _: int(a) >> int(b) & 1,
}


def evaluate(expression: Expression, clbits: int, variables: Mapping[str, _Number]) -> _Number:
    """The value of a classical expression where ``clbits`` holds all classical bits, bit k in position k."""
    match expression:
        case Literal(value=value):
            return value
        case Bits(clbits=positions):
            return sum((clbits >> position & 1) << k for k, position in enumerate(positions))
        case Variable(name=name):
            return variables[name]
        case Operation(operator=operator, arguments=arguments, width=width):
            return _OPERATORS[operator](*(evaluate(each, clbits, variables) for each in arguments), width)
