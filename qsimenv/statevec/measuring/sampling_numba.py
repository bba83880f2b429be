"""Kernels of ``sampling``: the search for outcomes among weights, and shots in the order of their outcomes.

They know neither qubits nor ranks; what a *node* is and how its weights are read is in ``weights_numba``. All sums are
in double precision, and bounded buffers are the caller's.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, prange

from qsimenv.statevec.kernel_cache import njit
from qsimenv.statevec.kernels.intrinsics_numba import WEIGHT_RUN, weight_of_run, weights_of_run
from qsimenv.statevec.measuring.weights_numba import gather_nodes
from qsimenv.statevec.shares_numba import next_number, shares_of

PARALLEL_FROM = 1 << 15
"""Shots from which starting threads pays."""
SHOT_ROOM = 256
"""Shots whose numbers are brought near before they are looked for."""
ROW_PAD = 40
"""Numbers between the rows of a scratch array: equal places in two rows differ in the low address bits."""

_options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}


# --- outcomes among the weights of nodes ---


@njit(inline="always", **_options)
def _first_above(sums, count, wanted):
    """The number of sums (ascending, a power of two of them) that do not exceed ``wanted``, without a branch."""
    k, step = 0, count >> 1
    while step:
        k += step * (sums[k + step - 1] <= wanted)
        step >>= 1
    return k + (sums[k] <= wanted)


@njit(**_options)
def _search(row, size, sums, shots, numbers, values):
    """For each shot the first bin whose running sum exceeds its number times the total; never one without weight."""
    run = min(size, WEIGHT_RUN)
    count = size // run
    total, last = 0.0, 0
    for k in range(count):
        weight = 0.0
        for i in range(k * run, (k + 1) * run):
            weight += row[i]
        last = k if weight > 0 else last
        total += weight
        sums[k] = total
    buffer = sums[len(sums) - SHOT_ROOM :]
    for first in range(0, len(shots), SHOT_ROOM):
        some = shots[first : first + SHOT_ROOM]
        for i in range(len(some)):  # apart, so that the reading from all over memory overlaps
            buffer[i] = numbers[some[i]] * total
        for i in range(len(some)):
            k = min(_first_above(sums, count, buffer[i]), last)
            before = sums[k - 1] if k else 0.0
            values[some[i]] = k * run + _place(row[k * run : (k + 1) * run], 0, before, buffer[i])


@njit(inline="always", **_options)
def _place(weights, flips, reached, wanted):
    """The first number whose running sum, ``reached`` before it, exceeds ``wanted``; number k has weight k ^ flips."""
    passed = 0
    for k in range(len(weights)):
        reached += weights[k ^ flips]
        passed += reached <= wanted
    if passed == len(weights):  # the parts, added one by one, fell short of their sum
        passed -= 1
        while passed and not weights[passed ^ flips] > 0:
            passed -= 1
    return passed


@njit(**_options)
def _search_in_place(re, im, base, flips, size, sums, shots, numbers, values):
    """As ``_search`` for a node whose weights are those of ``size`` neighbours, bin b at ``base | (b ^ flips)``."""
    count = size // WEIGHT_RUN
    high, low = flips & -WEIGHT_RUN, flips & (WEIGHT_RUN - 1)
    total, last = 0.0, 0
    for k in range(count):
        weight = weight_of_run(re, im, base | (k * WEIGHT_RUN ^ high))
        last = k if weight > 0 else last
        total += weight
        sums[k] = total
    buffer, weights = sums[len(sums) - SHOT_ROOM :], sums[len(sums) - SHOT_ROOM - WEIGHT_RUN :][:WEIGHT_RUN]
    for first in range(0, len(shots), SHOT_ROOM):
        some = shots[first : first + SHOT_ROOM]
        for i in range(len(some)):  # as above
            buffer[i] = numbers[some[i]] * total
        for i in range(len(some)):
            k = min(_first_above(sums, count, buffer[i]), last)
            weights_of_run(re, im, base | (k * WEIGHT_RUN ^ high), weights)
            before = sums[k - 1] if k else 0.0
            values[some[i]] = k * WEIGHT_RUN + _place(weights, low, before, buffer[i])


@njit(**_options)
def _search_rows(rows, size, sums, spans, shots, numbers, values, first, last):
    for node in range(first, last):
        _search(rows[node], size, sums, shots[spans[node, 0] : spans[node, 1]], numbers, values)


@njit(parallel=True, **_options)
def _search_parallel(rows, size, sums, spans, shots, numbers, values):
    count, threads = len(spans), sums.shape[0]
    for thread in prange(threads):
        first, last = count * thread // threads, count * (thread + 1) // threads
        _search_rows(rows, size, sums[thread], spans, shots, numbers, values, first, last)


def search(rows, spans, shots, numbers, values):
    """Draw a bin of its node for every shot: those of the node in row n are ``shots[spans[n, 0] : spans[n, 1]]``."""
    size = rows.shape[1]
    sums = _room_for_sums(get_num_threads(), size)
    if len(shots) < PARALLEL_FROM or len(sums) == 1:
        _search_rows(rows, size, sums[0], spans, shots, numbers, values, 0, len(spans))
    else:
        _search_parallel(rows, size, sums, spans, shots, numbers, values)


@njit(**_options)
def _draw_range(re, im, bases, groups, tables, spans, shots, numbers, values, rows, sums, size, shares, thread):
    group, share, left = next_number(shares, thread, shares.shape[0])
    while group >= 0:
        begin, end = groups[group], groups[group + 1]
        gather_nodes(re, im, bases[begin:end], tables, rows)
        _search_rows(rows, size, sums, spans[begin:end], shots, numbers, values, 0, end - begin)
        group, share, left = next_number(shares, share, left)


@njit(parallel=True, **_options)
def _draw_parallel(re, im, bases, groups, tables, spans, shots, numbers, values, rows, sums, size, shares):
    for thread in prange(shares.shape[0]):
        _draw_range(
            re, im, bases, groups, tables, spans, shots, numbers, values, rows[thread], sums[thread], size,
            shares, np.int64(thread),
        )  # fmt: skip


def draw(re, im, bases, groups, tables, spans, shots, numbers, values, size):
    """``gather`` and ``search`` for all nodes (``size`` bins each) in one go, a group at a time in each thread."""
    threads = min(get_num_threads(), len(groups) - 1)
    most = int(np.diff(groups).max())
    rows = np.empty((threads, most, size + ROW_PAD))
    sums = _room_for_sums(threads, size)
    shares, arguments = shares_of(len(groups) - 1, threads), (bases, groups, tables, spans, shots, numbers, values)
    if threads == 1:
        _draw_range(re, im, *arguments, rows[0], sums[0], size, shares, 0)
    else:
        _draw_parallel(re, im, *arguments, rows, sums, size, shares)


@njit(**_options)
def _draw_in_place_range(re, im, bases, flips, spans, shots, numbers, values, sums, size, shares, thread):
    node, share, left = next_number(shares, thread, shares.shape[0])
    while node >= 0:
        mine = shots[spans[node, 0] : spans[node, 1]]
        _search_in_place(re, im, bases[node], flips, size, sums, mine, numbers, values)
        node, share, left = next_number(shares, share, left)


@njit(parallel=True, **_options)
def _draw_in_place_parallel(re, im, bases, flips, spans, shots, numbers, values, sums, size, shares):
    for thread in prange(shares.shape[0]):
        _draw_in_place_range(
            re, im, bases, flips, spans, shots, numbers, values, sums[thread], size, shares, np.int64(thread)
        )  # fmt: skip


def draw_in_place(re, im, bases, flips, spans, shots, numbers, values, size):
    """As ``draw``, where bin b of a node is the amplitude at ``base | (b ^ flips)``; ``size`` is WEIGHT_RUN or more."""
    threads = min(get_num_threads(), len(bases))
    sums, shares = _room_for_sums(threads, size), shares_of(len(bases), threads)
    if threads == 1:
        _draw_in_place_range(re, im, bases, flips, spans, shots, numbers, values, sums[0], size, shares, 0)
    else:
        _draw_in_place_parallel(re, im, bases, flips, spans, shots, numbers, values, sums, size, shares)


def _room_for_sums(threads, size):
    """The sums, one run's weights, and the numbers of some shots, for each thread."""
    return np.empty((threads, max(1, size // WEIGHT_RUN) + ROW_PAD + WEIGHT_RUN + SHOT_ROOM))


# --- shots ---


@njit(**_options)
def _pick_range(sums, last_bin, guide, numbers, values, counts, first, last):
    total = sums[-1]
    slots = len(guide)
    for shot in range(first, last):
        wanted = numbers[shot] * total
        k = guide[min(slots - 1, np.int64(numbers[shot] * slots))]
        while k > 0 and sums[k - 1] > wanted:  # where the product above was rounded
            k -= 1
        while k < last_bin and sums[k] <= wanted:
            k += 1
        values[shot] = k
        counts[k] += 1


@njit(parallel=True, **_options)
def _pick_parallel(sums, last_bin, guide, numbers, values, counts):
    count, threads = len(numbers), counts.shape[0]
    for thread in prange(threads):
        first, last = count * thread // threads, count * (thread + 1) // threads
        _pick_range(sums, last_bin, guide, numbers, values, counts[thread], first, last)


@njit(**_options)
def _order_range(values, places, order, first, last):
    for shot in range(first, last):
        order[places[values[shot]]] = shot
        places[values[shot]] += 1


@njit(parallel=True, **_options)
def _order_parallel(values, places, order):
    count, threads = len(values), places.shape[0]
    for thread in prange(threads):
        first, last = count * thread // threads, count * (thread + 1) // threads
        _order_range(values, places[thread], order, first, last)


def pick(masses, numbers):
    """For each number in [0, 1) a bin with probability as its mass; and the shots in the order of their bins.

    Returns ``values`` of shape (shots,), ``starts`` of shape (bins + 1,) and ``order`` of shape (shots,):
    ``order[starts[b] : starts[b + 1]]`` are the shots that got bin b, in ascending order.
    """
    sums = np.cumsum(masses)
    last_bin = int(np.flatnonzero(masses)[-1]) if masses.any() else 0
    slots = np.arange(len(masses)) * (sums[-1] / len(masses))
    guide = np.minimum(np.searchsorted(sums, slots, side="right"), last_bin)
    threads = get_num_threads() if len(numbers) >= PARALLEL_FROM else 1
    counts = np.zeros((threads, len(masses)), dtype=np.int64)
    values, order = np.empty(len(numbers), dtype=np.int64), np.empty(len(numbers), dtype=np.int64)
    if threads == 1:
        _pick_range(sums, last_bin, guide, numbers, values, counts[0], 0, len(numbers))
    else:
        _pick_parallel(sums, last_bin, guide, numbers, values, counts)
    starts = np.zeros(len(masses) + 1, dtype=np.int64)
    np.cumsum(counts.sum(axis=0), out=starts[1:])
    places = starts[:-1] + np.cumsum(counts, axis=0) - counts
    if threads == 1:
        _order_range(values, places[0], order, 0, len(numbers))
    else:
        _order_parallel(values, places, order)
    return values, starts, order


@njit(**_options)
def _map_range(numbers, tables, first, last):
    size = tables.shape[1]
    bits = 0
    while 1 << bits < size:
        bits += 1
    for k in range(first, last):
        rest, mapped = numbers[k], np.int64(0)
        for piece in range(tables.shape[0]):
            mapped |= tables[piece, rest & (size - 1)]
            rest >>= bits
        numbers[k] = mapped


@njit(parallel=True, **_options)
def _map_parallel(numbers, tables, threads):
    count = len(numbers)
    for thread in prange(threads):
        _map_range(numbers, tables, count * thread // threads, count * (thread + 1) // threads)


def map_bits(numbers, tables):
    """Put for each number the or of what each table has for its piece of the bits, lowest first; in place.

    ``tables``: int64 of shape (pieces, a power of two).
    """
    threads = get_num_threads()
    if len(numbers) < PARALLEL_FROM or threads == 1:
        _map_range(numbers, tables, 0, len(numbers))
    else:
        _map_parallel(numbers, tables, threads)
