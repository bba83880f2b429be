"""Kernels of ``expectation``: the values of many Pauli strings from few readings of the state.

They know neither qubits nor ranks. For a string that flips the bits x and has signs on the bits z they add up
``(-1)**popcount(i & z)`` times the real (or imaginary) part of ``conj(psi[i ^ x]) psi[i]``. All strings with one x
share these products: a block of them is transformed by Walsh and Hadamard in the first-level cache, after which
number z of the block is its sum with the signs of z. Sums are in double precision.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads

from qsimenv.statevec.kernel_cache import njit, part
from qsimenv.statevec.kernels.intrinsics_numba import (
    BLOCK_BITS,
    TILE_BITS,
    parity,
    products,
    sums_of_pairs,
    transform_tiles,
)
from qsimenv.statevec.measuring.pauli_groups import block_bits
from qsimenv.statevec.threads_numba import in_threads, launcher, span

PARALLEL_FROM = 1 << 15
"""Amplitudes from which starting threads pays."""
_TILE = 1 << TILE_BITS

X_MASK, FIRST_REAL, FIRST_IMAGINARY, END = range(4)
"""Columns of ``masks``: the bits flipped, and where the terms with real and with imaginary parts begin, and end."""

_options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}

_sums = {**_options, "fastmath": {"contract", "nsz", "arcp", "reassoc"}}
_LEAST_RUN = 16
"""Amplitudes next to each other from which sums need no shuffled lanes to be fast."""


@part(**_options)
def _transformed_products(first, second, start, other_re, other_im, other_start, x_mask, sign, out):
    """A block of products, tile by tile, then over the numbers of the tiles."""
    tiles = x_mask & -_TILE
    for at in range(0, len(out), _TILE):
        products(first, second, start + at, other_re, other_im, other_start + (at ^ tiles), x_mask, sign, out, at)
    if len(out) > _TILE:
        for line in range(0, _TILE, 8):
            transform_tiles(out, line)


@part(**_options)
def _add_terms(transformed, index, z_masks, first, last, weight, totals):
    low = len(transformed) - 1
    for term in range(first, last):
        sign = weight * (1.0 - 2.0 * parity(index & z_masks[term]))
        totals[term] += sign * transformed[z_masks[term] & low]


@part(**_options)
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


@part(**_options)
def _top_bit(number):
    bit = -1
    while number:
        number >>= 1
        bit += 1
    return bit


@part(**_sums)
def _sums_of_run(re, im, other_re, other_im):
    """Real and imaginary part of the sum of ``conj(other) own``."""
    real = imaginary = 0.0
    for k in range(len(re)):
        x, y, u, v = np.float64(re[k]), np.float64(im[k]), np.float64(other_re[k]), np.float64(other_im[k])
        real += u * x + v * y
        imaginary += u * y - v * x
    return real, imaginary


@part(**_options)
def _sums_of_runs(re, im, start, other_re, other_im, other_start, size, inner, sums):
    """Real and imaginary part (rows) of a block's sums where the flipped bit is zero in our index, and where one."""
    run = inner if inner else size
    for at in range(0, size, run):
        one = 1 if at & inner else 0
        i, j = start + at, other_start + (at ^ inner)
        real, imaginary = _sums_of_run(
            re[i : i + run], im[i : i + run], other_re[j : j + run], other_im[j : j + run]
        )  # fmt: skip
        sums[0, one] += real
        sums[1, one] += imaginary


@part(**_options)
def _sums_of_near_pairs(re, im, start, other_re, other_im, other_start, size, inner, sums):
    """The same for bits inside of two lines, a tile at a time."""
    lines = np.zeros(4 * 8)  # real parts of even and of odd lines, imaginary parts of both
    for at in range(0, size, _TILE):
        sums_of_pairs(re, im, start + at, other_re, other_im, other_start + at, inner, lines)
    for k in range(len(lines)):
        sums[k >> 4, 1 if k & inner else 0] += lines[k]


@part(**_options)
def _is_plain(mask, z_masks, size):
    """Whether a block needs no transform: at most one bit flipped, and signs on no other, among those of the block."""
    inner = mask[X_MASK] & (size - 1)
    if inner & (inner - 1):
        return False
    signs = 0
    for term in range(mask[FIRST_REAL], mask[END]):
        signs |= z_masks[term]
    return signs & (size - 1) & ~inner == 0


@part(**_options)
def _plain_block(re, im, start, other_re, other_im, other_start, size, index, mask, z_masks, weight, totals):
    """A block of such a mask: sums where the flipped bit is zero in our index, and where it is one."""
    inner = mask[X_MASK] & (size - 1)
    sums = np.zeros((2, 2))
    if 0 < inner < _LEAST_RUN:
        _sums_of_near_pairs(re, im, start, other_re, other_im, other_start, size, inner, sums)
    else:
        _sums_of_runs(re, im, start, other_re, other_im, other_start, size, inner, sums)
    for term in range(mask[FIRST_REAL], mask[END]):
        part = sums[0 if term < mask[FIRST_IMAGINARY] else 1]
        total = part[0] - part[1] if z_masks[term] & inner else part[0] + part[1]
        totals[term] += weight * (1.0 - 2.0 * parity(index & z_masks[term])) * total


@njit(**_options)
def _place(number, fast):
    """Block ``number`` in an order in which the bits ``fast`` of a block's number (sorted) vary first."""
    rest, block = number >> len(fast), 0
    for k in range(len(fast)):
        rest = (rest >> fast[k]) << (fast[k] + 1) | rest & ((1 << fast[k]) - 1)
        block |= (number >> k & 1) << fast[k]
    return rest | block


@part(**_options)
def _share(
    thread, threads, re, im, other_re, other_im, offset, rank_index, bits, fast, masks, z_masks, paired, all_scratch,
    all_totals,
):  # fmt: skip
    """A thread's part of the blocks of ``bits`` bits of the other planes, in the order of ``_place``."""
    size, scratch, totals = 1 << bits, all_scratch[thread], all_totals[thread]
    first, last = span(len(other_re) >> bits, thread, threads)
    plain = np.empty(len(masks), dtype=np.bool_)
    for row in range(len(masks)):
        plain[row] = _is_plain(masks[row], z_masks, size)
    for number in range(first, last):
        other_start = _place(number, fast) << bits
        for row in range(len(masks)):
            mask = masks[row]
            far = mask[X_MASK] & -size
            weight = 1.0 if paired and far == 0 else 2.0
            if paired and far and other_start >> _top_bit(far) & 1:
                continue  # each pair of blocks comes twice: this is the second time
            start = (other_start + offset) ^ far
            arguments = (re, im, start, other_re, other_im, other_start)
            if plain[row]:
                _plain_block(*arguments, size, rank_index | start, mask, z_masks, weight, totals)
            else:
                _whole_block(*arguments, size, rank_index | start, mask, z_masks, weight, scratch, totals)


@part(**_options)
def _whole_block(
    re, im, start, other_re, other_im, other_start, size, index, mask, z_masks, weight, scratch, totals
):  # fmt: skip
    """A block of a mask that needs transforms, as many amplitudes at a time as are transformed at once."""
    block = len(scratch)
    inner = mask[X_MASK] & (size - 1) & -block
    half = weight == 1.0 and inner != 0  # each pair comes twice: look at those whose first has a zero there
    pivot = _top_bit(inner)
    for at in range(0, size, block):
        if half and at >> pivot & 1:
            continue
        own = at ^ inner
        _block(
            re, im, start + own, other_re, other_im, other_start + at, index | own, mask, z_masks,
            2.0 if half else weight, scratch, totals,
        )  # fmt: skip


@njit(**_options)
def _add_up(
    launch, threads, re, im, other_re, other_im, offset, rank_index, bits, fast, masks, z_masks, paired, scratch, totals
):  # fmt: skip
    arguments = (
        re, im, other_re, other_im, offset, rank_index, bits, fast, masks, z_masks, paired, scratch, totals,
    )  # fmt: skip
    in_threads(launch, threads, _share, arguments)


def order_of_blocks(masks, count):
    """How ``pauli_sums`` walks through planes of ``count`` for ``masks``: the bits of a block, and which others first.

    What the masks read in turn then stays in the second-level cache; threads get equally many first halves of pairs.
    """
    x = masks[:, X_MASK]
    differing, top = int(np.bitwise_or.reduce(x ^ x[0])), count.bit_length() - 1
    bits = min(block_bits(differing), top)
    fast = differing | (1 << int(x[0]).bit_length() >> 1)
    return bits, np.array([bit - bits for bit in range(bits, top) if fast >> bit & 1], dtype=np.int64)


def pauli_sums(re, im, other_re, other_im, offset, rank_index, masks, z_masks, paired):
    """Sums of products by term, float64 of shape (terms,), of masks that go together (``pauli_groups``).

    The other planes are the piece from ``offset`` on of those that index ``i ^ x`` is found in. With ``paired`` they
    are ours, all of them, and every pair counts once for either side; else each counts twice. ``masks``: int64 of shape
    (masks, 4); ``z_masks``: int64 of shape (terms,), over index bits; ``rank_index``: the rank's part of the index.
    """
    threads = get_num_threads() if len(other_re) >= PARALLEL_FROM else 1
    totals = np.zeros((threads, len(z_masks)))
    if len(other_re) < _TILE:
        _few(re, im, other_re, other_im, offset, rank_index, masks, z_masks, 1.0 if paired else 2.0, totals[0])
        return totals[0]
    bits, fast = order_of_blocks(masks, len(other_re))
    scratch = np.empty((threads, 1 << (BLOCK_BITS if bits >= BLOCK_BITS else TILE_BITS)))
    arguments = (re, im, other_re, other_im, offset, rank_index, bits, fast, masks, z_masks, paired)
    _add_up(launcher(threads), threads, *arguments, scratch, totals)
    return totals.sum(axis=0)
