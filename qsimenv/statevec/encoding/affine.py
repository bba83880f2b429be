"""Affine permutations of a block as tables: which line goes where, and how its lanes are rearranged on the way.

A *line* is what one vector register holds; the lowest bits of an index number the *lanes* of a line, the others the
line. A map over GF(2) that takes each target number to its source falls into four parts (lines and lanes of either).
Where the source line does not hang on the target lane every line comes from one line; where it does, with rank r,
``2**r`` lines come from ``2**r`` lines, each lane from one of them. ``writer`` calls this; ``passes_numba`` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.int64]
_NEAR_BITS = 6


@dataclass(frozen=True)
class LineMap:
    """``to`` counts lines, ``source`` numbers (its lane part is exclusively-or-ed to the lanes picked).

    The target line ``far_to[a] ^ near_to[b]`` and its partners (``target_steps`` apart) come from the line of
    ``far_source[a] ^ near_source[b]`` and its partners (``source_steps`` apart); ``patterns[j]`` tells, lane by lane,
    what partner j picks: a lane, and above it the number of the partner among the sources.
    """

    target_steps: tuple[int, ...]
    source_steps: tuple[int, ...]
    patterns: Table
    near_to: Table
    near_source: Table
    far_to: Table
    far_source: Table


def line_map(columns: Sequence[int], lane_bits: int) -> LineMap:
    """The linear map with the given columns (the source of each bit of a target number), by lines and lanes."""
    lanes = (1 << lane_bits) - 1
    sources = [column >> lane_bits for column in columns]
    steps = _Basis()
    for source in sources[:lane_bits]:
        steps.add(source)
    rank = len(steps.members)
    # Target lines that are partners: combinations whose sources differ by steps alone.
    reach, partners, rest = _Basis(steps.members), list[int](), list[int]()
    for line, source in enumerate(sources[lane_bits:]):
        if reach.add(source):
            rest.append(line)
        else:
            used = reach.coordinates(source) >> rank
            partners.append(1 << line | sum(1 << other for k, other in enumerate(rest) if used >> k & 1))
    lane_table = xor_table([column & lanes | steps.coordinates(column >> lane_bits) << lane_bits
                            for column in columns[:lane_bits]])  # fmt: skip
    images = [_image(columns, partner << lane_bits) for partner in partners]
    own = xor_table([image & lanes | steps.coordinates(image >> lane_bits) << lane_bits for image in images])
    near, far = rest[:_NEAR_BITS], rest[_NEAR_BITS:]
    return LineMap(
        tuple(partners),
        tuple(steps.members),
        own[:, None] ^ lane_table,
        *(xor_table([1 << line for line in near]), xor_table([columns[lane_bits + line] for line in near])),
        *(xor_table([1 << line for line in far]), xor_table([columns[lane_bits + line] for line in far])),
    )


def inverse_columns(masks: Sequence[int]) -> list[int]:
    """The columns of the inverse over GF(2) of the matrix whose row k is ``masks[k]``."""
    from qsimenv.statevec.encoding import tables_numba as tables  # not on top: see ``phase_rows``

    columns: list[int] = tables.inverse_columns(np.array(masks, dtype=np.int64)).tolist()
    return columns


def transposed(masks: Sequence[int]) -> list[int]:
    """The columns of the square matrix over GF(2) whose row k is ``masks[k]``."""
    from qsimenv.statevec.encoding import tables_numba as tables  # as above

    columns: list[int] = tables.transposed(np.array(masks, dtype=np.int64)).tolist()
    return columns


def compressed(masks: Sequence[int], bits: Sequence[int]) -> list[int]:
    """Each mask with bit ``bits[k]`` put to position k; it has no others."""
    from qsimenv.statevec.encoding import tables_numba as tables  # as above

    found: list[int] = tables.compressed(np.array(masks, dtype=np.int64), np.array(bits, dtype=np.int64)).tolist()
    return found


def xor_table(columns: Sequence[int]) -> Table:
    """For each number the exclusive or of the columns that its bits pick."""
    from qsimenv.statevec.encoding import tables_numba as tables  # as above

    table: Table = tables.xor_table(np.array(columns, dtype=np.int64))
    return table


def xor_tables(columns: Sequence[int], first: int, second: int) -> Table:
    """The same of so many columns, of so many after them, and of the rest, one after the other."""
    from qsimenv.statevec.encoding import tables_numba as tables  # as above

    found: Table = tables.xor_tables(np.array(columns, dtype=np.int64), first, second)
    return found


def _image(columns: Sequence[int], vector: int) -> int:
    image = 0
    for k, column in enumerate(columns):
        image ^= column * (vector >> k & 1)
    return image


class _Basis:
    """Independent vectors over GF(2), kept as they came, and reduced ones beside them to find coordinates."""

    def __init__(self, vectors: Sequence[int] = ()) -> None:
        self.members: list[int] = []
        self._reduced: dict[int, tuple[int, int]] = {}
        for vector in vectors:
            self.add(vector)

    def add(self, vector: int) -> bool:
        """Take in a vector if it is independent of those before."""
        rest, used = self._reduce(vector)
        if rest:
            self._reduced[rest.bit_length()] = (rest, used | 1 << len(self.members))
            self.members.append(vector)
        return bool(rest)

    def coordinates(self, vector: int) -> int:
        """Which members add up to a vector of their span, as a mask."""
        return self._reduce(vector)[1]

    def _reduce(self, vector: int) -> tuple[int, int]:
        used = 0
        while vector and vector.bit_length() in self._reduced:
            other, members = self._reduced[vector.bit_length()]
            vector, used = vector ^ other, used ^ members
        return vector, used
