"""Sampling: draw outcomes of some qubits from a distributed state without gathering it.

Outcomes are drawn from the highest measured qubit down, a chunk of qubits at a time: the weights of the values of the
first chunk (one sweep, one sum over the ranks), then, for each value that was hit, the weights of the next one, and so
on. What is left for the last chunk is small enough to be searched where it lies: one rank owns each value that was hit,
collects its weights from the ranks that hold some, and draws its shots. The order is that of the qubits, never that of
the bits, and the random numbers are counted, so the outcomes do not depend on the layout, on the number of ranks or on
threads. Memory: a few numbers a shot, at most ``MAX_BINS`` weights and ``PIECE_BYTES`` for an exchange.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qsimenv.statevec.encoding.encode import deposit
from qsimenv.statevec.exchange import PIECE_BYTES
from qsimenv.statevec.kernels.intrinsics_numba import WEIGHT_RUN
from qsimenv.statevec.measuring import sampling_numba as kernels
from qsimenv.statevec.measuring.random_numbers import uniforms
from qsimenv.statevec.planning.layout import Layout
from qsimenv.statevec.state import State

FIRST_CHUNK = 12
"""Qubits of the first chunk; a few more where that saves a chunk in between."""
LARGEST_FIRST_CHUNK = 16
LAST_CHUNK = 14
"""Most qubits of the last chunk of several: the weights of one value fit a second-level cache."""
MIDDLE_CHUNK = 10
MAX_BINS = 1 << 20
SHOTS_AT_ONCE = 1 << 24
_LANE_WIDTH = 64
"""Amplitudes a row of the first weights where values change from one amplitude to the next."""
_LONGEST_RUN = 1 << 12
_SHORTEST_RUN_BITS = 3
_TABLE_BITS = 13
_EVENT_OF_FIRST_CHUNK = 1 << 40
"""Events from here on belong to the final sampling; those of measurements in the middle count from zero."""

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Draw:
    """Which shots of which run are to be drawn: ``chosen`` numbers them among all."""

    seed: int
    run: int
    chosen: Integers

    def uniforms(self, chunk: int) -> Floats:
        return uniforms(self.seed, self.run, _EVENT_OF_FIRST_CHUNK + chunk, self.chosen)


def sample(state: State, qubits: Sequence[int], draw: Draw, sizes: Sequence[int] | None = None) -> Integers:
    """Outcomes, one a chosen shot; bit k of an outcome belongs to ``qubits[k]`` (distinct). *Collective.*

    ``sizes`` are the qubits of each chunk where those of ``chunk_sizes`` are not wanted; outcomes depend on them.
    Cost: one sweep's reading, then for each chunk that of the amplitudes behind the values that were hit.
    """
    order = sorted(qubits)
    outcomes = np.zeros(len(draw.chosen), dtype=np.int64)  # over ``order``: bit k belongs to order[k]
    if not (order and len(outcomes)):
        return outcomes
    sizes = sizes or chunk_sizes(len(order))
    first_masses = state.team.sum(_first_masses(state, order[len(order) - sizes[0] :]))
    for first in range(0, len(outcomes), SHOTS_AT_ONCE):
        part = slice(first, first + SHOTS_AT_ONCE)
        shots = Draw(draw.seed, draw.run, draw.chosen[part])
        outcomes[part] = _Shots(state, order, shots).draw(sizes, first_masses)
    return reordered(outcomes, [1 << list(qubits).index(qubit) for qubit in order])


def chunk_sizes(num_qubits: int) -> tuple[int, ...]:
    """How many qubits each chunk draws. Depends on nothing else, so that no outcome does."""
    if num_qubits <= FIRST_CHUNK:
        return (num_qubits,)
    first = min(max(FIRST_CHUNK, num_qubits - LAST_CHUNK), LARGEST_FIRST_CHUNK)
    left, middle = num_qubits - first, []
    while left > LAST_CHUNK:
        middle.append(min(MIDDLE_CHUNK, left - LAST_CHUNK))
        left -= middle[-1]
    return (first, *middle, left)


def reordered(numbers: Integers, masks: Sequence[int]) -> Integers:
    """For each number the sum (or) of ``masks[k]`` over its bits k; may overwrite ``numbers``. *Local.*"""
    if list(masks) == [1 << k for k in range(len(masks))]:
        return numbers
    pieces = [masks[first : first + _TABLE_BITS] for first in range(0, len(masks), _TABLE_BITS)]
    tables = np.zeros((len(pieces), 1 << min(_TABLE_BITS, len(masks))), dtype=np.int64)
    for piece, table in zip(pieces, tables, strict=True):
        for k, mask in enumerate(piece):
            table[1 << k : 2 << k] = table[: 1 << k] | mask
    kernels.map_bits(numbers, tables)
    return numbers


@dataclass(frozen=True)
class _Nodes:
    """The values of the qubits drawn so far (``fixed``) that were hit, and who hit them.

    The shots of ``prefixes[n]`` are ``shots[spans[n, 0] : spans[n, 1]]``.
    """

    fixed: tuple[int, ...]
    prefixes: Integers
    spans: Integers
    shots: Integers

    def part(self, chosen: Integers | slice) -> _Nodes:
        return _Nodes(self.fixed, self.prefixes[chosen], self.spans[chosen], self.shots)


class _Shots:
    """Some shots on their way down the chunks."""

    def __init__(self, state: State, order: Sequence[int], draw: Draw) -> None:
        self._state, self._order, self._draw = state, order, draw

    def draw(self, sizes: Sequence[int], first_masses: Floats) -> Integers:
        values: Integers
        values, starts, shots = kernels.pick(first_masses, self._draw.uniforms(0))
        undrawn = len(self._order) - sizes[0]
        for number, size in enumerate(sizes[1:], 1):
            nodes = self._nodes(undrawn, values, starts, shots) if number == 1 else self._sorted_nodes(undrawn, values)
            undrawn -= size
            chunk = self._order[undrawn : undrawn + size]
            numbers = self._draw.uniforms(number)
            drawn = self._last(chunk, nodes, numbers) if undrawn == 0 else self._middle(chunk, nodes, numbers)
            values = (values << size) | drawn
        return values

    def _nodes(self, undrawn: int, values: Integers, starts: Integers, shots: Integers) -> _Nodes:
        hit = np.flatnonzero(np.diff(starts))
        return _Nodes(tuple(self._order[undrawn:]), hit, np.stack([starts[hit], starts[hit + 1]], axis=1), shots)

    def _sorted_nodes(self, undrawn: int, values: Integers) -> _Nodes:
        shots = np.argsort(values, kind="stable")
        prefixes, starts = np.unique(values[shots], return_index=True)
        ends = np.append(starts[1:], len(shots))
        return _Nodes(tuple(self._order[undrawn:]), prefixes, np.stack([starts, ends], axis=1), shots)

    def _middle(self, chunk: Sequence[int], nodes: _Nodes, numbers: Floats) -> Integers:
        """A chunk that is not the last: every rank gets the weights of all nodes, so many at a time."""
        drawn = np.zeros(len(numbers), dtype=np.int64)
        reading = _reading(self._state, chunk, nodes.fixed)
        step = max(1, MAX_BINS >> len(chunk))
        for first in range(0, len(nodes.prefixes), step):
            some = nodes.part(slice(first, first + step))
            rows = self._state.team.sum(reading.rows(some.prefixes))
            kernels.search(rows, some.spans, some.shots, numbers, drawn)
        return drawn

    def _last(self, chunk: Sequence[int], nodes: _Nodes, numbers: Floats) -> Integers:
        """The last chunk: each node is drawn by the rank that owns it, and the shots are put together."""
        state = self._state
        drawn = np.zeros(len(numbers), dtype=np.int64 if len(chunk) > 16 else np.uint16)
        held = _Held(state, nodes.fixed)
        nodes = nodes.part(held.ordered(nodes.prefixes))
        if not held.sharing:
            reading = _reading(state, chunk, nodes.fixed)
            reading.draw(nodes, numbers, drawn)
        else:
            self._draw_shared(chunk, nodes, numbers, drawn, held.sharing)
        together: Integers = state.team.sum(drawn)
        return together

    def _draw_shared(
        self, chunk: Sequence[int], nodes: _Nodes, numbers: Floats, drawn: np.ndarray, sharing: Sequence[int]
    ) -> None:
        """Nodes whose amplitudes lie on the ranks that differ in the rank bits ``sharing``: each owns every so-manieth.

        In pieces: what I hold of a partner's nodes for what it holds of mine.
        """
        state, layout = self._state, self._state.layout
        reading = _reading(state, chunk, nodes.fixed)
        mine = _member(state.team.rank, sharing, layout)
        members = 1 << len(sharing)
        step = max(1, (PIECE_BYTES >> 3) >> len(chunk))
        for first in range(0, len(nodes.prefixes), step * members):
            some = [nodes.part(slice(first + k, first + step * members, members)) for k in range(members)]
            rows = reading.rows(some[mine].prefixes)
            most = max(len(each.prefixes) for each in some)
            outgoing, incoming = reading.parts(most), reading.parts(most)
            for pattern in range(1, members):
                partner = state.team.rank ^ sum(
                    (pattern >> k & 1) << (bit - layout.num_local) for k, bit in enumerate(sharing)
                )
                reading.fill_part(some[mine ^ pattern].prefixes, outgoing)
                state.team.exchange(partner, outgoing.reshape(-1), incoming.reshape(-1))
                reading.add_part(incoming[: len(rows)], rows, partner)
                state.work.bytes_exchanged += outgoing.nbytes
            kernels.search(rows, some[mine].spans, nodes.shots, numbers, drawn)


def _member(rank: int, sharing: Sequence[int], layout: Layout) -> int:
    """Which of the ranks that share nodes this one is."""
    return sum((rank >> (bit - layout.num_local) & 1) << k for k, bit in enumerate(sharing))


class _Held:
    """Which nodes this rank holds amplitudes of; ``sharing`` are the rank bits on which others do as well."""

    def __init__(self, state: State, fixed: Sequence[int]) -> None:
        self._state, self._fixed = state, fixed
        layout = state.layout
        fixed_bits = {layout.bits[qubit] for qubit in fixed}
        self.sharing = [bit for bit in range(layout.num_local, len(layout.bits)) if bit not in fixed_bits]

    def ordered(self, prefixes: Integers) -> Integers:
        """The numbers of the nodes held, in the order of memory: the same on all ranks that share them."""
        layout = self._state.layout
        stored = _stored(layout, self._fixed, prefixes)
        rank_mask = layout.mask(self._fixed) >> layout.num_local
        here = np.flatnonzero(stored >> layout.num_local == self._state.team.rank & rank_mask)
        return here[np.argsort(stored[here], kind="stable")]


class _Reading:
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
        kernels.spread(part, places, rows, self._rank_part(rank))

    def draw(self, nodes: _Nodes, numbers: Floats, drawn: np.ndarray) -> None:
        """Draw the shots of nodes, in the order of memory, that nobody else holds a part of."""
        if not len(nodes.prefixes):
            return
        planes, bases, size = (self._state.re, self._state.im), self._bases(nodes.prefixes), 1 << len(self._chunk)
        hits = (nodes.spans, nodes.shots, numbers, drawn, size)
        if size >= WEIGHT_RUN and self._is_in_place():
            kernels.draw_in_place(*planes, bases, self._state.layout.flips & (size - 1), *hits)
        else:
            kernels.draw(*planes, bases, self._groups(bases), self._tables, *hits)

    def _is_in_place(self) -> bool:
        """Whether the qubits of the chunk live on the lowest bits, in order, and nothing else is free."""
        bits = list(range(len(self._chunk)))
        return self._free == bits and [self._state.layout.bits[qubit] for qubit in self._chunk] == bits

    def _gather(self, prefixes: Integers, tables: tuple[Any, ...], rows: Floats) -> None:
        """Nodes that another rank holds get nothing."""
        layout = self._state.layout
        stored = _stored(layout, self._fixed, prefixes)
        rank_mask = layout.mask(self._fixed) >> layout.num_local
        here = stored >> layout.num_local == self._state.team.rank & rank_mask
        if not here.all():
            found = np.zeros((int(here.sum()), rows.shape[1]))
            self._gather(prefixes[here], tables, found)
            rows[here] = found
        elif len(prefixes):
            self._read(self._bases(prefixes), tables, rows)

    def _read(self, bases: Integers, tables: tuple[Any, ...], rows: Floats) -> None:
        """The weights of nodes that are here."""
        kernels.gather(self._state.re, self._state.im, bases, self._groups(bases), tables, rows)

    def _bases(self, prefixes: Integers) -> Integers:
        return _stored(self._state.layout, self._fixed, prefixes) & ((1 << self._state.layout.num_local) - 1)

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


class _ReadingOnGPU(_Reading):
    """The same where the state lies on a GPU: weights are made there, and searched on the host, a piece at a time."""

    def _tables_for(self, chunk: Sequence[int], rank_part: int) -> tuple[Any, ...]:
        """The bits that number the bins, what they are flipped by, the bits summed over, and the bin of each number."""
        layout = self._state.layout
        local = [k for k, qubit in enumerate(chunk) if layout.is_local(qubit)]
        bits = [layout.bits[chunk[k]] for k in local]
        summed = [bit for bit in self._free if bit not in bits]
        flips = layout.flips & sum(1 << bit for bit in bits)
        return bits, flips, summed, deposit(np.arange(1 << len(local)), local) | rank_part

    def draw(self, nodes: _Nodes, numbers: Floats, drawn: np.ndarray) -> None:
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
        return max(1, MAX_BINS >> len(self._chunk))


def _reading(state: State, chunk: Sequence[int], fixed: Sequence[int]) -> _Reading:
    return (_Reading if state.device.name == "cpu" else _ReadingOnGPU)(state, chunk, fixed)


def _stored(layout: Layout, qubits: Sequence[int], values: Integers) -> Integers:
    """The bits of stored indices at which ``qubits`` have each of the values."""
    return deposit(values, [layout.bits[qubit] for qubit in qubits]) ^ (layout.flips & layout.mask(qubits))


def _first_masses(state: State, chunk: Sequence[int]) -> Floats:
    """This rank's part of the weights of all values of the first chunk."""
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
    masses = kernels.histogram(re, im, run, width, row_low, row_high, 1 << len(rows))
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
    """See ``sampling_numba.gather``: how the local amplitudes of a node spread over the bins of ``chunk``."""
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
