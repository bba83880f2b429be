"""Random numbers that depend on what they are for, not on who draws them.

Counter-based (Philox): the number for shot s at event e of run b under a seed is the same on every rank, on any
number of ranks, and in whatever order branches are visited. That is what makes counts reproducible.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt


@lru_cache(maxsize=8)
def uniforms(seed: int, run: int, event: int, shots: int) -> npt.NDArray[np.float64]:
    """One number in [0, 1) a shot, shape (shots,), read-only."""
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, event, run]))
    numbers = generator.random(shots)
    numbers.setflags(write=False)
    return numbers
