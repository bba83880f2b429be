"""Weights of outcomes of a state that lies on a GPU: made there, and searched on the host.

``sampling`` takes ``ReadingOnGPU`` in place of ``weights.Reading``. The kernels are those of the state's device
(``kernels.sweep_cupy``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qsimenv.statevec.encoding.rows import deposit
from qsimenv.statevec.measuring import sampling_numba as kernels
from qsimenv.statevec.measuring.weights import Floats, Integers, Nodes, Reading

BINS_AT_ONCE = 1 << 20
"""Weights that are on their way from the GPU at a time."""


class ReadingOnGPU(Reading):
    """The same where the state lies on a GPU: weights are made there, and searched on the host, a piece at a time."""

    def _tables_for(self, chunk: Sequence[int], rank_part: int) -> tuple[Any, ...]:
        """The bits that number the bins, what they are flipped by, the bits summed over, and the bin of each number."""
        layout = self._state.layout
        local = [k for k, qubit in enumerate(chunk) if layout.is_local(qubit)]
        bits = [layout.bits[chunk[k]] for k in local]
        summed = [bit for bit in self._free if bit not in bits]
        flips = layout.flips & sum(1 << bit for bit in bits)
        return bits, flips, summed, deposit(np.arange(1 << len(local)), local) | rank_part

    def draw(self, nodes: Nodes, numbers: Floats, drawn: np.ndarray) -> None:
        for first in range(0, len(nodes.prefixes), self._step):
            some = nodes.part(slice(first, first + self._step))
            kernels.search(self.rows(some.prefixes), some.spans, some.shots, numbers, drawn)

    def _read(self, bases: Integers, tables: tuple[Any, ...], rows: Floats) -> None:
        bits, flips, summed, bins = tables
        for first in range(0, len(bases), self._step):
            some = slice(first, first + self._step)
            rows[some, bins] = self._state.device.sweeps.gather(
                self._state.re, self._state.im, bases[some], bits, flips, summed
            )

    @property
    def _step(self) -> int:
        """So many nodes at a time."""
        return max(1, BINS_AT_ONCE >> len(self._chunk))
