"""Expectation values of sums of Pauli strings, exactly.

``pauli_groups`` says which strings share a reading of the state, ``pauli_numba`` or ``pauli_cupy`` reads it. Where
strings flip rank bits, two ranks trade halves of their states in pieces of bounded size, and each looks at half of the
pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from qsimenv.statevec.exchange import PIECE_BYTES
from qsimenv.statevec.kernels.devices import Device, Passage
from qsimenv.statevec.measuring import pauli_cupy, pauli_numba
from qsimenv.statevec.measuring.pauli_groups import Integers, Strings, collect, collect_imaginary
from qsimenv.statevec.planning.layout import identity
from qsimenv.statevec.state import State
from qsimenv.task import Observable

Floats = npt.NDArray[np.float64]


def expectation_values(state: State, observables: Sequence[Observable]) -> Floats:
    """One real number an observable, shape (observables,). *Collective.*

    Cost: one reading of the state for all strings without X and Y, and one for each distinct set of flipped qubits, or
    fewer; half an exchange for each two sets of flipped rank qubits.
    """
    strings = collect(tuple(observables), state.layout)
    sums = np.zeros(len(strings.x_masks))
    num_local = state.layout.num_local
    for terms in strings.split(max(num_local - 1, 0)):
        if strings.x_masks[terms.start] >> num_local == 0:
            _add_own(state, strings, terms, sums)
        else:
            _add_traded(state, strings, terms, sums)
    return strings.values(state.team.sum(sums), len(observables)) * abs(state.scale) ** 2


def _add_own(state: State, strings: Strings, terms: range, sums: Floats) -> None:
    """Strings that flip no rank bit."""
    for some in strings.readings(terms):
        _add(state, strings, some, sums, (state.re, state.im), 0, paired=True)


def _add_traded(state: State, strings: Strings, terms: range, sums: Floats) -> None:
    """Strings that flip the same rank bits, and the top local bit or not.

    The lower of two ranks takes the pairs in which its own index has a zero at the top local bit.
    """
    num_local, half = state.layout.num_local, len(state.re) // 2
    x = int(strings.x_masks[terms.start])
    partner = state.team.rank ^ (x >> num_local)
    if not half:  # one amplitude: both look at the pair
        other, passage = _room(state, 1)
        for plane, into in zip((state.re, state.im), other, strict=True):
            passage.exchange(state.team, partner, plane, into)
        _add(state, strings, terms, sums, (other[0], other[1]), 0, paired=True)
        return
    flips_top = x >> (num_local - 1) & 1
    lower = state.team.rank < partner
    outgoing, incoming = (half, flips_top * half) if lower else (flips_top * half, half)
    size = min(half, PIECE_BYTES // state.re.itemsize)
    other, passage = _room(state, size)
    for start in range(0, half, size):
        for plane, into in zip((state.re, state.im), other, strict=True):
            passage.exchange(state.team, partner, plane[outgoing + start : outgoing + start + size], into)
        for some in strings.readings(terms):
            _add(state, strings, some, sums, (other[0], other[1]), incoming + start, paired=False)
    state.work.bytes_exchanged += state.re.nbytes


def sums_of_products(state: State, other: State, x_masks: Integers, z_masks: Integers) -> Floats:
    """For each string the sum that ``pauli_numba`` defines, of stored numbers: the part of ``<other| P |state>`` that
    is imaginary but for the factors i of Y. *Local.*

    Masks over index bits, which flip no rank bit. Both states are in one layout. Cost as for ``expectation_values``.
    """
    num_qubits = len(state.layout.bits)
    strings = collect_imaginary(x_masks, z_masks, identity(num_qubits, state.layout.num_local))
    sums = np.zeros(len(strings.x_masks))
    for some in strings.readings(range(len(sums))):
        _add(state, strings, some, sums, (other.re, other.im), 0, paired=False)
    found: Floats = sums[strings.strings] / 2
    return found


def _add(
    state: State, strings: Strings, terms: range, sums: Floats, other: tuple[Any, Any], offset: int, *, paired: bool
) -> None:
    masks = strings.masks(terms)
    masks[:, pauli_numba.X_MASK] &= len(state.re) - 1
    z_masks = strings.z_masks[terms.start : terms.stop]
    sums[terms.start : terms.stop] += kernels_of(state.device).pauli_sums(
        state.re, state.im, *other, offset, state.rank_index, masks, z_masks, paired
    )


def kernels_of(device: Device) -> ModuleType:
    """The kernels that sum up Pauli strings there."""
    return pauli_numba if device.name == "cpu" else pauli_cupy


def _room(state: State, size: int) -> tuple[tuple[Any, Any], Passage]:
    """Arrays for pieces of a partner's planes, and the way there."""
    device, real = state.device, state.re.dtype
    return (device.buffer(size, real), device.buffer(size, real)), device.passage(size, real)
