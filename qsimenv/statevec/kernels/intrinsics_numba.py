"""A few machine instructions that Numba has no name for, or does not find by itself.

The kernels that measure (``random_numba``, ``sampling_numba``, ``pauli_numba`` …) call them. Planes are read in their
own precision; what comes out of several amplitudes is double.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from qsimenv.statevec.kernels.llvm_numba import (
    INDEX,
    data_of,
    fma,
    function,
    load_at,
    number_type,
    shuffled,
    splat,
    store_at,
)

_WIDE = ir.IntType(128)


@intrinsic  # type: ignore[untyped-decorator]
def multiply_high(typing: Any, a: Any, b: Any) -> Any:
    """The upper 64 bits of the product of two uint64."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        a, b = (builder.zext(argument, _WIDE) for argument in arguments)
        return builder.trunc(builder.lshr(builder.mul(a, b), ir.Constant(_WIDE, 64)), INDEX)

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def parity(typing: Any, word: Any) -> Any:
    """1 where an odd number of the bits of an int64 are set, else 0."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.and_(builder.ctpop(arguments[0]), ir.Constant(INDEX, 1))

    return types.int64(types.int64), generate


WEIGHT_RUN = 16
"""Amplitudes that ``weight_of_run`` adds up."""
_LANES = 8
_DOUBLES = ir.VectorType(ir.DoubleType(), _LANES)


@intrinsic  # type: ignore[untyped-decorator]
def weight_of_run(typing: Any, re: Any, im: Any, start: Any) -> Any:
    """The squared norm of ``WEIGHT_RUN`` amplitudes from ``start`` on."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        total, *rest = _squares(context, builder, signature, arguments)
        for squares in rest:
            total = builder.fadd(total, squares)
        reduce = function(builder, "llvm.vector.reduce.fadd.v8f64", ir.DoubleType(), [ir.DoubleType(), _DOUBLES])
        return builder.call(reduce, [ir.Constant(ir.DoubleType(), -0.0), total], fastmath=("reassoc",))

    return types.float64(re, im, start), generate


@intrinsic  # type: ignore[untyped-decorator]
def weights_of_run(typing: Any, re: Any, im: Any, start: Any, out: Any) -> Any:
    """The squares of ``WEIGHT_RUN`` amplitudes from ``start`` on, to the front of ``out`` (doubles)."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        out = data_of(context, builder, signature.args[3], arguments[3])
        for number, squares in enumerate(_squares(context, builder, signature, arguments)):
            store_at(builder, squares, out, ir.Constant(INDEX, number * _LANES))
        return context.get_dummy_value()

    return types.void(re, im, start, out), generate


def _squares(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> list[Any]:
    """The squares of a run of amplitudes, eight a vector."""
    squares = []
    for first in range(0, WEIGHT_RUN, _LANES):
        place = builder.add(arguments[2], ir.Constant(INDEX, first))
        x, y = (
            load_doubles(context, builder, array, plane, place)
            for plane, array in zip(arguments[:2], signature.args[:2], strict=True)
        )
        product = builder.fmul(y, y, flags=("contract",))
        squares.append(builder.fadd(builder.fmul(x, x, flags=("contract",)), product, flags=("contract",)))
    return squares


def load_doubles(context: Any, builder: ir.IRBuilder, array: Any, plane: Any, place: Any) -> Any:
    """Eight numbers of a plane, as doubles."""
    kind = ir.VectorType(number_type(array), _LANES)
    x = load_at(builder, kind, data_of(context, builder, array, plane), place)
    return x if kind == _DOUBLES else builder.fpext(x, _DOUBLES)


LINE_BITS = 3
TILE_BITS = 6
"""A line is eight amplitudes, a tile eight lines: what fits the registers as doubles, with room for the other side."""
TILES_BITS = 4
_LINES_OF_TILE = (1 << TILE_BITS) - (1 << LINE_BITS)
"""The bits of a mask that number the lines of a tile; those below number the lanes of a line."""
BLOCK_BITS = TILE_BITS + TILES_BITS
"""What is transformed at once; a state too small for that is worked on a tile at a time, or as it comes."""


@intrinsic  # type: ignore[untyped-decorator]
def products(
    typing: Any, first: Any, second: Any, start: Any, other_re: Any, other_im: Any, other_start: Any, mask: Any,
    sign: Any, out: Any, to: Any,
) -> Any:  # fmt: skip
    """A tile of products, transformed by Walsh and Hadamard over the six bits of its numbers i, to ``out[to:]``.

    For the 64 numbers i these are ``other_re[j] first[start + i] + sign other_im[j] second[start + i]``, where ``j =
    other_start + (i ^ mask)``: with ``re, im, 1`` the real parts of ``conj(other) own``, with ``im, re, -1`` the
    imaginary ones. Bits of ``mask`` above the tile do not count; ``out`` holds doubles.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        start, other_start, mask, sign, to = (arguments[k] for k in (2, 5, 6, 7, 9))
        line_mask = builder.and_(mask, ir.Constant(INDEX, _LINES_OF_TILE))

        def tile(lane_mask: int) -> None:
            lines = []
            for offset in _offsets_of_lines():
                mine, theirs = builder.add(start, offset), builder.add(other_start, builder.xor(line_mask, offset))
                x, y, u, v = (
                    load_doubles(context, builder, signature.args[k], arguments[k], place)
                    for k, place in ((0, mine), (1, mine), (3, theirs), (4, theirs))
                )
                u, v = (shuffled(builder, plane, lane_mask) for plane in (u, v))
                signed = builder.fmul(splat(builder, _DOUBLES, sign), builder.fmul(v, y))
                lines.append(fma(builder, u, x, signed))
            for bit in range(LINE_BITS):
                lines = [_turned_lanes(builder, line, bit) for line in lines]
            _store_lines(context, builder, signature.args[8], arguments[8], to, _turned(builder, lines), 1 << LINE_BITS)

        _for_its_value(builder, builder.and_(mask, ir.Constant(INDEX, _LANES - 1)), range(_LANES), tile)
        return context.get_dummy_value()

    return types.void(first, second, start, other_re, other_im, other_start, mask, sign, out, to), generate


@intrinsic  # type: ignore[untyped-decorator]
def sums_of_pairs(
    typing: Any, re: Any, im: Any, start: Any, other_re: Any, other_im: Any, other_start: Any, mask: Any, sums: Any
) -> Any:
    """Add ``conj(other[other_start + (i ^ mask)]) own[start + i]`` of a tile to ``sums`` (32 doubles).

    ``mask`` is one bit of two lines: 1, 2, 4 or 8. The real parts of number i go to ``i & 15``, the imaginary parts 16
    further.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        start, other_start, mask = (arguments[k] for k in (2, 5, 6))
        array, totals = signature.args[7], arguments[7]

        def add(mask: int) -> None:
            places = [ir.Constant(INDEX, number << LINE_BITS) for number in range(4)]
            lines = [load_doubles(context, builder, array, totals, place) for place in places]
            for number, offset in enumerate(_offsets_of_lines()):
                line_mask = ir.Constant(INDEX, mask & _LINES_OF_TILE)
                mine, theirs = builder.add(start, offset), builder.add(other_start, builder.xor(line_mask, offset))
                x, y, u, v = (
                    load_doubles(context, builder, signature.args[k], arguments[k], place)
                    for k, place in ((0, mine), (1, mine), (3, theirs), (4, theirs))
                )
                u, v = (shuffled(builder, plane, mask & (_LANES - 1)) for plane in (u, v))
                odd = number & 1
                lines[odd] = fma(builder, u, x, fma(builder, v, y, lines[odd]))
                lines[2 + odd] = fma(builder, u, y, fma(builder, builder.fneg(v), x, lines[2 + odd]))
            _store_lines(context, builder, array, totals, ir.Constant(INDEX, 0), lines, 1 << LINE_BITS)

        _for_its_value(builder, mask, (1, 2, 4, 8), add)
        return context.get_dummy_value()

    return types.void(re, im, start, other_re, other_im, other_start, mask, sums), generate


@intrinsic  # type: ignore[untyped-decorator]
def add_products(
    typing: Any, re: Any, im: Any, start: Any, c: Any, s: Any, at: Any, mask: Any, out_re: Any, out_im: Any, to: Any
) -> Any:
    """For the 64 numbers i of a tile add ``(c + i s)[at + i ^ mask] psi[start + i ^ mask]`` to ``out[to + i]``.

    Bits of ``mask`` above the tile do not count. ``c`` and ``s`` are doubles.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        start, at, mask, to = (arguments[k] for k in (2, 5, 6, 9))
        line_mask = builder.and_(mask, ir.Constant(INDEX, _LINES_OF_TILE))

        def add(lane_mask: int) -> None:
            for offset in _offsets_of_lines():
                line = builder.xor(line_mask, offset)
                mine, factor, place = builder.add(start, line), builder.add(at, line), builder.add(to, offset)
                x, y, c, s = (
                    load_doubles(context, builder, signature.args[k], arguments[k], place)
                    for k, place in ((0, mine), (1, mine), (3, factor), (4, factor))
                )
                real = fma(builder, c, x, builder.fneg(builder.fmul(s, y)))
                imaginary = fma(builder, c, y, builder.fmul(s, x))
                for k, part in ((7, real), (8, imaginary)):
                    before = load_doubles(context, builder, signature.args[k], arguments[k], place)
                    after = builder.fadd(before, shuffled(builder, part, lane_mask))
                    _store_numbers(context, builder, signature.args[k], arguments[k], place, after)

        _for_its_value(builder, builder.and_(mask, ir.Constant(INDEX, _LANES - 1)), range(_LANES), add)
        return context.get_dummy_value()

    return types.void(re, im, start, c, s, at, mask, out_re, out_im, to), generate


def _for_its_value(builder: ir.IRBuilder, value: Any, known: Sequence[int], code: Callable[[int], None]) -> None:
    """A branch for each ``known`` value, with the code for it: there the value is a constant. No other may come."""
    blocks = [builder.append_basic_block(f"is_{number}") for number in known]
    after = builder.append_basic_block("after")
    branch = builder.switch(value, blocks[-1])
    for number, block in zip(known, blocks, strict=True):
        if block is not blocks[-1]:
            branch.add_case(ir.Constant(INDEX, number), block)
        builder.position_at_end(block)
        code(number)
        builder.branch(after)
    builder.position_at_end(after)


def _offsets_of_lines() -> list[Any]:
    """Where the lines of a tile begin."""
    return [ir.Constant(INDEX, number << LINE_BITS) for number in range(1 << (TILE_BITS - LINE_BITS))]


@intrinsic  # type: ignore[untyped-decorator]
def transform_tiles(typing: Any, numbers: Any, at: Any) -> Any:
    """Walsh and Hadamard's transform over the number of the tile: one line from each of sixteen tiles, in place."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        array, plane, at = signature.args[0], arguments[0], arguments[1]
        places = [builder.add(at, ir.Constant(INDEX, number << TILE_BITS)) for number in range(1 << TILES_BITS)]
        lines = [load_doubles(context, builder, array, plane, place) for place in places]
        _store_lines(context, builder, array, plane, at, _turned(builder, lines), 1 << TILE_BITS)
        return context.get_dummy_value()

    return types.void(numbers, at), generate


def _turned_lanes(builder: ir.IRBuilder, line: Any, bit: int) -> Any:
    """Sum and difference of the lanes that differ in one bit."""
    signs = ir.Constant(_DOUBLES, [-1.0 if lane >> bit & 1 else 1.0 for lane in range(_LANES)])
    return fma(builder, line, signs, shuffled(builder, line, 1 << bit))


def _turned(builder: ir.IRBuilder, lines: list[Any]) -> list[Any]:
    """Sums and differences over every bit of the number of the line."""
    for bit in range(len(lines).bit_length() - 1):
        for low in range(len(lines)):
            if not low >> bit & 1:
                x, y = lines[low], lines[low | 1 << bit]
                lines[low], lines[low | 1 << bit] = builder.fadd(x, y), builder.fsub(x, y)
    return lines


def _store_numbers(context: Any, builder: ir.IRBuilder, array: Any, plane: Any, at: Any, line: Any) -> None:
    """Eight doubles to a plane of either precision."""
    kind = ir.VectorType(number_type(array), _LANES)
    numbers = line if kind == _DOUBLES else builder.fptrunc(line, kind)
    store_at(builder, numbers, data_of(context, builder, array, plane), at)


def _store_lines(
    context: Any, builder: ir.IRBuilder, array: Any, plane: Any, at: Any, lines: Sequence[Any], distance: int
) -> None:
    """Vectors of doubles to a plane of doubles, the next one ``distance`` numbers further."""
    data = data_of(context, builder, array, plane)
    for number, line in enumerate(lines):
        store_at(builder, line, data, builder.add(at, ir.Constant(INDEX, number * distance)))
