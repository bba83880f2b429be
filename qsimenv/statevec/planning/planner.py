"""Planner: from a run of gates to stages of sweeps. Pure; ``simulate`` and ``explain`` call it.

Two levels do the same thing: which qubits are local in a stage, and which bits are in the block of a sweep. At both
only what a gate *mixes* matters (``steps``), and at both a short row of sets is searched for (``cover_numba``). A plan
is made from either end: stages out of the blocks that suit the sweeps, or blocks out of the wires that suit the stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from itertools import accumulate, islice, pairwise
from operator import and_, is_, or_
from typing import Any

import numpy as np
import numpy.typing as npt

from qsimenv.circuit import Gate
from qsimenv.errors import OutOfRangeError
from qsimenv.statevec.planning.cover_numba import SET, Cover, by_layer, cover
from qsimenv.statevec.planning.layout import Layout, identity
from qsimenv.statevec.planning.plan import NORMAL_FORM_BITS, Op, Plan, Stage, Sweep
from qsimenv.statevec.planning.steps import Step, Steps, steps_of
from qsimenv.statevec.threads import default_threads

LOW_BITS = 7
"""Every block holds so many of the lowest bits, so that memory is read in runs of whole cache lines. Of the CPU's."""

Members = npt.NDArray[np.int32]

_MOST_VISITS = 1 << 20
"""Steps looked at to choose one block, at about 2 ns each; a small state gets less, in proportion to its sweeps."""
_THOROUGH_BITS = 25
"""From so many local bits on a single sweep takes longer than all that the planner can try."""
_SEARCHED_BITS = 26
_TRIES = 20
"""From so many local bits on it takes longer than to try so many sets of wires for the lowest bits; with each two bits
more, than to try twice as many."""
_FEW_STEPS = 768
"""In a circuit of more each try takes longer, and fewer are made."""
_FEW_SETS = 25 * SET // 8
"""What takes no more than that is not worth it: the second last sweep is over a part of the state."""
_MOST_QUBITS = 62
"""Masks of wires and indices of amplitudes are signed numbers of 64 bits."""
_MOST_KEPT_GATES = 4096
"""Plans of longer circuits are not kept: running them takes longer than planning."""
_FIRST_STEPS = 2048
"""So many steps are looked at to choose the wires for the lowest bits."""


def make_plan(gate_list: Sequence[Gate], start: Layout, block_bits: int, low_bits: int | None = None) -> Plan:
    """The plan for ``gate_list`` on a state in layout ``start``, with blocks of at most ``block_bits`` bits.

    Every block holds the ``low_bits`` lowest bits (``LOW_BITS`` where they are not given).

    Raises OutOfRangeError for more than 62 qubits, and where a gate mixes more of them than are local or fit a block.
    Cost: some microseconds a gate, and a search of a few milliseconds a sweep at most, far less for a small state.
    """
    return _plan(tuple(gate_list), len(start.bits), start.num_local, block_bits, low_bits, start)


def plan_from_zero(
    gate_list: Sequence[Gate], num_qubits: int, num_local: int, block_bits: int, low_bits: int | None = None
) -> Plan:
    """The same for a state that is |0…0>: it looks the same in all layouts, so that the first one is free to choose."""
    return _plan(tuple(gate_list), num_qubits, num_local, block_bits, low_bits, None)


def most_in_parity(block_bits: int) -> int:
    """How many bits the parity that picks a phase may have: with the blocks of the normal form, any."""
    return _MOST_QUBITS if block_bits >= NORMAL_FORM_BITS else 2


def forget_plans() -> None:
    """Plan anew from now on."""
    _kept_plan.cache_clear()


def _plan(gate_list: tuple[Gate, ...], *sizes: Any) -> Plan:
    """No plan hangs on an angle: that of a circuit that differs in nothing else is taken again."""
    if len(gate_list) > _MOST_KEPT_GATES:
        return _Planner(gate_list, *sizes[:-1]).plan(sizes[-1])
    return replace(_kept_plan(_Shape(gate_list), *sizes), gates=gate_list)


class _Shape:
    """A run of gates but for their angles: what equals another has the same plan."""

    def __init__(self, gate_list: tuple[Gate, ...]) -> None:
        self.gates = gate_list
        self._shape = tuple([(g.name, g.qubits, g.controls, g.control_state, g.matrix) for g in gate_list])
        self._hash = hash(self._shape)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Shape) and self._shape == other._shape


@lru_cache(maxsize=64)
def _kept_plan(
    shape: _Shape, num_qubits: int, num_local: int, block_bits: int, low_bits: int | None, start: Layout | None
) -> Plan:
    return _Planner(shape.gates, num_qubits, num_local, block_bits, low_bits).plan(start)


class _Planner:
    """The circuit and the sizes that a plan is made for."""

    def __init__(
        self, gate_list: Sequence[Gate], num_qubits: int, num_local: int, block_bits: int, low_bits: int | None
    ) -> None:
        if num_qubits > _MOST_QUBITS:
            raise OutOfRangeError(
                f"plan: {num_qubits} qubits found, an index has room for {_MOST_QUBITS}; use another engine"
            )
        self._gates, self._num_qubits, self._num_local = tuple(gate_list), num_qubits, num_local
        self._size = min(block_bits, num_local)
        low_bits = LOW_BITS if low_bits is None else low_bits
        self._num_low = min(low_bits, self._size)
        self._steps: Steps = steps_of(self._gates, num_qubits, most_in_parity(self._size))
        # A block that is not all of the rank's memory has its lowest bits taken already.
        self._check_reach(num_local if num_local <= block_bits else block_bits - low_bits)
        self._visits = min(_MOST_VISITS, 1 << num_local >> 5)

    def _check_reach(self, reach: int) -> None:
        widths = np.bitwise_count(self._steps.mixed)
        if widths.max(initial=0) > reach:
            widest = int(widths.argmax())
            name = self._gates[self._steps.steps[widest].gate].name
            raise OutOfRangeError(
                f"plan: gate {name} mixes {widths[widest]} qubits, {reach} are within reach of a rank; use fewer ranks"
            )

    def plan(self, start: Layout | None) -> Plan:
        """The plan from a layout, or from one of the planner's choice. Inside, layouts place wires, not qubits."""
        draft = self._draft(start)
        made, reached = list[Stage](), 0 if start is None else -1
        for exchange, layout, blocks in zip(draft.exchanges, draft.layouts, draft.blocks, strict=True):
            sweeps = list[Sweep]()
            for wires, inside in zip(blocks.sets, blocks.members, strict=True):
                reached |= int(np.bitwise_or.reduce(self._steps.mixed[inside]))
                sweeps.append(self._sweep(wires, inside, layout, reached))
            if exchange or sweeps:
                made.append(Stage(exchange, tuple(sweeps)))
        last = draft.layouts[-1] if draft.layouts else draft.first
        return Plan(self._gates, draft.first, self._end(last), tuple(made))

    def _draft(self, start: Layout | None) -> _Draft:
        """The blocks are chosen first, as if all wires were local: that makes the fewest sweeps. Where the ranks would
        have to exchange more than once for them, it is tried the other way round, too, and always for large states."""
        if self._num_local == self._num_qubits:
            return self._by_blocks(start)
        if self._num_local <= self._size:
            return self._by_stages(start)
        draft = self._by_blocks(start)
        is_short = draft.num_sweeps <= 2 or self._num_local < _THOROUGH_BITS
        if draft.num_exchanges < 2 and is_short:
            return draft
        return min(draft, self._by_stages(start), key=lambda each: each.cost(start is None))

    def _by_blocks(self, start: Layout | None) -> _Draft:
        """First blocks out of all wires, then stages of as many of them as find their wires in a rank together."""
        everything, members = (1 << self._num_qubits) - 1, np.arange(len(self._steps.steps), dtype=np.int32)
        low = _mask(start.qubits[: self._num_low]) if start else self._best_low(everything, everything, members)[0]
        blocks = self._blocks(members, everything, low, start is None)
        if start is None and self._num_local >= _SEARCHED_BITS and blocks.score > _FEW_SETS:
            low = self._searched_low(low, everything, members)
            blocks = self._blocks(members, everything, low, True)
        if start:
            parts = _joined(blocks.sets, self._num_local, _mask(start.local_qubits))
        else:  # what is exchanged early is a state that is still small
            parts = _joined(blocks.sets[::-1], self._num_local, 0)[::-1]
        stages = [slice(*edges) for edges in pairwise(accumulate(parts, initial=0))]
        sets = self._completed([reduce(or_, blocks.sets[stage], 0) for stage in stages], start)
        first = start or self._first_layout(sets, low, blocks.sets[0] if blocks.sets else 0, blocks.members[-1:])
        return _drafted(first, sets, lambda number, _: blocks.part(stages[number]))

    def _by_stages(self, start: Layout | None) -> _Draft:
        """First the wires that are local in each stage, then blocks out of these.

        Sweeps on both sides of an exchange may share one, so the last one of a stage is put off where that spares one.
        """
        stages = self._stages(start)
        draft = self._with_blocks(stages, start)
        later = self._put_off(stages, draft)
        if later is stages:
            return draft
        return min(draft, self._with_blocks(later, start), key=lambda each: each.num_sweeps)

    def _with_blocks(self, stages: Cover, start: Layout | None) -> _Draft:
        sets = self._completed(stages.sets, start)
        first = start or self._first_layout(sets, *self._low_for(sets, stages.members), stages.members[-1:])

        def blocks(number: int, layout: Layout) -> Cover:
            low, local = _mask(layout.qubits[: self._num_low]), _mask(layout.local_qubits)
            return self._blocks(stages.members[number], local, low, start is None and number == 0)

        return _drafted(first, sets, blocks)

    def _put_off(self, stages: Cover, draft: _Draft) -> Cover:
        """The stages with the last block of each put off to the next one, where the blocks there have room for it."""
        sets, members, blocks = list(stages.sets), list(stages.members), list(draft.blocks)
        for here, there in pairwise(range(len(sets))):
            if len(blocks[here].sets) < 2:
                continue
            *staying, last = blocks[here].members
            needed = sets[there] | int(np.bitwise_or.reduce(self._steps.mixed[last]))
            if needed.bit_count() > self._num_local:
                continue
            together = np.sort(np.concatenate([last, members[there]]))
            made = self._blocks(together, needed, _mask(draft.layouts[there].qubits[: self._num_low]), False)
            if len(made.sets) <= len(blocks[there].sets):
                sets[there], members[there], blocks[there] = needed, together, made
                members[here] = np.sort(np.concatenate(staying))
        return stages if all(map(is_, members, stages.members)) else Cover(sets, members, stages.score)

    # --- stages ---

    def _stages(self, start: Layout | None) -> Cover:
        steps, everything = self._steps, (1 << self._num_qubits) - 1
        members = np.arange(len(steps.steps), dtype=np.int32)
        first = _mask(start.local_qubits) if start else -1
        return cover(
            steps.mixed, steps.used, members, everything, 0, self._num_local, first, True, visits=16 * self._visits
        )

    def _completed(self, needed: Sequence[int], start: Layout | None) -> list[int]:
        """Sets filled up to what a rank holds: with what was there before and, as long as it is there, needed next."""
        completed = []
        before = _mask(start.local_qubits) if start else (1 << self._num_qubits) - 1
        for number, wires in enumerate(needed):
            candidates = before & ~wires
            for later in (*needed[number + 1 :], -1):
                for wire in _members(candidates & later & ~wires):
                    if wires.bit_count() < self._num_local:
                        wires |= 1 << wire  # noqa: PLW2901 - grows
            completed.append(wires)
            before = wires
        return completed

    def _first_layout(self, sets: Sequence[int], low: int, block: int, last: Sequence[Members]) -> Layout:
        """Lowest what each block has, then what suits the first one, highest in the rank what leaves it first.

        Of what each block has, lowest, where the lanes are, is what the CX of the ``last`` steps use least: they are
        over the whole state, and lines that change places cost less than their lanes.
        """
        if not sets:
            return identity(self._num_qubits, self._num_local)
        moved = [self._steps.used[members][self._steps.affine[members]] for members in last]
        uses = {wire: sum(int((used >> wire & 1).sum()) for used in moved) for wire in _members(low)}
        leaves = [next((k for k, wires in enumerate(sets) if not wires >> w & 1), len(sets)) for w in self._wires()]
        reached = int(np.bitwise_or.reduce(self._steps.mixed))
        order = sorted(
            self._wires(),
            key=lambda w: (
                not sets[0] >> w & 1,
                not low >> w & 1,
                not (low | reached) >> w & 1,
                -leaves[w],
                not block >> w & 1,
                uses.get(w, 0),
                w,
            ),
        )
        bits = [0] * self._num_qubits
        for bit, wire in enumerate(order):
            bits[wire] = bit
        return Layout(tuple(bits), self._num_local)

    def _wires(self) -> range:
        return range(self._num_qubits)

    def _low_for(self, sets: Sequence[int], members: Sequence[Members]) -> tuple[int, int]:
        """The wires for the lowest bits, if possible such that stay in all stages, and the first block."""
        if not sets:
            return 0, 0
        staying = reduce(and_, sets)
        if staying.bit_count() >= self._num_low:
            return self._best_low(staying, (1 << self._num_qubits) - 1, np.concatenate(members))
        return self._best_low(sets[0], sets[0], members[0])

    def _best_low(self, candidates: int, local: int, members: Members) -> tuple[int, int]:
        """The wires for the lowest bits, which every block has, and the first block with them."""
        steps = self._steps
        if self._num_local <= self._size:
            return 0, local
        members = members[:_FIRST_STEPS]
        order = self._by_first_use(candidates, members)
        best = None
        for offset in range(len(order) - self._num_low + 1):
            low = _mask(order[offset : offset + self._num_low])
            made = cover(steps.mixed, steps.used, members, local, low, self._size)
            if best is None or made.score < best[0]:
                best = made.score, low, made.sets[0] if made.sets else low
        assert best is not None  # noqa: S101 - there are at least as many wires as low bits
        return best[1], best[2]

    def _searched_low(self, low: int, local: int, members: Members) -> int:
        """The same for a state of which every sweep takes long: what is best when blocks are searched for with each."""
        members = members[:_FIRST_STEPS]
        lows = (
            _mask(order[offset : offset + self._num_low])
            for order in self._orders(local, members)
            for offset in range(len(order) - self._num_low + 1)
        )
        tries = int(_TRIES * 2.0 ** ((self._num_local - _SEARCHED_BITS) / 2) * min(1.0, _FEW_STEPS / len(members)))
        tried = [low, *islice(lows, tries)]
        with ThreadPoolExecutor(default_threads()) as pool:  # compiled code, which does not hold the interpreter
            scores = list(pool.map(lambda each: self._blocks(members, local, each, True, searches=1).score, tried))
        return tried[scores.index(min(scores))]

    def _orders(self, wires: int, members: Members) -> Iterator[list[int]]:
        """Wires in the order in which steps mix them, then those first that few steps use, then in any order."""
        yield self._by_first_use(wires, members)
        uses = [int((self._steps.used[members] >> wire & 1).sum()) for wire in self._wires()]
        yield sorted(_members(wires), key=lambda wire: uses[wire])
        random = np.random.default_rng(0)  # all ranks make the same plan
        while True:
            yield random.permutation(_members(wires)).tolist()

    def _by_first_use(self, wires: int, members: Members) -> list[int]:
        """Wires in the order in which the steps mix them, those that none does last."""
        order = list[int]()
        for mixed in (*self._steps.mixed[members].tolist(), wires):
            if mixed & wires:
                order += _members(mixed & wires)
                wires &= ~mixed
        return order

    def _end(self, layout: Layout) -> Layout:
        """The layout of the qubits, from that of the wires."""
        turned = sum(1 << layout.bits[wire] for wire in self._wires() if self._steps.flips >> wire & 1)
        bits = tuple(layout.bits[wire] for wire in self._steps.wire_of)
        return Layout(bits, self._num_local, layout.flips ^ turned)

    # --- sweeps ---

    def _blocks(self, members: Members, local: int, low: int, is_free: bool, searches: int = 2) -> Cover:
        """Blocks for some steps. ``is_free``: of |0…0>, of which most stays zero for a while and costs nothing."""
        steps = self._steps
        work = steps.work if is_free else None
        return cover(
            steps.mixed, steps.used, members, local, low, self._size, visits=self._visits, work=work, searches=searches
        )

    def _sweep(self, wires: int, inside: Members, layout: Layout, reached: int) -> Sweep:
        """One for the steps ``inside``. ``reached``: the wires that they or steps before have mixed."""
        steps, ops = self._steps, list[Op]()
        for number in by_layer(steps.mixed, steps.used, steps.affine, inside).tolist():
            _add_ops(ops, steps.steps[number], self._gates, layout)
        held = wires & (reached | _mask(layout.qubits[: self._num_low]))
        return Sweep(_block(held, layout, self._size, reached), tuple(ops))


@dataclass(frozen=True)
class _Draft:
    """A plan without its ops: of each stage the exchange before it, the layout after that, and the blocks."""

    first: Layout
    exchanges: tuple[tuple[tuple[int, int], ...], ...]
    layouts: tuple[Layout, ...]
    blocks: tuple[Cover, ...]

    @property
    def num_exchanges(self) -> int:
        return sum(map(bool, self.exchanges))

    @property
    def num_sweeps(self) -> int:
        return sum(len(each.sets) for each in self.blocks)

    def cost(self, from_zero: bool) -> tuple[int, int, int]:
        """Exchanges weigh most: whatever connects the ranks is slower than their memory."""
        bare = Plan((), self.first, self.first, tuple(Stage(exchange, ()) for exchange in self.exchanges))
        return self.num_exchanges, bare.bytes_exchanged(1, from_zero), self.num_sweeps


def _drafted(first: Layout, sets: Sequence[int], blocks: Callable[[int, Layout], Cover]) -> _Draft:
    """The draft with these wires local in its stages, and in each stage the blocks that are named for its layout."""
    layout, made = first, list[tuple[tuple[tuple[int, int], ...], Layout, Cover]]()
    for number, wires in enumerate(sets):
        exchange = _exchange(layout, wires)
        layout = layout.exchanged(exchange)
        made.append((exchange, layout, blocks(number, layout)))
    return _Draft(first, *zip(*made, strict=True)) if made else _Draft(first, (), (), ())


def _joined(sets: Sequence[int], size: int, held: int) -> list[int]:
    """How many of the sets, one after the other, fit ``size`` wires together, with those held first; and so on."""
    counts = [0]
    for wires in sets:
        held |= wires
        if held.bit_count() > size:
            held = wires
            counts.append(0)
        counts[-1] += 1
    return counts


def _exchange(layout: Layout, wanted: int) -> tuple[tuple[int, int], ...]:
    """The (local bit, rank bit) pairs to trade so that the wires ``wanted`` are local; the highest bits go first."""
    incoming = [wire for wire in _members(wanted) if not layout.is_local(wire)]
    outgoing = sorted((layout.bits[wire] for wire in layout.local_qubits if not wanted >> wire & 1), reverse=True)
    return tuple((bit, layout.bits[wire]) for bit, wire in zip(outgoing, incoming, strict=True))


def _block(wires: int, layout: Layout, size: int, reached: int) -> tuple[int, ...]:
    """The bits of some wires, filled up from the lowest of those that are ``reached``: where others are 1 there is
    nothing yet, and blocks without them are fewer."""
    chosen = {layout.bits[wire] for wire in _members(wires)}
    spare = [bit for bit in range(layout.num_local) if bit not in chosen]
    spare.sort(key=lambda bit: not reached >> layout.qubits[bit] & 1)
    return tuple(sorted([*chosen, *spare[: size - len(chosen)]]))


def _add_ops(ops: list[Op], step: Step, gate_list: Sequence[Gate], layout: Layout) -> None:
    """The pieces of one step on the bits of ``layout``: one for each value of the targets that it does not mix."""
    bits = tuple([layout.bits[wire] for wire in step.wires])
    flips = step.flips
    if layout.flips:
        for k, bit in enumerate(bits):
            flips ^= (layout.flips >> bit & 1) << (0 if step.parity else k)
    if step.parity:
        ops.append(Op(step.gate, "parity", bits, flips, 0, 0))
        return
    gate = gate_list[step.gate]
    first = len(bits) - len(step.mixed) - len(step.still)
    mask = value = 0
    if first:
        wanted = gate.control_state ^ flips  # -1: all ones
        for k in range(first):
            mask |= 1 << bits[k]
            value |= (wanted >> k & 1) << bits[k]
    if not step.mixed:
        ops.append(Op(step.gate, "diagonal", bits[first:], flips >> first, mask, value))
        return
    targets = bits if len(step.mixed) == len(bits) else tuple([bits[k] for k in step.mixed])
    turned = flips and sum((flips >> k & 1) << j for j, k in enumerate(step.mixed))
    for number in range(1 << len(step.still)):
        inner_mask, inner_value = mask, value
        for j, k in enumerate(step.still):
            inner_mask |= 1 << bits[k]
            inner_value |= ((number >> j ^ flips >> k) & 1) << bits[k]
        ops.append(Op(step.gate, "matrix", targets, turned, inner_mask, inner_value, number))


def _mask(numbers: Iterable[int]) -> int:
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask


def _members(mask: int) -> list[int]:
    return [number for number in range(mask.bit_length()) if mask >> number & 1]
