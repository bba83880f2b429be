"""Ops that stay what they are, on one block: dense matrices, X, and factors, each under controls.

``sweep_numba`` calls them for the rows that have no place in the normal form, and for all rows of blocks too small
for it. All work in place on planes in scratch order (see ``passes_numba.place``).
"""

from __future__ import annotations

import numpy as np

from qsimenv.statevec.encoding.rows import CONTROL_VALUE, FIXED, NUM_FIXED, NUM_TARGETS, OFFSET, TARGETS
from qsimenv.statevec.kernel_cache import njit, part
from qsimenv.statevec.kernels.passes_numba import place

_PAGE_BITS = 9
"""Runs of at most so many bits have no gap in scratch order, in either precision."""

_options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}


@njit(inline="always", **_options)
def _expand(number, ops, row, count):
    """Make room in ``number`` for the fixed positions of an op."""
    for k in range(count):
        position = ops[row, FIXED + k]
        number = ((number >> position) << (position + 1)) | (number & ((1 << position) - 1))
    return number


# The loops over a run count from 0, so that the compiler knows that no index is negative, and vectorises them.


@part(**_options)
def _multiply(re, im, c, s):
    for i in range(re.shape[0]):
        x, y = re[i], im[i]
        re[i] = c * x - s * y
        im[i] = c * y + s * x


@part(**_options)
def _swap(first, second):
    for i in range(first.shape[0]):
        first[i], second[i] = second[i], first[i]


@part(**_options)
def _mix(first, second, a, b, c, d):
    for i in range(first.shape[0]):
        x, y = first[i], second[i]
        first[i] = a * x + b * y
        second[i] = c * x + d * y


@part(**_options)
def _mix_complex(first, second, matrix):
    ar, ai, br, bi, cr, ci, dr, di = matrix
    (re_0, im_0), (re_1, im_1) = first, second
    for i in range(re_0.shape[0]):
        xr, xi, yr, yi = re_0[i], im_0[i], re_1[i], im_1[i]
        re_0[i] = ar * xr - ai * xi + br * yr - bi * yi
        im_0[i] = ar * xi + ai * xr + br * yi + bi * yr
        re_1[i] = cr * xr - ci * xi + dr * yr - di * yi
        im_1[i] = cr * xi + ci * xr + dr * yi + di * yr


@part(**_options)
def phase(re, im, bits, ops, row, coefficients):
    count = ops[row, NUM_FIXED]
    c, s = coefficients[ops[row, OFFSET]], coefficients[ops[row, OFFSET] + 1]
    low = min(ops[row, FIXED] if count else bits, _PAGE_BITS)
    run = 1 << low
    for outer in range(1 << (bits - count - low)):
        start = place(_expand(outer << low, ops, row, count) | ops[row, CONTROL_VALUE], re.itemsize)
        _multiply(re[start : start + run], im[start : start + run], c, s)


@part(**_options)
def flip(re, im, bits, ops, row):
    count, target = ops[row, NUM_FIXED], ops[row, TARGETS]
    low = min(ops[row, FIXED], _PAGE_BITS)
    run, distance = 1 << low, place(1 << target, re.itemsize)
    for outer in range(1 << (bits - count - low)):
        start = place(_expand(outer << low, ops, row, count) | ops[row, CONTROL_VALUE], re.itemsize)
        other = start + distance
        _swap(re[start : start + run], re[other : other + run])
        _swap(im[start : start + run], im[other : other + run])


@part(**_options)
def real(re, im, bits, ops, row, coefficients):
    count, target, offset = ops[row, NUM_FIXED], ops[row, TARGETS], ops[row, OFFSET]
    a, b, c, d = coefficients[offset], coefficients[offset + 2], coefficients[offset + 4], coefficients[offset + 6]
    low = min(ops[row, FIXED], _PAGE_BITS)
    run, distance = 1 << low, place(1 << target, re.itemsize)
    for outer in range(1 << (bits - count - low)):
        start = place(_expand(outer << low, ops, row, count) | ops[row, CONTROL_VALUE], re.itemsize)
        other = start + distance
        _mix(re[start : start + run], re[other : other + run], a, b, c, d)
        _mix(im[start : start + run], im[other : other + run], a, b, c, d)


@part(**_options)
def one_target(re, im, bits, ops, row, coefficients):
    count, target, offset = ops[row, NUM_FIXED], ops[row, TARGETS], ops[row, OFFSET]
    matrix = coefficients[offset : offset + 8]
    low = min(ops[row, FIXED], _PAGE_BITS)
    run, distance = 1 << low, place(1 << target, re.itemsize)
    for outer in range(1 << (bits - count - low)):
        start = place(_expand(outer << low, ops, row, count) | ops[row, CONTROL_VALUE], re.itemsize)
        other = start + distance
        x, y = (re[start : start + run], im[start : start + run]), (re[other : other + run], im[other : other + run])
        _mix_complex(x, y, matrix)


@part(**_options)
def many_targets(re, im, bits, ops, row, coefficients):
    count, targets, offset = ops[row, NUM_FIXED], ops[row, NUM_TARGETS], ops[row, OFFSET]
    size = 1 << targets
    distances = np.zeros(32, dtype=np.int64)
    for number in range(size):
        for k in range(targets):
            distances[number] += ((number >> k) & 1) * place(1 << ops[row, TARGETS + k], re.itemsize)
    x = np.empty(32, dtype=re.dtype)
    y = np.empty(32, dtype=re.dtype)
    for outer in range(1 << (bits - count)):
        start = place(_expand(outer, ops, row, count) | ops[row, CONTROL_VALUE], re.itemsize)
        for number in range(size):
            x[number] = re[start + distances[number]]
            y[number] = im[start + distances[number]]
        at = offset
        for number in range(size):
            p, q = re[0] * 0, re[0] * 0
            for k in range(size):
                c, s = coefficients[at], coefficients[at + 1]
                p += c * x[k] - s * y[k]
                q += c * y[k] + s * x[k]
                at += 2
            re[start + distances[number]] = p
            im[start + distances[number]] = q
