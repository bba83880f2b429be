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
    function,
    kind_of,
    load_at,
    store_at,
)

_MASK = ir.IntType(32)


@intrinsic  # type: ignore[untyped-decorator]
def copy_line(typing: Any, source: Any, start: Any, target: Any, to: Any) -> Any:
    """Copy one 64-byte vector: ``target[to:] = source[start:]``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        kind = kind_of(signature.args[0])
        read, write = (data_of(context, builder, signature.args[k], arguments[k]) for k in (0, 2))
        store_at(builder, load_at(builder, kind, read, arguments[1]), write, arguments[3])
        return context.get_dummy_value()

    return types.void(source, start, target, to), generate


def _copy(back: bool) -> Callable[..., Any]:
    @intrinsic  # type: ignore[untyped-decorator]
    def copy(typing: Any, source: Any, start: Any, target: Any, to: Any, count: Any, ahead: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
            start, to, count, ahead = (arguments[k] for k in (1, 3, 4, 5))
            kind = kind_of(signature.args[0])
            read, write = (data_of(context, builder, signature.args[k], arguments[k]) for k in (0, 2))
            far = write if back else read
            with cgutils.for_range(builder, count) as loop:
                step = builder.mul(loop.index, ir.Constant(INDEX, kind.count))
                _prefetch(builder, builder.gep(far, [builder.add(ahead, step)]), to_write=back)
                x = load_at(builder, kind, read, builder.add(start, step))
                store_at(builder, x, write, builder.add(to, step))
            return context.get_dummy_value()

        return types.void(source, start, target, to, count, ahead), generate

    return copy  # type: ignore[no-any-return]


copy_lines, copy_lines_back = _copy(back=False), _copy(back=True)
"""Copy ``count`` 64-byte vectors, ``target[to:] = source[start:]``; meanwhile fetch what will be needed next.

That is from ``ahead`` on, in ``source``; for ``copy_lines_back`` in ``target``, which will be written.
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
        past_caches = builder.module.add_metadata([ir.Constant(_MASK, 1)])
        with cgutils.for_range(builder, count) as loop:
            step = builder.mul(loop.index, ir.Constant(INDEX, kind.count))
            x = load_at(builder, kind, read, builder.add(start, step))
            pointer = builder.bitcast(builder.gep(write, [builder.add(to, step)]), kind.as_pointer())
            store = builder.store(x, pointer)
            store.align = 64
            store.set_metadata("nontemporal", past_caches)
        return context.get_dummy_value()

    return types.void(source, start, target, to, count), generate


@intrinsic  # type: ignore[untyped-decorator]
def finish_streaming(typing: Any) -> Any:
    """Make what ``stream_lines`` wrote visible to other threads and processes before anything that follows."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _prefetch(builder: ir.IRBuilder, pointer: Any, to_write: bool) -> None:
    name, byte = "llvm.prefetch.p0", ir.IntType(8).as_pointer()
    prefetch = function(builder, name, ir.VoidType(), [byte, _MASK, _MASK, _MASK])
    nearest, data = 3, 1
    builder.call(
        prefetch, [builder.bitcast(pointer, byte), *(ir.Constant(_MASK, k) for k in (int(to_write), nearest, data))]
    )
