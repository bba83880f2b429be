"""Kernels for batches of small circuits: many sets of parameters side by side in the lanes of a vector.

A *group* is as many sets as a vector has lanes; its state is two planes of one vector a row. ``run`` evaluates the
angles, their sines and cosines, the instructions, the observables and the shots of all groups in one compiled call, in
parallel over the groups where there is enough to do. What a set gives depends on nothing but its own numbers.
"""

from __future__ import annotations

import math

import numpy as np

from qsimenv.statevec.batches.batch_plan import (
    COEFFICIENT,
    DENSE,
    FIRST_ROW,
    KIND,
    NUM_BLOCKS,
    PAIR,
    PHASE,
    QUAD,
    REAL,
    SECOND,
    SIZE,
    TURN_X,
    TURN_Y,
)
from qsimenv.statevec.batches.vectors_numba import add_crossed, add_diagonal, complex_entries, matrix
from qsimenv.statevec.kernel_cache import njit, part
from qsimenv.statevec.measuring.random_numba import four_uniforms
from qsimenv.statevec.shares_numba import next_number
from qsimenv.statevec.threads_numba import in_threads

_options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}

_phase = matrix([[(0, 1)]], 2)
_turn_x = matrix([[(0, None), (None, ~1)], [(None, ~1), (0, None)]], 2)
_turn_y = matrix([[(0, None), (~1, None)], [(1, None), (0, None)]], 2)
_real = matrix([[(0, None), (1, None)], [(2, None), (3, None)]], 4)
_pair = matrix(complex_entries(2), 8)
_quad = matrix(complex_entries(4), 32)

MOST_REDUCED = 8e5
"""Angles up to this are reduced by multiples of pi/2 in three parts; larger ones are left to the C library."""
VECTOR_BYTES = 64
_TWO_OVER_PI = 2 / math.pi
_HALF_PI_1, _HALF_PI_2, _HALF_PI_3 = 1.57079632673412561417e00, 6.07710050630396597660e-11, 2.02226624879595063154e-21
"""pi/2 in three parts of 33 bits each (the last one rounded), so that a multiple of each is exact."""


@njit(**_options)
def cosines_and_sines(angles, cosines, sines):
    """Of all angles, to a unit in the last place. False where one is not a finite number.

    Polynomials on [-pi/4, pi/4] from fdlibm (Sun Microsystems, 1993).
    """
    large = 0
    for k in range(len(angles)):
        x = angles[k]
        n = np.floor(x * _TWO_OVER_PI + 0.5)
        r = ((x - n * _HALF_PI_1) - n * _HALF_PI_2) - n * _HALF_PI_3
        z = r * r
        s = 1.58969099521155010221e-10
        s = s * z - 2.50507602534068634195e-08
        s = s * z + 2.75573137070700676789e-06
        s = s * z - 1.98412698298579493134e-04
        s = s * z + 8.33333333332248946124e-03
        s = s * z - 1.66666666666666324348e-01
        s = r + r * z * s
        c = -1.13596475577881948265e-11
        c = c * z + 2.08757232129817482790e-09
        c = c * z - 2.75573143513906633035e-07
        c = c * z + 2.48015872894767294178e-05
        c = c * z - 1.38888888888741095749e-03
        c = c * z + 4.16666666666666019037e-02
        c = 1.0 - (0.5 * z - z * z * c)
        odd = n - 2.0 * np.floor(n * 0.5)  # selections as arithmetic, so that the loop becomes vector code
        lower = np.floor(n * 0.5) - 2.0 * np.floor(n * 0.25)
        cosines[k] = (c * (1.0 - odd) + s * odd) * (1.0 - 2.0 * (odd + lower - 2.0 * odd * lower))
        sines[k] = (s * (1.0 - odd) + c * odd) * (1.0 - 2.0 * lower)
        large += not abs(x) <= MOST_REDUCED
    if not large:
        return True
    return _large_cosines_and_sines(angles, cosines, sines)


@part(**_options)
def _large_cosines_and_sines(angles, cosines, sines):
    finite = True
    for k in range(len(angles)):
        if not abs(angles[k]) <= MOST_REDUCED:
            cosines[k], sines[k] = math.cos(angles[k]), math.sin(angles[k])
            finite &= math.isfinite(angles[k])
    return finite


@part(**_options)
def _angles(values, first, lanes, forms, x):
    """The angles of one group, one vector an angle. Lanes behind the last set repeat it."""
    starts, columns, factors, offsets = forms
    for k in range(len(offsets)):
        for lane in range(lanes):
            x[k * lanes + lane] = offsets[k]
        for place in range(starts[k], starts[k + 1]):
            column, factor = columns[place], factors[place]
            for lane in range(lanes):
                x[k * lanes + lane] += factor * values[min(first + lane, len(values) - 1), column]


@part(**_options)
def _coefficients(values, entries, first, lanes, forms, num_constants, x, cosines, sines, coefficients):
    """Fill in the coefficients of one group; False where an angle is not a finite number."""
    _angles(values, first, lanes, forms, x)
    finite = cosines_and_sines(x, cosines, sines)
    count = len(x)
    for k in range(count):
        coefficients[k] = cosines[k]
        coefficients[count + k] = sines[k]
        coefficients[2 * count + k] = -sines[k]
    start = 3 * count + num_constants * lanes
    for k in range(entries.shape[1]):
        for lane in range(lanes):
            coefficients[start + k * lanes + lane] = entries[min(first + lane, len(entries) - 1), k]
    return finite


@part(**_options)
def _dense(re, im, coefficients, at, rows, start, count, size, spare, lanes):
    """A complex matrix of any size on blocks of rows."""
    for block in range(start, start + count * size, size):
        spare[: 2 * size * lanes] = 0
        for row in range(size):
            to = row * lanes
            for column in range(size):
                number = (at + 2 * (row * size + column)) * lanes
                source = rows[block + column]
                for lane in range(lanes):
                    c, s = coefficients[number + lane], coefficients[number + lanes + lane]
                    p, q = re[source + lane], im[source + lane]
                    spare[to + lane] += c * p - s * q
                    spare[size * lanes + to + lane] += c * q + s * p
        for row in range(size):
            to = rows[block + row]
            for lane in range(lanes):
                re[to + lane] = spare[row * lanes + lane]
                im[to + lane] = spare[(size + row) * lanes + lane]


@part(**_options)
def _instructions(re, im, coefficients, instructions, rows, spare, lanes):
    for k in range(len(instructions)):
        kind, at, count = instructions[k, KIND], instructions[k, FIRST_ROW], instructions[k, NUM_BLOCKS]
        first, second = instructions[k, COEFFICIENT], instructions[k, SECOND]
        if kind == PHASE:
            _phase(re, im, coefficients, first, second, rows, at, count)
        elif kind == TURN_X:
            _turn_x(re, im, coefficients, first, second, rows, at, count)
        elif kind == TURN_Y:
            _turn_y(re, im, coefficients, first, second, rows, at, count)
        elif kind == REAL:
            _real(re, im, coefficients, first, second, rows, at, count)
        elif kind == PAIR:
            _pair(re, im, coefficients, first, second, rows, at, count)
        elif kind == QUAD:
            _quad(re, im, coefficients, first, second, rows, at, count)
        elif kind == DENSE:
            _dense(re, im, coefficients, first, rows, at, count, instructions[k, SIZE], spare, lanes)


@part(**_options)
def _observe(re, im, terms, rows, weights, totals):
    for k in range(len(terms)):
        number, diagonal, at, count, place = terms[k, 0], terms[k, 1], terms[k, 2], terms[k, 3], terms[k, 4]
        if diagonal:
            add_diagonal(re, im, rows, at, weights, place, count, totals, number)
        else:
            add_crossed(re, im, rows, at, weights, place, count, totals, number)


@part(**_options)
def draw_from(re, im, lane, row_of, bin_of, outcomes, seed, event, number, sums, samples):
    """The shots of one set: the running sums of the bins' masses, and a search for each random number."""
    sums[:] = 0
    for index in range(len(row_of)):
        x, y = np.float64(re[row_of[index] + lane]), np.float64(im[row_of[index] + lane])
        sums[bin_of[index]] += x * x + y * y
    last, total = 0, 0.0
    for k in range(len(sums)):
        if sums[k] > 0:
            last = k
        total += sums[k]
        sums[k] = total
    shots, num_bytes = samples.shape
    for start in range(0, shots, 4):
        numbers = four_uniforms(seed, np.uint64(start // 4), event, np.uint64(number))
        for k in range(min(4, shots - start)):
            wanted = numbers[k] * total
            low, high = 0, len(sums)
            while low < high:
                middle = (low + high) >> 1
                if sums[middle] > wanted:
                    high = middle
                else:
                    low = middle + 1
            low = min(low, last)
            for byte in range(num_bytes):
                samples[start + k, byte] = outcomes[low, byte]


@part(**_options)
def _run_share(thread, threads, shares, table, inputs, readout, draw, sizes, results):
    """The sets of the groups of one thread's share (``shares_of``), and of what is left of the others'."""
    instructions, rows, row_of, constants, starts, columns, factors, offsets = table
    forms = (starts, columns, factors, offsets)
    values, entries, first_set = inputs
    terms, term_rows, weights = readout
    bin_of, outcomes, seed, event = draw
    re, im, coefficients, spare, angles, totals, sums = _scratch(table, readout, draw, sizes)
    expectations, samples, amplitudes, finite = results
    num_sets, lanes = len(values), len(re) // len(row_of)
    num_angles = len(offsets) * lanes
    x, cosines, sines = angles[:num_angles], angles[num_angles : 2 * num_angles], angles[2 * num_angles :]
    for k in range(len(constants)):
        coefficients[3 * num_angles + k * lanes : 3 * num_angles + (k + 1) * lanes] = constants[k]
    finite[thread] = True
    group, share, left = next_number(shares, thread, threads)
    while group >= 0:
        first = group * lanes
        finite[thread] &= _coefficients(
            values, entries, first, lanes, forms, len(constants), x, cosines, sines, coefficients
        )
        re[:] = 0
        im[:] = 0
        re[:lanes] = 1
        _instructions(re, im, coefficients, instructions, rows, spare, lanes)
        here = min(lanes, num_sets - first)
        if len(terms):
            totals[:] = 0
            _observe(re, im, terms, term_rows, weights, totals)
            for lane in range(here):
                for k in range(expectations.shape[1]):
                    expectations[first + lane, k] = totals[k * lanes + lane]
        if samples.shape[1]:
            for lane in range(here):
                number = first_set + first + lane
                draw_from(re, im, lane, row_of, bin_of, outcomes, seed, event, number, sums, samples[first + lane])
        if amplitudes.shape[1]:
            for lane in range(here):
                for index in range(len(row_of)):
                    place = row_of[index] + lane
                    amplitudes[first + lane, index] = complex(re[place], im[place])
        group, share, left = next_number(shares, share, left)


@part(**_options)
def _aligned(length, like):
    """An empty array of the type of ``like`` that begins with a vector."""
    array = np.empty(length + VECTOR_BYTES // like.itemsize, dtype=like.dtype)
    start = (-array.ctypes.data % VECTOR_BYTES) // like.itemsize
    return array[start : start + length]


@part(**_options)
def _scratch(table, readout, draw, sizes):
    """What one thread works in: planes, coefficients and a spare block of real numbers; angles with their cosines and
    sines, totals of the observables and sums of the bins as doubles."""
    row_of, constants, offsets = table[2], table[3], table[7]
    lanes, num_coefficients, spare = sizes
    plane = lanes * len(row_of)
    coefficients = lanes * num_coefficients
    reals = _aligned(2 * plane + coefficients + lanes * spare, constants)
    behind = 2 * plane + coefficients
    angles = 3 * lanes * len(offsets)
    totals = 0
    for k in range(len(readout[0])):
        totals = max(totals, lanes * (readout[0][k, 0] + 1))
    doubles = _aligned(angles + totals + len(draw[1]), offsets)
    return (
        reals[:plane], reals[plane : 2 * plane], reals[2 * plane : behind], reals[behind:],
        doubles[:angles], doubles[angles : angles + totals], doubles[angles + totals :],
    )  # fmt: skip


@njit(**_options)
def run_groups(launch, threads, shares, table, inputs, readout, draw, sizes, results):
    """All groups, a share for each thread. ``sizes``: lanes, coefficients, and how many vectors the largest matrix
    needs. The last of the results: for each thread whether all its angles were finite numbers."""
    in_threads(launch, threads, _run_share, (shares, table, inputs, readout, draw, sizes, results))
