"""Formulas of free parameters: what is read, what is refused, and that transforming them keeps their value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsimenv import formula
from qsimenv.errors import InvalidArgumentError

VALUES = np.array([0.7, -1.3, 2.1])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("p0", 0.7),
        ("2*p0 + 0.5", 1.9),
        ("-p1", 1.3),
        ("+p1", -1.3),
        ("p0 - p1 * p2", 0.7 + 1.3 * 2.1),
        ("p2 / 2", 1.05),
        ("p2 ** 2", 2.1**2),
        ("pow(p2, 2)", 2.1**2),
        ("2 * pi - e", 2 * math.pi - math.e),
        ("sin(p0) + cos(p1) + tan(p2)", math.sin(0.7) + math.cos(-1.3) + math.tan(2.1)),
        ("exp(p0) + log(p2) + sqrt(p2)", math.exp(0.7) + math.log(2.1) + math.sqrt(2.1)),
        ("arcsin(p0) + asin(p0)", 2 * math.asin(0.7)),
        ("abs(p1) + sign(p1)", 0.3),
        ("-p0 ** 2", -0.49),
        ("(p0)", 0.7),
        ("1e-3 * p0", 7e-4),
    ],
)
def test_values(text: str, value: float) -> None:
    assert float(formula.evaluate(text, VALUES)) == pytest.approx(value, rel=1e-14)
    assert float(formula.evaluate(text, [0.7, -1.3, 2.1])) == pytest.approx(value, rel=1e-14)


def test_a_number_is_itself() -> None:
    assert formula.evaluate(0.25, ()) == 0.25


def test_many_rows_at_once() -> None:
    rows = np.arange(12.0).reshape(4, 3)
    found = formula.evaluate("p0 + 2*p2", rows)
    assert found.shape == (4,)
    assert np.array_equal(found, rows[:, 0] + 2 * rows[:, 2])


@pytest.mark.parametrize(
    "text",
    [
        "", "p0 +", "p0; p1", "a", "p", "p-1x", "P0", "p0.real", "p0[0]", "__import__('os')", "open('x')",
        "(lambda: 1)()", "p0 if p1 else p2", "p0 < p1", "not p0", "True", "'p0'", "[p0]", "{p0}", "p0 and p1",
        "p0 // 2", "p0 % 2", "p0 @ p1", "~p0", "1j", "sin", "sin(x=p0)", "sin(*p0)", "(p0 := 1)", "f'{p0}'", "None",
        "p0\x00", "p0\np1", "exp.x(p0)",
    ],
)  # fmt: skip
def test_whatever_is_not_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="angle: "):
        formula.indices(text)


def test_very_long_and_very_deep_formulas_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="4096 are allowed"):
        formula.indices("+".join(["p0"] * 3_000))
    with pytest.raises(InvalidArgumentError, match="nested more than 64 deep"):
        formula.indices("-" * 100 + "p0")
    with pytest.raises(InvalidArgumentError, match="angle: "):
        formula.indices("(" * 1_500 + "p0" + ")" * 1_500)


def test_indices() -> None:
    assert formula.indices("p3 + sin(p10) * p3") == {3, 10}
    assert formula.indices("2 * pi") == frozenset()


ANGLES = st.one_of(
    st.floats(-10, 10),
    st.recursive(
        st.sampled_from(["p0", "p1", "p2", "0.5", "pi"]),
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]}){t[1]}({t[2]})"),
            inner.map(lambda t: f"sin({t})"),
            inner.map(lambda t: f"-{t}"),
        ),
        max_leaves=6,
    ),
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(ANGLES, st.floats(-4, 4))
def test_negate_and_shift_keep_the_value(angle: formula.Angle, offset: float) -> None:
    value = float(formula.evaluate(angle, VALUES))
    assert float(formula.evaluate(formula.negate(angle), VALUES)) == pytest.approx(-value)
    assert float(formula.evaluate(formula.shift(angle, offset), VALUES)) == pytest.approx(value + offset)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(ANGLES.filter(lambda angle: isinstance(angle, str)), st.tuples(ANGLES, ANGLES, ANGLES))
def test_substitute_keeps_the_value(text: str, replacements: tuple[formula.Angle, ...]) -> None:
    """f(p0, p1, p2) with p_k = g_k(q): the same as f at the values of g."""
    inner = [float(formula.evaluate(angle, VALUES)) for angle in replacements]
    wanted = float(formula.evaluate(text, inner))
    found = formula.substitute(text, replacements)
    assert float(formula.evaluate(found, VALUES)) == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    if not any(isinstance(r, str) and formula.indices(r) for r in replacements):
        assert isinstance(found, float)


def test_substitute_respects_precedence() -> None:
    assert formula.substitute("-p0 ** 2", [-0.5]) == -0.25
    assert formula.substitute("2 * p0", ["pi"]) == pytest.approx(2 * math.pi)
    assert float(formula.evaluate(formula.substitute("p0 * p1", ["p0 + 1", 3.0]), [2.0])) == 9


@pytest.mark.parametrize(
    "text",
    [
        "2*p0 - p1/4 + 1", "p0*p1", "p0/p1", "p0**p1", "pow(p1, 3)", "-sin(p0)*cos(p1)", "tan(p0) + exp(p0*p1)",
        "asin(p0/2) - arccos(p1/3) + atan(p0)", "log(p0 + p1)", "sqrt(p0)*abs(-p1)", "conj(p0) + sign(p1) + pi",
        "+p1**2",
    ],
)  # fmt: skip
def test_gradients_are_those_of_finite_differences(text: str) -> None:
    values, step = np.array([0.7, 1.3]), 1e-5
    found = formula.gradient(text, values)
    for index in (0, 1):
        unit = step * np.eye(2)[index]
        difference = (formula.evaluate(text, values + unit) - formula.evaluate(text, values - unit)) / (2 * step)
        assert found.get(index, 0.0) == pytest.approx(difference, abs=1e-8)
    assert formula.gradient(0.5, values) == {}
