"""Sampling: draw outcomes of some qubits from a distributed state without gathering it.

Outcomes are drawn from the highest measured qubit down, a chunk of qubits at a time: the weights of the values of the
first chunk (one sweep, one sum over the ranks), then, for each value that was hit, the weights of the next one, and so
on. What is left for the last chunk is small enough to be searched where it lies: one rank owns each value that was hit,
collects its weights from the ranks that hold some, and draws its shots. The order is that of the qubits, never that of
the bits, and the random numbers are counted, so the outcomes do not depend on the layout, on the number of ranks or on
threads. Memory: a few numbers a shot, at most ``MAX_BINS`` weights and ``PIECE_BYTES`` for an exchange. ``simulate``
calls it; how weights are read is in ``weights``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qsimenv.statevec.exchange import PIECE_BYTES
from qsimenv.statevec.measuring import sampling_numba as kernels
from qsimenv.statevec.measuring.random_numbers import uniforms
from qsimenv.statevec.measuring.weights import (
    Floats,
    Integers,
    Nodes,
    Reading,
    are_held,
    first_masses,
    stored_bits,
)
from qsimenv.statevec.measuring.weights_gpu import ReadingOnGPU
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
_TABLE_BITS = 13
EVENT_OF_FIRST_CHUNK = 1 << 40
"""Events from here on belong to the final sampling; those of measurements in the middle count from zero."""


@dataclass(frozen=True)
class Draw:
    """Which shots of which run are to be drawn: ``chosen`` numbers them among all."""

    seed: int
    run: int
    chosen: Integers

    def uniforms(self, chunk: int) -> Floats:
        return uniforms(self.seed, self.run, EVENT_OF_FIRST_CHUNK + chunk, self.chosen)


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
    masses = state.team.sum(first_masses(state, order[len(order) - sizes[0] :]))
    for first in range(0, len(outcomes), SHOTS_AT_ONCE):
        part = slice(first, first + SHOTS_AT_ONCE)
        shots = Draw(draw.seed, draw.run, draw.chosen[part])
        outcomes[part] = _Shots(state, order, shots).draw(sizes, masses)
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


class _Shots:
    """Some shots on their way down the chunks."""

    def __init__(self, state: State, order: Sequence[int], draw: Draw) -> None:
        self._state, self._order, self._draw = state, order, draw

    def draw(self, sizes: Sequence[int], masses: Floats) -> Integers:
        values: Integers
        values, starts, shots = kernels.pick(masses, self._draw.uniforms(0))
        undrawn = len(self._order) - sizes[0]
        for number, size in enumerate(sizes[1:], 1):
            nodes = self._nodes(undrawn, values, starts, shots) if number == 1 else self._sorted_nodes(undrawn, values)
            undrawn -= size
            chunk = self._order[undrawn : undrawn + size]
            numbers = self._draw.uniforms(number)
            drawn = self._last(chunk, nodes, numbers) if undrawn == 0 else self._middle(chunk, nodes, numbers)
            values = (values << size) | drawn
        return values

    def _nodes(self, undrawn: int, values: Integers, starts: Integers, shots: Integers) -> Nodes:
        hit = np.flatnonzero(np.diff(starts))
        return Nodes(tuple(self._order[undrawn:]), hit, np.stack([starts[hit], starts[hit + 1]], axis=1), shots)

    def _sorted_nodes(self, undrawn: int, values: Integers) -> Nodes:
        shots = np.argsort(values, kind="stable")
        prefixes, starts = np.unique(values[shots], return_index=True)
        ends = np.append(starts[1:], len(shots))
        return Nodes(tuple(self._order[undrawn:]), prefixes, np.stack([starts, ends], axis=1), shots)

    def _middle(self, chunk: Sequence[int], nodes: Nodes, numbers: Floats) -> Integers:
        """A chunk that is not the last: every rank gets the weights of all nodes, so many at a time."""
        drawn = np.zeros(len(numbers), dtype=np.int64)
        reading = _reading(self._state, chunk, nodes.fixed)
        step = max(1, MAX_BINS >> len(chunk))
        for first in range(0, len(nodes.prefixes), step):
            some = nodes.part(slice(first, first + step))
            rows = self._state.team.sum(reading.rows(some.prefixes))
            kernels.search(rows, some.spans, some.shots, numbers, drawn)
        return drawn

    def _last(self, chunk: Sequence[int], nodes: Nodes, numbers: Floats) -> Integers:
        """The last chunk: each node is drawn by the rank that owns it, and the shots are put together."""
        drawn = np.zeros(len(numbers), dtype=np.int64 if len(chunk) > 16 else np.uint16)
        held, sharing = _held(self._state, nodes), _shared_bits(self._state.layout, nodes.fixed)
        reading = _reading(self._state, chunk, nodes.fixed)
        if sharing:
            self._draw_shared(reading, len(chunk), held, numbers, drawn, sharing)
        else:
            reading.draw(held, numbers, drawn)
        together: Integers = self._state.team.sum(drawn)
        return together

    def _draw_shared(
        self, reading: Reading, chunk_bits: int, held: Nodes, numbers: Floats, drawn: np.ndarray, sharing: Sequence[int]
    ) -> None:
        """Nodes that lie on all ranks which differ in the rank bits ``sharing``: of so many in a row each owns one."""
        members, mine = 1 << len(sharing), _member(self._state, sharing)
        step = max(1, (PIECE_BYTES >> 3) >> chunk_bits)
        for first in range(0, len(held.prefixes), step * members):
            owned = [held.part(slice(first + k, first + step * members, members)) for k in range(members)]
            rows = reading.rows(owned[mine].prefixes)
            self._add_the_others(reading, owned, mine, sharing, rows)
            kernels.search(rows, owned[mine].spans, held.shots, numbers, drawn)

    def _add_the_others(
        self, reading: Reading, owned: Sequence[Nodes], mine: int, sharing: Sequence[int], rows: Floats
    ) -> None:
        """Each partner in turn gets what I hold of its nodes, for what it holds of mine."""
        state, first_bit = self._state, self._state.layout.num_local
        most = max(len(nodes.prefixes) for nodes in owned)
        outgoing, incoming = reading.parts(most), reading.parts(most)
        for pattern in range(1, len(owned)):
            differs = sum((pattern >> k & 1) << (bit - first_bit) for k, bit in enumerate(sharing))
            partner = state.team.rank ^ differs
            reading.fill_part(owned[mine ^ pattern].prefixes, outgoing)
            state.team.exchange(partner, outgoing.reshape(-1), incoming.reshape(-1))
            reading.add_part(incoming[: len(rows)], rows, partner)
            state.work.bytes_exchanged += outgoing.nbytes


def _shared_bits(layout: Layout, fixed: Sequence[int]) -> list[int]:
    """The rank bits in which those ranks differ that hold amplitudes of the same nodes."""
    fixed_bits = {layout.bits[qubit] for qubit in fixed}
    return [bit for bit in range(layout.num_local, len(layout.bits)) if bit not in fixed_bits]


def _member(state: State, sharing: Sequence[int]) -> int:
    """Which of the ranks that share nodes this one is."""
    return sum((state.team.rank >> (bit - state.layout.num_local) & 1) << k for k, bit in enumerate(sharing))


def _held(state: State, nodes: Nodes) -> Nodes:
    """Those that this rank holds amplitudes of, in the order of memory: the same on all ranks that share them."""
    stored = stored_bits(state.layout, nodes.fixed, nodes.prefixes)
    here = np.flatnonzero(are_held(state, nodes.fixed, stored))
    return nodes.part(here[np.argsort(stored[here], kind="stable")])


def _reading(state: State, chunk: Sequence[int], fixed: Sequence[int]) -> Reading:
    return (Reading if state.device.name == "cpu" else ReadingOnGPU)(state, chunk, fixed)
