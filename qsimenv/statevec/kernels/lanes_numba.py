"""Explicit vector code for ``sweep_numba``: rotations on several bits in one pass through the registers.

Numba's vectoriser cannot be relied on to keep sixteen vectors in registers, so these intrinsics write the LLVM code
themselves: load a tile of ``2**k`` vectors, turn it on its lane bits by shuffles and on its k other bits by pairs,
store it. One fused multiply-add a number and bit; loads and stores are shared by all bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from qsimenv.statevec.encoding.rows import CODE_BIT, TURNED_WITH_PHASES
from qsimenv.statevec.kernels.llvm_numba import (
    INDEX,
    data_of,
    fma,
    function,
    item_bytes,
    kind_of,
    line_place,
    load_at,
    shuffled,
    splat,
    store_at,
    stream_at,
)

LANE_BITS = {4: 4, 8: 3}
"""By item size: the bits of the index inside one 64-byte vector."""

HAS_VECTORS: bool = binding.get_host_cpu_features().get("avx512f", False)
"""Whether the processor has the instructions that ``permutation`` is written with."""

_MASK = ir.IntType(32)


def _turn_lanes(builder: ir.IRBuilder, kind: ir.VectorType, tile: list[Any], bit: int, slope: Any) -> list[Any]:
    """Every vector of the tile, turned on one of its lane bits."""
    signs = ir.Constant(kind, [-1.0 if lane >> bit & 1 else 1.0 for lane in range(kind.count)])
    slopes = builder.fmul(splat(builder, kind, slope), signs)
    return [fma(builder, slopes, shuffled(builder, x, 1 << bit), x) for x in tile]


def _turn_pairs(builder: ir.IRBuilder, kind: ir.VectorType, tile: list[Any], bit: int, slope: Any) -> list[Any]:
    """The tile, turned on bit ``bit`` of the vectors' numbers."""
    up = splat(builder, kind, slope)
    down = builder.fneg(up)
    turned = list(tile)
    for number, x in enumerate(tile):
        if not number >> bit & 1:
            y = tile[number | 1 << bit]
            turned[number] = fma(builder, up, y, x)
            turned[number | 1 << bit] = fma(builder, down, x, y)
    return turned


def _sums_and_differences(builder: ir.IRBuilder, tile: list[Any], bit: int) -> list[Any]:
    """The same for a slope of minus one: additions have units of their own beside those that multiply."""
    turned = list(tile)
    for number, x in enumerate(tile):
        if not number >> bit & 1:
            y = tile[number | 1 << bit]
            turned[number], turned[number | 1 << bit] = builder.fsub(x, y), builder.fadd(y, x)
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
            plane, start, distances, slopes = arguments[:4]
            kind, tile, pointers = load_tile(context, builder, signature.args[0], plane, start, distances, pair_bits)
            if with_lanes:
                for bit in range(LANE_BITS[signature.args[0].dtype.bitwidth // 8]):
                    slope = builder.extract_value(arguments[4], bit)
                    tile = _turn_lanes(builder, kind, tile, bit, slope)
            tile = _turn_all(builder, kind, tile, slopes)
            for pointer, x in zip(pointers, tile, strict=True):
                builder.store(x, pointer).align = item_bytes(kind)
            return context.get_dummy_value()

        return signature, generate

    return turn  # type: ignore[no-any-return]


def rotation_by_lines(gathers: bool) -> Callable[..., Any]:
    """An intrinsic ``turn(tiles, start, distances, slopes, plane, line, steps)``: the same, without lanes, from a plane
    into another, in which lines change places. As many bits are turned as there are slopes.

    The one with tiles, the target if it ``gathers`` and the source if not, has the tile at ``start``. The other has its
    vectors at ``line``, for each bit of a vector's number exclusively-or-ed with its item of ``steps``.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def turn(
        typing: Any, tiles: Any, start: Any, distances: Any, slopes: Any, plane: Any, line: Any, steps: Any
    ) -> Any:
        signature = types.void(tiles, start, distances, slopes, plane, line, steps)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
            start, distances, slopes, line, steps = (arguments[k] for k in (1, 2, 3, 5, 6))
            kind, bits = kind_of(signature.args[0]), range(len(signature.args[3]))
            data = [data_of(context, builder, signature.args[k], arguments[k]) for k in (0, 4)]
            in_tile = [start]
            for bit in bits:
                distance = builder.extract_value(distances, bit)
                in_tile += [builder.add(place, distance) for place in in_tile]
            lines = _cosets(builder, line, [builder.extract_value(steps, bit) for bit in bits])
            places = [in_tile, [line_place(builder, kind, each) for each in lines]]
            source, target = (1, 0) if gathers else (0, 1)
            tile = [load_at(builder, kind, data[source], place) for place in places[source]]
            for place, x in zip(places[target], _turn_all(builder, kind, tile, slopes), strict=True):
                store_at(builder, x, data[target], place)
            return context.get_dummy_value()

        return signature, generate

    return turn  # type: ignore[no-any-return]


def rotation_in_memory(loads: bool, by_lines: bool) -> Callable[..., Any]:
    """An intrinsic ``turn(plane, start, distances, slopes, line, steps, memory, place, masks, spread)``: the same from
    a plane of the block to memory, past the caches, or if it ``loads`` the other way round.

    In the block the tile is at ``start``, or ``by_lines`` where ``rotation_by_lines`` has it; in memory its vectors are
    at ``place``, exclusively-or-ed with an item of ``masks`` for each bit. What comes from there is multiplied by an
    item of ``spread`` (see ``rows.CODE_BIT``).
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def turn(
        typing: Any, plane: Any, start: Any, distances: Any, slopes: Any, line: Any, steps: Any, memory: Any,
        place: Any, masks: Any, spread: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(plane, start, distances, slopes, line, steps, memory, place, masks, spread)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
            kind, bits = kind_of(signature.args[0]), range(len(signature.args[3]))
            data, far, spread = (data_of(context, builder, signature.args[k], arguments[k]) for k in (0, 6, 9))
            memory = _Memory(builder, kind, [far], spread)
            distances, steps, masks = ([builder.extract_value(arguments[k], bit) for bit in bits] for k in (2, 5, 8))
            if by_lines:
                near = [line_place(builder, kind, each) for each in _cosets(builder, arguments[4], steps)]
            else:
                near = [arguments[1]]
                for distance in distances:
                    near += [builder.add(place, distance) for place in near]
            places = _cosets(builder, arguments[7], masks)
            if loads:
                tile = [memory.load(place)[0] for place in places]
            else:
                tile = [load_at(builder, kind, data, place) for place in near]
            tile = _turn_all(builder, kind, tile, arguments[3])
            for x, here, there in zip(tile, near, places, strict=True):
                if loads:
                    store_at(builder, x, data, here)
                else:
                    memory.store(there, [x])
            return context.get_dummy_value()

        return signature, generate

    return turn  # type: ignore[no-any-return]


def _turn_all(builder: ir.IRBuilder, kind: ir.VectorType, tile: list[Any], slopes: Any) -> list[Any]:
    """The tile, turned on every bit of the vectors' numbers."""
    for bit in range(len(tile).bit_length() - 1):
        tile = _turn_pairs(builder, kind, tile, bit, builder.extract_value(slopes, bit))
    return tile


class _Memory:
    """The planes that a block comes from and goes to, and the factors of what is spread."""

    def __init__(self, builder: ir.IRBuilder, kind: ir.VectorType, planes: Sequence[Any], spread: Any) -> None:
        self._builder, self._kind, self._planes, self._spread = builder, kind, planes, spread

    def load(self, place: Any) -> list[Any]:
        """What is there in each plane, or is spread to there; see ``rows.CODE_BIT`` for the place."""
        builder = self._builder
        code = builder.lshr(place, ir.Constant(INDEX, CODE_BIT))
        place = builder.and_(place, ir.Constant(INDEX, (1 << CODE_BIT) - 1))
        factor = splat(builder, self._kind, builder.load(builder.gep(self._spread, [code])))
        return [builder.fmul(factor, load_at(builder, self._kind, plane, place)) for plane in self._planes]

    def store(self, place: Any, parts: Sequence[Any]) -> None:
        """Put them there, past the caches."""
        for x, plane in zip(parts, self._planes, strict=True):
            stream_at(self._builder, x, plane, place)


def _memory_of(
    context: Any, builder: ir.IRBuilder, kind: ir.VectorType, items: Any, values: Any
) -> tuple[_Memory, Any, Any, Any]:
    """Of a tuple with both planes, where a row begins in them, where in the tables its vectors are, what its bits are
    there, and factors: the first two and the last in one, and the others."""
    parts = cgutils.unpack_tuple(builder, values)
    *planes, spread = (data_of(context, builder, items[k], parts[k]) for k in (0, 1, 5))
    return _Memory(builder, kind, planes, spread), *parts[2:5]


class _Row:
    """Where vectors of a row of phases are, and what they are multiplied by; in the order of the arguments of
    ``multiply_row``. With ``memory`` "from" or "to" they come from there or go there, else they stay in the block."""

    def __init__(
        self, context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any], memory: str
    ) -> None:
        self._builder, self._memory = builder, memory
        self.kind = kind_of(signature.args[0])
        self._planes = [data_of(context, builder, signature.args[k], arguments[k]) for k in (0, 1)]
        self._offsets, self._factors = (data_of(context, builder, signature.args[k], arguments[k]) for k in (3, 6))
        self._base, self._at, self._row, self._half, c, s = (arguments[k] for k in (2, 4, 7, 8, 9, 10))
        self._factor = _Factor(builder, splat(builder, self.kind, c), splat(builder, self.kind, s))
        self._far, self._far_base, self._far_at, self._common = _memory_of(
            context, builder, self.kind, signature.args[11], arguments[11]
        )

    def _offset(self, at: Any, number: Any) -> Any:
        return self._builder.load(self._builder.gep(self._offsets, [self._builder.add(at, number)]))

    def place(self, number: Any) -> Any:
        """Where vector ``number`` is in the block."""
        return self._builder.add(self._base, self._offset(self._at, number))

    def _far_place(self, number: Any) -> Any:
        return self._builder.xor(self._far_base, self._offset(self._far_at, number))

    def load(self, number: Any, distance: Any = None) -> list[Any]:
        """Real and imaginary parts; of the vector ``distance`` before it, if that is given."""
        builder = self._builder
        if self._memory != "from":
            place = self.place(number)
            place = builder.sub(place, distance) if distance is not None else place
            return [load_at(builder, self.kind, plane, place) for plane in self._planes]
        return self._far.load(self._far_place(number))

    def store(self, number: Any, parts: Sequence[Any], distance: Any = None) -> None:
        """Put them there."""
        builder = self._builder
        if self._memory != "to":
            place = self.place(number)
            place = builder.sub(place, distance) if distance is not None else place
            for x, plane in zip(parts, self._planes, strict=True):
                store_at(builder, x, plane, place)
            return
        place = self._far_place(number)
        self._far.store(builder.xor(place, self._common) if distance is not None else place, parts)

    def multiplied(self, number: Any, parts: Sequence[Any]) -> tuple[Any, Any]:
        """They times the factor of vector ``number`` and the one of all the row."""
        entry = self._builder.add(self._row, self._builder.mul(number, ir.Constant(INDEX, self.kind.count)))
        places = (entry, self._builder.add(entry, self._half))
        factors = [load_at(self._builder, self.kind, self._factors, place) for place in places]
        return _Factor(self._builder, *self._factor.times(*factors)).times(*parts)


def multiply_row(memory: str) -> Callable[..., Any]:
    """An intrinsic ``multiply(re, im, base, offsets, at, width, factors, row, half, c, s, far)``.

    It multiplies the vectors at ``base + offsets[at…]`` by ``(factors[row…] + i factors[row + half…]) (c + i s)``.
    Three real products make a complex one (Gauss), for more additions, which have units of their own.

    Where ``memory`` is "from" or "to", they come from or go to ``far[2] ^ offsets[far[3]…]`` of the planes ``far[:2]``,
    past the caches. What comes is multiplied by an item of ``far[5]`` (see ``rows.CODE_BIT``).
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def multiply(
        typing: Any, re: Any, im: Any, base: Any, offsets: Any, at: Any, width: Any, factors: Any, row: Any, half: Any,
        c: Any, s: Any, far: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
            vectors = _Row(context, builder, signature, arguments, memory)
            with cgutils.for_range(builder, arguments[5]) as loop:
                vectors.store(loop.index, vectors.multiplied(loop.index, vectors.load(loop.index)))
            return context.get_dummy_value()

        return types.void(re, im, base, offsets, at, width, factors, row, half, c, s, far), generate

    return multiply  # type: ignore[no-any-return]


def multiply_and_turn_row(memory: str) -> Callable[..., Any]:
    """The same with two more arguments ``distance, slope``: then these vectors and those ``distance`` before them are
    turned by ``slope``. In memory the latter are at the same places ``^ far[4]``."""

    @intrinsic  # type: ignore[untyped-decorator]
    def multiply(
        typing: Any, re: Any, im: Any, base: Any, offsets: Any, at: Any, width: Any, factors: Any, row: Any, half: Any,
        c: Any, s: Any, far: Any, distance: Any, slope: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
            vectors, (distance, slope) = _Row(context, builder, signature, arguments, memory), arguments[12:]
            with cgutils.for_range(builder, arguments[5]) as loop:
                high = vectors.multiplied(loop.index, vectors.load(loop.index))
                low = vectors.load(loop.index, distance)
                pairs = [
                    _turn_pairs(builder, vectors.kind, list(pair), 0, slope) for pair in zip(low, high, strict=True)
                ]
                vectors.store(loop.index, [pair[0] for pair in pairs], distance)
                vectors.store(loop.index, [pair[1] for pair in pairs])
            return context.get_dummy_value()

        return types.void(re, im, base, offsets, at, width, factors, row, half, c, s, far, distance, slope), generate

    return multiply  # type: ignore[no-any-return]


def multiply_and_turn_tiles(memory: str) -> Callable[..., Any]:
    """As ``multiply_row`` with two more arguments ``before, after``: each ``2**TURNED_WITH_PHASES`` vectors in a row
    are turned on the bits of their numbers, before and after the multiplication. Both are tuples of slopes of the first
    bits."""

    @intrinsic  # type: ignore[untyped-decorator]
    def multiply(
        typing: Any, re: Any, im: Any, base: Any, offsets: Any, at: Any, width: Any, factors: Any, row: Any, half: Any,
        c: Any, s: Any, far: Any, before: Any, after: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
            vectors, bits = _Row(context, builder, signature, arguments, memory), ir.Constant(INDEX, TURNED_WITH_PHASES)

            def turned(tile: list[Any], argument: int) -> list[Any]:
                for bit in range(len(signature.args[argument])):
                    slope = builder.extract_value(arguments[argument], bit)
                    tile = _turn_pairs(builder, vectors.kind, tile, bit, slope)
                return tile

            with cgutils.for_range(builder, builder.lshr(arguments[5], bits)) as loop:
                first = builder.shl(loop.index, bits)
                numbers = [builder.add(first, ir.Constant(INDEX, k)) for k in range(1 << TURNED_WITH_PHASES)]
                tile = [turned(list(plane), 12) for plane in zip(*map(vectors.load, numbers), strict=True)]
                multiplied = [vectors.multiplied(*each) for each in zip(numbers, zip(*tile, strict=True), strict=True)]
                tile = [turned(list(plane), 13) for plane in zip(*multiplied, strict=True)]
                for number, parts in zip(numbers, zip(*tile, strict=True), strict=True):
                    vectors.store(number, parts)
            return context.get_dummy_value()

        return types.void(re, im, base, offsets, at, width, factors, row, half, c, s, far, before, after), generate

    return multiply  # type: ignore[no-any-return]


def butterflies(count: int, from_memory: bool) -> Callable[..., Any]:
    """An intrinsic ``turn(re, im, base, distances, offsets, at, width, numbers, starts, half, own, far)`` for a row.

    For each of ``width`` vectors at ``base + offsets[at…]`` it takes the tile of ``count`` bits, ``distances`` apart.
    Bit after bit, numbers are multiplied where it is 1, then it is turned by a slope of -1. From ``starts`` on
    ``numbers`` hold a factor for each bit before it (where that is 1, too), and factors of the row's vectors, ``half``
    real parts before as many imaginary ones; ``own`` is a factor for each bit of all the row. Factors are cos and sin.

    With ``from_memory`` the vectors come from there, see ``multiply_row``; ``far[4]`` are the bits' masks.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def turn(
        typing: Any, re: Any, im: Any, base: Any, distances: Any, offsets: Any, at: Any, width: Any, numbers: Any,
        starts: Any, half: Any, own: Any, far: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(re, im, base, distances, offsets, at, width, numbers, starts, half, own, far)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
            base, distances, at, width, starts, half, own = (arguments[k] for k in (2, 3, 5, 6, 8, 9, 10))
            kind, bits = kind_of(signature.args[0]), range(count)
            planes = [data_of(context, builder, signature.args[k], arguments[k]) for k in (0, 1)]
            offsets, numbers = (data_of(context, builder, signature.args[k], arguments[k]) for k in (4, 7))

            def number(bit: int, k: int) -> Any:
                place = builder.add(builder.extract_value(starts, bit), ir.Constant(INDEX, k))
                return builder.load(builder.gep(numbers, [place]))

            def factor(c: Any, s: Any) -> _Factor:
                return _Factor(builder, splat(builder, kind, c), splat(builder, kind, s))

            owns = [factor(*(builder.extract_value(own, 2 * bit + k) for k in range(2))) for bit in bits]
            shared = [[factor(*(number(bit, 2 * other + k) for k in range(2))) for other in range(bit)] for bit in bits]
            memory, far_base, far_at, masks = _memory_of(context, builder, kind, signature.args[11], arguments[11])
            with cgutils.for_range(builder, width) as loop:
                places = [builder.add(base, builder.load(builder.gep(offsets, [builder.add(at, loop.index)])))]
                for bit in bits:
                    places += [builder.add(place, builder.extract_value(distances, bit)) for place in places]
                if from_memory:
                    far = builder.load(builder.gep(offsets, [builder.add(far_at, loop.index)]))
                    far = builder.xor(far_base, far)
                    found = _cosets(builder, far, [builder.extract_value(masks, bit) for bit in bits])
                    tile = [list(plane) for plane in zip(*map(memory.load, found), strict=True)]
                else:
                    tile = [[load_at(builder, kind, plane, place) for place in places] for plane in planes]
                entry = builder.mul(loop.index, ir.Constant(INDEX, kind.count))
                for bit in bits:
                    row = builder.add(
                        builder.add(builder.extract_value(starts, bit), ir.Constant(INDEX, 2 * bit)), entry
                    )
                    parts = [load_at(builder, kind, numbers, place) for place in (row, builder.add(row, half))]
                    factors = [owns[bit].times(*parts)]
                    for other in shared[bit]:
                        factors += [other.times(*each) for each in factors]
                    for place in range(1 << count):
                        if place >> bit & 1:
                            turned, vector = factors[place & (1 << bit) - 1], (tile[0][place], tile[1][place])
                            tile[0][place], tile[1][place] = _product(builder, turned, vector)
                    tile = [_sums_and_differences(builder, plane, bit) for plane in tile]
                for plane, vectors in zip(planes, tile, strict=True):
                    for place, x in zip(places, vectors, strict=True):
                        store_at(builder, x, plane, place)
            return context.get_dummy_value()

        return signature, generate

    return turn  # type: ignore[no-any-return]


class _Factor:
    """A complex factor ``u + i v``, with sum and difference of its parts: a product takes three multiplications."""

    def __init__(self, builder: ir.IRBuilder, u: Any, v: Any) -> None:
        self._builder, self._u = builder, u
        self._minus_sum, self._difference = builder.fneg(builder.fadd(u, v)), builder.fsub(v, u)

    def times(self, x: Any, y: Any) -> tuple[Any, Any]:
        """The parts of ``(u + i v) (x + i y)``: ``u (x + y) - (u + v) y`` and ``u (x + y) + (v - u) x``."""
        shared = self._builder.fmul(self._u, self._builder.fadd(x, y))
        real = fma(self._builder, self._minus_sum, y, shared)
        return real, fma(self._builder, self._difference, x, shared)


def _product(builder: ir.IRBuilder, factor: Sequence[Any], parts: Sequence[Any]) -> tuple[Any, Any]:
    """The parts of a complex product by four real products: where the units that add have enough to do."""
    (u, v), (x, y) = factor, parts
    real = fma(builder, builder.fneg(v), y, builder.fmul(u, x))
    return real, fma(builder, v, x, builder.fmul(u, y))


@intrinsic  # type: ignore[untyped-decorator]
def multiply_tables(typing: Any, room: Any, to: Any, start: Any, factors: Any, at: Any, size: Any) -> Any:
    """``room[to…] = room[start…] * factors[at…]``, complex; each as ``size`` real parts, then imaginary parts."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        to, start, at, size = (arguments[k] for k in (1, 2, 4, 5))
        kind = kind_of(signature.args[0])
        room, factors = (data_of(context, builder, signature.args[k], arguments[k]) for k in (0, 3))
        with cgutils.for_range(builder, builder.udiv(size, ir.Constant(INDEX, kind.count))) as loop:
            real = builder.mul(loop.index, ir.Constant(INDEX, kind.count))
            imag = builder.add(real, size)
            x, y = (load_at(builder, kind, room, builder.add(start, k)) for k in (real, imag))
            c, s = (load_at(builder, kind, factors, builder.add(at, k)) for k in (real, imag))
            u, v = _product(builder, (c, s), (x, y))
            store_at(builder, u, room, builder.add(to, real))
            store_at(builder, v, room, builder.add(to, imag))
        return context.get_dummy_value()

    return types.void(room, to, start, factors, at, size), generate


def permutation(rank: int) -> Callable[..., Any]:
    """An intrinsic ``move(source, target, tables, near, count, to, start, steps, patterns)`` for AVX-512.

    Moves whole vectors, ``2**rank`` of them at a time: target line ``to ^ tables[near + k]`` and its partners come from
    the line of ``start ^ tables[near + count + k]`` and its partners, for k below ``count``. ``to`` counts lines,
    ``start`` numbers: its lane part is exclusively-or-ed to the lanes that are picked. ``steps`` are the places in
    ``tables`` of the partners (rank of the targets, then rank of the sources, in lines); ``patterns`` of what each of
    the vectors picks, lane by lane: the lane, and above it the number of the source among the partners.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def move(
        typing: Any, source: Any, target: Any, tables: Any, near: Any, count: Any, to: Any, start: Any, steps: Any,
        patterns: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(source, target, tables, near, count, to, start, steps, patterns)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
            near, count, to, start, steps, patterns = arguments[3:]
            kind = kind_of(signature.args[0])
            source, target, tables = (data_of(context, builder, signature.args[k], arguments[k]) for k in range(3))
            picks = [_picks(builder, kind, tables, patterns, number) for number in range(1 << rank)]
            step = [
                builder.load(builder.gep(tables, [builder.add(steps, ir.Constant(INDEX, k))])) for k in range(2 * rank)
            ]
            lanes = kind.count.bit_length() - 1
            with cgutils.for_range(builder, count) as loop:
                entry = builder.add(near, loop.index)
                line_to = builder.xor(to, builder.load(builder.gep(tables, [entry])))
                number = builder.xor(start, builder.load(builder.gep(tables, [builder.add(entry, count)])))
                line_from = builder.lshr(number, ir.Constant(INDEX, lanes))
                mask = splat(
                    builder,
                    picks[0].type,
                    builder.trunc(builder.and_(number, ir.Constant(INDEX, kind.count - 1)), picks[0].type.element),
                )
                partners = [
                    load_at(builder, kind, source, line_place(builder, kind, line))
                    for line in _cosets(builder, line_from, step[rank:])
                ]
                for line, pick in zip(_cosets(builder, line_to, step[:rank]), picks, strict=True):
                    x = _gathered(builder, kind, partners, builder.xor(pick, mask))
                    store_at(builder, x, target, line_place(builder, kind, line))
            return context.get_dummy_value()

        return signature, generate

    return move  # type: ignore[no-any-return]


def _cosets(builder: ir.IRBuilder, line: Any, steps: Sequence[Any]) -> list[Any]:
    """A line and its partners, numbered by the steps taken."""
    lines = [line]
    for step in steps:
        lines += [builder.xor(other, step) for other in lines]
    return lines


def _picks(builder: ir.IRBuilder, kind: ir.VectorType, tables: Any, patterns: Any, number: int) -> Any:
    """Row ``number`` of the patterns as a vector of indices."""
    wide = ir.VectorType(INDEX, kind.count)
    place = builder.add(patterns, ir.Constant(INDEX, number * kind.count))
    row = load_at(builder, wide, tables, place)
    return builder.trunc(row, ir.VectorType(_MASK, kind.count)) if kind.count == 16 else row


def _gathered(builder: ir.IRBuilder, kind: ir.VectorType, partners: Sequence[Any], pick: Any) -> Any:
    """Lane by lane the number that ``pick`` names among the partners' lanes: two by two, then one half or the other."""
    found = [
        picked_of_two(builder, kind, partners[k], partners[min(k + 1, len(partners) - 1)], pick)
        for k in range(0, len(partners), 2)
    ]
    bit = 2 * kind.count
    while len(found) > 1:
        named = builder.and_(pick, ir.Constant(pick.type, [bit] * kind.count))
        is_second = builder.icmp_signed("!=", named, ir.Constant(pick.type, [0] * kind.count))
        found = [builder.select(is_second, found[k + 1], found[k]) for k in range(0, len(found), 2)]
        bit *= 2
    return found[0]


def picked_of_two(builder: ir.IRBuilder, kind: ir.VectorType, first: Any, second: Any, pick: Any) -> Any:
    """VPERMI2PS or VPERMI2PD."""
    name = "llvm.x86.avx512.vpermi2var." + ("ps.512" if kind.count == 16 else "pd.512")
    return builder.call(function(builder, name, kind, [kind, pick.type, kind]), [first, pick, second])


def load_tile(
    context: Any, builder: ir.IRBuilder, array: Any, plane: Any, start: Any, distances: Any, pair_bits: int
) -> tuple[ir.VectorType, list[Any], list[Any]]:
    """The kind of vector, the vectors of a tile, and where they came from."""
    kind, data = kind_of(array), data_of(context, builder, array, plane)
    steps = [builder.extract_value(distances, bit) for bit in range(pair_bits)]
    tile, pointers = [], []
    for number in range(1 << pair_bits):
        place = start
        for bit in range(pair_bits):
            if number >> bit & 1:
                place = builder.add(place, steps[bit])
        pointers.append(builder.bitcast(builder.gep(data, [place]), kind.as_pointer()))
        tile.append(builder.load(pointers[-1]))
        tile[-1].align = item_bytes(kind)
    return kind, tile, pointers
