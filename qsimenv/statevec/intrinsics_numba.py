"""A few machine instructions that Numba has no name for, or does not find by itself.

``random_numba``, ``sampling_numba`` and ``pauli_numba`` call them. Planes are read in their own precision; what comes
out of several amplitudes is double.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_WORD = ir.IntType(64)
_WIDE = ir.IntType(128)


@intrinsic  # type: ignore[untyped-decorator]
def multiply_high(typing: Any, a: Any, b: Any) -> Any:
    """The upper 64 bits of the product of two uint64."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        a, b = (builder.zext(argument, _WIDE) for argument in arguments)
        return builder.trunc(builder.lshr(builder.mul(a, b), ir.Constant(_WIDE, 64)), _WORD)

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def parity(typing: Any, word: Any) -> Any:
    """1 where an odd number of the bits of an int64 are set, else 0."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.and_(builder.ctpop(arguments[0]), ir.Constant(_WORD, 1))

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
        reduce = _function(builder, "llvm.vector.reduce.fadd.v8f64", ir.DoubleType(), [ir.DoubleType(), _DOUBLES])
        return builder.call(reduce, [ir.Constant(ir.DoubleType(), -0.0), total], fastmath=("reassoc",))

    return types.float64(re, im, start), generate


@intrinsic  # type: ignore[untyped-decorator]
def weights_of_run(typing: Any, re: Any, im: Any, start: Any, out: Any) -> Any:
    """The squares of ``WEIGHT_RUN`` amplitudes from ``start`` on, to the front of ``out`` (doubles)."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        data = context.make_array(signature.args[3])(context, builder, arguments[3]).data
        for number, squares in enumerate(_squares(context, builder, signature, arguments)):
            place = builder.gep(data, [ir.Constant(_WORD, number * _LANES)])
            builder.store(squares, builder.bitcast(place, _DOUBLES.as_pointer())).align = 8
        return context.get_dummy_value()

    return types.void(re, im, start, out), generate


def _squares(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> list[Any]:
    """The squares of a run of amplitudes, eight a vector."""
    squares = []
    for first in range(0, WEIGHT_RUN, _LANES):
        place = builder.add(arguments[2], ir.Constant(_WORD, first))
        x, y = (
            _load_doubles(context, builder, array, plane, place)
            for plane, array in zip(arguments[:2], signature.args[:2], strict=True)
        )
        product = builder.fmul(y, y, flags=("contract",))
        squares.append(builder.fadd(builder.fmul(x, x, flags=("contract",)), product, flags=("contract",)))
    return squares


def _load_doubles(context: Any, builder: ir.IRBuilder, array: Any, plane: Any, place: Any) -> Any:
    """Eight numbers of a plane, as doubles."""
    data = context.make_array(array)(context, builder, plane).data
    single = array.dtype.bitwidth == 32
    kind = ir.VectorType(ir.FloatType() if single else ir.DoubleType(), _LANES)
    x = builder.load(builder.bitcast(builder.gep(data, [place]), kind.as_pointer()))
    x.align = array.dtype.bitwidth // 8
    return builder.fpext(x, _DOUBLES) if single else x


def _function(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> Any:
    function = builder.module.globals.get(name)
    return function or ir.Function(builder.module, ir.FunctionType(result, arguments), name)
