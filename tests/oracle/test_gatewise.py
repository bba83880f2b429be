"""Small circuits without parameters, gate by gate: against the oracle, and against the ways of other circuits."""

from __future__ import annotations

import math

import dense
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batch import FIXED_NAMES, run_large, spread
from test_gates import num_qubits as size_of
from test_gates import random_unitary

import qsimenv as qs
from qsimenv import engines, gates, interrupt
from qsimenv.circuit import (
    Bits,
    Circuit,
    Gate,
    IfElse,
    Instruction,
    Literal,
    Measure,
    Operation,
    Register,
    Repeat,
    Reset,
    controlled,
    gate,
)
from qsimenv.comm import Team
from qsimenv.errors import BadStateError
from qsimenv.statevec.batches.batch_plan import MAX_QUBITS
from qsimenv.statevec.gatewise import applying
from qsimenv.statevec.gatewise.listing import MOST_QUBITS, is_gatewise, listed
from qsimenv.statevec.gatewise.run import GatewiseRun, suits, way_of
from qsimenv.statevec.simulate import Run


def assert_is_the_oracles(circuit: Circuit) -> None:
    assert is_gatewise(circuit)
    for precision, bound in (("double", 1e-12), ("single", 1e-5)):
        found = qs.run(circuit, save="statevector", precision=precision).statevector
        assert found.dtype == (np.complex128 if precision == "double" else np.complex64)
        assert np.abs(found - dense.final_state(circuit)).max() < bound


@pytest.mark.parametrize("name", FIXED_NAMES)
def test_every_gate_under_controls_of_any_value(name: str) -> None:
    random = np.random.default_rng(list(name.encode()))
    steps: list[Instruction] = list(spread(7))
    base, own = gates.base_and_controls(name, size_of(name))
    for added in range(3):
        size = size_of(name) + added
        for state in {-1, 0, *random.integers(1 << own + added, size=2).tolist()}:
            angles = random.uniform(-7, 7, gates.num_params(name)).tolist()
            qubits = tuple(random.permutation(7)[:size].tolist())
            steps.append(Gate(name, qubits, tuple(angles), added, state))
            steps.append(gate("ry", int(random.integers(7)), params=[0.4]))
    assert base in gates.BASE
    assert_is_the_oracles(Circuit(7, 0, tuple(steps)))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_matrices_of_every_size_on_any_qubits(size: int) -> None:
    random, steps = np.random.default_rng(size), list[Instruction](spread(7))
    for added in (0, 1, 2):
        qubits = tuple(random.permutation(7)[: size + added].tolist())
        state = int(random.integers(1 << added))
        steps.append(Gate("unitary", qubits, (), added, state, random_unitary(1 << size, size + added).tobytes()))
    assert_is_the_oracles(Circuit(7, 0, tuple(steps)))


@st.composite
def circuits(draw: st.DrawFn) -> Circuit:
    """Gates of all kinds on up to six qubits, so many on one qubit that they meet there, measured at the end."""
    num_qubits, steps = draw(st.integers(1, 6)), list[Instruction]()
    for _ in range(draw(st.integers(0, 40))):
        name = draw(st.sampled_from([*(name for name in FIXED_NAMES if size_of(name) <= num_qubits), "rx", "h", "rz"]))
        qubits = draw(st.permutations(range(num_qubits)))[: size_of(name)]
        angles = [draw(st.sampled_from([0.0, math.pi, -math.pi / 2, 0.3, "pi / 4", "-sin(1)"])) for _ in range(9)]
        steps.append(gate(name, *qubits, params=angles[: gates.num_params(name)]))
    measures = [Measure(q, draw(st.integers(0, num_qubits - 1))) for q in range(num_qubits)]
    ends = {measure.clbit: measure for measure in measures}.values()
    return Circuit(num_qubits, num_qubits, (*steps, *ends), (Register("c", tuple(range(num_qubits))),))


@settings(max_examples=60, deadline=None)
@given(circuits(), st.integers(0, 2**64 - 1))
def test_any_circuit_is_the_oracles_and_what_the_large_way_gives(circuit: Circuit, seed: int) -> None:
    n = circuit.num_qubits
    strings = {"Z" * n: 0.5, "X" * n: -1.0, "Y" * n: 0.25, "I" * n: 2.0, "XYZXYZ"[:n]: 1.5}
    options = {"observables": [strings, "Y" * n], "shots": 21, "seed": seed}
    result, state = qs.run(circuit, **options, save="statevector"), dense.final_state(circuit)
    assert np.abs(result.statevector - state).max() < 1e-12
    wanted = [dense.expectation(state, list(strings.items())), dense.expectation(state, [("Y" * n, 1.0)])]
    assert result.expectation_values == pytest.approx(wanted, abs=1e-12)
    large = run_large(circuit, **options)
    assert np.array_equal(result.samples, large.samples)
    assert np.allclose(result.expectation_values, large.expectation_values, atol=1e-12)


def test_angles_written_as_formulas_are_what_they_say() -> None:
    circuit = Circuit(2, 0, (gate("rx", 0, params=["pi / 2"]), gate("ry", 1, params=[0.3]), gate("cx", 0, 1)))
    assert_is_the_oracles(circuit)
    for number, width in ((1, 2), (1, MAX_QUBITS + 1), (3, 2)):
        wide = Circuit(width, 0, (*circuit.instructions, gate("rzz", 0, 1, params=["2 * pi / 7"])))
        found = qs.run(wide, parameters=np.zeros((number, 0)), observables=["Y".rjust(width, "I")])
        wanted = dense.expectation(dense.final_state(Circuit(2, 0, wide.instructions)), [("IY", 1.0)])
        assert found.expectation_values == pytest.approx(np.full((number, 1), wanted), abs=1e-12)


def test_loops_and_gates_that_need_no_qubit() -> None:
    turn, link = gate("ry", 0, params=[0.1]), gate("cx", 0, 2)
    loop = Repeat(tuple((gate("rz", 0, params=[0.1 * k]), turn, link) for k in range(7)))
    steps = (gate("gphase", params=[0.4]), loop, controlled("gphase", [0, 1], [0.7], 2, 1), turn)
    unrolled = Circuit(3, 0, (steps[0], *(each for body in loop.bodies for each in body), *steps[2:]))
    assert is_gatewise(circuit := Circuit(3, 0, steps))
    assert np.abs(qs.run(circuit, save="statevector").statevector - dense.final_state(unrolled)).max() < 1e-12
    assert_is_the_oracles(Circuit(1, 0, ()))


def test_which_circuits_are_run_gate_by_gate() -> None:
    turn = gate("rx", 0, params=[0.3])
    assert is_gatewise(Circuit(MAX_QUBITS, 1, (turn, *(gate("h", 0),) * 50_000, Measure(0, 0))))
    assert not is_gatewise(Circuit(MAX_QUBITS + 1, 0, (turn,)))
    assert not is_gatewise(Circuit(0, 0, (gate("gphase", params=[0.5]),)))
    assert not is_gatewise(Circuit(2, 0, (gate("rx", 0, params=["p0"]),), parameters=("a",)))
    assert not is_gatewise(Circuit(2, 1, (turn, Measure(0, 0), turn)))
    assert not is_gatewise(Circuit(2, 1, (turn, Reset(0))))


def test_what_differs_in_numbers_alone_shares_its_templates() -> None:
    first, second = (
        Circuit(3, 0, (gate("u", 1, params=[x, 0.2, x]), gate("cswap", 0, 1, 2), gate("rv", 0, params=[x, 1, 1])))
        for x in (0.1, 0.7)
    )
    assert listed(first).templates is listed(second).templates
    assert len(listed(first).templates.templates) == 3


def deep(count: int) -> Circuit:
    random = np.random.default_rng(1)
    turns = [gate("ry", k % 4, params=[float(random.normal())]) for k in range(count)]
    return Circuit(4, 0, tuple(turns[k] if k % 3 else gate("cx", k % 4, (k + 1) % 4) for k in range(count)))


def test_long_circuits_tell_how_far_they_are_and_can_be_canceled(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit, told = deep(10_000), list[tuple[int, int | None]]()
    whole = qs.run(circuit, save="statevector").statevector
    assert np.linalg.norm(whole) == pytest.approx(1, abs=1e-12)
    monkeypatch.setattr(applying, "_AMPLITUDES_A_CALL", 3000 << 4)
    made = qs.Task(circuit, save="statevector")
    watch = engines.Watch(progress=lambda done, total: told.append((done, total)))
    in_parts = engines.run(made, Team(), watch).statevector
    assert np.abs(in_parts - whole).max() < 1e-12
    assert told == [(3000, 10_000), (6000, 10_000), (9000, 10_000), (10_000, 10_000)]
    interrupt.watch(lambda: interrupt.CANCELED)
    try:
        with pytest.raises(BadStateError, match="canceled"):
            engines.run(made, Team())
    finally:
        interrupt.watch(None)


def test_a_long_circuit_is_estimated_by_its_gates() -> None:
    short, long = (
        engines.evaluate(qs.Task(deep(count), observables=["ZZZZ"]), 1, 1 << 34).seconds for count in (100, 100_000)
    )
    assert 0.1 < long < 3
    assert short < 0.01


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("num_qubits", [1, 2, 3, 5, MAX_QUBITS + 1, MOST_QUBITS])
def test_states_that_are_measured_on_the_way_or_wider(num_qubits: int, precision: str) -> None:
    """The same shots by the same seed, and the same values, as with a plan."""
    random, n = np.random.default_rng(num_qubits), num_qubits
    turns = [gate("u", q, params=random.uniform(0.5, 2.5, 3)) for _ in range(3) for q in range(n)]
    links = [gate("cx", *random.permutation(n)[:2]) for _ in range(2 * n)] if n > 1 else []
    ends = tuple(map(Measure, range(n), range(n)))
    static = Circuit(n, n, (*turns, *links, *turns, *ends))
    flipped = IfElse(Operation("equal", (Bits((0,)), Literal(1))), (gate("x", 0), gate("h", n - 1)))
    branching = Circuit(
        n, n, (*turns, *links, Measure(0, 0), flipped, *links, Reset(n - 1), *turns, *links, *turns, *ends)
    )
    strings = ["Z" * n, "X" + "Y" * (n - 1)]
    assert suits(static, Team(), "cpu")
    assert suits(branching, Team(), "cpu")
    options = {"precision": precision, "seed": 5, "shots": 2000}
    for circuit, asked in ((static, {"observables": strings, "save": "statevector"}), (branching, {})):
        found, planned = qs.run(circuit, **options, **asked), run_large(circuit, **options, **asked)
        bound = 1e-12 if precision == "double" else 1e-5
        assert np.any(found.samples != planned.samples, axis=-1).mean() <= (0 if precision == "double" else 2e-3)
        if asked:
            assert found.statevector.dtype == planned.statevector.dtype
            assert np.abs(found.statevector - planned.statevector).max() < bound
            assert np.allclose(found.expectation_values, planned.expectation_values, atol=bound)


def test_what_is_run_with_a_plan() -> None:
    turn = gate("rx", 0, params=["p0"])
    assert not suits(Circuit(MOST_QUBITS + 1, 0, ()), Team(), "cpu")
    assert not suits(Circuit(3, 0, (turn,), parameters=("a",)), Team(), "cpu")
    assert not suits(Circuit(3, 0, ()), Team(), "gpu")


def test_what_comes_time_and_again_is_planned_in_the_end() -> None:
    def turned(angle: float, num_qubits: int = MOST_QUBITS) -> Circuit:
        return Circuit(num_qubits, 0, (gate("rx", 0, params=[angle]), gate("cx", 0, 5), gate("ry", 5, params=[angle])))

    ways = [way_of(turned(0.1 * number), Team(), "cpu") for number in range(20)]
    assert ways == [GatewiseRun] * 16 + [Run] * 4
    assert {way_of(turned(0.3, MAX_QUBITS), Team(), "cpu") for _ in range(20)} == {GatewiseRun}
    other = msgspec.structs.replace(turned(0.4), instructions=(gate("h", 1), *turned(0.4).instructions))
    found = [qs.run(other, save="statevector") for _ in range(18)]
    assert found[0].metadata["stages"] == 0 < found[-1].metadata["stages"]
    assert np.allclose(found[0].statevector, found[-1].statevector, atol=1e-12)


def test_wider_ones_tell_how_far_they_are_and_can_be_canceled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "_AMPLITUDES_A_CALL", 40 << MOST_QUBITS)
    circuit, told = Circuit(MOST_QUBITS, 0, (gate("h", 3), gate("cx", 3, 14)) * 50), list[tuple[int, int | None]]()
    made = qs.Task(circuit, observables=["Z" * MOST_QUBITS])
    engines.run(made, Team(), engines.Watch(progress=lambda done, total: told.append((done, total))))
    assert told == [(40, 100), (80, 100), (100, 100)]
    interrupt.watch(lambda: interrupt.CANCELED)
    try:
        with pytest.raises(BadStateError, match="canceled"):
            engines.run(made, Team())
    finally:
        interrupt.watch(None)
