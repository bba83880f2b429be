"""The normal form of sweeps against the dense oracle: every kind of pass, both precisions, several block shapes."""

from __future__ import annotations

import numpy as np
import pytest

from qsimenv.circuit import Circuit, Gate, gate
from qsimenv.comm import Team
from qsimenv.statevec.encoding import rows as columns
from qsimenv.statevec.encoding.encode import encode
from qsimenv.statevec.planning.layout import Layout
from qsimenv.statevec.planning.planner import make_plan, plan_from_zero
from qsimenv.statevec.state import State
from tests.oracle import dense

TOLERANCE = {"double": 1e-12, "single": 1e-5}


def random_unitary(random: np.random.Generator, size: int) -> np.ndarray:
    q, r = np.linalg.qr(random.normal(size=(size, size)) + 1j * random.normal(size=(size, size)))
    return q * (np.diagonal(r) / np.abs(np.diagonal(r)))


def random_gate(random: np.random.Generator, n: int) -> Gate:
    """One of the gates that the form has a place for, and some that it has none for."""
    a, b, c = (int(qubit) for qubit in random.choice(n, size=3, replace=False))
    angle = [float(random.uniform(-4, 4))]
    choices = [
        lambda: gate("h", a), lambda: gate("x", a), lambda: gate("y", a), lambda: gate("sx", a), lambda: gate("t", a),
        lambda: gate("rx", a, params=angle), lambda: gate("ry", a, params=angle), lambda: gate("rz", a, params=angle),
        lambda: gate("u", a, params=list(random.uniform(-4, 4, 3))), lambda: gate("cx", a, b), lambda: gate("cz", a, b),
        lambda: gate("cx", a, b), lambda: gate("cp", a, b, params=angle), lambda: gate("rzz", a, b, params=angle),
        lambda: gate("crz", a, b, params=angle), lambda: gate("swap", a, b), lambda: gate("ccx", a, b, c),
        lambda: gate("ccz", a, b, c), lambda: gate("cry", a, b, params=angle), lambda: gate("rxx", a, b, params=angle),
        lambda: gate("unitary", a, b, matrix=random_unitary(random, 4)), lambda: gate("iswap", a, b),
        lambda: Gate("x", (a, b), (), 1, 0), lambda: Gate("z", (a, b), (), 1, 0),
    ]  # fmt: skip
    made: Gate = choices[random.integers(len(choices))]()
    return made


def run(circuit: Circuit, layout: Layout, precision: str, block_bits: int) -> tuple[np.ndarray, set[int]]:
    """The final amplitudes in the order of the qubits, and the kinds of pass that were used."""
    plan = make_plan(circuit.instructions, layout, block_bits)  # type: ignore[arg-type]
    encoded = encode(plan, (), precision)  # type: ignore[arg-type]
    state = State.zero(layout, Team(), precision)  # type: ignore[arg-type]
    state.run(plan, encoded)
    kinds = {int(row[columns.KIND]) for stage in encoded for sweep in stage for row in sweep.ops}
    return state.amplitudes(), kinds


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("block_bits", [9, 10, 16])
@pytest.mark.parametrize("seed", range(6))
def test_random_circuits(seed: int, block_bits: int, precision: str) -> None:
    random = np.random.default_rng(seed)
    n = 11
    circuit = Circuit(n, 0, tuple(random_gate(random, n) for _ in range(120)))
    layout = Layout(tuple(int(bit) for bit in random.permutation(n)), n, int(random.integers(1 << n)))
    amplitudes, _ = run(circuit, layout, precision, block_bits)
    np.testing.assert_allclose(amplitudes, dense.final_state(circuit), atol=TOLERANCE[precision])


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("block_bits", [9, 10, 13])
def test_random_circuits_from_zero(block_bits: int, precision: str) -> None:
    """What is left out or done by the loads because bits are 0 so far; where every qubit has an own turn, and where
    most have none."""
    n, spread, phases = 13, 0, [0, 0]
    for seed in range(16):
        random = np.random.default_rng(seed)
        gates = [random_gate(random, n) for _ in range(int(random.integers(5, 60)))]
        turns = [gate(str(random.choice(["rx", "ry"])), q, params=[float(random.uniform(-4, 4))]) for q in range(n)]
        circuit = Circuit(n, 0, tuple([gates, turns + gates, gates[:9] + turns + gates][seed % 3]))
        plan = plan_from_zero(circuit.instructions, n, n, block_bits)  # type: ignore[arg-type]
        plain, encoded = (encode(plan, (), precision, from_zero=zero)[0] for zero in (False, True))  # type: ignore[arg-type]
        kinds = [[int(row[columns.KIND]) for sweep in each for row in sweep.ops] for each in (plain, encoded)]
        spread += kinds[1].count(columns.SPREAD)
        phases = [total + each.count(columns.QUADRATIC) for total, each in zip(phases, kinds, strict=True)]
        state = State.zero(plan.start, Team(), precision)  # type: ignore[arg-type]
        if seed % 2:
            state.fill()  # that zeros are there makes no difference
        state.run(plan, (encoded,))
        np.testing.assert_allclose(state.amplitudes(), dense.final_state(circuit), atol=TOLERANCE[precision])
    assert spread > 3
    assert phases[1] < phases[0]


def test_all_kinds_of_pass_are_used() -> None:
    random = np.random.default_rng(0)
    circuit = Circuit(11, 0, tuple(random_gate(random, 11) for _ in range(300)))
    _, kinds = run(circuit, Layout(tuple(range(11)), 11), "double", 9)
    wanted = {columns.ROTATE, columns.QUADRATIC, columns.PERMUTE, columns.TWO_TARGETS, columns.FLIP, columns.REAL}
    assert wanted <= kinds


@pytest.mark.parametrize("precision", ["double", "single"])
def test_two_targets_on_every_pair_of_bits(precision: str) -> None:
    """Lane bits and bits above them, in both orders."""
    random = np.random.default_rng(5)
    n = 9
    start = [gate("ry", qubit, params=[0.3 + 0.1 * qubit]) for qubit in range(n)]
    for a in range(7):
        for b in range(7):
            if a != b:
                circuit = Circuit(n, 0, (*start, gate("unitary", a, b, matrix=random_unitary(random, 4))))
                amplitudes, kinds = run(circuit, Layout(tuple(range(n)), n), precision, 9)
                assert columns.TWO_TARGETS in kinds
                np.testing.assert_allclose(amplitudes, dense.final_state(circuit), atol=TOLERANCE[precision])


def test_a_layer_is_few_passes() -> None:
    """RZ and CZ layers are one pass, CX-RZ-CX needs no permutation, a CX chain is one."""
    n = 12
    layout = Layout(tuple(range(n)), n)

    def passes(gates: list[Gate]) -> list[int]:
        plan = make_plan(gates, layout, 16)
        return [int(row[columns.KIND]) for stage in encode(plan, (), "double") for s in stage for row in s.ops]

    ising = [
        g for q in range(n - 1) for g in (gate("cx", q, q + 1), gate("rz", q + 1, params=[0.2]), gate("cx", q, q + 1))
    ]
    assert passes(ising) == [columns.QUADRATIC]
    layer = [gate("rx", q, params=[0.3]) for q in range(n)]
    assert passes(ising + layer).count(columns.QUADRATIC) == 2
    assert columns.PERMUTE not in passes(ising + layer)
    chain = [gate("cx", q, q + 1) for q in range(n - 1)]
    assert passes(chain) == [columns.PERMUTE]
    assert set(passes([gate("ry", q, params=[0.3]) for q in range(n)])) == {columns.ROTATE}
    turned_by = [gate("cp", q, n - 1, params=[0.3]) for q in range(n - 1)]
    assert passes([*turned_by, gate("h", n - 1)]) == [columns.QUADRATIC]  # an H ends in a Z, which goes with them


def test_norm_is_kept_over_ten_thousand_gates() -> None:
    random = np.random.default_rng(1)
    n = 10
    gates = [gate("u", int(random.integers(n)), params=list(random.uniform(-4, 4, 3))) for _ in range(10_000)]
    for precision, tolerance in (("double", 1e-12), ("single", 1e-4)):
        amplitudes, _ = run(Circuit(n, 0, tuple(gates)), Layout(tuple(range(n)), n), precision, 16)
        assert abs(np.linalg.norm(amplitudes) - 1) < tolerance
