"""The cost model against counts made by hand, and the file of rates."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.circuits import FAMILIES
from qsimenv.circuit import Circuit, Gate, gate
from qsimenv.comm import Team
from qsimenv.errors import InvalidArgumentError, NotSupportedError, OutOfRangeError
from qsimenv.statevec.costs import calibrate, rates
from qsimenv.statevec.costs.cost import Machine, PlanCost, cost_of, kinds_of, rough_s
from qsimenv.statevec.costs.rates import ASSUMED
from qsimenv.statevec.explain import explain, profile
from qsimenv.statevec.simulate import prepare
from qsimenv.task import Precision, Task

MACHINE = Machine(ASSUMED, threads=2)


def cost(gates: list[Gate], num_qubits: int = 20, ranks_bits: int = 0, precision: Precision = "double") -> PlanCost:
    prepared = prepare(Circuit(num_qubits, 0, tuple(gates)), num_qubits - ranks_bits, precision)
    start = prepared.start()
    return cost_of(prepared.plan(0, start), prepared.encoding(0, start, np.zeros(0)), precision, from_zero=False)


def test_rotations_move_the_state_once_and_take_two_multiply_adds_a_bit():
    found = cost([gate("ry", qubit, params=[0.3]) for qubit in range(4, 7)])
    assert [sweep.bytes for sweep in found.sweeps] == [2 * 16 << 20]
    assert sum(sweep.flops for sweep in found.sweeps) == 4 * 3 * 2**20
    assert found.sweeps[0].passes == {"rotate": 2**20}


def test_zeros_of_a_fresh_state_are_not_counted():
    prepared = prepare(Circuit(20, 0, (gate("h", 0), gate("cx", 0, 1))), 20, "double")
    start = prepared.start()
    plan, encoded = prepared.plan(0, start), prepared.encoding(0, start, np.zeros(0))
    fresh, full = (cost_of(plan, encoded, "double", from_zero) for from_zero in (True, False))
    block_bits = encoded[0][0].block_bits
    assert sum(sweep.bytes for sweep in full.sweeps) == 2 * 16 << 20
    assert sum(sweep.bytes for sweep in fresh.sweeps) <= 2 * 16 << block_bits
    assert sum(sweep.flops for sweep in fresh.sweeps) == sum(sweep.flops for sweep in full.sweeps) / (
        1 << 20 - block_bits
    )


def test_a_dense_gate_on_two_bits_takes_three_real_products_a_complex_one():
    matrix = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)) + 1j)[0]
    found = cost([gate("unitary", 6, 9, matrix=matrix)])
    assert sum(sweep.flops for sweep in found.sweeps) == 2 * 3 * 4 * 2**20


def test_controls_halve_the_work():
    matrix = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)) + 1j)[0]
    free = cost([gate("unitary", 6, 9, 11, matrix=matrix)])
    assert sum(sweep.flops for sweep in free.sweeps) == 6 * 8 * 2**20
    held = cost([gate("ccx", 7, 9, 11)])
    assert sum(sweep.passes.get("plain", 0) for sweep in held.sweeps) == 2**20 / 4


def test_an_exchange_of_one_bit_sends_half_of_a_ranks_memory():
    gates = [gate("ry", qubit, params=[0.3]) for qubit in range(20)]
    found = cost(gates + [gate("cx", qubit, (qubit + 1) % 20) for qubit in range(20)] + gates, ranks_bits=1)
    assert set(found.sent) - {0} == {16 << 18}


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("family", FAMILIES)
def test_bound_prediction_and_rough_guess_agree_within_their_meaning(family: str, precision: Precision):
    circuit = FAMILIES[family](22)
    gates = [each for each in circuit.instructions if isinstance(each, Gate)]
    found = cost(gates, 22, 0, precision)
    predicted = found.predicted_s(MACHINE)
    assert found.bound_s(MACHINE) < predicted
    assert predicted / 4 < rough_s(kinds_of(gates), 22, precision, MACHINE) < predicted * 4


def test_twice_the_threads_halve_the_work_and_ranks_of_a_node_share_its_memory():
    found = cost([gate("ry", qubit, params=[0.3]) for qubit in range(20)])
    one, two = (sum(s.predicted_s(Machine(ASSUMED, threads), "double") for s in found.sweeps) for threads in (1, 2))
    memory_s = sum(sweep.memory_s(MACHINE) for sweep in found.sweeps) + len(found.sweeps) * ASSUMED.sweep_s
    assert math.isclose(one - memory_s, 2 * (two - memory_s))
    shared = Machine(ASSUMED, threads=2, ranks_per_node=2)
    assert sum(s.memory_s(shared) for s in found.sweeps) == 2 * sum(s.memory_s(MACHINE) for s in found.sweeps)


def test_rates_are_kept_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("QSIMENV_RATES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert rates.load() == ASSUMED
    other = msgspec.structs.replace(ASSUMED, source="here", memory_bytes_per_s=1e12)
    path = rates.save(other)
    assert path.is_relative_to(tmp_path)
    assert rates.load() == other
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is not there"),
        ("{", "holds no rates"),
        ('{"source": "x"}', "holds no rates"),
        (msgspec.json.encode(msgspec.structs.replace(ASSUMED, memory_bytes_per_s=0)).decode(), "more than 0 is needed"),
    ],
)
def test_a_file_of_rates_that_cannot_be_used_is_named(tmp_path, monkeypatch, text, words):
    path = tmp_path / "rates.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("QSIMENV_RATES", str(path))
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        rates.load()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_measured_rates_are_positive_and_say_where_they_come_from():
    found = calibrate.measure(Team(), threads=1, num_qubits=18)
    assert "measured on" in found.source
    values = [
        found.memory_bytes_per_s,
        found.store_bytes_per_s,
        found.exchange_bytes_per_s,
        found.sweep_s,
        *msgspec.structs.astuple(found.single),
    ]
    assert all(math.isfinite(value) and value > 0 for value in (*values, *msgspec.structs.astuple(found.double)))


def test_what_is_only_written_goes_by_its_own_rate():
    """A layer of H on |0...0>: the sweep that fills the state reads one block's run, and its bound says so."""
    circuit = Circuit(20, 0, tuple(gate("h", qubit) for qubit in range(20)))
    prepared = prepare(circuit, 20, "double")
    start = prepared.start()
    cost = cost_of(prepared.plan(0, start), prepared.encoding(0, start, np.zeros(0)), "double")
    written = 16 << 20
    assert sum(sweep.bytes for sweep in cost.sweeps) == pytest.approx(written, rel=0.5)
    assert written / 2 < sum(sweep.stored_bytes for sweep in cost.sweeps) <= written
    slow = msgspec.structs.replace(ASSUMED, memory_bytes_per_s=1e6, store_bytes_per_s=1e5)
    whole = cost.sweeps[-1]
    expected_s = (whole.bytes - whole.stored_bytes) / 1e6 + whole.stored_bytes / 1e5
    assert whole.memory_s(Machine(slow, 1)) == pytest.approx(expected_s)
    unmeasured = msgspec.structs.replace(slow, store_bytes_per_s=0)
    assert whole.memory_s(Machine(unmeasured, 1)) == pytest.approx(whole.bytes / 1e6)


def test_too_small_a_state_to_measure_is_refused():
    with pytest.raises(OutOfRangeError, match="at least 18"):
        calibrate.measure(Team(), 1, num_qubits=10)


def test_explain_tells_every_exchange_and_sweep(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QSIMENV_RATES", "")
    task = Task(circuit=FAMILIES["hea"](18), save="statevector")
    text = explain(task, 4)
    prepared = prepare(task.circuit, 16, task.precision)
    plan = prepared.plan(0, prepared.start())
    assert text.count("sweep over bits") == plan.num_sweeps
    assert text.count("exchange of bits") == plan.num_exchanges > 0
    assert text.count("with --verbose") > 0
    assert "with --verbose" not in explain(task, 4, all_ops=True)


def test_profile_puts_the_seconds_beside_the_bound():
    text = profile(Task(circuit=FAMILIES["hea"](16), save="statevector"), Team())
    sweeps = [line for line in text.splitlines() if "sweep over" in line and "take over" not in line]
    assert sweeps
    assert all("took" in line and "took 0 ms" not in line for line in sweeps)


def test_profile_of_a_circuit_that_branches_is_refused():
    from qsimenv.circuit import Measure, Reset

    circuit = Circuit(2, 1, (gate("h", 0), Measure(0, 0), Reset(0), gate("h", 0)))
    with pytest.raises(NotSupportedError, match="--explain"):
        profile(Task(circuit=circuit, shots=1), Team())
