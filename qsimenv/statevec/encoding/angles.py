"""The angles of some gates as linear forms of parameters: all of them at once, for one set of values or for many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qsimenv import formula
from qsimenv.circuit import Gate


@dataclass(frozen=True)
class Angles:
    """Angles in radians, as linear forms of the values: of the parameters, and behind those of the ``formulas`` that
    are not linear. Form k: ``offsets[k] + sum(factors * values[columns])`` from starts[k] on."""

    formulas: tuple[str, ...]
    starts: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    factors: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.float64]

    def of(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The angles for one set of values of shape (P,). Cost: some microseconds, and some more for each formula."""
        if self.formulas:
            with np.errstate(all="ignore"):  # what is no number is for others to complain about
                found = [float(formula.evaluate(text, values)) for text in self.formulas]
            values = np.array([*values, *found])
        if not self.columns.size:
            return self.offsets
        forms = np.repeat(np.arange(self.offsets.size), np.diff(self.starts))
        weights = self.factors * values[self.columns]
        return self.offsets + np.bincount(forms, weights, self.offsets.size)

    def have_parameters(self) -> npt.NDArray[np.bool_]:
        """Which of the angles are no numbers that are given."""
        has: npt.NDArray[np.bool_] = np.diff(self.starts) > 0
        return has


def linear_forms(angles: Sequence[tuple[formula.Angle, float, float]], num_parameters: int) -> Angles:
    """``factor * angle + offset`` for each (angle, factor, offset)."""
    formulas: dict[str, int] = {}
    starts, columns, factors, offsets = [0], list[int](), list[float](), list[float]()
    for angle, factor, offset in angles:
        form = formula.linear(angle)
        if form is None:
            form = {num_parameters + formulas.setdefault(str(angle), len(formulas)): 1.0}, 0.0
        columns += form[0].keys()
        factors += [factor * value for value in form[0].values()]
        offsets.append(factor * form[1] + offset)
        starts.append(len(columns))
    return Angles(
        tuple(formulas),
        np.array(starts, dtype=np.int64),
        np.array(columns, dtype=np.int64),
        np.array(factors, dtype=np.float64),
        np.array(offsets, dtype=np.float64),
    )


def angles_of(gate_list: Sequence[Gate], num_parameters: int) -> Angles:
    """Those of some gates, one after the other."""
    angles = [angle for gate in gate_list for angle in gate.params]
    if str in map(type, angles):
        return linear_forms([(angle, 1.0, 0.0) for angle in angles], num_parameters)
    nothing = np.zeros(0)
    return Angles((), np.zeros(len(angles) + 1, dtype=np.int64), nothing.astype(np.int64), nothing, np.array(angles))
