"""The flat arrays that planner and kernels share: their columns, kinds of rows, and what a machine's kernels want.

A row of ``ops`` is one pass over a block in terms of positions *inside the block*; ``coefficients`` and ``tables`` hold
the numbers. All depend on the precision and on nothing that a rank knows, so every rank reads the same. ``writer``
writes them; the kernels import the names from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qsimenv import gates
from qsimenv.statevec.encoding.readings import Slots
from qsimenv.task import Precision

(
    KIND,
    NUM_TARGETS,
    NUM_FIXED,
    CONTROL_VALUE,
    OUTER_MASK,
    OUTER_VALUE,
    OFFSET,
    TABLE,
    NUM_ENTRIES,
    HAS_LANES,
    RANK,
    NEAR_BITS,
    TILE_BITS,
    INNER_BITS,
    OUTER_BITS,
    BASE,
    TURNED_BEFORE,
    NUM_TURNS,
    FROM_MEMORY,
    TO_MEMORY,
    PARITY,
) = range(21)
GATHERS = NEAR_BITS
"""Of rotations."""
BY_LANE = RANK
"""Of dense matrices."""
CODE_BIT = 48
"""In the tables of rows that load: an index in memory, and from this bit on the number of a factor."""
TARGETS = 21
FIXED = TARGETS + gates.MAX_UNITARY_TARGETS
"""First column of the sorted block positions that a pass holds fixed: its targets and its controls inside the block."""
ROW = 64

(
    GENERAL,
    REAL,
    FLIP,
    PHASE,
    ROTATE,
    QUADRATIC,
    PERMUTE,
    TWO_TARGETS,
    READ_FLIPS,
    READ_STRINGS,
    SPREAD,
    BUTTERFLIES,
    ARRANGE,
    DENSE,
) = range(14)
"""Kinds: dense complex matrix, real matrix on one target, X on one target, multiplication by one number; the passes of
the normal form: rotations, quadratic phases, affine permutation; a dense matrix on two targets without controls;
readings of two states, of which the top bit of the block chooses one; rotations of bits that are 0 so far; for two or
three bits in turn the phases of one with others, then its rotation (a Fourier transform's); a permutation of whole
lines before all others; and a dense matrix on up to five targets under controls, some of either in the lanes."""

# Where the numbers of the normal form's rows lie, in this order.
#   QUADRATIC  tables from TABLE: (mask, slot) of each of NUM_ENTRIES terms with bits outside the block; places
#              relative to BASE of the 2**TILE_BITS vectors of a row, of the 2**INNER_BITS rows that share a table, of
#              the 2**OUTER_BITS groups of such rows. coefficients from OFFSET: the angles of the terms; cos and sin of
#              a row (2**(lane bits + TILE_BITS) each), the same for each outer bit, and of each row's own factor.
#              Where NUM_TARGETS is 1, the slope of the target, which all terms share: it is turned after the phases.
#              Where it is TURNED_WITH_PHASES, the slopes of these targets, the first bits of a row above its lanes,
#              after the phases (all 0: none) and before them, where only the first TURNED_BEFORE have one. NUM_TURNS is
#              the number of slopes that are not 0.
#              Where PARITY is not 0, there is a term with the parity of some bits. Tables from there on: where in the
#              coefficients its factors of a row are, if the sum of its other bits is even, and if it is odd; and these
#              bits as masks of the number of an inner row, of that of a group, and of the index outside the block.
#              Where FROM_MEMORY (TO_MEMORY) is not 0 the row can load (store) the block itself. Tables from there on:
#              how many (mask, column) of bits outside the block there are; where number 0 is in memory; the bits that
#              all terms share, three masks of which some may be 0; those pairs; then as above for vectors, rows and
#              groups, to be exclusively or-ed. From CODE_BIT on they have the number of the run of SPREAD's factor.
#   PERMUTE    tables from TABLE: what a target of 0 comes from; (mask, column) of each of NUM_ENTRIES outer terms; the
#              length of the part for lines with this number; the part for lines: RANK target steps, RANK source steps,
#              2**RANK patterns, 2**NEAR_BITS near targets, as many near sources, the far targets and sources
#              (see ``affine.LineMap``); sources by the lowest 8 bits of a target, and by its other bits.
#              Where HAS_LANES is 0, which is only so in the last row, it is left to the sweep's stores: after the outer
#              terms come the lines from which the lines of RANK single bits come.
#   ROTATE     coefficients from OFFSET: four slopes of the targets, four of the lanes. Where RANK is not 0 the lines
#              change places on the way: as they are stored, or where GATHERS is 1 as they are loaded. tables from
#              TABLE: where number 0 goes (comes from); (mask, column) of each of NUM_ENTRIES outer terms; where the
#              lines of RANK single bits go (come from). FROM_MEMORY and TO_MEMORY as in QUADRATIC, nothing shared, and
#              then the lines of single bits.
#   BUTTERFLIES  tables from TABLE: (mask, number of the target) of each of NUM_ENTRIES terms with bits outside the
#              block; places of the 2**TILE_BITS vectors of a row, and of the 2**INNER_BITS rows. coefficients from
#              OFFSET: the angles of the terms; for each target cos and sin of what it has with each target before it,
#              cos and sin of a row (2**(lane bits + TILE_BITS) each), and of each row's own factor.
#              FROM_MEMORY as in QUADRATIC, the targets as what is shared.
#   DENSE      targets are sorted, HAS_LANES of them are lane bits; controls that are lane bits are not among those that
#              are fixed, but in the numbers. coefficients from OFFSET: for each set of the targets above the lanes as
#              output, each such set as input, and each set of those in the lanes that the input is shuffled by: real
#              part, imaginary part and their sum of what it is multiplied by; a number each, or BY_LANE one a lane.
#   READ_FLIPS tables from TABLE: 0 for X, 1 for Y; FLIPS positions above the lines, sorted; the slots (-1: none) of the
#              LINE_BITS positions of a line, which are read where HAS_LANES, and of the others.
#   READ_STRINGS  tables from TABLE: the positions that the strings flip, as a mask, and whether the imaginary parts are
#              wanted (1) or the real ones; of each of NUM_ENTRIES strings the signs inside and outside the block, as
#              masks, and the slot.
#   SPREAD     comes first and is left to the sweep's loads. tables from TABLE: its bits as a mask of the index, and as
#              a mask of the numbers of runs. coefficients from OFFSET: for each run what the run without these bits is
#              multiplied by.
#   ARRANGE    comes first, or next to SPREAD, and is left to the loads. Has tables as ROTATE where RANK is not 0.

TILES_TOGETHER = 4
"""Tiles that share what a dense matrix is read for: so many leave registers for their sums and what is summed up. Fewer
are multiplied one by one, for which the numbers have to be there for each lane."""
TURNED_WITH_PHASES = 3
"""Tiles of so many bits of both planes, and what they are multiplied by, fit the registers."""
MOST_RUN_BITS = 9
"""Runs of so many bits have no gap in scratch order."""

REAL_TYPE: dict[Precision, type[np.floating]] = {"double": np.float64, "single": np.float32}


class Form(NamedTuple):
    """What the kernels of a machine want: the bytes of a vector whose lanes they rearrange in registers (0: none), the
    most bits above the lanes of one row of rotations, whether a block lies with gaps (``passes_numba.place``), whether
    a row of phases can turn bits in the same pass (the one that all terms share, or some of its own), whether lines
    that change places do so on the way (as the sweep loads or stores them, or as rotations do), whether bits that are 0
    so far are turned by the loads, and whether rows can read two states."""

    vector_bytes: int
    pair_bits: int
    has_gaps: bool
    turns_in_phases: bool
    moves_on_the_way: bool
    spreads: bool
    reads: bool

    def lane_bits(self, real_type: type[np.floating]) -> int:
        """The bits of the index inside one vector."""
        return max(self.vector_bytes // np.dtype(real_type).itemsize, 1).bit_length() - 1


VECTORS = Form(64, 4, True, True, True, True, True)
"""For a core with vector registers: tiles of sixteen vectors leave as many registers for what they are turned by."""
THREADS = Form(0, 4, False, False, False, False, False)
"""For threads with registers of their own, which hold sixteen numbers each, and a shared memory without gaps."""


@dataclass(frozen=True)
class EncodedSweep:
    """``low_bits``: how many of the lowest bits the block holds without a gap. ``offsets``: where, relative to the
    block's first amplitude, each run of ``2**low_bits`` amplitudes lies. ``outer``: the local bits not in the block.
    ``scale``: what the stored numbers have to be multiplied by after the sweep, besides what they had to before.
    ``mixes``: the local bits, as a mask, that may be set afterwards where they were not before."""

    block_bits: int
    low_bits: int
    offsets: npt.NDArray[np.int64]
    outer: npt.NDArray[np.int64]
    ops: npt.NDArray[np.int64]
    coefficients: np.ndarray
    tables: npt.NDArray[np.int64]
    scale: complex
    mixes: int
    slots: Slots | None = None
    """What is read where two states are swept together."""


def deposit(numbers: npt.NDArray[np.int64], bits: Sequence[int]) -> npt.NDArray[np.int64]:
    """Spread each number over an index: its bit k goes to position ``bits[k]``."""
    index = np.zeros_like(numbers)
    for k, bit in enumerate(bits):
        index |= (numbers >> k & 1) << bit
    return index
