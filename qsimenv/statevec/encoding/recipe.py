"""Recipe: a plan encoded for all angles at once; for some of them there is only arithmetic left to do.

``encode`` decides what is to be done op by op, in Python, and takes milliseconds for a circuit of a hundred gates.
Where a circuit is run for one set of parameters after the other that is more than a state of less than 20 qubits takes;
with a recipe it takes tenths of that. What ``encode`` decides by an angle is settled for all angles here: a rotation
stays one, however steep, and one by 0 is a rotation, too. Where that would cost digits the recipe gives nothing, and
``encode`` is to be asked.
"""

from __future__ import annotations

import cmath
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from qsimenv.statevec.encoding.angles import Angles
from qsimenv.statevec.encoding.encode import Draft, drafts, encode
from qsimenv.statevec.encoding.later import Numbers, Tape, UnknownError
from qsimenv.statevec.encoding.pieces import Unknown
from qsimenv.statevec.encoding.readings import Looks
from qsimenv.statevec.encoding.rows import EncodedSweep, Form
from qsimenv.statevec.planning.plan import Plan
from qsimenv.task import Precision

Sweeps = tuple[tuple[EncodedSweep, ...], ...]
Bools = npt.NDArray[np.bool_]

STEEPEST = 2.0**12
"""Slopes up to this are taken as they are; of all rotations one in some thousands has more."""
_SMALLEST_SIZE: dict[Precision, float] = {"double": 2.0**-300, "single": 2.0**-60}
"""What is stored grows by the inverse of that while a stage is run; its squares have to be numbers, too."""
_LARGEST_ANGLE = 64.0
"""Angles are added up as they are; large ones take digits from small ones."""
_MOST_RECIPES = 3
"""So often a recipe is made, because angles turn out to vary that did not so far."""


@dataclass
class _Known:
    """What is known of a plan's angles: those of the first time, which do vary, which of them the recipe takes for
    such; those of the last time, and what they gave."""

    first: Numbers
    do_vary: Bools
    may_vary: Bools
    recipe: Recipe | None = None
    num_recipes: int = 0
    last: tuple[Numbers, Sweeps] | None = None


class Recipes:
    """Those of one plan.

    Numbers that are multiples of pi/4 are taken for fixed until they change, because most are, which spares work; the
    third recipe is for all that do not make an X of a rotation.

    ``alike``: what they give hangs on the circuit and its parameters and on nothing that was asked before, for ranks
    that have to scale a state in one way. There is a recipe from the first time on, for what has parameters.
    """

    def __init__(self, alike: bool = False) -> None:
        self._alike = alike
        self._known: dict[Hashable, _Known] = {}

    def encode(
        self,
        plan: Plan,
        values: Numbers,
        angles: Angles,
        precision: Precision,
        form: Form,
        from_zero: bool = False,
        looks: Looks | None = None,
    ) -> Sweeps:
        """What ``encode`` gives for parameter ``values``, up to rounding and the way the state is scaled.

        ``angles``: those of all gates one after the other. ``looks`` are the same each time. Cost: some microseconds a
        sweep and its rows, and for the recipe half as much again as ``encode`` takes; as much as that where there is
        none.
        """
        key, numbers = (precision, form, from_zero), angles.of(values)
        known = self._known.get(key)
        if known and known.last and np.array_equal(numbers, known.last[0]):
            return known.last[1]
        recipe = None
        if known:
            recipe = _recipe_for(numbers, known, plan, *key, looks)
        else:
            do_vary = angles.have_parameters()
            known = self._known[key] = _Known(numbers, do_vary, do_vary)
            if self._alike:
                known.num_recipes = _MOST_RECIPES
                recipe = known.recipe = _recipe(known, plan, *key, looks)
        sweeps = recipe.sweeps(numbers[known.may_vary]) if recipe else None
        known.last = numbers, sweeps or encode(plan, values, precision, form, from_zero, looks)
        return known.last[1]


def _recipe_for(numbers: Numbers, known: _Known, *arguments: Any) -> Recipe | None:
    """The recipe for some angles, a new one where more of them turn out to vary; None where there is none."""
    changed = numbers != known.first
    if known.recipe is None or (changed & ~known.may_vary).any():
        if known.num_recipes == _MOST_RECIPES:
            return None
        known.num_recipes += 1
        known.do_vary = known.do_vary | changed
        seem_fixed = np.remainder(known.first, np.pi / 4) == 0
        if known.num_recipes == _MOST_RECIPES:
            seem_fixed = np.abs(np.tan(known.first / 2)) > STEEPEST
        known.may_vary = known.do_vary | ~seem_fixed
        known.recipe = _recipe(known, *arguments)
        if known.recipe is None:
            known.num_recipes = _MOST_RECIPES
    return known.recipe


def _recipe(
    known: _Known, plan: Plan, precision: Precision, form: Form, from_zero: bool, looks: Looks | None
) -> Recipe | None:
    """The recipe for the angles that may vary, None where there is none."""
    tape = Tape(int(known.may_vary.sum()))
    numbers = known.first.tolist()
    for k, place in enumerate(np.flatnonzero(known.may_vary)):
        numbers[place] = tape.input(k)
    angles, end = list[tuple[float, ...]](), 0
    for gate in plan.gates:
        start, end = end, end + len(gate.params)
        is_known = not known.may_vary[start:end].any()
        angles.append(tuple(numbers[start:end]) if is_known else Unknown(numbers[start:end]))
    try:
        return Recipe(drafts(plan, angles, precision, form, from_zero, looks), tape, precision)
    except UnknownError:
        return None


class Recipe:
    """The sweeps of a plan for any angles that may vary, which are the inputs of a tape."""

    def __init__(self, stages: Sequence[Sequence[Draft]], tape: Tape, precision: Precision) -> None:
        self._stages = stages
        self._smallest = _SMALLEST_SIZE[precision]
        wanted = [number for draft in chain(*stages) for number in _numbers_of(draft)]
        self._results = np.array([tape.row(number) for number in wanted], dtype=np.int64)
        self._tape = _arrays(tape)

    def sweeps(self, angles: Numbers) -> Sweeps | None:
        """What ``encode`` gives for the angles that may vary; None where it is to be asked."""
        from qsimenv.statevec.encoding.later_numba import work_out  # not on top: see ``phase_rows``

        if not (np.abs(angles) <= _LARGEST_ANGLE).all():  # nor what is no number
            return None
        numbers, smallest, steepest = work_out(*self._tape, angles, self._results)
        if not (smallest >= self._smallest and steepest <= STEEPEST):
            return None
        made, place = list[tuple[EncodedSweep, ...]](), 0
        for stage in self._stages:
            sweeps = list[EncodedSweep]()
            for draft in stage:
                place, sweep = _made(draft, numbers, place)
                sweeps.append(sweep)
            made.append(tuple(sweeps))
        return tuple(made)


def _numbers_of(draft: Draft) -> Iterator[float]:
    """What is known later of a sweep, in the order in which ``_made`` takes it."""
    yield from (draft.size, draft.angle)
    for _, unmade in draft.unmade:
        yield from unmade.numbers
    if draft.factors:
        yield from draft.factors.numbers


def _made(draft: Draft, numbers: Numbers, place: int) -> tuple[int, EncodedSweep]:
    """A sweep with its numbers, which begin at a place; and where they end."""
    scale, place = cmath.rect(numbers[place], numbers[place + 1]), place + 2
    coefficients, slots = draft.sweep.coefficients.copy(), draft.sweep.slots
    for start, unmade in draft.unmade:
        end = place + len(unmade.numbers)
        coefficients[start : start + unmade.size] = unmade.make(numbers[place:end]).reshape(-1)
        place = end
    if draft.factors and slots:
        end = place + len(draft.factors.numbers)
        slots, place = replace(slots, factors=numbers[place:end]), end
    return place, replace(draft.sweep, coefficients=coefficients, scale=scale, slots=slots)


def _arrays(tape: Tape) -> tuple[Any, ...]:
    """Entries and rows of a tape as ``work_out`` takes them."""
    entries = np.zeros((len(tape.entries), 4), dtype=np.int64)
    for k, entry in enumerate(tape.entries):
        entries[k, : len(entry)] = entry
        entries[k, len(entry) :] = entry[-1]
    terms = [term for row, _ in tape.rows for term in row]
    return (
        entries,
        np.cumsum([0, *(len(row) for row, _ in tape.rows)]),
        np.array([number for number, _ in terms], dtype=np.int64),
        np.array([factor for _, factor in terms], dtype=np.float64),
        np.array([constant for _, constant in tape.rows], dtype=np.float64),
    )
