"""Parts: whatever the plan, all gates once, in an order in which the circuit means the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.circuits import FAMILIES, hea
from qsimenv import gates
from qsimenv.circuit import Gate
from qsimenv.statevec.planning.layout import identity
from qsimenv.statevec.planning.parts import Parts
from qsimenv.statevec.planning.planner import make_plan, plan_from_zero

NAMES = ["x", "h", "t", "rx", "rz", "cx", "cz", "cp", "swap", "rzz", "rxx", "ccx", "crx", "cswap", "iswap"]
NUM_QUBITS = 8


@st.composite
def gate_lists(draw: st.DrawFn) -> list[Gate]:
    made = []
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=40)):
        size = {"ccx": 3, "cswap": 3}.get(name) or (1 if name in ("x", "h", "t", "rx", "rz") else 2)
        qubits = draw(st.permutations(range(NUM_QUBITS)))[:size]
        made.append(Gate(name, tuple(qubits), (0.3,) * gates.num_params(name)))
    return made


def matrix(gate: Gate) -> np.ndarray:
    """Of the whole gate, its first qubit the least significant bit; controls written out."""
    base, size = gate.base_matrix(), 1 << len(gate.qubits)
    full = np.eye(size, dtype=complex)
    controls = gate.num_controls
    rows = [gate.control_value | target << controls for target in range(len(base))]
    full[np.ix_(rows, rows)] = base
    return full


def apply(state: np.ndarray, gate: Gate) -> np.ndarray:
    cube = state.reshape((2,) * NUM_QUBITS)
    axes = [NUM_QUBITS - 1 - qubit for qubit in reversed(gate.qubits)]
    front = np.moveaxis(cube, axes, range(len(axes)))
    new = (matrix(gate) @ front.reshape(1 << len(axes), -1)).reshape(front.shape)
    return np.moveaxis(new, range(len(axes)), axes).reshape(-1)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(gate_lists(), st.integers(5, 8), st.integers(3, 8), st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_parts_in_order_are_the_circuit(
    gate_list: list[Gate], num_local: int, block_bits: int, sizes: list[int]
) -> None:
    parts = Parts(make_plan(gate_list, identity(NUM_QUBITS, num_local), max(block_bits, 9)))
    taken: list[int] = []
    while parts:
        taken += parts.take(sizes[len(taken) % len(sizes)])
    assert sorted(taken) == list(range(len(gate_list)))
    random = np.random.default_rng(1)
    written = ordered = random.normal(size=1 << NUM_QUBITS) + 1j * random.normal(size=1 << NUM_QUBITS)
    for gate in gate_list:
        written = apply(written, gate)
    for number in taken:
        ordered = apply(ordered, gate_list[number])
    assert np.abs(written - ordered).max() < 1e-12


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("num_local", [22, 20])
def test_cutting_costs_few_sweeps(name: str, num_local: int) -> None:
    num_qubits, block_bits = 22, 15
    circuit = hea(num_qubits, 20) if name == "hea" else FAMILIES[name](num_qubits)
    gate_list = [gate for gate in circuit.instructions if isinstance(gate, Gate)]
    whole = plan_from_zero(gate_list, num_qubits, num_local, block_bits)
    parts, layout, number, sweeps = Parts(whole), whole.start, 0, 0
    while parts:
        plan = make_plan([gate_list[k] for k in parts.take(10)], layout, block_bits)
        number, sweeps, layout = number + 1, sweeps + plan.num_sweeps, plan.end
    assert number == -(-whole.num_sweeps // 10)
    assert sweeps <= whole.num_sweeps + 2 * (number - 1)
