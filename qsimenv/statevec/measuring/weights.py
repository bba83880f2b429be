"""Weights of outcomes, read from the planes where they lie: of everything once, then of the nodes that were hit.

A *node* is a set of values of some qubits (``fixed``), and its weights are sums of squared magnitudes by the value of
others (``chunk``). ``sampling`` reads here what it draws from; ``weights_gpu`` reads the same on a GPU. Local: no
message is sent here, and what other ranks hold is theirs to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qsimenv.statevec.encoding.rows import deposit
from qsimenv.statevec.kernels.intrinsics_numba import WEIGHT_RUN
from qsimenv.statevec.measuring import sampling_numba, weights_numba
from qsimenv.statevec.planning.layout import Layout
from qsimenv.statevec.state import State

_LANE_WIDTH = 64
"""Amplitudes a row of the first weights where values change from one amplitude to the next."""
_LONGEST_RUN = 1 << 12
_SHORTEST_RUN_BITS = 3

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Nodes:
    """The values of the qubits drawn so far (``fixed``) that were hit, and who hit them.

    The shots of ``prefixes[n]`` are ``shots[spans[n, 0] : spans[n, 1]]``.
    """

    fixed: tuple[int, ...]
    prefixes: Integers
    spans: Integers
    shots: Integers

    def part(self, chosen: Integers | slice) -> Nodes:
        return Nodes(self.fixed, self.prefixes[chosen], self.spans[chosen], self.shots)


class Reading:
    """How the weights of nodes (values of the qubits ``fixed``) by value of the qubits ``chunk`` are read."""

    def __init__(self, state: State, chunk: Sequence[int], fixed: Sequence[int]) -> None:
        self._state, self._chunk, self._fixed = state, chunk, fixed
        layout = state.layout
        self._line_bits = 6 - (state.re.itemsize.bit_length() - 1)
        fixed_bits = {layout.bits[qubit] for qubit in fixed}
        self._free = [bit for bit in range(layout.num_local) if bit not in fixed_bits]
        self._local = [k for k, qubit in enumerate(chunk) if layout.is_local(qubit)]
        self._away = [k for k, qubit in enumerate(chunk) if not layout.is_local(qubit)]
        self._tables = self._tables_for(chunk, self._rank_part(state.team.rank))
        self._part_tables = self._tables_for([chunk[k] for k in self._local], 0)

    def _tables_for(self, chunk: Sequence[int], rank_part: int) -> tuple[Any, ...]:
        return _tables(self._state.layout, chunk, self._free, rank_part)

    def rows(self, prefixes: Integers) -> Floats:
        """This rank's part of the weights, shape (prefixes, 2**chunk)."""
        rows = np.zeros((len(prefixes), 1 << len(self._chunk)))
        self._gather(prefixes, self._tables, rows)
        return rows

    def parts(self, count: int) -> Floats:
        """Room for weights by value of those qubits of the chunk that are local."""
        return np.zeros((count, 1 << len(self._local)))

    def fill_part(self, prefixes: Integers, part: Floats) -> None:
        self._gather(prefixes, self._part_tables, part[: len(prefixes)])

    def add_part(self, part: Floats, rows: Floats, rank: int) -> None:
        """Add another rank's part to all weights."""
        places = deposit(np.arange(part.shape[1]), self._local)
        weights_numba.spread(part, places, rows, self._rank_part(rank))

    def draw(self, nodes: Nodes, numbers: Floats, drawn: np.ndarray) -> None:
        """Draw the shots of nodes, in the order of memory, that nobody else holds a part of."""
        if not len(nodes.prefixes):
            return
        planes, bases, size = (self._state.re, self._state.im), self._bases(nodes.prefixes), 1 << len(self._chunk)
        hits = (nodes.spans, nodes.shots, numbers, drawn, size)
        if size >= WEIGHT_RUN and self._is_in_place():
            sampling_numba.draw_in_place(*planes, bases, self._state.layout.flips & (size - 1), *hits)
        else:
            sampling_numba.draw(*planes, bases, self._groups(bases), self._tables, *hits)

    def _is_in_place(self) -> bool:
        """Whether the qubits of the chunk live on the lowest bits, in order, and nothing else is free."""
        bits = list(range(len(self._chunk)))
        return self._free == bits and [self._state.layout.bits[qubit] for qubit in self._chunk] == bits

    def _gather(self, prefixes: Integers, tables: tuple[Any, ...], rows: Floats) -> None:
        """Nodes that another rank holds get nothing."""
        here = are_held(self._state, self._fixed, stored_bits(self._state.layout, self._fixed, prefixes))
        if not here.all():
            found = np.zeros((int(here.sum()), rows.shape[1]))
            self._gather(prefixes[here], tables, found)
            rows[here] = found
        elif len(prefixes):
            self._read(self._bases(prefixes), tables, rows)

    def _read(self, bases: Integers, tables: tuple[Any, ...], rows: Floats) -> None:
        """The weights of nodes that are here."""
        weights_numba.gather(self._state.re, self._state.im, bases, self._groups(bases), tables, rows)

    def _bases(self, prefixes: Integers) -> Integers:
        return stored_bits(self._state.layout, self._fixed, prefixes) & ((1 << self._state.layout.num_local) - 1)

    def _groups(self, bases: Integers) -> Integers:
        """Where runs of nodes begin that share cache lines, and the end."""
        lines = bases >> self._line_bits
        changes = np.flatnonzero(lines[1:] != lines[:-1]) + 1
        return np.concatenate([[0], changes, [len(bases)]])

    def _rank_part(self, rank: int) -> int:
        """The part of the bin that the number of a rank decides."""
        layout = self._state.layout
        index = (rank << layout.num_local) ^ layout.flips
        return sum((index >> layout.bits[self._chunk[k]] & 1) << k for k in self._away)


def stored_bits(layout: Layout, qubits: Sequence[int], values: Integers) -> Integers:
    """The bits of stored indices at which ``qubits`` have each of the values."""
    return deposit(values, [layout.bits[qubit] for qubit in qubits]) ^ (layout.flips & layout.mask(qubits))


def are_held(state: State, fixed: Sequence[int], stored: Integers) -> npt.NDArray[np.bool_]:
    """Which nodes, by their stored bits, this rank holds amplitudes of."""
    layout = state.layout
    rank_mask = layout.mask(fixed) >> layout.num_local
    here: npt.NDArray[np.bool_] = stored >> layout.num_local == state.team.rank & rank_mask
    return here


def first_masses(state: State, chunk: Sequence[int]) -> Floats:
    """This rank's part of the weights of all values of ``chunk``, shape (2**chunk,). Cost: one sweep's reading."""
    layout = state.layout
    local = sorted(layout.bits[qubit] for qubit in chunk if layout.is_local(qubit))
    marginal = _marginal if state.device.name == "cpu" else state.device.sweeps.marginal
    masses, stored = marginal(state.re, state.im, local)
    bins = _bins(layout, chunk, range(len(layout.bits)), stored | state.rank_index)
    weights: Floats = np.bincount(bins.reshape(-1), masses.reshape(-1), 1 << len(chunk)).astype(np.float64)
    return weights


def _marginal(re: np.ndarray, im: np.ndarray, local: Sequence[int]) -> tuple[Floats, Integers]:
    """Weights by the value at some local bits (and others), and an index for each; see ``sweep_cupy.marginal``."""
    num_local = len(re).bit_length() - 1
    lowest = local[0] if local else num_local
    if lowest >= 3:
        run, width = min(1 << lowest, _LONGEST_RUN, len(re)), 1
    else:
        run = width = min(_LANE_WIDTH, len(re))
    run_bits = run.bit_length() - 1
    outer = list(range(run_bits, num_local))
    rows = [bit for bit in outer if bit in local]
    place = {bit: k for k, bit in enumerate(rows)}
    half = (len(outer) + 1) // 2
    row_low, row_high = (_picked(part, place) for part in (outer[:half], outer[half:]))
    masses = weights_numba.histogram(re, im, run, width, row_low, row_high, 1 << len(rows))
    return masses, deposit(np.arange(1 << len(rows)), rows)[:, np.newaxis] | np.arange(width)


def _picked(bits: Sequence[int], place: dict[int, int]) -> Integers:
    """For each number over ``bits``: those that have a place, put there."""
    numbers = np.arange(1 << len(bits))
    picked = np.zeros_like(numbers)
    for k, bit in enumerate(bits):
        if bit in place:
            picked |= (numbers >> k & 1) << place[bit]
    return picked


def _tables(layout: Layout, chunk: Sequence[int], free: Sequence[int], rank_part: int) -> tuple[Any, ...]:
    """See ``weights_numba.gather``: how the local amplitudes of a node spread over the bins of ``chunk``."""
    run_bits, summed = _run(layout, chunk, free)
    half = run_bits + (len(free) - run_bits + 1) // 2
    (index_low, bin_low), (index_high, bin_high) = (
        _index_and_bin(layout, chunk, bits) for bits in (free[run_bits:half], free[half:])
    )
    return (1 << run_bits, summed, half - run_bits, index_low, index_high, bin_low | rank_part, bin_high)


def _run(layout: Layout, chunk: Sequence[int], free: Sequence[int]) -> tuple[int, bool]:
    """How many of the lowest bits number neighbours that go to neighbouring bins, or (then True) all to one."""
    copied = summed = 0
    for k, bit in enumerate(free):
        qubit = layout.qubits[bit]
        upright = not layout.flips >> bit & 1
        if bit == k == copied and k < len(chunk) and chunk[k] == qubit and upright:
            copied += 1
        if bit == k == summed and qubit not in chunk:
            summed += 1
    if max(copied, summed) < _SHORTEST_RUN_BITS:
        return 0, False
    return (copied, False) if copied else (summed, True)


def _index_and_bin(layout: Layout, chunk: Sequence[int], bits: Sequence[int]) -> tuple[Integers, Integers]:
    """For each number over ``bits``: the index it stands for, and the part of the bin that these bits decide."""
    index = deposit(np.arange(1 << len(bits)), bits)
    return index, _bins(layout, chunk, bits, index)


def _bins(layout: Layout, chunk: Sequence[int], bits: Sequence[int], stored: Integers) -> Integers:
    """The part of the bin (over ``chunk``) that those ``bits`` of a stored index decide."""
    index = stored ^ layout.flips
    result = np.zeros_like(index)
    for k, qubit in enumerate(chunk):
        if layout.bits[qubit] in bits:
            result |= (index >> layout.bits[qubit] & 1) << k
    return result
