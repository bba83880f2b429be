"""Applying a list of gates to a state, for as long as somebody wants it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qsimenv.statevec.gatewise import gates_numba as kernels
from qsimenv.statevec.gatewise.listing import Floats, Listed

_AMPLITUDES_A_CALL = 1 << 26
"""Amplitudes of gates that are worked on in one compiled call: some hundredths of a second."""


def apply(gates: Listed, re: Floats, im: Floats, go_on: Callable[[int, int], None]) -> None:
    """Apply gates to a state: planes of at least ``LANES`` doubles, index bit q is qubit q. *Local.*

    Long lists call ``go_on(gates done, all gates)`` some times a second. What it raises leaves the state half way.
    """
    count, step = len(gates.codes), max(1, _AMPLITUDES_A_CALL // len(re))
    lists, cursor = gates[:3], np.zeros(3, dtype=np.int64)
    for stop in range(step, count + step, step):
        kernels.run_gates(re, im, lists, (gates.numbers, *gates.templates), cursor, min(stop, count))
        if count > step:
            go_on(min(stop, count), count)
