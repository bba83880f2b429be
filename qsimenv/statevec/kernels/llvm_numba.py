"""Pieces of LLVM code that all explicit vector code is made of: load, store, spread, shuffle, multiply and add.

The intrinsics of ``lanes_numba``, ``intrinsics_numba`` and ``batches.vectors_numba`` are put together from them when a
kernel is compiled. A *kind* is an LLVM vector type, a *plane* an array argument of a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

INDEX = ir.IntType(64)
_MASK = ir.IntType(32)
_SKEW_LINE_BITS = 6
"""In a scratch plane one line is left out after every ``2**6``: see ``passes_numba.place``."""


def splat(builder: ir.IRBuilder, kind: ir.VectorType, scalar: Any) -> Any:
    """A vector of one number."""
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_MASK, 0))
    zeros = ir.Constant(ir.VectorType(_MASK, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, undefined, zeros)


def fma(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    """``a b + c`` of vectors, rounded once."""
    kind = a.type
    suffix = "f32" if isinstance(kind.element, ir.FloatType) else "f64"
    return builder.call(function(builder, f"llvm.fma.v{kind.count}{suffix}", kind, [kind] * 3), [a, b, c])


def function(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> Any:
    """An LLVM intrinsic, declared where it is not yet."""
    found = builder.module.globals.get(name)
    return found or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def shuffled(builder: ir.IRBuilder, x: Any, lane_mask: int) -> Any:
    """The vector with lane l taken from lane ``l ^ lane_mask``."""
    if not lane_mask:
        return x
    width = x.type.count
    order = ir.Constant(ir.VectorType(_MASK, width), [lane ^ lane_mask for lane in range(width)])
    return builder.shuffle_vector(x, ir.Constant(x.type, ir.Undefined), order)


def item_bytes(kind: ir.VectorType) -> int:
    return 4 if isinstance(kind.element, ir.FloatType) else 8


def number_type(array: Any) -> ir.Type:
    """The LLVM type of a plane's numbers."""
    return ir.FloatType() if array.dtype.bitwidth == 32 else ir.DoubleType()


def kind_of(array: Any) -> ir.VectorType:
    """The vector of 64 bytes of a plane's numbers."""
    return ir.VectorType(number_type(array), 512 // array.dtype.bitwidth)


def data_of(context: Any, builder: ir.IRBuilder, array: Any, plane: Any) -> Any:
    """A pointer to the first number of a plane, whose type is ``array``."""
    return context.make_array(array)(context, builder, plane).data


def load_at(builder: ir.IRBuilder, kind: ir.VectorType, data: Any, place: Any) -> Any:
    """The vector from number ``place`` of ``data`` on, wherever that lies in a line."""
    x = builder.load(builder.bitcast(builder.gep(data, [place]), kind.as_pointer()))
    x.align = item_bytes(kind)
    return x


def store_at(builder: ir.IRBuilder, x: Any, data: Any, place: Any) -> None:
    """Put a vector there."""
    pointer = builder.bitcast(builder.gep(data, [place]), x.type.as_pointer())
    builder.store(x, pointer).align = item_bytes(x.type)


def stream_at(builder: ir.IRBuilder, x: Any, data: Any, place: Any) -> None:
    """Put a vector there past the caches; it is the start of a line."""
    store = builder.store(x, builder.bitcast(builder.gep(data, [place]), x.type.as_pointer()))
    store.align = 64
    store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_MASK, 1)]))


def prefetch(builder: ir.IRBuilder, pointer: Any, to_write: bool) -> None:
    """Ask for the line there, as near as can be."""
    name, byte = "llvm.prefetch.p0", ir.IntType(8).as_pointer()
    ask = function(builder, name, ir.VoidType(), [byte, _MASK, _MASK, _MASK])
    nearest, data = 3, 1
    builder.call(
        ask, [builder.bitcast(pointer, byte), *(ir.Constant(_MASK, k) for k in (int(to_write), nearest, data))]
    )


def line_place(builder: ir.IRBuilder, kind: ir.VectorType, line: Any) -> Any:
    """Where a line lies in a scratch plane; see ``passes_numba.place``."""
    skipped = builder.lshr(line, ir.Constant(INDEX, _SKEW_LINE_BITS))
    return builder.shl(builder.add(line, skipped), ir.Constant(INDEX, kind.count.bit_length() - 1))


@intrinsic  # type: ignore[untyped-decorator]
def trailing_zeros(typing: Any, number: Any) -> Any:
    """The position of the lowest bit that is set in an int64; 64 where there is none."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.int64), generate
