"""Sampling: draw outcomes of some qubits from a distributed state without gathering it.

Outcomes are drawn qubit by qubit from the highest measured one down, several qubits at a time: the weights of the
values of the first chunk (one sweep, one sum over the ranks), then, for each value that was hit, the weights of the
next chunk, and so on. The order is that of the qubits, never that of the bits, and the random numbers are counted,
so the outcomes do not depend on the layout or on the number of ranks. Memory: at most ``MAX_BINS`` weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qsimenv.statevec import kernels_numba as kernels
from qsimenv.statevec.encode import deposit
from qsimenv.statevec.layout import Layout
from qsimenv.statevec.random_numbers import uniforms
from qsimenv.statevec.state import State

FIRST_CHUNK = 12
MAX_BINS = 1 << 20
_EVENT_OF_FIRST_CHUNK = 1 << 40
"""Events from here on belong to the final sampling; those of measurements in the middle count from zero."""


@dataclass(frozen=True)
class Draw:
    """Which shots of which run are to be drawn: ``chosen`` numbers them among all ``shots``."""

    seed: int
    run: int
    shots: int
    chosen: npt.NDArray[np.int64]

    def uniforms(self, event: int) -> npt.NDArray[np.float64]:
        return uniforms(self.seed, self.run, event, self.shots)[self.chosen]


def sample(state: State, qubits: Sequence[int], draw: Draw) -> npt.NDArray[np.int64]:
    """Outcomes, one a chosen shot; bit k of an outcome belongs to ``qubits[k]`` (distinct). *Collective.*

    Cost: one sweep, then for each chunk the amplitudes behind the values that were hit.
    """
    order = sorted(qubits)
    values = np.zeros(len(draw.chosen), dtype=np.int64)  # over ``order``: bit k belongs to order[k]
    undrawn, chunk, number = len(order), FIRST_CHUNK, 0
    while undrawn and len(values):
        low = max(0, undrawn - chunk)
        prefixes, node_of_shot = np.unique(values >> undrawn, return_inverse=True)
        size = undrawn - low
        drawn = _draw_chunk(
            state,
            order[low:undrawn],
            order[undrawn:],
            prefixes,
            node_of_shot,
            draw.uniforms(_EVENT_OF_FIRST_CHUNK + number),
        )
        values = (((values >> undrawn) << size) | drawn) << low
        undrawn, number = low, number + 1
        chunk = max(1, min(FIRST_CHUNK, (MAX_BINS // max(1, len(draw.chosen))).bit_length() - 1))
    return deposit(values, [list(qubits).index(qubit) for qubit in order])


def _draw_chunk(
    state: State,
    chunk: Sequence[int],
    fixed: Sequence[int],
    prefixes: npt.NDArray[np.int64],
    node_of_shot: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    """Values of the qubits ``chunk`` for every shot, given the values ``prefixes`` of the qubits ``fixed``."""
    drawn = np.empty(len(numbers), dtype=np.int64)
    step = max(1, MAX_BINS >> len(chunk))
    for first in range(0, len(prefixes), step):
        masses = state.team.sum(_masses(state, chunk, fixed, prefixes[first : first + step]))
        here = (node_of_shot >= first) & (node_of_shot < first + step)
        drawn[here] = pick(masses, node_of_shot[here] - first, numbers[here])
    return drawn


def pick(
    masses: npt.NDArray[np.float64], node: npt.NDArray[np.int64], numbers: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """For each shot a bin of its node's row, with probability as its mass. Bins without mass are never picked."""
    sums = np.cumsum(masses, axis=1)
    total = sums[:, -1]
    if len(masses) == 1:
        picked = np.searchsorted(sums[0], numbers * total[0], side="right")
    else:
        picked = _pick_in_rows(sums, node, numbers * total[node])
    last = masses.shape[1] - 1 - np.argmax(masses[:, ::-1] > 0, axis=1)
    capped: npt.NDArray[np.int64] = np.minimum(picked, last[node])
    return capped


def _pick_in_rows(
    sums: npt.NDArray[np.float64], node: npt.NDArray[np.int64], wanted: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """The first bin of row ``node`` whose running sum exceeds ``wanted``: a binary search for all shots at once."""
    low = np.zeros(len(node), dtype=np.int64)
    high = np.full(len(node), sums.shape[1], dtype=np.int64)
    for _ in range(sums.shape[1].bit_length()):
        middle = (low + high) >> 1
        above = sums[node, np.minimum(middle, sums.shape[1] - 1)] > wanted
        open_ = low < high
        high = np.where(open_ & above, middle, high)
        low = np.where(open_ & ~above, middle + 1, low)
    return low


def _masses(
    state: State, chunk: Sequence[int], fixed: Sequence[int], prefixes: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """This rank's part of the weights, shape (prefixes, 2**chunk)."""
    layout = state.layout
    fixed_bits = {layout.bits[qubit] for qubit in fixed}
    free = [bit for bit in range(layout.num_local) if bit not in fixed_bits]
    half = (len(free) + 1) // 2
    index_low, bin_low = _tables(layout, chunk, free[:half])
    index_high, bin_high = _tables(layout, chunk, free[half:])
    rank_bits = range(layout.num_local, len(layout.bits))
    bin_low |= int(_bins(layout, chunk, rank_bits, np.array(state.rank_index)))
    chosen = {layout.bits[qubit] for qubit in chunk}
    run_bits = next((k for k, bit in enumerate(free[:half]) if bit != k or bit in chosen), half)
    tables = (run_bits, half, index_low, index_high, bin_low, bin_high)
    masses: npt.NDArray[np.float64] = kernels.histogram(
        state.re, state.im, _bases(state, fixed, prefixes), 1 << len(free), tables, 1 << len(chunk)
    )
    return masses


def _bases(state: State, fixed: Sequence[int], prefixes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The local index at which each prefix starts; -1 where it lives on another rank."""
    layout = state.layout
    stored = deposit(prefixes, [layout.bits[qubit] for qubit in fixed]) ^ (layout.flips & layout.mask(fixed))
    rank_mask = layout.mask(fixed) >> layout.num_local
    here = stored >> layout.num_local == state.team.rank & rank_mask
    return np.where(here, stored & ((1 << layout.num_local) - 1), -1)


def _tables(
    layout: Layout, chunk: Sequence[int], bits: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each number over ``bits``: the index it stands for, and the part of the bin that these bits decide."""
    index = deposit(np.arange(1 << len(bits)), bits)
    return index, _bins(layout, chunk, bits, index)


def _bins(
    layout: Layout, chunk: Sequence[int], bits: Sequence[int], stored: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The part of the bin (over ``chunk``) that those ``bits`` of a stored index decide."""
    index = stored ^ layout.flips
    result = np.zeros_like(index)
    for k, qubit in enumerate(chunk):
        if layout.bits[qubit] in bits:
            result |= (index >> layout.bits[qubit] & 1) << k
    return result
