"""Butterflies: bits that an H mixes one by one, each after its phases with others, in one pass over the block.

So a Fourier transform goes, and what is like it. Where a bit is 1 its phases are linear in all other bits: a factor for
the bits of a row, one for each row, one for each bit of the tile that was turned before it, and one for what lies
outside the block. ``writer`` calls this; ``passes_numba.turn_in_a_row`` reads it, ``rows`` has the layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qsimenv.statevec.encoding.normalform import Pass, Phases, Quadratic, Rotations
from qsimenv.statevec.encoding.phase_rows import ROW_BITS

MOST_BUTTERFLIES = 3
"""Tiles of so many bits of both planes leave registers for what they are multiplied by."""


_SLOPE = -1.0
"""That of an H whose Z has gone with the phases before it."""


class Butterfly(NamedTuple):
    """A bit of the index, and the phases before its rotation, which all have it."""

    bit: int
    form: Quadratic


class ButterflyRows(NamedTuple):
    """How many bits above the lanes a row has, and how many bits number the rows; how many terms have bits outside."""

    tile_bits: int
    inner_bits: int
    positions: list[int]
    """Of those bits, in this order."""
    num_outside: int
    tables: npt.NDArray[np.int64]
    coefficients: npt.NDArray[np.float64]


def find_butterflies(passes: Sequence[Pass], position: Mapping[int, int], lane_bits: int) -> list[Butterfly]:
    """Those that the first passes are, two passes each, as many as one row can do; none has a term with a later bit."""
    found: list[Butterfly] = []
    for phases, rotations in zip(passes[::2], passes[1::2], strict=False):
        if not isinstance(phases, Phases) or not isinstance(rotations, Rotations) or len(rotations.slopes) > 1:
            break
        bit, slope = rotations.slopes[0]
        if slope != _SLOPE or position[bit] < lane_bits or not phases.form.is_about(bit):
            break
        if any(bit == before.bit or bit in before.form.partners(before.bit) for before in found):
            break
        found.append(Butterfly(bit, phases.form))
    return found[: min(MOST_BUTTERFLIES, len(position) - lane_bits)]


def butterfly_rows(
    found: Sequence[Butterfly], block: Sequence[int], lane_bits: int, place: Callable[[int], int]
) -> ButterflyRows:
    """Lay them out in a block of these bits; ``place`` tells where the number with one bit lies, by position."""
    turned = [each.bit for each in found]
    lanes, rest = block[:lane_bits], [bit for bit in block[lane_bits:] if bit not in turned]
    tile, inner = rest[: ROW_BITS - lane_bits], rest[ROW_BITS - lane_bits :]
    outside, angles, coefficients = list[int](), list[float](), list[npt.ArrayLike]()
    for number, (bit, form) in enumerate(found):
        partners = form.partners(bit)
        for other in sorted(partners.keys() - set(block)):
            outside += [1 << other, number]
            angles.append(partners[other])
        shared = [partners.get(other, 0.0) for other in turned[:number]]
        in_row = _sums([partners.get(other, 0.0) for other in (*lanes, *tile)])
        own = form.linear.get(bit, 0.0) + _sums([partners.get(other, 0.0) for other in inner])
        coefficients.append([part(angle) for angle in shared for part in (math.cos, math.sin)])
        coefficients += [np.cos(in_row), np.sin(in_row), np.cos(own), np.sin(own)]
    position = {bit: k for k, bit in enumerate(block)}
    places = [_sums([place(position[bit]) for bit in bits]) for bits in (tile, inner)]
    return ButterflyRows(
        len(tile),
        len(inner),
        [position[bit] for bit in (*tile, *inner)],
        len(angles),
        np.concatenate([outside, *places]).astype(np.int64),
        np.concatenate([angles, *coefficients]),
    )


def _sums(numbers: Sequence[float]) -> npt.NDArray[np.float64]:
    """For each set of the numbers, as a mask, their sum."""
    sums: npt.NDArray[np.float64] = _members(len(numbers)) @ np.array(numbers)
    return sums


@lru_cache
def _members(count: int) -> npt.NDArray[np.float64]:
    """For each set of so many things, as a mask, 1 for each that is in it."""
    return (np.arange(1 << count)[:, None] >> np.arange(count) & 1).astype(np.float64)
