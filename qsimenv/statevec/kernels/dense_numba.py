"""Dense complex matrices on one block: on two bits in registers; on up to five, and under controls, by way of a copy.

``sweep_numba`` calls them for rows of kind ``TWO_TARGETS`` and ``DENSE``.
"""

from __future__ import annotations

import numpy as np

from qsimenv import gates
from qsimenv.statevec.encoding.rows import (
    BY_LANE,
    CONTROL_VALUE,
    HAS_LANES,
    NUM_FIXED,
    NUM_TARGETS,
    OFFSET,
    TARGETS,
    TILES_TOGETHER,
)
from qsimenv.statevec.kernel_cache import njit, part
from qsimenv.statevec.kernels.dense_vectors_numba import copy_of_vectors, output_of_matrix, two_bits
from qsimenv.statevec.kernels.passes_numba import place, tile_start

_options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}

_MOST_INPUTS = 1 << gates.MAX_UNITARY_TARGETS
DENSE_ROOM = 2 * TILES_TOGETHER * 16 * _MOST_INPUTS
"""Numbers of room that ``dense_matrix`` needs beside a block."""

_dense_pairs = two_bits((), 2)
_dense_0, _dense_1, _dense_2, _dense_3 = (two_bits((lane,), 1) for lane in range(4))
_dense_01, _dense_02, _dense_12 = two_bits((0, 1), 0), two_bits((0, 2), 0), two_bits((1, 2), 0)
_dense_03, _dense_13, _dense_23 = two_bits((0, 3), 0), two_bits((1, 3), 0), two_bits((2, 3), 0)
_copy_lines, _copy_lanes = copy_of_vectors(shuffles=False), copy_of_vectors(shuffles=True)
_four_outputs = output_of_matrix(TILES_TOGETHER, by_lane=False)
_four_outputs_by_lane = output_of_matrix(TILES_TOGETHER, by_lane=True)
_output_by_lane = output_of_matrix(1, by_lane=True)


@part(**_options)
def two_targets(re, im, bits, ops, row, coefficients):
    """A dense complex matrix on two bits of the block, HAS_LANES of which (the lower ones) are lane bits."""
    lane_bits = 4 if re.itemsize == 4 else 3
    lanes, at = ops[row, HAS_LANES], ops[row, OFFSET]
    low, high = ops[row, TARGETS], ops[row, TARGETS + 1]
    pairs = 1 << (bits - lane_bits - 3 + lanes)
    far = place(1 << high, re.itemsize)
    near = place(1 << low, re.itemsize)
    for pair in range(pairs):
        starts = (
            tile_start(2 * pair << lane_bits, ops, row, 2 - lanes, re.itemsize),
            tile_start(2 * pair + 1 << lane_bits, ops, row, 2 - lanes, re.itemsize),
        )
        if lanes == 0:
            _dense_pairs(re, im, starts, (near, far), coefficients, at)
        elif lanes == 1:
            if low == 0:
                _dense_0(re, im, starts, (far,), coefficients, at)
            elif low == 1:
                _dense_1(re, im, starts, (far,), coefficients, at)
            elif low == 2:
                _dense_2(re, im, starts, (far,), coefficients, at)
            else:
                _dense_3(re, im, starts, (far,), coefficients, at)
        elif high == 1:
            _dense_01(re, im, starts, (), coefficients, at)
        elif high == 2 and low == 0:
            _dense_02(re, im, starts, (), coefficients, at)
        elif high == 2:
            _dense_12(re, im, starts, (), coefficients, at)
        elif low == 0:
            _dense_03(re, im, starts, (), coefficients, at)
        elif low == 1:
            _dense_13(re, im, starts, (), coefficients, at)
        else:
            _dense_23(re, im, starts, (), coefficients, at)


@njit(**_options)
def _places(ops, row, itemsize):
    """How far from the first vector of a tile those are that differ in the targets above the lanes; and by which masks
    lanes are shuffled for those in a lane."""
    lanes, targets = ops[row, HAS_LANES], ops[row, NUM_TARGETS]
    distances, masks = np.zeros(1 << (targets - lanes), np.int64), np.zeros(1 << lanes, np.int64)
    for k in range(lanes):
        for number in range(len(masks)):
            masks[number] |= (number >> k & 1) << ops[row, TARGETS + k]
    for k in range(targets - lanes):
        for number in range(len(distances)):
            distances[number] += (number >> k & 1) * place(1 << ops[row, TARGETS + lanes + k], itemsize)
    return distances, masks


@part(**_options)
def _copy_inputs(re, im, starts, distances, masks, room, width):
    """All inputs of some tiles to ``room``: of each a vector of real and one of imaginary parts for each tile."""
    to = 0
    for distance in distances:
        for mask in masks:
            for start in starts:
                if mask:
                    _copy_lanes(re, im, start + distance, room, to, mask)
                else:
                    _copy_lines(re, im, start + distance, room, to, mask)
                to += 2 * width


@part(**_options)
def dense_matrix(re, im, bits, ops, row, coefficients, room):
    """A dense complex matrix on up to five bits of the block, HAS_LANES of which (the lower ones) are lane bits, where
    the controls above the lanes have their value.

    An input for each number of the targets: the vector at its distance, with lanes shuffled so that the one number of
    a pair is in the lane of the other. Outputs go where inputs were, which are copied first.
    """
    lane_bits = 4 if re.itemsize == 4 else 3
    by_lane, fixed, at = ops[row, BY_LANE] != 0, ops[row, NUM_FIXED], ops[row, OFFSET]
    inputs, width = 1 << ops[row, NUM_TARGETS], 1 << lane_bits
    distances, masks = _places(ops, row, re.itemsize)
    tiles, origin = 1 << (bits - lane_bits - fixed), place(ops[row, CONTROL_VALUE], re.itemsize)
    step = 3 * inputs * (width if by_lane else 1)
    starts = np.zeros(TILES_TOGETHER if tiles >= TILES_TOGETHER else 1, np.int64)
    for first in range(0, tiles, len(starts)):
        for k in range(len(starts)):
            starts[k] = origin + tile_start((first + k) << lane_bits, ops, row, fixed, re.itemsize)
        _copy_inputs(re, im, starts, distances, masks, room, width)
        for number in range(len(distances)):
            entry = at + number * step
            if len(starts) == 1:
                _output_by_lane(room, inputs, coefficients, entry, re, im, (starts[0] + distances[number],))
                continue
            one, two, three, four = starts[0], starts[1], starts[2], starts[3]
            distance = distances[number]
            places = (one + distance, two + distance, three + distance, four + distance)
            if by_lane:
                _four_outputs_by_lane(room, inputs, coefficients, entry, re, im, places)
            else:
                _four_outputs(room, inputs, coefficients, entry, re, im, places)
