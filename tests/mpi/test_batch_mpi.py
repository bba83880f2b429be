"""Many sets of parameters on the ranks of this job: small circuits or large, shared out or not, as on one rank."""

from __future__ import annotations

import numpy as np
import pytest

from qsimenv import engines, errors
from qsimenv.circuit import Circuit, Measure, Register, gate
from qsimenv.comm import Team
from qsimenv.statevec.batches import batch_plan
from qsimenv.task import task

pytestmark = pytest.mark.mpi

LARGE = batch_plan.MAX_QUBITS + 1


def circuit(num_qubits: int, angle: str = "p0 * p1") -> Circuit:
    steps = [gate("ry", q, params=[f"p{q % 2} + {q}"]) for q in range(num_qubits)]
    steps += [gate("cx", q, q + 1) for q in range(num_qubits - 1)]
    measures = [Measure(q, q) for q in range(num_qubits)]
    register = Register("c", tuple(range(num_qubits)))
    return Circuit(num_qubits, num_qubits, (*steps, gate("rx", 0, params=[angle]), *measures), (register,), ("a", "b"))


@pytest.mark.parametrize("num_qubits", [3, LARGE])
@pytest.mark.parametrize("sets", [1, 3, 5, 700])
def test_any_number_of_ranks_gives_what_one_gives(team: Team, num_qubits: int, sets: int) -> None:
    if num_qubits == LARGE and sets > 5:
        pytest.skip("slow, and no other path than that of 5 sets")
    values = np.random.default_rng(2).uniform(-3, 3, (sets, 2))
    terms = ["Z" * num_qubits, {"X" * num_qubits: 0.5, "Y" + "Z" * (num_qubits - 1): 2.0}]
    made = task(circuit(num_qubits), parameters=values, observables=terms, shots=40, seed=9)
    found, alone = engines.run(made, team), engines.run(made, Team())
    assert found.metadata["ranks"] == team.size
    assert np.array_equal(found.samples, alone.samples)
    assert found.expectation_values.shape == (sets, 2)
    assert np.allclose(found.expectation_values, alone.expectation_values, atol=1e-12)


def test_all_ranks_hear_of_the_one_bad_set(team: Team) -> None:
    values = np.ones((700, 2))
    values[-1, 1] = 0
    made = task(circuit(3, "1 / p1"), parameters=values, observables=["ZZZ"])
    with pytest.raises(errors.InvalidArgumentError, match="'1 / p1' is inf"):
        engines.run(made, team)
