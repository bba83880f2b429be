"""Lines on their way between a plane and scratch, or another plane: copied ahead of their use, or past the caches.

``sweep_numba`` and ``slots_numba`` call these intrinsics. Numba has no words for a prefetch or for a store that no
cache keeps, so they write the LLVM code themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from qsimenv.statevec.kernels.llvm_numba import (
    INDEX,
    data_of,
    kind_of,
    line_place,
    load_at,
    prefetch,
    splat,
    store_at,
    stream_at,
)


@intrinsic  # type: ignore[untyped-decorator]
def copy_line(typing: Any, source: Any, start: Any, target: Any, to: Any) -> Any:
    """Copy one 64-byte vector: ``target[to:] = source[start:]``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        kind = kind_of(signature.args[0])
        read, write = (data_of(context, builder, signature.args[k], arguments[k]) for k in (0, 2))
        store_at(builder, load_at(builder, kind, read, arguments[1]), write, arguments[3])
        return context.get_dummy_value()

    return types.void(source, start, target, to), generate


@intrinsic  # type: ignore[untyped-decorator]
def take_lines(typing: Any, source: Any, start: Any, block: Any, line: Any, lines: Any, count: Any, ahead: Any) -> Any:
    """Copy ``count`` 64-byte vectors from ``source[start:]`` to the lines ``line ^ lines[k]`` of a block; meanwhile
    fetch ``source[ahead:]``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        start, line, count, ahead = (arguments[k] for k in (1, 3, 5, 6))
        kind = kind_of(signature.args[0])
        read, block, lines = (data_of(context, builder, signature.args[k], arguments[k]) for k in (0, 2, 4))
        with cgutils.for_range(builder, count) as loop:
            step = builder.mul(loop.index, ir.Constant(INDEX, kind.count))
            prefetch(builder, builder.gep(read, [builder.add(ahead, step)]), to_write=False)
            to = builder.xor(line, builder.load(builder.gep(lines, [loop.index])))
            x = load_at(builder, kind, read, builder.add(start, step))
            store_at(builder, x, block, line_place(builder, kind, to))
        return context.get_dummy_value()

    return types.void(source, start, block, line, lines, count, ahead), generate


@intrinsic  # type: ignore[untyped-decorator]
def clear_lines(typing: Any, block: Any, line: Any, lines: Any, count: Any) -> Any:
    """Zeros for ``count`` lines ``line ^ lines[k]`` of a block."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        line, count = arguments[1], arguments[3]
        kind = kind_of(signature.args[0])
        data, lines = (data_of(context, builder, signature.args[k], arguments[k]) for k in (0, 2))
        with cgutils.for_range(builder, count) as loop:
            to = builder.xor(line, builder.load(builder.gep(lines, [loop.index])))
            store_at(builder, ir.Constant(kind, [0.0] * kind.count), data, line_place(builder, kind, to))
        return context.get_dummy_value()

    return types.void(block, line, lines, count), generate


@intrinsic  # type: ignore[untyped-decorator]
def spread_lines(
    typing: Any, source: Any, start: Any, block: Any, line: Any, lines: Any, count: Any, ahead: Any, steps: Any,
    factors: Any,
) -> Any:  # fmt: skip
    """Copy as ``take_lines`` does, ``factors[j]`` times each vector to the line that is exclusively-or-ed with
    ``steps[j]``, for all j."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        start, line, count, ahead = (arguments[k] for k in (1, 3, 5, 6))
        kind = kind_of(signature.args[0])
        read, block, lines, steps, factors = (
            data_of(context, builder, signature.args[k], arguments[k]) for k in (0, 2, 4, 7, 8)
        )
        copies = context.make_array(signature.args[7])(context, builder, arguments[7]).nitems
        with cgutils.for_range(builder, count) as loop:
            step = builder.mul(loop.index, ir.Constant(INDEX, kind.count))
            prefetch(builder, builder.gep(read, [builder.add(ahead, step)]), to_write=False)
            first = builder.xor(line, builder.load(builder.gep(lines, [loop.index])))
            x = load_at(builder, kind, read, builder.add(start, step))
            with cgutils.for_range(builder, copies) as inner:
                to = builder.xor(first, builder.load(builder.gep(steps, [inner.index])))
                factor = splat(builder, kind, builder.load(builder.gep(factors, [inner.index])))
                store_at(builder, builder.fmul(factor, x), block, line_place(builder, kind, to))
        return context.get_dummy_value()

    return types.void(source, start, block, line, lines, count, ahead, steps, factors), generate


def _put(past_caches: bool) -> Callable[..., Any]:
    @intrinsic  # type: ignore[untyped-decorator]
    def put(typing: Any, block: Any, line: Any, lines: Any, target: Any, to: Any, count: Any, ahead: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
            line, to, count, ahead = (arguments[k] for k in (1, 4, 5, 6))
            kind = kind_of(signature.args[0])
            block, lines, write = (data_of(context, builder, signature.args[k], arguments[k]) for k in (0, 2, 3))
            with cgutils.for_range(builder, count) as loop:
                step = builder.mul(loop.index, ir.Constant(INDEX, kind.count))
                source = builder.xor(line, builder.load(builder.gep(lines, [loop.index])))
                x = load_at(builder, kind, block, line_place(builder, kind, source))
                if past_caches:
                    stream_at(builder, x, write, builder.add(to, step))
                else:
                    prefetch(builder, builder.gep(write, [builder.add(ahead, step)]), to_write=True)
                    store_at(builder, x, write, builder.add(to, step))
            return context.get_dummy_value()

        return types.void(block, line, lines, target, to, count, ahead), generate

    return put  # type: ignore[no-any-return]


put_lines, put_lines_past_caches = _put(past_caches=False), _put(past_caches=True)
"""Copy ``count`` lines of a block, ``line ^ lines[k]`` to ``target[to:]`` one after the other.

Meanwhile ``put_lines`` fetches ``target[ahead:]``, which will be written; the other is like ``stream_lines``.
"""


@intrinsic  # type: ignore[untyped-decorator]
def stream_lines(typing: Any, source: Any, start: Any, target: Any, to: Any, count: Any) -> Any:
    """Copy ``count`` 64-byte vectors past the caches: to memory that is read again much later.

    A plain store fetches the line that it will overwrite, which doubles what travels. ``target[to:]`` is 64-byte
    aligned; ``finish_streaming`` comes before anybody else reads it.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        start, to, count = (arguments[k] for k in (1, 3, 4))
        kind = kind_of(signature.args[0])
        read, write = (data_of(context, builder, signature.args[k], arguments[k]) for k in (0, 2))
        with cgutils.for_range(builder, count) as loop:
            step = builder.mul(loop.index, ir.Constant(INDEX, kind.count))
            stream_at(builder, load_at(builder, kind, read, builder.add(start, step)), write, builder.add(to, step))
        return context.get_dummy_value()

    return types.void(source, start, target, to, count), generate


@intrinsic  # type: ignore[untyped-decorator]
def finish_streaming(typing: Any) -> Any:
    """Make what ``stream_lines`` wrote visible to other threads and processes before anything that follows."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate
