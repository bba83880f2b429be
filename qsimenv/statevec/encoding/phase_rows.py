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
    common = _common(bits, linear, product, outside, lane_bits)
    constant = 0.0
    for position in common:
        constant = linear.get(position, 0.0)
        linear, product = {a + b - position: angle for (a, b), angle in product.items()}, {}
    partners = [0] * bits
    for a, b in product:
        partners[a] |= 1 << b
        partners[b] |= 1 << a
    rows, high = _choose_rows(partners, [k for k in range(bits) if k not in common], lane_bits)
    row_mask = sum(1 << k for k in rows)
    inner = tuple(k for k in high if not partners[k] & row_mask)
    outer = tuple(k for k in high if partners[k] & row_mask)
    order: dict[int | None, int] = {k: 1 + number for number, k in enumerate((*rows, *inner, *outer))}
    crossing = {k: {other: angle for (a, b), angle in product.items() if k in (a, b) and (other := a + b - k) in rows}
                for k in outer}  # fmt: skip
    return PhaseRows(
        rows, inner, outer, common,
        _factors(_angles(rows, linear, product)),
        _factors(np.array([_angles(rows, crossing[k], {}) for k in outer]).reshape(len(outer), 1 << len(rows))),
        _factors(_angles((*inner, *outer), linear, product) + constant),
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


def _choose_rows(
    partners: Sequence[int], positions: Sequence[int], lane_bits: int
) -> tuple[tuple[int, ...], list[int]]:
    """The lanes, and one by one the position that leaves the fewest outer bits; the rest."""
    chosen, rest = list(positions[:lane_bits]), list(positions[lane_bits:])
    mask = sum(1 << k for k in chosen)
    while rest and len(chosen) < ROW_BITS:
        outer = [k for k in rest if partners[k] & mask]
        best = min(rest, key=lambda position: _outer_bits(position, outer, rest, partners))
        chosen.append(best)
        rest.remove(best)
        mask |= 1 << best
    return tuple(chosen), rest


def _outer_bits(position: int, outer: Sequence[int], rest: Sequence[int], partners: Sequence[int]) -> int:
    """How many of the rest would be outer bits if ``position`` became a row bit, beside those that are already."""
    mine = partners[position]
    return sum(1 for k in rest if mine >> k & 1 and k not in outer) - (position in outer) if mine else 0


def _angles(positions: Sequence[int], linear: Mapping[int, float], product: Mapping[tuple[int, int], float]) -> Angles:
    """The form over all values of some of its positions, the first the lowest, without terms that have others."""
    bit = {position: k for k, position in enumerate(positions)}
    angles = np.zeros(1 << len(positions))
    for position, angle in linear.items():
        if position in bit:
            angles.reshape(-1, 2, 1 << bit[position])[:, 1] += angle
    for (a, b), angle in product.items():
        if a in bit and b in bit:
            low, high = sorted((bit[a], bit[b]))
            angles.reshape(-1, 2, 1 << (high - low - 1), 2, 1 << low)[:, 1, :, 1] += angle
    return angles


def _factors(angles: Angles) -> Angles:
    """cos and sin, a new axis before the last."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=-2)
