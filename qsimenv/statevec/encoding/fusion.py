"""Fusion: what acts on the bits of a dense matrix right before or after it is multiplied into it.

A dense matrix takes its pass over the block whatever its numbers are, so turns and phases of its bits, and other
matrices on them, cost nothing there. Nothing else is fused: two matrices on three bits would take as many products as
one, and whatever is not dense has a cheaper place in the normal form. ``encode`` asks for it where a sweep has a dense
matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qsimenv import gates
from qsimenv.statevec.encoding.later import UnmadeMatrix, made_of_matrices
from qsimenv.statevec.encoding.pieces import Dense, Piece
from qsimenv.statevec.planning.plan import Op

Item = tuple[Op, Piece]
Matrix = gates.Matrix | UnmadeMatrix


@dataclass(eq=False)
class _Group:
    """Ops in a row on the same few bits (as a mask), which nothing else has touched since; ``is_dense``: one of them is
    a dense matrix on all of these bits."""

    bits: int
    items: list[Item] = field(default_factory=list)
    is_dense: bool = False


def has_dense(items: Sequence[Item]) -> bool:
    """Whether there is a matrix that others may be multiplied into."""
    return any(_is_dense(op, piece) for op, piece in items)


def fused(items: Sequence[Item], matrix_of: Callable[[Op], Matrix]) -> Iterator[Item]:
    """The same ops, some of them as one; in another order where they have no bit in common.

    ``matrix_of`` gives the matrix of an op on its bits. Cost: some microseconds an op.
    """
    last: dict[int, _Group] = {}
    """The group of the last op on a bit."""
    for op, piece in items:
        bits = _bits_of(op)
        if not bits:  # a phase of the whole state
            yield op, piece
            continue
        touched = {id(group): group for bit in _each(bits) if (group := last.get(bit))}
        is_dense = _is_dense(op, piece)
        group = next(iter(touched.values())) if len(touched) == 1 else None
        if group and not bits & ~group.bits and (bits == group.bits or group.is_dense or not bits & (bits - 1)):
            group.items.append((op, piece))
            group.is_dense |= is_dense and bits == group.bits
            continue
        group = _Group(bits, is_dense=is_dense)
        for other in touched.values():
            if other.bits & ~bits or not (is_dense or other.bits.bit_count() == 1):
                yield from _emitted(other, matrix_of)
                for bit in _each(other.bits):
                    del last[bit]
            else:
                group.items += other.items
        group.items.append((op, piece))
        if bits.bit_count() > 2 and not is_dense:
            yield from _emitted(group, matrix_of)
            for bit in _each(bits):
                last.pop(bit, None)
        else:
            last.update(dict.fromkeys(_each(bits), group))
    for group in dict.fromkeys(last.values()):
        yield from _emitted(group, matrix_of)


def _is_dense(op: Op, piece: Piece) -> bool:
    return isinstance(piece, Dense) and op.kind == "matrix" and len(op.bits) > 1 and not op.control_mask


def _emitted(group: _Group, matrix_of: Callable[[Op], Matrix]) -> Iterator[Item]:
    """The ops of a group; or one that does what all of them do."""
    if not group.is_dense or len(group.items) == 1:
        yield from group.items
        return
    # Not on top: a controller reads plans' costs and needs no compiler.
    from qsimenv.statevec.encoding.tables_numba import product_of

    bits = tuple(_each(group.bits))
    matrices = [matrix_of(op) for op, _ in group.items]
    places = [_places(bits, op.bits, op.control_mask, op.control_value) for op, _ in group.items]
    all_places, sizes = np.concatenate(places, axis=None), np.array([size for each in places for size in each.shape])

    def product(matrices: Sequence[gates.Matrix]) -> gates.Matrix:
        entries = np.concatenate(matrices, axis=None, dtype=np.complex128)
        found: gates.Matrix = product_of(entries, all_places, sizes, 1 << len(bits))
        return found

    yield (
        Op(group.items[0][0].gate, "matrix", bits, 0, 0, 0),
        Dense(made_of_matrices(matrices, 1 << len(bits), product)),
    )


@lru_cache(maxsize=1 << 12)
def _places(bits: tuple[int, ...], targets: tuple[int, ...], mask: int, value: int) -> npt.NDArray[np.int64]:
    """The numbers over ``bits`` where the controls have their value, by the value of the targets (the first axis)."""
    numbers = np.arange(1 << len(bits))
    index, row = np.zeros_like(numbers), np.zeros_like(numbers)
    for k, bit in enumerate(bits):
        index |= (numbers >> k & 1) << bit
    for k, bit in enumerate(targets):
        row |= (index >> bit & 1) << k
    held = numbers[index & mask == value]
    places: npt.NDArray[np.int64] = held[np.argsort(row[held], kind="stable")]
    return places.reshape(1 << len(targets), -1)


def _bits_of(op: Op) -> int:
    mask = op.control_mask
    for bit in op.bits:
        mask |= 1 << bit
    return mask


def _each(mask: int) -> Iterator[int]:
    """The bits of a mask, the lowest first."""
    while mask:
        yield (mask & -mask).bit_length() - 1
        mask &= mask - 1
