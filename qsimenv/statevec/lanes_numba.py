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

    @intrinsic  # type: ignore[untyped-decorator]
    def turn(typing: Any, plane: Any, start: Any, distances: Any, slopes: Any, lane_slopes: Any) -> Any:
        signature = types.void(plane, start, distances, slopes, lane_slopes)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
            plane, start, distances = arguments[:3]
            kind, tile, pointers = _load(context, builder, signature.args[0], plane, start, distances, pair_bits)
            if with_lanes:
                for bit in range(LANE_BITS[signature.args[0].dtype.bitwidth // 8]):
                    slope = builder.extract_value(arguments[4], bit)
                    tile = _turn_lanes(builder, kind, tile, bit, slope)
            for bit in range(pair_bits):
                tile = _turn_pairs(builder, kind, tile, bit, builder.extract_value(arguments[3], bit))
            for pointer, x in zip(pointers, tile, strict=True):
                builder.store(x, pointer).align = _item_bytes(kind)
            return context.get_dummy_value()

        return signature, generate

    return turn  # type: ignore[no-any-return]


def dense(lanes: tuple[int, ...], pair_bits: int) -> Callable[..., Any]:
    """An intrinsic ``apply(re, im, start, distances, coefficients, at)``: a dense complex matrix on one tile, in place.

    Its targets are the lane bits ``lanes``, then ``pair_bits`` bits above them. For output vector v and every pattern
    m over the targets, ``coefficients`` holds from ``at`` on a vector of real and one of imaginary parts, lane by lane:
    what the input at ``index ^ m`` is multiplied by.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def apply(typing: Any, re: Any, im: Any, start: Any, distances: Any, coefficients: Any, at: Any) -> Any:
        signature = types.void(re, im, start, distances, coefficients, at)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
            re_plane, im_plane, start, distances, table, at = arguments
            kind, reals, to_re = _load(context, builder, signature.args[0], re_plane, start, distances, pair_bits)
            _, imags, to_im = _load(context, builder, signature.args[1], im_plane, start, distances, pair_bits)
            numbers = context.make_array(signature.args[4])(context, builder, table).data
            place = at
            for number, (re_pointer, im_pointer) in enumerate(zip(to_re, to_im, strict=True)):
                x = y = ir.Constant(kind, [0.0] * kind.count)
                for pattern in range(1 << (len(lanes) + pair_bits)):
                    lane_mask = sum((pattern >> k & 1) << lane for k, lane in enumerate(lanes))
                    other = number ^ (pattern >> len(lanes))
                    p, q = (_shuffled(builder, kind, plane[other], lane_mask) for plane in (reals, imags))
                    c, place = _vector_at(builder, kind, numbers, place)
                    s, place = _vector_at(builder, kind, numbers, place)
                    minus = builder.fneg(s)
                    x = _fma(builder, kind, minus, q, _fma(builder, kind, c, p, x))
                    y = _fma(builder, kind, s, p, _fma(builder, kind, c, q, y))
                for result, pointer in ((x, re_pointer), (y, im_pointer)):
                    builder.store(result, pointer).align = _item_bytes(kind)
            return context.get_dummy_value()

        return signature, generate

    return apply  # type: ignore[no-any-return]


@intrinsic  # type: ignore[untyped-decorator]
def copy_line(typing: Any, source: Any, start: Any, target: Any, to: Any) -> Any:
    """Copy one 64-byte vector: ``target[to:] = source[start:]``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        source, start, target, to = arguments
        _, (x,), _ = _load(context, builder, signature.args[0], source, start, None, 0)
        data = context.make_array(signature.args[2])(context, builder, target).data
        pointer = builder.bitcast(builder.gep(data, [to]), x.type.as_pointer())
        builder.store(x, pointer).align = _item_bytes(x.type)
        return context.get_dummy_value()

    return types.void(source, start, target, to), generate


@intrinsic  # type: ignore[untyped-decorator]
def stream_line(typing: Any, source: Any, start: Any, target: Any, to: Any) -> Any:
    """``copy_line`` past the caches: for a target that is read again much later. ``target[to:]`` is 64-byte aligned."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        source, start, target, to = arguments
        _, (x,), _ = _load(context, builder, signature.args[0], source, start, None, 0)
        data = context.make_array(signature.args[2])(context, builder, target).data
        store = builder.store(x, builder.bitcast(builder.gep(data, [to]), x.type.as_pointer()))
        store.align = 64
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_MASK, 1)]))
        return context.get_dummy_value()

    return types.void(source, start, target, to), generate


@intrinsic  # type: ignore[untyped-decorator]
def finish_streaming(typing: Any) -> Any:
    """Make what ``stream_line`` wrote visible to other threads and processes before anything that follows."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _shuffled(builder: ir.IRBuilder, kind: ir.VectorType, x: Any, lane_mask: int) -> Any:
    """The vector with lane l taken from lane ``l ^ lane_mask``."""
    if not lane_mask:
        return x
    order = ir.Constant(ir.VectorType(_MASK, kind.count), [lane ^ lane_mask for lane in range(kind.count)])
    return builder.shuffle_vector(x, ir.Constant(kind, ir.Undefined), order)


def _vector_at(builder: ir.IRBuilder, kind: ir.VectorType, numbers: Any, place: Any) -> tuple[Any, Any]:
    """The vector at ``place`` of an array, and the place after it."""
    x = builder.load(builder.bitcast(builder.gep(numbers, [place]), kind.as_pointer()))
    x.align = _item_bytes(kind)
    return x, builder.add(place, ir.Constant(_INDEX, kind.count))


def _item_bytes(kind: ir.VectorType) -> int:
    return 4 if isinstance(kind.element, ir.FloatType) else 8


def _load(
    context: Any, builder: ir.IRBuilder, array: Any, plane: Any, start: Any, distances: Any, pair_bits: int
) -> tuple[ir.VectorType, list[Any], list[Any]]:
    """The kind of vector, the vectors of a tile, and where they came from."""
    item_bytes = array.dtype.bitwidth // 8
    kind = ir.VectorType(ir.FloatType() if item_bytes == 4 else ir.DoubleType(), 64 // item_bytes)
    data = context.make_array(array)(context, builder, plane).data
    steps = [builder.extract_value(distances, bit) for bit in range(pair_bits)]
    tile, pointers = [], []
    for number in range(1 << pair_bits):
        place = start
        for bit in range(pair_bits):
            if number >> bit & 1:
                place = builder.add(place, steps[bit])
        pointers.append(builder.bitcast(builder.gep(data, [place]), kind.as_pointer()))
        tile.append(builder.load(pointers[-1]))
        tile[-1].align = item_bytes
    return kind, tile, pointers
