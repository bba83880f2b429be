"""Counter-based random numbers, compiled: Philox 4x64 with ten rounds (Salmon et al., SC '11).

The stream is that of ``numpy.random.Philox``, but any number of it can be had without those before it, and threads
share the work. ``random_numbers`` is the door.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads

from qsimenv.statevec.kernel_cache import njit, part
from qsimenv.statevec.kernels.intrinsics_numba import multiply_high
from qsimenv.statevec.threads_numba import in_threads, launcher, span

PARALLEL_FROM = 1 << 15
"""Numbers from which starting threads pays."""

_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_TO_UNIT = 2.0**-53

_options = {"nogil": True, "error_model": "numpy"}


@njit(inline="always", **_options)
def _philox(c0, c1, c2, c3, k0):
    """Four words from the counter ``(c0, c1, c2, c3)`` under the key ``(k0, 0)``."""
    k1 = np.uint64(0)
    for _ in range(10):
        high0, low0 = multiply_high(_M0, c0), _M0 * c0
        high1, low1 = multiply_high(_M1, c2), _M1 * c2
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + _W0, k1 + _W1
    return c0, c1, c2, c3


@njit(**_options)
def four_uniforms(seed, counter, event, run):
    """Numbers ``4 * counter`` to ``4 * counter + 3`` of a stream, in [0, 1); the arguments are uint64."""
    x0, x1, x2, x3 = _philox(counter + np.uint64(1), np.uint64(0), event, run, seed)
    drop = np.uint64(11)
    return (
        np.float64(x0 >> drop) * _TO_UNIT, np.float64(x1 >> drop) * _TO_UNIT,
        np.float64(x2 >> drop) * _TO_UNIT, np.float64(x3 >> drop) * _TO_UNIT,
    )  # fmt: skip


@part(**_options)
def _fill_share(thread, threads, seed, run, event, chosen, numbers):
    first, last = span(len(chosen), thread, threads)
    block = np.int64(-1)
    x0 = x1 = x2 = x3 = np.uint64(0)
    for k in range(first, last):
        wanted = chosen[k] >> 2
        if wanted != block:
            block = wanted
            x0, x1, x2, x3 = _philox(np.uint64(block + 1), np.uint64(0), event, run, seed)
        lane = chosen[k] & 3
        word = (x0 if lane == 0 else x1) if lane < 2 else (x2 if lane == 2 else x3)
        numbers[k] = np.float64(word >> np.uint64(11)) * _TO_UNIT


@njit(**_options)
def _fill(launch, threads, seed, run, event, chosen, numbers):
    in_threads(launch, threads, _fill_share, (seed, run, event, chosen, numbers))


def fill(seed, run, event, chosen, numbers):
    """Put number ``chosen[k]`` of a stream, in [0, 1), into ``numbers[k]``; ``seed``, ``run``, ``event`` are uint64."""
    threads = get_num_threads() if len(chosen) >= PARALLEL_FROM else 1
    _fill(launcher(threads), threads, seed, run, event, chosen, numbers)
