"""Kernels of the exchange: copy a slot (the amplitudes with one value at some bits) to and from a message.

``exchange`` calls them. A slot lies in runs as long as its lowest bit allows: runs of whole cache lines are copied line
by line, past the caches where the state is large, because a sweep comes back to what was written much later.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, prange

from qsimenv.statevec.kernel_cache import njit
from qsimenv.statevec.kernels.copies_numba import copy_line, finish_streaming, stream_lines

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


@njit(**_options)
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


@njit(**_options)
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
    finish_streaming()


@njit(**_options)
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


@njit(parallel=True, **_options)
def _pack_parallel(plane, positions, offsets, value, start, piece):
    for chunk in prange(piece.shape[0] // CHUNK):
        _pack_range(plane, positions, offsets, value, start, piece, chunk * CHUNK, (chunk + 1) * CHUNK)


@njit(parallel=True, **_options)
def _unpack_parallel(plane, positions, offsets, value, start, piece, streaming):
    for chunk in prange(piece.shape[0] // CHUNK):
        _unpack_range(plane, positions, offsets, value, start, piece, chunk * CHUNK, (chunk + 1) * CHUNK, streaming)


@njit(parallel=True, **_options)
def _keep_parallel(plane, positions, source, target, others, count):
    for chunk in prange(count // CHUNK):
        _keep_range(plane, positions, source, target, others, chunk * CHUNK, (chunk + 1) * CHUNK)


def _shared(count):
    return count > CHUNK and get_num_threads() > 1


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
    if _shared(len(piece)):
        _pack_parallel(plane, positions, offsets, value, start, piece)
    else:
        _pack_range(plane, positions, offsets, value, start, piece, 0, len(piece))


def unpack(plane, positions, offsets, value, start, piece):
    """The reverse of ``pack``."""
    streaming = plane.nbytes >= STREAM_FROM_BYTES and plane.ctypes.data % 64 == 0
    if _shared(len(piece)):
        _unpack_parallel(plane, positions, offsets, value, start, piece, streaming)
    else:
        _unpack_range(plane, positions, offsets, value, start, piece, 0, len(piece), streaming)


def keep_slot(plane, positions, source, target, unset=0):
    """Move the slot with value ``source`` at ``positions`` to where ``target`` is; clear others without ``unset``."""
    count = len(plane) >> len(positions)
    values = np.zeros(1, dtype=np.int64)
    for position in positions:
        values = np.concatenate([values, values | 1 << position])
    others = values[(values != target) & (values & unset == 0)]
    if source == target and len(others) == 0:
        return
    if _shared(count):
        _keep_parallel(plane, positions, source, target, others, count)
    else:
        _keep_range(plane, positions, source, target, others, 0, count)


def put(plane, mask, value, number):
    """Put a number where the index has ``value`` at the bits of ``mask``."""
    bits = range(len(plane).bit_length() - 2, -1, -1)
    part = tuple(value >> bit & 1 if mask >> bit & 1 else slice(None) for bit in bits)
    plane.reshape((2,) * len(part))[*part, ...] = number


def take(plane, places):
    """The numbers at some places."""
    return plane[places]
