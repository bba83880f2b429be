"""Kernels for the GPU: the same names and arguments as ``sweep_numba``, on planes of ``arrays.gpu()``.

The work is in ``sweep.cu``: one launch a sweep, one thread block for each block of the state, both planes of the block
in shared memory while all of its rows are applied.

Bound: a sweep moves 4 numbers an amplitude (32 bytes in double precision), so that 28 qubits take 8.6 GB and, at the
2.0 to 3.3 TB/s that an A100 or H100 copies with, 2.6 to 4.3 ms. Memory is read in runs of 128 bytes or more
(``low_bits``). Beside it a block may read and write its numbers in shared memory about six times (NVIDIA: 128 bytes a
cycle and multiprocessor) before that becomes the bottleneck; a row of rotations costs one such pass for up to four
bits, a row of phases one with its tables, a permutation one. Two blocks fit a multiprocessor, so that one computes
while the other loads: that decides ``block_bits``. In single precision the passes cost half as much against the same
flops. None of this has been measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qsimenv import arrays
from qsimenv.arrays_cupy import Source
from qsimenv.errors import QSimEnvError
from qsimenv.statevec.encoding import rows
from qsimenv.statevec.kernels.source_cupy import integers, launch_over, source

Integers = npt.NDArray[np.int64]

_BLOCKS_AT_ONCE = 2
"""Thread blocks that a multiprocessor has room for."""
_RESERVED_BYTES = 1 << 10
"""Of shared memory, that the system takes of each thread block."""
_MOST_BITS = 14
_LINE_BYTES = 128


_FILE = Path(__file__).with_name("sweep.cu")
_MOST_SLOTS, _PARTS, _LEAST_ROW_BITS = 32, 16, 7
_COLUMNS = (
    "KIND", "NUM_TARGETS", "NUM_FIXED", "CONTROL_VALUE", "OUTER_MASK", "OUTER_VALUE", "OFFSET", "TABLE", "NUM_ENTRIES",
    "TILE_BITS", "INNER_BITS", "OUTER_BITS", "BASE", "PARITY", "TARGETS", "FIXED", "ROW",
)  # fmt: skip
_KINDS = ("FLIP", "PHASE", "ROTATE", "QUADRATIC", "PERMUTE", "TWO_TARGETS")


def block_bits(num_local: int, threads: int, real_type: type[np.floating]) -> int:
    """How many bits a block has: two blocks and their rooms share the memory of a multiprocessor."""
    return min(_most_block_bits(np.dtype(real_type)), num_local)


def low_bits(real_type: type[np.floating]) -> int:
    """The lowest bits that every block holds: one line of memory."""
    return (_LINE_BYTES // np.dtype(real_type).itemsize).bit_length() - 1


def _most_block_bits(real_type: np.dtype[Any]) -> int:
    gpu = arrays.gpu()
    most = min(gpu.shared_bytes, gpu.shared_bytes_per_processor // _BLOCKS_AT_ONCE - _RESERVED_BYTES)
    bits = _MOST_BITS
    while _room_bytes(bits, real_type) + (2 * real_type.itemsize << bits) > most:
        bits -= 1
    return bits


def _room_bytes(most_bits: int, real_type: np.dtype[Any]) -> int:
    """The size of ``Room`` in sweep.cu."""
    return 8 * _MOST_SLOTS * _PARTS + 2 * real_type.itemsize * (_MOST_SLOTS + (1 << most_bits - _LEAST_ROW_BITS))


def module(real_type: np.dtype[Any]) -> Source:
    """The source of the sweeps, with the columns and kinds of ``rows`` and the sizes that this GPU has room for."""
    return _module(real_type, _most_block_bits(real_type), arrays.gpu().threads)


@lru_cache
def _module(real_type: np.dtype[Any], most_bits: int, threads: int) -> Source:
    sizes = {"MOST_BLOCK_BITS": most_bits, "MOST_SLOTS": _MOST_SLOTS, "PARTS": _PARTS}
    sizes |= {"LEAST_ROW_BITS": _LEAST_ROW_BITS, "BLOCKS_AT_ONCE": _BLOCKS_AT_ONCE, "REAL_KIND": rows.REAL}
    sizes |= {name: getattr(rows, name) for name in (*_COLUMNS, *_KINDS)}
    macros = tuple((name, str(value)) for name, value in sizes.items())
    return source(_FILE, real_type, threads, macros)


def sweep(
    re: Any, im: Any, block_bits: int, low_bits: int, offsets: Integers, outer: Integers, ops: Integers,
    coefficients: np.ndarray, tables: Integers, rank_index: int, before: int = 0, after: int = 0,
) -> None:  # fmt: skip
    """All ops of one encoded sweep on ``re`` and ``im``, in place; see ``sweep_numba.sweep``. Does not wait.

    Raises QSimEnvError for a block that is larger than the room that the kernel was compiled for.
    """
    gpu, most = arrays.gpu(), _most_block_bits(re.dtype)
    if block_bits > most:
        raise QSimEnvError(f"sweep: a block of {block_bits} bits found, the GPU has room for {most}")
    whole = [offsets, outer, ops.reshape(-1), tables]
    ends = np.cumsum([len(part) for part in whole])
    numbers = gpu.upload(np.concatenate([*whole, np.zeros(1, dtype=np.int64)]))  # one more: no part without an address
    parts = [numbers[end - len(part) : end + 1] for part, end in zip(whole, ends, strict=True)]
    arguments = (
        re, im, np.int32(block_bits), np.int32(low_bits), np.int32(len(outer)), np.int32(len(ops)), *parts,
        gpu.upload(coefficients), np.int64(rank_index), np.int64(before), np.int64(after),
    )  # fmt: skip
    shared = _room_bytes(most, re.dtype) + (2 * re.itemsize << block_bits)
    gpu.launch(module(re.dtype), "sweep", 1 << len(outer), arguments, shared)


def num_threads() -> int:
    """A plan for the GPU hangs on no number of threads."""
    return 1


# --- measurement ---


def weights(re: Any, im: Any, bit: int) -> tuple[float, float]:
    """The weight (squared norm) of the amplitudes whose index has 0, and 1, at ``bit``; above the index all have 0."""
    inside = (bit,) if 1 << bit < len(re) else ()
    masses, stored = marginal(re, im, inside)
    ones = stored >> bit & 1 if inside else np.zeros_like(stored)
    return float(masses[ones == 0].sum()), float(masses[ones == 1].sum())


def collapse(re: Any, im: Any, bit: int, value: int, scale: float) -> None:
    """Keep the amplitudes whose index has ``value`` at ``bit``, times ``scale``; zero the others."""
    for plane in (re, im):
        factor = plane.dtype.type(scale)
        launch_over(
            _FILE.with_name("slots.cu"), "collapse", len(plane), plane.dtype,
            plane, np.int32(bit), np.int64(value), factor,
        )  # fmt: skip


_SUMS = _FILE.with_name("sums.cu")
_WIDTH = 32
_PARTS_PER_PROCESSOR = 8


def marginal(re: Any, im: Any, bits: Sequence[int]) -> tuple[npt.NDArray[np.float64], Integers]:
    """Weights by the value at some ``bits`` of the index (and others): float64 numbers, and an index of each. *Local.*

    The index has the bits asked for, and some of the lowest ones; all others are zero.
    """
    gpu = arrays.gpu()
    width = min(_WIDTH, len(re))
    lanes = width.bit_length() - 1
    high = sorted(bit for bit in bits if bit >= lanes)
    rows_asked, per_row = 1 << len(high), len(re) >> len(high)
    parts = 1
    while rows_asked * parts < _PARTS_PER_PROCESSOR * gpu.processors and per_row // parts > max(gpu.threads, width):
        parts *= 2
    masses = gpu.empty(rows_asked * parts * width, np.float64)
    gpu.launch(
        source(_SUMS, re.dtype, gpu.threads), "marginal", rows_asked * parts,
        (re, im, np.int32(len(high)), integers(high), np.int32(width), np.int32(parts), np.int64(per_row // parts),
         masses),
        8 * max(gpu.threads, _WIDTH),
    )  # fmt: skip
    found = gpu.download(masses).reshape(rows_asked, parts, width).sum(axis=1)
    return found, rows.deposit(np.arange(rows_asked), high)[:, np.newaxis] | np.arange(width)


def gather(
    re: Any, im: Any, bases: Integers, chunk: Sequence[int], flips: int, summed: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Weights of nodes by bin, float64 of shape (nodes, 2**len(chunk)), on the host.

    The weight of a bin is that of the amplitudes at ``base | (bin at the bits of chunk ^ flips)``, summed over the
    values at the bits ``summed``.
    """
    gpu = arrays.gpu()
    found = gpu.empty(len(bases) << len(chunk), np.float64)
    launch_over(
        _SUMS, "gather", found.size, re.dtype, re, im, integers(bases), np.int32(len(chunk)), integers(chunk),
        np.int64(flips), np.int32(len(summed)), integers(summed), found,
    )  # fmt: skip
    return gpu.download(found).reshape(len(bases), -1)
