"""Kernels for a narrow circuit that is run once: its gates one after the other on one state.

They know neither names nor angles' formulas: ``listing`` has the gates as numbers. What gates do to one qubit is
multiplied up and waits until another gate needs that qubit. Always in double precision: it costs so little here.
"""

from __future__ import annotations

import math

import numpy as np

from qsimenv.statevec.batches.batch_numba import draw_from
from qsimenv.statevec.gatewise.lines_numba import LANE_BITS, LANES, MOST_FACTORS, mix
from qsimenv.statevec.gatewise.listing import (
    ANGLE,
    FIRST_PLACE,
    FIRST_TURN,
    GIVEN,
    KIND,
    MOST_TARGETS,
    NUM_CONTROLS,
    NUM_NUMBERS,
    NUM_PLACES,
    NUM_TARGETS,
    NUM_TURNS,
    PHASE,
    SOURCE,
    TURN_X,
    TURNED,
)
from qsimenv.statevec.kernel_cache import njit, part

_options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}
_MOST = 1 << MOST_TARGETS
_NONE, _ONE = np.int64(0), np.int64(1)
"""As arguments: what gets a number that is written out is compiled once more for it."""


@part(**_options)
def _make_matrix(matrix, size, circuit, template, at):
    """The matrix on the targets of a gate whose numbers begin at ``at``, row by row."""
    numbers, templates, turns, scales, places, constants = circuit
    source, entries = templates[template, SOURCE], size * size
    for k in range(entries):
        if source == GIVEN:
            matrix[k] = complex(numbers[at + 2 * k], numbers[at + 2 * k + 1])
        elif source == TURNED:
            matrix[k] = 1 if k % (size + 1) == 0 else 0
        else:
            matrix[k] = constants[source + k]
    first = templates[template, FIRST_TURN]
    for turn in range(first, first + templates[template, NUM_TURNS]):
        kind, angle, x = turns[turn, KIND], turns[turn, ANGLE], scales[turn, 1]
        if angle >= 0:
            x += scales[turn, 0] * numbers[at + angle]
        c, s = math.cos(x), math.sin(x)
        there = complex(0, -s) if kind == TURN_X else complex(-s, 0)
        back = there if kind == TURN_X else -there
        step = 1 if kind == PHASE else 2
        place = turns[turn, FIRST_PLACE]
        for pair in range(place, place + turns[turn, NUM_PLACES], step):
            a, b = places[pair] * size, places[pair + step - 1] * size
            for k in range(size):
                p, q = matrix[a + k], matrix[b + k]
                if kind == PHASE:
                    matrix[a + k] = p * complex(c, s)
                else:
                    matrix[a + k] = c * p + there * q
                    matrix[b + k] = c * q + back * p


@part(**_options)
def _mix(re, im, fixed, ones, offsets, factors, bits, mask):
    """``lines_numba.mix`` on all lines whose controls are met; ``ones`` are the bits that they have."""
    fixed, number = fixed >> LANE_BITS, 0
    while number << LANE_BITS < len(re):
        mix(re, im, (number | ones >> LANE_BITS) << LANE_BITS, offsets, factors, bits, mask)
        number = (number | fixed) + 1 & ~fixed


@part(**_options)
def _mix_any(re, im, matrix, size, offsets, fixed, ones, block):
    """A matrix on more than two qubits, by blocks of amplitudes."""
    number = 0
    while number < len(re):
        for row in range(size):
            place = number | ones | offsets[row]
            block[row] = complex(re[place], im[place])
        for row in range(size):
            amplitude = 0j
            for column in range(size):
                factor = matrix[row * size + column]
                if factor != 0:
                    amplitude += factor * block[column]
            re[number | ones | offsets[row]], im[number | ones | offsets[row]] = amplitude.real, amplitude.imag
        number = (number | fixed) + 1 & ~fixed


@part(**_options)
def _is_diagonal(matrix, size):
    is_diagonal = True
    for k in range(size * size):
        is_diagonal &= k % (size + 1) == 0 or matrix[k] == 0
    return is_diagonal


@part(**_options)
def _split(targets, num_targets, lane_rows, high_rows, offsets, masks):
    """Bits of a row of the matrix that each lane stands for; those of each line, and how far it is from the first; the
    masks by which lanes take from each other. Returns the number of lines and of masks."""
    lines, num_masks = _ONE, _ONE
    for lane in range(LANES):
        lane_rows[lane] = 0
    high_rows[0], offsets[0], masks[0] = 0, 0, 0
    for k in range(num_targets):
        if targets[k] < LANE_BITS:
            for lane in range(LANES):
                lane_rows[lane] |= (lane >> targets[k] & 1) << k
        else:
            for j in range(lines):
                high_rows[lines + j], offsets[lines + j] = high_rows[j] | 1 << k, offsets[j] | 1 << targets[k]
            lines *= 2
    for bit in range(LANE_BITS):
        for k in range(num_targets):
            if targets[k] == bit:
                for j in range(num_masks):
                    masks[num_masks + j] = masks[j] | 1 << bit
                num_masks *= 2
    return lines, num_masks


@part(**_options)
def _put_factors(factors, at, matrix, size, here, there, mask, lane_rows, controls, ones):
    """The factors of what the line with the rows ``here`` takes from that with ``there``; lanes whose controls are not
    met stay as they are. Whether that is so for all of them, or the factors are 1."""
    is_one = True
    for lane in range(LANES):
        factor = matrix[(here | lane_rows[lane]) * size + (there | lane_rows[lane ^ mask])]
        if (lane ^ ones) & controls & (LANES - 1):
            factor = 1 + 0j if here == there and mask == 0 else 0j
        factors[at + lane], factors[at + LANES + lane] = factor.real, factor.imag
        is_one &= factor == 1
    return is_one


@part(**_options)
def _apply(re, im, matrix, targets, num_targets, controls, ones, room):
    """A matrix on ``targets`` where the bits of ``controls`` are those of ``ones``."""
    factors, lane_rows, high_rows, offsets, masks, block = room
    size, fixed = 1 << num_targets, controls
    for k in range(num_targets):
        fixed |= 1 << targets[k]
    lines, num_masks = _split(targets, num_targets, lane_rows, high_rows, offsets, masks)
    if _is_diagonal(matrix, size):
        for line in range(lines):
            rows = high_rows[line]
            if not _put_factors(factors, _NONE, matrix, size, rows, rows, _NONE, lane_rows, controls, ones):
                _mix(re, im, fixed, ones | offsets[line], offsets, factors, _NONE, _NONE)
        return
    if num_targets > 2:
        for row in range(size):
            offsets[row] = 0
            for k in range(num_targets):
                offsets[row] |= (row >> k & 1) << targets[k]
        _mix_any(re, im, matrix, size, offsets, fixed, ones, block)
        return
    at = _NONE
    for line in range(lines):
        for other in range(lines):
            for k in range(num_masks):
                here, there = high_rows[line], high_rows[other]
                _put_factors(factors, at, matrix, size, here, there, masks[k], lane_rows, controls, ones)
                at += 2 * LANES
    _mix(re, im, fixed, ones, offsets, factors, lines >> 1, masks[num_masks - 1])


@part(**_options)
def _hold(waiting, at, is_first, matrix):
    """Let a 2 x 2 matrix wait from ``at`` on, multiplied with what waits there."""
    for j in range(2):
        p = waiting[at + j] if not is_first else 1 - j + 0j
        q = waiting[at + 2 + j] if not is_first else j + 0j
        waiting[at + j] = matrix[0] * p + matrix[1] * q
        waiting[at + 2 + j] = matrix[2] * p + matrix[3] * q


@njit(**_options)
def run_gates(re, im, listed, circuit, cursor, stop):
    """All gates from where ``cursor`` stands up to ``stop``, where it stands then: gate, qubit, number.

    What one gate, with what waits for its qubits before it, does is done in one place, which is compiled once.
    """
    codes, qubits, states = listed
    templates, num_qubits = circuit[1], _NONE
    while 1 << num_qubits < len(re):
        num_qubits += 1
    matrix, one = np.empty(_MOST * _MOST, np.complex128), np.empty(4, np.complex128)
    waiting, waits = np.empty(4 * num_qubits, np.complex128), np.zeros(num_qubits, np.bool_)
    targets = np.empty(num_qubits, np.int64)
    room = (
        np.empty(MOST_FACTORS), np.empty(LANES, np.int64), np.empty(_MOST, np.int64), np.empty(_MOST, np.int64),
        np.empty(LANES, np.int64), np.empty(_MOST, np.complex128),
    )  # fmt: skip
    for number in range(cursor[0], stop + 1):
        first, num_controls, num_targets, size = cursor[1], _NONE, num_qubits, _NONE
        if number < stop:  # else all qubits are looked at, as nothing can wait any longer
            code = codes[number]
            num_controls, num_targets = templates[code, NUM_CONTROLS], templates[code, NUM_TARGETS]
            size = 1 << num_targets
            _make_matrix(matrix, size, circuit, code, cursor[2])
            cursor[1] += num_controls + num_targets
            cursor[2] += templates[code, NUM_NUMBERS]
        count = num_controls + num_targets
        if count == 1 and size == 2:
            _hold(waiting, 4 * qubits[first], not waits[qubits[first]], matrix)
            waits[qubits[first]] = True
            continue
        for k in range(count + (size > 0)):
            ready, width, controls, ones = matrix, num_targets, _NONE, _NONE
            if k == count:
                for j in range(count):
                    qubit = qubits[first + j]
                    if j >= num_controls:
                        targets[j - num_controls] = qubit
                    else:
                        controls |= 1 << qubit
                        ones |= (states[number] >> j & 1) << qubit
            else:
                qubit = qubits[first + k] if size else k
                if not waits[qubit]:
                    continue
                waits[qubit] = False
                for j in range(4):
                    one[j] = waiting[4 * qubit + j]
                ready, width, targets[0] = one, _ONE, qubit
            _apply(re, im, ready, targets, width, controls, ones, room)
    cursor[0] = stop


@njit(**_options)
def read(re, im, readout, draw, expectations, samples):
    """Expectation values of observables (see ``batch_plan.Readout``), and shots."""
    terms, rows, weights = readout
    for number in range(len(expectations)):
        expectations[number] = 0
    for term in range(len(terms)):
        at, place = terms[term, 2], terms[term, 4]
        for k in range(terms[term, 3]):
            if terms[term, 1]:
                a, b = re[rows[at + k]], im[rows[at + k]]
                value = weights[place + k] * (a * a + b * b)
            else:
                i, j = rows[at + 2 * k], rows[at + 2 * k + 1]
                value = weights[place + 2 * k] * (re[i] * re[j] + im[i] * im[j])
                value += weights[place + 2 * k + 1] * (im[i] * re[j] - re[i] * im[j])
            expectations[terms[term, 0]] += value
    if len(samples):
        row_of, bin_of, outcomes, seed, event, number = draw
        sums = np.empty(len(outcomes))
        draw_from(re, im, _NONE, row_of, bin_of, outcomes, seed, event, number, sums, samples)
