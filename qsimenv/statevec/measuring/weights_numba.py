"""Kernels of ``weights``: weights of everything by bin, and weights of some nodes.

They know neither qubits nor ranks. A *node* is a set of amplitudes, given by its base index and by tables: number k of
its runs of amplitudes starts at ``base | index(k)`` and adds to its bins from ``bin(k)`` on, each put together from a
table for the low bits of k and one for the others. All sums are in double precision.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads

from qsimenv.statevec.kernel_cache import njit, part
from qsimenv.statevec.threads_numba import in_threads, launcher, span

PARALLEL_FROM = 1 << 15
"""Amplitudes, or weights, from which starting threads pays."""

_options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}
_sums = {**_options, "fastmath": {"contract", "nsz", "arcp", "reassoc"}}


@njit(inline="always", **_options)
def _square(re, im, i):
    return np.float64(re[i]) * np.float64(re[i]) + np.float64(im[i]) * np.float64(im[i])


@part(**_sums)
def _weight_of_run(re, im, start, run):
    re, im = re[start : start + run], im[start : start + run]  # slices from 0 on are what LLVM vectorises
    total = 0.0
    for i in range(len(re)):
        total += _square(re, im, i)
    return total


@part(**_options)
def _add_run(re, im, start, run, out, to):
    re, im, out = re[start : start + run], im[start : start + run], out[to : to + run]
    for i in range(len(re)):
        out[i] += _square(re, im, i)


# --- weights of everything, by bin ---


@part(**_options)
def _histogram_share(thread, threads, re, im, run, width, low_bits, row_low, row_high, all_masses):
    mask, masses = (1 << low_bits) - 1, all_masses[thread]
    first, last = span(len(re) // run, thread, threads)
    for number in range(first, last):
        row = row_low[number & mask] | row_high[number >> low_bits]
        if width == 1:
            masses[row, 0] += _weight_of_run(re, im, number * run, run)
        else:
            _add_run(re, im, number * run, run, masses[row], 0)


@njit(**_options)
def _histogram(launch, threads, re, im, run, width, low_bits, row_low, row_high, masses):
    in_threads(launch, threads, _histogram_share, (re, im, run, width, low_bits, row_low, row_high, masses))


def histogram(re, im, run, width, row_low, row_high, num_rows):
    """Weights of the whole planes, float64 of shape (num_rows, width).

    Run k of ``run`` amplitudes belongs to a row by the tables: with ``width == run`` number i of the run is added to
    column i, with ``width == 1`` all are added up.
    """
    low_bits = len(row_low).bit_length() - 1
    threads = get_num_threads() if len(re) >= PARALLEL_FROM else 1
    masses = np.zeros((threads, num_rows, width))
    _histogram(launcher(threads), threads, re, im, run, width, low_bits, row_low, row_high, masses)
    return masses.sum(axis=0)


# --- weights of some nodes, and outcomes among them ---


@part(**_options)
def gather_nodes(re, im, bases, tables, rows):
    """Put the weights of the nodes at ``bases`` into ``rows``. Nodes that share cache lines share the reading."""
    run, summed, low_bits, index_low, index_high, bin_low, bin_high = tables
    mask = (1 << low_bits) - 1
    rows[: len(bases)] = 0.0
    for number in range(len(index_low) * len(index_high)):
        low, high = number & mask, number >> low_bits
        index, to = index_low[low] | index_high[high], bin_low[low] | bin_high[high]
        for node in range(len(bases)):
            start = bases[node] | index
            if run == 1:
                rows[node, to] += _square(re, im, start)
            elif summed:
                rows[node, to] += _weight_of_run(re, im, start, run)
            else:
                _add_run(re, im, start, run, rows[node], to)


@part(**_options)
def _gather_share(thread, threads, re, im, bases, groups, tables, rows):
    first, last = span(len(groups) - 1, thread, threads)
    for group in range(first, last):
        begin, end = groups[group], groups[group + 1]
        gather_nodes(re, im, bases[begin:end], tables, rows[begin:end])


@njit(**_options)
def _gather(launch, threads, re, im, bases, groups, tables, rows):
    in_threads(launch, threads, _gather_share, (re, im, bases, groups, tables, rows))


def gather(re, im, bases, groups, tables, rows):
    """Weights of the nodes at ``bases`` (local indices) by bin, into ``rows`` of shape (nodes, bins).

    ``groups`` (starts, and the end) are nodes to be read together. ``tables`` are (run, summed, low_bits, index_low,
    index_high, bin_low, bin_high): neighbours of a run go to neighbouring bins, or to one where ``summed``.
    """
    threads = get_num_threads() if rows.size >= PARALLEL_FROM else 1
    _gather(launcher(threads), threads, re, im, bases, groups, tables, rows)


@njit(**_options)
def spread(part, places, rows, offset):
    """``rows[n, places[k] | offset] += part[n, k]``."""
    for node in range(part.shape[0]):
        for k in range(part.shape[1]):
            rows[node, places[k] | offset] += part[node, k]
