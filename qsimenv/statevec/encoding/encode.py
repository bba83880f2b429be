"""Encoding: the sweeps of a plan and parameter values to the flat arrays that a kernel reads (``rows``).

Blocks of at least ``NORMAL_FORM_BITS`` bits are brought into normal form first; smaller ones get a row for each op.
"""

from __future__ import annotations

import cmath
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qsimenv.circuit import Gate
from qsimenv.statevec.encoding.fusion import Item, fused, has_dense
from qsimenv.statevec.encoding.later import Unmade, are_known
from qsimenv.statevec.encoding.normalform import Compiler, Pass, Plain, spread_first
from qsimenv.statevec.encoding.pieces import piece_of, stored_matrix
from qsimenv.statevec.encoding.readings import Looks, Reading, Readings
from qsimenv.statevec.encoding.rows import MOST_RUN_BITS, REAL_TYPE, VECTORS, EncodedSweep, Form
from qsimenv.statevec.encoding.writer import Writer, mixes
from qsimenv.statevec.planning.plan import NORMAL_FORM_BITS, Plan, Sweep
from qsimenv.task import Precision

_GROWTH_BITS = 3
"""Where the next sweep has eight times as many blocks, phases do not wait for it."""


def encode(
    plan: Plan,
    values: Sequence[float] | npt.NDArray[np.float64],
    precision: Precision,
    form: Form = VECTORS,
    from_zero: bool = False,
    looks: Looks | None = None,
) -> tuple[tuple[EncodedSweep, ...], ...]:
    """The sweeps of each stage that have anything to do, for parameter ``values`` of shape (P,).

    ``from_zero``: they will be run on |0…0>, and on no other state: phases of bits that are 0 are left out, and what
    costs least while most of the state is zero is done then.
    ``looks``: they will be run on two states together. Where rows can read those, a block is that of both, with a bit
    on top that chooses between them; else a sweep ends where something is to be read, which is for the caller to do.
    """
    angles = [gate.angles(values) if gate.params else () for gate in plan.gates]
    stages = drafts(plan, angles, precision, form, from_zero, looks)
    return tuple(tuple(draft.sweep for draft in stage) for stage in stages)


class Draft(NamedTuple):
    """A sweep, but for what is known later: some of its coefficients, from some places on, the factors of its slots,
    and ``size`` and ``angle`` of its scale."""

    sweep: EncodedSweep
    unmade: Sequence[tuple[int, Unmade]]
    factors: Unmade | None
    size: float
    angle: float


def drafts(
    plan: Plan,
    angles: Sequence[tuple[float, ...]],
    precision: Precision,
    form: Form = VECTORS,
    from_zero: bool = False,
    looks: Looks | None = None,
) -> tuple[tuple[Draft, ...], ...]:
    """The same for the ``angles`` of each gate, of which some may be known later (they are ``Unknown`` then).

    Raises UnknownError where what there is to do hangs on these.
    """
    real_type, unset = REAL_TYPE[precision], -(1 << MOST_RUN_BITS) if from_zero and not plan.start.flips else 0
    stages = list[tuple[Draft, ...]]()
    for stage in plan.stages:
        unset = stage.unset_after_exchange(unset) & -(1 << MOST_RUN_BITS)
        stages.append(tuple(_draft_stage(stage.sweeps, plan, angles, real_type, form, unset, looks)))
        for draft in stages[-1]:
            unset &= ~draft.sweep.mixes
    return tuple(stages)


def _draft_stage(
    sweeps: Sequence[Sweep],
    plan: Plan,
    angles: Sequence[tuple[float, ...]],
    real_type: type[np.floating],
    form: Form,
    unset: int,
    looks: Looks | None,
) -> Iterator[Draft]:
    """``unset``: the bits, as a mask, that are 0 wherever the state is not zero before the first sweep."""
    is_pair, looks = looks is not None, looks or Looks({}, frozenset())
    compiler, passes = Compiler(unset), list[Pass]()
    for number, sweep in enumerate(sweeps):
        size, angle = compiler.size, compiler.angle
        if len(sweep.block) < NORMAL_FORM_BITS:
            passes = list(_plain_passes(sweep, plan, angles, looks))
        else:
            for items, readings in _runs(sweep, plan, angles, looks):
                for op, piece in items:
                    compiler.take(op, piece)
                if readings:
                    compiler.read(readings)
            passes = compiler.finish() if number == len(sweeps) - 1 else compiler.finish_sweep()
            if unset:
                still_unset = unset & ~mixes(passes)
                if number < len(sweeps) - 1 and _grows(sweep, unset, sweeps[number + 1], still_unset):
                    passes += compiler.finish()
                passes = spread_first(passes, unset) if form.spreads else passes
                unset = still_unset
        if passes or (compiler.size, compiler.angle) != (size, angle):
            parts = [passes] if form.reads else _cut(passes)
            for part in parts:
                writer = Writer(sweep, plan.start.num_local, real_type, form, is_pair, size)
                is_last = part is parts[-1]
                grown, turned = (compiler.size / size, compiler.angle - angle) if is_last else (1.0, 0.0)
                scale = cmath.rect(grown, turned) if are_known((grown, turned)) else 1.0
                written = writer.write(part, scale)
                yield Draft(written, writer.unmade, writer.unmade_factors, grown, turned)


def _runs(
    sweep: Sweep, plan: Plan, angles: Sequence[tuple[float, ...]], looks: Looks
) -> Iterator[tuple[Iterable[Item], Sequence[Reading]]]:
    """The ops up to each reading, fused where there is a dense matrix, and what is read then."""
    items = list[Item]()

    def run() -> Iterable[Item]:
        if not has_dense(items):
            return items
        return fused(items, lambda op: stored_matrix(plan.gates[op.gate], angles[op.gate], op))

    for op, readings in looks.before(sweep.ops):
        if readings:
            yield run(), readings
            items = []
        if op.gate not in looks.idle:
            items.append((op, piece_of(plan.gates[op.gate], angles[op.gate], op)))
    yield run(), ()


def _plain_passes(sweep: Sweep, plan: Plan, angles: Sequence[tuple[float, ...]], looks: Looks) -> Iterator[Pass]:
    """Those of a block that is too small for the normal form."""
    for op, readings in looks.before(sweep.ops):
        if readings:
            yield Readings(tuple(readings), 1.0)
        if op.gate not in looks.idle:
            yield Plain(op, stored_matrix(plan.gates[op.gate], angles[op.gate], op))


def _cut(passes: Sequence[Pass]) -> list[list[Pass]]:
    """The passes in parts that end with a reading."""
    parts: list[list[Pass]] = [[]]
    for number, each in enumerate(passes):
        parts[-1].append(each)
        if isinstance(each, Readings) and number < len(passes) - 1:
            parts.append([])
    return parts


def _grows(sweep: Sweep, unset: int, following: Sweep, still_unset: int) -> bool:
    """Whether the next sweep works on so much more of the state that a pass now costs next to nothing."""
    now, then = (
        mask & ~sum(1 << bit for bit in each.block) for each, mask in ((sweep, unset), (following, still_unset))
    )
    return (now & ~then).bit_count() - (then & ~now).bit_count() >= _GROWTH_BITS


def is_constant(gate_list: Sequence[Gate]) -> bool:
    """Whether no gate has a free parameter, so that an encoding can be kept."""
    return not any(isinstance(angle, str) for gate in gate_list for angle in gate.params)
