"""Pauli strings of observables as masks over stored bits, in the order in which a state is read for them. Pure.

Strings that flip the same bits share one reading, so do those whose flipped bits differ near the low end only; those
that flip the same rank bits share one exchange. A string that several observables have is looked at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from qsimenv.statevec.kernels.intrinsics_numba import BLOCK_BITS
from qsimenv.statevec.planning.layout import Layout
from qsimenv.task import Observable

Integers = npt.NDArray[np.int64]

NEAR_BITS = 14
"""Two blocks of so many bits fit a second-level cache; any bits, as long as the lowest are among them."""
LEAST_RUN_BITS = BLOCK_BITS

_X = str.maketrans("IXYZ", "0110")
_Z = str.maketrans("IXYZ", "0011")


@dataclass(frozen=True)
class Strings:
    """Distinct strings, sorted by the bits they flip; within those by whether the products' imaginary parts count.

    The value of observable ``observables[k]`` has ``factors[k]`` times the sum of string ``strings[k]``.
    """

    x_masks: Integers
    imaginary: npt.NDArray[np.bool_]
    z_masks: Integers
    observables: Integers
    strings: Integers
    factors: npt.NDArray[np.float64]

    def values(self, sums: npt.NDArray[np.float64], num_observables: int) -> npt.NDArray[np.float64]:
        """One number an observable, from the sums of the strings."""
        weights = self.factors * sums[self.strings]
        values: npt.NDArray[np.float64] = np.bincount(self.observables, weights, num_observables).astype(np.float64)
        return values

    def masks(self, terms: range) -> Integers:
        """See ``pauli_numba``: for each mask among some terms its bits, and where its terms begin, turn and end."""
        x = self.x_masks[terms.start : terms.stop]
        starts = np.flatnonzero(np.append(True, x[1:] != x[:-1]))
        ends = np.append(starts[1:], len(x))
        turned = np.add.reduceat(self.imaginary[terms.start : terms.stop].astype(np.int64), starts)
        return np.stack([x[starts], starts, ends - turned, ends], axis=1).astype(np.int64)

    def split(self, low_bits: int, terms: range | None = None) -> Iterator[range]:
        """Terms whose masks agree in the bits from ``low_bits`` on, in runs."""
        terms = range(len(self.x_masks)) if terms is None else terms
        high = self.x_masks[terms.start : terms.stop] >> low_bits
        starts = [0, *(np.flatnonzero(high[1:] != high[:-1]) + 1).tolist(), len(terms)]
        for first, last in pairwise(starts):
            if first < last:
                yield range(terms.start + first, terms.start + last)

    def readings(self, terms: range) -> Iterator[range]:
        """Terms whose masks differ in so few bits that one reading of the state serves all, in runs."""
        x = self.x_masks[terms.start : terms.stop].tolist()
        first, differing = 0, 0
        for k, mask in enumerate(x):
            wider = differing | (mask ^ x[first])
            if not _fits(wider):
                yield range(terms.start + first, terms.start + k)
                first, wider = k, 0
            differing = wider
        yield range(terms.start + first, terms.stop)


def block_bits(differing: int) -> int:
    """How many of the lowest bits lie in one run, where masks that differ in ``differing`` are read together."""
    bits = NEAR_BITS
    while bits > LEAST_RUN_BITS and bits + (differing >> bits).bit_count() > NEAR_BITS:
        bits -= 1
    return bits


def _fits(differing: int) -> bool:
    bits = block_bits(differing)
    return bits + (differing >> bits).bit_count() <= NEAR_BITS


@lru_cache(maxsize=64)
def collect(observables: tuple[Observable, ...], layout: Layout) -> Strings:
    """The strings of some observables on the bits of ``layout``; kept, because many states are asked for the same."""
    terms = [(number, pauli, c) for number, value in enumerate(observables) for pauli, c in value.terms]
    x, z = (
        _on_bits(np.array([int(pauli.translate(table) or "0", 2) for _, pauli, _ in terms], dtype=np.int64), layout)
        for table in (_X, _Z)
    )
    num_y = np.bitwise_count(x & z).astype(np.int64)
    signs = 1 - 2 * (np.bitwise_count(z & layout.flips).astype(np.int64) & 1)
    # i**num_y: 1 and -1 take real parts; i and -i imaginary ones, the other way round
    factors = np.array([c for _, _, c in terms]) * signs * np.array([1, -1, -1, 1])[num_y & 3]
    numbers = np.array([number for number, _, _ in terms], dtype=np.int64)
    return _sorted(x, num_y & 1, z, numbers, factors)


def collect_imaginary(x: Integers, z: Integers, layout: Layout) -> Strings:
    """Strings given by masks over qubits, each for a value of its own: the imaginary part between two states."""
    x, z = _on_bits(x, layout), _on_bits(z, layout)
    num_y = np.bitwise_count(x & z).astype(np.int64)
    signs = 1 - 2 * (np.bitwise_count(z & layout.flips).astype(np.int64) & 1)
    factors = signs * np.array([1.0, 1.0, -1.0, -1.0])[num_y & 3]
    return _sorted(x, 1 - (num_y & 1), z, np.arange(len(x)), factors)


def _sorted(x: Integers, imaginary: Integers, z: Integers, owners: Integers, factors: np.ndarray) -> Strings:
    rows, inverse = np.unique(np.stack([x, imaginary, z], axis=1), axis=0, return_inverse=True)
    return Strings(rows[:, 0].copy(), rows[:, 1] > 0, rows[:, 2].copy(), owners, inverse.reshape(-1), factors)


def _on_bits(masks: Integers, layout: Layout) -> Integers:
    """Masks over qubits as masks over the bits on which these live."""
    moved = np.zeros_like(masks)
    for qubit, bit in enumerate(layout.bits):
        moved |= (masks >> qubit & 1) << bit
    return moved
