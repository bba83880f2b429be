"""The CUDA C++ of the GPU's kernels as text with its macros, and how kernels are launched over all amplitudes.

``*_cupy`` modules call this. A module of the GPU is ``common.cu`` and one file more, for one real type. The text is
also what the tests compile with a C++ compiler and run without a GPU.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from qsimenv import arrays
from qsimenv.arrays_cupy import Source

_COMMON = Path(__file__).with_name("common.cu")
_REAL = {np.dtype(np.float64): "double", np.dtype(np.float32): "float"}


@lru_cache
def source(path: Path, real_type: np.dtype[Any], threads: int, macros: tuple[tuple[str, str], ...] = ()) -> Source:
    """The module of the file at ``path`` for planes of ``real_type``."""
    text = "\n".join(part.read_text(encoding="utf-8") for part in (_COMMON, path))
    return Source(text, (("REAL", _REAL[real_type]), ("THREADS", str(threads)), *macros))


def launch_over(path: Path, kernel: str, count: int, real_type: np.dtype[Any], *arguments: Any) -> None:
    """Launch a kernel with a thread for each of ``count`` numbers; the count is its last argument."""
    gpu = arrays.gpu()
    blocks = -(-count // gpu.threads)
    gpu.launch(source(path, real_type, gpu.threads), kernel, blocks, (*arguments, np.int64(count)))


def integers(numbers: Any) -> Any:
    """Whole numbers as an array of the GPU; never an empty one, which has no address."""
    host = np.asarray(numbers, dtype=np.int64).reshape(-1)
    return arrays.gpu().upload(host if host.size else np.zeros(1, dtype=np.int64))
