"""Each kind of pass on one block, on all placements of its bits, against the dense oracle or a plain rule."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from qsimenv.circuit import Circuit, Gate, Measure, gate
from qsimenv.comm import Team
from qsimenv.statevec.encoding import rows as columns
from qsimenv.statevec.encoding.affine import inverse_columns, line_map, xor_table
from qsimenv.statevec.encoding.encode import encode
from qsimenv.statevec.encoding.rows import REAL_TYPE, EncodedSweep
from qsimenv.statevec.kernels import passes_numba as passes
from qsimenv.statevec.kernels import sweep_numba
from qsimenv.statevec.kernels.lanes_numba import HAS_VECTORS
from qsimenv.statevec.planning.layout import identity
from qsimenv.statevec.planning.planner import make_plan, plan_from_zero
from qsimenv.statevec.simulate import Run, prepare
from qsimenv.statevec.state import State, Work
from qsimenv.task import Precision
from tests.oracle import dense

BITS = 12
"""More than the bits of a page in scratch order, in both precisions."""
TOLERANCE = {"double": 1e-12, "single": 1e-5}
PRECISIONS: tuple[Precision, ...] = ("double", "single")


def start(num_qubits: int = BITS) -> list[Gate]:
    """A product state without symmetry."""
    return [gate("u", q, params=[0.4 + 0.2 * q, 0.3 * q, 0.1]) for q in range(num_qubits)]


def check(
    gates: list[Gate], precision: Precision, block_bits: int = BITS, form: columns.Form = columns.VECTORS
) -> list[EncodedSweep]:
    """The circuit's state is the oracle's; returns the sweeps that were run."""
    circuit = Circuit(BITS, 0, tuple(gates))
    plan = make_plan(circuit.instructions, identity(BITS, BITS), block_bits)  # type: ignore[arg-type]
    encoded = encode(plan, (), precision, form)
    state = State.zero(plan.start, Team(), precision)
    state.run(plan, encoded)
    np.testing.assert_allclose(state.amplitudes(), dense.final_state(circuit), atol=TOLERANCE[precision])
    return [sweep for stage in encoded for sweep in stage]


def rows(sweeps: list[EncodedSweep], kind: int) -> list[np.ndarray]:
    return [row for sweep in sweeps for row in sweep.ops if row[columns.KIND] == kind]


def string(angle: float, qubits: list[int]) -> list[Gate]:
    """``exp(-i angle / 2 Z Z Z…)`` as it is written out: a chain of CX to the last qubit, RZ, the chain backwards."""
    chain = [gate("cx", a, b) for a, b in pairwise(qubits)]
    return [*chain, gate("rz", qubits[-1], params=[angle]), *chain[::-1]]


# --- rotations ---


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rotations_on_every_number_of_bits(precision: Precision) -> None:
    """All numbers of tile bits with and without lane bits, at every position."""
    seen = set()
    random = np.random.default_rng(1)
    for count in range(1, BITS + 1):
        for first in range(BITS + 1 - count):
            layer = [gate("ry", first + k, params=[float(random.uniform(-4, 4))]) for k in range(count)]
            for gates in ([*start(), *layer], layer):
                for row in rows(check(gates, precision), columns.ROTATE):
                    seen.add((int(row[columns.NUM_TARGETS]), int(row[columns.HAS_LANES])))
    assert {(count, 0) for count in range(1, 5)} | {(count, 1) for count in range(5)} <= seen


# --- phases ---


def product_terms(pairs: list[tuple[int, int]], random: np.random.Generator) -> list[Gate]:
    return [gate("cp", a, b, params=[float(random.uniform(-4, 4))]) for a, b in pairs]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block_bits", [BITS, BITS - 2])
def test_phases_of_every_shape(precision: Precision, block_bits: int) -> None:
    """Terms that share each bit in turn (as in a Fourier transform), chains, sparse and full sets of pairs."""
    random = np.random.default_rng(2)
    everything = [(a, b) for b in range(BITS) for a in range(b)]
    shapes = [[(other, bit) for other in range(BITS) if other != bit] for bit in range(BITS)]
    shapes += [[(k, k + 1) for k in range(BITS - 1)], everything]
    shapes += [[everything[k] for k in random.choice(len(everything), 9, replace=False)] for _ in range(6)]
    seen = set()
    for pairs in shapes:
        turns = [gate("rz", int(q), params=[float(random.uniform(-4, 4))]) for q in random.choice(BITS, 3)]
        for phases in (product_terms(pairs, random), [*product_terms(pairs, random), *turns]):
            mixed = [gate("h", q) for q in range(3)]
            real = [gate("ry", q, params=[0.4 + 0.2 * q]) for q in range(BITS)]
            sweeps = check([*real, *phases, *mixed], precision, block_bits)
            for row in rows(sweeps, columns.QUADRATIC):
                seen.add((bool(row[columns.BASE]), bool(row[columns.INNER_BITS]), bool(row[columns.OUTER_BITS])))
    assert {common for common, _, _ in seen} == {False, True}
    assert {outer for _, _, outer in seen} == {False, True}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block_bits", [BITS, BITS - 2])
@pytest.mark.parametrize("turned", [0, 2, 5])
def test_phases_with_the_parity_of_some_bits(precision: Precision, block_bits: int, turned: int) -> None:
    """Alone and with other phases, and with bits that are turned in the same pass; no numbers change places."""
    random, found = np.random.default_rng(3), list[np.ndarray]()
    for number in range(12):
        qubits = [int(q) for q in random.permutation(BITS)[: random.integers(3, BITS)]]
        if block_bits < BITS:  # what is flipped has to be in the block
            qubits = [*(q for q in qubits if q >= block_bits), *(q for q in qubits if q < block_bits)][-block_bits:]
        real = [gate("ry", q, params=[0.4 + 0.2 * q]) for q in range(BITS)]
        pairs = [(a, b) for b in range(BITS) for a in range(b)]
        others = [pairs[k] for k in random.choice(len(pairs), 5 * (number % 2), replace=False)]
        mixed = [gate("ry", q, params=[0.3 + 0.1 * q]) for q in range(BITS - turned, BITS)]
        sweeps = check([*real, *string(0.7, qubits), *product_terms(others, random), *mixed], precision, block_bits)
        found += rows(sweeps, columns.QUADRATIC)
        if block_bits == BITS:
            assert not rows(sweeps, columns.PERMUTE)
    assert sum(row[columns.PARITY] > 0 for row in found) >= 10


@pytest.mark.parametrize("precision", PRECISIONS)
def test_turns_of_a_bit_one_after_the_other_are_one(precision: Precision) -> None:
    """Also those of bits that are 0 so far, with an X between them, and of those that undo each other."""
    everywhere = range(BITS)
    there = [gate("h", q) for q in everywhere] + [gate("rz", q, params=[0.3]) for q in everywhere if q % 3]
    for between in ([], [gate("x", q) for q in everywhere if q % 2], [gate("z", q) for q in everywhere]):
        gates = [*there, *between, *(gate("rx", q, params=[0.2 + q]) for q in everywhere)]
        for before in ([], start()):
            found = rows(check([*before, *gates], precision), columns.ROTATE)
            turned = sum(int(row[columns.NUM_TARGETS]) for row in found)
            assert turned <= BITS, "once each"
    back = [gate("sdg", 5), gate("h", 5), gate("h", 5), gate("s", 5)]
    assert not rows(check(back, precision), columns.ROTATE)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_strings_one_after_the_other(precision: Precision) -> None:
    """What a string of X and Y is written out as is turns, a parity, turns: no numbers change places."""
    random, gates = np.random.default_rng(4), start()
    for _ in range(8):
        qubits = [int(q) for q in random.permutation(BITS)[:5]]
        letters = random.choice(["X", "Y", "Z"], 5)
        there = [gate("h", q) for q, letter in zip(qubits, letters, strict=True) if letter == "X"]
        there += [
            gate("rx", q, params=[math.pi / 2]) for q, letter in zip(qubits, letters, strict=True) if letter == "Y"
        ]
        back = [gate(each.name, *each.qubits, params=[-angle for angle in each.params]) for each in there]
        gates += [*there, *string(float(random.uniform(-2, 2)), qubits), *back]
    sweeps = check(gates, precision)
    assert sum(row[columns.PARITY] > 0 for row in rows(sweeps, columns.QUADRATIC)) == 8
    assert not rows(sweeps, columns.PERMUTE)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block_bits", [BITS, BITS - 2])
def test_phases_that_turn_their_common_bit(precision: Precision, block_bits: int) -> None:
    """Each bit in turn: its phases with all others, in the block and outside, and its rotation are one row."""
    seen = set()
    for bit in range(BITS):
        terms = [gate("cp", other, bit, params=[0.3 + 0.1 * other]) for other in range(BITS) if other != bit]
        circuit = [*start(), *terms, gate("ry", bit, params=[0.7]), gate("x", bit), gate("ry", bit, params=[0.4])]
        for row in rows(check(circuit, precision, block_bits), columns.QUADRATIC):
            if row[columns.NUM_TARGETS] == 1:
                seen.add((int(row[columns.TARGETS]), bool(row[columns.NUM_ENTRIES])))
        plan = make_plan(circuit, identity(BITS, BITS), block_bits)
        for sweep in encode(plan, (), precision, columns.THREADS)[0]:
            assert not sweep.ops[sweep.ops[:, columns.KIND] == columns.QUADRATIC, columns.NUM_TARGETS].any()
    lane_bits = columns.VECTORS.lane_bits(REAL_TYPE[precision])
    assert set(range(lane_bits, block_bits)) <= {position for position, _ in seen}
    assert {outside for _, outside in seen} == {block_bits < BITS}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block_bits", [BITS, BITS - 2])
def test_phases_that_turn_bits_of_the_rotations_that_follow(precision: Precision, block_bits: int) -> None:
    """Rotations of all numbers of bits, with and without lanes, after phases of all shapes; twice, so that no row takes
    the bits of another."""
    random, seen, rotations = np.random.default_rng(6), set(), [0, 0]
    everything = [(a, b) for b in range(BITS) for a in range(b)]
    for count in range(1, BITS + 1):
        for first in {0, 4, BITS - count}:
            some = [everything[k] for k in random.choice(len(everything), int(random.integers(2, 20)), replace=False)]
            turned = [q for q in range(first, first + count) if q < BITS]
            layer = [*product_terms(some, random), *(gate("ry", q, params=[0.3 + 0.1 * q]) for q in turned)]
            again = [gate("cx", int(turned[-1]), int(turned[0]))] if len(turned) > 1 else []
            circuit = [*start(), *layer, *again, *layer]
            for row in rows(check(circuit, precision, block_bits), columns.QUADRATIC):
                if row[columns.NUM_TARGETS] == columns.TURNED_WITH_PHASES:
                    seen.add((bool(row[columns.INNER_BITS]), bool(row[columns.OUTER_BITS])))
                    seen.add(bool(row[columns.NUM_ENTRIES]))
            plan = make_plan(circuit, identity(BITS, BITS), block_bits)
            for k, form in enumerate((columns.VECTORS, columns.VECTORS._replace(turns_in_phases=False))):
                rotations[k] += len(rows(list(encode(plan, (), precision, form)[0]), columns.ROTATE))
    assert {(True, True), (block_bits < BITS)} <= seen
    assert rotations[0] < rotations[1] * 0.9


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block_bits", [BITS, BITS - 2])
def test_phases_turn_bits_of_the_rotations_before_and_after(precision: Precision, block_bits: int) -> None:
    """Layers of rotations of any bits with phases between them: what phases turn before and after is no row."""
    random, seen, lanes, rotations = np.random.default_rng(9), set(), set(), [0, 0]
    everything = [(a, b) for b in range(BITS) for a in range(b)]
    for _ in range(60):
        circuit = start()
        for _ in range(4):
            some = random.choice(len(everything), int(random.integers(2, 20)), replace=False)
            turned = np.sort(
                random.choice(np.arange(int(random.integers(0, 5)), BITS), int(random.integers(1, 9)), False)
            )
            circuit += product_terms([everything[k] for k in some], random)
            circuit += [gate("ry", int(q), params=[float(random.uniform(0.2, 1.3))]) for q in turned]
        sweeps = check(circuit, precision, block_bits)
        for row in rows(sweeps, columns.QUADRATIC):
            if row[columns.NUM_TARGETS] == columns.TURNED_WITH_PHASES:
                before = int(row[columns.TURNED_BEFORE])
                seen.add((before, int(row[columns.NUM_TURNS]) > before))
        lanes |= {int(row[columns.HAS_LANES]) for row in rows(sweeps, columns.ROTATE)}
        plan = make_plan(circuit, identity(BITS, BITS), block_bits)
        for k, form in enumerate((columns.VECTORS, columns.VECTORS._replace(turns_in_phases=False))):
            rotations[k] += len(rows(list(encode(plan, (), precision, form)[0]), columns.ROTATE))
    most = 3 if block_bits == BITS else 2
    assert {(before, True) for before in range(most + 1)} | {(1, False), (2, False), (3, False)} <= seen
    assert lanes == {0, 1}
    assert rotations[0] < rotations[1] * 0.7


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block_bits", [8, BITS - 2, BITS])
def test_bits_that_are_turned_one_by_one_share_a_pass(precision: Precision, block_bits: int) -> None:
    """By an H, each after its phases with all others, in and outside of the block, with X; but for later ones."""
    seen, rotations = set(), [0, 0]
    for seed in range(24):
        random = np.random.default_rng(seed)
        turned = [int(q) for q in random.choice(np.arange(4, BITS), 2 + seed % 4, replace=False)]
        circuit = start()
        for number, bit in enumerate(turned):
            later = turned[number + 1 :] if seed % 3 else turned[number + 2 :]
            others = [other for other in range(BITS) if other != bit and other not in later]
            circuit += product_terms([(other, bit) for other in others], random)
            is_odd = number == seed % 11  # not an H
            turn = gate("ry", bit, params=[float(random.uniform(0.2, 1))]) if is_odd else gate("h", bit)
            circuit += [gate("rz", bit, params=[0.4]), turn]
            circuit += [gate("x", bit)] if seed % 5 == 0 else []
        for row in rows(check(circuit, precision, block_bits), columns.BUTTERFLIES):
            seen.add((int(row[columns.NUM_TARGETS]), bool(row[columns.NUM_ENTRIES])))
        plan = make_plan(circuit, identity(BITS, BITS), block_bits)
        for k, form in enumerate((columns.VECTORS, columns.VECTORS._replace(turns_in_phases=False))):
            rotations[k] += len(rows(list(encode(plan, (), precision, form)[0]), columns.ROTATE))
    assert {(2, block_bits < BITS), (3, block_bits < BITS)} <= seen
    assert rotations[0] < rotations[1]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_phases_multiply_in_what_rotations_leave_to_the_scale(precision: Precision) -> None:
    """Many layers shrink it by more than 2**-30 over and over; only without phases does that take rows of its own."""
    random = np.random.default_rng(9)
    for with_phases in (True, False):
        circuit = list[Gate]()
        for _ in range(40):
            circuit += [gate("ry", q, params=[float(random.uniform(0.2, 1.4))]) for q in range(BITS)]
            circuit += [gate("cz" if with_phases else "cx", q, q + 1) for q in range(BITS - 1)]
        sweeps = check(circuit, precision)
        numbers = len(rows(sweeps, columns.PHASE))
        assert (numbers == 0) if with_phases else (0 < numbers < 12)
        assert len(rows(sweeps, columns.QUADRATIC)) == 40 * with_phases


# --- what is done before the state has grown ---


def test_phases_do_not_wait_for_a_larger_state() -> None:
    """From |0…0> on, what the first sweep can do on few amplitudes is not left to the second one."""
    n = 20
    chain = [gate("h", 0), *(gate("cx", q, q + 1) for q in range(n - 1))]
    plan = plan_from_zero(chain, n, n, 14)
    late, early = (encode(plan, (), "double", from_zero=from_zero)[0] for from_zero in (False, True))
    assert [[int(kind) for kind in sweep.ops[:, columns.KIND]].count(columns.QUADRATIC) for sweep in late] == [0, 1]
    assert [[int(kind) for kind in sweep.ops[:, columns.KIND]].count(columns.QUADRATIC) for sweep in early] == [1, 0]
    states = []
    for sweeps in (late, early):
        state = State.zero(plan.start, Team(), "double")
        state.run(plan, (sweeps,))
        states.append(state.amplitudes())
    np.testing.assert_allclose(states[0], states[1], atol=TOLERANCE["double"])
    assert abs(abs(states[1][0]) - math.sqrt(0.5)) < TOLERANCE["double"]
    assert abs(abs(states[1][-1]) - math.sqrt(0.5)) < TOLERANCE["double"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_gates_that_come_again_find_another_state(precision: Precision) -> None:
    """What is left out on |0…0> is not left out when the same gates follow on what they have made."""
    halves = [gate("rx", q, params=[math.pi / 2]) for q in range(1, BITS)]
    measures = [Measure(q, q) for q in range(BITS)]
    circuit = Circuit(BITS, BITS, (*halves, Measure(0, 0), *halves, *measures))
    prepared = prepare(circuit, BITS, precision)
    first, second = (
        prepared.encoding(0, prepared.start(), np.zeros(0), from_zero=from_zero)[0] for from_zero in (True, False)
    )
    assert rows(list(first), columns.SPREAD)
    assert not rows(list(second), columns.SPREAD)
    samples = Run(prepared, Team(), np.zeros(0), 0, 0, 50, 0, Work()).sample()
    assert {int.from_bytes(row.tobytes()) for row in samples} == {(1 << BITS) - 2}


# --- permutations ---


def cx_network(random: np.random.Generator, count: int) -> list[Gate]:
    return [gate("cx", *(int(q) for q in random.choice(BITS, 2, replace=False))) for _ in range(count)]


NETWORKS = {
    "chain": [gate("cx", q, q + 1) for q in range(BITS - 1)],
    "chain down": [gate("cx", q + 1, q) for q in reversed(range(BITS - 1))],
    "above the lanes": [gate("cx", q, q + 1) for q in range(4, BITS - 1)],
    "inside the lanes": [gate("cx", 0, 1), gate("cx", 1, 2), gate("cx", 2, 0)],
    "lanes follow lines": [gate("cx", 8, 0), gate("cx", 11, 1), gate("cx", 8, 2)],
    "lines follow lanes": [gate("cx", 0, 8), gate("cx", 1, 11)],
    "exchange": [gate("cx", 0, 8), gate("cx", 8, 0), gate("cx", 0, 8), gate("cx", 1, 11), gate("cx", 11, 1)],
    "all lanes leave": [each for k in range(4) for each in (gate("cx", k, 7 + k), gate("cx", 7 + k, k))],
    **{f"random {count}": cx_network(np.random.default_rng(count), count) for count in (3, 8, 40)},
}


MOVING = columns.VECTORS._replace(moves_on_the_way=False)
"""Every permutation is a pass over the block."""


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_permutations(name: str, precision: Precision) -> None:
    """Through the state, and by both ways that a block can be permuted."""
    check([*start(), *NETWORKS[name]], precision)
    check([*start(), *NETWORKS[name], gate("h", 3)], precision, BITS - 2)
    assert len(rows(check(NETWORKS[name], precision), columns.PERMUTE)) == 1
    sweeps = check(NETWORKS[name], precision, form=MOVING)
    (row,) = rows(sweeps, columns.PERMUTE)
    sweep = next(each for each in sweeps if (each.ops == row).all(axis=1).any())
    bits, item = sweep.block_bits, np.dtype(REAL_TYPE[precision]).itemsize
    places = np.array([passes.place(number, item) for number in range(1 << bits)])
    block = np.arange(places[-1] + 64, dtype=REAL_TYPE[precision])
    at = row[columns.TABLE] + 1 + 2 * row[columns.NUM_ENTRIES]
    one_by_one, by_lines = np.zeros_like(block), np.zeros_like(block)
    shift = int(np.random.default_rng(0).integers(1 << bits))
    passes.move_numbers(block, one_by_one, bits, row[None], 0, sweep.tables, at, shift)
    low, high = (np.arange(1 << bits) & 255), np.arange(1 << bits) >> 8
    after = at + sweep.tables[at]
    sources = sweep.tables[after + low] ^ sweep.tables[after + 256 + high] ^ shift
    np.testing.assert_array_equal(one_by_one[places], block[places[sources]])
    if HAS_VECTORS:
        passes.move_lines(block, by_lines, bits, row[None], 0, sweep.tables, at, shift)
        np.testing.assert_array_equal(by_lines[places], one_by_one[places])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block_bits", [8, 9, BITS - 1, BITS])
def test_lines_that_change_places_last_are_stored_from_where_they_are(block_bits: int, precision: Precision) -> None:
    """Under bits of the block and outside of it, at every place, with X and after other passes."""
    low, stored = 4, 0
    for seed in range(12):
        random = np.random.default_rng(seed)
        pairs = [random.choice(np.arange(low, BITS), 2, replace=False).tolist() for _ in range(5)]
        turned = [gate("x", int(q)) for q in random.choice(np.arange(low, BITS), 2, replace=False)]
        network = [*(gate("cx", *pair) for pair in pairs[:2]), *turned, *(gate("cx", *pair) for pair in pairs[2:])]
        for gates in ([*start(), *network], [*start(), *network, *start(), *network]):
            last = [sweep.ops[-1] for sweep in check(gates, precision, block_bits) if len(sweep.ops)]
            stored += sum(row[columns.KIND] == columns.PERMUTE and not row[columns.HAS_LANES] for row in last)
    assert stored > 12


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block_bits", [9, BITS - 1, BITS])
def test_lines_that_change_places_first_are_loaded_to_where_they_go(block_bits: int, precision: Precision) -> None:
    """On a state without symmetry, under bits of the block and outside of it, with X."""
    arranged, outside = 0, False
    for seed in range(12):
        random = np.random.default_rng(seed)
        pairs = [random.choice(np.arange(4, BITS), 2, replace=False).tolist() for _ in range(5)]
        turned = [gate("x", int(q)) for q in random.choice(np.arange(4, BITS), 2, replace=False)]
        network = [*(gate("cx", *pair) for pair in pairs[:3]), *turned, *(gate("cx", *pair) for pair in pairs[3:])]
        parts = start(), [*network, *start()]
        state = State.zero(identity(BITS, BITS), Team(), precision)
        for gates in parts:
            plan = make_plan(gates, state.layout, block_bits)
            encoded = encode(plan, (), precision)
            state.run(plan, encoded)
        wanted = dense.final_state(Circuit(BITS, 0, (*parts[0], *parts[1])))
        np.testing.assert_allclose(state.amplitudes(), wanted, atol=TOLERANCE[precision])
        found = rows(list(encoded[0]), columns.ARRANGE)
        arranged += len(found)
        outside |= any(row[columns.NUM_ENTRIES] for row in found)
    assert arranged > 5
    assert outside == (block_bits < BITS)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_lines_that_change_places_behind_rotations_of_zeros_are_made_there(precision: Precision) -> None:
    """Of qubits that are 0 before: the loads turn them and put them where they go, at once."""
    n, seen = 13, 0
    for seed in range(8):
        random = np.random.default_rng(seed)
        layers = [[gate("ry", q, params=[float(random.uniform(0.2, 1))]) for q in range(n)] for _ in range(2)]
        gates = [*layers[0], *(gate("cx", q, q + 1) for q in range(n - 1)), *layers[1]]
        plan = plan_from_zero(gates, n, n, 10)
        encoded = encode(plan, (), precision, from_zero=True)
        state = State.zero(plan.start, Team(), precision)
        if seed % 2:
            state.fill()  # that zeros are there makes no difference
        state.run(plan, encoded)
        wanted = dense.final_state(Circuit(n, 0, tuple(gates)))
        np.testing.assert_allclose(state.amplitudes(), wanted, atol=TOLERANCE[precision])
        firsts = [[int(row[columns.KIND]) for row in sweep.ops[:2]] for sweep in encoded[0]]
        seen += firsts.count([columns.SPREAD, columns.ARRANGE])
    assert seen


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block_bits", [BITS - 2, BITS - 1, BITS])
def test_rotations_load_lines_that_have_changed_places(block_bits: int, precision: Precision) -> None:
    """Behind phases that cannot follow a network: all numbers of bits, with and without lanes, under bits outside of
    the block, with X."""
    low, seen, lanes = 4, set(), set()
    for seed in range(32):
        random, count = np.random.default_rng(seed), 1 + seed % 6
        turned = [int(q) for q in random.choice(np.arange(low, BITS - 1), count, replace=False)]
        turned += [int(random.integers(3))] if seed % 3 == 0 else []
        layer = [gate("ry", q, params=[float(random.uniform(0.2, 1))]) for q in turned]
        chain = random.permutation(np.arange(low, BITS - 1))[:5].tolist()
        terms = [gate("cp", int(a), int(b), params=[0.7]) for a in chain[:-1] for b in chain if a < b]
        network = [gate("cx", int(a), int(b)) for a, b in zip(chain[1:], chain, strict=False)]
        network += [gate("cx", BITS - 1, int(chain[-1])), gate("x", int(chain[0]))]
        sweeps = check([*start(), *layer, *terms, *network, *layer, *terms, *network, *layer], precision, block_bits)
        for sweep in sweeps:
            for row, after in zip(sweep.ops, [*sweep.ops[1:], sweep.ops[-1]], strict=True):
                if row[columns.KIND] == columns.ROTATE and row[columns.RANK] and row[columns.GATHERS]:
                    seen.add((int(row[columns.NUM_TARGETS]), bool(row[columns.NUM_ENTRIES])))
                    lanes.add(bool(after[columns.KIND] == columns.ROTATE and after[columns.HAS_LANES]))
    assert {count for count, _ in seen} == {1, 2, 3, 4}
    assert (block_bits < BITS) in {outside for _, outside in seen}
    assert lanes == {False, True}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block_bits", [BITS - 2, BITS - 1, BITS])
def test_rotations_store_lines_that_change_places_then(block_bits: int, precision: Precision) -> None:
    """All numbers of bits, under bits of the block and outside of it, with X, and twice: once as rows of their own."""
    low, seen = 4, set()
    for seed in range(24):
        random, count = np.random.default_rng(seed), 1 + seed % 4
        turned = random.choice(np.arange(low, BITS - 1), count, replace=False)
        layer = [gate("ry", int(q), params=[float(random.uniform(0.2, 1))]) for q in turned]
        pairs = [random.choice(np.arange(low, BITS - 1), 2, replace=False).tolist() for _ in range(4)]
        network = [gate("cx", *pair) for pair in (*pairs, (BITS - 1, int(turned[-1])))]
        network.append(gate("x", int(turned[0])))
        circuit = [*start(), *layer, *network, *layer, *network, *layer]
        for row in rows(check(circuit, precision, block_bits), columns.ROTATE):
            if row[columns.RANK]:
                assert row[columns.RANK] == block_bits - columns.VECTORS.lane_bits(REAL_TYPE[precision])
                seen.add((int(row[columns.NUM_TARGETS]), bool(row[columns.NUM_ENTRIES])))
    assert {count for count, _ in seen} == {1, 2, 3, 4}
    assert (block_bits < BITS) in {outside for _, outside in seen}


@pytest.mark.parametrize("lane_bits", [3, 4])
def test_line_maps_of_every_rank(lane_bits: int) -> None:
    """What the tables of lines say is what the matrix says."""
    random, seen = np.random.default_rng(3), set()
    for size in range(30):
        masks = [1 << k for k in range(9)]
        for _ in range(size):
            a, b = (int(k) for k in random.choice(9, 2, replace=False))
            masks[a] ^= masks[b]
        columns_of = inverse_columns(masks)
        wanted = xor_table(columns_of)
        assert all(
            sum(((int(wanted[t]) & mask).bit_count() & 1) << k for k, mask in enumerate(masks)) == t
            for t in range(0, 512, 7)
        )
        lines = line_map(columns_of, lane_bits)
        seen.add(len(lines.source_steps))
        targets, sources = xor_table(lines.target_steps), xor_table(lines.source_steps)
        found = np.full(512, -1)
        for far_to, far_source in zip(lines.far_to, lines.far_source, strict=True):
            for near_to, near_source in zip(lines.near_to, lines.near_source, strict=True):
                for partner, step in enumerate(targets):
                    for lane in range(1 << lane_bits):
                        pick = int(lines.patterns[partner, lane])
                        source = int(far_source ^ near_source) ^ pick & (1 << lane_bits) - 1
                        source ^= int(sources[pick >> lane_bits]) << lane_bits
                        found[int(far_to ^ near_to ^ step) << lane_bits | lane] = source
        np.testing.assert_array_equal(found, wanted)
    assert {0, 1, 2, 3} <= seen


# --- what a fresh state leaves out ---


@pytest.mark.parametrize("precision", PRECISIONS)
def test_zeros_that_nobody_wrote(precision: Precision) -> None:
    """Circuits that touch few qubits: the rest of a fresh state is not read, not worked on, and zero in the end."""
    random = np.random.default_rng(4)
    for _ in range(12):
        some = [int(q) for q in random.choice(BITS, 3, replace=False)]
        gates = [gate("u", some[0], params=[0.3, 0.2, 0.1]), gate("cx", some[0], some[1]), gate("h", some[2])]
        gates += [gate("cp", some[1], some[2], params=[math.pi / 3]), gate("rxx", *some[:2], params=[0.7])]
        for block_bits in (BITS, BITS - 2):
            check(gates, precision, block_bits)


def from_zero(gates: list[Gate], n: int, block_bits: int, precision: Precision) -> list[EncodedSweep]:
    """The same as ``check`` for a state that is known to be |0…0>, in a layout of the planner's choice."""
    plan = plan_from_zero(gates, n, n, block_bits)
    encoded = encode(plan, (), precision, from_zero=True)
    for is_filled in (False, True):  # that zeros are there makes no difference
        state = State.zero(plan.start, Team(), precision)
        if is_filled:
            state.fill()
        state.run(plan, encoded)
        wanted = dense.final_state(Circuit(n, 0, tuple(gates)))
        np.testing.assert_allclose(state.amplitudes(), wanted, atol=TOLERANCE[precision])
    return [sweep for stage in encoded for sweep in stage]


def layered(n: int, kind: str, random: np.random.Generator, layers: int = 2) -> list[Gate]:
    """Rotations, phases, and for some kinds what moves numbers, or what a Fourier transform has; or no phases."""
    gates: list[Gate] = []
    for _ in range(layers):
        gates += [gate("ry", q, params=[float(random.uniform(0.2, 1))]) for q in range(n)]
        if kind == "real":
            gates += [gate("cx", q, q + 1) for q in range(int(random.integers(n)), n - 1)]
            continue
        if kind == "moved":
            gates += [gate("x", int(random.integers(n))), *(gate("cx", q, q + 1) for q in range(n - 1))]
        pairs = [random.choice(n, 2, replace=False).tolist() for _ in range(n)]
        gates += product_terms(pairs, random)
    if kind == "fourier":
        for q in reversed(range(n)):
            gates += [gate("h", q), *(gate("cp", other, q, params=[math.pi / (1 << q - other)]) for other in range(q))]
    return gates


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["phases", "moved", "fourier", "real"])
def test_what_is_spread_is_loaded_by_the_row_that_follows(kind: str, precision: Precision) -> None:
    """By phases, with and without turns, by butterflies and rotations; from where numbers are before they are moved."""
    n, seen = 13, set()
    for seed in range(12):
        random = np.random.default_rng(seed)
        gates = layered(n, kind, random, 4 if kind == "real" else 2)
        if kind == "fourier":
            gates = [gate("ry", q, params=[0.3 + 0.1 * q]) for q in range(n)] + gates[-n * (n + 1) // 2 :]
        for block_bits in (9, 11, 12):
            for sweep in from_zero(gates, n, block_bits, precision):
                kinds = sweep.ops[:, columns.KIND].tolist()
                for number, row in enumerate(sweep.ops):
                    if row[columns.FROM_MEMORY]:
                        assert kinds[:number] in ([columns.SPREAD], [columns.SPREAD, columns.ARRANGE])
                        turns = bool(row[columns.RANK if kind == "real" else columns.NUM_TARGETS])
                        moved = sweep.ops[number - 1]
                        outside = moved[columns.KIND] == columns.ARRANGE and moved[columns.NUM_ENTRIES]
                        seen.add((kinds[number], turns, number - 1, bool(outside)))
    phases, butterflies, rotations = columns.QUADRATIC, columns.BUTTERFLIES, columns.ROTATE
    wanted = {
        "phases": {(phases, False, 0, False), (phases, True, 0, False)},
        "moved": {(phases, False, 1, False), (phases, False, 1, True)},
        "fourier": {(butterflies, True, 0, False)},
        "real": {(rotations, False, 1, False), (rotations, True, 1, False)},
    }
    assert wanted[kind] <= seen


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["phases", "moved", "fourier", "real"])
def test_what_the_last_row_leaves_is_stored_past_the_caches(
    kind: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the row itself: phases with turns, without, and with the bit that all terms share; rotations."""
    n, seen = 16, set()  # planes of as much as this are aligned
    monkeypatch.setattr(sweep_numba, "STREAM_FROM_BYTES", 0)
    for seed in range(2):
        gates = layered(n, kind, np.random.default_rng(seed), 1 + seed)
        for extra in ([], [gate("ry", q, params=[0.3]) for q in (5, 6, 7)]):
            plan = plan_from_zero([*gates, *extra], n, n, 11)
            encoded = encode(plan, (), precision, from_zero=True)
            state = State.zero(plan.start, Team(), precision)
            assert sweep_numba._is_streamed(state._re, state._unset)
            state.run(plan, encoded)
            wanted = dense.final_state(Circuit(n, 0, (*gates, *extra)))
            np.testing.assert_allclose(state.amplitudes(), wanted, atol=TOLERANCE[precision])
            for sweep in encoded[0]:
                row = sweep.ops[-1]
                if row[columns.TO_MEMORY]:
                    seen.add((int(row[columns.KIND]), int(row[columns.NUM_TARGETS])))
    phases, rotations = columns.QUADRATIC, columns.ROTATE
    wanted = {"real": {(rotations, 3)}, "fourier": {(phases, 1)}}
    assert wanted.get(kind, {(phases, 0), (phases, 3)}) <= seen


@pytest.mark.parametrize("precision", PRECISIONS)
def test_stores_past_the_caches(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that is written past the caches is the one that is written through them, whatever was zero before."""
    n = 20  # planes from 4 MiB on are aligned
    circuit = Circuit(n, 0, tuple([gate("h", q) for q in range(n)] + [gate("cx", q, q + 1) for q in range(n - 1)]))
    plan = plan_from_zero(circuit.instructions, n, n, 13)  # type: ignore[arg-type]
    planes = []
    for at_least in (1 << 40, 0):
        monkeypatch.setattr(sweep_numba, "STREAM_FROM_BYTES", at_least)
        state = State.zero(plan.start, Team(), precision)
        assert sweep_numba._is_streamed(state._re, state._unset) == (at_least == 0)
        state.run(plan, encode(plan, (), precision))
        planes.append((state.re.copy(), state.im.copy()))
    np.testing.assert_array_equal(planes[0], planes[1])
