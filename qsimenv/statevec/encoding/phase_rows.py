"""Quadratic phases of a block as tables: one row of factors for some bits, one factor for each value of the others.

``exp(i q(x))`` is to be multiplied in, with two complex products a number where that is possible. *Row bits* are the
lane bits and some more: a row's factors are a table. *Inner* bits have no product with a row bit, so that rows that
differ in them share a table and differ by one factor. *Outer* bits have: the table of such a row is that of another
row, with one outer bit less, times that bit's table. Where all terms have one bit in common, rows without it are left
alone. ``encode`` calls this; ``passes_numba.apply_phases`` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Angles = npt.NDArray[np.float64]
ROW_BITS = 8


@dataclass(frozen=True)
class PhaseRows:
    """Positions of a block by their part in the work, and factors as cos and sin, shape (…, 2, count).

    ``common``: the positions (none or one) that all terms share. ``outside``: the terms with bits outside the block, as
    (mask of the index, slot, angle); slot 0 is the constant, slot 1 + k the k-th position of ``order``.
    """

    rows: tuple[int, ...]
    inner: tuple[int, ...]
    outer: tuple[int, ...]
    common: tuple[int, ...]
    row_factors: Angles
    outer_factors: Angles
    high_factors: Angles
    outside: tuple[tuple[int, int, float], ...]


def phase_rows(
    bits: int,
    linear: Mapping[int, float],
    product: Mapping[tuple[int, int], float],
    outside: Sequence[tuple[int, int | None, float]],
    lane_bits: int,
) -> PhaseRows:
    """Lay out the form over a block of so many bits with these angles for positions and pairs of positions.

    ``outside`` are terms of some bits outside the block (a mask) and one or no position of it.
    """
    # Not on top: a controller reads plans' costs and needs no compiler.
    from qsimenv.statevec.encoding.tables_numba import choose_rows, crossing_factors, factors

    common = _common(bits, linear, product, outside, lane_bits)
    constant = 0.0
    for position in common:
        constant = linear.get(position, 0.0)
        linear, product = {a + b - position: angle for (a, b), angle in product.items()}, {}
    partners = np.zeros(bits, dtype=np.int64)
    single, pairs = np.zeros(bits), np.zeros((bits, bits))
    for position, angle in linear.items():
        single[position] = angle
    for (a, b), angle in product.items():
        partners[a] |= 1 << b
        partners[b] |= 1 << a
        pairs[a, b] = pairs[b, a] = angle
    positions = np.array([k for k in range(bits) if k not in common])
    rows, inner, outer = choose_rows(partners, positions, lane_bits, ROW_BITS)
    high = np.concatenate((inner, outer))
    order: dict[int | None, int] = {k: 1 + number for number, k in enumerate((*rows.tolist(), *high.tolist()))}
    return PhaseRows(
        tuple(rows.tolist()), tuple(inner.tolist()), tuple(outer.tolist()), common,
        factors(rows, single, pairs, 0.0),
        crossing_factors(rows, outer, pairs),
        factors(high, single, pairs, constant),
        tuple((mask, order.get(position, 0), angle) for mask, position, angle in outside),
    )  # fmt: skip


def _common(
    bits: int,
    linear: Mapping[int, float],
    product: Mapping[tuple[int, int], float],
    outside: Sequence[tuple[int, int | None, float]],
    lane_bits: int,
) -> tuple[int, ...]:
    """The position above the lanes that every term has, if there is one."""
    shared = (1 << bits) - (1 << lane_bits)
    for a, b in product:
        shared &= 1 << a | 1 << b
    for position in (*linear, *(at for _, at, _ in outside)):
        shared &= 0 if position is None else 1 << position
    return (shared.bit_length() - 1,) if shared else ()
