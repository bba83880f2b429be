"""The passes of the normal form on one block: rotations, quadratic phases, affine permutations.

``kernels_numba`` calls them for the rows that ``encode`` makes of ``normalform``'s passes. All work in place on a block
that lies in the second-level cache; what they need besides is small, or the ``spare`` plane that the caller lends.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from qsimenv.statevec.encode import (
    FIXED,
    HAS_LANES,
    LOW_TABLE_BITS,
    NUM_ENTRIES,
    NUM_FIXED,
    NUM_TARGETS,
    OFFSET,
    RUN_BITS,
    TABLE,
    TARGETS,
)
from qsimenv.statevec.lanes_numba import copy_line, dense, rotation

_options = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}

_lanes_only, _lanes_1, _lanes_2, _lanes_3, _lanes_4 = (rotation(k, with_lanes=True) for k in range(5))
_pairs_1, _pairs_2, _pairs_3, _pairs_4 = (rotation(k, with_lanes=False) for k in range(1, 5))


_dense_pairs = dense((), 2)
_dense_0, _dense_1, _dense_2, _dense_3 = (dense((lane,), 1) for lane in range(4))
_dense_01, _dense_02, _dense_12 = dense((0, 1), 0), dense((0, 2), 0), dense((1, 2), 0)
_dense_03, _dense_13, _dense_23 = dense((0, 3), 0), dense((1, 3), 0), dense((2, 3), 0)


@njit(inline="always", **_options)
def _tile_start(number, ops, row, count):
    """Make room in a vector's number for the bits of the tile."""
    for k in range(count):
        position = ops[row, FIXED + k]
        number = ((number >> position) << (position + 1)) | (number & ((1 << position) - 1))
    return number


@njit(**_options)
def rotate(re, im, bits, ops, row, coefficients):
    """Turn up to four bits above the lanes, and with HAS_LANES every lane bit, in one pass."""
    lane_bits = 4 if re.itemsize == 4 else 3
    count, at = ops[row, NUM_TARGETS], ops[row, OFFSET]
    tiles = 1 << (bits - count - lane_bits)
    c = coefficients
    lanes = (c[at + 4], c[at + 5], c[at + 6], c[at + 7])
    d0, d1 = 1 << ops[row, TARGETS], 1 << ops[row, TARGETS + 1]
    d2, d3 = 1 << ops[row, TARGETS + 2], 1 << ops[row, TARGETS + 3]
    s0, s1, s2, s3 = c[at], c[at + 1], c[at + 2], c[at + 3]
    if ops[row, HAS_LANES]:
        if count == 0:
            for tile in range(tiles):
                _lanes_only(re, tile << lane_bits, (), (), lanes)
                _lanes_only(im, tile << lane_bits, (), (), lanes)
        elif count == 1:
            for tile in range(tiles):
                start = _tile_start(tile << lane_bits, ops, row, 1)
                _lanes_1(re, start, (d0,), (s0,), lanes)
                _lanes_1(im, start, (d0,), (s0,), lanes)
        elif count == 2:
            for tile in range(tiles):
                start = _tile_start(tile << lane_bits, ops, row, 2)
                _lanes_2(re, start, (d0, d1), (s0, s1), lanes)
                _lanes_2(im, start, (d0, d1), (s0, s1), lanes)
        elif count == 3:
            for tile in range(tiles):
                start = _tile_start(tile << lane_bits, ops, row, 3)
                _lanes_3(re, start, (d0, d1, d2), (s0, s1, s2), lanes)
                _lanes_3(im, start, (d0, d1, d2), (s0, s1, s2), lanes)
        else:
            for tile in range(tiles):
                start = _tile_start(tile << lane_bits, ops, row, 4)
                _lanes_4(re, start, (d0, d1, d2, d3), (s0, s1, s2, s3), lanes)
                _lanes_4(im, start, (d0, d1, d2, d3), (s0, s1, s2, s3), lanes)
    elif count == 1:
        for tile in range(tiles):
            start = _tile_start(tile << lane_bits, ops, row, 1)
            _pairs_1(re, start, (d0,), (s0,), lanes)
            _pairs_1(im, start, (d0,), (s0,), lanes)
    elif count == 2:
        for tile in range(tiles):
            start = _tile_start(tile << lane_bits, ops, row, 2)
            _pairs_2(re, start, (d0, d1), (s0, s1), lanes)
            _pairs_2(im, start, (d0, d1), (s0, s1), lanes)
    elif count == 3:
        for tile in range(tiles):
            start = _tile_start(tile << lane_bits, ops, row, 3)
            _pairs_3(re, start, (d0, d1, d2), (s0, s1, s2), lanes)
            _pairs_3(im, start, (d0, d1, d2), (s0, s1, s2), lanes)
    else:
        for tile in range(tiles):
            start = _tile_start(tile << lane_bits, ops, row, 4)
            _pairs_4(re, start, (d0, d1, d2, d3), (s0, s1, s2, s3), lanes)
            _pairs_4(im, start, (d0, d1, d2, d3), (s0, s1, s2, s3), lanes)


@njit(**_options)
def two_targets(re, im, bits, ops, row, coefficients):
    """A dense complex matrix on two bits of the block, HAS_LANES of which (the lower ones) are lane bits."""
    lane_bits = 4 if re.itemsize == 4 else 3
    lanes, at = ops[row, HAS_LANES], ops[row, OFFSET]
    low, high = ops[row, TARGETS], ops[row, TARGETS + 1]
    tiles = 1 << (bits - lane_bits - 2 + lanes)
    if lanes == 0:
        distances = (1 << low, 1 << high)
        for tile in range(tiles):
            _dense_pairs(re, im, _tile_start(tile << lane_bits, ops, row, 2), distances, coefficients, at)
    elif lanes == 1:
        distance = (1 << high,)
        for tile in range(tiles):
            start = ((tile << lane_bits) >> high << (high + 1)) | ((tile << lane_bits) & ((1 << high) - 1))
            if low == 0:
                _dense_0(re, im, start, distance, coefficients, at)
            elif low == 1:
                _dense_1(re, im, start, distance, coefficients, at)
            elif low == 2:
                _dense_2(re, im, start, distance, coefficients, at)
            else:
                _dense_3(re, im, start, distance, coefficients, at)
    else:
        for tile in range(tiles):
            start = tile << lane_bits
            if high == 1:
                _dense_01(re, im, start, (), coefficients, at)
            elif high == 2 and low == 0:
                _dense_02(re, im, start, (), coefficients, at)
            elif high == 2:
                _dense_12(re, im, start, (), coefficients, at)
            elif low == 0:
                _dense_03(re, im, start, (), coefficients, at)
            elif low == 1:
                _dense_13(re, im, start, (), coefficients, at)
            else:
                _dense_23(re, im, start, (), coefficients, at)


@njit(**_options)
def permute(re, im, bits, ops, row, tables, index, spare):
    """An affine permutation of the block: what goes to ``to[a] ^ to[b]`` comes from ``source[a] ^ source[b] ^ shift``.

    ``shift`` hangs on the bits outside the block. a numbers the tiles and b the numbers of one: a tile is made of whole
    cache lines on both sides, so each line is moved once.
    The lowest RUN_BITS bits stay where they are: none, or whole lines.
    """
    at = ops[row, TABLE]
    shift = tables[at]
    for entry in range(ops[row, NUM_ENTRIES]):
        if _is_odd(index & tables[at + 1 + 2 * entry]):
            shift ^= tables[at + 2 + 2 * entry]
    at += 1 + 2 * ops[row, NUM_ENTRIES]
    inner, run = ops[row, NUM_FIXED], 1 << ops[row, RUN_BITS]
    outer = (1 << bits) // (inner * run)
    near_to, near_source = tables[at : at + inner], tables[at + inner : at + 2 * inner]
    at += 2 * inner
    far_to, far_source = tables[at : at + outer], tables[at + outer : at + 2 * outer]
    _move(re, spare, near_to, near_source, far_to, far_source, shift, run)
    _move(im, spare, near_to, near_source, far_to, far_source, shift, run)


@njit(**_options)
def _move(plane, spare, near_to, near_source, far_to, far_source, shift, run):
    """By way of ``spare``, which is filled in order, so that memory is read as a stream."""
    for i in range(0, plane.shape[0], 64 // plane.itemsize):
        copy_line(plane, i, spare, i)
    for a in range(far_to.shape[0]):
        to, source = far_to[a], far_source[a] ^ shift
        if run == 1:
            for b in range(near_to.shape[0]):
                plane[to ^ near_to[b]] = spare[source ^ near_source[b]]
        else:
            for b in range(near_to.shape[0]):
                t, s = to ^ near_to[b], source ^ near_source[b]
                for i in range(0, run, 64 // plane.itemsize):
                    copy_line(spare, s + i, plane, t + i)


@njit(inline="always", **_options)
def _is_odd(number):
    odd = False
    while number:
        odd = not odd
        number &= number - 1
    return odd


@njit(**_options)
def _outside_angles(ops, row, coefficients, tables, index, bits):
    """What the bits outside the block add: item 0 a constant, item 1 + b to the linear angle of block bit b."""
    angles = np.zeros(bits + 1)
    at, values = ops[row, TABLE], ops[row, OFFSET]
    for entry in range(ops[row, NUM_ENTRIES]):
        mask = tables[at + 2 * entry]
        if index & mask == mask:
            angles[tables[at + 2 * entry + 1]] += coefficients[values + entry]
    return angles


@njit(**_options)
def apply_phases(re, im, bits, ops, row, coefficients, tables, index):
    """Multiply by ``exp(i q(x))``, row by row of the block's low bits.

    For a fixed value h of the high bits the form is linear in the low ones but for a part that does not depend on h, so
    a row of factors is built by doubling: one complex product a number to build, one with the fixed part, one to apply.
    """
    low = min(bits, LOW_TABLE_BITS)
    high = bits - low
    width, rows = 1 << low, 1 << high
    angles = _outside_angles(ops, row, coefficients, tables, index, bits)
    at = ops[row, OFFSET] + ops[row, NUM_ENTRIES]
    fixed_c, fixed_s = coefficients[at : at + width], coefficients[at + width : at + 2 * width]
    at += 2 * width
    high_c, high_s = coefficients[at : at + rows], coefficients[at + rows : at + 2 * rows]
    at += 2 * rows
    start_c, start_s = np.empty(rows, re.dtype), np.empty(rows, re.dtype)
    start_c[0], start_s[0] = math.cos(angles[0]), math.sin(angles[0])
    for bit in range(high):
        c, s = math.cos(angles[1 + low + bit]), math.sin(angles[1 + low + bit])
        for h in range(1 << bit):
            start_c[h + (1 << bit)] = start_c[h] * c - start_s[h] * s
            start_s[h + (1 << bit)] = start_c[h] * s + start_s[h] * c
    turn_c, turn_s = np.empty(low, re.dtype), np.empty(low, re.dtype)
    for bit in range(low):
        turn_c[bit], turn_s[bit] = math.cos(angles[1 + bit]), math.sin(angles[1 + bit])
    c, s = np.empty(width, re.dtype), np.empty(width, re.dtype)
    for h in range(rows):
        c[0] = start_c[h] * high_c[h] - start_s[h] * high_s[h]
        s[0] = start_c[h] * high_s[h] + start_s[h] * high_c[h]
        for bit in range(low):
            cross_c, cross_s = coefficients[at + 2 * (h * low + bit)], coefficients[at + 2 * (h * low + bit) + 1]
            p = turn_c[bit] * cross_c - turn_s[bit] * cross_s
            q = turn_c[bit] * cross_s + turn_s[bit] * cross_c
            _double(c, s, 1 << bit, p, q)
        first = h << low
        _multiply(re[first : first + width], im[first : first + width], c, s, fixed_c, fixed_s)


@njit(**_options)
def _double(c, s, size, p, q):
    """The second half of ``2 * size`` factors: the first half times ``p + i q``."""
    for i in range(size):
        x, y = c[i], s[i]
        c[size + i] = x * p - y * q
        s[size + i] = x * q + y * p


@njit(**_options)
def _multiply(re, im, c, s, fixed_c, fixed_s):
    for i in range(re.shape[0]):
        p = c[i] * fixed_c[i] - s[i] * fixed_s[i]
        q = c[i] * fixed_s[i] + s[i] * fixed_c[i]
        x, y = re[i], im[i]
        re[i] = x * p - y * q
        im[i] = x * q + y * p
