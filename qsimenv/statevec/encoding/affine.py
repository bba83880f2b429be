"""Affine permutations of a block as tables: which line goes where, and how its lanes are rearranged on the way.

A *line* is what one vector register holds; the lowest bits of an index number the *lanes* of a line, the others the
line. A map over GF(2) that takes each target number to its source falls into four parts (lines and lanes of either).
Where the source line does not hang on the target lane every line comes from one line; where it does, with rank r,
``2**r`` lines come from ``2**r`` lines, each lane from one of them. ``writer`` calls this; ``passes_numba`` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.int64]
_NEAR_BITS = 6


class LineMap(NamedTuple):
    """``to`` counts lines, ``source`` numbers (its lane part is exclusively-or-ed to the lanes picked).

    The target line ``far_to[a] ^ near_to[b]`` and its partners (``target_steps`` apart) come from the line of
    ``far_source[a] ^ near_source[b]`` and its partners (``source_steps`` apart); ``patterns[j]`` tells, lane by lane,
    what partner j picks: a lane, and above it the number of the partner among the sources.
    """

    target_steps: Table
    source_steps: Table
    patterns: Table
    near_to: Table
    near_source: Table
    far_to: Table
    far_source: Table


def line_map(columns: Sequence[int], lane_bits: int) -> LineMap:
    """The linear map with the given columns (the source of each bit of a target number), by lines and lanes."""
    from qsimenv.statevec.encoding import tables_numba as tables  # not on top: see ``phase_rows``

    return LineMap(*tables.line_map(np.array(columns, dtype=np.int64), lane_bits, _NEAR_BITS))


def inverse_columns(masks: Sequence[int]) -> list[int]:
    """The columns of the inverse over GF(2) of the matrix whose row k is ``masks[k]``."""
    from qsimenv.statevec.encoding import tables_numba as tables  # as above

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
