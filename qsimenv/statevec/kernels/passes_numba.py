"""The passes of the normal form on one block: rotations, quadratic phases, affine permutations.

``sweep_numba`` calls them for the rows that ``encode`` makes of ``normalform``'s passes. All work on a block in the
second-level cache, in *scratch order*: one line of 64 bytes is left out after every 4 KiB, so that numbers a power of
two apart do not meet in the same few sets of the caches. ``place`` says where a number lies.
"""

from __future__ import annotations

import math

import numpy as np

from qsimenv.statevec.encoding.rows import (
    BASE,
    FIXED,
    FROM_MEMORY,
    GATHERS,
    HAS_LANES,
    INNER_BITS,
    NEAR_BITS,
    NUM_ENTRIES,
    NUM_TARGETS,
    OFFSET,
    OUTER_BITS,
    PARITY,
    RANK,
    TABLE,
    TARGETS,
    TILE_BITS,
    TO_MEMORY,
    TURNED_BEFORE,
    TURNED_WITH_PHASES,
)
from qsimenv.statevec.kernel_cache import njit, part
from qsimenv.statevec.kernels.lanes_numba import (
    HAS_VECTORS,
    butterflies,
    multiply_and_turn_row,
    multiply_and_turn_tiles,
    multiply_row,
    multiply_tables,
    permutation,
    rotation,
    rotation_by_lines,
    rotation_in_memory,
)
from qsimenv.statevec.kernels.llvm_numba import trailing_zeros

_options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}

_lanes_only, _lanes_1, _lanes_2, _lanes_3, _lanes_4 = (rotation(k, with_lanes=True) for k in range(5))
_pairs_1, _pairs_2, _pairs_3, _pairs_4 = (rotation(k, with_lanes=False) for k in range(1, 5))
_turn_to_lines, _turn_from_lines = rotation_by_lines(gathers=False), rotation_by_lines(gathers=True)
_turn_from_memory = rotation_in_memory(loads=True, by_lines=False)
_turn_memory_to_lines = rotation_in_memory(loads=True, by_lines=True)
_turn_to_memory = rotation_in_memory(loads=False, by_lines=False)


_butterflies_2, _butterflies_3 = butterflies(2, from_memory=False), butterflies(3, from_memory=False)
_butterflies_2_from, _butterflies_3_from = butterflies(2, from_memory=True), butterflies(3, from_memory=True)

_multiply, _multiply_from, _multiply_to = multiply_row(""), multiply_row("from"), multiply_row("to")
_turn_row, _turn_row_to = multiply_and_turn_row(""), multiply_and_turn_row("to")
_turn_tiles, _turn_tiles_from = multiply_and_turn_tiles(""), multiply_and_turn_tiles("from")
_turn_tiles_to = multiply_and_turn_tiles("to")

_move_0, _move_1, _move_2, _move_3, _move_4 = (permutation(rank) for rank in range(5))


@njit(inline="always", **_options)
def place(number, itemsize):
    """Where a number of a block lies in scratch order. Additive: what disjoint sets of bits add to it adds up."""
    lane_bits = 4 if itemsize == 4 else 3
    return number + ((number >> (lane_bits + 6)) << lane_bits)


@njit(inline="always", **_options)
def tile_start(number, ops, row, count, itemsize):
    """Make room in a vector's number for the bits of the tile; where that lies in scratch order."""
    for k in range(count):
        position = ops[row, FIXED + k]
        number = ((number >> position) << (position + 1)) | (number & ((1 << position) - 1))
    return place(number, itemsize)


@part(**_options)
def rotate(plane, bits, ops, row, coefficients):
    """Turn up to four bits above the lanes, and (HAS_LANES) every lane bit, in one pass over a plane.

    One plane at a time: in a loop over both of them, tiles of sixteen vectors were measured to take twice as long.
    """
    lane_bits = 4 if plane.itemsize == 4 else 3
    count, at = ops[row, NUM_TARGETS], ops[row, OFFSET]
    tiles = 1 << (bits - count - lane_bits)
    c = coefficients
    lanes = (c[at + 4], c[at + 5], c[at + 6], c[at + 7])
    d0, d1 = place(1 << ops[row, TARGETS], plane.itemsize), place(1 << ops[row, TARGETS + 1], plane.itemsize)
    d2, d3 = place(1 << ops[row, TARGETS + 2], plane.itemsize), place(1 << ops[row, TARGETS + 3], plane.itemsize)
    s0, s1, s2, s3 = c[at], c[at + 1], c[at + 2], c[at + 3]
    if ops[row, HAS_LANES]:
        if count == 0:
            for tile in range(tiles):
                _lanes_only(plane, place(tile << lane_bits, plane.itemsize), (), (), lanes)
        elif count == 1:
            for tile in range(tiles):
                start = tile_start(tile << lane_bits, ops, row, 1, plane.itemsize)
                _lanes_1(plane, start, (d0,), (s0,), lanes)
        elif count == 2:
            for tile in range(tiles):
                start = tile_start(tile << lane_bits, ops, row, 2, plane.itemsize)
                _lanes_2(plane, start, (d0, d1), (s0, s1), lanes)
        elif count == 3:
            for tile in range(tiles):
                start = tile_start(tile << lane_bits, ops, row, 3, plane.itemsize)
                _lanes_3(plane, start, (d0, d1, d2), (s0, s1, s2), lanes)
        else:
            for tile in range(tiles):
                start = tile_start(tile << lane_bits, ops, row, 4, plane.itemsize)
                _lanes_4(plane, start, (d0, d1, d2, d3), (s0, s1, s2, s3), lanes)
    elif count == 1:
        for tile in range(tiles):
            start = tile_start(tile << lane_bits, ops, row, 1, plane.itemsize)
            _pairs_1(plane, start, (d0,), (s0,), lanes)
    elif count == 2:
        for tile in range(tiles):
            start = tile_start(tile << lane_bits, ops, row, 2, plane.itemsize)
            _pairs_2(plane, start, (d0, d1), (s0, s1), lanes)
    elif count == 3:
        for tile in range(tiles):
            start = tile_start(tile << lane_bits, ops, row, 3, plane.itemsize)
            _pairs_3(plane, start, (d0, d1, d2), (s0, s1, s2), lanes)
    else:
        for tile in range(tiles):
            start = tile_start(tile << lane_bits, ops, row, 4, plane.itemsize)
            _pairs_4(plane, start, (d0, d1, d2, d3), (s0, s1, s2, s3), lanes)


@part(**_options)
def rotate_by_lines(source, target, bits, ops, row, coefficients, tables, shift):
    """Turn up to four bits above the lanes in one pass from a plane into another, in which the lines change places.

    They do so as they are stored, and ``shift`` is where number 0 goes; or as they are loaded, and it is where that
    comes from. ``rows`` has the tables' layout.
    """
    lane_bits, item = 4 if source.itemsize == 4 else 3, source.itemsize
    count, at, first = ops[row, NUM_TARGETS], ops[row, OFFSET], ops[row, TARGETS]
    # Where there are fewer targets, the first one stands for those that are not looked at.
    second, third, fourth = [ops[row, TARGETS + k] if k < count else first for k in (1, 2, 3)]
    d0, d1, d2, d3 = (
        place(1 << first, item),
        place(1 << second, item),
        place(1 << third, item),
        place(1 << fourth, item),
    )
    s0, s1, s2, s3 = coefficients[at], coefficients[at + 1], coefficients[at + 2], coefficients[at + 3]
    lines = lines_of(ops, row, tables)
    t0, t1 = lines[first - lane_bits], lines[second - lane_bits]
    t2, t3 = lines[third - lane_bits], lines[fourth - lane_bits]
    is_other = np.ones(len(lines), np.bool_)
    is_other[ops[row, TARGETS : TARGETS + count] - lane_bits] = False
    steps, line = counting_steps(lines[is_other]), shift >> lane_bits
    tiles = 1 << (bits - count - lane_bits)
    if count == 1:
        _turn_by_lines(source, target, tiles, ops, row, (d0,), (s0,), line, (t0,), steps)
    elif count == 2:
        _turn_by_lines(source, target, tiles, ops, row, (d0, d1), (s0, s1), line, (t0, t1), steps)
    elif count == 3:
        _turn_by_lines(source, target, tiles, ops, row, (d0, d1, d2), (s0, s1, s2), line, (t0, t1, t2), steps)
    else:
        _turn_by_lines(
            source, target, tiles, ops, row, (d0, d1, d2, d3), (s0, s1, s2, s3), line, (t0, t1, t2, t3), steps
        )


@part(**_options)
def rotate_in_memory(plane, far, bits, ops, row, coefficients, tables, index, memory, column):
    """Turn three or four bits above the lanes in one pass from memory (``far``) to a plane of the block, or the other
    way round; ``column`` is that of the row's tables for it. In the block lines may change places as they are stored.

    ``memory`` has where the block starts, and the factors of what is spread.
    """
    lane_bits, item = 4 if plane.itemsize == 4 else 3, plane.itemsize
    count, at, first = ops[row, NUM_TARGETS], ops[row, OFFSET], ops[row, TARGETS]
    second, third = ops[row, TARGETS + 1], ops[row, TARGETS + 2]
    fourth = ops[row, TARGETS + 3] if count == 4 else first  # and then it is not looked at
    d0, d1, d2, d3 = (
        place(1 << first, item),
        place(1 << second, item),
        place(1 << third, item),
        place(1 << fourth, item),
    )
    s0, s1, s2, s3 = coefficients[at], coefficients[at + 1], coefficients[at + 2], coefficients[at + 3]
    start, _, masks_at = _in_memory(ops, row, tables, index, memory[2], column)
    masks = tables[masks_at : masks_at + bits - lane_bits]
    m0, m1 = masks[first - lane_bits], masks[second - lane_bits]
    m2, m3 = masks[third - lane_bits], masks[fourth - lane_bits]
    moves = ops[row, RANK] > 0
    lines = lines_of(ops, row, tables) if moves else np.zeros(bits - lane_bits, np.int64)
    line = shift_of(ops, row, tables, index) >> lane_bits if moves else 0
    t0, t1 = lines[first - lane_bits], lines[second - lane_bits]
    t2, t3 = lines[third - lane_bits], lines[fourth - lane_bits]
    is_other = np.ones(len(masks), np.bool_)
    is_other[ops[row, TARGETS : TARGETS + count] - lane_bits] = False
    there, here = (start, counting_steps(masks[is_other])), (line, counting_steps(lines[is_other]))
    walk = (plane, far, 1 << (bits - count - lane_bits), ops, row, here, there, memory[3], column)
    if count == 3:
        _turn_in_memory(*walk, (d0, d1, d2), (s0, s1, s2), (t0, t1, t2), (m0, m1, m2))
    else:
        _turn_in_memory(*walk, (d0, d1, d2, d3), (s0, s1, s2, s3), (t0, t1, t2, t3), (m0, m1, m2, m3))


@part(**_options)
def _turn_in_memory(plane, far, tiles, ops, row, here, there, spread, column, distances, slopes, partners, masks):
    """All tiles; ``here`` and ``there`` are a tile's line in the block and its place in memory, with the steps to the
    next ones, ``partners`` and ``masks`` the targets' lines and places."""
    lane_bits, moves = 4 if plane.itemsize == 4 else 3, ops[row, RANK] > 0
    (line, line_steps), (number, steps) = here, there
    for tile in range(tiles):
        start = tile_start(tile << lane_bits, ops, row, len(distances), plane.itemsize)
        turn = (plane, start, distances, slopes, line, partners, far, number, masks, spread)
        if column == TO_MEMORY:
            _turn_to_memory(*turn)
        elif moves:
            _turn_memory_to_lines(*turn)
        else:
            _turn_from_memory(*turn)
        step = trailing_zeros(tile + 1)
        line ^= line_steps[step]
        number ^= steps[step]


@part(**_options)
def _turn_by_lines(source, target, tiles, ops, row, distances, slopes, line, partners, steps):
    """All tiles; ``partners`` are the lines of the targets, ``steps`` lead from a tile's line to the next one's."""
    lane_bits, gathers = 4 if source.itemsize == 4 else 3, ops[row, GATHERS]
    for tile in range(tiles):
        start = tile_start(tile << lane_bits, ops, row, len(distances), source.itemsize)
        if gathers:
            _turn_from_lines(target, start, distances, slopes, source, line, partners)
        else:
            _turn_to_lines(source, start, distances, slopes, target, line, partners)
        line ^= steps[trailing_zeros(tile + 1)]


@part(**_options)
def counting_steps(lines):
    """For counting through the lines that some span: line k + 1 is another than line k in the step that the number of
    zeros at the end of k + 1 picks.
    """
    steps = np.zeros(lines.shape[0] + 1, np.int64)
    for k in range(lines.shape[0]):
        for later in range(k, steps.shape[0]):
            steps[later] ^= lines[k]
    return steps


@njit(inline="always", **_options)
def shift_of(ops, row, tables, index):
    """What goes to number 0 in an affine permutation comes from this number, which hangs on the bits outside the block.

    ``rows`` has the tables' layout.
    """
    at = ops[row, TABLE]
    shift = tables[at]
    for entry in range(ops[row, NUM_ENTRIES]):
        if _is_odd(index & tables[at + 1 + 2 * entry]):
            shift ^= tables[at + 2 + 2 * entry]
    return shift


@njit(inline="always", **_options)
def lines_of(ops, row, tables):
    """The columns of a permutation of whole lines: where the one comes from that has the number of a single bit; of
    rotations that do not gather: where it goes.
    """
    at = ops[row, TABLE] + 1 + 2 * ops[row, NUM_ENTRIES]
    return tables[at : at + ops[row, RANK]]


@part(**_options)
def permute(source, target, bits, ops, row, tables, shift):
    """An affine permutation of a plane of the block into another: to number t goes what is at ``map(t) ^ shift``."""
    at = ops[row, TABLE] + 1 + 2 * ops[row, NUM_ENTRIES]
    if HAS_VECTORS:
        move_lines(source, target, bits, ops, row, tables, at, shift)
    else:
        move_numbers(source, target, bits, ops, row, tables, at, shift)


@njit(**_options)
def move_numbers(source, target, bits, ops, row, tables, at, shift):
    """One number after the other, for any map on any machine."""
    low = min(bits, 8)
    at += tables[at]
    for high in range(1 << (bits - low)):
        start, to = tables[at + (1 << low) + high] ^ shift, place(high << low, source.itemsize)
        for number in range(1 << low):
            target[to + number] = source[place(start ^ tables[at + number], source.itemsize)]


@njit(**_options)
def move_lines(source, target, bits, ops, row, tables, at, shift):
    """Line by line, with the lanes rearranged in registers."""
    lane_bits = 4 if source.itemsize == 4 else 3
    rank, near_bits = ops[row, RANK], ops[row, NEAR_BITS]
    steps = at + 1
    patterns = steps + 2 * rank
    near = patterns + (1 << (rank + lane_bits))
    far = near + (2 << near_bits)
    count = 1 << (bits - lane_bits - rank - near_bits)
    for a in range(count):
        to, start = tables[far + a], tables[far + count + a] ^ shift
        if rank == 0:
            _move_0(source, target, tables, near, 1 << near_bits, to, start, steps, patterns)
        elif rank == 1:
            _move_1(source, target, tables, near, 1 << near_bits, to, start, steps, patterns)
        elif rank == 2:
            _move_2(source, target, tables, near, 1 << near_bits, to, start, steps, patterns)
        elif rank == 3:
            _move_3(source, target, tables, near, 1 << near_bits, to, start, steps, patterns)
        else:
            _move_4(source, target, tables, near, 1 << near_bits, to, start, steps, patterns)


@njit(inline="always", **_options)
def _is_odd(number):
    odd = False
    while number:
        odd = not odd
        number &= number - 1
    return odd


@njit(**_options)
def table_room(bits):
    """Numbers of room that ``apply_phases`` needs for tables beside a block."""
    high = max(bits - 8, 0)
    return 512 * (high + 3) + (2 << high)


@part(**_options)
def apply_phases(re, im, bits, ops, row, coefficients, tables, index, room, memory, far):
    """Multiply by ``exp(i q(x))``, row by row; ``phase_rows`` has the method, ``rows`` the layout.

    Targets are turned as well: the bit that all terms share, after the phases; or the first ones of a row, before and
    after them, so that one pass does the work of up to three. Where ``far`` is not 0, it is the column of the row's
    tables for loading from memory, or storing there; ``memory`` has the planes, where the block starts in them, and the
    factors of what is spread.
    """
    lane_bits = 4 if re.itemsize == 4 else 3
    tile_bits, inner, outer = ops[row, TILE_BITS], ops[row, INNER_BITS], ops[row, OUTER_BITS]
    width, high = 1 << (lane_bits + tile_bits), 1 << (inner + outer)
    entries = ops[row, NUM_ENTRIES]
    row_at = ops[row, OFFSET] + entries
    outer_at = row_at + 2 * width
    high_at = outer_at + 2 * width * outer
    slopes_at = high_at + 2 * high
    spare = 2 * width * (outer + 1)
    factors = room[spare + 4 * width :]
    for k in range(2 * width):
        room[k] = coefficients[row_at + k]
    for k in range(2 * high):
        factors[k] = coefficients[high_at + k]
    if entries:
        _turn_by_outside(ops, row, coefficients, tables, index, room, width, factors, high, bits)
    vectors_at = ops[row, TABLE] + 2 * entries
    inner_at = vectors_at + (1 << tile_bits)
    starts_at = inner_at + (1 << inner)
    far_start, (common, _, _), far_at = _in_memory(ops, row, tables, index, memory[2], far)
    far_start ^= common
    far_inner_at = far_at + (1 << tile_bits) if far else inner_at
    far_starts_at = far_inner_at + (1 << inner)
    for number in range(1 << outer):
        table = 0
        if number:
            bit = _lowest_bit(number)
            before = number & (number - 1)
            table, parent = 1 + bit, 1 + _lowest_bit(before) if before else 0
            multiply_tables(
                room, 2 * width * table, 2 * width * parent, coefficients, outer_at + 2 * width * bit, width
            )
        table, odd, is_odd = 2 * width * table, 0, False
        if ops[row, PARITY]:
            at, odd = ops[row, PARITY], tables[ops[row, PARITY] + 2]
            is_odd = _is_odd(number & tables[at + 3]) ^ _is_odd(index & tables[at + 4])
            for k in range(2):
                multiply_tables(room, spare + 2 * width * k, table, coefficients, tables[at + k], width)
            table = spare
        start, first, last = ops[row, BASE] + tables[starts_at + number], number << inner, number + 1 << inner
        places = (start, tables, inner_at, vectors_at, 1 << tile_bits)
        numbers = (room, table, width, odd, is_odd, factors[first:last], factors[high + first : high + last])
        group = far_start ^ tables[far_starts_at + number] if far else 0
        there = (memory[0], memory[1], group, far_inner_at, far_at, common, memory[3])
        if ops[row, NUM_TARGETS] == TURNED_WITH_PHASES:
            slopes = coefficients[slopes_at : slopes_at + 6]
            _turned_tiles(re, im, places, numbers, there, far, slopes, ops[row, TURNED_BEFORE])
        elif ops[row, NUM_TARGETS]:
            _turned_rows(re, im, places, numbers, there, far, ops[row, BASE], coefficients[slopes_at])
        else:
            _rows(re, im, places, numbers, there, far)


@njit(inline="always", **_options)
def _in_memory(ops, row, tables, index, start, far):
    """Where the block's number 0 is in memory, the shared bits, and where the tables for vectors begin."""
    if not far:
        return 0, (0, 0, 0), 0
    at = ops[row, far]
    place = start ^ tables[at + 1]
    for entry in range(tables[at]):
        if _is_odd(index & tables[at + 5 + 2 * entry]):
            place ^= tables[at + 6 + 2 * entry]
    return place, (tables[at + 2], tables[at + 3], tables[at + 4]), at + 5 + 2 * tables[at]


@njit(inline="always", **_options)
def _table_of(k, numbers):
    """Where the factors of row ``k`` are: with a parity there are two tables."""
    _, at, width, odd, is_odd, _, _ = numbers
    return at + 2 * width * (_is_odd(k & odd) ^ is_odd) if odd or is_odd else at


@part(**_options)
def _rows(re, im, places, numbers, there, far):
    """Multiply rows that share a table: ``places`` has where they lie, ``numbers`` what they are multiplied by, and
    ``there`` where they come from, or go, if that is memory: ``far`` as in ``apply_phases``."""
    start, tables, rows_at, vectors_at, vectors = places
    room, _, width, _, _, c, s = numbers
    far_re, far_im, group, far_rows_at, far_at, common, spread = there
    for k in range(c.shape[0]):
        base, at = start + tables[rows_at + k], _table_of(k, numbers)
        memory = (far_re, far_im, group ^ tables[far_rows_at + k], far_at, common, spread)
        if far == 0:
            _multiply(re, im, base, tables, vectors_at, vectors, room, at, width, c[k], s[k], memory)
        elif far == FROM_MEMORY:
            _multiply_from(re, im, base, tables, vectors_at, vectors, room, at, width, c[k], s[k], memory)
        else:
            _multiply_to(re, im, base, tables, vectors_at, vectors, room, at, width, c[k], s[k], memory)


@part(**_options)
def _turned_rows(re, im, places, numbers, there, far, distance, slope):
    """The same for rows that all have one bit; this is turned on ``slope`` afterwards."""
    start, tables, rows_at, vectors_at, vectors = places
    room, _, width, _, _, c, s = numbers
    far_re, far_im, group, far_rows_at, far_at, common, spread = there
    for k in range(c.shape[0]):
        base, at = start + tables[rows_at + k], _table_of(k, numbers)
        memory = (far_re, far_im, group ^ tables[far_rows_at + k], far_at, common, spread)
        row = (re, im, base, tables, vectors_at, vectors, room, at, width, c[k], s[k], memory, distance, slope)
        if far:
            _turn_row_to(*row)
        else:
            _turn_row(*row)


@part(**_options)
def _turned_tiles(re, im, places, numbers, there, far, slopes, before):
    """The same for rows whose first bits are turned: ``before`` of them on the last slopes, then all on the first."""
    a0, a1, a2, b0, b1, b2 = slopes[0], slopes[1], slopes[2], slopes[3], slopes[4], slopes[5]
    after = (a0, a1, a2)
    if far == FROM_MEMORY:
        _tiles_from(re, im, places, numbers, there, (), after)
    elif far and before == 0:
        _tiles_to(re, im, places, numbers, there, (), after)
    elif far:
        _tiles_to(re, im, places, numbers, there, (b0, b1, b2), ())
    elif before == 0:
        _tiles(re, im, places, numbers, there, (), after)
    elif a0 == 0 and a1 == 0 and a2 == 0:
        _tiles(re, im, places, numbers, there, (b0, b1, b2), ())
    elif before == 1:
        _tiles(re, im, places, numbers, there, (b0,), after)
    elif before == 2:
        _tiles(re, im, places, numbers, there, (b0, b1), after)
    else:
        _tiles(re, im, places, numbers, there, (b0, b1, b2), after)


@part(**_options)
def _tiles(re, im, places, numbers, there, before, after):
    """The same; as many of their first bits as there are slopes, before and after they are multiplied."""
    start, tables, rows_at, vectors_at, vectors = places
    room, _, width, _, _, c, s = numbers
    far_re, far_im, group, far_rows_at, far_at, common, spread = there
    for k in range(c.shape[0]):
        base, at = start + tables[rows_at + k], _table_of(k, numbers)
        memory = (far_re, far_im, group ^ tables[far_rows_at + k], far_at, common, spread)
        _turn_tiles(re, im, base, tables, vectors_at, vectors, room, at, width, c[k], s[k], memory, before, after)


@part(**_options)
def _tiles_from(re, im, places, numbers, there, before, after):
    """The same, loading them from memory."""
    start, tables, rows_at, vectors_at, vectors = places
    room, _, width, _, _, c, s = numbers
    far_re, far_im, group, far_rows_at, far_at, common, spread = there
    for k in range(c.shape[0]):
        base, at = start + tables[rows_at + k], _table_of(k, numbers)
        memory = (far_re, far_im, group ^ tables[far_rows_at + k], far_at, common, spread)
        _turn_tiles_from(re, im, base, tables, vectors_at, vectors, room, at, width, c[k], s[k], memory, before, after)


@part(**_options)
def _tiles_to(re, im, places, numbers, there, before, after):
    """The same, storing them in memory."""
    start, tables, rows_at, vectors_at, vectors = places
    room, _, width, _, _, c, s = numbers
    far_re, far_im, group, far_rows_at, far_at, common, spread = there
    for k in range(c.shape[0]):
        base, at = start + tables[rows_at + k], _table_of(k, numbers)
        memory = (far_re, far_im, group ^ tables[far_rows_at + k], far_at, common, spread)
        _turn_tiles_to(re, im, base, tables, vectors_at, vectors, room, at, width, c[k], s[k], memory, before, after)


@part(**_options)
def turn_in_a_row(re, im, ops, row, coefficients, tables, index, room, memory, far):
    """Phases of one bit with others, then its rotation by a slope of -1; so for two or three bits, one after the other,
    in one pass.

    ``memory`` and ``far`` as in ``apply_phases``.
    """
    lane_bits = 4 if re.itemsize == 4 else 3
    count, tile_bits, entries = ops[row, NUM_TARGETS], ops[row, TILE_BITS], ops[row, NUM_ENTRIES]
    width, rows = 1 << (lane_bits + tile_bits), 1 << ops[row, INNER_BITS]
    at, starts = ops[row, TABLE], np.empty(3, np.int64)
    start = ops[row, OFFSET] + entries
    for target in range(count):
        starts[target] = start
        start += 2 * target + 2 * width
        angle = 0.0
        for entry in range(entries):
            mask = tables[at + 2 * entry]
            if tables[at + 2 * entry + 1] == target and index & mask == mask:
                angle += coefficients[ops[row, OFFSET] + entry]
        c, s = math.cos(angle), math.sin(angle)
        for k in range(rows):
            x, y = coefficients[start + k], coefficients[start + rows + k]
            room[2 * rows * target + k] = x * c - y * s
            room[2 * rows * target + rows + k] = x * s + y * c
        start += 2 * rows
    vectors_at = at + 2 * entries
    item, own = re.itemsize, room
    d0, d1 = place(1 << ops[row, TARGETS], item), place(1 << ops[row, TARGETS + 1], item)
    d2 = place(1 << ops[row, TARGETS + 2], item)
    far_start, masks, far_at = _in_memory(ops, row, tables, index, memory[2], far)
    for k in range(rows):
        base = tables[vectors_at + (1 << tile_bits) + k]
        group = far_start ^ tables[far_at + (1 << tile_bits) + k] if far else 0
        there = (memory[0], memory[1], group, far_at, masks, memory[3])
        at = (tables, vectors_at, 1 << tile_bits, coefficients)
        first = (own[k], own[rows + k], own[2 * rows + k], own[3 * rows + k])
        if count == 2 and far:
            _butterflies_2_from(re, im, base, (d0, d1), *at, (starts[0], starts[1]), width, first, there)
        elif count == 2:
            _butterflies_2(re, im, base, (d0, d1), *at, (starts[0], starts[1]), width, first, there)
        else:
            three, last = (starts[0], starts[1], starts[2]), (*first, own[4 * rows + k], own[5 * rows + k])
            if far:
                _butterflies_3_from(re, im, base, (d0, d1, d2), *at, three, width, last, there)
            else:
                _butterflies_3(re, im, base, (d0, d1, d2), *at, three, width, last, there)


@part(**_options)
def _turn_by_outside(ops, row, coefficients, tables, index, room, width, factors, high, bits):
    """What the bits outside the block add: a constant, and an angle for each bit of the block."""
    angles = np.zeros(bits + 1)
    at, values = ops[row, TABLE], ops[row, OFFSET]
    for entry in range(ops[row, NUM_ENTRIES]):
        mask = tables[at + 2 * entry]
        if index & mask == mask:
            angles[tables[at + 2 * entry + 1]] += coefficients[values + entry]
    row_bits = _lowest_bit(width)
    _turn(room, width, 0.0, angles, 1, row_bits)
    _turn(factors, high, angles[0], angles, 1 + row_bits, _lowest_bit(high))


@part(**_options)
def _turn(table, size, constant, angles, first, count):
    """Multiply a table of ``size`` factors, cos before sin, by ``exp(i (constant + angles of the number's bits))``."""
    c, s = np.empty(size, table.dtype), np.empty(size, table.dtype)
    c[0], s[0] = math.cos(constant), math.sin(constant)
    for bit in range(count):
        p, q = math.cos(angles[first + bit]), math.sin(angles[first + bit])
        half = 1 << bit
        for k in range(half):
            c[half + k] = c[k] * p - s[k] * q
            s[half + k] = c[k] * q + s[k] * p
    for k in range(size):
        x, y = table[k], table[size + k]
        table[k] = x * c[k] - y * s[k]
        table[size + k] = x * s[k] + y * c[k]


@njit(inline="always", **_options)
def _lowest_bit(number):
    """The position of the lowest bit set."""
    position = 0
    while not number >> position & 1:
        position += 1
    return position
