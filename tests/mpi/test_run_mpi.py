"""Whole runs, ``engines.run(task(...), team)``, on the ranks of this job: samples, control flow, expectation values.

What is drawn is compared with the oracle's exact distribution (chi-square, fixed seeds) and, bit for bit, with what a
team of one draws in this very process: a seed means the same outcomes on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import dense
import numpy as np
import pytest

from qsimenv import comm, engines, errors, gates
from qsimenv.circuit import (
    Assign,
    Barrier,
    Bits,
    Break,
    Case,
    Circuit,
    Continue,
    Expression,
    Gate,
    IfElse,
    Instruction,
    Literal,
    Measure,
    Operation,
    Register,
    Repeat,
    Reset,
    Switch,
    Variable,
    While,
    gate,
)
from qsimenv.comm import Team
from qsimenv.statevec import engine, running, simulate
from qsimenv.statevec.gatewise import run as gatewise_run
from qsimenv.statevec.kernels import sweep_numba
from qsimenv.statevec.measuring import expectation, sampling, sampling_numba, weights_gpu, weights_numba
from qsimenv.task import Result, Task, task

pytestmark = pytest.mark.mpi


gatewise_suits = gatewise_run.suits


@pytest.fixture(autouse=True)
def sweeps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small circuits take the way of large ones here: they are planned, and their states are shared by the ranks."""
    monkeypatch.setattr(engine, "is_batch", lambda _task: False)
    monkeypatch.setattr(gatewise_run, "suits", lambda *_: False)


MOST_EXCESS = 6.0
"""In standard deviations of chi-square; see dense.chi_square_excess."""
FIXED_NAMES = [name for name in gates.NAMES if name != gates.UNITARY]


# --- circuits ---


def random_gates(num_qubits: int, count: int, rng: np.random.Generator) -> list[Instruction]:
    found: list[Instruction] = []
    while len(found) < count:
        name = str(rng.choice(FIXED_NAMES))
        if name in gates.CONTROLLED:
            row = gates.CONTROLLED[name]
            size = (2 if row.num_controls is None else row.num_controls) + gates.BASE[row.base].num_targets
        else:
            size = gates.BASE[name].num_targets
        if size <= num_qubits:
            qubits = (int(q) for q in rng.permutation(num_qubits)[:size])
            found.append(gate(name, *qubits, params=[float(a) for a in rng.uniform(-4, 4, gates.num_params(name))]))
    return found


def spread(num_qubits: int, rng: np.random.Generator) -> list[Instruction]:
    """Something on every qubit, so that measurements have two outcomes."""
    return [gate("u", q, params=[float(a) for a in rng.uniform(0.6, 2.4, 3)]) for q in range(num_qubits)]


def random_condition(num_clbits: int, rng: np.random.Generator) -> Expression:
    bits = Bits(tuple(int(c) for c in rng.permutation(num_clbits)[: int(rng.integers(1, 4))]))
    operator = str(rng.choice(["equal", "not_equal", "less", "greater_equal"]))
    condition = Operation(operator, (bits, Literal(int(rng.integers(0, 3)))))
    if rng.random() < 0.3:
        other = Operation("bool", (Bits((int(rng.integers(num_clbits)),)),))
        return Operation(str(rng.choice(["logic_and", "logic_or"])), (condition, other))
    return condition


def random_program(
    num_qubits: int, num_clbits: int, rng: np.random.Generator, depth: int = 2, in_loop: bool = False
) -> Iterator[Instruction]:
    """Gates, measurements, resets, assignments and every kind of control flow, nested; loops end for certain."""

    def body(looping: bool = in_loop) -> tuple[Instruction, ...]:
        return tuple(random_program(num_qubits, num_clbits, rng, depth - 1, looping))

    yield from random_gates(num_qubits, int(rng.integers(1, 5)), rng)
    qubit, clbit = int(rng.integers(num_qubits)), int(rng.integers(num_clbits))
    yield Measure(qubit, clbit)
    if rng.random() < 0.4:
        yield Reset(int(rng.integers(num_qubits)))
    if rng.random() < 0.3:
        yield Assign(Bits((clbit,)), Operation("bit_xor", (Bits((clbit,)), Literal(1)), 1))
    if depth == 0:
        return
    kind = rng.choice(["if", "switch", "repeat", "while"])
    condition = random_condition(num_clbits, rng)
    if kind == "if":
        yield IfElse(condition, body(), body() if rng.random() < 0.6 else ())
    elif kind == "switch":
        cases = [Case((0,), body()), Case((2, 3), body())]
        yield Switch(Bits((0, clbit)), tuple(cases + [Case((), body())] * bool(rng.random() < 0.5)))
    elif kind == "repeat":
        leave = IfElse(condition, ((Break(), Continue())[int(rng.integers(2))],))
        yield Repeat(tuple((*random_gates(num_qubits, 1, rng), leave, *body(True)) for _ in range(2)))
    else:
        yield Assign(Variable("turn"), Literal(0))
        count = Assign(Variable("turn"), Operation("add", (Variable("turn"), Literal(1)), 8))
        leave = IfElse(condition, ((Break(), Continue())[int(rng.integers(2))],))
        # what the body does to "turn" in loops inside can only end this loop sooner or start it over a few times
        yield While(
            Operation("less", (Variable("turn"), Literal(2))),
            (count, *random_gates(num_qubits, 1, rng), Measure(qubit, clbit), leave, gate("h", qubit)),
        )


def with_readout(num_qubits: int, num_clbits: int, body: Sequence[Instruction]) -> Circuit:
    """The program, then as many qubits measured as there are classical bits."""
    measures = [Measure(q, q) for q in range(min(num_qubits, num_clbits))]
    return Circuit(num_qubits, num_clbits, (*body, *measures), variables=("turn",))


# --- comparisons ---


def words(result: Result) -> dict[int, int]:
    """Counts by the number that all classical bits spell, read from the samples."""
    assert result.samples is not None
    found: dict[int, int] = {}
    for row in result.samples:
        word = int.from_bytes(row.tobytes(), "big")
        found[word] = found.get(word, 0) + 1
    return found


def assert_distribution(result: Result, expected: dict[int, float]) -> None:
    assert sum(expected.values()) == pytest.approx(1, abs=1e-6)
    assert dense.chi_square_excess(words(result), expected) < MOST_EXCESS


def assert_same(first: Result, second: Result, precision: str = "double") -> None:
    """Values to rounding; samples bit for bit in double precision. In single precision another number of ranks rounds
    the weights elsewhere in the eighth digit, and now and then a shot falls on the other side of a boundary."""
    for name in ("samples", "expectation_values", "statevector"):
        one, other = getattr(first, name), getattr(second, name)
        assert (one is None) == (other is None)
        if one is not None and name == "samples":
            differing = np.any(one != other, axis=-1)
            assert differing.sum() <= (0 if precision == "double" else differing.size / 2_000)
        elif one is not None:
            assert np.allclose(one, other, rtol=0, atol=1e-12 if precision == "double" else 1e-5)
    assert first.registers == second.registers
    assert (first.num_clbits, first.shots) == (second.num_clbits, second.shots)


def assert_same_on_every_rank(result: Result, team: Team) -> None:
    for name in ("samples", "expectation_values", "statevector"):
        array = getattr(result, name)
        if array is not None:
            assert team.broadcast(array.tobytes()) == array.tobytes(), f"{name} differs from that of rank 0"


def run(made: Task, team: Team) -> Result:
    """Run on the team; the result must be the same on every rank, and that of a team of one, with and without plans."""
    result = engines.run(made, team)
    assert_same_on_every_rank(result, team)
    assert_same(result, engines.run(made, comm.Team()), made.precision)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gatewise_run, "suits", gatewise_suits)
        assert_same(result, engines.run(made, comm.Team()), made.precision)
    return result


def raises_alike(kind: type[errors.QSimEnvError], call: Callable[[], object], team: Team) -> str:
    """The message, which every rank must raise alike."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert team.broadcast(message.encode()).decode() == message
    assert "\n" not in message
    return message


# --- samples ---


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("seed", range(6))
def test_samples_of_random_circuits(seed: int, precision: str, team: Team) -> None:
    rng = np.random.default_rng(seed)
    num_qubits = int(rng.integers(5, 13))
    body = [*spread(num_qubits, rng), *random_gates(num_qubits, 40, rng)]
    qubits = [int(q) for q in rng.permutation(num_qubits)[: min(6, num_qubits)]]
    clbits = [int(c) for c in rng.permutation(8)[: len(qubits)]]
    circuit = Circuit(num_qubits, 8, (*body, *map(Measure, qubits, clbits)))
    result = run(task(circuit, shots=20_000, seed=seed, precision=precision), team)
    assert_distribution(result, dense.distribution(circuit))


@pytest.mark.parametrize("seed", range(24))
def test_samples_of_random_programs(seed: int, team: Team) -> None:
    rng = np.random.default_rng(100 + seed)
    num_qubits = int(rng.integers(4, 7))
    body = [*spread(num_qubits, rng), *random_program(num_qubits, 4, rng)]
    circuit = with_readout(num_qubits, 4, body)
    result = run(task(circuit, shots=8_000, seed=seed), team)
    assert_distribution(result, dense.distribution(circuit))


@pytest.mark.parametrize("seed", range(4))
def test_measured_resets_and_feedback_only(seed: int, team: Team) -> None:
    """Teleportation of a random state over and over: the outcome at the end does not depend on those on the way."""
    rng = np.random.default_rng(seed)
    angles = [float(a) for a in rng.uniform(0.3, 2.8, 3)]
    body: list[Instruction] = [gate("u", 0, params=angles)]
    source, middle, target = 0, 2, 4
    for _ in range(3):
        body += [Reset(middle), Reset(target), gate("h", middle), gate("cx", middle, target)]
        body += [gate("cx", source, middle), gate("h", source), Measure(source, 0), Measure(middle, 1)]
        body += [IfElse(Bits((1,)), (gate("x", target),)), IfElse(Bits((0,)), (gate("z", target),))]
        source, middle, target = target, source, middle
    body += [Gate("u", (source,), tuple(angles)).inverse(), Measure(source, 2)]
    result = run(task(Circuit(5, 3, tuple(body)), shots=500, seed=seed), team)
    assert all(word >> 2 == 0 for word in words(result))
    assert len(words(result)) == 4


def test_repeat_until_success(team: Team) -> None:
    """A loop without a bound of its own; how often it turned is counted in classical bits."""
    count = Assign(Bits((1, 2, 3, 4)), Operation("add", (Bits((1, 2, 3, 4)), Literal(1)), 4))
    turn = (Reset(0), gate("ry", 0, params=[1.2]), Measure(0, 0), count)
    loop = While(Operation("logic_not", (Bits((0,)),)), turn)
    circuit = Circuit(3, 5, (loop,))
    result = run(task(circuit, shots=5_000, seed=5), team)
    assert_distribution(result, dense.distribution(circuit))


def test_a_loop_that_never_ends_is_ended_on_all_ranks(team: Team) -> None:
    for num_qubits in (1, 6):  # one qubit cannot be shared: some ranks only wait for the result
        loop = While(Literal(1), (gate("h", 0),), 50)
        circuit = Circuit(num_qubits, 1, (loop, Measure(0, 0)))
        message = raises_alike(
            errors.TimedOutError, lambda c=circuit: engines.run(task(c, shots=3, seed=1), team), team
        )
        assert "more than 50 times" in message


def test_a_loop_may_turn_as_often_as_it_says_and_no_more(team: Team) -> None:
    count = Assign(Variable("turn"), Operation("add", (Variable("turn"), Literal(1)), 8))
    for most in (3, 2):
        loop = While(Operation("less", (Variable("turn"), Literal(3))), (count, gate("x", 0)), most)
        made = task(Circuit(5, 1, (loop, Measure(0, 0)), variables=("turn",)), shots=3, seed=1)
        if most == 3:
            assert run(made, team).counts == {"1": 3}
        else:
            raises_alike(errors.TimedOutError, lambda t=made: engines.run(t, team), team)


def test_division_by_zero_is_refused_on_all_ranks(team: Team) -> None:
    for num_qubits in (1, 6):
        divide = Assign(Bits((0,)), Operation("div", (Literal(1), Bits((0,))), 1))
        made = task(Circuit(num_qubits, 1, (Measure(0, 0), divide)), shots=3, seed=1)
        raises_alike(errors.InvalidArgumentError, lambda t=made: engines.run(t, team), team)


def test_more_shots_than_bins(team: Team) -> None:
    body = (gate("ry", 0, params=[1.0]), gate("cx", 0, 2), gate("h", 1), *map(Measure, range(3), range(3)))
    circuit = Circuit(3, 3, body)
    result = run(task(circuit, shots=200_000, seed=3), team)
    assert sum(result.counts.values()) == 200_000
    assert_distribution(result, dense.distribution(circuit))


def test_one_shot_and_the_order_of_memory(team: Team) -> None:
    circuit = Circuit(4, 4, (*(gate("h", q) for q in range(4)), *map(Measure, range(4), range(4))))
    assert sum(run(task(circuit, shots=1, seed=3), team).counts.values()) == 1
    many = run(task(circuit, shots=64, seed=3), team).memory
    assert len(set(many[:32])) > 1
    assert many[:32] != sorted(many[:32])


def test_many_classical_bits_and_registers(team: Team) -> None:
    """More than 64 bits, registers whose bits are interleaved, bits in no register, an unmeasured register."""
    rng = np.random.default_rng(1)
    even, odd = tuple(range(0, 20, 2)), tuple(range(1, 20, 2))
    registers = (Register("even", even), Register("odd", odd), Register("high", (69, 68, 67)), Register("none", ()))
    places = {0: 0, 1: 1, 2: 18, 3: 69, 4: 67, 5: 40}
    body = (*spread(6, rng), *random_gates(6, 20, rng), *(Measure(q, c) for q, c in places.items()))
    circuit = Circuit(6, 70, body, registers)
    result = run(task(circuit, shots=3_000, seed=2), team)
    assert_distribution(result, dense.distribution(circuit))
    loose = [c for c in range(70) if c not in {*even, *odd, 67, 68, 69}]
    for key, count in result.counts.items():
        groups = key.split(" ")
        assert [len(g) for g in groups] == [len(loose), 3, 10, 10]
        word = sum(int(bit) << clbit for group, clbits in zip(groups, (loose, (69, 68, 67), odd, even), strict=True)
                   for bit, clbit in zip(reversed(group), clbits, strict=True))  # fmt: skip
        assert words(result)[word] == count


def test_a_bit_written_twice_and_a_qubit_measured_twice(team: Team) -> None:
    rng = np.random.default_rng(2)
    measures = (Measure(0, 0), Measure(1, 0), Measure(2, 1), Measure(2, 2), Barrier((0,)), Measure(3, 3))
    circuit = Circuit(4, 4, (*spread(4, rng), *measures))
    result = run(task(circuit, shots=5_000, seed=2), team)
    assert_distribution(result, dense.distribution(circuit))
    assert all((word >> 1 & 1) == (word >> 2 & 1) for word in words(result))


def test_gates_after_the_measurement_of_other_qubits(team: Team) -> None:
    rng = np.random.default_rng(3)
    body = (*spread(5, rng), Measure(1, 1), gate("cx", 0, 2), Measure(2, 2), gate("h", 0), Measure(0, 0))
    circuit = Circuit(5, 5, body)
    result = run(task(circuit, shots=5_000, seed=2, observables=["ZIIII"]), team)
    assert_distribution(result, dense.distribution(circuit))


@pytest.mark.parametrize(
    ("first", "last", "max_bins", "piece_bytes"),
    [(3, 4, 1 << 20, 1 << 20), (3, 1, 4, 64), (1, 2, 1, 8), (4, 14, 1 << 12, 256), (2, 3, 64, 1024)],
)
def test_sampling_in_several_chunks(
    first: int, last: int, max_bins: int, piece_bytes: int, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FIRST_CHUNK", first), ("LARGEST_FIRST_CHUNK", first), ("MIDDLE_CHUNK", 2)):
        monkeypatch.setattr(sampling, name, value)
    for name, value in (("LAST_CHUNK", last), ("MAX_BINS", max_bins), ("PIECE_BYTES", piece_bytes)):
        monkeypatch.setattr(sampling, name, value)
    monkeypatch.setattr(sampling, "SHOTS_AT_ONCE", 1_500)
    monkeypatch.setattr(weights_gpu, "BINS_AT_ONCE", max_bins)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        flipping = [gate("x", int(q)) for q in rng.permutation(9)[:4]]  # leaves bits stored inverted
        body = [*spread(9, rng), *random_gates(9, 30, rng), *flipping]
        qubits = [int(q) for q in rng.permutation(9)[:7]]
        circuit = Circuit(9, 7, (*body, *map(Measure, qubits, range(7))))
        result = run(task(circuit, shots=4_000, seed=seed), team)
        assert_distribution(result, dense.distribution(circuit))


def test_sampling_by_many_threads(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_numba, "PARALLEL_FROM", 2)
    monkeypatch.setattr(sampling_numba, "PARALLEL_FROM", 2)
    monkeypatch.setattr(weights_numba, "PARALLEL_FROM", 2)
    monkeypatch.setattr(sampling, "FIRST_CHUNK", 4)
    monkeypatch.setattr(sampling, "LARGEST_FIRST_CHUNK", 4)
    rng = np.random.default_rng(5)
    body = [*spread(8, rng), *random_gates(8, 30, rng)]
    circuit = Circuit(8, 8, (*body, *map(Measure, range(8), range(8))))
    made = task(circuit, shots=20_000, seed=4, observables=["XYZIZYXI"])
    result = run(made, team)
    assert_distribution(result, dense.distribution(circuit))
    assert result.expectation_values == pytest.approx(
        [dense.expectation(dense.final_state(circuit), [("XYZIZYXI", 1.0)])], abs=1e-12
    )


def test_sparse_outcomes(team: Team) -> None:
    """A GHZ state: all but two of the bins are empty, and none of those may ever be hit."""
    body = [gate("h", 3), *(gate("cx", 3, q) for q in range(12) if q != 3), *map(Measure, range(12), range(12))]
    result = run(task(Circuit(12, 12, tuple(body)), shots=5_000, seed=9), team)
    assert set(result.counts) == {"0" * 12, "1" * 12}
    assert abs(result.counts["0" * 12] - 2_500) < 300


@pytest.mark.parametrize("seed", range(6))
def test_branches_without_room_are_run_again(seed: int, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(200 + seed)
    circuit = with_readout(5, 4, [*spread(5, rng), *random_program(5, 4, rng)])
    made = task(circuit, shots=2_000, seed=seed)
    usual = run(made, team)
    for spare in (0, 1):
        monkeypatch.setattr(running, "_spare_states", lambda *_, spare=spare: spare)
        assert_same(engines.run(made, team), usual)


def test_outcomes_of_seeds(team: Team) -> None:
    rng = np.random.default_rng(6)
    body = (*spread(6, rng), Measure(0, 0), *random_gates(6, 9, rng), *map(Measure, range(6), range(6)))
    circuit = Circuit(6, 6, body)
    first, again, other, last = (
        engines.run(task(circuit, shots=500, seed=seed), team) for seed in (1, 1, 2, (1 << 64) - 1)
    )
    assert first.memory == again.memory
    assert first.memory != other.memory
    assert last.memory not in (first.memory, other.memory)
    unseeded = [engines.run(task(circuit, shots=500), team) for _ in range(2)]
    assert unseeded[0].memory != unseeded[1].memory
    for result in unseeded:
        assert_same_on_every_rank(result, team)
        assert result.memory == run(task(circuit, shots=500, seed=result.metadata["seed"]), team).memory


# --- exact values ---


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("num_qubits", [1, 2, 5, 12])
def test_a_circuit_and_its_inverse_give_zeros(num_qubits: int, precision: str, team: Team) -> None:
    rng = np.random.default_rng(num_qubits)
    there = Circuit(num_qubits, 0, (*spread(num_qubits, rng), *random_gates(num_qubits, 80, rng)))
    circuit = Circuit(num_qubits, num_qubits, (
        *there.instructions, *there.inverse().instructions, *map(Measure, range(num_qubits), range(num_qubits))
    ))  # fmt: skip
    result = run(task(circuit, shots=100, seed=1, save="statevector", precision=precision), team)
    assert result.counts == {"0" * num_qubits: 100}
    assert result.statevector is not None
    tolerance = 1e-12 if precision == "double" else 3e-5
    assert abs(result.statevector[0] - 1) < tolerance
    assert np.abs(result.statevector[1:]).max() < tolerance


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("num_qubits", [1, 2, 3, 7, 11])
def test_the_statevector_is_that_of_the_oracle(num_qubits: int, precision: str, team: Team) -> None:
    rng = np.random.default_rng(num_qubits)
    body = (*spread(num_qubits, rng), *random_gates(num_qubits, 60, rng), *spread(num_qubits, rng))
    circuit = Circuit(num_qubits, 0, body)
    result = run(task(circuit, save="statevector", precision=precision), team)
    assert result.statevector is not None
    deviation = np.abs(result.statevector - dense.final_state(circuit)).max()
    assert deviation < (1e-12 if precision == "double" else 1e-5)


@pytest.mark.parametrize("piece_bytes", [8 << 20, 128])
@pytest.mark.parametrize("seed", range(4))
def test_expectation_values(seed: int, piece_bytes: int, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random Pauli sums: X and Y at any bit, those of the rank included, and bits that are stored inverted."""
    monkeypatch.setattr(expectation, "PIECE_BYTES", piece_bytes)
    rng = np.random.default_rng(300 + seed)
    num_qubits = int(rng.integers(4, 10)) if seed else 13
    flipping = [gate("x", int(q)) for q in rng.permutation(num_qubits)[: num_qubits // 2]]
    circuit = Circuit(num_qubits, 0, (*spread(num_qubits, rng), *random_gates(num_qubits, 40, rng), *flipping))
    observables = [
        [("".join(rng.choice(list("IXYZ"), num_qubits)), float(rng.normal())) for _ in range(int(rng.integers(1, 12)))]
        for _ in range(4)
    ]
    observables.append([("I" * num_qubits, 0.5), ("Y" * num_qubits, 1.0), ("X" * num_qubits, -1.0)])
    state = dense.final_state(circuit)
    wanted = [dense.expectation(state, terms) for terms in observables]
    for precision, tolerance in (("double", 1e-12), ("single", 1e-5)):
        made = task(circuit, observables=[dict(terms) for terms in observables], precision=precision)
        found = run(made, team).expectation_values
        assert found == pytest.approx([
            dense.expectation(state, list(dict(terms).items())) for terms in observables
        ], abs=tolerance)  # fmt: skip
        assert found is not None
        assert found.shape == (len(wanted),)


def test_one_pauli_on_each_qubit(team: Team) -> None:
    rng = np.random.default_rng(7)
    circuit = Circuit(6, 0, (*spread(6, rng), *random_gates(6, 30, rng)))
    paulis = ["I" * (5 - qubit) + letter + "I" * qubit for letter in "XYZ" for qubit in range(6)]
    found = run(task(circuit, observables=paulis), team).expectation_values
    state = dense.final_state(circuit)
    assert found == pytest.approx([dense.expectation(state, [(pauli, 1.0)]) for pauli in paulis], abs=1e-12)


# --- parameters ---


def parametric(num_qubits: int) -> Circuit:
    body = [gate("ry", q, params=[f"p0 + {q}*p1"]) for q in range(num_qubits)]
    body += [gate("cx", q, (q + 1) % num_qubits) for q in range(num_qubits)]
    body += [gate("u", q, params=["p2", "sin(p0)", "-p1/2"]) for q in range(num_qubits)]
    return Circuit(num_qubits, 3, (*body, *map(Measure, range(3), range(3))), parameters=("a", "b", "c"))


@pytest.mark.parametrize("num_qubits", [3, 7])
def test_many_sets_of_parameters_in_one_call(num_qubits: int, team: Team) -> None:
    circuit = parametric(num_qubits)
    values = np.random.default_rng(8).uniform(-3, 3, (5, 3))
    pauli = "XYZ" + "I" * (num_qubits - 3)
    result = run(task(circuit, parameters=values, shots=4_000, seed=1, observables=[pauli], save="statevector"), team)
    assert result.expectation_values is not None
    assert result.statevector is not None
    assert result.samples is not None
    assert result.samples.shape == (5, 4_000, 1)
    assert result.statevector.shape == (5, 1 << num_qubits)
    assert len(result.counts) == 5
    for row in range(5):
        state = dense.final_state(circuit, values[row])
        assert result.expectation_values[row] == pytest.approx([dense.expectation(state, [(pauli, 1.0)])], abs=1e-12)
        assert np.abs(result.statevector[row] - state).max() < 1e-12
        drawn = Result(num_clbits=3, samples=result.samples[row])
        assert_distribution(drawn, dense.distribution(circuit, values[row]))
    alone = run(task(circuit, parameters=values[0], shots=4_000, seed=1), team)
    assert alone.samples is not None
    assert np.array_equal(alone.samples, result.samples[0])
    by_name = run(task(circuit, parameters=dict(zip("abc", values[0], strict=True)), shots=4_000, seed=1), team)
    assert by_name.counts == alone.counts


def test_one_set_of_parameters_after_the_other(team: Team) -> None:
    """Wide enough for recipes; the sets that some ranks have seen before are others than those of the rest."""
    circuit, pauli = parametric(13), "ZXY" + "I" * 10
    random = np.random.default_rng(9)
    if team.rank % 2:
        simulate.forget_prepared()
    for values in (random.uniform(-3, 3, 3), np.zeros(3), np.array([np.pi, 0, 0.5]), random.uniform(-3, 3, 3)):
        if team.rank == 0:
            engines.run(task(circuit, parameters=values + 0.1, shots=1), Team())
        result = run(task(circuit, parameters=values, observables=[pauli], save="statevector"), team)
        state = dense.final_state(circuit, values)
        assert np.abs(result.statevector - state).max() < 1e-12
        assert result.expectation_values == pytest.approx([dense.expectation(state, [(pauli, 1.0)])], abs=1e-12)


def test_equal_parameters_give_different_samples_of_one_distribution(team: Team) -> None:
    result = run(task(parametric(4), parameters=[[1.0, 0.4, 0.2]] * 2, shots=1_000, seed=1), team)
    assert result.samples is not None
    assert not np.array_equal(result.samples[0], result.samples[1])


def test_parameters_under_control_flow(team: Team) -> None:
    body = (
        gate("ry", 0, params=["p0"]), Measure(0, 0), IfElse(Bits((0,)), (gate("ry", 3, params=["p1"]),)),
        gate("cx", 3, 1), Measure(1, 1),
    )  # fmt: skip
    circuit = Circuit(4, 2, body, parameters=("a", "b"))
    values = np.array([[1.0, 2.0], [0.3, 1.1]])
    result = run(task(circuit, parameters=values, shots=4_000, seed=3), team)
    assert result.samples is not None
    for row in range(2):
        assert_distribution(Result(num_clbits=2, samples=result.samples[row]), dense.distribution(circuit, values[row]))


# --- teams ---


def test_circuits_too_small_for_the_team(team: Team) -> None:
    """Fewer ranks hold them; the others get the result all the same."""
    for num_qubits in (0, 1, 2, 3):
        circuit = Circuit(num_qubits, 1, (gate("gphase", params=[0.3]), *(gate("h", q) for q in range(num_qubits))))
        result = run(task(circuit, save="statevector"), team)
        assert result.statevector is not None
        assert np.abs(result.statevector - dense.final_state(circuit)).max() < 1e-12
        assert result.metadata["ranks"] <= max(1, 2 ** (num_qubits - 1))
    add_five = gate("unitary", *range(5), matrix=np.roll(np.eye(32), 5, axis=0))
    wide = Circuit(5, 5, (add_five, *map(Measure, range(5), range(5))))
    assert run(task(wide, shots=5, seed=1), team).counts == {"00101": 5}


def test_what_the_metadata_says(team: Team) -> None:
    rng = np.random.default_rng(9)
    again = (gate("h", q) for q in range(8))  # from |0…0> the first exchange takes no message, here it does
    parts = (*spread(8, rng), *random_gates(8, 30, rng), Measure(0, 0), *again, *map(Measure, range(8), range(8)))
    metadata = engines.run(task(Circuit(8, 8, parts), shots=10, seed=3), team).metadata
    assert metadata["engine"] == "statevector"
    assert metadata["ranks"] == team.size
    assert metadata["seed"] == 3
    assert (metadata["exchanges"] > 0) == (metadata["bytes_exchanged"] > 0) == (team.size > 1)
    assert metadata["sweeps"] >= metadata["stages"] > 0
    assert metadata["peak_bytes"] > 1 << 20


def test_forty_qubits_are_refused_by_all_ranks_alike(team: Team) -> None:
    made = task(Circuit(40, 1, (gate("h", 0), Measure(0, 0))), shots=1)
    message = raises_alike(errors.OutOfMemoryError, lambda: engines.run(made, team), team)
    assert "40 qubits in double precision need 16 TiB" in message
    assert "use " in message
    message = raises_alike(errors.OutOfMemoryError, lambda: engines.run(task(Circuit(61, 1, ()), shots=1), team), team)
    assert "at most 60" in message


def test_memory_that_only_one_rank_lacks_is_refused_by_all(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    from qsimenv import memory

    monkeypatch.setattr(memory, "free_bytes_per_process", lambda: 1 << 20 if team.rank == team.size - 1 else 1 << 33)
    made = task(Circuit(20, 1, (gate("h", 0), Measure(0, 0))), shots=1)
    raises_alike(errors.OutOfMemoryError, lambda: engines.run(made, team), team)


def test_observables_of_a_branching_circuit_are_refused_by_all(team: Team) -> None:
    for num_qubits in (1, 6):  # one qubit cannot be shared: some ranks only wait for the result
        circuit = Circuit(num_qubits, 1, (Measure(0, 0), gate("h", 0)))
        made = task(circuit, observables=["Z" * num_qubits])
        raises_alike(errors.NotSupportedError, lambda t=made: engines.run(t, team), team)


def test_agree_raises_the_error_of_the_lowest_rank_everywhere(team: Team) -> None:
    team.agree(None)
    for guilty in range(team.size):
        error = errors.NotFoundError(f"rank {team.rank}") if team.rank >= guilty else None
        message = raises_alike(errors.NotFoundError, lambda e=error: team.agree(e), team)
        assert message == f"rank {guilty}"
    team.agree(None)


def test_sums_and_gathers_are_the_same_on_every_rank(team: Team) -> None:
    mine = np.arange(6.0).reshape(2, 3) + team.rank
    total = np.arange(6.0).reshape(2, 3) * team.size + team.size * (team.size - 1) / 2
    assert np.array_equal(team.sum(mine), total)
    assert np.array_equal(team.sum(np.asfortranarray(mine)), total)
    assert np.array_equal(team.gather(mine)[:, 0, 0], np.arange(team.size))
    assert (team.minimum(team.rank), team.maximum(team.rank)) == (0, team.size - 1)
    for root in range(team.size):
        assert team.broadcast(bytes([root]) * root if team.rank == root else b"", root) == bytes([root]) * root


def test_messages_in_pieces(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "PIECE_BYTES", 64)
    mine = np.random.default_rng(team.rank).normal(size=100)
    everything = np.array([np.random.default_rng(rank).normal(size=100) for rank in range(team.size)])
    assert np.array_equal(team.gather(mine), everything)
    assert team.sum(mine) == pytest.approx(everything.sum(axis=0), abs=1e-12)
    assert team.broadcast(everything[0].tobytes()) == everything[0].tobytes()
    if team.size > 1:
        received = np.empty(100)
        team.exchange(team.rank ^ 1, mine, received)
        assert np.array_equal(received, everything[team.rank ^ 1])


def test_three_ranks_are_refused_alike_and_two_of_them_can_be_taken(team: Team) -> None:
    """A state is shared by a power of two of ranks: ``engines.run`` refuses three, ``power_of_two`` picks two."""
    if team.size < 4:
        pytest.skip("four ranks are needed")
    made = task(Circuit(4, 4, (gate("h", 0), *map(Measure, range(4), range(4)))), shots=10, seed=1)
    if team.rank < 3:
        three = team.subteam(range(3))
        message = raises_alike(errors.InvalidArgumentError, lambda: engines.run(made, three), three)
        assert "3 ranks found" in message
        part = engines.power_of_two(three, allow_idle=True)
        assert (part is None) == (team.rank == 2)
        if part is not None:
            assert part.size == 2
            assert_same(engines.run(made, part), engines.run(made, comm.Team()))
    team.barrier()


def test_subteams_run_side_by_side(team: Team) -> None:
    if team.size < 4:
        pytest.skip("four ranks are needed")
    half = team.rank // 2
    mine = team.subteam([3, 2] if half else [0, 1])
    assert mine.rank == (3 - team.rank if half else team.rank)
    assert mine is team.subteam([3, 2] if half else [0, 1])
    rng = np.random.default_rng(half)
    circuit = Circuit(7, 7, (*spread(7, rng), *random_gates(7, 30, rng), *map(Measure, range(7), range(7))))
    result = run(task(circuit, shots=500, seed=half), mine)
    assert result.metadata["ranks"] == 2
    team.barrier()
