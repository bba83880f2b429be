"""Gradients on the ranks of this job, against finite differences of the oracle's expectation values."""

from __future__ import annotations

import dense
import numpy as np
import pytest

from qsimenv import errors, gates
from qsimenv.circuit import Circuit, Gate, Measure, gate
from qsimenv.comm import Team
from qsimenv.statevec.engine import gradient
from qsimenv.statevec.gradients import gradient as gradients
from qsimenv.statevec.measuring import expectation, pauli_applied_numba, pauli_groups, pauli_numba
from qsimenv.task import Task, task

pytestmark = pytest.mark.mpi

PARAMETRIC = [name for name in gates.NAMES if name != gates.UNITARY and gates.num_params(name)]


def arity(name: str) -> int:
    if name not in gates.CONTROLLED:
        return gates.BASE[name].num_targets
    row = gates.CONTROLLED[name]
    return (3 if row.num_controls is None else row.num_controls) + gates.BASE[row.base].num_targets


def spread(num_qubits: int, rng: np.random.Generator) -> list[Gate]:
    return [gate("u", q, params=rng.uniform(0, 6, 3).tolist()) for q in range(num_qubits)]


def observable(num_qubits: int, rng: np.random.Generator) -> list[tuple[str, float]]:
    return [("".join(rng.choice(list("IXYZ"), num_qubits)), float(rng.normal())) for _ in range(6)]


def differences(made: Task, step: float = 1e-3) -> np.ndarray:
    """Of fourth order, of the oracle."""
    terms = [list(made.observables[0].terms)]

    def value(parameters: np.ndarray) -> float:
        return dense.expectation(dense.final_state(made.circuit, parameters), terms[0])

    rows = np.atleast_2d(made.parameters)
    found = np.zeros(rows.shape)
    for row, column in np.ndindex(rows.shape):
        unit = step * np.eye(rows.shape[1])[column]
        one, two = (value(rows[row] + k * unit) - value(rows[row] - k * unit) for k in (1, 2))
        found[row, column] = (8 * one - two) / (12 * step)
    return found.reshape(made.parameters.shape)


def check(circuit: Circuit, terms: list[tuple[str, float]], parameters: np.ndarray, team: Team) -> None:
    made = task(circuit, observables=[terms], parameters=parameters)
    wanted = differences(made)
    assert gradient(made, team) == pytest.approx(wanted, abs=1e-8)
    single = task(circuit, observables=[terms], parameters=parameters, precision="single")
    assert gradient(single, team) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("name", PARAMETRIC)
def test_every_gate_with_parameters(name: str, team: Team) -> None:
    rng = np.random.default_rng(gates.NAMES.index(name))
    num_qubits = 7
    for added, state in ((0, -1), (1, 0)):
        qubits = tuple(int(q) for q in rng.permutation(num_qubits)[: arity(name) + added])
        count = gates.num_params(name)
        if name == "u2" and added:
            continue
        made = Gate(name, qubits, tuple(f"p{k}" for k in range(count)), added, state)
        body = (*spread(num_qubits, rng), made, *spread(num_qubits, rng))
        circuit = Circuit(num_qubits, 0, body, parameters=tuple("abcd"[:count]))
        check(circuit, observable(num_qubits, rng), rng.uniform(-3, 3, count), team)


@pytest.mark.parametrize("seed", range(18))
def test_circuits_of_many_gates(seed: int, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared parameters, formulas, X, SWAP and CX between them; blocks with a normal form from the 13th seed on."""
    if seed % 2:
        for module in (expectation, gradients):
            monkeypatch.setattr(module, "PIECE_BYTES", 64)
        for kernels in (pauli_numba, pauli_applied_numba):
            monkeypatch.setattr(kernels, "PARALLEL_FROM", 1)
        monkeypatch.setattr(pauli_groups, "NEAR_BITS", 7)
        monkeypatch.setattr(pauli_groups, "LEAST_RUN_BITS", 6)
    rng = np.random.default_rng(seed)
    num_qubits, count = (6 if seed < 12 else 10) + seed % 3, 5
    angles = ["p0", "p1", "2*p2 - 0.5", "sin(p3)*p0", "p4**2/3", "-p1", "sqrt(2 + p2)", 0.3, "p4**p0", "exp(p3)/5"]
    common = ["rx", "ry", "rz", "cx", "x", "swap", "cz", "rzz", "h", "crz", "p", "cp", "u", "s"]
    body = spread(num_qubits, rng)
    for _ in range(45):
        name = str(rng.choice([*common, *common, *PARAMETRIC] if seed > 5 else common))
        qubits = tuple(int(q) for q in rng.permutation(num_qubits)[: arity(name)])
        params = tuple(angles[int(k)] for k in rng.integers(len(angles), size=gates.num_params(name)))
        body.append(Gate(name, qubits, params))
    circuit = Circuit(num_qubits, 0, tuple(body), parameters=tuple("abcde"))
    check(circuit, observable(num_qubits, rng), rng.uniform(0.2, 1.5, (2, count) if seed % 4 == 0 else count), team)


def test_a_wide_ansatz(team: Team) -> None:
    """More qubits than a block of the transform has bits; every rank gets the same array."""
    num_qubits, rng = 13, np.random.default_rng(1)
    body = [gate("ry", q, params=[f"p{q}"]) for q in range(num_qubits)]
    body += [gate("rz", q, params=[f"p{q + num_qubits}"]) for q in range(num_qubits)]
    body += [gate("cx", q, q + 1) for q in range(num_qubits - 1)]
    body += [gate("rx", q, params=["0.5*p0"]) for q in range(num_qubits)]
    names = tuple(f"t{k}" for k in range(2 * num_qubits))
    circuit = Circuit(num_qubits, 0, tuple(body), parameters=names)
    made = task(circuit, observables=[observable(num_qubits, rng)], parameters=rng.uniform(-3, 3, len(names)))
    found = gradient(made, team)
    assert found == pytest.approx(differences(made), abs=1e-8)
    assert np.array_equal(team.gather(found), np.broadcast_to(found, (team.size, *found.shape)))


def test_without_parameters_and_without_effect(team: Team) -> None:
    still = Circuit(3, 3, (gate("h", 0), Measure(0, 0)))
    assert gradient(task(still, observables=["ZZZ"], parameters=[]), team).shape == (0,)
    unused = Circuit(3, 0, (gate("gphase", params=["p0"]), gate("h", 0)), parameters=("a", "b"))
    made = task(unused, observables=[{"III": 2.0}], parameters=[[1.0, 2.0]])
    assert gradient(made, team).tolist() == [[0.0, 0.0]]


def test_measurement_in_the_middle_has_no_gradient(team: Team) -> None:
    circuit = Circuit(3, 1, (gate("rx", 0, params=["p0"]), Measure(0, 0), gate("h", 0)), parameters=("a",))
    made = task(circuit, observables=["ZZZ"], parameters=[0.5])
    with pytest.raises(errors.NotSupportedError, match="gradient: this circuit measures"):
        gradient(made, team)
