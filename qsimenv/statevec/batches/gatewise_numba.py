"""Kernels for a small circuit that is run once: its gates one after the other on one state.

They know neither names nor angles' formulas: ``gatewise`` lists the gates as numbers. What gates do to one qubit is
multiplied up and waits until another gate needs that qubit. Always in double precision: it costs so little here.
"""

from __future__ import annotations

import math

import numpy as np

from qsimenv.statevec.batches.batch_numba import draw_from
from qsimenv.statevec.batches.gatewise_plan import (
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
def _sort(positions, count):
    for k in range(1, count):
        here, j = positions[k], k
        while j > 0 and positions[j - 1] > here:
            positions[j] = positions[j - 1]
            j -= 1
        positions[j] = here


@part(**_options)
def _nonzero(matrix, size, columns, ends):
    """Row by row the columns of what is not zero, and where each row's end; whether that is the diagonal alone."""
    total, is_diagonal = 0, True
    for row in range(size):
        for column in range(size):
            if matrix[row * size + column] != 0:
                columns[total] = column
                total += 1
                is_diagonal &= row == column
        ends[row] = total
    return is_diagonal


@part(**_options)
def _start(number, positions, count, ones):
    """Make room in a number for the bits at some positions, and set those of ``ones``."""
    for k in range(count):
        low = number & ((1 << positions[k]) - 1)
        number = ((number - low) << 1) | low
    return number | ones


@part(**_options)
def _scale(state, matrix, size, offsets, start, run):
    """A diagonal matrix on blocks that begin one after the other."""
    for row in range(size):
        factor, first = matrix[row * size + row], start | offsets[row]
        if factor != 1:
            for k in range(first, first + run):
                state[k] *= factor


@part(**_options)
def _turn(state, matrix, distance, start, run):
    """A matrix on pairs of amplitudes, so far apart."""
    m0, m1, m2, m3 = matrix[0], matrix[1], matrix[2], matrix[3]
    if m0 == 0 and m3 == 0 and m1 == 1 and m2 == 1:
        for k in range(start, start + run):
            state[k], state[k + distance] = state[k + distance], state[k]
    else:
        for k in range(start, start + run):
            p, q = state[k], state[k + distance]
            state[k] = m0 * p + m1 * q
            state[k + distance] = m2 * p + m3 * q


@part(**_options)
def _mix(state, matrix, size, columns, ends, offsets, start, run, block):
    """Any matrix; what is zero in it costs nothing."""
    for k in range(start, start + run):
        for row in range(size):
            block[row] = state[k | offsets[row]]
        entry = 0
        for row in range(size):
            amplitude = 0j
            while entry < ends[row]:
                amplitude += matrix[row * size + columns[entry]] * block[columns[entry]]
                entry += 1
            state[k | offsets[row]] = amplitude


@part(**_options)
def _apply(state, matrix, size, offsets, positions, count, ones):
    """A matrix on blocks of amplitudes, ``offsets`` apart; the indices of the first ones have at the (sorted)
    ``positions`` the bits of ``ones``."""
    columns, ends, block = np.empty(_MOST * _MOST, np.int64), np.empty(_MOST, np.int64), np.empty(_MOST, np.complex128)
    is_diagonal = _nonzero(matrix, size, columns, ends)
    run = 1 << positions[0] if count else len(state)
    for number in range(0, len(state) >> count, run):
        start = _start(number, positions, count, ones)
        if is_diagonal:
            _scale(state, matrix, size, offsets, start, run)
        elif size == 2:
            _turn(state, matrix, offsets[1], start, run)
        else:
            _mix(state, matrix, size, columns, ends, offsets, start, run, block)


@part(**_options)
def _hold(waiting, at, is_first, matrix):
    """Let a 2 x 2 matrix wait from ``at`` on, multiplied with what waits there."""
    for j in range(2):
        p = waiting[at + j] if not is_first else 1 - j + 0j
        q = waiting[at + 2 + j] if not is_first else j + 0j
        waiting[at + j] = matrix[0] * p + matrix[1] * q
        waiting[at + 2 + j] = matrix[2] * p + matrix[3] * q


@part(**_options)
def _lay_out(qubits, first, num_controls, num_targets, state, positions, offsets):
    """Positions of a gate's qubits, sorted, and offsets of its targets' values; returns the bits of its controls."""
    ones, count = 0, num_controls + num_targets
    for k in range(count):
        positions[k] = qubits[first + k]
        if k < num_controls and state >> k & 1:
            ones |= 1 << positions[k]
    for value in range(1 << num_targets):
        offsets[value] = 0
        for k in range(num_targets):
            offsets[value] |= (value >> k & 1) << qubits[first + num_controls + k]
    _sort(positions, count)
    return ones


@njit(**_options)
def run_gates(state, listed, circuit, cursor, stop):
    """All gates from where ``cursor`` stands up to ``stop``, where it stands then: gate, qubit, number.

    What one gate, with what waits for its qubits before it, does is done in one place, which is compiled once.
    """
    codes, qubits, states = listed
    templates, num_qubits = circuit[1], 0
    while 1 << num_qubits < len(state):
        num_qubits += 1
    positions, offsets = np.empty(num_qubits + 1, np.int64), np.empty(_MOST, np.int64)
    matrix, one = np.empty(_MOST * _MOST, np.complex128), np.empty(4, np.complex128)
    waiting, waits = np.empty(4 * num_qubits, np.complex128), np.zeros(num_qubits, np.bool_)
    for number in range(cursor[0], stop + 1):
        first, num_controls, num_targets, size = cursor[1], 0, num_qubits, 0
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
            ready, rows, held, ones = matrix, size, count, 0
            if k == count:
                ones = _lay_out(qubits, first, num_controls, num_targets, states[number], positions, offsets)
            else:
                qubit = qubits[first + k] if size else k
                if not waits[qubit]:
                    continue
                waits[qubit] = False
                for j in range(4):
                    one[j] = waiting[4 * qubit + j]
                positions[0], offsets[0], offsets[1] = qubit, 0, 1 << qubit
                ready, rows, held = one, 2, 1
            _apply(state, ready, rows, offsets, positions, held, ones)
    cursor[0] = stop


@njit(**_options)
def read(state, readout, draw, expectations, samples):
    """Expectation values of observables (see ``batch_plan.Readout``), and shots."""
    terms, rows, weights = readout
    for number in range(len(expectations)):
        expectations[number] = 0
    for term in range(len(terms)):
        at, place = terms[term, 2], terms[term, 4]
        for k in range(terms[term, 3]):
            if terms[term, 1]:
                a = state[rows[at + k]]
                value = weights[place + k] * (a.real * a.real + a.imag * a.imag)
            else:
                product = state[rows[at + 2 * k]] * state[rows[at + 2 * k + 1]].conjugate()
                value = weights[place + 2 * k] * product.real + weights[place + 2 * k + 1] * product.imag
            expectations[terms[term, 0]] += value
    if len(samples):
        row_of, bin_of, outcomes, seed, event, number = draw
        sums = np.empty(len(outcomes))
        draw_from(state.real, state.imag, 0, row_of, bin_of, outcomes, seed, event, number, sums, samples)
