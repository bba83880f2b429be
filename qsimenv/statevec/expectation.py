"""Expectation values of sums of Pauli strings, exactly.

Terms are grouped by the bits they flip: for all terms of a group one pass over the state gives
sum_i conj(psi[i ^ x]) psi[i] sum_t c_t (-1)**popcount(i & z_t). A group that flips rank bits reads the partner rank's
planes in pieces of bounded size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from qsimenv.statevec import kernels_numba as kernels
from qsimenv.statevec.exchange import PIECE_BYTES
from qsimenv.statevec.layout import Layout
from qsimenv.statevec.state import State
from qsimenv.task import Observable

Groups = dict[int, list[tuple[int, complex]]]
"""For each X-mask over stored bits: the (Z-mask, coefficient) of its terms."""


def expectation_values(state: State, observables: Sequence[Observable]) -> npt.NDArray[np.float64]:
    """One real number an observable, shape (observables,). *Collective.* Cost: one pass a distinct X-mask of each."""
    values = [
        sum(_group_value(state, x, terms) for x, terms in _group(o.terms, state.layout).items()) for o in observables
    ]
    return state.team.sum(np.array(values, dtype=np.float64)) * abs(state.scale) ** 2


def _group(terms: Iterable[tuple[str, float]], layout: Layout) -> Groups:
    groups: Groups = {}
    for pauli, coefficient in terms:
        x = z = 0
        factor: complex = coefficient
        for qubit, letter in enumerate(reversed(pauli)):
            bit = 1 << layout.bits[qubit]
            x |= bit * (letter in "XY")
            z |= bit * (letter in "YZ")
            factor *= 1j if letter == "Y" else 1
        sign = -1 if (z & layout.flips).bit_count() % 2 else 1
        groups.setdefault(x, []).append((z, factor * sign))
    return groups


def _group_value(state: State, x: int, terms: Sequence[tuple[int, complex]]) -> float:
    """This rank's part of the value of one group."""
    num_local = state.layout.num_local
    z_masks = np.array([z for z, _ in terms], dtype=np.int64)
    coefficients = np.array([coefficient for _, coefficient in terms], dtype=np.complex128)
    local_x, partner = x & ((1 << num_local) - 1), state.team.rank ^ (x >> num_local)
    rest = (local_x, state.rank_index, z_masks, coefficients.real.copy(), coefficients.imag.copy())
    if partner == state.team.rank:
        return float(kernels.pauli_group(state.re, state.im, state.re, state.im, 0, len(state.re), 0, *rest))
    size = min(len(state.re), PIECE_BYTES // state.re.itemsize)
    other_re, other_im = np.empty(size, dtype=state.re.dtype), np.empty(size, dtype=state.re.dtype)
    total = 0.0
    for start in range(0, len(state.re), size):
        state.team.exchange(partner, state.re[start : start + size], other_re)
        state.team.exchange(partner, state.im[start : start + size], other_im)
        first = (start ^ local_x) & ~(size - 1)
        total += kernels.pauli_group(state.re, state.im, other_re, other_im, first, first + size, start, *rest)
    state.work.bytes_exchanged += 2 * state.re.nbytes
    return total
