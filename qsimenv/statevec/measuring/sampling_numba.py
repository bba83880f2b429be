"""Kernels of ``sampling``: the search for outcomes among weights, and shots in the order of their outcomes.

They know neither qubits nor ranks; what a *node* is and how its weights are read is in ``weights_numba``. All sums are
in double precision, and bounded buffers are the caller's.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads

from qsimenv.statevec.kernel_cache import njit, part
from qsimenv.statevec.kernels.intrinsics_numba import WEIGHT_RUN, weight_of_run, weights_of_run
from qsimenv.statevec.measuring.weights_numba import gather_nodes
from qsimenv.statevec.shares_numba import next_number, shares_of
from qsimenv.statevec.threads_numba import in_threads, launcher, span

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


@part(**_options)
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


@part(**_options)
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


@part(**_options)
def _search_rows(rows, size, sums, spans, shots, numbers, values, first, last):
    for node in range(first, last):
        _search(rows[node], size, sums, shots[spans[node, 0] : spans[node, 1]], numbers, values)


@part(**_options)
def _search_share(thread, threads, rows, size, sums, spans, shots, numbers, values):
    first, last = span(len(spans), thread, threads)
    _search_rows(rows, size, sums[thread], spans, shots, numbers, values, first, last)


@njit(**_options)
def _search_all(launch, threads, rows, size, sums, spans, shots, numbers, values):
    in_threads(launch, threads, _search_share, (rows, size, sums, spans, shots, numbers, values))


def search(rows, spans, shots, numbers, values):
    """Draw a bin of its node for every shot: those of the node in row n are ``shots[spans[n, 0] : spans[n, 1]]``."""
    size = rows.shape[1]
    threads = get_num_threads() if len(shots) >= PARALLEL_FROM else 1
    sums = _room_for_sums(threads, size)
    _search_all(launcher(threads), threads, rows, size, sums, spans, shots, numbers, values)


@part(**_options)
def _draw_share(
    thread, threads, re, im, bases, groups, tables, spans, shots, numbers, values, rows, sums, size, shares
):  # fmt: skip
    group, share, left = next_number(shares, thread, threads)
    while group >= 0:
        begin, end = groups[group], groups[group + 1]
        gather_nodes(re, im, bases[begin:end], tables, rows[thread])
        _search_rows(rows[thread], size, sums[thread], spans[begin:end], shots, numbers, values, 0, end - begin)
        group, share, left = next_number(shares, share, left)


@njit(**_options)
def _draw(launch, threads, re, im, bases, groups, tables, spans, shots, numbers, values, rows, sums, size, shares):
    arguments = (re, im, bases, groups, tables, spans, shots, numbers, values, rows, sums, size, shares)
    in_threads(launch, threads, _draw_share, arguments)


def draw(re, im, bases, groups, tables, spans, shots, numbers, values, size):
    """``gather`` and ``search`` for all nodes (``size`` bins each) in one go, a group at a time in each thread."""
    threads = min(get_num_threads(), len(groups) - 1)
    most = int(np.diff(groups).max())
    rows = np.empty((threads, most, size + ROW_PAD))
    sums = _room_for_sums(threads, size)
    shares, arguments = shares_of(len(groups) - 1, threads), (bases, groups, tables, spans, shots, numbers, values)
    _draw(launcher(threads), threads, re, im, *arguments, rows, sums, size, shares)


@part(**_options)
def _draw_in_place_share(thread, threads, re, im, bases, flips, spans, shots, numbers, values, sums, size, shares):
    node, share, left = next_number(shares, thread, threads)
    while node >= 0:
        mine = shots[spans[node, 0] : spans[node, 1]]
        _search_in_place(re, im, bases[node], flips, size, sums[thread], mine, numbers, values)
        node, share, left = next_number(shares, share, left)


@njit(**_options)
def _draw_in_place(launch, threads, re, im, bases, flips, spans, shots, numbers, values, sums, size, shares):
    arguments = (re, im, bases, flips, spans, shots, numbers, values, sums, size, shares)
    in_threads(launch, threads, _draw_in_place_share, arguments)


def draw_in_place(re, im, bases, flips, spans, shots, numbers, values, size):
    """As ``draw``, where bin b of a node is the amplitude at ``base | (b ^ flips)``; ``size`` is WEIGHT_RUN or more."""
    threads = min(get_num_threads(), len(bases))
    sums, shares = _room_for_sums(threads, size), shares_of(len(bases), threads)
    arguments = (bases, flips, spans, shots, numbers, values)
    _draw_in_place(launcher(threads), threads, re, im, *arguments, sums, size, shares)


def _room_for_sums(threads, size):
    """The sums, one run's weights, and the numbers of some shots, for each thread."""
    return np.empty((threads, max(1, size // WEIGHT_RUN) + ROW_PAD + WEIGHT_RUN + SHOT_ROOM))


# --- shots ---


@part(**_options)
def _pick_share(thread, threads, sums, last_bin, guide, numbers, values, counts):
    first, last = span(len(numbers), thread, threads)
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
        counts[thread, k] += 1


@part(**_options)
def _order_share(thread, threads, values, places, order):
    first, last = span(len(values), thread, threads)
    for shot in range(first, last):
        order[places[thread, values[shot]]] = shot
        places[thread, values[shot]] += 1


@njit(**_options)
def _pick(launch, threads, sums, last_bin, guide, numbers, values, counts):
    in_threads(launch, threads, _pick_share, (sums, last_bin, guide, numbers, values, counts))


@njit(**_options)
def _order(launch, threads, values, places, order):
    in_threads(launch, threads, _order_share, (values, places, order))


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
    _pick(launcher(threads), threads, sums, last_bin, guide, numbers, values, counts)
    starts = np.zeros(len(masses) + 1, dtype=np.int64)
    np.cumsum(counts.sum(axis=0), out=starts[1:])
    places = starts[:-1] + np.cumsum(counts, axis=0) - counts
    _order(launcher(threads), threads, values, places, order)
    return values, starts, order


@part(**_options)
def _map_share(thread, threads, numbers, tables):
    first, last = span(len(numbers), thread, threads)
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


@njit(**_options)
def _map(launch, threads, numbers, tables):
    in_threads(launch, threads, _map_share, (numbers, tables))


def map_bits(numbers, tables):
    """Put for each number the or of what each table has for its piece of the bits, lowest first; in place.

    ``tables``: int64 of shape (pieces, a power of two).
    """
    threads = get_num_threads() if len(numbers) >= PARALLEL_FROM else 1
    _map(launcher(threads), threads, numbers, tables)
