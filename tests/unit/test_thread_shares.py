"""The blocks of a sweep among threads: each has its share, and who is done helps the others, unless sums are made."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import numpy.typing as npt
import pytest

from qsimenv.circuit import gate
from qsimenv.statevec.encoding.encode import encode
from qsimenv.statevec.kernels import sweep_numba
from qsimenv.statevec.planning.layout import identity
from qsimenv.statevec.planning.planner import make_plan
from qsimenv.statevec.shares_numba import next_number, shares_of

BITS, BLOCK_BITS, THREADS = 12, 9, 3
BLOCKS = 1 << (BITS - BLOCK_BITS)


def run_one(thread: int, shares: npt.NDArray[np.int64], slots: int) -> npt.NDArray[np.int64]:
    """What one of the threads of a sweep that doubles all numbers does if the others never begin: how often each block
    was worked on."""
    plan = make_plan([gate("ry", 8, params=[0.3])], identity(BITS, BITS), BLOCK_BITS)
    ((sweep,),) = encode(plan, (), "double")
    ops, coefficients = np.zeros_like(sweep.ops[:1]), np.array([2.0, 0.0])
    ops[0, sweep_numba.KIND] = sweep_numba.PHASE
    re, im = np.ones(1 << BITS), np.ones(1 << BITS)
    own_first = np.roll(shares, -thread, axis=0)
    sweep_numba._sweep_in_threads(
        0, 1, re, im, re[:0], im[:0], own_first, sweep.block_bits, sweep.low_bits, sweep.offsets, sweep.outer, ops,
        coefficients, sweep.tables, 0, 0, 0, False, sweep_numba._scratch_for(BLOCK_BITS, np.float64)[:1],
        np.zeros((1, slots)),
    )  # fmt: skip
    shares[:] = np.roll(own_first, thread, axis=0)
    np.testing.assert_array_equal(re, im)
    done = np.log2(re).reshape(BLOCKS, -1)
    assert (done == done[:, :1]).all()
    return done[:, 0].astype(np.int64)


def test_shares_are_all_blocks() -> None:
    shares = shares_of(BLOCKS, THREADS)
    assert shares[:, :2].tolist() == [[0, 2], [2, 5], [5, 8]]


@pytest.mark.parametrize("thread", range(THREADS))
def test_a_thread_does_what_others_leave(thread: int) -> None:
    shares = shares_of(BLOCKS, THREADS)
    assert run_one(thread, shares, 0).tolist() == [1] * BLOCKS
    assert run_one(thread, shares, 0).tolist() == [0] * BLOCKS, "nothing is done twice"


@pytest.mark.parametrize("thread", range(THREADS))
def test_a_thread_that_adds_up_does_its_own(thread: int) -> None:
    shares = shares_of(BLOCKS, THREADS)
    first, end = shares[thread, :2].tolist()
    assert run_one(thread, shares, 1).tolist() == [int(first <= block < end) for block in range(BLOCKS)]


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def _take_all(shares: npt.NDArray[np.int64], thread: int, taken: npt.NDArray[np.int64]) -> None:
    number, share, left = next_number(shares, thread, shares.shape[0])
    while number >= 0:
        taken[number] += 1
        number, share, left = next_number(shares, share, left)


def test_each_number_is_taken_once() -> None:
    count, threads = 1_000_000, 4
    shares, taken = shares_of(count, threads), np.zeros((threads, count), dtype=np.int64)
    _take_all(shares_of(0, 1), 0, taken[0])  # compiled
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda thread: _take_all(shares, thread, taken[thread]), range(threads)))
    assert (taken.sum(axis=0) == 1).all()
