"""Lowering: structured programs to flat code, and which measurements can wait until the end."""

from __future__ import annotations

import numpy as np
import pytest

from qsimenv.circuit import (
    Assign,
    Barrier,
    Bits,
    Break,
    Case,
    Circuit,
    Continue,
    Expression,
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
    gate,
)
from qsimenv.errors import InvalidArgumentError
from qsimenv.statevec.planning.program import (
    Apply,
    Choose,
    CountTurn,
    Jump,
    JumpUnless,
    Program,
    StartLoop,
    evaluate,
    lower,
)

H0, X1, CX = gate("h", 0), gate("x", 1), gate("cx", 0, 1)
BIT = Bits((0,))


def lowered(*instructions: Instruction) -> Program:
    return lower(Circuit(4, 4, instructions, variables=("v",)))


def trace(program: Program, bits: int = 0, variables: dict[str, int | float] | None = None) -> list[object]:
    """Run the code without a state: the gates and measurements in the order in which they would happen.

    A measurement reads 1 into its bit, so that a loop that waits for one ends.
    """
    place, found, values = 0, list[object](), variables or {"v": 0}
    for _ in range(1_000):
        if place == len(program.code):
            return found
        step, place = program.code[place], place + 1
        match step:
            case Apply(segment=segment):
                found += [one.name for one in program.segments[segment]]
            case Measure(clbit=clbit):
                found.append(step)
                bits |= 1 << clbit
            case Reset():
                found.append(step)
            case Assign(target=Variable(name=name), value=value):
                values[name] = evaluate(value, bits, values)
            case Assign(target=Bits(clbits=clbits), value=value):
                number = int(evaluate(value, bits, values))
                for k, clbit in enumerate(clbits):
                    bits = bits & ~(1 << clbit) | (number >> k & 1) << clbit
            case Jump(target=target):
                place = target
            case JumpUnless(condition=condition, target=target):
                place = place if evaluate(condition, bits, values) else target
            case Choose(selector=selector, targets=targets, default=default):
                place = dict(targets).get(int(evaluate(selector, bits, values)), default)
    raise AssertionError("the code does not end")


# --- final measurements ---


def test_measurements_at_the_end_are_taken_out() -> None:
    program = lowered(H0, CX, Measure(0, 0), Barrier((0, 1)), Measure(1, 1))
    assert program.is_static
    assert program.final_measures == (Measure(0, 0), Measure(1, 1))
    assert program.segments == ((H0, CX),)


def test_gates_on_other_qubits_may_follow() -> None:
    program = lowered(H0, Measure(0, 0), X1, Measure(1, 1))
    assert program.is_static
    assert program.final_measures == (Measure(0, 0), Measure(1, 1))
    assert program.segments == ((H0, X1),)


@pytest.mark.parametrize(
    "after",
    [
        (gate("h", 0),),
        (gate("cz", 1, 0),),
        (Reset(0), gate("h", 0)),
        (Reset(0), Measure(0, 1)),
        (Reset(0), IfElse(BIT, (X1,))),
        (IfElse(BIT, (X1,)),),
        (Assign(Variable("v"), BIT),),
        (Assign(BIT, Literal(1)),),
        (Measure(1, 0),),
        (IfElse(BIT, (X1,)), Measure(1, 1)),
        (Measure(0, 1), gate("h", 0)),
        (While(Operation("logic_not", (BIT,)), (Measure(0, 0),)),),
        (Repeat(((Measure(2, 2),),)),),
    ],
)
def test_a_measurement_that_matters_stays(after: tuple[Instruction, ...]) -> None:
    """Its qubit is used again, its bit is read, or its bit is written again later."""
    program = lowered(H0, Measure(0, 0), *after)
    assert Measure(0, 0) in program.code
    assert not program.is_static


def test_of_two_measurements_into_one_bit_the_last_counts() -> None:
    program = lowered(H0, Measure(0, 0), Measure(1, 0))
    assert program.final_measures == (Measure(1, 0),)
    assert program.code == (Apply(0), Measure(0, 0))


def test_one_qubit_measured_into_two_bits_is_final_twice() -> None:
    program = lowered(H0, Measure(0, 0), Measure(0, 1))
    assert program.final_measures == (Measure(0, 0), Measure(0, 1))
    assert program.is_static


def test_what_stands_behind_control_flow_can_still_be_final() -> None:
    program = lowered(Measure(0, 0), IfElse(BIT, (X1,)), Measure(1, 1), Measure(0, 2))
    assert program.final_measures == (Measure(1, 1), Measure(0, 2))
    assert Measure(0, 0) in program.code


def test_a_measurement_inside_of_a_block_is_never_final() -> None:
    program = lowered(H0, IfElse(Literal(1), (Measure(0, 0),)))
    assert program.final_measures == ()


# --- resets ---


def test_resets_at_the_end_are_left_out_as_no_shot_sees_them() -> None:
    program = lowered(H0, Measure(0, 0), Reset(0), CX, Measure(1, 1), Reset(1))
    assert Measure(0, 0) in program.code
    assert program.final_resets == (Reset(1),)
    program = lowered(H0, CX, Measure(0, 0), Reset(0), Measure(1, 1), Barrier((0, 1)), Reset(1))
    assert program.code == (Apply(0),)
    assert program.final_measures == (Measure(0, 0), Measure(1, 1))
    assert program.final_resets == (Reset(0), Reset(1))
    assert program.is_static
    assert not program.is_pure


def test_resets_of_what_is_zero_still_are_no_resets() -> None:
    program = lowered(Reset(0), Barrier((0, 1)), Reset(1), H0, Reset(2), CX, Measure(0, 0))
    assert program.code == (Apply(0),)
    assert program.is_pure
    program = lowered(Measure(2, 2), Reset(2), X1, IfElse(BIT, (X1,)), Reset(0), Measure(0, 0), H0)
    assert Reset(2) not in program.code
    assert Reset(0) in program.code


# --- control flow ---


def test_if_and_else() -> None:
    program = lowered(Measure(0, 1), IfElse(BIT, (H0,), (X1, X1)), CX)
    assert trace(program, 1) == [Measure(0, 1), "h", "cx"]
    assert trace(program, 0) == [Measure(0, 1), "x", "x", "cx"]
    assert trace(lowered(IfElse(BIT, (H0,)), CX), 0) == ["cx"]
    assert trace(lowered(IfElse(BIT, (), (H0,)), CX), 1) == ["cx"]


@pytest.mark.parametrize(("value", "names"), [(0, ["h"]), (1, ["x"]), (2, ["x"]), (3, ["z"])])
def test_switch_with_a_default(value: int, names: list[str]) -> None:
    switch = Switch(Bits((0, 1)), (Case((0,), (H0,)), Case((1, 2), (X1,)), Case((), (gate("z", 0),))))
    assert trace(lowered(switch, CX), value) == [*names, "cx"]


def test_switch_without_a_default_takes_the_first_that_matches() -> None:
    switch = Switch(Bits((0, 1)), (Case((1,), (H0,)), Case((1,), (X1,))))
    assert trace(lowered(switch, CX), 1) == ["h", "cx"]
    assert trace(lowered(switch, CX), 2) == ["cx"]


def count_to(limit: int, *body: Instruction) -> tuple[Instruction, ...]:
    turn = Assign(Variable("v"), Operation("add", (Variable("v"), Literal(1)), 8))
    return (While(Operation("less", (Variable("v"), Literal(limit))), (turn, *body)),)


def test_while_counts_its_turns() -> None:
    program = lowered(*count_to(3, H0), CX)
    assert trace(program) == ["h", "h", "h", "cx"]
    assert [type(step) for step in program.code[:1]] == [StartLoop]
    assert CountTurn(0, 100_000) in program.code


def test_break_and_continue_of_a_while() -> None:
    second = Operation("equal", (Variable("v"), Literal(2)))
    assert trace(lowered(*count_to(4, IfElse(second, (Break(),)), H0), CX)) == ["h", "cx"]
    assert trace(lowered(*count_to(4, IfElse(second, (Continue(),)), H0), CX)) == ["h", "h", "h", "cx"]


def test_a_for_loop_without_jumps_is_part_of_its_segment() -> None:
    program = lowered(H0, Repeat(((X1,), (CX,))), H0)
    assert program.code == (Apply(0),)
    assert program.segments == ((H0, X1, CX, H0),)


def test_break_and_continue_of_a_for_loop() -> None:
    for leave, names in ((Break(), ["h", "x", "h", "cx"]), (Continue(), ["h", "x", "h", "h", "x", "cx"])):
        second = Operation("equal", (Variable("v"), Literal(1)))
        bodies = tuple((Assign(Variable("v"), Literal(k)), H0, IfElse(second, (leave,)), X1) for k in range(3))
        assert trace(lowered(Repeat(bodies), CX)) == names


def test_a_break_leaves_the_innermost_loop() -> None:
    inner = Repeat(((H0, Break()), (H0,)))
    assert trace(lowered(Repeat(((inner, X1), (inner, X1))), CX)) == ["h", "x", "h", "x", "cx"]
    assert trace(lowered(*count_to(2, inner, X1), CX)) == ["h", "x", "h", "x", "cx"]
    outer = Repeat(((*count_to(5, H0, Break()), X1, Break()), (gate("z", 0),)))
    assert trace(lowered(outer, CX)) == ["h", "x", "cx"]


def test_equal_runs_of_gates_share_a_segment() -> None:
    program = lowered(H0, CX, Reset(0), H0, CX, Reset(0), H0)
    assert program.segments == ((H0, CX), (H0,))
    assert [step.segment for step in program.code if isinstance(step, Apply)] == [0, 0, 1]


@pytest.mark.parametrize("word", [Break(), Continue()])
def test_a_jump_out_of_no_loop_is_refused(word: Instruction) -> None:
    with pytest.raises(InvalidArgumentError, match="outside of a loop"):
        lowered(H0, word)


# --- expressions ---


def operation(operator: str, *values: float, width: int = 0) -> Operation:
    return Operation(operator, tuple(Literal(value) for value in values), width)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (Bits((1, 0, 3)), 0b010),  # the first bit is the least significant
        (Bits(()), 0),
        (operation("bit_not", 0b0101, width=4), 0b1010),
        (operation("logic_not", 2), 0),
        (operation("bool", 2), 1),
        (operation("negate", 1, width=4), 15),
        (operation("negate", 1.5), -1.5),
        (operation("cast", 300, width=8), 44),
        (operation("cast", 2.9, width=8), 2),
        (operation("bit_and", 12, 10, width=4), 8),
        (operation("bit_or", 12, 10, width=4), 14),
        (operation("bit_xor", 12, 10, width=4), 6),
        (operation("logic_and", 2, 4), 1),
        (operation("logic_or", 0, 0), 0),
        (operation("equal", 3, 3), 1),
        (operation("not_equal", 3, 3), 0),
        (operation("less", 2, 3), 1),
        (operation("less_equal", 3, 3), 1),
        (operation("greater", 3, 3), 0),
        (operation("greater_equal", 3, 3), 1),
        (operation("shift_left", 3, 2, width=4), 12),
        (operation("shift_left", 3, 3, width=4), 8),
        (operation("shift_left", 3, 1 << 40, width=4), 0),
        (operation("shift_right", 12, 2, width=4), 3),
        (operation("add", 250, 10, width=8), 4),
        (operation("add", 0.25, 0.5), 0.75),
        (operation("sub", 1, 2, width=8), 255),
        (operation("mul", 100, 3, width=8), 44),
        (operation("div", 7, 2, width=8), 3),
        (operation("div", 7.0, 2.0), 3.5),
        (operation("index", 0b100, 2), 1),
        (Operation("add", (Variable("v"), Operation("bool", (Bits((1,)),))), 8), 42),
    ],
)
def test_expressions(expression: Expression, value: float) -> None:
    assert evaluate(expression, 0b0001, {"v": 42}) == value


def test_division_by_zero_is_refused() -> None:
    for width in (0, 8):
        with pytest.raises(InvalidArgumentError, match="divides by zero"):
            evaluate(operation("div", 1, 0, width=width), 0, {})


def test_bits_beyond_a_word() -> None:
    assert evaluate(Bits((100, 0)), 1 << 100, {}) == 1
    assert evaluate(Bits(tuple(range(101))), 1 << 100 | 1, {}) == 1 << 100 | 1


def test_the_code_of_a_circuit_does_not_depend_on_its_unitaries_alone() -> None:
    """Two matrices that differ make two segments."""
    one, other = (gate("unitary", 0, matrix=np.diag([1, phase])) for phase in (1j, -1j))
    assert len(lowered(one, Reset(0), other).segments) == 2
