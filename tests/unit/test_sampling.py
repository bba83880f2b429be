"""Random numbers and the order of drawing: what makes counts the same on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest

from qsimenv import run
from qsimenv.circuit import Circuit, Measure, gate
from qsimenv.errors import InvalidArgumentError
from qsimenv.statevec.measuring import random_numba
from qsimenv.statevec.measuring.random_numbers import uniforms
from qsimenv.statevec.measuring.sampling import FIRST_CHUNK, LARGEST_FIRST_CHUNK, LAST_CHUNK, chunk_sizes, reordered
from qsimenv.task import Result


@pytest.mark.parametrize("parallel_from", [1 << 15, 1])
@pytest.mark.parametrize(
    ("seed", "run", "event"), [(0, 0, 0), (7, 3, 1 << 40), ((1 << 64) - 1, 5, 2), (1 << 63, 1 << 20, 9)]
)
def test_numbers_are_those_of_numpy(
    seed: int, run: int, event: int, parallel_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_numba, "PARALLEL_FROM", parallel_from)
    stream = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, event, run])).random(1_001)
    assert np.array_equal(uniforms(seed, run, event, np.arange(1_001)), stream)
    chosen = np.array([1_000, 3, 3, 4, 0, 999])
    assert np.array_equal(uniforms(seed, run, event, chosen), stream[chosen])
    assert len(uniforms(seed, run, event, np.arange(0))) == 0


def test_chunks_cover_all_qubits() -> None:
    for num_qubits in range(1, 61):
        sizes = chunk_sizes(num_qubits)
        assert sum(sizes) == num_qubits
        assert min(sizes) > 0
        assert sizes[0] <= LARGEST_FIRST_CHUNK
        assert len(sizes) == 1 or sizes[-1] <= LAST_CHUNK
    assert chunk_sizes(FIRST_CHUNK) == (FIRST_CHUNK,)
    assert len(chunk_sizes(26)) == len(chunk_sizes(30)) == 2


@pytest.mark.parametrize("num_bits", [1, 2, 5, 13, 40])
def test_bits_are_moved(num_bits: int) -> None:
    rng = np.random.default_rng(num_bits)
    numbers = rng.integers(1 << num_bits, size=200)
    positions = [int(p) for p in rng.permutation(num_bits)]
    wanted = [sum((int(number) >> k & 1) << p for k, p in enumerate(positions)) for number in numbers]
    assert reordered(numbers.copy(), [1 << p for p in positions]).tolist() == wanted


def test_outcomes_are_the_classical_bits_as_numbers() -> None:
    samples = np.array([[[1, 2], [0, 255]], [[0, 0], [1, 0]]], dtype=np.uint8)
    result = Result(num_clbits=9, samples=samples)
    assert result.outcomes.tolist() == [[258, 255], [0, 256]]
    assert result.outcomes.dtype == np.int64
    assert result.counts[0] == {"011111111": 1, "100000010": 1}
    with pytest.raises(InvalidArgumentError, match="64 classical bits"):
        _ = Result(num_clbits=64, samples=np.zeros((3, 8), dtype=np.uint8)).outcomes
    with pytest.raises(InvalidArgumentError, match="no shots"):
        _ = Result().outcomes


@pytest.mark.parametrize("num_clbits", [5, 63, 64, 65, 130])
def test_classical_bits_beside_each_other(num_clbits: int) -> None:
    """Measured bits far apart, one qubit in two bits, and what was known before, in one wide word."""
    places = [num_clbits - 1, 0, num_clbits // 2]
    measures = [*(Measure(qubit, place) for qubit, place in enumerate(places)), Measure(1, num_clbits - 2)]
    flips = [gate("x", 1), gate("x", 2)]
    circuit = Circuit(4, num_clbits, (gate("x", 3), Measure(3, 1), gate("h", 3), *flips, *measures))
    result = run(circuit, shots=20, seed=1)
    expected = 1 << 1 | 1 << places[1] | 1 << places[2] | 1 << num_clbits - 2
    assert result.counts == {f"{expected:0{num_clbits}b}": 20}
