"""Plans as values: what must hold of every plan, whatever the circuit, the layout and the size of a block."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsimenv import gates
from qsimenv.circuit import Gate, gate
from qsimenv.errors import OutOfRangeError
from qsimenv.statevec.planning import planner
from qsimenv.statevec.planning.layout import Layout, identity
from qsimenv.statevec.planning.plan import Plan
from qsimenv.statevec.planning.planner import LOW_BITS, make_plan, plan_from_zero
from qsimenv.statevec.planning.steps import mixed_qubits, steps_of, unmixed_targets

FIXED = [name for name in gates.NAMES if name not in (gates.UNITARY, "mcx", "mcphase")]
SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)


def arity(name: str) -> int:
    if name not in gates.CONTROLLED:
        return gates.BASE[name].num_targets
    row = gates.CONTROLLED[name]
    return (row.num_controls or 0) + gates.BASE[row.base].num_targets


@st.composite
def layouts(draw: st.DrawFn, num_qubits: int, num_local: int) -> Layout:
    bits = draw(st.permutations(range(num_qubits)))
    return Layout(tuple(bits), num_local, draw(st.integers(0, (1 << num_qubits) - 1)))


@st.composite
def gate_lists(draw: st.DrawFn, num_qubits: int) -> list[Gate]:
    made = []
    for name in draw(st.lists(st.sampled_from([*FIXED, "x", "swap", "swap", "h", "cx"]), min_size=20, max_size=40)):
        added = draw(st.integers(0, 1))
        size = arity(name) + added
        if size > num_qubits:
            continue
        qubits = draw(st.permutations(range(num_qubits)))[:size]
        state = draw(st.sampled_from([-1, 0])) if added else -1
        made.append(Gate(name, tuple(qubits), (0.3,) * gates.num_params(name), added, state))
    return made


def renames(one: Gate) -> bool:
    return one.name in ("x", "swap") and one.num_controls == 0


def order_of_ops(made: Plan) -> list[int]:
    return [op.gate for stage in made.stages for sweep in stage.sweeps for op in sweep.ops]


def wires_of(gate_list: Sequence[Gate], num_qubits: int) -> list[dict[int, int]]:
    """For each gate the place, before the first one, of what is on its qubits: SWAPs are followed."""
    label, found = list(range(num_qubits)), []
    for one in gate_list:
        found.append({qubit: label[qubit] for qubit in one.qubits})
        if renames(one) and one.name == "swap":
            a, b = one.qubits
            label[a], label[b] = label[b], label[a]
    return found


def check_plan(made: Plan, gate_list: Sequence[Gate], block_bits: int) -> None:
    """Everything that must hold of a plan."""
    order = order_of_ops(made)
    num_local = made.start.num_local
    # every gate once, all its pieces side by side in one sweep; X, SWAP and pairs of CX leave nothing behind
    firsts = [index for k, index in enumerate(order) if k == 0 or order[k - 1] != index]
    assert len(firsts) == len(set(firsts))
    dropped = {k for k, one in enumerate(gate_list) if not renames(one)} - set(firsts)
    assert all(gate_list[k].base == "x" and gate_list[k].num_controls == 1 for k in dropped)
    assert len(dropped) % 2 == 0
    for index in firsts:
        one = gate_list[index]
        still = unmixed_targets(one)
        targets = len(one.qubits) - one.num_controls
        assert order.count(index) == (1 if len(still) == targets else 1 << len(still))
    # what is taken out of order commutes
    wires = wires_of(gate_list, len(made.start.bits))
    mixed = {k: {wires[k][q] for q in mixed_qubits(gate_list[k])} for k in firsts}
    used = {k: set(wires[k].values()) for k in firsts}
    place = {index: k for k, index in enumerate(firsts)}
    for late in firsts:
        for early in range(late):
            if early in place and place[early] > place[late]:
                assert not mixed[early] & used[late]
                assert not mixed[late] & used[early]
    # what mixes lies in the sweep's block, and the block is local; controls and diagonals may lie anywhere
    for stage in made.stages:
        for local, rank in stage.exchange:
            assert local < num_local <= rank
        assert len({bit for pair in stage.exchange for bit in pair}) == 2 * len(stage.exchange)
        for sweep in stage.sweeps:
            assert sweep.ops
            assert list(sweep.block) == sorted(set(sweep.block))
            assert all(bit < num_local for bit in sweep.block)
            assert len(sweep.block) == min(block_bits, num_local)
            assert set(range(min(planner.LOW_BITS, len(sweep.block)))) <= set(sweep.block)
            for op in sweep.ops:
                if op.kind == "matrix":
                    assert set(op.bits) <= set(sweep.block)
                    assert not any(op.control_mask >> bit & 1 for bit in op.bits)
                assert op.control_value & ~op.control_mask == 0
                assert op.control_mask < 1 << len(made.start.bits)
    assert sorted(made.end.bits) == list(range(len(made.start.bits)))
    assert made.end.num_local == num_local


@SETTINGS
@given(st.data())
def test_properties_of_plans(data: st.DataObject) -> None:
    num_qubits = data.draw(st.integers(8, 16))
    num_local = data.draw(st.integers(5, num_qubits))
    block_bits = data.draw(st.sampled_from([LOW_BITS + 4, LOW_BITS + 5, 15]))
    start = data.draw(layouts(num_qubits, num_local))
    gate_list = data.draw(gate_lists(num_qubits))
    check_plan(make_plan(gate_list, start, block_bits), gate_list, block_bits)
    check_plan(plan_from_zero(gate_list, num_qubits, num_local, block_bits), gate_list, block_bits)


@SETTINGS
@given(st.data())
def test_the_end_layout_follows_swaps_flips_and_exchanges(data: st.DataObject) -> None:
    """The layout at the end is what renames and exchanges give, put together here from the plan's own exchanges."""
    start = data.draw(layouts(9, data.draw(st.integers(5, 9))))
    gate_list = data.draw(gate_lists(9))
    made = make_plan(gate_list, start, 15)
    x_count = dict.fromkeys(range(9), 0)  # by the label of what moves, not of where it is
    label = list(range(9))
    for one in gate_list:
        if renames(one) and one.name == "x":
            x_count[label[one.qubits[0]]] += 1
        elif renames(one):
            a, b = one.qubits
            label[a], label[b] = label[b], label[a]
    where, stored = list(start.bits), [start.flips >> bit & 1 for bit in start.bits]
    for stage in made.stages:
        for pair in stage.exchange:
            where = [{pair[0]: pair[1], pair[1]: pair[0]}.get(bit, bit) for bit in where]
    for qubit in range(9):
        assert made.end.bits[qubit] == where[label[qubit]]
        flipped = made.end.flips >> made.end.bits[qubit] & 1
        assert flipped == (stored[label[qubit]] + x_count[label[qubit]]) % 2


@SETTINGS
@given(st.data())
def test_the_first_layout(data: st.DataObject) -> None:
    num_local = data.draw(st.integers(4, 10))
    gate_list = data.draw(gate_lists(10))
    start = plan_from_zero(gate_list, 10, num_local, 15).start
    assert sorted(start.bits) == list(range(10))
    assert (start.num_local, start.flips) == (num_local, 0)
    made = make_plan(gate_list, start, 15)
    check_plan(made, gate_list, 15)
    if made.stages:
        assert not made.stages[0].exchange, "the first gate needs no exchange: the first layout is free to choose"


def test_x_and_swap_cost_nothing() -> None:
    gate_list = [gate("x", 0), gate("swap", 0, 7), gate("swap", 7, 3), gate("x", 7)]
    made = make_plan(gate_list, identity(8, 4), 15)
    assert made.stages == ()
    assert made.end.bits == (7, 1, 2, 0, 4, 5, 6, 3)
    assert made.end.flips == 0b1001


def test_diagonal_gates_and_controls_need_no_exchange() -> None:
    gate_list = [gate("cz", 6, 7), gate("cp", 0, 7, params=[0.3]), gate("rzz", 6, 7, params=[0.1]), gate("cx", 7, 0)]
    made = make_plan(gate_list, identity(8, 4), 15)
    assert (made.num_exchanges, made.num_sweeps) == (0, 1)


def test_exchanges_bring_the_qubits_that_are_needed() -> None:
    made = make_plan([gate("h", 7), gate("h", 6)], identity(8, 6), 15)
    assert len(made.stages) == 1
    assert {rank for _, rank in made.stages[0].exchange} == {6, 7}
    assert made.bytes_exchanged(16) == 16 * (64 - 16)
    one = make_plan([gate("h", 7)], identity(8, 6), 15)
    assert len(one.stages[0].exchange) == 1
    assert one.bytes_exchanged(8) == 8 * 32


def test_a_gate_beyond_reach_is_refused() -> None:
    with pytest.raises(OutOfRangeError, match="gate swap mixes 2 qubits, 1 are within reach"):
        make_plan([Gate("swap", (0, 1, 2), (), 1)], identity(3, 1), 15)
    wide = gate("unitary", *range(5), matrix=np.roll(np.eye(32), 1, axis=0))
    for block_bits in (LOW_BITS + 4, LOW_BITS - 1):  # in a block of several, the lowest bits are taken
        with pytest.raises(OutOfRangeError, match="gate unitary mixes 5 qubits"):
            make_plan([wide], identity(12, 12), block_bits)
    assert make_plan([wide], identity(12, 12), LOW_BITS + 5).num_sweeps == 1


def test_sixty_two_qubits_can_be_planned() -> None:
    gate_list = [gate("h", 0), *(gate("cx", q, q + 1) for q in range(61)), gate("h", 61)]
    made = plan_from_zero(gate_list, 62, 40, 17)
    check_plan(made, gate_list, 17)
    assert made.num_exchanges == 1
    with pytest.raises(OutOfRangeError, match="plan: 63 qubits found, an index has room for 62"):
        plan_from_zero(gate_list, 63, 40, 17)


def qft(num_qubits: int) -> list[Gate]:
    made = []
    for target in reversed(range(num_qubits)):
        made.append(gate("h", target))
        made += [gate("cp", control, target, params=[math.pi / 2 ** (target - control)]) for control in range(target)]
    return made + [gate("swap", q, num_qubits - 1 - q) for q in range(num_qubits // 2)]


def test_the_plan_of_a_fourier_transform_is_short() -> None:
    gate_list = qft(20)
    made = plan_from_zero(gate_list, 20, 18, 15)
    check_plan(made, gate_list, 15)
    assert made.num_exchanges == 1
    assert made.num_sweeps <= 4


def test_the_printed_plan_has_a_line_for_everything() -> None:
    gate_list = [*qft(9), Gate("u", (0, 8), (0.1, 0.2, 0.3), 1, 0)]
    made = plan_from_zero(gate_list, 9, 8, 8)
    lines = str(made).splitlines()
    assert re.fullmatch(
        rf"{len(gate_list)} gates, 9 qubits \(8 local\): {len(made.stages)} stages, "
        rf"{made.num_exchanges} exchanges, {made.num_sweeps} sweeps",
        lines[0],
    )
    assert sum(line.startswith("stage ") for line in lines) == len(made.stages)
    assert sum(line.startswith("  sweep over bits ") for line in lines) == made.num_sweeps
    ops = sum(len(sweep.ops) for stage in made.stages for sweep in stage.sweeps)
    assert sum(line.startswith("    ") for line in lines) == ops
    assert len(lines) == 1 + len(made.stages) + made.num_sweeps + ops
    assert any(re.fullmatch(r"    u \(matrix\) on bits \[\d\] where bits \[\d\] are \[0\]", line) for line in lines)
    assert str(plan_from_zero(gate_list, 9, 8, 8)) == str(made)


# --- layouts ---


@SETTINGS
@given(st.data())
def test_layouts_round_trip(data: st.DataObject) -> None:
    layout = data.draw(layouts(8, data.draw(st.integers(1, 8))))
    a, b = data.draw(st.permutations(range(8)))[:2]
    assert layout.swapped(a, b).swapped(a, b) == layout
    assert layout.flipped(a).flipped(a) == layout
    assert layout.flipped(a) != layout
    assert layout.flipped(a).swapped(a, b) == layout.swapped(a, b).flipped(b)
    assert all(layout.qubits[layout.bits[q]] == q for q in range(8))
    assert {q for q in range(8) if layout.is_local(q)} == layout.local_qubits
    split = layout.num_local
    count = data.draw(st.integers(0, min(split, 8 - split)))
    pairs = tuple(zip(range(split - count, split), range(split, split + count), strict=True))
    traded = layout.exchanged(pairs)
    assert traded.exchanged(pairs) == layout
    for qubit in range(8):
        assert layout.flips >> layout.bits[qubit] & 1 == traded.flips >> traded.bits[qubit] & 1


@SETTINGS
@given(st.data())
def test_place_puts_values_under_flips(data: st.DataObject) -> None:
    layout = data.draw(layouts(7, 4))
    value = data.draw(st.integers(0, 127))
    index = layout.place(range(7), value)
    read = sum((index >> layout.bits[q] & 1 ^ layout.flips >> layout.bits[q] & 1) << q for q in range(7))
    assert read == value
    some = data.draw(st.permutations(range(7)))[:3]
    assert layout.mask(some).bit_count() == 3
    assert layout.place(some, value & 7) & ~layout.mask(some) == 0


def test_a_plan_is_kept_for_circuits_that_differ_in_angles_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever turns the same gates by other angles has the plan at once, with the gates asked for."""
    made = Counter[str]()
    monkeypatch.setattr(planner, "steps_of", lambda *each: made.update(["steps"]) or steps_of(*each))
    planner.forget_plans()

    def gates(angle: float, name: str = "ry") -> list[Gate]:
        return [gate(name, q, params=[angle]) for q in range(5)] + [gate("cx", q, q + 1) for q in range(4)]

    first, second = plan_from_zero(gates(0.1), 5, 4, 3, 1), plan_from_zero(gates(0.2), 5, 4, 3, 1)
    assert made["steps"] == 1
    assert (second.start, second.end, second.stages) == (first.start, first.end, first.stages)
    assert [each.gates for each in (first, second)] == [tuple(gates(0.1)), tuple(gates(0.2))]
    others = plan_from_zero(gates(0.2, "rx"), 5, 4, 3, 1), plan_from_zero(gates(0.2), 5, 5, 3, 1)
    assert made["steps"] == 3
    assert others[1].start.num_local == 5
