"""Recipes: what they give for any angles is what ``encode`` gives, up to rounding; or nothing, and that is asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest

from qsimenv import engines, gates
from qsimenv.circuit import Circuit, Gate, gate
from qsimenv.comm import Team
from qsimenv.errors import InvalidArgumentError
from qsimenv.statevec import simulate
from qsimenv.statevec.encoding import recipe
from qsimenv.statevec.encoding.angles import angles_of as angles_of_gates
from qsimenv.statevec.encoding.encode import encode
from qsimenv.statevec.encoding.later import Tape, UnknownError
from qsimenv.statevec.encoding.recipe import STEEPEST, Recipes
from qsimenv.statevec.encoding.rows import VECTORS, EncodedSweep
from qsimenv.statevec.gradients import backwards, gradient
from qsimenv.statevec.planning.layout import Layout
from qsimenv.statevec.planning.plan import Plan
from qsimenv.statevec.planning.planner import make_plan, plan_from_zero
from qsimenv.statevec.state import State
from qsimenv.task import Observable, Precision, Task
from tests.unit.test_normalform import random_gate

TOLERANCE: dict[Precision, float] = {"double": 1e-13, "single": 2e-6}
N = 11


def angles_of(gate_list: list[Gate]) -> np.ndarray:
    return np.array([angle for each in gate_list for angle in each.params], dtype=np.float64)


def with_angles(gate_list: list[Gate], angles: np.ndarray) -> list[Gate]:
    left = iter(angles.tolist())
    return [msgspec.structs.replace(each, params=tuple(next(left) for _ in each.params)) for each in gate_list]


def amplitudes(plan: Plan, encoded: tuple[tuple[EncodedSweep, ...], ...], precision: Precision) -> np.ndarray:
    state = State.zero(plan.start, Team(), precision)
    state.run(plan, encoded)
    return state.amplitudes()


def planned(gate_list: list[Gate], block_bits: int, layout: Layout | None) -> Plan:
    if layout is None:
        return plan_from_zero(gate_list, N, N, block_bits)
    return make_plan(gate_list, layout, block_bits)


def check(
    gate_list: list[Gate],
    several: list[np.ndarray],
    precision: Precision = "double",
    block_bits: int = N,
    layout: Layout | None = None,
) -> int:
    """What recipes give for several angles is what ``encode`` gives; how often they did so without asking it."""
    recipes = Recipes()
    with pytest.MonkeyPatch.context() as patch:
        asked = count_encode(patch, recipe)
        for angles in several:
            plan = planned(with_angles(gate_list, angles), block_bits, layout)
            numbers = angles_of_gates(plan.gates, 0)
            sweeps = recipes.encode(plan, np.zeros(0), numbers, precision, VECTORS, layout is None)
            wanted = amplitudes(plan, encode(plan, (), precision, from_zero=layout is None), precision)
            np.testing.assert_allclose(amplitudes(plan, sweeps, precision), wanted, atol=TOLERANCE[precision])
    return len(several) - len(asked)


def count_encode(patch: pytest.MonkeyPatch, *modules: ModuleType) -> list[Plan]:
    """The plans that ``encode`` is asked for in some modules from now on."""
    plans = list[Plan]()

    def counted(plan: Plan, *arguments: Any, **options: Any) -> object:
        plans.append(plan)
        return encode(plan, *arguments, **options)

    for module in modules:
        patch.setattr(module, "encode", counted)
    return plans


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("block_bits", [9, 10, 16])
@pytest.mark.parametrize("seed", range(5))
def test_random_circuits(seed: int, block_bits: int, precision: Precision) -> None:
    random = np.random.default_rng(seed)
    gate_list = [random_gate(random, N) for _ in range(100)]
    layout = Layout(tuple(int(bit) for bit in random.permutation(N)), N, int(random.integers(1 << N)))
    several = [angles_of(gate_list), *(random.uniform(-3, 3, angles_of(gate_list).size) for _ in range(4))]
    assert check(gate_list, several, precision, block_bits, layout if seed % 2 else None) == 4


@pytest.mark.parametrize("name", [name for name in gates.NAMES if name != gates.UNITARY and gates.num_params(name)])
def test_every_gate_with_angles(name: str) -> None:
    """On bits of all kinds, between others, with angles that are zero and others; and nothing but ``rv``, whose axis
    is its angle, is without a recipe."""
    random = np.random.default_rng(5)
    row = gates.CONTROLLED.get(name)
    width = gates.BASE[row.base if row else name].num_targets + ((row.num_controls or 1) if row else 0)
    around = [gate("u", q, params=[0.4 + 0.2 * q, 0.3 * q, 0.1]) for q in range(N)]
    for first in (0, 2, 5):
        qubits = [(first + 3 * k) % N for k in range(width)]
        count = gates.num_params(name)
        middle = gate(name, *qubits, params=list(random.uniform(-3, 3, count)))
        gate_list = [*around, middle, gate("h", qubits[0] if qubits else 0), *around[::-1], middle]
        size = angles_of(gate_list).size
        several = [angles_of(gate_list), *(random.uniform(-3, 3, size) for _ in range(2))]
        several.append(np.where(np.arange(size) % 3 == 0, 0.0, several[1]))
        assert check(gate_list, several) == (0 if name == "rv" else 3)


def test_flips_joined_turns_and_parities() -> None:
    """Gates that are X but for a phase, turns one after the other about one axis and about several, and CX around."""
    random = np.random.default_rng(8)
    names = ["x", "y", "rx", "ry", "rz", "rx", "u", "sx", "h", "p", "ry", "ry", "r", "u3", "u2"]
    for _ in range(20):
        gate_list = [gate("u", q, params=list(random.uniform(-3, 3, 3))) for q in range(N)]
        for _ in range(60):
            name, qubit = str(random.choice(names)), int(random.integers(5))
            gate_list.append(gate(name, qubit, params=list(random.uniform(-3, 3, gates.num_params(name)))))
            if random.random() < 0.2:
                other = (qubit + int(random.integers(1, N))) % N
                chain = gate("cx", qubit, other)
                gate_list += [chain, gate("rz", other, params=[float(random.uniform(-3, 3))]), chain]
        several = [angles_of(gate_list), *(random.uniform(-3, 3, angles_of(gate_list).size) for _ in range(3))]
        assert check(gate_list, several) >= 2


@pytest.mark.parametrize(("theta", "given"), [(0.0, 3), (2 * math.pi, 3), (1.25 * math.pi, 3), (math.pi, 0)])
def test_rotations_by_fixed_angles_between_phases_that_vary(theta: float, given: int) -> None:
    """None is a phase, more than half a turn has a negative cosine, and half a turn is an X: without a recipe."""
    random = np.random.default_rng(6)
    gate_list = [gate("ry", q, params=[0.3]) for q in range(N)]
    for q in range(N):
        gate_list += [
            gate("u", q, params=[theta, 0.1, 0.2]),
            gate("r", q, params=[theta, 0.4]),
            gate("rx", q, params=[0.7]),
        ]
    several = [angles_of(gate_list)]
    for _ in range(3):
        several.append(np.where(several[0] == theta, theta, random.uniform(-3, 3, several[0].size)))
    assert check(gate_list, several) == given


def rotations(angles: list[float]) -> list[Gate]:
    chain = [gate("cx", q, q + 1) for q in range(N - 1)]
    return [*(gate("ry", q, params=[angles[q]]) for q in range(N)), *chain, gate("rz", 3, params=[angles[N]]), *chain]


@pytest.mark.parametrize("first", [0.0, math.pi / 2, -math.pi / 4])
def test_what_looks_fixed_is_taken_for_that_until_it_changes(first: float) -> None:
    """As an optimiser begins that changes one number after the other."""
    several = [np.full(N + 1, first)]
    for k in range(N + 1):
        several.append(several[-1].copy())
        several[-1][k] = 0.1 + 0.2 * k
    gate_list = rotations(several[0].tolist())
    with pytest.MonkeyPatch.context() as patch:
        made, own = list[object](), recipe._recipe
        patch.setattr(recipe, "_recipe", lambda *arguments: made.append(arguments) or own(*arguments))
        assert check(gate_list, several) == N + 1
        assert len(made) == 3
        assert check(gate_list, [several[0], several[0], several[-1], several[0], several[-2]]) == 4
        assert len(made) == 4


def test_what_would_be_an_x_is_fixed_as_long_as_it_does_not_change() -> None:
    several = [np.full(N + 1, math.pi)]
    for k in range(3):
        several.append(several[-1].copy())
        several[-1][k] = 0.1 + 0.2 * k
    again = several[-1].copy()
    again[0] = 1.0
    assert check(rotations(several[0].tolist()), [*several, again]) == 4
    again[5] = 1.0
    assert check(rotations(several[0].tolist()), [*several, again]) == 3


def test_steep_rotations_and_large_angles_are_left_to_encode() -> None:
    first = np.linspace(0.1, 2, N + 1)
    steep = np.where(np.arange(N + 1) == 2, math.pi - 1 / STEEPEST, first)
    large = np.where(np.arange(N + 1) == 2, 1e4, first)
    several = [first, first + 0.1, steep, math.pi + 0 * first, large]
    assert check(rotations(first.tolist()), several) == 1
    nearly = np.where(np.arange(N + 1) == 2, math.pi - 10 / STEEPEST, first)
    assert check(rotations(first.tolist()), [first, nearly, nearly]) == 2


def test_a_state_that_would_grow_out_of_range_is_left_to_encode() -> None:
    """Eleven qubits, four layers without a phase that would take the size in; in double there is room."""
    gate_list = [
        each for _ in range(4) for q in range(N) for each in (gate("ry", q, params=[0.5]), gate("cx", q, (q + 1) % N))
    ]
    first = angles_of(gate_list)
    several = [first, np.full(first.size, math.pi - 0.04)]
    assert check(gate_list, several, "single") == 0
    assert check(gate_list, several, "double") == 1


def circuit_of(formulas: list[str], num_parameters: int) -> Circuit:
    names = tuple(f"x{k}" for k in range(num_parameters))
    gate_list = [gate("h", q) for q in range(N)]
    gate_list += [gate("ry", k % N, params=[text]) for k, text in enumerate(formulas)]
    gate_list += [gate("cp", k % N, (k + 3) % N, params=[text]) for k, text in enumerate(formulas)]
    return Circuit(N, 0, tuple(gate_list), parameters=names)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that ``encode`` was asked for."""
    simulate.forget_prepared()
    return count_encode(monkeypatch, simulate, recipe)


def prepared_sweeps(circuit: Circuit, values: np.ndarray, num_local: int = N) -> tuple[tuple[EncodedSweep, ...], ...]:
    prepared = simulate.prepare(circuit, num_local, "double")
    return prepared.encoding(0, prepared.start(), values, from_zero=True)


def test_formulas_of_parameters(encoded: list[Plan]) -> None:
    """Linear ones and others are worked out for each set; ``encode`` is asked once."""
    texts = ["p0", "2*p1 - p0", "p0*p1 + 0.5", "sin(p2)", "0.25", "p2/3"]
    circuit = circuit_of(texts, 3)
    for values in np.random.default_rng(3).uniform(-2, 2, (5, 3)):
        found = prepared_sweeps(circuit, values)
        plan = simulate.prepare(circuit, N, "double").plan(0, simulate.prepare(circuit, N, "double").start())
        wanted = amplitudes(plan, encode(plan, values, "double", from_zero=True), "double")
        np.testing.assert_allclose(amplitudes(plan, found, "double"), wanted, atol=1e-13)
    assert len(encoded) == 1


def test_parameters_may_vary_from_the_start(encoded: list[Plan]) -> None:
    """Even if the first ones look as if they were fixed; there is one recipe."""
    circuit = circuit_of([f"p{k}" for k in range(6)], 6)
    for k in range(6):
        prepared_sweeps(circuit, np.eye(6)[k])
    prepared = simulate.prepare(circuit, N, "double")
    ((_, known),) = prepared.plan(0, prepared.start()).kept["recipes"]._known.items()
    assert (len(encoded), known.num_recipes) == (1, 1)


def test_circuits_of_one_shape_share_a_recipe(encoded: list[Plan]) -> None:
    """As an application sends them that puts its numbers in itself; each circuit's sweeps are kept as well."""
    circuits = [Circuit(N, 0, tuple(rotations((np.linspace(0.1, 2, N + 1) + k).tolist()))) for k in range(4)]
    first = [prepared_sweeps(circuit, np.zeros(0)) for circuit in circuits]
    assert len(encoded) == 1
    assert [prepared_sweeps(circuit, np.zeros(0)) for circuit in circuits] == first


def test_several_ranks_find_the_same_whatever_each_was_asked_before(encoded: list[Plan]) -> None:
    """They have to scale the state in one way: from the first time on by the recipe, or all of them without one."""
    circuit, random = circuit_of(["p0", "p1"], 2), np.random.default_rng(3)
    steep = np.array([math.pi, 0.3])
    histories = [[], [random.uniform(-2, 2, 2)], [np.zeros(2), steep], [steep, steep, random.uniform(-2, 2, 2)]]
    for values in (random.uniform(-2, 2, 2), np.zeros(2), steep):
        found = list[list[EncodedSweep]]()
        for history in histories:
            simulate.forget_prepared()
            for earlier in history:
                prepared_sweeps(circuit, earlier, N - 1)
            found.append([each for stage in prepared_sweeps(circuit, values, N - 1) for each in stage])
        for other in found[1:]:
            for one, another in zip(found[0], other, strict=True):
                assert one.scale == another.scale
                assert np.array_equal(one.coefficients, another.coefficients)
                assert np.array_equal(one.ops, another.ops)
    without = Circuit(N, 0, tuple(rotations(np.linspace(0.1, 2, N + 1).tolist())))
    asked = len(encoded)
    for k in range(3):
        prepared_sweeps(msgspec.structs.replace(without, name=f"{k}"), np.zeros(0), N - 1)
        simulate._prepare.cache_clear()
    assert len(encoded) == asked + 3


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_no_number_is_refused(encoded: list[Plan]) -> None:
    circuit = circuit_of(["log(p0)", "p0"], 1)
    for value in (1.0, 2.0, 3.0):
        prepared_sweeps(circuit, np.array([value]))
    with pytest.raises(InvalidArgumentError, match="gate ry: 'log\\(p0\\)' is nan for these parameters, not a number"):
        prepared_sweeps(circuit, np.array([-1.0]))


# --- gradients ---


def rotations_with_parameters(random: np.random.Generator) -> Circuit:
    """Rotations of one qubit and of two by parameters, between others; the first parameter is that of several."""
    gate_list, texts = list[Gate](), [f"p{k}" for k in range(6)]
    for _ in range(60):
        a, b = (int(qubit) for qubit in random.choice(N, size=2, replace=False))
        name = str(random.choice(["rx", "ry", "rz", "rzz", "rxx", "cry", "cp", "h", "cx", "x", "t", "sx"]))
        text = str(random.choice(texts))
        params = [str(random.choice([text, f"2*{text} - 0.3", "-p0"]))] * gates.num_params(name)
        gate_list.append(gate(name, *([a, b][: 2 if name in ("rzz", "rxx", "cry", "cp", "cx") else 1]), params=params))
    return Circuit(N, 0, tuple(gate_list), parameters=tuple(f"x{k}" for k in range(6)))


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("seed", range(4))
def test_gradients(seed: int, precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with recipes are those without."""
    random = np.random.default_rng(seed)
    circuit, observable = rotations_with_parameters(random), Observable((("ZZX" + "IY" * 4, 0.7), ("I" * 10 + "Z", 1)))
    asked = count_encode(monkeypatch, simulate, backwards, recipe)
    rows = random.uniform(-3, 3, (4, 6))
    simulate.forget_prepared()
    found = gradient.gradient(circuit, observable, rows, precision, Team())
    assert len(asked) == 2  # forwards and backwards
    for values, derivatives in zip(rows, found, strict=True):
        simulate.forget_prepared()
        gradient._backwards.cache_clear()
        (wanted,) = gradient.gradient(circuit, observable, values[np.newaxis], precision, Team())
        np.testing.assert_allclose(derivatives, wanted, atol=20 * TOLERANCE[precision])
    assert len(asked) == 10


def test_gradients_by_angles_that_others_turn_have_no_recipe() -> None:
    """What is read for them is different each time; what is found is the same as by differences."""
    gate_list = [gate("h", q) for q in range(N)] + [gate("u", 2, params=["p0", "p1", "p0*p1"]), gate("cx", 2, 3)]
    circuit = Circuit(N, 0, (*gate_list, gate("rx", 3, params=["p1"])), parameters=("a", "b"))
    observable, step = Observable((("I" * 7 + "ZZII", 1.0), ("I" * 7 + "YXII", 0.5))), 1e-5
    for values in np.random.default_rng(2).uniform(-3, 3, (3, 2)):
        (found,) = gradient.gradient(circuit, observable, values[np.newaxis], "double", Team())
        for k in range(2):
            moved = [
                engines.run(Task(circuit=circuit, parameters=shifted, observables=(observable,)), Team())
                for shifted in (values + step * np.eye(2)[k], values - step * np.eye(2)[k])
            ]
            up, down = (float(each.expectation_values[0]) for each in moved)  # type: ignore[index]
            assert found[k] == pytest.approx((up - down) / (2 * step), abs=1e-8)


# --- numbers that are known later ---


def test_numbers_add_up_and_cancel() -> None:
    tape = Tape(2)
    x, y = tape.input(0), tape.input(1)
    assert x + 1 - x == 1
    assert (2 * x - y / 2) * 2 + y - 4 * x == 0
    assert 3 - (3 - x) - x == 0
    assert bool(x)
    assert abs(x) == math.inf
    many = sum((tape.later(1, tape.input(0) + k) for k in range(40)), start=0.0)
    assert len(many.terms) < 20  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "use",
    [float, math.cos, lambda x: x < 1, lambda x: 1j * x, lambda x: np.array([x], dtype=np.float64), lambda x: x * "a"],
)
def test_the_value_of_a_number_that_is_known_later_is_not_to_be_had(use: Callable[[float], object]) -> None:
    with pytest.raises(UnknownError):
        use(Tape(1).input(0))
