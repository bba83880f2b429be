"""What is multiplied into dense matrices: which ops, in which order, and that nothing else changes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qsimenv.circuit import Circuit, Gate, gate
from qsimenv.statevec.encoding import rows as columns
from qsimenv.statevec.encoding.encode import encode
from qsimenv.statevec.planning.layout import Layout
from qsimenv.statevec.planning.planner import make_plan
from tests.oracle import dense
from tests.unit.test_normalform import TOLERANCE, random_unitary, run


def kinds_of(n: int, gates: list[Gate]) -> list[int]:
    plan = make_plan(gates, Layout(tuple(range(n)), n), n)
    return [int(row[columns.KIND]) for stage in encode(plan, (), "double") for sweep in stage for row in sweep.ops]


def any_gate(random: np.random.Generator, n: int) -> Gate:
    """Mostly on few qubits, so that they follow each other on the same ones."""
    a, b, c, d = (int(qubit) for qubit in random.permutation(min(n, 6))[:4])
    angle = [float(random.uniform(-4, 4))]
    choices = [
        lambda: gate("h", a), lambda: gate("x", a), lambda: gate("u", a, params=list(random.uniform(-4, 4, 3))),
        lambda: gate("rz", a, params=angle), lambda: gate("cx", a, b), lambda: gate("cp", a, b, params=angle),
        lambda: gate("rzz", a, b, params=angle), lambda: gate("swap", a, b), lambda: gate("crx", a, b, params=angle),
        lambda: gate("rxx", a, b, params=angle), lambda: gate("ryy", a, b, params=angle), lambda: gate("iswap", a, b),
        lambda: gate("gphase", params=angle), lambda: Gate("gphase", (a,), tuple(angle), 1),
        lambda: gate("ccx", a, b, c), lambda: gate("cswap", a, b, c), lambda: gate("ccz", a, b, c),
        lambda: gate("unitary", a, b, c, matrix=random_unitary(random, 8)),
        lambda: gate("unitary", a, b, c, d, matrix=random_unitary(random, 16)),
        lambda: Gate("unitary", (a, b, c), (), 1, 0, random_unitary(random, 4).astype("<c16").tobytes()),
    ]  # fmt: skip
    made: Gate = choices[random.integers(len(choices))]()
    return made


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("seed", range(12))
def test_any_order_of_gates_gives_the_same_state(seed: int, precision: str) -> None:
    n, random = 11, np.random.default_rng(seed)
    start = [gate("u", q, params=list(random.uniform(-4, 4, 3))) for q in range(n)]
    bits = tuple(int(bit) for bit in random.permutation(n))
    circuit = Circuit(n, 0, (*start, *(any_gate(random, n) for _ in range(60))))
    amplitudes, _ = run(circuit, Layout(bits, n), precision, n)
    np.testing.assert_allclose(amplitudes, dense.final_state(circuit), atol=TOLERANCE[precision])


def test_gates_on_one_pair_are_one_pass() -> None:
    """A step of the Heisenberg model, and a matrix with turns, phases, CX and others on its two qubits around it."""
    n = 10
    heisenberg = [gate(name, q, q + 1, params=[0.1]) for q in range(0, n - 1, 2) for name in ("rzz", "rxx", "ryy")]
    assert kinds_of(n, heisenberg) == [columns.TWO_TARGETS] * (n // 2)
    around = [gate("h", 3), gate("cx", 3, 7), gate("rz", 7, params=[0.2]), gate("cp", 7, 3, params=[0.3])]
    middle = gate("iswap", 3, 7)
    assert kinds_of(n, [*around, middle, *around, middle]) == [columns.TWO_TARGETS]
    wide = gate("unitary", 2, 3, 7, matrix=random_unitary(np.random.default_rng(1), 8))
    assert kinds_of(n, [*around, middle, wide, gate("x", 2), *around]) == [columns.DENSE]


def test_what_lies_between_keeps_them_apart() -> None:
    n, middle = 10, gate("iswap", 3, 7)
    assert kinds_of(n, [middle, gate("ccx", 3, 5, 6), middle]).count(columns.TWO_TARGETS) == 2
    assert kinds_of(n, [middle, gate("iswap", 7, 8), middle]).count(columns.TWO_TARGETS) == 3
    assert kinds_of(n, [middle, gate("iswap", 8, 9), middle]).count(columns.TWO_TARGETS) == 2


def test_without_a_dense_matrix_nothing_is_fused() -> None:
    n = 10
    gates = [gate("h", q) for q in range(n)]
    gates += [gate("cp", a, b, params=[math.pi / 2 ** (b - a)]) for a in range(n) for b in range(a + 1, n)]
    assert columns.TWO_TARGETS not in kinds_of(n, gates)
    assert columns.DENSE not in kinds_of(n, [*gates, gate("cry", 8, 9, params=[0.3])])
