"""Random numbers that depend on what they are for, not on who draws them.

Counter-based (Philox): the number for shot s at event e of run b under a seed is the same on every rank, on any
number of ranks and threads, and in whatever order branches are visited. That is what makes counts reproducible.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qsimenv.statevec.measuring import random_numba


def uniforms(seed: int, run: int, event: int, shots: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each of the given shots: the stream of NumPy's Philox, read at those places."""
    numbers = np.empty(len(shots))
    random_numba.fill(np.uint64(seed), np.uint64(run), np.uint64(event), shots, numbers)
    return numbers
