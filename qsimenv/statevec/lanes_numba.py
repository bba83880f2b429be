"""Explicit vector code for ``kernels_numba``: rotations on several bits in one pass through the registers.

Numba's vectoriser cannot be relied on to keep sixteen vectors in registers, so these intrinsics write the LLVM code
themselves: load a tile of ``2**k`` vectors, turn it on its lane bits by shuffles and on its k other bits by pairs,
store it. One fused multiply-add a number and bit; loads and stores are shared by all bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANE_BITS = {4: 4, 8: 3}
"""By item size: the bits of the index inside one 64-byte vector."""
MOST_PAIR_BITS = 4

_INDEX = ir.IntType(64)
_MASK = ir.IntType(32)


def _splat(builder: ir.IRBuilder, kind: ir.VectorType, scalar: Any) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_MASK, 0))
    zeros = ir.Constant(ir.VectorType(_MASK, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, undefined, zeros)


def _fma(builder: ir.IRBuilder, kind: ir.VectorType, a: Any, b: Any, c: Any) -> Any:
    suffix = "f32" if isinstance(kind.element, ir.FloatType) else "f64"
    name = f"llvm.fma.v{kind.count}{suffix}"
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(kind, [kind, kind, kind]), name)
    return builder.call(function, [a, b, c])


def _turn_lanes(builder: ir.IRBuilder, kind: ir.VectorType, tile: list[Any], bit: int, slope: Any) -> list[Any]:
    """Every vector of the tile, turned on one of its lane bits."""
    width = kind.count
    partner = ir.Constant(ir.VectorType(_MASK, width), [lane ^ (1 << bit) for lane in range(width)])
    signs = ir.Constant(kind, [-1.0 if lane >> bit & 1 else 1.0 for lane in range(width)])
    slopes = builder.fmul(_splat(builder, kind, slope), signs)
    undefined = ir.Constant(kind, ir.Undefined)
    return [_fma(builder, kind, slopes, builder.shuffle_vector(x, undefined, partner), x) for x in tile]


def _turn_pairs(builder: ir.IRBuilder, kind: ir.VectorType, tile: list[Any], bit: int, slope: Any) -> list[Any]:
    """The tile, turned on bit ``bit`` of the vectors' numbers."""
    up = _splat(builder, kind, slope)
    down = builder.fneg(up)
    turned = list(tile)
    for number, x in enumerate(tile):
        if not number >> bit & 1:
            y = tile[number | 1 << bit]
            turned[number] = _fma(builder, kind, up, y, x)
            turned[number | 1 << bit] = _fma(builder, kind, down, x, y)
    return turned


def rotation(pair_bits: int, with_lanes: bool) -> Callable[..., Any]:
    """An intrinsic ``turn(plane, start, distances, slopes, lane_slopes)`` that turns one tile of a plane in place.

    ``distances`` and ``slopes`` are tuples of ``pair_bits`` items: how far apart the two vectors of a pair are, and the
    slope on that bit; ``lane_slopes`` is a tuple of one slope a lane bit (not looked at without ``with_lanes``).
    """

    @intrinsic
    def turn(typing: Any, plane: Any, start: Any, distances: Any, slopes: Any, lane_slopes: Any) -> Any:
        signature = types.void(plane, start, distances, slopes, lane_slopes)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
            data, kind, tile, pointers = _load(context, builder, signature, arguments, pair_bits)
            if with_lanes:
                for bit in range(LANE_BITS[signature.args[0].dtype.bitwidth // 8]):
                    slope = builder.extract_value(arguments[4], bit)
                    tile = _turn_lanes(builder, kind, tile, bit, slope)
            for bit in range(pair_bits):
                tile = _turn_pairs(builder, kind, tile, bit, builder.extract_value(arguments[3], bit))
            for pointer, x in zip(pointers, tile, strict=True):
                builder.store(x, pointer).align = signature.args[0].dtype.bitwidth // 8
            return context.get_dummy_value()

        return signature, generate

    return turn  # type: ignore[no-any-return]


def _load(
    context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any], pair_bits: int
) -> tuple[Any, ir.VectorType, list[Any], list[Any]]:
    """The vectors of a tile and where they came from."""
    array = signature.args[0]
    item_bytes = array.dtype.bitwidth // 8
    kind = ir.VectorType(ir.FloatType() if item_bytes == 4 else ir.DoubleType(), 64 // item_bytes)
    data = context.make_array(array)(context, builder, arguments[0]).data
    distances = [builder.extract_value(arguments[2], bit) for bit in range(pair_bits)]
    pointers, tile = [], []
    for number in range(1 << pair_bits):
        place = arguments[1]
        for bit in range(pair_bits):
            if number >> bit & 1:
                place = builder.add(place, distances[bit])
        pointer = builder.bitcast(builder.gep(data, [place]), kind.as_pointer())
        x = builder.load(pointer)
        x.align = item_bytes
        pointers.append(pointer)
        tile.append(x)
    return data, kind, tile, pointers
