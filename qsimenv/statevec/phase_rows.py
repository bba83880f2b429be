"""Quadratic phases of a block as tables: one row of factors for some bits, one factor for each value of the others.

``exp(i q(x))`` is to be multiplied in, with two complex products a number where that is possible. *Row bits* are the
lane bits and some more: a row's factors are a table. *Inner* bits have no product with a row bit, so that rows that
differ in them share a table and differ by one factor. *Outer* bits have: the table of such a row is that of another
row, with one outer bit less, times that bit's table. Where all terms have one bit in common, rows without it are left
alone. ``encode`` calls this; ``passes_numba.apply_phases`` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    linear: Angles, product: Angles, outside: Sequence[tuple[int, int | None, float]], lane_bits: int
) -> PhaseRows:
    """Lay out a form over the block: ``linear`` of shape (bits,), ``product`` symmetric with a zero diagonal.

    ``outside`` are terms of some bits outside the block (a mask) and one or no position of it.
    """
    bits = len(linear)
    common = _common(linear, product, outside, lane_bits)
    constant = 0.0
    for position in common:
        constant, linear, product = float(linear[position]), product[position].copy(), np.zeros_like(product)
        linear[position] = 0.0
    partners = [sum(1 << int(other) for other in np.flatnonzero(row)) for row in product]
    rows, high = _choose_rows(partners, [k for k in range(bits) if k not in common], lane_bits)
    row_mask = sum(1 << k for k in rows)
    inner = tuple(k for k in high if not partners[k] & row_mask)
    outer = tuple(k for k in high if partners[k] & row_mask)
    above = [*inner, *outer]
    slots: dict[int | None, int] = {k: 1 + number for number, k in enumerate((*rows, *above))}
    slots |= dict.fromkeys((None, *common), 0)
    return PhaseRows(
        rows, inner, outer, common,
        _factors(linear[list(rows)], product[np.ix_(rows, rows)], 0.0),
        np.array([_factors(product[k, list(rows)], None, 0.0) for k in outer]).reshape(len(outer), 2, 1 << len(rows)),
        _factors(linear[above], product[np.ix_(above, above)], constant),
        tuple((mask, slots[position], angle) for mask, position, angle in outside),
    )  # fmt: skip


def _common(
    linear: Angles, product: Angles, outside: Sequence[tuple[int, int | None, float]], lane_bits: int
) -> tuple[int, ...]:
    """The position above the lanes that every term has, if there is one."""
    for position in range(lane_bits, len(linear)):
        others = np.arange(len(linear)) != position
        if (
            all(at == position for _, at, _ in outside)
            and not linear[others].any()
            and not product[np.ix_(others, others)].any()
        ):
            return (position,)
    return ()


def _choose_rows(
    partners: Sequence[int], positions: Sequence[int], lane_bits: int
) -> tuple[tuple[int, ...], list[int]]:
    """The lanes, and one by one the position that leaves the fewest outer bits; the rest."""
    chosen, rest = list(positions[:lane_bits]), list(positions[lane_bits:])
    while rest and len(chosen) < ROW_BITS:
        mask = sum(1 << k for k in chosen)

        def outer_bits(position: int, mask: int = mask) -> int:
            return sum(bool(partners[k] & (mask | 1 << position)) for k in rest if k != position)

        best = min(rest, key=outer_bits)
        chosen.append(best)
        rest.remove(best)
    return tuple(chosen), rest


def _factors(linear: Angles, product: Angles | None, constant: float) -> Angles:
    """cos and sin, shape (2, 2**bits), of a form over all values of its bits, built up bit by bit."""
    angles = np.array([constant])
    for k, angle in enumerate(linear):
        more = angles + angle
        if product is not None and product[k, :k].any():
            more += _sums(product[k, :k])
        angles = np.concatenate([angles, more])
    return np.stack([np.cos(angles), np.sin(angles)])


def _sums(angles: Angles) -> Angles:
    sums = np.zeros(1)
    for angle in angles:
        sums = np.concatenate([sums, sums + angle])
    return sums
