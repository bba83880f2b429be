"""Kernels of the exchange: copy a slot (the amplitudes with one value at some bits) to and from a message.

``exchange`` calls them. A slot lies in runs as long as its lowest bit allows: runs of whole cache lines are copied line
by line, past the caches where the state is large, because a sweep comes back to what was written much later.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads

from qsimenv.statevec.kernel_cache import njit, part
from qsimenv.statevec.kernels.copies_numba import copy_line, finish_streaming, stream_lines
from qsimenv.statevec.threads_numba import in_threads, launcher, span

CHUNK = 1 << 14
"""Amplitudes that one thread copies at a time; a piece of several chunks is shared by the threads."""
STREAM_FROM_BYTES = 16 << 20
"""Planes of this size do not stay in a cache until the next sweep."""

_options = {"nogil": True, "error_model": "numpy"}


@njit(inline="always", **_options)
def _spread(number, positions):
    """Make room in the number of an amplitude within a slot for the slot's own bits."""
    for k in range(positions.shape[0]):
        position = positions[k]
        number = ((number >> position) << (position + 1)) | (number & ((1 << position) - 1))
    return number


@part(**_options)
def _pack_range(plane, positions, offsets, value, start, piece, first, last):
    step, line = min(1 << positions[0], last - first), 64 // plane.itemsize
    if step < line:
        for k in range(first, last, offsets.shape[0]):
            place = _spread(start + k, positions) | value
            for i in range(offsets.shape[0]):
                piece[k + i] = plane[place + offsets[i]]
        return
    for k in range(first, last, step):
        place = _spread(start + k, positions) | value
        for i in range(0, step, line):
            copy_line(plane, place + i, piece, k + i)


@part(**_options)
def _unpack_range(plane, positions, offsets, value, start, piece, first, last, streaming):
    step, line = min(1 << positions[0], last - first), 64 // plane.itemsize
    if step < line:
        for k in range(first, last, offsets.shape[0]):
            place = _spread(start + k, positions) | value
            for i in range(offsets.shape[0]):
                plane[place + offsets[i]] = piece[k + i]
        return
    for k in range(first, last, step):
        place = _spread(start + k, positions) | value
        if streaming:
            stream_lines(piece, k, plane, place, step // line)
        else:
            for i in range(0, step, line):
                copy_line(piece, k + i, plane, place + i)


@part(**_options)
def _keep_range(plane, positions, source, target, others, first, last):
    step = min(1 << positions[0], last - first)
    for k in range(first, last, step):
        base = _spread(k, positions)
        if source != target:
            for i in range(base, base + step):
                plane[i | target] = plane[i | source]
        for j in range(others.shape[0]):
            for i in range(base | others[j], (base | others[j]) + step):
                plane[i] = 0


@part(**_options)
def _pack_share(thread, threads, plane, positions, offsets, value, start, piece):
    size = min(piece.shape[0], CHUNK)
    first, last = span(piece.shape[0] // size, thread, threads)
    for chunk in range(first, last):
        _pack_range(plane, positions, offsets, value, start, piece, chunk * size, (chunk + 1) * size)


@part(**_options)
def _unpack_share(thread, threads, plane, positions, offsets, value, start, piece, streaming):
    size = min(piece.shape[0], CHUNK)
    first, last = span(piece.shape[0] // size, thread, threads)
    for chunk in range(first, last):
        _unpack_range(plane, positions, offsets, value, start, piece, chunk * size, (chunk + 1) * size, streaming)
    finish_streaming()


@part(**_options)
def _keep_share(thread, threads, plane, positions, source, target, others, count):
    size = min(count, CHUNK)
    first, last = span(count // size, thread, threads)
    for chunk in range(first, last):
        _keep_range(plane, positions, source, target, others, chunk * size, (chunk + 1) * size)


@njit(**_options)
def _pack(launch, threads, plane, positions, offsets, value, start, piece):
    in_threads(launch, threads, _pack_share, (plane, positions, offsets, value, start, piece))


@njit(**_options)
def _unpack(launch, threads, plane, positions, offsets, value, start, piece, streaming):
    in_threads(launch, threads, _unpack_share, (plane, positions, offsets, value, start, piece, streaming))


@njit(**_options)
def _keep(launch, threads, plane, positions, source, target, others, count):
    in_threads(launch, threads, _keep_share, (plane, positions, source, target, others, count))


def _threads_for(count):
    return get_num_threads() if count > CHUNK else 1


def offsets_for(positions, count):
    """Where the first amplitudes of a slot lie from its start on: as many as fit a chunk, of ``count``."""
    offsets = np.arange(min(count, CHUNK, 1 << 12))
    for position in positions:
        offsets = offsets >> position << (position + 1) | offsets & ((1 << position) - 1)
    return offsets


def pack(plane, positions, offsets, value, start, piece):
    """Fill ``piece`` with amplitudes whose index has ``value`` at ``positions`` (sorted), from number ``start`` on.

    ``value`` stands in place, as a part of the index; ``offsets`` is ``offsets_for(positions, len(piece))``. The
    lengths of ``plane`` and ``piece`` are powers of two, and ``start`` is a multiple of the latter.
    """
    threads = _threads_for(len(piece))
    _pack(launcher(threads), threads, plane, positions, offsets, value, start, piece)


def unpack(plane, positions, offsets, value, start, piece):
    """The reverse of ``pack``."""
    streaming = plane.nbytes >= STREAM_FROM_BYTES and plane.ctypes.data % 64 == 0
    threads = _threads_for(len(piece))
    _unpack(launcher(threads), threads, plane, positions, offsets, value, start, piece, streaming)


def keep_slot(plane, positions, source, target, unset=0):
    """Move the slot with value ``source`` at ``positions`` to where ``target`` is; clear others without ``unset``."""
    count = len(plane) >> len(positions)
    values = np.zeros(1, dtype=np.int64)
    for position in positions:
        values = np.concatenate([values, values | 1 << position])
    others = values[(values != target) & (values & unset == 0)]
    if source == target and len(others) == 0:
        return
    threads = _threads_for(count)
    _keep(launcher(threads), threads, plane, positions, source, target, others, count)


def put(plane, mask, value, number):
    """Put a number where the index has ``value`` at the bits of ``mask``."""
    bits = range(len(plane).bit_length() - 2, -1, -1)
    part = tuple(value >> bit & 1 if mask >> bit & 1 else slice(None) for bit in bits)
    plane.reshape((2,) * len(part))[*part, ...] = number


def take(plane, places):
    """The numbers at some places."""
    return plane[places]
