"""Explicit vector code for ``batch_numba``: one instruction of a small circuit on many sets of parameters at once.

A row of a plane is one 64-byte vector: the same amplitude of 8 sets (double) or 16 (single), so nothing is ever
shuffled. These intrinsics write the LLVM code themselves, because Numba's vectoriser cannot know that rows do not
overlap. Rows are given as offsets into a plane, in numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from qsimenv.statevec.kernels.llvm_numba import INDEX, data_of, fma, kind_of, load_at, splat, store_at

LANES = {8: 8, 4: 16}
"""By item size: the sets of parameters that stand side by side in one vector."""

Entry = tuple[int | None, int | None]
"""The coefficients that are real and imaginary part of an entry; None for zero, ``~k`` for minus coefficient k."""


class _Plane:
    """An array argument, read and written a vector at a time."""

    def __init__(self, context: Any, builder: ir.IRBuilder, array: Any, value: Any) -> None:
        self.kind = kind_of(array)
        self._builder, self._data = builder, data_of(context, builder, array, value)

    def load(self, place: Any) -> Any:
        return load_at(self._builder, self.kind, self._data, place)

    def store(self, vector: Any, place: Any) -> None:
        store_at(self._builder, vector, self._data, place)

    def row(self, number: Any) -> Any:
        """Where vector ``number`` begins."""
        return self._builder.mul(number, ir.Constant(INDEX, self.kind.count))


class _Numbers:
    """An array argument, read one number at a time."""

    def __init__(self, context: Any, builder: ir.IRBuilder, array: Any, value: Any) -> None:
        self._builder, self._data = builder, data_of(context, builder, array, value)

    def load(self, place: Any, ahead: int = 0) -> Any:
        place = self._builder.add(place, ir.Constant(INDEX, ahead))
        return self._builder.load(self._builder.gep(self._data, [place]))

    def index(self, place: Any, ahead: int = 0) -> Any:
        """The number as a 64-bit one."""
        return self._builder.sext(self.load(place, ahead), INDEX)


def matrix(entries: Sequence[Sequence[Entry]], num_coefficients: int) -> Callable[..., Any]:
    """An intrinsic ``apply(re, im, coefficients, first, second, rows, at, count)``: a matrix on blocks of rows.

    Coefficient 0 is vector ``first`` of ``coefficients``; those from 1 on begin at vector ``second``. It works in place
    on ``count`` blocks: block k is the ``len(entries)`` rows that ``rows[at + k * len(entries):]`` names.
    """
    size = len(entries)

    @intrinsic  # type: ignore[untyped-decorator]
    def apply(
        typing: Any, re: Any, im: Any, coefficients: Any, first: Any, second: Any, rows: Any, at: Any, count: Any
    ) -> Any:
        signature = types.void(re, im, coefficients, first, second, rows, at, count)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
            re, im, table = (_Plane(context, builder, signature.args[k], arguments[k]) for k in range(3))
            rows = _Numbers(context, builder, signature.args[5], arguments[5])
            first, second, at, count = arguments[3], arguments[4], arguments[6], arguments[7]
            numbers = [table.load(table.row(first))]
            for k in range(num_coefficients - 1):
                numbers.append(table.load(table.row(builder.add(second, ir.Constant(INDEX, k)))))
            with cgutils.for_range(builder, count) as loop:
                start = builder.add(at, builder.mul(loop.index, ir.Constant(INDEX, size)))
                places = [rows.index(start, k) for k in range(size)]
                before = [(re.load(place), im.load(place)) for place in places]
                after = [_row_times(builder, re.kind, row, numbers, before) for row in entries]
                for place, (x, y) in zip(places, after, strict=True):
                    re.store(x, place)
                    im.store(y, place)
            return context.get_dummy_value()

        return signature, generate

    return apply  # type: ignore[no-any-return]


def _row_times(
    builder: ir.IRBuilder, kind: ir.VectorType, row: Sequence[Entry], numbers: Sequence[Any], column: Sequence[Any]
) -> tuple[Any, Any]:
    """Real and imaginary part of one row of the matrix times the amplitudes."""
    x = y = None
    for (real, imaginary), (p, q) in zip(row, column, strict=True):
        if real is not None:
            c = _signed(builder, numbers, real)
            x, y = _add(builder, kind, c, p, x), _add(builder, kind, c, q, y)
        if imaginary is not None:
            s = _signed(builder, numbers, imaginary)
            x, y = _add(builder, kind, builder.fneg(s), q, x), _add(builder, kind, s, p, y)
    return x, y


def _signed(builder: ir.IRBuilder, numbers: Sequence[Any], which: int) -> Any:
    return numbers[which] if which >= 0 else builder.fneg(numbers[~which])


def _add(builder: ir.IRBuilder, kind: ir.VectorType, a: Any, b: Any, total: Any) -> Any:
    return builder.fmul(a, b) if total is None else fma(builder, a, b, total)


@intrinsic  # type: ignore[untyped-decorator]
def add_diagonal(
    typing: Any, re: Any, im: Any, rows: Any, at: Any, weights: Any, place: Any, count: Any, totals: Any, number: Any
) -> Any:
    """Add sum_k weight_k |amplitude_k|**2 over ``count`` rows to vector ``number`` of ``totals`` (doubles)."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        def product(load: Callable[[int], tuple[Any, Any]], weight: Callable[[int], Any], wide: Any, total: Any) -> Any:
            x, y = load(0)
            square = fma(builder, x, x, builder.fmul(y, y))
            return fma(builder, weight(0), square, total)

        return _accumulate(context, builder, signature, arguments, 1, product)

    return types.void(re, im, rows, at, weights, place, count, totals, number), generate


@intrinsic  # type: ignore[untyped-decorator]
def add_crossed(
    typing: Any, re: Any, im: Any, rows: Any, at: Any, weights: Any, place: Any, count: Any, totals: Any, number: Any
) -> Any:
    """Add sum_k (v_k Re(conj(b_k) a_k) + w_k Im(conj(b_k) a_k)) over ``count`` pairs (a, b) of rows to ``totals``.

    ``weights`` holds v and w of each pair.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        def product(load: Callable[[int], tuple[Any, Any]], weight: Callable[[int], Any], wide: Any, total: Any) -> Any:
            (x, y), (u, v) = load(0), load(1)
            real = fma(builder, x, u, builder.fmul(y, v))
            imaginary = fma(builder, u, y, builder.fneg(builder.fmul(v, x)))
            return fma(builder, weight(1), imaginary, fma(builder, weight(0), real, total))

        return _accumulate(context, builder, signature, arguments, 2, product)

    return types.void(re, im, rows, at, weights, place, count, totals, number), generate


def _accumulate(
    context: Any,
    builder: ir.IRBuilder,
    signature: Any,
    arguments: Sequence[Any],
    size: int,
    product: Callable[..., Any],
) -> Any:
    """The loop of both: blocks of ``size`` rows and as many weights, summed in doubles."""
    re, im = (_Plane(context, builder, signature.args[k], arguments[k]) for k in range(2))
    rows, weights = (_Numbers(context, builder, signature.args[k], arguments[k]) for k in (2, 4))
    totals = _Plane(context, builder, signature.args[7], arguments[7])
    at, place, count, number = arguments[3], arguments[5], arguments[6], arguments[8]
    lanes = re.kind.count
    wide = ir.VectorType(ir.DoubleType(), lanes)
    total = cgutils.alloca_once_value(builder, ir.Constant(wide, [0.0] * lanes))
    with cgutils.for_range(builder, count) as loop:
        step = builder.mul(loop.index, ir.Constant(INDEX, size))
        start, first_weight = builder.add(at, step), builder.add(place, step)

        def load(k: int) -> tuple[Any, Any]:
            where = rows.index(start, k)
            return tuple(_widened(builder, wide, plane.load(where)) for plane in (re, im))

        def weight(k: int) -> Any:
            return splat(builder, wide, weights.load(first_weight, k))

        builder.store(product(load, weight, wide, builder.load(total)), total)
    pointer = builder.gep(totals._data, [builder.mul(number, ir.Constant(INDEX, lanes))])
    pointer = builder.bitcast(pointer, wide.as_pointer())
    before = builder.load(pointer)
    before.align = 8
    builder.store(builder.fadd(before, builder.load(total)), pointer).align = 8
    return context.get_dummy_value()


def _widened(builder: ir.IRBuilder, wide: ir.VectorType, vector: Any) -> Any:
    return vector if vector.type == wide else builder.fpext(vector, wide)


def complex_entries(size: int) -> list[list[Entry]]:
    """A matrix of which nothing is known: its coefficients row by row, real and imaginary part of each entry."""
    numbers = [[2 * (row * size + column) for column in range(size)] for row in range(size)]
    return [[(number, number + 1) for number in row] for row in numbers]
