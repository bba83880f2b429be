"""The parts of the normal form as mathematics: quadratic forms under substitutions, one-bit gates as turns."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qsimenv import gates
from qsimenv.circuit import Gate, gate
from qsimenv.statevec.encoding.normalform import Quadratic
from qsimenv.statevec.encoding.pieces import Turn, piece_of
from qsimenv.statevec.planning.plan import Op
from qsimenv.statevec.planning.steps import mixed_qubits

SETTINGS = settings(max_examples=150, deadline=None, derandomize=True)
BITS = 5
ONE_TARGET = [name for name, row in gates.BASE.items() if row.num_targets == 1 and not gates.unmixed_targets(name)]


@st.composite
def forms(draw: st.DrawFn) -> Quadratic:
    form, angles = Quadratic(most_parities=3), st.floats(-3, 3)
    form.constant = draw(angles)
    for bit in draw(st.sets(st.integers(0, BITS - 1))):
        form.add(draw(angles), bit)
    pairs = st.tuples(st.integers(0, BITS - 1), st.integers(0, BITS - 1)).filter(lambda pair: pair[0] != pair[1])
    for pair in draw(st.lists(pairs, max_size=6)):
        form.add_product(draw(angles), *pair)
    for mask in draw(st.lists(st.integers(1, (1 << BITS) - 1), max_size=2)):
        form.add_parity(draw(angles), mask)
    return form


def values(form: Quadratic) -> np.ndarray:
    """The form over all indices."""
    x = np.arange(1 << BITS)[:, None] >> np.arange(BITS) & 1
    total = np.full(1 << BITS, form.constant)
    for bit, angle in form.linear.items():
        total += angle * x[:, bit]
    for (a, b), angle in form.product.items():
        assert a < b
        total += angle * x[:, a] * x[:, b]
    for mask, angle in form.parities.items():
        assert mask.bit_count() > 2
        total += angle * (x[:, [bit for bit in range(BITS) if mask >> bit & 1]].sum(axis=1) % 2)
    return total


@SETTINGS
@given(forms(), st.integers(0, BITS - 1))
def test_a_flip_puts_one_minus_x(form: Quadratic, bit: int) -> None:
    before = values(form)
    form.flip(bit)
    np.testing.assert_allclose(values(form), before[np.arange(1 << BITS) ^ 1 << bit], atol=1e-12)


@SETTINGS
@given(forms(), st.permutations(range(BITS)))
def test_a_control_puts_the_exclusive_or(form: Quadratic, order: list[int]) -> None:
    target, control = order[:2]
    assume(form.can_add_control(target, control))
    before, index = values(form), np.arange(1 << BITS)
    form.add_control(target, control)
    np.testing.assert_allclose(values(form), before[index ^ (index >> control & 1) << target], atol=1e-12)
    assert len(form.parities) <= 3


def test_a_chain_on_an_angle_and_back_is_a_parity_in_between() -> None:
    chain = [(k + 1, k, 1) for k in range(BITS - 1)]
    form, none = Quadratic(), Quadratic(most_parities=0)
    for each in (form, none):
        each.add(0.3, BITS - 1)
    assert form.can_add_controls(chain[::-1])
    assert not none.can_add_controls(chain[::-1])
    for target, control, _ in chain[::-1]:
        form.add_control(target, control)
    assert (form.linear, form.product, form.parities) == ({}, {}, {(1 << BITS) - 1: pytest.approx(0.3)})
    assert form.can_add_controls(chain)
    assert form.parities, "asking changes nothing"
    for target, control, _ in chain:
        form.add_control(target, control)
    assert (form.linear, form.product, form.parities) == ({BITS - 1: pytest.approx(0.3)}, {}, {})


@SETTINGS
@given(forms(), st.integers(0, BITS - 1), st.sets(st.integers(0, BITS - 1)))
def test_what_is_taken_out_and_what_stays_make_the_whole(form: Quadratic, bit: int, stay: set[int]) -> None:
    before = values(form)
    taken = form.take_out(bit, dict.fromkeys(stay, 1.0))
    if taken is None:
        np.testing.assert_array_equal(values(form), before)
        parities = ({k for k in range(BITS) if mask >> k & 1} for mask in form.parities)
        assert any(bit in term and set(term) & stay for term in (*form.product, *parities))
        return
    np.testing.assert_allclose(values(form) + values(taken), before, atol=1e-12)
    assert bit not in form.linear
    assert all(bit not in pair for pair in form.product)
    assert not form.parities_with(bit)
    taken.add_form(form)
    np.testing.assert_allclose(values(taken), before, atol=1e-12)


def matrix_of(turn: Turn) -> np.ndarray:
    rotation = np.array([[1, turn.slope], [-turn.slope, 1]])
    before, after = (np.diag([1, np.exp(1j * angle)]) for angle in (turn.before, turn.after))
    x = np.array([[0, 1], [1, 0]]) if turn.flip else np.eye(2)
    return turn.factor * np.exp(1j * turn.constant) * (after @ rotation @ before @ x)


@SETTINGS
@given(st.sampled_from([*ONE_TARGET, gates.UNITARY]), st.data(), st.integers(0, 1))
def test_every_one_bit_gate_that_mixes_is_a_turn(name: str, data: st.DataObject, flips: int) -> None:
    angle = st.floats(-7, 7) | st.sampled_from([0.0, math.pi, -math.pi, math.pi / 2, 2 * math.pi, math.pi - 1e-9])
    if name == gates.UNITARY:
        u = gates.BASE["u4"].matrix(*(data.draw(angle) for _ in range(4)))
        made: Gate = gate(name, 0, matrix=u)
    else:
        made = gate(name, 0, params=[data.draw(angle) for _ in range(gates.num_params(name))])
    assume(mixed_qubits(made))
    turn = piece_of(made, made.angles(), Op(0, "matrix", (3,), flips, 0, 0))
    assert isinstance(turn, Turn)
    wanted = made.base_matrix()[::-1, ::-1] if flips else made.base_matrix()
    np.testing.assert_allclose(matrix_of(turn), wanted, atol=1e-14)
    assert abs(turn.slope) <= 1 + 1e-12
    if turn.steep:
        assert not turn.steep.flip
        np.testing.assert_allclose(matrix_of(turn.steep), wanted, atol=1e-13)


@SETTINGS
@given(st.lists(st.floats(-7, 7), min_size=4, max_size=4), st.booleans(), st.floats(-1, 1), st.floats(-4, 4))
def test_a_turn_after_another_is_one(angles: list[float], flip: bool, slope: float, angle: float) -> None:
    u = gates.BASE["u4"].matrix(*angles)
    made = gate(gates.UNITARY, 0, matrix=u[:, ::-1] if flip else u)
    assume(mixed_qubits(made))
    turn = piece_of(made, (), Op(0, "matrix", (3,), 0, 0, 0))
    assert isinstance(turn, Turn)
    first = np.diag([1, np.exp(1j * angle)]) @ np.array([[1, slope], [-slope, 1]]) / math.hypot(1, slope)
    np.testing.assert_allclose(matrix_of(turn.after_turn(slope, angle)), matrix_of(turn) @ first, atol=1e-14)


@pytest.mark.parametrize("name", ["x", "y", "h", "ry"])
def test_what_is_simple_stays_simple(name: str) -> None:
    angles = (0.4,) * gates.num_params(name)
    turn = piece_of(gate(name, 0, params=angles), angles, Op(0, "matrix", (0,), 0, 0, 0))
    assert isinstance(turn, Turn)
    assert (turn.slope == 0) == (name not in ("h", "ry"))
    assert turn.flip == (name in ("x", "y"))
    assert turn.before == 0
    assert turn.steep is None
