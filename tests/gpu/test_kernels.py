"""The CUDA kernels, compiled by g++, against the oracle and the CPU's kernels: with one thread a block, and with many
that take turns forwards and backwards, so that what should not hang on their order is seen to do so."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import dense
import numpy as np
import pytest

from qsimenv.circuit import Gate, gate
from qsimenv.comm import Team
from qsimenv.errors import QSimEnvError
from qsimenv.statevec.encoding import rows
from qsimenv.statevec.encoding.encode import encode
from qsimenv.statevec.encoding.rows import REAL_TYPE
from qsimenv.statevec.kernels import slots_cupy, slots_numba, sweep_cupy, sweep_numba
from qsimenv.statevec.kernels.devices import device
from qsimenv.statevec.measuring import pauli_applied_numba, pauli_cupy
from qsimenv.statevec.planning.layout import Layout
from qsimenv.statevec.planning.planner import make_plan
from qsimenv.statevec.state import State
from qsimenv.task import Precision
from tests.gpu.stand_in import StandIn, needs_compiler

pytestmark = needs_compiler

WAYS = [(1, False), (32, False), (32, True)]
TOLERANCE: dict[Precision, float] = {"double": 1e-12, "single": 1e-5}
SMALL_SHARED = 60 << 10
"""Room for blocks of ten bits in double precision, eleven in single: several sweeps for twelve qubits."""
QUBITS = 12

Make = Callable[..., StandIn]
Planes = tuple[np.ndarray, np.ndarray]


@pytest.fixture(params=WAYS, ids=["one", "forwards", "backwards"])
def gpu(request: pytest.FixtureRequest, stand_in: Make) -> StandIn:
    threads, backwards = request.param
    return stand_in(threads, backwards=backwards, shared_bytes=SMALL_SHARED)


def random_planes(num_bits: int, rng: np.random.Generator, precision: Precision = "double") -> Planes:
    planes = rng.normal(size=(2, 1 << num_bits))
    re, im = (planes / np.linalg.norm(planes)).astype(REAL_TYPE[precision])
    return re, im


def layer(names: str, rng: np.random.Generator) -> list[Gate]:
    return [gate(name, q, params=[float(rng.uniform(-3, 3))]) for name in names.split() for q in range(QUBITS)]


def unitary(size: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size)))[0]


def circuits(rng: np.random.Generator) -> dict[str, list[Gate]]:
    """One for each kind of row."""
    chain = [gate("cx", q, (q + 5) % QUBITS) for q in range(QUBITS)]
    pairs = [(a, b) for a in range(QUBITS) for b in range(a)]
    wide = [gate("unitary", *(int(q) for q in rng.permutation(QUBITS)[:k]), matrix=unitary(1 << k, rng))
            for k in (1, 2, 3, 4, 5)]  # fmt: skip

    def string(qubits: np.ndarray, rng: np.random.Generator) -> list[Gate]:
        """A phase by the parity of some qubits, and one of them turned: a row has one parity."""
        ladder = [gate("cx", int(a), int(b)) for a, b in pairwise(qubits)]
        phase = gate("rz", int(qubits[-1]), params=[float(rng.uniform(-2, 2))])
        return [*ladder, phase, *ladder[::-1], gate("ry", int(qubits[0]), params=[1.1])]

    return {
        "rotations": layer("ry rx", rng),
        "phases": [*layer("ry", rng), *(gate("cp", a, b, params=[0.1 * a + b]) for a, b in pairs)],
        "permutations": [*layer("ry", rng), *chain, *(gate("cx", (q + 7) % QUBITS, q) for q in range(QUBITS))],
        "mixed": [*layer("ry rz", rng), *chain, *layer("rx", rng),
                  *(gate("rzz", a, b, params=[0.2]) for a, b in pairs)],
        "parities": [*layer("ry", rng), *(one for k in range(2, 9) for one in string(rng.permutation(QUBITS)[:k], rng)),
                     *(gate("cp", a, b, params=[0.1 * a + b]) for a, b in pairs[:9])],
        "dense": wide,
        "controlled": [*layer("ry", rng), gate("ccx", 1, 7, 3), gate("cswap", 0, 11, 4), gate("ccz", 2, 5, 9),
                       gate("ch", 10, 6), gate("crx", 8, 2, params=[0.7]),
                       gate("cu", 3, 9, params=[0.1, 0.2, 0.3, 0.4])],
    }  # fmt: skip


KINDS_OF = {
    "rotations": {rows.ROTATE}, "phases": {rows.QUADRATIC}, "permutations": {rows.PERMUTE},
    "parities": {rows.QUADRATIC}, "mixed": {rows.ROTATE, rows.QUADRATIC, rows.PERMUTE},
    "dense": {rows.TWO_TARGETS, rows.GENERAL}, "controlled": {rows.FLIP, rows.PHASE, rows.REAL},
}  # fmt: skip


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("family", sorted(KINDS_OF))
def test_sweeps(family: str, precision: Precision, gpu: StandIn) -> None:
    rng = np.random.default_rng(7)
    flips = int(rng.integers(1 << QUBITS))
    layout = Layout(tuple(int(b) for b in rng.permutation(QUBITS)), QUBITS, flips)
    gates = circuits(rng)[family]
    state = State.zero(layout, Team(), precision, on="gpu")
    found = device("gpu")
    plan = make_plan(gates, layout, found.block_bits(QUBITS, precision, 1), found.low_bits(precision))
    encoded = encode(plan, (), precision, found.form)
    state.run(plan, encoded)
    vector = dense.zero_state(QUBITS)
    for one in gates:
        vector = dense.apply_gate(vector, one)
    assert np.abs(state.amplitudes() - vector).max() < TOLERANCE[precision]
    assert KINDS_OF[family] <= {int(row[rows.KIND]) for stage in encoded for sweep in stage for row in sweep.ops}
    parities = sum(row[rows.PARITY] > 0 for stage in encoded for sweep in stage for row in sweep.ops)
    assert (parities >= 6) == (family == "parities")
    assert gpu.launches.count("sweep") == sum(len(stage) for stage in encoded) > (family in ("mixed", "rotations"))


@pytest.mark.parametrize("positions", [(0,), (5,), (0, 3), (2, 7, 8)])
def test_slots(positions: tuple[int, ...], gpu: StandIn) -> None:
    rng = np.random.default_rng(1)
    places = np.array(positions, dtype=np.int64)
    value, other = 1 << positions[-1], sum(1 << position for position in positions)
    on_host = random_planes(10, rng)[0]
    plane, count = gpu.upload(on_host), 1 << (10 - len(positions))
    for start in (0, count // 2):
        offsets = slots_numba.offsets_for(positions, count // 2)
        wanted, piece = np.empty(count // 2), gpu.empty(count // 2, np.float64)
        slots_numba.pack(on_host, places, offsets, value, start, wanted)
        slots_cupy.pack(plane, places, offsets, value, start, piece)
        assert np.array_equal(gpu.download(piece), wanted)
        slots_numba.unpack(on_host, places, offsets, other, start, wanted)
        slots_cupy.unpack(plane, places, offsets, other, start, piece)
        assert np.array_equal(gpu.download(plane), on_host)
    for source, target, unset in ((value, 0, 0), (other, value, 0), (0, 0, value), (value, other, other)):
        kept, before = gpu.upload(on_host), on_host.copy()
        slots_cupy.keep_slot(kept, places, source, target, unset)
        slots_numba.keep_slot(before, places, source, target, unset)
        assert np.array_equal(gpu.download(kept), before)


def test_small_changes(gpu: StandIn) -> None:
    rng = np.random.default_rng(2)
    for mask, value in ((0, 0), (0b1010, 0b1000), (1 << 9, 0)):
        on_host = random_planes(10, rng)[0]
        plane = gpu.upload(on_host)
        slots_cupy.put(plane, mask, value, 3.5)
        slots_numba.put(on_host, mask, value, 3.5)
        assert np.array_equal(gpu.download(plane), on_host)
        assert (on_host == 3.5).sum() == 1 << (10 - mask.bit_count())
    places = rng.permutation(1024)[:100]
    assert np.array_equal(slots_cupy.take(plane, places), on_host[places])


@pytest.mark.parametrize("num_bits", [0, 1, 4, 5, 7, 11])
def test_weights(num_bits: int, gpu: StandIn) -> None:
    planes = random_planes(num_bits, np.random.default_rng(3), "single")
    on_gpu = tuple(gpu.upload(plane) for plane in planes)
    for bit in (*range(num_bits), 63):
        assert np.allclose(sweep_cupy.weights(*on_gpu, bit), sweep_numba.weights(*planes, bit), atol=1e-12)
    for bits in ((), range(num_bits), range(0, num_bits, 2), range(num_bits - 1, num_bits) if num_bits else ()):
        masses, stored = sweep_cupy.marginal(*on_gpu, bits)
        mask = sum(1 << bit for bit in bits)
        found, wanted = np.zeros(1 << num_bits), np.zeros(1 << num_bits)
        np.add.at(found, (stored & mask).reshape(-1), masses.reshape(-1))
        np.add.at(wanted, np.arange(1 << num_bits) & mask, np.square(planes, dtype=np.float64).sum(axis=0))
        assert np.allclose(found, wanted, atol=1e-12)
    if num_bits:
        sweep_cupy.collapse(*on_gpu, num_bits - 1, 1, 2.0)
        sweep_numba.collapse(*planes, num_bits - 1, 1, 2.0)
        assert np.array_equal(gpu.download(on_gpu[1]), planes[1])


@pytest.mark.parametrize("num_bits", [2, 6, 12])
@pytest.mark.parametrize("paired", [False, True])
def test_pauli_sums(num_bits: int, paired: bool, gpu: StandIn) -> None:
    """Masks of all kinds, real and imaginary terms; planes that are a half of others."""
    rng = np.random.default_rng(4)
    size = 1 << num_bits
    z_masks = rng.integers(4 * size, size=14)
    masks = np.array([[0, 0, 4, 4], [1, 4, 5, 8], [size - 1, 8, 8, 11], [size >> 1, 11, 13, 14]], dtype=np.int64)
    planes, other = random_planes(num_bits, rng), random_planes(num_bits, rng)
    other = planes if paired else (other[0][: size // 2], other[1][: size // 2])
    offset = 0 if paired else size // 2
    arguments = (offset, 2 * size, masks, z_masks, paired)
    found = pauli_cupy.pauli_sums(*map(gpu.upload, planes), *map(gpu.upload, other), *arguments)
    index = np.arange(len(other[0])) + offset
    for mask, first, turned, last in masks.tolist():
        products = np.conj(other[0] + 1j * other[1]) * (planes[0] + 1j * planes[1])[index ^ mask]
        for term in range(first, last):
            signs = 1 - 2.0 * (np.bitwise_count((index ^ mask | 2 * size) & z_masks[term]) & 1)
            total = (signs * products).sum() * (1 if paired else 2)
            assert found[term] == pytest.approx(total.real if term < turned else total.imag, abs=1e-12)


def test_strings_are_added(gpu: StandIn) -> None:
    rng = np.random.default_rng(5)
    planes, before = random_planes(9, rng), random_planes(9, rng)
    z_masks, coefficients = rng.integers(1 << 11, size=5), rng.normal(size=5)
    masks = np.array([[37, 0, 3, 4], [511, 4, 4, 5]], dtype=np.int64)
    out = [gpu.upload(plane) for plane in before]
    pauli_cupy.add_pauli_sum(*map(gpu.upload, planes), 512, *out, masks, z_masks, coefficients)
    pauli_applied_numba.add_pauli_sum(*planes, 512, *before, masks, z_masks, coefficients)
    for plane, wanted in zip(out, before, strict=True):
        assert np.allclose(gpu.download(plane), wanted, atol=1e-13)


def test_blocks_fit_the_shared_memory(stand_in: Make) -> None:
    """Two of them; sizes as an A100 (and H100), a V100 and an MI250X have them."""
    for shared, each, bits in ((164, 163, {8: 12, 4: 13}), (228, 227, {8: 12, 4: 13}), (96, 96, {8: 11, 4: 12}),
                               (64, 64, {8: 10, 4: 11})):  # fmt: skip
        gpu = stand_in(512)
        gpu.shared_bytes_per_processor, gpu.shared_bytes = shared << 10, each << 10
        for real in (np.float64, np.float32):
            assert sweep_cupy.block_bits(30, 1, real) == bits[np.dtype(real).itemsize]
            assert sweep_cupy.block_bits(6, 1, real) == 6
    assert (sweep_cupy.low_bits(np.float64), sweep_cupy.low_bits(np.float32)) == (4, 5)


def test_a_block_without_room_is_refused(gpu: StandIn) -> None:
    """What a plan for a processor's cache may ask for; the kernel would write beyond its room."""
    state = State.zero(Layout(tuple(range(QUBITS)), QUBITS), Team(), "double", on="gpu")
    plan = make_plan([gate("h", q) for q in range(QUBITS)], state.layout, block_bits=QUBITS)
    with pytest.raises(QSimEnvError, match=f"{QUBITS} bits found, the GPU has room for 10"):
        state.run(plan, encode(plan, (), "double", device("gpu").form))
