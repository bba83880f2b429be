"""Dense matrices on one to five qubits, with and without controls, wherever in a block these lie."""

from __future__ import annotations

from typing import Any

import msgspec
import numba
import numpy as np
import pytest

from qsimenv.circuit import Circuit, Gate, gate
from qsimenv.statevec.encoding import rows as columns
from qsimenv.statevec.encoding.encode import encode
from qsimenv.statevec.kernels import dense_vectors_numba
from qsimenv.statevec.planning.layout import Layout
from qsimenv.statevec.planning.planner import make_plan
from tests.oracle import dense
from tests.unit.test_normalform import TOLERANCE, random_unitary, run


def unitary(random: np.random.Generator, targets: int, qubits: list[int]) -> Gate:
    """A random matrix on the last ``targets`` of the qubits, under the others; sometimes a diagonal one."""
    matrix = random_unitary(random, 1 << targets)
    if random.random() < 0.2:
        matrix = np.diag(np.exp(1j * np.angle(np.diagonal(matrix))))
    made = gate("unitary", *qubits, matrix=matrix)
    controls = len(qubits) - targets
    state = int(random.integers(1 << controls)) if controls else -1
    return msgspec.structs.replace(made, controls=controls, control_state=state)


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("targets", range(1, 6))
@pytest.mark.parametrize(("n", "block_bits"), [(8, 8), (11, 11), (13, 12)])
def test_any_targets_under_any_controls(n: int, block_bits: int, targets: int, precision: str) -> None:
    """Blocks of a few vectors, of which each is done by itself, and of many; bits in the lanes, above, and outside."""
    random = np.random.default_rng(targets)
    start = [gate("unitary", q, matrix=random_unitary(random, 2)) for q in range(n)]
    counts = random.integers(0, min(4, n - targets + 1), size=30)
    picked = [random.permutation(n)[: targets + int(count)].tolist() for count in counts]
    circuit = Circuit(n, 0, (*start, *(unitary(random, targets, qubits) for qubits in picked)))
    amplitudes, kinds = run(circuit, Layout(tuple(range(n)), n), precision, block_bits)
    assert columns.DENSE in kinds
    np.testing.assert_allclose(amplitudes, dense.final_state(circuit), atol=TOLERANCE[precision])


@pytest.mark.parametrize("precision", ["double", "single"])
def test_many_controls(precision: str) -> None:
    """Of all vectors of a block only one is left to be worked on."""
    n, random = 10, np.random.default_rng(3)
    start = [gate("unitary", q, matrix=random_unitary(random, 2)) for q in range(n)]
    flips = [msgspec.structs.replace(gate("x", *np.roll(range(n), k).tolist()), controls=n - 1) for k in range(n)]
    circuit = Circuit(n, 0, (*start, *flips))
    amplitudes, _ = run(circuit, Layout(tuple(range(n)), n), precision, n)
    np.testing.assert_allclose(amplitudes, dense.final_state(circuit), atol=TOLERANCE[precision])


def test_no_loop_over_numbers_is_torn_apart() -> None:
    """What a lane bit is a target or control of, is done by vectors, and so is any matrix on more than one bit."""
    n, lanes = 12, 4
    toffoli = gate("ccx", 8, 9, 11)
    gates = [gate("ccx", 0, 9, 10), gate("ccx", 8, 9, 1), gate("ccz", 2, 8, 9), gate("cswap", 8, 9, 10)]
    gates += [gate("unitary", 8, 9, 10, matrix=random_unitary(np.random.default_rng(1), 8)), toffoli]
    plan = make_plan(gates, Layout(tuple(range(n)), n), n)
    (sweep,) = encode(plan, (), "single")[0]
    kinds = sweep.ops[:, columns.KIND].tolist()
    assert kinds.count(columns.DENSE) == len(gates) - 1
    assert kinds[-1] == columns.FLIP
    others = sweep.ops[sweep.ops[:, columns.KIND] != columns.DENSE]
    assert (others[:, columns.FIXED] >= lanes).all()


def shuffling(copy: Any) -> Any:
    """To be compiled."""
    return lambda re, im, start, room, mask: copy(re, im, start, room, 0, mask)


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_lanes_are_shuffled_on_any_processor(real: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is an instruction for it, and where there is none."""
    width = 64 // np.dtype(real).itemsize
    re, im = np.arange(2 * width, dtype=real), -np.arange(2 * width, dtype=real)
    for has_vectors in {False, dense_vectors_numba.HAS_VECTORS}:
        monkeypatch.setattr(dense_vectors_numba, "HAS_VECTORS", has_vectors)
        copy, room = dense_vectors_numba.copy_of_vectors(shuffles=True), np.zeros(2 * width, dtype=real)
        shuffle = numba.njit(shuffling(copy))
        for mask in range(width):
            shuffle(re, im, width, room, mask)
            expected = re[width + (np.arange(width) ^ mask)]
            np.testing.assert_array_equal(room, np.concatenate([expected, -expected]))
