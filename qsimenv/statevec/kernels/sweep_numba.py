"""Kernels for the CPU: Numba on split planes.

They know neither qubits nor ranks: two planes of real numbers, positions, masks, coefficients. ``sweep_cupy`` has the
same names and arguments. Compiled code is kept on disk; the work is split over threads where a state is large enough
for that. Nothing here allocates anything that grows with the state.
"""

from __future__ import annotations

import threading

import numpy as np
from numba import get_num_threads

from qsimenv import arrays
from qsimenv.statevec.encoding.rows import (
    ARRANGE,
    BUTTERFLIES,
    DENSE,
    FLIP,
    FROM_MEMORY,
    GENERAL,
    HAS_LANES,
    KIND,
    NUM_TARGETS,
    OFFSET,
    OUTER_MASK,
    OUTER_VALUE,
    PERMUTE,
    PHASE,
    QUADRATIC,
    RANK,
    READ_FLIPS,
    READ_STRINGS,
    REAL,
    ROTATE,
    SPREAD,
    TABLE,
    TO_MEMORY,
    TWO_TARGETS,
)
from qsimenv.statevec.encoding.tables_numba import xor_table
from qsimenv.statevec.kernel_cache import njit, part
from qsimenv.statevec.kernels.copies_numba import (
    clear_lines,
    finish_streaming,
    put_lines,
    put_lines_past_caches,
    spread_lines,
    take_lines,
)
from qsimenv.statevec.kernels.dense_numba import DENSE_ROOM, dense_matrix, two_targets
from qsimenv.statevec.kernels.llvm_numba import trailing_zeros
from qsimenv.statevec.kernels.passes_numba import (
    apply_phases,
    counting_steps,
    lines_of,
    permute,
    place,
    rotate,
    rotate_by_lines,
    rotate_in_memory,
    shift_of,
    table_room,
    turn_in_a_row,
)
from qsimenv.statevec.kernels.plain_numba import flip, many_targets, one_target, phase, real
from qsimenv.statevec.kernels.readings_numba import read_flips, read_strings
from qsimenv.statevec.kernels.slots_numba import STREAM_FROM_BYTES
from qsimenv.statevec.pinning_numba import pin_helpers
from qsimenv.statevec.shares_numba import next_number, shares_of
from qsimenv.statevec.threads_numba import in_threads, launcher, span

PARALLEL_FROM = 1 << 15
"""Amplitudes from which starting threads pays."""
_AHEAD_BYTES = 4096
"""How far ahead of a copy memory is fetched."""
_SPREAD_AT_ONCE = 8
"""Lines to which one is spread in a row: each of them is next to that of the row before, which the cache holds."""
_PAD = 144
"""Numbers between the planes of a block: equal positions in two of them differ in the low address bits."""

_FAST = {"contract", "nsz", "arcp"}
_options = {"nogil": True, "error_model": "numpy", "fastmath": _FAST}


@njit(inline="always", **_options)
def _apply(x, y, z, room, bits, ops, coefficients, tables, index, sums, memory, loading, storing):
    """All passes over one block whose first amplitude has the (global) index ``index``.

    The block lies in the planes ``x`` and ``y``, ``z`` is to spare; returns the planes in their roles at the end. What
    is read on the way is added to ``sums``. First rows that spread and arrange are left to ``_gather``, a last
    permutation of whole lines to ``_scatter``. ``loading`` and ``storing`` are the rows that do either (or -1).
    """
    for row in range(ops.shape[0]):
        if (index & ops[row, OUTER_MASK]) != ops[row, OUTER_VALUE]:
            continue
        kind = ops[row, KIND]
        far = FROM_MEMORY if row == loading else TO_MEMORY if row == storing else 0
        if kind == ROTATE and far and ops[row, RANK]:
            rotate_in_memory(z, memory[0], bits, ops, row, coefficients, tables, index, memory, far)
            rotate_in_memory(x, memory[1], bits, ops, row, coefficients, tables, index, memory, far)
            x, y, z = z, x, y
        elif kind == ROTATE and far:
            rotate_in_memory(x, memory[0], bits, ops, row, coefficients, tables, index, memory, far)
            rotate_in_memory(y, memory[1], bits, ops, row, coefficients, tables, index, memory, far)
        elif kind == ROTATE and ops[row, RANK]:
            shift = shift_of(ops, row, tables, index)
            rotate_by_lines(x, z, bits, ops, row, coefficients, tables, shift)
            rotate_by_lines(y, x, bits, ops, row, coefficients, tables, shift)
            x, y, z = z, x, y
        elif kind == ROTATE:
            rotate(x, bits, ops, row, coefficients)
            rotate(y, bits, ops, row, coefficients)
        elif kind == QUADRATIC:
            apply_phases(x, y, bits, ops, row, coefficients, tables, index, room, memory, far)
        elif kind == BUTTERFLIES:
            turn_in_a_row(x, y, ops, row, coefficients, tables, index, room, memory, far)
        elif kind == PERMUTE and ops[row, HAS_LANES]:
            shift = shift_of(ops, row, tables, index)
            permute(x, z, bits, ops, row, tables, shift)
            permute(y, x, bits, ops, row, tables, shift)
            x, y, z = z, x, y
        elif kind == TWO_TARGETS:
            two_targets(x, y, bits, ops, row, coefficients)
        elif kind == DENSE:
            dense_matrix(x, y, bits, ops, row, coefficients, room)
        elif kind == READ_FLIPS:
            read_flips(x, y, bits, ops, row, tables, sums)
        elif kind == READ_STRINGS:
            read_strings(x, y, bits, ops, row, tables, index, sums)
        elif kind == PHASE:
            phase(x, y, bits, ops, row, coefficients)
        elif kind == FLIP:
            flip(x, y, bits, ops, row)
        elif kind == REAL:
            real(x, y, bits, ops, row, coefficients)
        elif kind == GENERAL and ops[row, NUM_TARGETS] == 1:
            one_target(x, y, bits, ops, row, coefficients)
        elif kind == GENERAL:
            many_targets(x, y, bits, ops, row, coefficients)
    return x, y, z


@part(**_options)
def _block_start(number, outer):
    index = 0
    for k in range(outer.shape[0]):
        index |= ((number >> k) & 1) << outer[k]
    return index


@part(**_options)
def _spread_of(ops, tables, coefficients):
    """Of a first row that spreads: its bits in the index; the numbers of the runs that are made from run 0, and what
    it is multiplied by for each of them. Run 0 is the first of them, times 1. And the factors of all runs."""
    if not ops.shape[0] or ops[0, KIND] != SPREAD:
        return 0, np.zeros(1, np.int64), np.ones(1, coefficients.dtype), coefficients
    bits, runs, at = tables[ops[0, TABLE]], tables[ops[0, TABLE] + 1], ops[0, OFFSET]
    numbers, number = [0], 0
    while number != runs:
        number = (number | ~runs) + 1 & runs
        numbers.append(number)
    made = np.array(numbers)
    return bits, made, coefficients[at:][made], coefficients[at:]


@part(**_options)
def _arranging_row(ops):
    """The row that says to which lines of the block the sweep loads; -1 where they come as they are."""
    for row in range(min(ops.shape[0], 2)):
        if ops[row, KIND] == ARRANGE:
            return row
    return -1


@part(**_options)
def _loading_row(ops):
    """The row that loads the block itself, after what is spread and arranged; -1 where it does not."""
    for row in range(min(ops.shape[0], 3)):
        if ops[row, FROM_MEMORY]:
            return row
    return -1


@part(**_options)
def _storing_row(ops):
    """The last row if it can store the block, else -1."""
    last = ops.shape[0] - 1
    return last if last >= 0 and ops[last, TO_MEMORY] else -1


@part(**_options)
def _gather(plane, start, offsets, run, empty, spread, block, in_run, to_run, line):
    """Copy a block's runs from memory to scratch; those with a bit of ``empty`` hold nothing but zeros.

    Those that a row spreads to are made from others, whatever there is in memory. Line i of run k goes to the line
    ``line ^ to_run[k] ^ in_run[i]`` of the block.
    """
    fresh, made, factors, _ = spread
    steps = to_run[made]
    count, item = offsets.shape[0], plane.itemsize
    ahead = max(1, _AHEAD_BYTES // (run * item))
    for k in range(count):
        if offsets[k] & fresh:
            continue
        if run * item < 64:
            for j in range(len(made)):
                to = place((k | made[j]) * run, item)
                for i in range(run):
                    block[to + i] = 0 if offsets[k] & empty else factors[j] * plane[start + offsets[k] + i]
            continue
        first = line ^ to_run[k]
        if offsets[k] & empty:
            for step in steps:
                clear_lines(block, first ^ step, in_run, in_run.shape[0])
        else:
            after = start + offsets[min(k + ahead, count - 1)]
            if len(made) == 1:
                take_lines(plane, start + offsets[k], block, first, in_run, in_run.shape[0], after)
                continue
            for j in range(0, len(made), _SPREAD_AT_ONCE):
                to, by = steps[j : j + _SPREAD_AT_ONCE], factors[j : j + _SPREAD_AT_ONCE]
                spread_lines(plane, start + offsets[k], block, first, in_run, in_run.shape[0], after, to, by)


@part(**_options)
def _last_lines(ops, tables, bits, lane_bits):
    """From where the lines of a block go to memory: columns of a map, straight but for a last permutation of lines."""
    last = ops.shape[0] - 1
    if last >= 0 and ops[last, KIND] == PERMUTE and not ops[last, HAS_LANES]:
        return lines_of(ops, last, tables)
    return 1 << np.arange(max(bits - lane_bits, 0))


@part(**_options)
def _last_shift(ops, tables, index, lane_bits):
    """The line from which line 0 goes to memory."""
    last = ops.shape[0] - 1
    if last >= 0 and ops[last, KIND] == PERMUTE and not ops[last, HAS_LANES]:
        return shift_of(ops, last, tables, index) >> lane_bits
    return 0


@part(**_options)
def _scatter(block, plane, start, offsets, run, empty, streaming, in_run, steps, line):
    """The reverse; runs that still hold nothing but zeros are not written.

    The lines of a run come from ``line ^ in_run[…]``; ``line`` goes on by ``steps`` (see ``counting_steps``).
    """
    count, item = offsets.shape[0], plane.itemsize
    ahead = max(1, _AHEAD_BYTES // (run * item))
    for k in range(count):
        if run * item < 64:
            at = place(k * run, item)
            for i in range(0 if offsets[k] & empty else run):
                plane[start + offsets[k] + i] = block[at + i]
            continue
        if not offsets[k] & empty and streaming:
            put_lines_past_caches(block, line, in_run, plane, start + offsets[k], in_run.shape[0], 0)
        elif not offsets[k] & empty:
            after = start + offsets[min(k + ahead, count - 1)]
            put_lines(block, line, in_run, plane, start + offsets[k], in_run.shape[0], after)
        line ^= steps[trailing_zeros(k + 1)]


@part(**_options)
def _sweep_share(
    thread, threads, re, im, other_re, other_im, shares, bits, low_bits, offsets, outer, ops, coefficients, tables,
    rank_index, before, after, streaming, all_scratch, all_sums,
):  # fmt: skip
    """The blocks of one thread's share (``shares_of``), one after the other, each by way of its scratch; then what is
    left of the others', unless something is read: sums are made in the same order each time.

    Where there are other planes, the upper half of a block is theirs.
    """
    scratch, sums = all_scratch[thread], all_sums[thread]
    run = 1 << low_bits
    plane = place(1 << bits, re.itemsize) + _PAD
    x, y, z = scratch[:plane], scratch[plane : 2 * plane], scratch[2 * plane : 3 * plane]
    room, half = scratch[3 * plane :], place(1 << bits >> 1, re.itemsize)
    lane_bits = 4 if re.itemsize == 4 else 3
    lines, low = _last_lines(ops, tables, bits, lane_bits), max(low_bits - lane_bits, 0)
    in_run, steps = xor_table(lines[:low]), counting_steps(lines[low:])
    arranging = _arranging_row(ops)
    lines = lines_of(ops, arranging, tables) if arranging >= 0 else 1 << np.arange(max(bits - lane_bits, 0))
    in_run_before, to_run = xor_table(lines[:low]), xor_table(lines[low:])
    spread = _spread_of(ops, tables, coefficients)
    planes = (re, im, other_re, other_im)
    count = 4 if len(other_re) else 2
    loading = _loading_row(ops) if not offsets[-1] & before & ~spread[0] else -1
    storing = _storing_row(ops) if streaming and not offsets[-1] & after else -1
    number, share, left = next_number(shares, thread, shares.shape[0] if sums.shape[0] == 0 else 1)
    while number >= 0:
        start = _block_start(number, outer)
        line = shift_of(ops, arranging, tables, rank_index | start) >> lane_bits if arranging >= 0 else 0
        parts = (x, y, x[half:], y[half:])
        for k in range(count if loading < 0 else 0):
            _gather(planes[k], start, offsets, run, before, spread, parts[k], in_run_before, to_run, line)
        memory, index = (re, im, start, spread[3]), rank_index | start
        x, y, z = _apply(x, y, z, room, bits, ops, coefficients, tables, index, sums, memory, loading, storing)
        line = _last_shift(ops, tables, rank_index | start, lane_bits)
        parts = (x, y, x[half:], y[half:])
        for k in range(count if storing < 0 else 0):
            _scatter(parts[k], planes[k], start, offsets, run, after, streaming, in_run, steps, line)
        number, share, left = next_number(shares, share, left)
    if streaming:
        finish_streaming()


@njit(**_options)
def _sweep_in_threads(
    launch, threads, re, im, other_re, other_im, shares, bits, low_bits, offsets, outer, ops, coefficients, tables,
    rank_index, before, after, streaming, scratch, sums,
):  # fmt: skip
    arguments = (
        re, im, other_re, other_im, shares, bits, low_bits, offsets, outer, ops, coefficients, tables, rank_index,
        before, after, streaming, scratch, sums,
    )  # fmt: skip
    in_threads(launch, threads, _sweep_share, arguments)


def _is_streamed(plane, before):
    """Whether what a sweep writes goes past the caches: where most of it was not read just before."""
    return before != 0 and plane.nbytes >= STREAM_FROM_BYTES and plane.ctypes.data % 64 == 0


_BLOCK_BITS = 17
_LEAST_BLOCK_BITS = 13


def block_bits(num_local, threads, real_type=None):
    """How many bits a block has: 17 of both precisions, or as many as leave four blocks to two threads.

    Two planes of single precision then fill a second-level cache of 1 MiB; measured, larger blocks cost less by saving
    sweeps than they lose by reaching into the third level.
    """
    if threads == 1:
        return _BLOCK_BITS
    return min(_BLOCK_BITS, max(_LEAST_BLOCK_BITS, num_local - 1 - (threads - 1).bit_length()))


def num_threads() -> int:
    """Among how many threads a sweep is divided."""
    return int(get_num_threads())


_kept = threading.local()
"""The scratch of the last sweep: fresh memory is slow, and every state of a thread can use the same."""


def _scratch_for(bits, real_type):
    """Room for three planes of a block and some tables for each thread, aligned: shape (threads, numbers)."""
    itemsize = np.dtype(real_type).itemsize
    numbers = 3 * (place(1 << bits, itemsize) + _PAD) + max(table_room(bits), DENSE_ROOM)
    shape = (get_num_threads(), -(-numbers // 1024) * 1024 + 64 * 9)
    kept = getattr(_kept, "bytes", None)
    if kept is None or kept.size < shape[0] * shape[1] * itemsize:
        _kept.bytes = kept = arrays.scratch(shape[0] * shape[1] * itemsize)
    return kept[: shape[0] * shape[1] * itemsize].view(real_type).reshape(shape)


def sweep(re, im, block_bits, low_bits, offsets, outer, ops, coefficients, tables, rank_index, before=0, after=0):
    """All ops of one encoded sweep on ``re`` and ``im``, in place. ``rank_index`` is the rank's part of the index.

    Where an index has a bit of ``before`` there are only zeros, which are not read; where it has one of ``after``,
    there will be only zeros, and nothing is written. ``outer`` must not hold a bit of ``before``.
    """
    sizes = (block_bits, low_bits, offsets, outer, ops, coefficients, tables, rank_index, before, after)
    _sweep(re, im, re[:0], im[:0], *sizes, 0)


def sweep_both(
    re, im, other_re, other_im, block_bits, low_bits, offsets, outer, ops, coefficients, tables, rank_index, slots
):  # fmt: skip
    """The same on two states, the second of which is the upper half of each block; what is read, shape (slots,)."""
    sizes = (block_bits, low_bits, offsets, outer, ops, coefficients, tables, rank_index, 0, 0)
    return _sweep(re, im, other_re, other_im, *sizes, slots).sum(axis=0)


def _sweep(
    re, im, other_re, other_im, block_bits, low_bits, offsets, outer, ops, coefficients, tables, rank_index, before,
    after, slots,
):  # fmt: skip
    blocks = 1 << len(outer)
    scratch = _scratch_for(block_bits, re.dtype)
    sums = np.zeros((len(scratch), slots))
    arguments = (block_bits, low_bits, offsets, outer, ops, coefficients, tables, rank_index, before, after)
    arguments = (*arguments, _is_streamed(re, before) and _is_streamed(im, before))
    threads = len(scratch) if blocks > 1 and len(re) >= PARALLEL_FROM else 1
    if threads > 1:
        pin_helpers(threads)
    shares = shares_of(blocks, threads)
    _sweep_in_threads(launcher(threads), threads, re, im, other_re, other_im, shares, *arguments, scratch, sums)
    return sums


# --- measurement ---


def _threads_for(plane):
    return num_threads() if len(plane) >= PARALLEL_FROM else 1


@part(**_options)
def _weights_share(thread, threads, re, im, bit, found):
    zero, one = 0.0, 0.0
    first, last = span(re.shape[0], thread, threads)
    for i in range(first, last):
        weight = np.float64(re[i]) * re[i] + np.float64(im[i]) * im[i]
        here = (i >> bit) & 1
        one += weight * here
        zero += weight * (1 - here)
    found[thread, 0], found[thread, 1] = zero, one


@njit(**_options)
def _weights(launch, threads, re, im, bit, found):
    in_threads(launch, threads, _weights_share, (re, im, bit, found))


def weights(re, im, bit):
    """The weight (squared norm) of the amplitudes whose index has 0, and 1, at ``bit``; above the index all have 0."""
    threads = _threads_for(re)
    found = np.empty((threads, 2))
    _weights(launcher(threads), threads, re, im, bit, found)
    zero, one = found.sum(axis=0).tolist()
    return zero, one


@part(**_options)
def _collapse_share(thread, threads, re, im, bit, value, scale):
    first, last = span(re.shape[0], thread, threads)
    for i in range(first, last):
        factor = scale if (i >> bit) & 1 == value else 0 * scale
        re[i] *= factor
        im[i] *= factor


@njit(**_options)
def _collapse(launch, threads, re, im, bit, value, scale):
    in_threads(launch, threads, _collapse_share, (re, im, bit, value, scale))


def collapse(re, im, bit, value, scale):
    """Keep the amplitudes whose index has ``value`` at ``bit``, times ``scale``; zero the others."""
    threads = _threads_for(re)
    _collapse(launcher(threads), threads, re, im, bit, value, re.dtype.type(scale))
