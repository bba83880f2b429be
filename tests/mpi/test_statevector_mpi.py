"""Amplitudes: every gate of the table wherever its qubits may live, on the ranks of this job, against the oracle.

States are made by hand from a random vector scattered over the ranks through a layout, so that no gate has to bring
them about; expected amplitudes are looked up on every rank through the layout at the end. Nothing is gathered.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import dense
import numpy as np
import pytest

from qsimenv import arrays, gates
from qsimenv.circuit import Circuit, Gate, gate
from qsimenv.comm import Team
from qsimenv.statevec import exchange
from qsimenv.statevec.encoding.encode import encode
from qsimenv.statevec.encoding.rows import REAL_TYPE, EncodedSweep
from qsimenv.statevec.exchange import trade_bits
from qsimenv.statevec.kernels import sweep_numba
from qsimenv.statevec.kernels.devices import DeviceName, device
from qsimenv.statevec.measuring import expectation, pauli_groups, pauli_numba, sampling, sampling_numba, weights_numba
from qsimenv.statevec.planning import planner
from qsimenv.statevec.planning.layout import Layout
from qsimenv.statevec.planning.plan import Plan
from qsimenv.statevec.planning.planner import make_plan, plan_from_zero
from qsimenv.statevec.planning.steps import mixed_qubits
from qsimenv.statevec.state import State
from qsimenv.task import Observable, Precision

pytestmark = pytest.mark.mpi

ON: DeviceName = "gpu" if arrays.wished("auto") == "gpu" else "cpu"
"""Where the states of these tests lie: see the option --device."""
TOLERANCE: dict[Precision, float] = {"double": 1e-12, "single": 1e-5}
PRECISIONS: tuple[Precision, ...] = ("double", "single")
FIXED_NAMES = [name for name in gates.NAMES if name != gates.UNITARY]
QUBITS = 9
CHUNKS = [(12, 10, 14), (3, 1, 1), (1, 2, 3), (2, 1, 7), (4, 1, 5)]


def set_chunks(first: int, middle: int, last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many qubits are drawn at a time: first, then at most so many, at last at most so many."""
    for name, size in (("FIRST", first), ("LARGEST_FIRST", first), ("MIDDLE", middle), ("LAST", last)):
        monkeypatch.setattr(sampling, f"{name}_CHUNK", size)


def rank_bits(team: Team) -> int:
    return team.size.bit_length() - 1


def random_state(num_qubits: int, rng: np.random.Generator) -> np.ndarray:
    state = rng.normal(size=1 << num_qubits) + 1j * rng.normal(size=1 << num_qubits)
    return state / np.linalg.norm(state)


def logical_indices(layout: Layout, rank: int) -> np.ndarray:
    """For each amplitude that a rank stores: the index in the order of the qubits. Written out, bit by bit."""
    stored = (rank << layout.num_local) + np.arange(1 << layout.num_local)
    logical = np.zeros_like(stored)
    for qubit, bit in enumerate(layout.bits):
        inverted = (layout.flips >> bit) % 2
        logical += (((stored >> bit) % 2) ^ inverted) << qubit
    return logical


def scatter(vector: np.ndarray, layout: Layout, team: Team, precision: Precision) -> State:
    mine = vector[logical_indices(layout, team.rank)]
    planes = [device(ON).empty(len(mine), REAL_TYPE[precision]) for _ in range(2)]
    for part, plane in zip((mine.real, mine.imag), planes, strict=True):
        device(ON).from_host(np.ascontiguousarray(part, dtype=plane.dtype), plane)
    return State(*planes, layout, team)


def planes_of(state: State) -> tuple[np.ndarray, np.ndarray]:
    """Copies that NumPy can read, wherever the state lies."""
    return state.device.to_host(state.re).copy(), state.device.to_host(state.im).copy()


def encoded(plan: Plan, precision: Precision, values: Sequence[float] = ()) -> tuple[tuple[EncodedSweep, ...], ...]:
    return encode(plan, values, precision, device(ON).form)


def assert_amplitudes(state: State, vector: np.ndarray, precision: Precision, what: object = "") -> None:
    wanted = vector[logical_indices(state.layout, state.team.rank)]
    re, im = planes_of(state)
    found = (re.astype(float) + 1j * im) * getattr(state, "scale", 1.0)
    deviation = float(np.abs(found - wanted).max())
    assert deviation < TOLERANCE[precision], f"rank {state.team.rank} is off by {deviation:.1e}: {what}"


def check(
    gate_list: Sequence[Gate], layout: Layout, team: Team, precision: Precision, rng: np.random.Generator,
    block_bits: int = 15, values: Sequence[float] = (),
) -> Plan:  # fmt: skip
    """Run gates on a random state in ``layout`` and compare with the oracle."""
    vector = random_state(len(layout.bits), rng)
    state = scatter(vector, layout, team, precision)
    made = make_plan(gate_list, layout, block_bits)
    state.run(made, encoded(made, precision, values))
    assert state.layout == made.end
    for one in gate_list:
        vector = dense.apply_gate(vector, one, values)
    assert_amplitudes(state, vector, precision, f"{layout} {made}")
    return made


def placements(
    num_gate_qubits: int, num_rank_bits: int, rng: np.random.Generator
) -> Iterator[tuple[tuple[int, ...], Layout]]:
    """Qubits for a gate, and layouts: every choice of which of them live on rank bits, the others spread at random.

    Each on ten qubits with inverted bits and on seven without: large and small blocks are encoded in different ways.
    """
    for num_qubits in (10, 7):
        num_local = num_qubits - num_rank_bits
        for count in range(max(0, num_gate_qubits - num_local), min(num_gate_qubits, num_rank_bits) + 1):
            for away in itertools.combinations(range(num_gate_qubits), count):
                qubits = tuple(int(q) for q in rng.permutation(num_qubits)[:num_gate_qubits])
                bits = _place(num_qubits, num_local, qubits, [qubits[k] for k in away], rng)
                yield qubits, Layout(bits, num_local, int(rng.integers(1 << num_qubits)) if num_qubits == 10 else 0)


def _place(
    num_qubits: int, num_local: int, qubits: Sequence[int], away: Sequence[int], rng: np.random.Generator
) -> tuple[int, ...]:
    """Bits for all qubits, so that of ``qubits`` those in ``away`` live on rank bits and the others on local ones."""
    high, low = ([int(b) for b in rng.permutation(r)] for r in (range(num_local, num_qubits), range(num_local)))
    bits = {qubit: (high if qubit in away else low).pop() for qubit in qubits}
    others = [*high, *low]
    rng.shuffle(others)
    return tuple(bits[qubit] if qubit in bits else others.pop() for qubit in range(num_qubits))


def arity(name: str) -> int:
    if name not in gates.CONTROLLED:
        return gates.BASE[name].num_targets
    row = gates.CONTROLLED[name]
    return (4 if row.num_controls is None else row.num_controls) + gates.BASE[row.base].num_targets


def angles(name: str, rng: np.random.Generator) -> list[float]:
    return [float(a) for a in rng.uniform(-7, 7, gates.num_params(name))]


def unitary(num_targets: int, rng: np.random.Generator) -> np.ndarray:
    size = 1 << num_targets
    return np.linalg.qr(rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size)))[0]


def random_gate(num_qubits: int, reach: int, rng: np.random.Generator) -> Gate:
    """Any gate of the table that fits, now and then under open controls, or a unitary of its own."""
    while True:
        name = str(rng.choice(gates.NAMES))
        num_targets = int(rng.integers(1, min(reach, 3) + 1)) if name == gates.UNITARY else arity(name)
        added = int(rng.integers(0, 3)) if rng.random() < 0.3 else 0
        if num_targets + added > num_qubits:
            continue
        qubits = tuple(int(q) for q in rng.permutation(num_qubits)[: num_targets + added])
        matrix = unitary(num_targets, rng).tobytes() if name == gates.UNITARY else b""
        made = Gate(name, qubits, tuple(angles(name, rng)), added, -1, matrix)
        if made.num_controls and rng.random() < 0.5:
            made = Gate(name, qubits, made.params, added, int(rng.integers(1 << made.num_controls)), matrix)
        if len(mixed_qubits(made)) <= reach:
            return made


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", FIXED_NAMES)
def test_every_gate_on_every_placement(name: str, precision: Precision, team: Team) -> None:
    rng = np.random.default_rng(gates.NAMES.index(name))
    for qubits, layout in placements(arity(name), rank_bits(team), rng):
        check([gate(name, *qubits, params=angles(name, rng))], layout, team, precision, rng)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", FIXED_NAMES)
def test_every_gate_under_open_controls(name: str, precision: Precision, team: Team) -> None:
    """One or two controls more, every value of all controls (some of them where there are many)."""
    rng = np.random.default_rng(100 + gates.NAMES.index(name))
    for added in (1, 2):
        places = list(placements(arity(name) + added, rank_bits(team), rng))
        probe = Gate(name, places[0][0], tuple(angles(name, rng)), added)
        for state in {int(s) for s in rng.integers(1 << probe.num_controls, size=4)} | {0}:
            qubits, layout = places[int(rng.integers(len(places)))]
            check([Gate(name, qubits, tuple(angles(name, rng)), added, state)], layout, team, precision, rng)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("num_targets", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("controls", [0, 1, 2])
def test_unitaries(num_targets: int, controls: int, precision: Precision, team: Team) -> None:
    rng = np.random.default_rng(num_targets)
    for qubits, layout in placements(num_targets + controls, rank_bits(team), rng):
        state = int(rng.integers(1 << controls)) if controls else -1
        made = Gate(gates.UNITARY, qubits, (), controls, state, unitary(num_targets, rng).tobytes())
        check([made], layout, team, precision, rng)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_unitaries_with_special_structure(precision: Precision, team: Team) -> None:
    """Diagonal, block-diagonal in one target, and real matrices take other ways through the planner and the kernels."""
    rng = np.random.default_rng(8)
    diagonal = np.diag(np.exp(1j * rng.uniform(0, 6, 8)))
    blocks = np.zeros((8, 8), dtype=complex)
    for value in (0, 1):  # the middle target is not mixed
        chosen = [k for k in range(8) if k >> 1 & 1 == value]
        blocks[np.ix_(chosen, chosen)] = unitary(2, rng)
    real = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    for matrix in (diagonal, blocks, real, np.eye(4), dense.X, np.kron(dense.X, dense.I2)):
        num_targets = len(matrix).bit_length() - 1
        for qubits, layout in placements(num_targets, rank_bits(team), rng):
            check([gate("unitary", *qubits, matrix=matrix)], layout, team, precision, rng)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("low_bits", "block_bits"), [(1, 4), (2, 5), (0, 4), (3, 7), (6, 15), (5, 9), (2, 8)])
def test_random_circuits_in_small_blocks(
    low_bits: int, block_bits: int, precision: Precision, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks with gaps, several sweeps a stage, several stages; inverted bits at the start."""
    monkeypatch.setattr(planner, "LOW_BITS", low_bits)
    rng = np.random.default_rng(block_bits)
    num_qubits = {8: 13, 9: 13, 15: 12}.get(block_bits, 10)
    num_local = num_qubits - rank_bits(team)
    gaps, exchanges = False, 0
    for _ in range(4):
        flips = int(rng.integers(1 << num_qubits))
        layout = Layout(tuple(int(b) for b in rng.permutation(num_qubits)), num_local, flips)
        circuit = [random_gate(num_qubits, min(3, block_bits - low_bits), rng) for _ in range(50)]
        made = check(circuit, layout, team, precision, rng, block_bits)
        exchanges += made.num_exchanges
        assert made.num_sweeps > len(made.stages) or block_bits == 15
        gaps = gaps or any(s.block != tuple(range(len(s.block))) for stage in made.stages for s in stage.sweeps)
    assert gaps == (block_bits < num_local)
    assert (exchanges > 0) == (team.size > 1)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_threads_share_the_work(precision: Precision, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels for many threads, on a state so small that they would not be taken."""
    monkeypatch.setattr(sweep_numba, "PARALLEL_FROM", 2)
    rng = np.random.default_rng(3)
    for num_qubits, block_bits in ((10, 9), (12, 9), (9, 6)):
        monkeypatch.setattr(planner, "LOW_BITS", 3)
        flips = int(rng.integers(1 << num_qubits))
        layout = Layout(tuple(int(b) for b in rng.permutation(num_qubits)), num_qubits - rank_bits(team), flips)
        check([random_gate(num_qubits, 3, rng) for _ in range(30)], layout, team, precision, rng, block_bits)
        vector = random_state(num_qubits, rng)
        for qubit in range(num_qubits):
            _check_measurement(vector, layout, qubit, team, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block_bits", [8, 15])
def test_phases_by_the_parity_of_any_bits_need_no_exchange(block_bits: int, precision: Precision, team: Team) -> None:
    rng, n = np.random.default_rng(17), 11
    for _ in range(4):
        layout = Layout(tuple(int(b) for b in rng.permutation(n)), n - rank_bits(team), int(rng.integers(1 << n)))
        circuit: list[Gate] = []
        for _ in range(6):
            order = [int(q) for q in rng.permutation(n)[: rng.integers(2, n + 1)]]
            ladder = [gate("cx", a, b) for a, b in itertools.pairwise(order)]
            circuit += [*ladder, gate("rz", order[-1], params=[float(rng.uniform(-2, 2))]), *ladder[::-1]]
            local = [qubit for qubit in range(n) if layout.bits[qubit] < layout.num_local]
            circuit += [gate("ry", qubit, params=[0.4 + qubit]) for qubit in local[:2]]
        made = check(circuit, layout, team, precision, rng, block_bits)
        assert not any(stage.exchange for stage in made.stages)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_and_collapse(precision: Precision, team: Team) -> None:
    rng = np.random.default_rng(4)
    for _ in range(5):
        flips = int(rng.integers(1 << QUBITS))
        layout = Layout(tuple(int(b) for b in rng.permutation(QUBITS)), QUBITS - rank_bits(team), flips)
        vector = random_state(QUBITS, rng)
        for qubit in range(QUBITS):
            _check_measurement(vector, layout, qubit, team, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_measuring_and_copying_after_gates(precision: Precision, team: Team) -> None:
    """Whatever factors the gates have put aside belong to the weights, to a copy and to what is left."""
    rng = np.random.default_rng(16)
    layout = Layout(tuple(int(b) for b in rng.permutation(11)), 11 - rank_bits(team), 77)
    vector = random_state(11, rng)
    circuit = [gate("ry", q, params=[1.3]) for q in range(11)] + [gate("h", q) for q in range(11)]
    made = make_plan(circuit, layout, 15)
    state = scatter(vector, layout, team, precision)
    state.run(made, encoded(made, precision))
    for one in circuit:
        vector = dense.apply_gate(vector, one)
    for qubit in (0, 10, 4):
        part = np.where(np.arange(len(vector)) >> qubit & 1, vector, 0)
        weight = float(np.vdot(part, part).real)
        assert state.weights(qubit) == pytest.approx((1 - weight, weight), abs=TOLERANCE[precision])
        other = state.copy()
        assert_amplitudes(other, vector, precision, "copy")
        other.collapse(qubit, 1, weight)
        assert_amplitudes(other, part / np.sqrt(weight), precision, qubit)
        assert_amplitudes(state, vector, precision, "the copied state stays as it was")
        assert other.amplitudes() == pytest.approx(part / np.sqrt(weight), abs=TOLERANCE[precision])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("first", "middle", "last"), CHUNKS)
def test_samples_of_some_qubits_in_any_order(
    first: int, middle: int, last: int, precision: Precision, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_chunks(first, middle, last, monkeypatch)
    rng = np.random.default_rng(12)
    for turn in range(4):
        flips = int(rng.integers(1 << QUBITS))
        layout = Layout(tuple(int(b) for b in rng.permutation(QUBITS)), QUBITS - rank_bits(team), flips)
        vector = random_state(QUBITS, rng)
        qubits = [int(q) for q in rng.permutation(QUBITS)[:5]]
        drawn = sampling.sample(
            scatter(vector, layout, team, precision), qubits, sampling.Draw(turn, 0, np.arange(5_000))
        )
        index = np.arange(1 << QUBITS)
        outcome = sum(((index >> qubit) % 2) << k for k, qubit in enumerate(qubits))
        exact = dict(enumerate(np.bincount(outcome, np.abs(vector) ** 2).tolist()))
        counts = dict(enumerate(np.bincount(drawn, minlength=1 << len(qubits)).tolist()))
        assert dense.chi_square_excess(counts, exact) < 6


@pytest.mark.parametrize("parallel_from", [1 << 15, 1])
@pytest.mark.parametrize(("first", "middle", "last"), CHUNKS)
def test_samples_depend_on_nothing_but_state_and_seed(
    first: int, middle: int, last: int, parallel_from: int, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on the layout, not on ranks and threads: each shot is what the running sums of the oracle say."""
    set_chunks(first, middle, last, monkeypatch)
    monkeypatch.setattr(sampling_numba, "PARALLEL_FROM", parallel_from)
    monkeypatch.setattr(weights_numba, "PARALLEL_FROM", parallel_from)
    rng = np.random.default_rng(13)
    vector = random_state(QUBITS, rng)
    vector[rng.permutation(1 << QUBITS)[:300]] = 0
    vector /= np.linalg.norm(vector)
    num_local = QUBITS - rank_bits(team)
    straight, reverse = tuple(range(QUBITS)), tuple(reversed(range(QUBITS)))
    layouts = [Layout(straight, num_local), Layout(straight, num_local, 0b100000101), Layout(reverse, num_local)]
    layouts += [Layout(tuple(int(b) for b in rng.permutation(QUBITS)), num_local, 77) for _ in range(3)]
    for qubits in ([*range(QUBITS)], [7, 0, 3, 8, 1], [2]):
        draw = sampling.Draw(3, 1, np.array([5, 2, 9, *range(4_000)]))
        wanted = _drawn_by_the_oracle(vector, qubits, draw)
        for layout in layouts:
            drawn = sampling.sample(scatter(vector, layout, team, "double"), qubits, draw)
            assert np.array_equal(drawn, wanted), (layout, qubits)


def _drawn_by_the_oracle(vector: np.ndarray, qubits: Sequence[int], draw: sampling.Draw) -> np.ndarray:
    """Shot by shot, chunk by chunk of the sorted qubits, from the highest down."""
    order = sorted(qubits)
    index = np.arange(len(vector))
    weights = np.bincount(sum((index >> qubit & 1) << k for k, qubit in enumerate(order)), np.abs(vector) ** 2)
    values = np.zeros(len(draw.chosen), dtype=np.int64)
    undrawn = len(order)
    for number, size in enumerate(sampling.chunk_sizes(len(order))):
        undrawn -= size
        table = weights.reshape(-1, 1 << size, 1 << undrawn).sum(axis=2)
        stream = np.random.Generator(np.random.Philox(key=draw.seed, counter=[0, 0, (1 << 40) + number, draw.run]))
        for shot, place in enumerate(stream.random(int(draw.chosen.max()) + 1)[draw.chosen]):
            sums = np.cumsum(table[values[shot]])
            values[shot] = values[shot] << size | np.searchsorted(sums, place * sums[-1], side="right")
    return sum((values >> k & 1) << list(qubits).index(qubit) for k, qubit in enumerate(order))


def test_all_the_weight_in_one_place_and_no_shots(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    set_chunks(3, 1, 4, monkeypatch)
    layout = Layout(tuple(range(QUBITS)), QUBITS - rank_bits(team), 0b101)
    for place in (0, 1, 300, (1 << QUBITS) - 1):
        vector = np.zeros(1 << QUBITS, dtype=complex)
        vector[place] = 1j
        state = scatter(vector, layout, team, "single")
        drawn = sampling.sample(state, range(QUBITS), sampling.Draw(1, 0, np.arange(100)))
        assert drawn.tolist() == [place] * 100
        assert sampling.sample(state, range(QUBITS), sampling.Draw(1, 0, np.arange(0))).tolist() == []
        assert sampling.sample(state, [], sampling.Draw(1, 0, np.arange(2))).tolist() == [0, 0]


def _check_measurement(vector: np.ndarray, layout: Layout, qubit: int, team: Team, precision: Precision) -> None:
    there = np.arange(len(vector)) >> qubit & 1
    parts = [np.where(there == value, vector, 0) for value in (0, 1)]
    for value in (0, 1):
        state = scatter(vector, layout, team, precision)
        found = state.weights(qubit)
        wanted = [float(np.vdot(part, part).real) for part in parts]
        assert found == pytest.approx(wanted, abs=TOLERANCE[precision])
        state.collapse(qubit, value, found[value])
        assert_amplitudes(state, parts[value] / np.sqrt(wanted[value]), precision, (qubit, value))
        assert sum(state.weights(qubit)) == pytest.approx(1, abs=TOLERANCE[precision])


SPECIAL_ANGLES = [
    sign * angle + offset
    for angle in (0.0, np.pi / 2, np.pi, 2 * np.pi, 3 * np.pi) for sign in (1, -1) for offset in (0.0, 1e-8, -1e-5)
]  # fmt: skip
"""Where sines, cosines and their quotients are zero, one, infinite, or next to it."""


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("num_qubits", [7, 11])
def test_special_angles(num_qubits: int, precision: Precision, team: Team) -> None:
    rng = np.random.default_rng(13)
    names = [name for name in FIXED_NAMES if gates.num_params(name)]
    for _ in range(6):
        circuit = []
        for name in rng.permutation(names):
            qubits = (int(q) for q in rng.permutation(num_qubits)[: arity(name)])
            special = [float(a) for a in rng.choice(SPECIAL_ANGLES, gates.num_params(name))]
            circuit += [gate(str(name), *qubits, params=special), random_gate(num_qubits, 3, rng)]
        layout = Layout(tuple(int(b) for b in rng.permutation(num_qubits)), num_qubits - rank_bits(team), 3)
        check(circuit, layout, team, precision, rng)


SIMPLE_NAMES = [
    *("x", "y", "z", "h", "s", "t", "sx", "p", "rx", "ry", "rz", "u"),
    *("cx", "cx", "cx", "cx", "cz", "cp", "rzz", "crz", "swap"),
]
"""What layers of circuits are made of; the planner and the encoder melt long runs of these together."""


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("num_qubits", "low_bits", "block_bits"), [(10, 6, 15), (12, 6, 15), (12, 4, 8), (12, 5, 9)])
@pytest.mark.parametrize("moving", [0.1, 0.4])
def test_long_runs_of_simple_gates(
    num_qubits: int, low_bits: int, block_bits: int, moving: float, precision: Precision, team: Team,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(planner, "LOW_BITS", low_bits)
    rng = np.random.default_rng(15)
    melting = [name for name in SIMPLE_NAMES if name[0] in "xzstcp" or name in ("rz", "rzz")]
    for _ in range(3):
        circuit = []
        for _ in range(150):
            name = str(rng.choice(SIMPLE_NAMES if rng.random() < moving else melting))
            qubits = tuple(int(q) for q in rng.permutation(num_qubits)[: arity(name)])
            state = int(rng.integers(-1, 1)) if name in ("cx", "cz", "cp") else -1
            circuit.append(Gate(name, qubits, tuple(angles(name, rng)), control_state=state))
        flips = int(rng.integers(1 << num_qubits))
        layout = Layout(tuple(int(b) for b in rng.permutation(num_qubits)), num_qubits - rank_bits(team), flips)
        check(circuit, layout, team, precision, rng, block_bits)


def test_a_deep_circuit(team: Team) -> None:
    """Thousands of gates: factors that are put aside must neither vanish nor pile up."""
    rng = np.random.default_rng(14)
    circuit = [random_gate(9, 3, rng) for _ in range(300)]
    for layer in range(60):
        circuit += [gate("ry", q, params=[3.1 if layer % 2 else 0.4]) for q in range(9)]
        circuit += [gate("cx", q, (q + 1) % 9) for q in range(9)] + [gate("h", q) for q in range(9)]
        circuit += [gate("rx", q, params=[-np.pi + 1e-3 * layer]) for q in range(9)]
    layout = Layout(tuple(int(b) for b in rng.permutation(9)), 9 - rank_bits(team), 5)
    check(circuit, layout, team, "double", rng)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_formulas_at_their_values(precision: Precision, team: Team) -> None:
    rng = np.random.default_rng(6)
    circuit = [gate("rx", q, params=[f"p0 + {q}"]) for q in range(QUBITS)]
    circuit += [gate("cp", q, (q + 3) % QUBITS, params=["2*p1"]) for q in range(QUBITS)]
    circuit += [gate("u", q, params=["p0/2", "-p1", "sin(p0)"]) for q in range(QUBITS)]
    layout = Layout(tuple(reversed(range(QUBITS))), QUBITS - rank_bits(team), 5)
    check(circuit, layout, team, precision, rng, values=[0.7, -1.9])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_circuit_and_its_inverse(precision: Precision, team: Team) -> None:
    rng = np.random.default_rng(7)
    circuit = Circuit(QUBITS, 0, tuple(random_gate(QUBITS, 3, rng) for _ in range(60)))
    layout = Layout(tuple(int(b) for b in rng.permutation(QUBITS)), QUBITS - rank_bits(team), 9)
    vector = random_state(QUBITS, rng)
    state = scatter(vector, layout, team, precision)
    for half in (circuit, circuit.inverse()):
        made = make_plan(half.instructions, state.layout, 15)
        state.run(made, encoded(made, precision))
    assert_amplitudes(state, vector, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_amplitudes_are_in_the_order_of_the_qubits(precision: Precision, team: Team) -> None:
    rng = np.random.default_rng(9)
    for flips in (0, 1, 37, 511):
        layout = Layout(tuple(int(b) for b in rng.permutation(QUBITS)), QUBITS - rank_bits(team), flips)
        vector = random_state(QUBITS, rng)
        found = scatter(vector, layout, team, precision).amplitudes()
        assert found.dtype == (np.complex128 if precision == "double" else np.complex64)
        assert np.abs(found - vector).max() < TOLERANCE[precision]


@pytest.mark.parametrize("flips", [0, 3, 200])
def test_zero_is_the_state_of_zeros(flips: int, team: Team) -> None:
    layout = Layout(tuple(reversed(range(QUBITS))), QUBITS - rank_bits(team), flips)
    assert_amplitudes(State.zero(layout, team, "double", on=ON), dense.zero_state(QUBITS), "double")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("num_pairs", [1, 2])
@pytest.mark.parametrize("piece_bytes", [8 << 20, 64])
def test_exchange_moves_every_amplitude_and_back(
    num_pairs: int, piece_bytes: int, precision: Precision, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    if num_pairs > rank_bits(team):
        pytest.skip("as many rank bits as pairs are needed")
    monkeypatch.setattr(exchange, "PIECE_BYTES", piece_bytes)
    rng = np.random.default_rng(10)
    num_local = QUBITS - rank_bits(team)
    vector = random_state(QUBITS, rng)
    for local in itertools.permutations(range(num_local), num_pairs):
        for away in itertools.permutations(range(num_local, QUBITS), num_pairs):
            pairs = tuple(zip(local, away, strict=True))
            layout = Layout(tuple(int(b) for b in rng.permutation(QUBITS)), num_local, int(rng.integers(1 << QUBITS)))
            state = scatter(vector, layout, team, precision)
            before = planes_of(state)
            sent = trade_bits((state.re, state.im), num_local, pairs, team)
            assert sent == 2 * (state.re.nbytes - (state.re.nbytes >> num_pairs))
            state.layout = layout.exchanged(pairs)
            assert_amplitudes(state, vector, precision, pairs)
            trade_bits((state.re, state.im), num_local, pairs, team)
            for found, wanted in zip(planes_of(state), before, strict=True):
                assert np.array_equal(found, wanted)


def test_the_planned_bytes_are_the_bytes_that_were_sent(team: Team) -> None:
    """From |0…0> the first trade of a rank bit needs no message; from any other state it does."""
    rng = np.random.default_rng(11)
    layout = Layout(tuple(range(10)), 10 - rank_bits(team))
    made = make_plan([random_gate(10, 3, rng) for _ in range(60)], layout, 15)
    for blank in (True, False):
        state = State.zero(layout, team, "single", on=ON)
        if not blank:
            state = scatter(random_state(10, rng), layout, team, "single")
        state.run(made, encoded(made, "single"))
        assert state.work.bytes_exchanged == made.bytes_exchanged(8, from_zero=blank)
        assert (state.work.exchanges, state.work.sweeps) == (made.num_exchanges, made.num_sweeps)
    assert made.num_exchanges > 0 or team.size == 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_runs_from_zero(precision: Precision, team: Team) -> None:
    """All ranks work on |0…0> until their bits are traded; gates that never trade some of them; runs one after another.

    ``wide`` gates mix any qubit, ``narrow`` ones leave the qubits of the highest rank bits alone.
    """
    rng = np.random.default_rng(17)
    for turn in range(12):
        flips = int(rng.integers(1 << QUBITS))
        layout = Layout(tuple(int(b) for b in rng.permutation(QUBITS)), QUBITS - rank_bits(team), flips)
        wide = [random_gate(QUBITS, 3, rng) for _ in range(12)]
        narrow = [gate("h", q) for q in range(QUBITS) if layout.bits[q] < QUBITS - 1 or team.size == 1]
        narrow += [gate("cx", a, b) for a in layout.qubits for b in layout.qubits[: QUBITS - 1] if a != b][:20]
        state, vector = State.zero(layout, team, precision, on=ON), dense.zero_state(QUBITS)
        if turn % 3 == 1:
            state = state.copy()
        elif turn % 3 == 2:
            state.collapse(0, 0, 1.0)
        for part in (narrow, wide) if turn % 2 else (wide, narrow):
            made = make_plan(part, state.layout, 15)
            state.run(made, encoded(made, precision))
            for one in part:
                vector = dense.apply_gate(vector, one)
            assert_amplitudes(state, vector, precision, turn)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block_bits", [8, 10, 11])
def test_encoded_for_zero_alone(block_bits: int, precision: Precision, team: Team) -> None:
    """What is left out because bits are 0 is right on all ranks: first, after trades, on a filled state."""
    rng, num_qubits = np.random.default_rng(23), 13
    for turn in range(6):
        layer = [gate("rx", q, params=[0.5 + 0.2 * q]) if turn % 2 else gate("h", q) for q in range(num_qubits)]
        some = [random_gate(num_qubits, 3, rng) for _ in range(10)]
        gates = [[*layer, *some], [*some, *layer], [*some[:5], *layer, *some[5:]]][turn % 3]
        made = plan_from_zero(gates, num_qubits, num_qubits - rank_bits(team), block_bits, 4)
        state = State.zero(made.start, team, precision, on=ON)
        assert state.is_untouched
        if turn > 2:
            state.fill()
        state.run(made, encode(made, (), precision, device(ON).form, from_zero=True))
        assert not state.is_untouched
        vector = dense.zero_state(num_qubits)
        for one in gates:
            vector = dense.apply_gate(vector, one)
        assert_amplitudes(state, vector, precision, turn)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("num_qubits", "near_bits", "piece_bytes"),
    [(3, 14, 1 << 20), (6, 14, 64), (9, 7, 1 << 10), (13, 10, 1 << 14), (14, 14, 4096)],
)
def test_pauli_sums(
    num_qubits: int, near_bits: int, piece_bytes: int, precision: Precision, team: Team,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Small and large blocks, masks near and far, in one thread and in several, on inverted and shuffled bits."""
    monkeypatch.setattr(pauli_groups, "NEAR_BITS", near_bits)
    monkeypatch.setattr(pauli_groups, "LEAST_RUN_BITS", max(6, near_bits - 3))
    monkeypatch.setattr(expectation, "PIECE_BYTES", piece_bytes)
    rng = np.random.default_rng(num_qubits)
    vector = random_state(num_qubits, rng)
    letters = [rng.choice(list("IXYZ"), num_qubits) for _ in range(12)] + [rng.choice(list("IZ"), num_qubits)]
    strings = ["".join(word) for word in letters] + ["I" * num_qubits, "I" * (num_qubits - 1) + "Y"]
    terms = [[(word, float(rng.normal())) for word in strings], [(strings[0], 1.0), (strings[0], -3.0)], []]
    for parallel_from in (1, 1 << 15):
        monkeypatch.setattr(pauli_numba, "PARALLEL_FROM", parallel_from)
        bits = tuple(int(b) for b in rng.permutation(num_qubits))
        layout = Layout(bits, num_qubits - rank_bits(team), int(rng.integers(1 << num_qubits)))
        state = scatter(vector, layout, team, precision)
        state.scale = 0.5j
        found = expectation.expectation_values(state, [Observable(tuple(each)) for each in terms])
        wanted = [dense.expectation(vector, each) / 4 for each in terms]
        assert found == pytest.approx(wanted, abs=TOLERANCE[precision])
