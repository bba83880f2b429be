"""Batches of small circuits: against the oracle, against one set at a time, and against the way of large circuits."""

from __future__ import annotations

import dense
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gates import num_qubits as size_of
from test_gates import random_unitary

import qsimenv as qs
from qsimenv import engines, gates
from qsimenv.circuit import Circuit, Gate, Instruction, Measure, Register, Repeat, gate
from qsimenv.comm import Team
from qsimenv.errors import InvalidArgumentError
from qsimenv.statevec import engine
from qsimenv.statevec.batches import batch_numba, batch_plan
from qsimenv.statevec.batches.batch_plan import is_small
from qsimenv.statevec.gatewise import run as gatewise_run
from qsimenv.statevec.measuring.sampling import FIRST_CHUNK
from qsimenv.task import Result

BOUND = {"double": 1e-12, "single": 1e-5}
PRECISIONS = ("double", "single")
FIXED_NAMES = [name for name in gates.NAMES if name != gates.UNITARY]
WIDTH = 6


def run_large(circuit: Circuit, **options: object) -> Result:
    """The same task, but as a large circuit would be run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "is_batch", lambda _task: False)
        patch.setattr(gatewise_run, "suits", lambda *_: False)
        return qs.run(circuit, **options)


def spread(num_qubits: int) -> list[Instruction]:
    return [gate("u", q, params=[0.7 + 0.3 * q, 0.2 * q, -0.4]) for q in range(num_qubits)]


def assert_states(result: Result, circuit: Circuit, values: np.ndarray, bound: float) -> None:
    assert result.statevector is not None
    for found, row in zip(result.statevector, values, strict=True):
        assert np.abs(found - dense.final_state(circuit, row)).max() < bound


# --- gates ---


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("form", ["numbers", "parameters", "formulas"])
@pytest.mark.parametrize("name", FIXED_NAMES)
def test_every_gate_is_the_oracles(name: str, form: str, precision: str) -> None:
    rng = np.random.default_rng(list(name.encode()))
    count = gates.num_params(name)
    texts = {
        "numbers": [float(x) for x in rng.uniform(-7, 7, count)],
        "parameters": [f"p{k}" for k in range(count)],
        "formulas": [f"2 * p{k} - 0.5" if k % 2 else f"sin(p{k}) * p0" for k in range(count)],
    }[form]
    parameters = () if form == "numbers" else tuple(f"a{k}" for k in range(count))
    qubits = [int(q) for q in rng.permutation(WIDTH)[: size_of(name)]]
    circuit = Circuit(WIDTH, 0, (*spread(WIDTH), gate(name, *qubits, params=texts)), parameters=parameters)
    values = rng.uniform(-7, 7, (3, len(parameters)))
    result = qs.run(circuit, parameters=values, save="statevector", precision=precision)
    assert_states(result, circuit, values, BOUND[precision])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_unitaries_of_every_size_under_controls(size: int, precision: str) -> None:
    made = Gate("unitary", (5, 1, 0, 3, 2, 4)[: size + 1], (), 1, 0, random_unitary(1 << size, size).tobytes())
    circuit = Circuit(6, 0, (*spread(6), made))
    found = qs.run(circuit, save="statevector", precision=precision).statevector
    assert np.abs(found - dense.final_state(circuit)).max() < BOUND[precision]


def test_gates_with_turns_are_their_turns() -> None:
    for row in gates.BASE.values():
        angles = [0.4 + 0.7 * k for k in range(row.num_params)]
        assert (row.turns is not None) == (row.num_params > 0 and row.name not in ("u0", "rv")), row.name
        total = np.eye(1 << row.num_targets, dtype=complex)
        for kind, rows, angle, factor, offset in row.turns or ():
            x = factor * (angles[angle] if angle >= 0 else 0) + offset
            for places in rows:
                turn = np.array([[np.exp(1j * x)]]) if kind == "phase" else dense.rotation(kind.upper())(x)
                step = np.eye(len(total), dtype=complex)
                step[np.ix_(places, places)] = turn
                total = step @ total
        if row.turns:
            assert np.abs(total - row.matrix(*angles)).max() < 1e-14, row.name


# --- whole circuits ---


@st.composite
def circuits(draw: st.DrawFn) -> Circuit:
    """Some gates on some qubits, their angles numbers or formulas of three parameters, measured at the end."""
    num_qubits = draw(st.integers(1, 5))
    angles = st.one_of(
        st.floats(-10, 10), st.sampled_from(["p0", "-p1", "p2 / 2", "2 * p0 - p1 + pi", "p0 * p1", "cos(p2)"])
    )
    steps: list[Instruction] = []
    for _ in range(draw(st.integers(0, 12))):
        name = draw(st.sampled_from([name for name in FIXED_NAMES if size_of(name) <= num_qubits]))
        qubits = draw(st.permutations(range(num_qubits)))[: size_of(name)]
        steps.append(gate(name, *qubits, params=[draw(angles) for _ in range(gates.num_params(name))]))
    measures = [Measure(q, draw(st.integers(0, num_qubits - 1))) for q in range(num_qubits) if draw(st.booleans())]
    register = Register("c", tuple(range(num_qubits)))
    measures = list({measure.clbit: measure for measure in measures}.values()) or [Measure(0, 0)]
    return Circuit(num_qubits, num_qubits, (*steps, *measures), (register,), ("a", "b", "c"))


@settings(max_examples=40, deadline=None)
@given(circuits(), st.integers(1, 19), st.integers(0, 2**64 - 1))
def test_a_batch_is_the_oracles_and_what_the_large_way_gives(circuit: Circuit, count: int, seed: int) -> None:
    values = np.random.default_rng(seed).uniform(-4, 4, (count, 3))
    n = circuit.num_qubits
    observable = [("Z" * n, 0.5), ("X" * n, -1.0), ("Y" * n, 0.25), ("I" * n, 2.0), ("XYZXY"[:n], 1.5)]
    options = {"parameters": values, "observables": [dict(observable), "Y" * n], "shots": 21, "seed": seed}
    result = qs.run(circuit, **options, save="statevector")
    assert_states(result, circuit, values, 1e-12)
    for found, state in zip(result.expectation_values, result.statevector, strict=True):
        assert found == pytest.approx([dense.expectation(state, list(dict(observable).items())),
                                       dense.expectation(state, [("Y" * n, 1.0)])], abs=1e-12)  # fmt: skip
    large = run_large(circuit, **options)
    assert np.array_equal(result.samples, large.samples)
    assert np.allclose(result.expectation_values, large.expectation_values, atol=1e-12)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_set_does_not_depend_on_those_beside_it(precision: str) -> None:
    steps = [gate("u", q, params=["p0", "p1 * p1", "-p1"]) for q in range(4)]
    steps += [gate("rxx", 0, 2, params=["p0"]), gate("cx", 1, 3), gate("sx", 2), gate("rv", 3, params=[0.1, "p0", 1.0])]
    measures = [Measure(q, q) for q in range(4)]
    circuit = Circuit(4, 4, (*steps, *measures), (Register("c", (0, 1, 2, 3)),), ("a", "b"))
    values = np.random.default_rng(0).uniform(-9, 9, (70, 2))
    values[7] *= 1e7  # beyond the reach of the fast sine
    options = {"shots": 50, "seed": 5, "observables": ["XXZZ"], "save": "statevector", "precision": precision}
    whole = qs.run(circuit, parameters=values, **options)
    for number in (0, 7, 33, 69):
        shifted = np.concatenate([values[number:], values[:number]])
        alone = qs.run(circuit, parameters=shifted, **options)
        assert np.array_equal(alone.statevector[0], whole.statevector[number])
        assert alone.expectation_values[0] == whole.expectation_values[number]
    one = qs.run(circuit, parameters=values[0], **options)
    assert np.array_equal(one.samples, whole.samples[0])
    assert one.counts == whole.counts[0]


def test_many_sets_use_all_threads_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = Circuit(3, 3, (*spread(3), gate("ry", 1, params=["p0"]), *(Measure(q, q) for q in range(3))),
                      (Register("c", (0, 1, 2)),), ("a",))  # fmt: skip
    values = np.linspace(-3, 3, 1000)[:, np.newaxis]
    few = qs.run(circuit, parameters=values, shots=9, seed=1, observables=["ZZX"])
    monkeypatch.setattr("qsimenv.statevec.batches.batch._PARALLEL_FROM", 1)
    many = qs.run(circuit, parameters=values, shots=9, seed=1, observables=["ZZX"])
    assert np.array_equal(few.samples, many.samples)
    assert np.array_equal(few.expectation_values, many.expectation_values)


def test_counts_follow_the_distribution() -> None:
    circuit = Circuit(4, 4, (*spread(4), gate("cx", 0, 1), *(Measure(q, 3 - q) for q in range(4))),
                      (Register("c", (0, 1, 2, 3)),))  # fmt: skip
    result = qs.run(circuit, shots=40_000, seed=11)
    counts = {int(key, 2): count for key, count in result.counts.items()}
    assert dense.chi_square_excess(counts, dense.distribution(circuit)) < 6


def test_registers_of_more_than_a_byte_and_bits_that_nothing_writes() -> None:
    measures = [Measure(0, 9), Measure(1, 3), Measure(0, 0)]
    registers = (Register("a", tuple(range(8))), Register("b", (8, 9, 10)))
    circuit = Circuit(2, 11, (gate("x", 0), *measures), registers)
    assert qs.run(circuit, shots=3, seed=0).counts == {"010 00000001": 3}


# --- numbers ---


def test_sines_and_cosines_are_right_to_the_last_place() -> None:
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.uniform(-10, 10, 20_000), rng.uniform(-8e5, 8e5, 20_000), np.arange(-64, 64) * np.pi / 4,
                        [0.0, 1e9, -3e15, 8e5, 5e-324]])  # fmt: skip
    cosines, sines = np.empty_like(x), np.empty_like(x)
    assert batch_numba.cosines_and_sines(x, cosines, sines)
    assert np.abs(cosines - np.cos(x)).max() < 4e-16
    assert np.abs(sines - np.sin(x)).max() < 4e-16


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
def test_sines_of_what_is_not_a_number_are_noticed(wrong: float) -> None:
    x = np.array([0.5, wrong, 1.0])
    assert not batch_numba.cosines_and_sines(x, np.empty(3), np.empty(3))


def test_random_numbers_are_numpys() -> None:
    for seed in (0, 7, 2**64 - 1):
        wanted = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 1 << 40, 5])).random(8)
        four = batch_numba.four_uniforms
        stream = (np.uint64(1 << 40), np.uint64(5))
        found = [x for counter in (0, 1) for x in four(np.uint64(seed), np.uint64(counter), *stream)]
        assert found == wanted.tolist()


# --- what is asked for ---


def one_qubit(angle: str = "p0") -> Circuit:
    return Circuit(1, 0, (gate("rx", 0, params=[angle]),), parameters=("a",))


def test_one_set_no_set_and_no_parameters() -> None:
    circuit = one_qubit()
    assert qs.run(circuit, parameters=[[0.3]], observables=["Z"]).expectation_values.shape == (1, 1)
    assert qs.run(circuit, parameters=[0.3], observables=["Z"]).expectation_values == pytest.approx([np.cos(0.3)])
    plain = Circuit(1, 0, (gate("h", 0),))
    assert qs.run(plain, observables=["X", "Z"]).expectation_values == pytest.approx([1, 0], abs=1e-15)
    assert qs.run(plain, parameters=np.zeros((5, 0)), observables=["X"]).expectation_values.shape == (5, 1)
    assert qs.run(Circuit(0, 0, (gate("gphase", params=[0.5]),)), save="statevector").statevector == pytest.approx(
        [np.exp(0.5j)]
    )


@pytest.mark.parametrize(
    ("circuit", "values", "message"),
    [
        (one_qubit(), np.zeros((0, 1)), "without any set of values"),
        (one_qubit(), None, "'a' is left unbound"),
        (one_qubit(), np.zeros((4, 2)), r"shape \(4, 2\) found, \(1,\) or \(B, 1\) needed"),
        (one_qubit(), np.zeros((4, 0)), r"shape \(4, 0\) found"),
        (one_qubit(), [[0.5], [np.nan]], "not a finite number"),
        (one_qubit(), [[0.5], [np.inf]], "not a finite number"),
        (one_qubit("1 / p0"), [[0.5], [0.0]], "gate rx: '1 / p0' is inf for these parameters"),
        (one_qubit("sqrt(p0)"), [[0.5], [-1.0]], "gate rx: 'sqrt.p0.' is nan for these parameters"),
        (one_qubit("1e308 * p0"), [[0.5], [1e9]], "gate rx: '1e308 [*] p0' is inf for these parameters"),
    ],
)
def test_wrong_values_are_refused_with_one_line(circuit: Circuit, values: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        qs.run(circuit, parameters=values, observables=["Z"])
    assert "\n" not in str(caught.value)


def deep(num_qubits: int, num_clbits: int = 0) -> Circuit:
    """More rows of gates than a small circuit has, whatever its width."""
    turns = [gate("ry", q % num_qubits, params=[f"p0 + {0.1 * q}"]) for q in range(80)]
    links = [gate("cx", q % num_qubits, (q + 1) % num_qubits) for q in range(0, 80, 3)]
    ends = [Measure(qubit, qubit) for qubit in range(num_clbits)]
    return Circuit(num_qubits, num_clbits, (*turns, *links, *turns, *ends), parameters=("a",))


@pytest.mark.parametrize(("num_qubits", "least"), [(12, 8), (13, 16), (14, 32), (15, 64)])
def test_many_sets_of_a_wider_or_longer_circuit_are_run_together(num_qubits: int, least: int) -> None:
    circuit = deep(num_qubits)
    assert is_small(circuit, least)
    assert not is_small(circuit, least - 1)
    assert not is_small(circuit, least, num_terms=batch_plan.MOST_ROWS >> num_qubits), (
        "tables of observables grow as well"
    )
    assert not is_small(deep(16), 1 << 20)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_sets_run_together_give_what_each_gives_alone(precision: str) -> None:
    circuit, values = deep(13), np.linspace(-3, 3, 16).reshape(16, 1)
    options = {"observables": ["Z" * 13, {"XY" + "I" * 11: 0.5, "ZI" * 6 + "Z": 2.0}], "precision": precision}
    together = qs.run(circuit, parameters=values, **options)
    for row, found in zip(values, together.expectation_values, strict=True):
        alone = qs.run(circuit, parameters=row, **options)
        assert np.abs(alone.expectation_values - found).max() < BOUND[precision]


@pytest.mark.parametrize("num_measured", [12, 13])
def test_shots_of_sets_run_together_are_those_of_each_alone(num_measured: int) -> None:
    circuit, values = deep(13, num_measured), np.linspace(-3, 3, 16).reshape(16, 1)
    assert is_small(circuit, 16, shots=100) == (num_measured == FIRST_CHUNK)
    together = qs.run(circuit, parameters=values, shots=100, seed=5)
    alone = qs.run(circuit, parameters=values[0], shots=100, seed=5)
    np.testing.assert_array_equal(alone.samples, together.samples[0])


def test_the_progress_of_many_sets_is_told() -> None:
    told: list[tuple[int, int | None]] = []
    made = qs.Task(deep(14), parameters=np.zeros((70, 1)), observables=["Z" * 14])
    engines.run(made, Team(), engines.Watch(progress=lambda done, total: told.append((done, total))))
    assert told == [(32, 70), (64, 70), (70, 70)]


def test_what_is_wide_long_or_measured_in_the_middle_is_not_small() -> None:
    assert is_small(Circuit(batch_plan.MAX_QUBITS, 0, (gate("h", 0),)))
    assert not is_small(Circuit(batch_plan.MAX_QUBITS + 1, 0, (gate("h", 0),)))
    assert not is_small(Circuit(8, 0, (gate("h", 0),) * 2000))
    assert not is_small(Circuit(8, 0, (Repeat(((gate("h", 0),),) * 2000),))), "loops count as often as they come"
    assert not is_small(Circuit(2, 1, (Measure(0, 0), gate("h", 0))))


def test_values_that_nobody_may_write_to_are_read() -> None:
    values = np.linspace(0, 1, 12).reshape(12, 1)
    values.setflags(write=False)
    made = qs.Task(one_qubit(), parameters=values, observables=["Z"])
    assert engines.run(made, Team()).expectation_values[:, 0] == pytest.approx(np.cos(values[:, 0]))
