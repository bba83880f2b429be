"""Quadratic phases of a block as tables: one row of factors for some bits, one factor for each value of the others.

``exp(i q(x))`` is to be multiplied in, with two complex products a number where that is possible. *Row bits* are the
lane bits and some more: a row's factors are a table. *Inner* bits have no product with a row bit, so that rows that
differ in them share a table and differ by one factor. *Outer* bits have: the table of such a row is that of another
row, with one outer bit less, times that bit's table. Where all terms have one bit in common, rows without it are left
alone. ``writer`` calls this; ``passes_numba.apply_phases`` reads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qsimenv.statevec.encoding.later import Numbers, Unmade, are_known, made_of

ROW_BITS = 8


class PhaseRows(NamedTuple):
    """How many bits above the lanes a row has, how many inner and outer bits there are, the place in the block of the
    bit that all terms share (0: they share none) and its position, how many terms have bits outside the block; the
    row's numbers; the positions of those bits in this order, of which the first ``num_wanted`` were wanted first; and
    of a term with the parity of some bits a table, see ``rows``, and factors of a row.
    """

    tile_bits: int
    inner_bits: int
    outer_bits: int
    base: int
    shared: list[int]
    num_outside: int
    tables: npt.NDArray[np.int64]
    coefficients: Numbers | Unmade
    positions: list[int]
    num_wanted: int
    parity: tuple[list[int], Numbers | Unmade] | None

    @property
    def first(self) -> list[int]:
        """The positions that were wanted first and came first."""
        return self.positions[: self.num_wanted]


def phase_rows(
    linear: Mapping[int, float],
    product: Mapping[tuple[int, int], float],
    factor: float,
    position: Mapping[int, int],
    lane_bits: int,
    has_gaps: bool,
    wanted: Sequence[int] = (),
    needed: int = 0,
    count: int = 0,
    parities: Mapping[int, float] = MappingProxyType({}),
) -> PhaseRows:
    """Lay out the form with these angles for bits and pairs of bits, and a factor that all numbers have; ``position``
    has the bits of the block. ``parities`` has at most one mask of bits with the angle where their sum is odd.

    Unless all terms share a bit, each row has first, after its lanes, ``count`` of the positions ``wanted``, which are
    above the lanes: the first ``needed`` ones, then others.
    """
    # Not on top: a controller reads plans' costs and needs no compiler.
    from qsimenv.statevec.encoding.tables_numba import lay_out_phases

    # Pairs one after the other: NumPy takes a list of numbers in a quarter of the time of a list of pairs.
    terms, angles = list[int](), list[float]()
    outside, outside_angles = list[int](), list[float]()
    for bit, angle in linear.items():
        if bit in position:
            terms += (position[bit], -1)
            angles.append(angle)
        else:
            outside += (1 << bit, -1)
            outside_angles.append(angle)
    for (a, b), angle in product.items():
        if a in position and b in position:
            terms += (position[a], position[b])
            angles.append(angle)
            continue
        mask = (0 if a in position else 1 << a) | (0 if b in position else 1 << b)
        outside += (mask, position.get(a, position.get(b, -1)))
        outside_angles.append(angle)
    table, outside_table = (np.array(some, dtype=np.int64).reshape(-1, 2) for some in (terms, outside))
    first, numbers = np.array(wanted, dtype=np.int64), [*angles, *outside_angles, factor]

    def laid_out(numbers: Numbers) -> tuple[Any, ...]:
        laid: tuple[Any, ...] = lay_out_phases(
            table, numbers[: len(angles)], outside_table, numbers[len(angles) : -1],
            len(position), lane_bits, ROW_BITS, has_gaps, first, needed, count, not parities,
        )  # fmt: skip
        if numbers[-1] != 1:
            laid[6][-(2 << laid[1] + laid[2]) :] *= numbers[-1]  # those of each row's own
        return laid

    is_known = are_known(numbers)
    laid = laid_out(np.array(numbers) if is_known else np.ones(len(numbers)))
    tile_bits, inner_bits, outer_bits, base, common, tables, made, positions = laid
    coefficients = made if is_known else Unmade(tuple(numbers), made.size, lambda numbers: laid_out(numbers)[6])
    num_wanted = min(count, tile_bits) if common < 0 else 0
    shared = [common] if common >= 0 else []
    found = positions.tolist()
    parity = None
    for mask, angle in parities.items():
        inside = {place for bit, place in position.items() if mask >> bit & 1}
        number = sum(1 << k for k, place in enumerate((*range(lane_bits), *found)) if place in inside)
        row, others = number & (1 << lane_bits + tile_bits) - 1, number >> lane_bits + tile_bits
        outside_mask = mask & ~sum(1 << bit for bit in position)
        places = [others & (1 << inner_bits) - 1, others >> inner_bits, outside_mask]
        parity = places, parity_factors(row, 1 << lane_bits + tile_bits, angle)
    return PhaseRows(
        tile_bits, inner_bits, outer_bits, base, shared, len(outside_angles), tables, coefficients, found, num_wanted,
        parity,
    )  # fmt: skip


def parity_factors(mask: int, size: int, angle: float) -> Numbers | Unmade:
    """cos and sin of an angle where the sum of a number's bits in the mask is odd, and of 0 where it is even; and the
    other way round. Of shape (2, 2, size), flat: which of both, cos and sin, number."""
    is_odd = np.zeros(1, dtype=np.int64)
    while is_odd.size < size:
        is_odd = np.concatenate([is_odd, is_odd ^ (mask & is_odd.size > 0)])

    def factors(numbers: Numbers) -> Numbers:
        found = np.array([[1.0, 0.0], [math.cos(numbers[0]), math.sin(numbers[0])]])
        return found[np.stack([is_odd, 1 - is_odd])].swapaxes(1, 2).reshape(-1)

    return made_of([angle], factors)
