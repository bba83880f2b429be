"""Explicit vector code for ``dense_numba``: dense complex matrices on tiles of vectors.

Three real products make a complex one (Gauss): a quarter fewer multiply-adds for more additions, which have units of
their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from qsimenv.statevec.kernels.lanes_numba import HAS_VECTORS, load_tile, picked_of_two
from qsimenv.statevec.kernels.llvm_numba import (
    INDEX,
    data_of,
    fma,
    item_bytes,
    kind_of,
    load_at,
    shuffled,
    splat,
    store_at,
)


def two_bits(lanes: tuple[int, ...], pair_bits: int) -> Callable[..., Any]:
    """An intrinsic ``apply(re, im, starts, distances, coefficients, at)``: a dense complex matrix on two tiles.

    Its targets are the lane bits ``lanes``, then ``pair_bits`` bits above them, two in all. For output vector v and
    every pattern m over the targets, ``coefficients`` holds from ``at`` on a vector of real parts, one of imaginary
    parts and one of their sums, lane by lane: what the input at ``index ^ m`` is multiplied by.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def apply(typing: Any, re: Any, im: Any, starts: Any, distances: Any, coefficients: Any, at: Any) -> Any:
        signature = types.void(re, im, starts, distances, coefficients, at)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
            re_plane, im_plane, starts, distances, table, at = arguments
            tiles = []
            for number in range(2):
                start = builder.extract_value(starts, number)
                kind, reals, to_re = load_tile(
                    context, builder, signature.args[0], re_plane, start, distances, pair_bits
                )
                _, imags, to_im = load_tile(context, builder, signature.args[1], im_plane, start, distances, pair_bits)
                tiles.append((reals, imags, to_re, to_im))
            numbers = data_of(context, builder, signature.args[4], table)
            place = at
            for output in range(1 << pair_bits):
                sums = [[ir.Constant(kind, [0.0] * kind.count)] * 3 for _ in tiles]
                for pattern in range(1 << (len(lanes) + pair_bits)):
                    lane_mask = sum((pattern >> k & 1) << lane for k, lane in enumerate(lanes))
                    other = output ^ (pattern >> len(lanes))
                    factors = []
                    for _ in range(3):
                        factor, place = _vector_at(builder, kind, numbers, place)
                        factors.append(factor)
                    for tile, (reals, imags, _, _) in enumerate(tiles):
                        x, y = (shuffled(builder, plane[other], lane_mask) for plane in (reals, imags))
                        inputs = (x, y, builder.fadd(x, y))
                        sums[tile] = [fma(builder, *each) for each in zip(factors, inputs, sums[tile], strict=True)]
                for (_, _, to_re, to_im), (p, q, r) in zip(tiles, sums, strict=True):
                    for result, pointer in ((builder.fsub(p, q), to_re), (builder.fsub(r, builder.fadd(p, q)), to_im)):
                        builder.store(result, pointer[output]).align = item_bytes(kind)
            return context.get_dummy_value()

        return signature, generate

    return apply  # type: ignore[no-any-return]


def _vector_at(builder: ir.IRBuilder, kind: ir.VectorType, numbers: Any, place: Any) -> tuple[Any, Any]:
    """The vector at ``place`` of an array, and the place after it."""
    return load_at(builder, kind, numbers, place), builder.add(place, ir.Constant(INDEX, kind.count))


def copy_of_vectors(shuffles: bool) -> Callable[..., Any]:
    """An intrinsic ``copy(re, im, start, numbers, to, lane_mask)``: the vectors of both planes at ``start`` to
    ``numbers[to…]``, one after the other; lane l from lane ``l ^ lane_mask``, if it ``shuffles``."""

    @intrinsic  # type: ignore[untyped-decorator]
    def copy(typing: Any, re: Any, im: Any, start: Any, numbers: Any, to: Any, lane_mask: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
            start, to, lane_mask = arguments[2], arguments[4], arguments[5]
            kind, room = kind_of(signature.args[0]), data_of(context, builder, signature.args[3], arguments[3])
            for number in range(2):
                x = load_at(builder, kind, data_of(context, builder, signature.args[number], arguments[number]), start)
                x = _picked(builder, kind, x, lane_mask) if shuffles else x
                store_at(builder, x, room, builder.add(to, ir.Constant(INDEX, number * kind.count)))
            return context.get_dummy_value()

        return types.void(re, im, start, numbers, to, lane_mask), generate

    return copy  # type: ignore[no-any-return]


def _picked(builder: ir.IRBuilder, kind: ir.VectorType, x: Any, lane_mask: Any) -> Any:
    """The vector with lane l taken from lane ``l ^ lane_mask``, which is known when it runs."""
    if HAS_VECTORS:
        item = ir.IntType(8 * item_bytes(kind))
        wide = ir.VectorType(item, kind.count)
        lanes = ir.Constant(wide, list(range(kind.count)))
        mask = builder.trunc(lane_mask, item) if item.width < INDEX.width else lane_mask
        return picked_of_two(builder, kind, x, x, builder.xor(lanes, splat(builder, wide, mask)))
    picked = ir.Constant(kind, ir.Undefined)
    for lane in range(kind.count):
        number = builder.extract_element(x, builder.xor(lane_mask, ir.Constant(INDEX, lane)))
        picked = builder.insert_element(picked, number, ir.Constant(INDEX, lane))
    return picked


def output_of_matrix(tiles: int, by_lane: bool) -> Callable[..., Any]:
    """An intrinsic ``apply(numbers, inputs, coefficients, at, re, im, places)``: one row of a dense complex matrix.

    For each of ``inputs``, ``numbers`` hold a vector of real and one of imaginary parts for each of the ``tiles``;
    ``coefficients`` from ``at`` on its real part, imaginary part and their sum, ``by_lane`` a vector each. What they
    make goes to the ``places`` of the planes, one for each tile.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def apply(typing: Any, numbers: Any, inputs: Any, coefficients: Any, at: Any, re: Any, im: Any, places: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
            kind, at = kind_of(signature.args[0]), arguments[3]
            numbers, table, *planes = (data_of(context, builder, signature.args[k], arguments[k]) for k in (0, 2, 4, 5))
            zero, width = ir.Constant(kind, [0.0] * kind.count), kind.count
            sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(3)] for _ in range(tiles)]
            step = width if by_lane else 1
            with cgutils.for_range(builder, arguments[1]) as loop:
                place = builder.add(at, builder.mul(loop.index, ir.Constant(INDEX, 3 * step)))
                factors = []
                for k in range(3):
                    entry = builder.add(place, ir.Constant(INDEX, k * step))
                    if by_lane:
                        factors.append(load_at(builder, kind, table, entry))
                    else:
                        factors.append(splat(builder, kind, builder.load(builder.gep(table, [entry]))))
                first = builder.mul(loop.index, ir.Constant(INDEX, 2 * tiles * width))
                for tile in range(tiles):
                    entries = (builder.add(first, ir.Constant(INDEX, (2 * tile + k) * width)) for k in range(2))
                    x, y = (load_at(builder, kind, numbers, entry) for entry in entries)
                    parts = (x, y, builder.fadd(x, y))
                    for total, factor, part in zip(sums[tile], factors, parts, strict=True):
                        builder.store(fma(builder, factor, part, builder.load(total)), total)
            for tile in range(tiles):
                p, q, r = (builder.load(total) for total in sums[tile])
                place = builder.extract_value(arguments[6], tile)
                made = (builder.fsub(p, q), builder.fsub(r, builder.fadd(p, q)))
                for result, plane in zip(made, planes, strict=True):
                    store_at(builder, result, plane, place)
            return context.get_dummy_value()

        return types.void(numbers, inputs, coefficients, at, re, im, places), generate

    return apply  # type: ignore[no-any-return]
