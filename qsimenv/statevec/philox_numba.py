"""Philox 4x64-10 (Salmon et al., SC '11) in compiled code: the very numbers of ``random_numbers.uniforms``."""

from __future__ import annotations

import numpy as np

from qsimenv.statevec.kernel_cache import njit

_options = {"nogil": True, "error_model": "numpy"}

_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_STEP_0, _STEP_1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_DROPPED = np.uint64(11)
_ROUNDS = 10


@njit(inline="always", **_options)
def _high(a, b):
    """The upper 64 bits of a product of two 64-bit numbers."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    middle = a_high * b_low + ((a_low * b_low) >> _HALF)
    other = a_low * b_high + (middle & _LOW)
    return a_high * b_high + (middle >> _HALF) + (other >> _HALF)


@njit(inline="always", **_options)
def _uniform(bits):
    """53 bits as a number in [0, 1)."""
    return np.float64(bits >> _DROPPED) * (1.0 / 9007199254740992.0)


@njit(**_options)
def four_uniforms(seed, counter, event, run):
    """The four numbers in [0, 1) at one value of the counter."""
    k0, k1 = np.uint64(seed), np.uint64(0)
    a, b, c, d = np.uint64(counter), np.uint64(0), np.uint64(event), np.uint64(run)
    for _ in range(_ROUNDS):
        high_a, low_a = _high(_MULTIPLIER_0, a), _MULTIPLIER_0 * a
        high_c, low_c = _high(_MULTIPLIER_1, c), _MULTIPLIER_1 * c
        a, b, c, d = high_c ^ b ^ k0, low_c, high_a ^ d ^ k1, low_a
        k0, k1 = k0 + _STEP_0, k1 + _STEP_1
    return _uniform(a), _uniform(b), _uniform(c), _uniform(d)
