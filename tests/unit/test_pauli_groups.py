"""Which Pauli strings share a reading of the state."""

from __future__ import annotations

import numpy as np
import pytest

from qsimenv.statevec.measuring.pauli_groups import LEAST_RUN_BITS, NEAR_BITS, Strings, block_bits, collect_imaginary
from qsimenv.statevec.planning.layout import identity


def strings(x_masks: list[int], num_qubits: int) -> Strings:
    x = np.array(x_masks, dtype=np.int64)
    return collect_imaginary(x, np.zeros_like(x), identity(num_qubits, num_qubits))


def readings(x_masks: list[int], num_qubits: int) -> list[list[int]]:
    made = strings(x_masks, num_qubits)
    return [made.x_masks[some.start : some.stop].tolist() for some in made.readings(range(len(made.x_masks)))]


def test_one_qubit_each() -> None:
    """All low qubits in one reading, of the high ones as many as leave runs that are long enough."""
    found = readings([1 << qubit for qubit in range(24)], 24)
    at_once = NEAR_BITS - LEAST_RUN_BITS
    assert found[0] == [1 << qubit for qubit in range(NEAR_BITS)]
    assert [len(each) for each in found[1:]] == [at_once] * (10 // at_once) + [10 % at_once] * (10 % at_once > 0)


@pytest.mark.parametrize("seed", range(5))
def test_readings_are_runs_that_fit_a_cache(seed: int) -> None:
    rng = np.random.default_rng(seed)
    far = rng.integers(1 << 30, size=6)
    masks = [int(each ^ (1 << bit)) for each in far for bit in rng.integers(30, size=4)]
    found = readings(masks, 30)
    assert [mask for each in found for mask in each] == sorted(set(masks))
    for each in found:
        differing = int(np.bitwise_or.reduce(np.array(each) ^ each[0]))
        bits = block_bits(differing)
        assert LEAST_RUN_BITS <= bits <= NEAR_BITS
        assert bits + (differing >> bits).bit_count() <= NEAR_BITS
    assert len(found) < len(masks)


def test_far_apart() -> None:
    assert readings([0, (1 << 24) - 1], 24) == [[0], [(1 << 24) - 1]]
