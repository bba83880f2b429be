"""Kernels for the CPU: Numba on split planes.

They know neither qubits nor ranks: two planes of real numbers, positions, masks, coefficients. ``kernels_cupy`` has the
same names and signatures. Compiled code is kept on disk; ``parallel`` versions split the work over threads, the plain
ones serve states too small for that. Nothing here allocates anything that grows with the state.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, njit, prange

from qsimenv.statevec.encode import (
    CONTROL_VALUE,
    FIXED,
    FLIP,
    KIND,
    NUM_FIXED,
    NUM_TARGETS,
    OFFSET,
    OUTER_MASK,
    OUTER_VALUE,
    PERMUTE,
    PHASE,
    QUADRATIC,
    REAL,
    ROTATE,
    TARGETS,
    TWO_TARGETS,
)
from qsimenv.statevec.lanes_numba import copy_line
from qsimenv.statevec.passes_numba import apply_phases, permute, rotate, two_targets

PARALLEL_FROM = 1 << 15
"""Amplitudes from which starting threads pays."""

_FAST = {"contract", "nsz", "arcp"}
_options = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": _FAST}


@njit(inline="always", **_options)
def _expand(number, ops, row, count):
    """Make room in ``number`` for the fixed positions of an op."""
    for k in range(count):
        position = ops[row, FIXED + k]
        number = ((number >> position) << (position + 1)) | (number & ((1 << position) - 1))
    return number


@njit(**_options)
def _phase(re, im, bits, ops, row, coefficients):
    count = ops[row, NUM_FIXED]
    c, s = coefficients[ops[row, OFFSET]], coefficients[ops[row, OFFSET] + 1]
    low = ops[row, FIXED] if count else bits
    run = 1 << low
    for outer in range(1 << (bits - count - low if count else 0)):
        start = _expand(outer << low, ops, row, count) | ops[row, CONTROL_VALUE]
        for i in range(start, start + run):
            x, y = re[i], im[i]
            re[i] = c * x - s * y
            im[i] = c * y + s * x


@njit(**_options)
def _flip(re, im, bits, ops, row):
    count, target = ops[row, NUM_FIXED], ops[row, TARGETS]
    low = ops[row, FIXED]
    run, distance = 1 << low, 1 << target
    for outer in range(1 << (bits - count - low)):
        start = _expand(outer << low, ops, row, count) | ops[row, CONTROL_VALUE]
        for i in range(start, start + run):
            j = i + distance
            re[i], re[j] = re[j], re[i]
            im[i], im[j] = im[j], im[i]


@njit(**_options)
def _real(re, im, bits, ops, row, coefficients):
    count, target, offset = ops[row, NUM_FIXED], ops[row, TARGETS], ops[row, OFFSET]
    a, b, c, d = coefficients[offset], coefficients[offset + 2], coefficients[offset + 4], coefficients[offset + 6]
    low = ops[row, FIXED]
    run, distance = 1 << low, 1 << target
    for outer in range(1 << (bits - count - low)):
        start = _expand(outer << low, ops, row, count) | ops[row, CONTROL_VALUE]
        for i in range(start, start + run):
            j = i + distance
            x, y = re[i], re[j]
            re[i] = a * x + b * y
            re[j] = c * x + d * y
            x, y = im[i], im[j]
            im[i] = a * x + b * y
            im[j] = c * x + d * y


@njit(**_options)
def _one_target(re, im, bits, ops, row, coefficients):
    count, target, offset = ops[row, NUM_FIXED], ops[row, TARGETS], ops[row, OFFSET]
    ar, ai, br, bi, cr, ci, dr, di = coefficients[offset : offset + 8]
    low = ops[row, FIXED]
    run, distance = 1 << low, 1 << target
    for outer in range(1 << (bits - count - low)):
        start = _expand(outer << low, ops, row, count) | ops[row, CONTROL_VALUE]
        for i in range(start, start + run):
            j = i + distance
            xr, xi, yr, yi = re[i], im[i], re[j], im[j]
            re[i] = ar * xr - ai * xi + br * yr - bi * yi
            im[i] = ar * xi + ai * xr + br * yi + bi * yr
            re[j] = cr * xr - ci * xi + dr * yr - di * yi
            im[j] = cr * xi + ci * xr + dr * yi + di * yr


@njit(**_options)
def _many_targets(re, im, bits, ops, row, coefficients):
    count, targets, offset = ops[row, NUM_FIXED], ops[row, NUM_TARGETS], ops[row, OFFSET]
    size = 1 << targets
    distances = np.zeros(32, dtype=np.int64)
    for number in range(size):
        for k in range(targets):
            distances[number] |= ((number >> k) & 1) << ops[row, TARGETS + k]
    x = np.empty(32, dtype=re.dtype)
    y = np.empty(32, dtype=re.dtype)
    for outer in range(1 << (bits - count)):
        start = _expand(outer, ops, row, count) | ops[row, CONTROL_VALUE]
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


@njit(**_options)
def _apply(re, im, bits, ops, coefficients, tables, index, spare):
    """All passes over one block whose first amplitude has the (global) index ``index``."""
    for row in range(ops.shape[0]):
        if (index & ops[row, OUTER_MASK]) != ops[row, OUTER_VALUE]:
            continue
        kind = ops[row, KIND]
        if kind == ROTATE:
            rotate(re, im, bits, ops, row, coefficients)
        elif kind == QUADRATIC:
            apply_phases(re, im, bits, ops, row, coefficients, tables, index)
        elif kind == PERMUTE:
            permute(re, im, bits, ops, row, tables, index, spare)
        elif kind == TWO_TARGETS:
            two_targets(re, im, bits, ops, row, coefficients)
        elif kind == PHASE:
            _phase(re, im, bits, ops, row, coefficients)
        elif kind == FLIP:
            _flip(re, im, bits, ops, row)
        elif kind == REAL:
            _real(re, im, bits, ops, row, coefficients)
        elif ops[row, NUM_TARGETS] == 1:
            _one_target(re, im, bits, ops, row, coefficients)
        else:
            _many_targets(re, im, bits, ops, row, coefficients)


@njit(**_options)
def _block_start(number, outer):
    index = 0
    for k in range(outer.shape[0]):
        index |= ((number >> k) & 1) << outer[k]
    return index


@njit(inline="always", **_options)
def _copy_run(source, start, target, to, run):
    if run * source.itemsize < 64:
        for i in range(run):
            target[to + i] = source[start + i]
    else:
        for i in range(0, run, 64 // source.itemsize):
            copy_line(source, start + i, target, to + i)


@njit(**_options)
def _sweep_range(
    re, im, first, last, block_bits, low_bits, offsets, outer, ops, coefficients, tables, rank_index, scratch
):
    """Blocks ``first`` to ``last``. A block without gaps is worked on where it lies, another one in ``scratch``."""
    size, run = 1 << block_bits, 1 << low_bits
    for number in range(first, last):
        start = _block_start(number, outer)
        index, spare = rank_index | start, scratch[2]
        if offsets.shape[0] == 1:
            x, y = re[start : start + size], im[start : start + size]
            _apply(x, y, block_bits, ops, coefficients, tables, index, spare)
            continue
        x, y = scratch[0, :size], scratch[1, :size]
        for k in range(offsets.shape[0]):
            _copy_run(re, start + offsets[k], x, k << low_bits, run)
        for k in range(offsets.shape[0]):
            _copy_run(im, start + offsets[k], y, k << low_bits, run)
        _apply(x, y, block_bits, ops, coefficients, tables, index, spare)
        for k in range(offsets.shape[0]):
            _copy_run(x, k << low_bits, re, start + offsets[k], run)
        for k in range(offsets.shape[0]):
            _copy_run(y, k << low_bits, im, start + offsets[k], run)


@njit(parallel=True, **_options)
def _sweep_parallel(
    re, im, blocks, block_bits, low_bits, offsets, outer, ops, coefficients, tables, rank_index, scratch
):
    threads = scratch.shape[0]
    for thread in prange(threads):
        first, last = blocks * thread // threads, blocks * (thread + 1) // threads
        _sweep_range(
            re,
            im,
            first,
            last,
            block_bits,
            low_bits,
            offsets,
            outer,
            ops,
            coefficients,
            tables,
            rank_index,
            scratch[thread],
        )


_PAD = 144
"""Numbers between the planes of a scratch block: equal positions in two of them differ in the low address bits."""


def scratch_for(block_bits, real_type):
    """Room for one block and a plane to spare for each thread: shape (threads, 3, 2**block_bits and a little more)."""
    return np.empty((get_num_threads(), 3, (1 << block_bits) + _PAD), dtype=real_type)


def sweep(re, im, block_bits, low_bits, offsets, outer, ops, coefficients, tables, rank_index, scratch):
    """All ops of one encoded sweep on ``re`` and ``im``, in place. ``rank_index`` is the rank's part of the index."""
    blocks = len(re) >> block_bits
    if blocks == 1 or len(re) < PARALLEL_FROM or len(scratch) == 1:
        _sweep_range(
            re, im, 0, blocks, block_bits, low_bits, offsets, outer, ops, coefficients, tables, rank_index, scratch[0]
        )
    else:
        _sweep_parallel(
            re, im, blocks, block_bits, low_bits, offsets, outer, ops, coefficients, tables, rank_index, scratch
        )


# --- measurement ---


@njit(parallel=True, **_options)
def _weights_parallel(re, im, bit):
    zero, one = 0.0, 0.0
    for i in prange(re.shape[0]):
        weight = np.float64(re[i]) * re[i] + np.float64(im[i]) * im[i]
        here = (i >> bit) & 1
        one += weight * here
        zero += weight * (1 - here)
    return zero, one


@njit(**_options)
def _weights(re, im, bit):
    zero, one = 0.0, 0.0
    for i in range(re.shape[0]):
        weight = np.float64(re[i]) * re[i] + np.float64(im[i]) * im[i]
        if (i >> bit) & 1:
            one += weight
        else:
            zero += weight
    return zero, one


def weights(re, im, bit):
    """The weight (squared norm) of the amplitudes whose index has 0, and 1, at ``bit``; above the index all have 0."""
    return (_weights_parallel if len(re) >= PARALLEL_FROM else _weights)(re, im, bit)


@njit(parallel=True, **_options)
def _collapse_parallel(re, im, bit, value, scale):
    for i in prange(re.shape[0]):
        factor = scale if (i >> bit) & 1 == value else 0 * scale
        re[i] *= factor
        im[i] *= factor


@njit(**_options)
def _collapse(re, im, bit, value, scale):
    for i in range(re.shape[0]):
        factor = scale if (i >> bit) & 1 == value else 0 * scale
        re[i] *= factor
        im[i] *= factor


def collapse(re, im, bit, value, scale):
    """Keep the amplitudes whose index has ``value`` at ``bit``, times ``scale``; zero the others."""
    (_collapse_parallel if len(re) >= PARALLEL_FROM else _collapse)(re, im, bit, value, re.dtype.type(scale))


# --- sampling ---


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})
def _weight_of_run(re, im, start, run):
    total = 0.0
    for i in range(start, start + run):
        total += np.float64(re[i]) * np.float64(re[i]) + np.float64(im[i]) * np.float64(im[i])
    return total


@njit(**_options)
def _histogram_range(re, im, first, last, base, tables, masses):
    run_bits, low_bits, index_low, index_high, bin_low, bin_high = tables
    mask, run = (1 << low_bits) - 1, 1 << run_bits
    for number in range(first, last, run):
        low, high = number & mask, number >> low_bits
        start = base | index_low[low] | index_high[high]
        masses[bin_low[low] | bin_high[high]] += _weight_of_run(re, im, start, run)


@njit(parallel=True, **_options)
def _histogram_one(re, im, base, count, tables, masses):
    threads = masses.shape[0]
    runs, run = count >> tables[0], 1 << tables[0]
    for thread in prange(threads):
        first, last = runs * thread // threads * run, runs * (thread + 1) // threads * run
        _histogram_range(re, im, first, last, base, tables, masses[thread])


@njit(parallel=True, **_options)
def _histogram_many(re, im, bases, count, tables, masses):
    for node in prange(bases.shape[0]):
        if bases[node] >= 0:
            _histogram_range(re, im, 0, count, bases[node], tables, masses[node])


def histogram(re, im, bases, count, tables, num_bins):
    """Weights by bin, float64 of shape (len(bases), num_bins).

    For each base (skipped where negative) the ``count`` amplitudes at ``base | index`` are added to their bins. The
    ``tables`` are (run_bits, low_bits, index_low, index_high, bin_low, bin_high): index and bin of number k are put
    together from its lowest ``low_bits`` bits and the others; numbers that differ in the lowest ``run_bits`` bits alone
    are neighbours in memory and share a bin.
    """
    if len(bases) > 1:
        masses = np.zeros((len(bases), num_bins))
        _histogram_many(re, im, bases, count, tables, masses)
        return masses
    if bases[0] < 0:
        return np.zeros((1, num_bins))
    threads = get_num_threads() if count >= PARALLEL_FROM else 1
    masses = np.zeros((threads, num_bins))
    if threads == 1:
        _histogram_range(re, im, 0, count, bases[0], tables, masses[0])
    else:
        _histogram_one(re, im, bases[0], count, tables, masses)
    return masses.sum(axis=0, keepdims=True)


# --- expectation values ---


@njit(inline="always", **_options)
def _parity(number):
    number ^= number >> 32
    number ^= number >> 16
    number ^= number >> 8
    number ^= number >> 4
    number ^= number >> 2
    number ^= number >> 1
    return number & 1


@njit(**_options)
def _pauli_range(re, im, other_re, other_im, first, last, start, x_mask, index, z_masks, real, imag):
    total = 0.0
    for i in range(first, last):
        c, s = 0.0, 0.0
        for term in range(z_masks.shape[0]):
            sign = 1.0 - 2.0 * _parity((index | i) & z_masks[term])
            c += sign * real[term]
            s += sign * imag[term]
        j = (i ^ x_mask) - start
        x, y, u, v = np.float64(re[i]), np.float64(im[i]), np.float64(other_re[j]), np.float64(other_im[j])
        total += c * (u * x + v * y) - s * (u * y - v * x)
    return total


@njit(parallel=True, **_options)
def _pauli_parallel(re, im, other_re, other_im, first, last, start, x_mask, index, z_masks, real, imag, threads):
    total = 0.0
    count = last - first
    for thread in prange(threads):
        total += _pauli_range(
            re, im, other_re, other_im, first + count * thread // threads, first + count * (thread + 1) // threads,
            start, x_mask, index, z_masks, real, imag,
        )  # fmt: skip
    return total


def pauli_group(re, im, other_re, other_im, first, last, start, x_mask, index, z_masks, real, imag):
    """Real part of sum_i conj(other[(i ^ x_mask) - start]) own[i] sum_t coefficient_t sign_t(i), i in [first, last).

    ``sign_t(i)`` is -1 to the parity of ``(index | i) & z_masks[t]``; ``index`` is the rank's part of the index.
    """
    arguments = (re, im, other_re, other_im, first, last, start, x_mask, index, z_masks, real, imag)
    threads = get_num_threads()
    if last - first < PARALLEL_FROM or threads == 1:
        return _pauli_range(*arguments)
    return _pauli_parallel(*arguments, threads)
