"""Later: numbers that are known once a circuit's parameters are, and the tape on which they are worked out then.

Nearly all work of encoding is on which terms there are, not on how large they are. Run once with these numbers in
place of angles it leaves a tape: what there is to do for any parameters, a few hundred operations (``recipe``). A Later
is a sum of multiples of what is on the tape. It adds up and is multiplied like a float, and typed as one here, so that
code of the encoder takes either; what cancels whatever the parameters are becomes a float. It cannot be compared, nor
be put in an array: what asks for its value gets an UnknownError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from qsimenv.gates import Matrix

Numbers = npt.NDArray[np.float64]

(
    SUM,
    TANGENT,
    COSINE,
    SINE,
    LENGTH,
    PRODUCT,
    RATIO,
    SIZE,
    JOINT_COSINE,
    JOINT_TANGENT,
    JOINT_ANGLE,
    JOINT_SLOPE,
    JOINT_LEAN,
    JOINT_SIZE,
    JOINT_AFTER,
) = range(15)
"""What an entry of a tape is, of one, two or three numbers: x; tan x; cos x; sin x; the length of (1, x); x y; x / y;
x y, being the size of a state; and of two rotations by slopes x and z with a phase by y between them what ``joint``
asks for."""

_MOST_TERMS = 16
"""A sum of more becomes an entry of its own: long ones take their time each time something is added."""


class UnknownError(Exception):
    """The value of a number was asked for that is known later."""


class Tape:
    """Operations on numbers, in an order in which each finds what it needs: first the ``num_inputs`` inputs.

    ``rows``: sums of multiples of entries, and a constant; ``entries``: an operation, and the rows it works on.
    """

    def __init__(self, num_inputs: int) -> None:
        self.num_inputs = num_inputs
        self.rows: dict[tuple[tuple[tuple[int, float], ...], float], int] = {}
        self.entries: dict[tuple[int, ...], int] = {}

    def input(self, number: int) -> float:
        """An input."""
        return _number(self, {number: 1.0}, 0.0)

    def row(self, number: float) -> int:
        """The row of a number, known or not."""
        later = number if isinstance(number, Later) else Later(self, {}, number)
        return self.rows.setdefault((tuple(later.terms.items()), later.constant), len(self.rows))

    def later(self, operation: int, *numbers: float) -> float:
        """What an operation makes of some numbers."""
        key = operation, *map(self.row, numbers)
        number = self.num_inputs + self.entries.setdefault(key, len(self.entries))
        return _number(self, {number: 1.0}, 0.0)


class Later:
    """``constant + sum_k terms[k] * entry k`` of a tape."""

    __slots__ = ("constant", "tape", "terms")

    def __init__(self, tape: Tape, terms: dict[int, float], constant: float) -> None:
        self.tape, self.terms, self.constant = tape, terms, constant

    def __add__(self, other: Any) -> float:
        if not isinstance(other, Later):
            return _number(self.tape, self.terms, self.constant + _real(other))
        terms = dict(self.terms)
        for number, factor in other.terms.items():
            terms[number] = terms.get(number, 0.0) + factor
        return _number(self.tape, terms, self.constant + other.constant)

    __radd__ = __add__

    def __neg__(self) -> float:
        return self._times(-1.0)

    def __sub__(self, other: Any) -> float:
        return self.__add__(-other)

    def __rsub__(self, other: Any) -> float:
        return self._times(-1.0) + _real(other)

    def __mul__(self, other: Any) -> float:
        if isinstance(other, Later):
            return self.tape.later(PRODUCT, cast(float, self), cast(float, other))
        return self._times(other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> float:
        if isinstance(other, Later):
            return self.tape.later(RATIO, cast(float, self), cast(float, other))
        return self._times(1 / _real(other))

    def __rtruediv__(self, other: Any) -> float:
        return self.tape.later(RATIO, _real(other), cast(float, self))

    def __abs__(self) -> float:
        """Infinite: never too small to matter."""
        return math.inf

    def __float__(self) -> float:
        raise UnknownError(f"{len(self.terms)} terms that are known later")

    def _unknown(self, _other: object) -> bool:
        raise UnknownError("a number that is known later, compared")

    __lt__ = __le__ = __gt__ = __ge__ = _unknown

    def _times(self, factor: Any) -> float:
        factor = _real(factor)
        terms = {number: factor * each for number, each in self.terms.items()}
        return _number(self.tape, terms, factor * self.constant)


def _real(number: Any) -> float:
    if not isinstance(number, (int, float)):
        raise UnknownError(f"a number that is known later, with a {type(number).__name__}")
    return float(number)


def _number(tape: Tape, terms: dict[int, float], constant: float) -> float:
    """A Later, or a float where no terms are left."""
    terms = {number: factor for number, factor in terms.items() if factor}
    if not terms:
        return constant
    number = cast(float, Later(tape, terms, constant))
    return tape.later(SUM, number) if len(terms) > _MOST_TERMS else number


def is_later(number: float) -> bool:
    """Whether a number is known only once the parameters are."""
    return isinstance(number, Later)


def tangent(angle: float) -> float:
    """That of an angle, for a slope."""
    return angle.tape.later(TANGENT, angle) if isinstance(angle, Later) else math.tan(angle)


def cosine(angle: float) -> float:
    """That of an angle."""
    return angle.tape.later(COSINE, angle) if isinstance(angle, Later) else math.cos(angle)


def sine(angle: float) -> float:
    """That of an angle."""
    return angle.tape.later(SINE, angle) if isinstance(angle, Later) else math.sin(angle)


def shrunk(size: float, factor: float) -> float:
    """The size of a state times a factor."""
    if isinstance(factor, Later):
        return factor.tape.later(SIZE, size, factor)
    return size.tape.later(SIZE, size, factor) if isinstance(size, Later) else size * factor


def length(slope: float) -> float:
    """That of (1, slope)."""
    return slope.tape.later(LENGTH, slope) if isinstance(slope, Later) else math.hypot(1.0, slope)


def reduced(angle: float) -> float:
    """The angle less whole turns, where it is known."""
    return angle if isinstance(angle, Later) else math.remainder(angle, math.tau)


class Joint(NamedTuple):
    """Two rotations and a phase between them: ``size exp(i angle)`` times a phase by ``lean``, a rotation by ``slope``
    and a phase by ``after``."""

    angle: float
    slope: float
    lean: float
    size: float
    after: float


def joint(first: float, angle: float, second: float) -> Joint:
    """``[[1, p], [-p, 1]]`` with p ``first``, a phase by ``angle`` where the bit is 1, and p ``second``; not all of
    them are known."""
    numbers: tuple[Any, ...] = first, angle, second
    tape = next(each.tape for each in numbers if isinstance(each, Later))
    if not is_later(angle) and not angle:  # both about the same axis
        slope, size = (tape.later(operation, first, angle, second) for operation in (JOINT_TANGENT, JOINT_COSINE))
        return Joint(0.0, slope, 0.0, size, 0.0)
    operations = JOINT_ANGLE, JOINT_SLOPE, JOINT_LEAN, JOINT_SIZE, JOINT_AFTER
    return Joint(*(tape.later(operation, first, angle, second) for operation in operations))


class Unmade(NamedTuple):
    """``size`` numbers of an array that ``make`` makes of some ``numbers`` once these are known."""

    numbers: tuple[float, ...]
    size: int
    make: Callable[[Numbers], Numbers]


def are_known(numbers: Sequence[float]) -> bool:
    """Whether all of them are."""
    return Later not in map(type, numbers)


def made_of(numbers: Sequence[float], make: Callable[[Numbers], Numbers] = lambda numbers: numbers) -> Numbers | Unmade:
    """What ``make`` makes of an array of the numbers, as soon as they are known; its size hangs on nothing else."""
    if are_known(numbers):
        return make(np.array(numbers, dtype=np.float64))
    return Unmade(tuple(numbers), make(np.ones(len(numbers))).size, make)


@dataclass(frozen=True)
class UnmadeMatrix:
    """A matrix of so many ``rows`` that ``make`` makes of some ``numbers`` once these are known; it is real for all of
    them, or complex."""

    numbers: tuple[float, ...]
    rows: int
    is_real: bool
    make: Callable[[Numbers], Matrix]

    def __len__(self) -> int:
        return self.rows


def made_of_matrix(matrix: Matrix | UnmadeMatrix, make: Callable[[Matrix], Numbers]) -> Numbers | Unmade:
    """What ``make`` makes of a matrix, as soon as it is known."""
    if not isinstance(matrix, UnmadeMatrix):
        return make(matrix)
    later = matrix
    size = make(np.eye(later.rows, dtype=np.complex128)).size
    return Unmade(later.numbers, size, lambda numbers: make(later.make(numbers)))


def made_of_matrices(
    matrices: Sequence[Matrix | UnmadeMatrix], rows: int, make: Callable[[Sequence[Matrix]], Matrix]
) -> Matrix | UnmadeMatrix:
    """The matrix of so many rows that ``make`` makes of some others, as soon as they are known."""
    known = [each for each in matrices if not isinstance(each, UnmadeMatrix)]
    if len(known) == len(matrices):
        return make(known)
    later = [each for each in matrices if isinstance(each, UnmadeMatrix)]
    ends = list(accumulate(len(each.numbers) for each in later))

    def from_numbers(numbers: Numbers) -> Matrix:
        parts = iter(np.split(numbers, ends[:-1]))
        return make([each.make(next(parts)) if isinstance(each, UnmadeMatrix) else each for each in matrices])

    return UnmadeMatrix(tuple(number for each in later for number in each.numbers), rows, False, from_numbers)
