"""Kernels of ``gradient``: a sum of Pauli strings applied to a state, all strings in one pass over the result.

They know neither qubits nor ranks; masks of strings are those of ``pauli_numba``. A block of the result stays in the
first-level cache while for every mask the block that it comes from is read, times the signs of all the mask's terms:
these are one transform by Walsh and Hadamard, or one number where no term has a sign inside of the block.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads

from qsimenv.statevec.kernel_cache import njit, part
from qsimenv.statevec.kernels.intrinsics_numba import BLOCK_BITS, TILE_BITS, add_products, parity
from qsimenv.statevec.measuring.pauli_numba import END, FIRST_IMAGINARY, FIRST_REAL, PARALLEL_FROM, X_MASK
from qsimenv.statevec.threads_numba import in_threads, launcher, span

_TILE = 1 << TILE_BITS
_options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}


@part(**_options)
def _walsh(numbers):
    """Walsh and Hadamard's transform, in place."""
    half = 1
    while half < len(numbers):
        for start in range(0, len(numbers), 2 * half):
            low, high = numbers[start : start + half], numbers[start + half : start + 2 * half]
            for k in range(half):
                x, y = low[k], high[k]
                low[k], high[k] = x + y, x - y
        half *= 2


@part(**_options)
def _varies(mask, z_masks, size):
    """Whether a term has a sign inside of a block."""
    signs = 0
    for term in range(mask[FIRST_REAL], mask[END]):
        signs |= z_masks[term]
    return signs & (size - 1) != 0


@part(**_options)
def _signed_sums(index, z_masks, coefficients, first, last, varies, out):
    """``sum_t c_t (-1)**popcount((index + k) & z_t)`` for each k of a block, over terms ``first`` to ``last``.

    Where that is one number, it is written for the first tile only.
    """
    low = len(out) - 1
    out[: len(out) if varies else min(_TILE, len(out))] = 0.0
    for term in range(first, last):
        out[z_masks[term] & low] += coefficients[term] * (1.0 - 2.0 * parity(index & z_masks[term]))
    if not varies:
        out[: min(_TILE, len(out))] = out[0]
    elif first < last:
        _walsh(out)


@part(**_options)
def _add_block(re, im, start, c, s, varies, inner, out_re, out_im, to):
    """A block of products added to a block of the result, tile by tile."""
    tiles = inner & -_TILE
    for number in range(0, len(c), _TILE):
        at = number ^ tiles if varies else 0
        add_products(re, im, start + (number ^ tiles), c, s, at, inner, out_re, out_im, to + number)


@part(**_options)
def _add_few(re, im, start, c, s, inner, out_re, out_im, to):
    """As above for a block smaller than a tile."""
    for k in range(len(c)):
        i = k ^ inner
        x, y = np.float64(re[start + i]), np.float64(im[start + i])
        out_re[to + k] += c[i] * x - s[i] * y
        out_im[to + k] += c[i] * y + s[i] * x


@part(**_options)
def _add_share(thread, threads, re, im, index, out_re, out_im, masks, z_masks, coefficients, factors):
    """A thread's part of the blocks of the result."""
    size = factors.shape[2]
    first, last = span(len(re) // size, thread, threads)
    c, s = factors[thread, 0], factors[thread, 1]
    for number in range(first, last):
        to = number * size
        for row in range(len(masks)):
            mask = masks[row]
            start = to ^ (mask[X_MASK] & -size)
            varies = _varies(mask, z_masks, size)
            _signed_sums(index | start, z_masks, coefficients, mask[FIRST_REAL], mask[FIRST_IMAGINARY], varies, c)
            _signed_sums(index | start, z_masks, coefficients, mask[FIRST_IMAGINARY], mask[END], varies, s)
            inner = mask[X_MASK] & (size - 1)
            if size < _TILE:
                _add_few(re, im, start, c, s, inner, out_re, out_im, to)
            else:
                _add_block(re, im, start, c, s, varies, inner, out_re, out_im, to)


@njit(**_options)
def _add(launch, threads, re, im, index, out_re, out_im, masks, z_masks, coefficients, factors):
    in_threads(launch, threads, _add_share, (re, im, index, out_re, out_im, masks, z_masks, coefficients, factors))


def add_pauli_sum(re, im, index, out_re, out_im, masks, z_masks, coefficients):
    """Add ``sum_t c_t (-1)**popcount((index | i) & z_t) psi[i]`` to the amplitude at ``i ^ x_t`` of the other planes.

    All planes are equally long, and the masks flip no bit above them. ``masks``: int64 of shape (masks, 4) as for
    ``pauli_sums``, ``z_masks`` and ``coefficients``: shape (terms,), those of the second kind of terms imaginary.
    """
    size = 1 << min(len(re).bit_length() - 1, BLOCK_BITS)
    threads = get_num_threads() if len(re) >= PARALLEL_FROM else 1
    factors = np.empty((threads, 2, size))
    _add(launcher(threads), threads, re, im, index, out_re, out_im, masks, z_masks, coefficients, factors)
