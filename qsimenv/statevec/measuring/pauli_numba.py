"""Kernels of ``expectation``: the values of many Pauli strings from few readings of the state.

They know neither qubits nor ranks. For a string that flips the bits x and has signs on the bits z they add up
``(-1)**popcount(i & z)`` times the real (or imaginary) part of ``conj(psi[i ^ x]) psi[i]``. All strings with one x
share these products: a block of them is transformed by Walsh and Hadamard in the first-level cache, after which
number z of the block is its sum with the signs of z. Sums are in double precision.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, prange

from qsimenv.statevec.kernel_cache import njit
from qsimenv.statevec.kernels.intrinsics_numba import TILE_BITS, TILES_BITS, parity, products, transform_tiles

PARALLEL_FROM = 1 << 15
"""Amplitudes from which starting threads pays."""
BLOCK_BITS = TILE_BITS + TILES_BITS
"""What is transformed at once; a state too small for that is worked on a tile at a time, or as it comes."""
NEAR_BITS = 14
"""Strings that flip the same bits above these share one reading: two such blocks fit a second-level cache."""

_TILE = 1 << TILE_BITS

X_MASK, FIRST_REAL, FIRST_IMAGINARY, END = range(4)
"""Columns of ``masks``: the bits flipped, and where the terms with real and with imaginary parts begin, and end."""

_options = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}

_sums = {**_options, "fastmath": {"contract", "nsz", "arcp", "reassoc"}}
_LEAST_PLAIN_RUN = 16
"""Amplitudes next to each other from which sums need no transform to be fast."""

_tile_0, _tile_1, _tile_2, _tile_3, _tile_4, _tile_5, _tile_6, _tile_7 = (products(mask) for mask in range(8))


@njit(**_options)
def _transformed_products(first, second, start, other_re, other_im, other_start, x_mask, sign, out):
    """A block of products, tile by tile, then over the numbers of the tiles."""
    lanes, lines, tiles = x_mask & 7, x_mask & (_TILE - 8), x_mask & -_TILE
    for at in range(0, len(out), _TILE):
        i, j = start + at, other_start + (at ^ tiles)
        if lanes == 0:
            _tile_0(first, second, i, other_re, other_im, j, lines, sign, out, at)
        elif lanes == 1:
            _tile_1(first, second, i, other_re, other_im, j, lines, sign, out, at)
        elif lanes == 2:
            _tile_2(first, second, i, other_re, other_im, j, lines, sign, out, at)
        elif lanes == 3:
            _tile_3(first, second, i, other_re, other_im, j, lines, sign, out, at)
        elif lanes == 4:
            _tile_4(first, second, i, other_re, other_im, j, lines, sign, out, at)
        elif lanes == 5:
            _tile_5(first, second, i, other_re, other_im, j, lines, sign, out, at)
        elif lanes == 6:
            _tile_6(first, second, i, other_re, other_im, j, lines, sign, out, at)
        else:
            _tile_7(first, second, i, other_re, other_im, j, lines, sign, out, at)
    if len(out) > _TILE:
        for line in range(0, _TILE, 8):
            transform_tiles(out, line)


@njit(**_options)
def _add_terms(transformed, index, z_masks, first, last, weight, totals):
    low = len(transformed) - 1
    for term in range(first, last):
        sign = weight * (1.0 - 2.0 * parity(index & z_masks[term]))
        totals[term] += sign * transformed[z_masks[term] & low]


@njit(**_options)
def _block(re, im, start, other_re, other_im, other_start, index, mask, z_masks, weight, scratch, totals):
    """One block of products and all terms of one mask."""
    inner = mask[X_MASK] & (len(scratch) - 1)
    if mask[FIRST_REAL] < mask[FIRST_IMAGINARY]:
        _transformed_products(re, im, start, other_re, other_im, other_start, inner, 1.0, scratch)
        _add_terms(scratch, index, z_masks, mask[FIRST_REAL], mask[FIRST_IMAGINARY], weight, totals)
    if mask[FIRST_IMAGINARY] < mask[END]:
        _transformed_products(im, re, start, other_re, other_im, other_start, inner, -1.0, scratch)
        _add_terms(scratch, index, z_masks, mask[FIRST_IMAGINARY], mask[END], weight, totals)


@njit(**_options)
def _few(re, im, other_re, other_im, offset, rank_index, masks, z_masks, weight, totals):
    """For states smaller than a tile: a product after the other."""
    for row in range(len(masks)):
        mask = masks[row]
        for j in range(len(other_re)):
            i = (j + offset) ^ mask[X_MASK]
            x, y, u, v = np.float64(re[i]), np.float64(im[i]), np.float64(other_re[j]), np.float64(other_im[j])
            for term in range(mask[FIRST_REAL], mask[END]):
                part = u * x + v * y if term < mask[FIRST_IMAGINARY] else u * y - v * x
                totals[term] += weight * part * (1.0 - 2.0 * parity((i | rank_index) & z_masks[term]))


@njit(**_options)
def _top_bit(number):
    bit = -1
    while number:
        number >>= 1
        bit += 1
    return bit


@njit(**_sums)
def _sums_of_run(re, im, other_re, other_im):
    """Real and imaginary part of the sum of ``conj(other) own``."""
    real = imaginary = 0.0
    for k in range(len(re)):
        x, y, u, v = np.float64(re[k]), np.float64(im[k]), np.float64(other_re[k]), np.float64(other_im[k])
        real += u * x + v * y
        imaginary += u * y - v * x
    return real, imaginary


@njit(**_options)
def _is_plain(mask, z_masks, size):
    """Whether a block needs no transform: at most one bit flipped, and signs on no other, among those of the block."""
    inner = mask[X_MASK] & (size - 1)
    if inner & (inner - 1) or 0 < inner < _LEAST_PLAIN_RUN:
        return False
    signs = 0
    for term in range(mask[FIRST_REAL], mask[END]):
        signs |= z_masks[term]
    return signs & (size - 1) & ~inner == 0


@njit(**_options)
def _plain_block(re, im, start, other_re, other_im, other_start, size, index, mask, z_masks, weight, totals):
    """A block of such a mask: sums where the flipped bit is zero in our index, and where it is one."""
    inner = mask[X_MASK] & (size - 1)
    run = inner if inner else size
    sums = np.zeros((2, 2))
    for at in range(0, size, run):
        one = 1 if at & inner else 0
        i, j = start + at, other_start + (at ^ inner)
        real, imaginary = _sums_of_run(
            re[i : i + run], im[i : i + run], other_re[j : j + run], other_im[j : j + run]
        )  # fmt: skip
        sums[0, one] += real
        sums[1, one] += imaginary
    for term in range(mask[FIRST_REAL], mask[END]):
        part = sums[0 if term < mask[FIRST_IMAGINARY] else 1]
        total = part[0] - part[1] if z_masks[term] & inner else part[0] + part[1]
        totals[term] += weight * (1.0 - 2.0 * parity(index & z_masks[term])) * total


@njit(**_options)
def _range(re, im, other_re, other_im, offset, rank_index, near, masks, z_masks, weight, scratch, totals, first, last):
    """Blocks ``first`` to ``last`` of ``near`` bits of the other planes."""
    size, block = 1 << near, len(scratch)
    far_mask = masks[0, X_MASK] & -size
    for number in range(first, last):
        other_start = number << near
        start = (other_start + offset) ^ far_mask
        for row in range(len(masks)):
            mask = masks[row]
            if _is_plain(mask, z_masks, size):
                _plain_block(
                    re, im, start, other_re, other_im, other_start, size, rank_index | start, mask, z_masks, weight,
                    totals,
                )  # fmt: skip
                continue
            inner = mask[X_MASK] & (size - 1) & -block
            half = weight == 1.0 and inner != 0  # each pair comes twice: look at those whose first has a zero there
            pivot = _top_bit(inner)
            for at in range(0, size, block):
                if half and at >> pivot & 1:
                    continue
                mine = start + (at ^ inner)
                _block(
                    re, im, mine, other_re, other_im, other_start + at, rank_index | mine, mask, z_masks,
                    2.0 if half else weight, scratch, totals,
                )  # fmt: skip


@njit(**_options)
def _paired_range(re, im, rank_index, near, masks, z_masks, pivot, scratch, totals, first, last):
    """As above for pairs of blocks inside of the same planes: those that have a zero at bit ``pivot``."""
    low = pivot - near
    for number in range(first, last):
        block = ((number >> low) << (low + 1)) | (number & ((1 << low) - 1))
        start = block << near
        end = start + (1 << near)
        _range(
            re, im, re[start:end], im[start:end], start, rank_index, near, masks, z_masks, 2.0, scratch, totals, 0, 1
        )


@njit(**_options)
def _share(
    re, im, other_re, other_im, offset, rank_index, near, masks, z_masks, weight, pivot, scratch, totals, share, shares
):
    """One of ``shares`` equal parts of the work."""
    count = len(other_re) >> (near + (1 if pivot >= 0 else 0))
    first, last = count * share // shares, count * (share + 1) // shares
    if pivot >= 0:
        _paired_range(re, im, rank_index, near, masks, z_masks, pivot, scratch, totals, first, last)
    else:
        _range(
            re, im, other_re, other_im, offset, rank_index, near, masks, z_masks, weight, scratch, totals, first, last
        )


@njit(parallel=True, **_options)
def _parallel(re, im, other_re, other_im, offset, rank_index, near, masks, z_masks, weight, pivot, scratch, totals):
    threads = scratch.shape[0]
    for thread in prange(threads):
        _share(
            re, im, other_re, other_im, offset, rank_index, near, masks, z_masks, weight, pivot, scratch[thread],
            totals[thread], thread, threads,
        )  # fmt: skip


def near_bits(count):
    """The low bits in which the masks of one call of ``pauli_sums`` may differ, for other planes of ``count``."""
    return min(count.bit_length() - 1, NEAR_BITS)


def pauli_sums(re, im, other_re, other_im, offset, rank_index, masks, z_masks, paired):
    """Sums of products by term, float64 of shape (terms,), of masks that agree in all but the ``near_bits``.

    The other planes are the piece from ``offset`` on of those that index ``i ^ x`` is found in. With ``paired`` they
    are ours, all of them, and every pair counts once for either side; else each counts twice. ``masks``: int64 of shape
    (masks, 4); ``z_masks``: int64 of shape (terms,), over index bits; ``rank_index``: the rank's part of the index.
    """
    threads = get_num_threads() if len(other_re) >= PARALLEL_FROM else 1
    totals = np.zeros((threads, len(z_masks)))
    weight = 1.0 if paired else 2.0
    if len(other_re) < _TILE:
        _few(re, im, other_re, other_im, offset, rank_index, masks, z_masks, weight, totals[0])
        return totals[0]
    near = near_bits(len(other_re))
    scratch = np.empty((threads, 1 << (BLOCK_BITS if len(other_re) >> BLOCK_BITS else TILE_BITS)))
    far = int(masks[0, X_MASK]) >> near
    pivot = near + far.bit_length() - 1 if paired and far else -1
    arguments = (re, im, other_re, other_im, offset, rank_index, near, masks, z_masks, weight, pivot)
    if threads == 1:
        _share(*arguments, scratch[0], totals[0], 0, 1)
    else:
        _parallel(*arguments, scratch, totals)
    return totals.sum(axis=0)


# --- a sum of strings applied to a state ---


@njit(**_options)
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


@njit(**_options)
def _signed_sums(index, z_masks, coefficients, first, last, out):
    """``sum_t c_t (-1)**popcount((index + k) & z_t)`` for each k of a block, over terms ``first`` to ``last``."""
    low, rest = len(out) - 1, 0
    out[:] = 0.0
    for term in range(first, last):
        rest |= z_masks[term] & low
        out[z_masks[term] & low] += coefficients[term] * (1.0 - 2.0 * parity(index & z_masks[term]))
    if rest:
        _walsh(out)
    else:
        out[:] = out[0]


@njit(**_options)
def _apply_range(
    re, im, offset, out_re, out_im, rank_index, bits, masks, z_masks, coefficients, factors, first, last
):  # fmt: skip
    size = 1 << bits
    for number in range(first, last):
        mine = number << bits  # of the planes read
        for row in range(len(masks)):
            mask = masks[row]
            inner = mask[X_MASK] & (size - 1)
            theirs = ((mine + offset) ^ mask[X_MASK]) & -size
            index = rank_index | (mine + offset)
            _signed_sums(index, z_masks, coefficients, mask[FIRST_REAL], mask[FIRST_IMAGINARY], factors[0])
            _signed_sums(index, z_masks, coefficients, mask[FIRST_IMAGINARY], mask[END], factors[1])
            run = inner & -inner if inner else size
            for at in range(0, size, run):
                i, j = mine + at, theirs | (at ^ inner)
                _add_product(
                    factors[0, at : at + run], factors[1, at : at + run], re[i : i + run], im[i : i + run],
                    out_re[j : j + run], out_im[j : j + run],
                )  # fmt: skip


@njit(**_options)
def _add_product(c, s, re, im, out_re, out_im):
    for k in range(len(c)):
        x, y = np.float64(re[k]), np.float64(im[k])
        out_re[k] += c[k] * x - s[k] * y
        out_im[k] += c[k] * y + s[k] * x


@njit(parallel=True, **_options)
def _apply_parallel(
    re, im, offset, out_re, out_im, rank_index, bits, masks, z_masks, coefficients, factors
):  # fmt: skip
    count, threads = len(re) >> bits, factors.shape[0]
    for thread in prange(threads):
        _apply_range(
            re, im, offset, out_re, out_im, rank_index, bits, masks, z_masks, coefficients, factors[thread],
            count * thread // threads, count * (thread + 1) // threads,
        )  # fmt: skip


def add_pauli_sum(re, im, offset, out_re, out_im, rank_index, masks, z_masks, coefficients):
    """Add ``sum_t c_t (-1)**popcount(i & z_t) psi[i]`` to the amplitude at ``i ^ x`` of the other planes.

    The planes read are the piece from ``offset`` on of those with ``rank_index``. Masks as for ``pauli_sums``, of one
    ``x`` only; the coefficients of the second kind of terms are imaginary ones.
    """
    bits = min(len(re).bit_length() - 1, BLOCK_BITS)
    threads = get_num_threads() if len(re) >= PARALLEL_FROM else 1
    factors = np.empty((threads, 2, 1 << bits))
    arguments = (re, im, offset, out_re, out_im, rank_index, bits, masks, z_masks, coefficients)
    if threads == 1:
        _apply_range(*arguments, factors[0], 0, len(re) >> bits)
    else:
        _apply_parallel(*arguments, factors)
