"""The loops of encoding, compiled: factors of quadratic phases, and linear maps over GF(2) as tables.

``phase_rows`` calls ``lay_out_phases``, which works with arrays over the positions of a block: masks of the positions
that each has a product with, angles of single positions, a symmetric matrix of the angles of pairs. ``affine`` calls
what makes linear maps, ``fusion`` what multiplies small matrices.
"""

from __future__ import annotations

import math

import numpy as np

from qsimenv.statevec.kernel_cache import njit, part

_options = {"nogil": True, "error_model": "numpy"}


@njit(**_options)
def lay_out_phases(
    terms, angles, outside, outside_angles, bits, lane_bits, row_bits, has_gaps, wanted, needed, count, may_share
):  # fmt: skip
    """Bits above the lanes in a row, inner bits, outer bits, the place of the common bit or 0 and its position or -1,
    tables, coefficients, and the positions of those bits in this order.

    ``terms`` and ``outside`` have two columns: positions, the second -1 where there is one; and a mask of bits outside
    the block, with a position or -1. Unless all terms share a bit (and ``may_share``), so many (``count``) of the
    positions ``wanted`` come first in a row, among them the first ``needed``, which come before others. ``rows`` has
    the layout of the tables and the coefficients.
    """
    common = _common(terms, outside, bits, lane_bits) if may_share else -1
    constant, single, pairs = 0.0, np.zeros(bits), np.zeros((bits, bits))
    partners = np.zeros(bits, dtype=np.int64)
    for k, angle in enumerate(angles):
        a, b = terms[k]
        if common >= 0 and b < 0:
            constant += angle
        elif common >= 0:
            single[a + b - common] += angle
        elif b < 0:
            single[a] += angle
        else:
            partners[a] |= 1 << b
            partners[b] |= 1 << a
            pairs[a, b] = pairs[b, a] = angle
    positions = np.array([k for k in range(bits) if k != common], dtype=np.int64)
    first = count if common < 0 else 0
    rows, inner, outer = choose_rows(partners, positions, lane_bits, row_bits, wanted, needed, first)
    high = np.empty(inner.size + outer.size, dtype=np.int64)
    _put(high, _put(high, 0, inner), outer)
    slots = np.zeros(bits, dtype=np.int64)
    for k, position in enumerate(rows):
        slots[position] = 1 + k
    for k, position in enumerate(high):
        slots[position] = 1 + rows.size + k
    tiles, shift = rows[lane_bits:], lane_bits if has_gaps else 63
    tables = np.empty(outside.size + (1 << tiles.size) + (1 << inner.size) + (1 << outer.size), dtype=np.int64)
    for k in range(outside.shape[0]):
        tables[2 * k] = outside[k, 0]
        tables[2 * k + 1] = slots[outside[k, 1]] if outside[k, 1] >= 0 else 0
    at = outside.size
    for positions in (tiles, inner, outer):
        at = _put(tables, at, sum_table(_places(positions, shift)))
    width = 1 << rows.size
    coefficients = np.empty(outside_angles.size + 2 * width * (1 + outer.size) + (2 << high.size))
    at = _put(coefficients, _put(coefficients, 0, outside_angles), factors(rows, single, pairs, 0.0).ravel())
    nothing = np.zeros_like(pairs)
    for position in outer:
        at = _put(coefficients, at, factors(rows, pairs[position], nothing, 0.0).ravel())
    _put(coefficients, at, factors(high, single, pairs, constant).ravel())
    base = _places(np.array([common], dtype=np.int64), shift)[0] if common >= 0 else 0
    return tiles.size, inner.size, outer.size, base, common, tables, coefficients, np.concatenate((tiles, high))


@part(**_options)
def _put(array, at, numbers):
    """Copy numbers into an array from ``at`` on; the place after them."""
    for k in range(numbers.size):
        array[at + k] = numbers[k]
    return at + numbers.size


@part(**_options)
def _common(terms, outside, bits, lane_bits):
    """The position above the lanes that every term has, or -1."""
    shared = (1 << bits) - (1 << lane_bits)
    for k in range(terms.shape[0]):
        mask = 1 << terms[k, 0]
        if terms[k, 1] >= 0:
            mask |= 1 << terms[k, 1]
        shared &= mask
    for k in range(outside.shape[0]):
        shared &= 1 << outside[k, 1] if outside[k, 1] >= 0 else 0
    common = -1
    while shared:
        shared >>= 1
        common += 1
    return common


@part(**_options)
def _places(positions, lane_bits):
    """Where the numbers with one of these bits lie in a block; see ``passes_numba.place`` for the gaps."""
    places = np.empty_like(positions)
    for k, position in enumerate(positions):
        places[k] = (1 << position) + ((1 << position) >> (lane_bits + 6) << lane_bits if lane_bits < 63 else 0)
    return places


@part(**_options)
def choose_rows(partners, positions, lane_bits, row_bits, wanted, needed, first):
    """The lanes, and one by one the position that leaves the fewest outer bits, the first ones out of those needed and
    then of those wanted; the rest, inner bits and outer bits."""
    chosen, rest = list(positions[:lane_bits]), list(positions[lane_bits:])
    mask = preferred = required = 0
    for position in chosen:
        mask |= 1 << position
    for k, position in enumerate(wanted):
        preferred |= 1 << position
        if k < needed:
            required |= 1 << position
    while len(rest) > 0 and len(chosen) < row_bits:
        best, fewest = 0, 1 << 30
        allowed = preferred if len(chosen) < lane_bits + min(first, wanted.size) else -1
        if len(chosen) < lane_bits + min(needed, first):
            allowed = required
        for place, position in enumerate(rest):
            count = _new_outer_bits(position, mask, rest, partners)
            if allowed >> position & 1 and count < fewest:
                best, fewest = place, count
        mask |= 1 << rest[best]
        chosen.append(rest.pop(best))
    inner = np.array([position for position in rest if partners[position] & mask == 0], dtype=np.int64)
    outer = np.array([position for position in rest if partners[position] & mask != 0], dtype=np.int64)
    return np.array(chosen, dtype=np.int64), inner, outer


@part(**_options)
def _new_outer_bits(position, mask, rest, partners):
    """How many of the rest would be outer bits if ``position`` became a row bit, beside those that are already."""
    mine = partners[position]
    if mine == 0:
        return 0
    count = -1 if mine & mask else 0
    for other in rest:
        count += mine >> other & 1 and not partners[other] & mask
    return count


@part(**_options)
def factors(positions, linear, product, constant):
    """cos and sin, shape (2, count), of the form over all values of some positions, the first the lowest.

    Terms that have others are left out.
    """
    size = 1 << positions.shape[0]
    found, added = np.empty((2, size)), np.empty((2, size))
    found[0, 0], found[1, 0] = math.cos(constant), math.sin(constant)
    for k, position in enumerate(positions):
        added[0, 0], added[1, 0] = math.cos(linear[position]), math.sin(linear[position])
        for j in range(k):
            angle, half = product[position, positions[j]], 1 << j
            u, v = math.cos(angle), math.sin(angle)
            for number in range(half):
                c, s = added[0, number], added[1, number]
                added[0, half + number], added[1, half + number] = c * u - s * v, c * v + s * u
        half = 1 << k
        for number in range(half):
            c, s, u, v = found[0, number], found[1, number], added[0, number], added[1, number]
            found[0, half + number], found[1, half + number] = c * u - s * v, c * v + s * u
    return found


@njit(**_options)
def transposed(masks):
    """The columns of the square matrix over GF(2) whose row k is ``masks[k]``."""
    columns = np.zeros_like(masks)
    for row, mask in enumerate(masks):
        for column in range(masks.shape[0]):
            columns[column] |= (mask >> column & 1) << row
    return columns


@njit(**_options)
def compressed(masks, bits):
    """Each mask with bit ``bits[k]`` put to position k."""
    found = np.zeros_like(masks)
    for k, bit in enumerate(bits):
        for number in range(masks.shape[0]):
            found[number] |= (masks[number] >> bit & 1) << k
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
def xor_tables(columns, first, second):
    """``xor_table`` of so many columns, of so many after them, and of the rest, one after the other."""
    third = columns.size - first - second
    tables, at, place = np.empty((1 << first) + (1 << second) + (1 << third), dtype=np.int64), 0, 0
    for count in (first, second, third):
        at = _put(tables, at, xor_table(columns[place : place + count]))
        place += count
    return tables


@part(**_options)
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
    return transposed(rows >> size)


@njit(**_options)
def product_of(matrices, places, shapes, size):
    """The product of some matrices that act on some numbers below ``size`` each, the first one first.

    All are flat, one after the other: the matrices, and of each the numbers that it acts on, a row for each of its own
    rows; ``shapes`` has the sizes of those tables.
    """
    product, column = np.eye(size, dtype=np.complex128), np.empty(size, dtype=np.complex128)
    at = place = 0
    for number in range(shapes.size // 2):
        rows, sets = shapes[2 * number], shapes[2 * number + 1]
        matrix = matrices[at : at + rows * rows].reshape(rows, rows)
        numbers = places[place : place + rows * sets].reshape(rows, sets)
        for which in range(sets):
            for k in range(size):
                for row in range(rows):
                    column[row] = product[numbers[row, which], k]
                for row in range(rows):
                    total = 0j
                    for other in range(rows):
                        total += matrix[row, other] * column[other]
                    product[numbers[row, which], k] = total
        at += rows * rows
        place += rows * sets
    return product


# --- permutations by lines and lanes: ``affine.LineMap`` ---


@njit(**_options)
def line_map(columns, lane_bits, most_near):
    """The arrays of the ``LineMap`` of the linear map with these columns; at most ``most_near`` bits are near."""
    lanes, size = (1 << lane_bits) - 1, columns.size - lane_bits
    steps = (np.zeros(lane_bits, np.int64), np.zeros(64, np.int64), np.zeros(64, np.int64))
    rank = 0
    for lane in range(lane_bits):
        rank += _joins(steps, rank, columns[lane] >> lane_bits)
    reach = (np.zeros(columns.size, np.int64), steps[1].copy(), steps[2].copy())
    # Target lines that are partners: combinations whose sources differ by steps alone.
    partners, rest = np.zeros(size, np.int64), np.zeros(size, np.int64)
    others = count = 0
    for line in range(size):
        source = columns[lane_bits + line] >> lane_bits
        if _joins(reach, rank + others, source):
            rest[others] = line
            others += 1
            continue
        used = _reduced(source, reach)[1] >> rank
        partners[count] = 1 << line
        for k in range(others):
            partners[count] |= (used >> k & 1) << rest[k]
        count += 1
    images = np.zeros(count, np.int64)
    for k in range(count):
        for line in range(size):
            images[k] ^= columns[lane_bits + line] * (partners[k] >> line & 1)
    own = xor_table(_picked_by(images, steps, lanes, lane_bits))
    lane_table = xor_table(_picked_by(columns[:lane_bits], steps, lanes, lane_bits))
    patterns = np.empty((own.size, lane_table.size), np.int64)
    for k in range(own.size):
        for lane in range(lane_table.size):
            patterns[k, lane] = own[k] ^ lane_table[lane]
    near, to, source = min(others, most_near), np.empty(others, np.int64), np.empty(others, np.int64)
    for k in range(others):
        to[k], source[k] = 1 << rest[k], columns[lane_bits + rest[k]]
    return (
        partners[:count],
        steps[0][:rank],
        patterns,
        xor_table(to[:near]),
        xor_table(source[:near]),
        xor_table(to[near:]),
        xor_table(source[near:]),
    )


@part(**_options)
def _picked_by(columns, steps, lanes, lane_bits):
    """The lane that each column picks, and above it which steps lead to its line."""
    picked = np.empty_like(columns)
    for k, column in enumerate(columns):
        picked[k] = column & lanes | _reduced(column >> lane_bits, steps)[1] << lane_bits
    return picked


@part(**_options)
def _reduced(vector, basis):
    """What is left of a vector without what the basis has of it, and which of its members that was, as a mask.

    A basis over GF(2): independent vectors as they came, and by their highest bit reduced ones, with the members that
    add up to them.
    """
    _, reduced, members = basis
    used, top = 0, 62
    while vector:
        while not vector >> top & 1:
            top -= 1
        if not reduced[top]:
            break
        used ^= members[top]
        vector ^= reduced[top]
    return vector, used


@part(**_options)
def _joins(basis, count, vector):
    """Whether a vector is independent of the ``count`` ones of the basis; it is taken in then."""
    rest, used = _reduced(vector, basis)
    if not rest:
        return False
    top = 62
    while not rest >> top & 1:
        top -= 1
    vectors, reduced, members = basis
    vectors[count], reduced[top], members[top] = vector, rest, used | 1 << count
    return True
