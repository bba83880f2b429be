"""The loops of encoding, compiled: factors of quadratic phases, and linear maps over GF(2) as tables.

``phase_rows`` calls the former with arrays over the positions of a block: masks of the positions that each has a
product with, angles of single positions, a symmetric matrix of the angles of pairs. ``affine`` calls the latter.
"""

from __future__ import annotations

import math

import numpy as np

from qsimenv.statevec.kernel_cache import njit

_options = {"nogil": True, "error_model": "numpy"}


@njit(**_options)
def choose_rows(partners, positions, lane_bits, row_bits):
    """The lanes, and one by one the position that leaves the fewest outer bits; the rest, inner bits and outer bits."""
    chosen, rest = list(positions[:lane_bits]), list(positions[lane_bits:])
    mask = 0
    for position in chosen:
        mask |= 1 << position
    while len(rest) > 0 and len(chosen) < row_bits:
        best, fewest = 0, 1 << 30
        for place, position in enumerate(rest):
            count = _new_outer_bits(position, mask, rest, partners)
            if count < fewest:
                best, fewest = place, count
        mask |= 1 << rest[best]
        chosen.append(rest.pop(best))
    inner = np.array([position for position in rest if partners[position] & mask == 0], dtype=np.int64)
    outer = np.array([position for position in rest if partners[position] & mask != 0], dtype=np.int64)
    return np.array(chosen, dtype=np.int64), inner, outer


@njit(**_options)
def _new_outer_bits(position, mask, rest, partners):
    """How many of the rest would be outer bits if ``position`` became a row bit, beside those that are already."""
    mine = partners[position]
    if mine == 0:
        return 0
    count = -1 if mine & mask else 0
    for other in rest:
        count += mine >> other & 1 and not partners[other] & mask
    return count


@njit(**_options)
def factors(positions, linear, product, constant):
    """cos and sin, shape (2, count), of the form over all values of some positions, the first the lowest.

    Terms that have others are left out.
    """
    size = 1 << positions.shape[0]
    angles = np.empty(size)
    angles[0] = constant
    for k, position in enumerate(positions):
        half = 1 << k
        for number in range(half):
            angle = angles[number] + linear[position]
            for j in range(k):
                if number >> j & 1:
                    angle += product[position, positions[j]]
            angles[half + number] = angle
    found = np.empty((2, size))
    for number in range(size):
        found[0, number], found[1, number] = math.cos(angles[number]), math.sin(angles[number])
    return found


@njit(**_options)
def crossing_factors(rows, outer, product):
    """For each outer bit the factors of its products with the rows' bits: shape (outer bits, 2, row)."""
    found = np.empty((outer.shape[0], 2, 1 << rows.shape[0]))
    nothing = np.zeros_like(product)
    for number in range(outer.shape[0]):
        found[number] = factors(rows, product[outer[number]], nothing, 0.0)
    return found


@njit(**_options)
def xor_table(columns):
    """For each number the exclusive or of the columns that its bits pick."""
    table = np.zeros(1 << columns.shape[0], dtype=np.int64)
    for k, column in enumerate(columns):
        for number in range(1 << k):
            table[1 << k | number] = table[number] ^ column
    return table


@njit(**_options)
def sum_table(numbers):
    """For each number the sum of those that its bits pick."""
    table = np.zeros(1 << numbers.shape[0], dtype=np.int64)
    for k, number in enumerate(numbers):
        for picked in range(1 << k):
            table[1 << k | picked] = table[picked] + number
    return table


@njit(**_options)
def inverse_columns(masks):
    """The columns of the inverse over GF(2) of the regular matrix whose row k is ``masks[k]``; at most 31 of them."""
    size = masks.shape[0]
    rows = np.empty(size, dtype=np.int64)
    for k, mask in enumerate(masks):
        rows[k] = mask | 1 << (size + k)
    for column in range(size):
        pivot = column
        while not rows[pivot] >> column & 1:
            pivot += 1
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for k in range(size):
            if k != column and rows[k] >> column & 1:
                rows[k] ^= rows[column]
    columns = np.zeros(size, dtype=np.int64)
    for column in range(size):
        for k in range(size):
            columns[column] |= (rows[k] >> (size + column) & 1) << k
    return columns
