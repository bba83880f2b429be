"""Every row of the gate table, against three sources: its own claims, the oracle's definitions, and Qiskit."""

from __future__ import annotations

import math
import random

import dense
import numpy as np
import pytest
from qiskit.circuit.library import (
    C3XGate,
    C4XGate,
    MCPhaseGate,
    MCXGate,
    RC3XGate,
    RVGate,
    get_standard_gate_name_mapping,
)
from qiskit.quantum_info import Operator

from qsimenv import gates
from qsimenv.circuit import Circuit, Gate, controlled, gate
from qsimenv.errors import InvalidArgumentError, OutOfRangeError

FIXED_NAMES = [name for name in gates.NAMES if name != gates.UNITARY]
OPEN_ENDED = {name: 4 for name, row in gates.CONTROLLED.items() if row.num_controls is None}
"""Names whose qubits tell the number of controls, with the number of qubits to test them at."""

QISKIT_NAMES = {"gphase": "global_phase"}
NOT_IN_QISKIT = {"u0", "u4", "iswapdg", "dcxdg", "rcccxdg"}
"""Rows that Qiskit has no gate for: old spellings, and inverses that it writes as circuits."""


def num_qubits(name: str) -> int:
    if name in OPEN_ENDED:
        return OPEN_ENDED[name]
    if name in gates.CONTROLLED:
        row = gates.CONTROLLED[name]
        return (row.num_controls or 0) + gates.BASE[row.base].num_targets
    return gates.BASE[name].num_targets


def some_gate(name: str, seed: int = 0) -> Gate:
    """The gate on its first qubits at random angles."""
    if name == gates.UNITARY:
        return gate(name, 0, 1, matrix=random_unitary(4, seed))
    draw = random.Random(f"{name} {seed}")  # noqa: S311 - angles, not keys
    return gate(name, *range(num_qubits(name)), params=[draw.uniform(-7, 7) for _ in range(gates.num_params(name))])


def random_unitary(size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.linalg.qr(rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size)))[0]


def matrix_of(made: Gate) -> np.ndarray:
    return gates.controlled_matrix(made.base_matrix(), made.num_controls, made.control_value)


def qiskit_matrix(made: Gate) -> np.ndarray:
    special = {"c3x": C3XGate, "c4x": C4XGate, "rcccx": RC3XGate, "rv": RVGate}
    if made.name in special:
        return special[made.name](*made.params).to_matrix()
    if made.name == "mcx":
        return Operator(MCXGate(3)).data
    if made.name == "mcphase":
        return Operator(MCPhaseGate(*made.params, 3)).data
    known = get_standard_gate_name_mapping()[QISKIT_NAMES.get(made.name, made.name)]
    return type(known)(*made.params).to_matrix()


def assert_close(found: np.ndarray, wanted: np.ndarray, what: str = "") -> None:
    assert found.shape == wanted.shape, what
    assert np.abs(found - wanted).max() < 1e-13, what


def test_the_oracle_knows_every_row_and_no_other() -> None:
    known = set(dense.MATRICES) | set(dense.CONTROLLED) | {"unitary"}
    assert known == set(gates.NAMES)
    assert len(set(gates.NAMES)) == len(gates.NAMES)


@pytest.mark.parametrize("name", gates.NAMES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_matrix_is_that_of_the_definition(name: str, seed: int) -> None:
    made = some_gate(name, seed)
    wanted, controls = dense.gate_matrix(made)
    assert made.num_controls == controls
    assert_close(matrix_of(made), wanted, name)


@pytest.mark.parametrize("name", [name for name in FIXED_NAMES if name not in NOT_IN_QISKIT])
def test_matrix_is_that_of_qiskit(name: str) -> None:
    made = some_gate(name, 3)
    assert_close(matrix_of(made), qiskit_matrix(made), name)


def test_what_qiskit_lacks_is_the_inverse_or_special_case_of_what_it_has() -> None:
    for name, other in (("iswapdg", "iswap"), ("dcxdg", "dcx"), ("rcccxdg", "rcccx")):
        assert_close(matrix_of(some_gate(name)), qiskit_matrix(some_gate(other)).conj().T, name)
    u4 = gate("u4", 0, params=[0.3, 0.5, 0.7, 0.9])
    u = gate("u", 0, params=[0.3, 0.5, 0.7])
    assert_close(matrix_of(u4), np.exp(0.9j) * qiskit_matrix(u), "u4")


@pytest.mark.parametrize("name", gates.NAMES)
def test_matrix_is_unitary(name: str) -> None:
    matrix = matrix_of(some_gate(name, 4))
    assert_close(matrix @ matrix.conj().T, np.eye(len(matrix)), name)


@pytest.mark.parametrize("name", gates.NAMES)
def test_inverse_undoes(name: str) -> None:
    made = some_gate(name, 5)
    undone = made.inverse()
    assert undone.qubits == made.qubits
    assert_close(matrix_of(undone) @ matrix_of(made), np.eye(1 << len(made.qubits)), name)
    assert_close(matrix_of(undone.inverse()), matrix_of(made), name)


@pytest.mark.parametrize("name", FIXED_NAMES)
def test_inverse_undoes_under_more_controls(name: str) -> None:
    plain = some_gate(name, 6)
    size = len(plain.qubits)
    total = plain.num_controls + 2
    for state in (0, 1, (1 << total) - 1):
        made = Gate(name, (*range(size, size + 2), *range(size)), plain.params, 2, state)
        Circuit(size + 2, 0, (made, made.inverse()))  # both pass the checks
        assert_close(matrix_of(made), dense.gate_matrix(made)[0], f"{name} {state}")
        assert_close(matrix_of(made.inverse()) @ matrix_of(made), np.eye(4 << size), f"{name} {state}")


@pytest.mark.parametrize("name", FIXED_NAMES)
def test_inverse_of_formulas(name: str) -> None:
    """A gate with free parameters, and its inverse, at some values of theirs."""
    count = gates.num_params(name)
    made = gate(name, *range(num_qubits(name)), params=[f"2*p{k} + 0.1" for k in range(count)])
    values = np.linspace(0.3, 2.0, max(count, 1))
    product = made.inverse().base_matrix(values) @ made.base_matrix(values)
    assert_close(product, np.eye(len(product)), name)


@pytest.mark.parametrize("name", sorted(gates.BASE))
def test_declared_structure_holds_for_all_angles(name: str) -> None:
    row = gates.BASE[name]
    for seed in range(8):
        matrix = row.matrix(*some_gate(name, seed).params)
        assert matrix.shape == (1 << row.num_targets,) * 2
        assert matrix.dtype == np.complex128
        moves = np.abs(matrix - np.diag(np.diagonal(matrix))).max() > 1e-12
        assert not (row.structure in ("identity", "diagonal") and moves)
        if row.structure == "identity":
            assert_close(matrix, np.eye(len(matrix)), name)
        if row.structure == "permutation":
            assert np.array_equal(np.abs(matrix), matrix)
            assert np.array_equal(np.sort(matrix, axis=0)[-1], np.ones(len(matrix)))
            assert np.count_nonzero(matrix) == len(matrix)
        if row.real:
            assert not matrix.imag.any(), "a real matrix must be exactly real"


@pytest.mark.parametrize("name", sorted(gates.BASE))
def test_nothing_is_declared_less_than_it_is(name: str) -> None:
    """A dense or complex row that is diagonal or real at several random angles would waste the kernels' time."""
    row = gates.BASE[name]
    matrices = [row.matrix(*some_gate(name, seed).params) for seed in range(4)]
    diagonal = all(np.count_nonzero(m) == np.count_nonzero(np.diagonal(m)) for m in matrices)
    assert diagonal == (row.structure in ("identity", "diagonal"))
    assert row.real == (not any(m.imag.any() for m in matrices))


@pytest.mark.parametrize("name", sorted(gates.BASE))
def test_unmixed_targets_depend_on_no_angle(name: str) -> None:
    """A target that is called unmixed must be so at every angle; one called mixed must be mixed at some."""
    row = gates.BASE[name]
    found = [frozenset(_unmixed(row.matrix(*some_gate(name, seed).params))) for seed in range(8)]
    assert frozenset.intersection(*found) == gates.unmixed_targets(name)
    special = row.matrix(*[math.pi] * row.num_params)
    assert gates.unmixed_targets(name) <= frozenset(_unmixed(np.where(np.abs(special) > 1e-12, special, 0)))


def _unmixed(matrix: np.ndarray) -> list[int]:
    """Bits that commute with the matrix as projectors: |0><0| on them goes through."""
    bits = range(len(matrix).bit_length() - 1)
    zero = [np.diag((~np.arange(len(matrix)) >> bit & 1).astype(float)) for bit in bits]
    return [bit for bit in bits if np.abs(zero[bit] @ matrix - matrix @ zero[bit]).max() < 1e-12]


@pytest.mark.parametrize(("alias", "name"), sorted(gates.ALIASES.items()))
def test_aliases_lead_to_rows(alias: str, name: str) -> None:
    assert name in gates.NAMES
    assert alias not in gates.NAMES
    made = some_gate(name)
    assert gate(alias, *made.qubits, params=made.params) == made


def test_controlled_uses_the_name_of_the_field() -> None:
    assert controlled("x", (0, 1), (), 1).name == "cx"
    assert controlled("x", range(7), (), 6) == Gate("mcx", tuple(range(7)))
    assert controlled("h", (0, 1, 2), (), 2) == Gate("h", (0, 1, 2), (), 2)
    assert controlled("u4", (0, 1), (1.0, 2.0, 3.0, 4.0), 1).name == "cu"
    assert controlled("x", (0, 1, 2), (), 2, 3).control_state == -1


def test_control_state_is_bit_k_for_qubit_k() -> None:
    made = Gate("ccx", (0, 1, 2), control_state=0b01)  # qubit 0 must be 1, qubit 1 must be 0
    matrix = matrix_of(made)
    assert matrix[0b101, 0b001] == 1
    assert matrix[0b001, 0b101] == 1
    assert matrix[0b110, 0b110] == 1


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Gate("nonsense", (0,)), "gate 'nonsense' is not known"),
        (Gate("cx", (0, 1, 2)), "gate cx: 3 qubits found, 2 needed"),
        (Gate("cx", (1, 1)), "not distinct"),
        (Gate("rx", (0,)), "0 angles found, 1 needed"),
        (Gate("rx", (0,), (math.inf,)), "not a finite number"),
        (Gate("x", (0,), (), 0, 1), "more bits than controls"),
        (Gate("x", (0, 1), (), 3), "3 added controls on 2 qubits"),
        (Gate("unitary", (0,), matrix=b"123"), "3 bytes of matrix found, 64 needed"),
        (gate("unitary", 0, matrix=[[1, 0], [0, 2]]), "off from unitary"),
        (gate("unitary", *range(6), matrix=np.eye(64)), "6 targets found, 1 to 5 "),
    ],
)
def test_a_bad_gate_is_refused_with_one_line(made: Gate, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        Circuit(8, 0, (made,))
    assert "\n" not in str(caught.value)


def test_a_qubit_that_is_not_there_is_out_of_range() -> None:
    with pytest.raises(OutOfRangeError, match="qubit 3 found, the circuit has 3"):
        Circuit(3, 0, (gate("x", 3),))
    with pytest.raises(OutOfRangeError, match="reads p1"):
        Circuit(3, 0, (gate("rx", 0, params=["p1"]),), parameters=("a",))


# --- the oracle itself must be able to tell right from wrong ---


def test_the_oracle_agrees_with_a_hand_made_state() -> None:
    bell = dense.apply(dense.apply(dense.zero_state(3), dense.H, [2]), dense.CX, [2, 0])
    assert_close(bell, np.array([1, 0, 0, 0, 0, 1, 0, 0]) / math.sqrt(2), "")
    assert dense.expectation(bell, [("XIX", 1.0), ("YIY", 0.5), ("IZI", 2.0)]) == pytest.approx(1 - 0.5 + 2)


def test_expectation_is_that_of_the_whole_matrix() -> None:
    rng = np.random.default_rng(5)
    state = rng.normal(size=16) + 1j * rng.normal(size=16)
    terms = [("XYZI", 0.3), ("YIXY", -1.2), ("ZZII", 0.7)]
    matrix = sum(c * dense.pauli_matrix(p) for p, c in terms)
    assert dense.expectation(state, terms) == pytest.approx(np.vdot(state, matrix @ state).real)


def test_chi_square_sees_a_wrong_distribution() -> None:
    rng = np.random.default_rng(1)
    exact = {0: 0.4, 1: 0.3, 2: 0.2, 3: 0.1}
    drawn = np.bincount(rng.choice(4, 20_000, p=[0.4, 0.3, 0.2, 0.1]), minlength=4)
    counts = {k: int(v) for k, v in enumerate(drawn)}
    assert abs(dense.chi_square_excess(counts, exact)) < 6
    assert dense.chi_square_excess(counts, {0: 0.42, 1: 0.28, 2: 0.2, 3: 0.1}) > 6
    assert dense.chi_square_excess(counts, {0: 0.7, 1: 0.3}) == math.inf
