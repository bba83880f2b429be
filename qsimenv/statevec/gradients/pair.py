"""A pair of states that go through a plan together, and what is read of both on the way.

Where kernels read while a block of both states is in cache (the CPU's), that is done in the sweep; else sweeps end
where something is to be read, and the strings are summed up between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qsimenv.statevec.encoding.rows import EncodedSweep
from qsimenv.statevec.exchange import FixedBits, trade_bits
from qsimenv.statevec.measuring.expectation import sums_of_products
from qsimenv.statevec.state import State


class Pair(State):
    """A state together with another one in the same layout; ``run`` takes both through a plan. *Collective.*

    ``derivatives``, shape (P,), are this rank's part of what was read, by parameter.
    """

    def __init__(self, own: State, other: State, num_parameters: int) -> None:
        super().__init__(own.re, own.im, own.layout, own.team, own.work)
        self.scale, self._other = own.scale, other
        self.derivatives: npt.NDArray[np.float64] = np.zeros(num_parameters)

    def _exchange(self, pairs: Sequence[tuple[int, int]], fixed: FixedBits) -> FixedBits:
        planes = (self._other.re, self._other.im)
        self.work.bytes_exchanged += trade_bits(planes, self.layout.num_local, pairs, self.team)
        return super()._exchange(pairs, fixed)

    def _pass_over(self, sweep: EncodedSweep, rank_index: int, before: int, after: int) -> None:
        found = self._swept(sweep, rank_index)
        if sweep.slots is not None:
            weights = sweep.slots.factors * abs(self.scale) ** 2
            np.add.at(self.derivatives, sweep.slots.parameters, weights * found[sweep.slots.slots])

    def _swept(self, sweep: EncodedSweep, rank_index: int) -> npt.NDArray[np.float64]:
        """Both states after a sweep; what was read, by slot."""
        planes = (self.re, self.im, self._other.re, self._other.im)
        num_slots = 0 if sweep.slots is None else len(sweep.slots)
        arrays = (
            sweep.block_bits, sweep.low_bits, sweep.offsets, sweep.outer, sweep.ops, sweep.coefficients, sweep.tables,
            rank_index,
        )  # fmt: skip
        if self.device.form.reads:
            found: npt.NDArray[np.float64] = self.device.sweeps.sweep_both(*planes, *arrays, num_slots)
            return found
        if len(sweep.ops):
            for re, im in (planes[:2], planes[2:]):
                self.device.sweeps.sweep(re, im, *arrays)
        if sweep.slots is None:
            return np.zeros(0)
        return sums_of_products(self, self._other, sweep.slots.x_masks, sweep.slots.z_masks)

    def _keep(self, bit: int, value: int, factor: float) -> None:
        self.device.sweeps.collapse(self._other.re, self._other.im, bit, value, factor)
        super()._keep(bit, value, factor)
