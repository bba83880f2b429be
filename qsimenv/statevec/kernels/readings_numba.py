"""Readings of two states while a block of both is in cache; ``sweep_numba`` calls them for the rows of that kind.

The lower half of the block is of one state, the upper half of the other, both in scratch order (``passes_numba``). For
a string that flips the bits x and has signs on the bits z the sum of ``(-1)**popcount(i & z) conj(other[i ^ x])
own[i]`` is wanted, its real or its imaginary part. X and Y on one bit are two multiply-adds a number each; strings that
flip the same bits share a transform by Walsh and Hadamard. Sums are in double precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from qsimenv.statevec.encoding.readings import FLIPS, LINE_BITS
from qsimenv.statevec.encoding.rows import HAS_LANES, NUM_ENTRIES, TABLE
from qsimenv.statevec.kernel_cache import part
from qsimenv.statevec.kernels.intrinsics_numba import (
    BLOCK_BITS,
    TILE_BITS,
    load_doubles,
    parity,
    products,
    transform_tiles,
)
from qsimenv.statevec.kernels.llvm_numba import INDEX, data_of, fma, shuffled, store_at
from qsimenv.statevec.kernels.passes_numba import place

_LINE = 1 << LINE_BITS
_TILE = 1 << TILE_BITS
_options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}


@intrinsic
def _sums_of_lanes(
    typing: Any, first: Any, second: Any, x: Any, y: Any, start: Any, other: Any, steps: Any, sums: Any
) -> Any:
    """What ``_sums_of_lines`` does, for the three bits of a line: two sums each, of pairs both ways round by lane."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        totals = _Totals(context, builder, signature.args[7], arguments[7], 2 * LINE_BITS)
        for f, g, u, v in _lines(context, builder, signature, arguments):
            for bit in range(LINE_BITS):
                totals.add(2 * bit, shuffled(builder, u, 1 << bit), f)
                totals.add(2 * bit + 1, shuffled(builder, v, 1 << bit), g)
        totals.store()
        return context.get_dummy_value()

    return types.void(first, second, x, y, start, other, steps, sums), generate


@intrinsic
def _sums_of_lines(
    typing: Any, first: Any, second: Any, x: Any, y: Any, start: Any, other: Any, steps: Any, sums: Any
) -> Any:
    """Add products of a tile's numbers with those of flipped others to ``sums``, for three bits at distances ``steps``.

    For each bit these are four sums of eight lanes: ``first x`` and ``second y`` where our bit is zero, then the same
    where it is one. Ours are ``first`` and ``second``; ``x`` and ``y`` are read ``other`` further.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        totals = _Totals(context, builder, signature.args[7], arguments[7], 4 * LINE_BITS)
        lines = _lines(context, builder, signature, arguments)
        for number, (f, g, _, _) in enumerate(lines):
            for bit in range(LINE_BITS):
                _, _, u, v = lines[number ^ 1 << bit]
                place = 4 * bit + 2 * (number >> bit & 1)
                totals.add(place, u, f)
                totals.add(place + 1, v, g)
        totals.store()
        return context.get_dummy_value()

    return types.void(first, second, x, y, start, other, steps, sums), generate


def _lines(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> list[list[Any]]:
    """Of eight lines that differ in three bits: both parts of ours, and those of the other state."""
    steps = [builder.extract_value(arguments[6], k) for k in range(LINE_BITS)]
    places = [arguments[4]]
    for step in steps:
        places += [builder.add(place, step) for place in places]
    return [
        [
            load_doubles(context, builder, signature.args[plane], arguments[plane], at)
            for plane, at in enumerate((mine, mine, theirs, theirs))
        ]
        for mine, theirs in ((place, builder.add(place, arguments[5])) for place in places)
    ]


class _Totals:
    """Sums of eight lanes, in registers until they are stored."""

    def __init__(self, context: Any, builder: ir.IRBuilder, array: Any, sums: Any, count: int) -> None:
        self._builder, self._data = builder, data_of(context, builder, array, sums)
        self._places = [ir.Constant(INDEX, number * _LINE) for number in range(count)]
        self._totals = [load_doubles(context, builder, array, sums, place) for place in self._places]

    def add(self, number: int, a: Any, b: Any) -> None:
        self._totals[number] = fma(self._builder, a, b, self._totals[number])

    def store(self) -> None:
        for total, at in zip(self._totals, self._places, strict=True):
            store_at(self._builder, total, self._data, at)


@part(**_options)
def read_flips(x, y, bits, ops, row, tables, sums):
    """X, or Y, on the bits of a line and on six others, over parts of the block that fit the first-level cache.

    Of ours x + iy and theirs u + iv the imaginary parts, ``u y - v x``, are summed up for X; for Y the real ones, ``u x
    + v y``, less those where our bit is one.
    """
    at, half = ops[row, TABLE], place(1 << (bits - 1), x.itemsize)
    first, second = (x, y) if tables[at] else (y, x)
    positions = tables[at + 1 : at + 1 + FLIPS]
    lanes, near, far = np.zeros(2 * LINE_BITS * _LINE), np.zeros(4 * LINE_BITS * _LINE), np.zeros(4 * LINE_BITS * _LINE)
    near_steps, far_steps = _steps(positions, 0, x.itemsize), _steps(positions, LINE_BITS, x.itemsize)
    for number in range(1 << (bits - 1 - LINE_BITS - FLIPS)):
        opened = number << LINE_BITS
        for position in positions:
            opened = ((opened >> position) << (position + 1)) | (opened & ((1 << position) - 1))
        start = place(opened, x.itemsize)
        for k in range(_LINE):
            at_near = start + _combined(near_steps, k)
            at_far = start + _combined(far_steps, k)
            _sums_of_lines(first, second, x, y, at_far, half, near_steps, near)
            _sums_of_lines(first, second, x, y, at_near, half, far_steps, far)
            if ops[row, HAS_LANES]:
                _sums_of_lanes(first, second, x, y, at_far, half, near_steps, lanes)
    _take_lanes(lanes, tables, at, sums)
    _take_lines(near, tables, at, 0, sums)
    _take_lines(far, tables, at, LINE_BITS, sums)


@part(**_options)
def _steps(positions, first, itemsize):
    return (
        place(1 << positions[first], itemsize),
        place(1 << positions[first + 1], itemsize),
        place(1 << positions[first + 2], itemsize),
    )


@part(**_options)
def _combined(steps, number):
    return (number & 1) * steps[0] + (number >> 1 & 1) * steps[1] + (number >> 2 & 1) * steps[2]


@part(**_options)
def _take_lanes(parts, tables, at, sums):
    """Add what was found for the bits of a line to their slots."""
    is_y = tables[at] != 0
    for bit in range(LINE_BITS):
        slot = tables[at + 1 + FLIPS + bit]
        for lane in range(_LINE if slot >= 0 else 0):
            f, g = parts[2 * bit * _LINE + lane], parts[(2 * bit + 1) * _LINE + lane]
            value = f + g if is_y else f - g
            sums[slot] += -value if is_y and lane >> bit & 1 else value


@part(**_options)
def _take_lines(parts, tables, at, first, sums):
    """Add what was found for three other bits to theirs."""
    is_y = tables[at] != 0
    for bit in range(LINE_BITS):
        slot = tables[at + 1 + FLIPS + LINE_BITS + first + bit]
        for number in range(4 if slot >= 0 else 0):
            start = (4 * bit + number) * _LINE
            value = parts[start : start + _LINE].sum()
            is_less = number >> 1 if is_y else number & 1
            sums[slot] += -value if is_less else value


@part(**_options)
def read_strings(x, y, bits, ops, row, tables, index, sums):
    """Strings that flip the same bits of the block, and of which the same part is wanted."""
    at = ops[row, TABLE]
    flips, is_imaginary = tables[at], tables[at + 1] != 0
    size, half = 1 << (bits - 1), place(1 << (bits - 1), x.itemsize)
    if size < _TILE:
        _read_few(x, y, size, half, ops, row, tables, index, sums)
        return
    first, second, sign = (y, x, -1.0) if is_imaginary else (x, y, 1.0)
    out = np.empty(1 << BLOCK_BITS if size >= 1 << BLOCK_BITS else _TILE)
    inner, outer = flips & (len(out) - 1), flips & -len(out)
    tiles = inner & -_TILE
    for start in range(0, size, len(out)):
        for k in range(0, len(out), _TILE):
            mine, theirs = place(start + k, x.itemsize), half + place((start + k) ^ outer ^ tiles, x.itemsize)
            # the real and the imaginary plane change places for ours only
            products(first, second, mine, x, y, theirs, inner, sign, out, k)
        if len(out) > _TILE:
            for line in range(0, _TILE, _LINE):
                transform_tiles(out, line)
        for term in range(at + 2, at + 2 + 3 * ops[row, NUM_ENTRIES], 3):
            odd = parity(start & tables[term]) ^ parity(index & tables[term + 1])
            value = out[tables[term] & (len(out) - 1)]
            sums[tables[term + 2]] += -value if odd else value


@part(**_options)
def _read_few(x, y, size, half, ops, row, tables, index, sums):
    """In blocks smaller than a tile: a product after the other."""
    at = ops[row, TABLE]
    flips, is_imaginary = tables[at], tables[at + 1] != 0
    for i in range(size):
        j = half + (i ^ flips)
        a, b, c, d = np.float64(x[i]), np.float64(y[i]), np.float64(x[j]), np.float64(y[j])
        part = c * b - d * a if is_imaginary else c * a + d * b
        for term in range(at + 2, at + 2 + 3 * ops[row, NUM_ENTRIES], 3):
            odd = parity(i & tables[term]) ^ parity(index & tables[term + 1])
            sums[tables[term + 2]] += -part if odd else part
