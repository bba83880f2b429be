"""Sums of Pauli strings on the GPU: the names and arguments of ``pauli_numba``, on planes of ``arrays.gpu()``.

Every distinct mask of flipped bits costs one reading of the planes (two where terms of both kinds have it).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qsimenv import arrays
from qsimenv.statevec.kernels.source_cupy import integers, launch_over, source

Integers = npt.NDArray[np.int64]

_FILE = Path(__file__).with_name("pauli.cu")
_TILE_BITS = 11
_BLOCKS_PER_PROCESSOR = 8


def pauli_sums(
    re: Any, im: Any, other_re: Any, other_im: Any, offset: int, rank_index: int, masks: Integers, z_masks: Integers,
    paired: bool,
) -> npt.NDArray[np.float64]:  # fmt: skip
    """Sums of products by term, float64 of shape (terms,); see ``pauli_numba.pauli_sums``."""
    gpu = arrays.gpu()
    sums = np.zeros(len(z_masks))
    bits = min(_TILE_BITS, len(other_re).bit_length() - 1)
    tiles = len(other_re) >> bits
    blocks = min(tiles, _BLOCKS_PER_PROCESSOR * gpu.processors)
    for mask, first, turned, last in masks.tolist():
        totals = gpu.empty(blocks * (last - first), np.float64)
        gpu.launch(
            source(_FILE, re.dtype, gpu.threads), "pauli_sums", blocks,
            (re, im, other_re, other_im, np.int64(offset), np.int64(rank_index), np.int64(mask), np.int32(bits),
             np.int64(tiles), integers(z_masks[first:last]), np.int32(turned - first), np.int32(last - first), totals),
            8 << bits,
        )  # fmt: skip
        sums[first:last] = gpu.download(totals).reshape(blocks, -1).sum(axis=0)
    return sums if paired else 2 * sums


def add_pauli_sum(
    re: Any, im: Any, index: int, out_re: Any, out_im: Any, masks: Integers, z_masks: Integers,
    coefficients: npt.NDArray[np.float64],
) -> None:  # fmt: skip
    """Add a sum of strings applied to some amplitudes to other planes; see ``pauli_applied_numba``."""
    gpu = arrays.gpu()
    for mask, first, turned, last in masks.tolist():
        launch_over(
            _FILE, "add_pauli_sum", len(re), re.dtype, re, im, np.int64(index), out_re, out_im,
            np.int64(mask), integers(z_masks[first:last]), gpu.upload(coefficients[first:last].astype(np.float64)),
            np.int32(turned - first), np.int32(last - first),
        )  # fmt: skip
