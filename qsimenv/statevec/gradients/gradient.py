"""Gradients of an expectation value by the adjoint method (Jones and Gacon, arXiv:2009.02823).

Forward once; then lambda = H psi, and both are taken back through the circuit together (``pair``). Just before a gate
is undone, twice the imaginary parts of <lambda| P |psi> for some strings P are all that its parameters need
(``backwards``); they are read while a block of both states is in cache. Two states of memory and the buffers of an
exchange; the time hangs on the gates, not on the number of parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from qsimenv.circuit import Circuit, Gate
from qsimenv.comm import Team
from qsimenv.errors import NotSupportedError, OutOfMemoryError, QSimEnvError
from qsimenv.statevec.encoding.rows import REAL_TYPE
from qsimenv.statevec.exchange import PIECE_BYTES
from qsimenv.statevec.gradients.backwards import Backwards
from qsimenv.statevec.gradients.pair import Pair
from qsimenv.statevec.kernels.devices import Device, DeviceName, device
from qsimenv.statevec.measuring import pauli_applied_numba, pauli_cupy
from qsimenv.statevec.measuring.pauli_groups import Strings, collect
from qsimenv.statevec.measuring.pauli_numba import X_MASK
from qsimenv.statevec.planning.layout import Layout
from qsimenv.statevec.planning.program import lower
from qsimenv.statevec.simulate import Run, prepare
from qsimenv.statevec.state import State, Work
from qsimenv.task import Observable, Precision

Floats = npt.NDArray[np.float64]

PAIR_BLOCK_BITS = 14
"""Two states' blocks of so many bits and one plane to spare fill a second-level cache, in double precision."""


@lru_cache(maxsize=64)
def _gates(circuit: Circuit) -> tuple[Gate, ...]:
    """Raises NotSupportedError where they are not all of the circuit."""
    program = lower(circuit)
    if not program.is_pure:
        raise NotSupportedError(
            "gradient: this circuit measures, resets or branches in the middle, where no gradient is defined; "
            "move the measurements to the end"
        )
    return tuple(gate for segment in program.segments for gate in segment)


@lru_cache(maxsize=64)
def _backwards(circuit: Circuit, start: Layout, precision: Precision, on: DeviceName) -> Backwards:
    """Kept for the next set of parameter values."""
    found = device(on)
    block_bits = found.block_bits(start.num_local, precision, found.sweeps.num_threads())
    if found.form.reads:
        block_bits = min(block_bits, PAIR_BLOCK_BITS)
    return Backwards(_gates(circuit), len(circuit.parameters), start, block_bits, found.low_bits(precision))


def gradient(
    circuit: Circuit, observable: Observable, rows: Floats, precision: Precision, team: Team, work: Work | None = None,
    on: DeviceName = "cpu",
) -> Floats:  # fmt: skip
    """The derivatives of the expectation value by each parameter, for ``rows`` of shape (B, P): shape (B, P).

    *Collective* over a power of two of ranks; all return the same. Raises NotSupportedError for circuits that measure,
    reset or branch in the middle, OutOfMemoryError where two states do not fit. Cost: three to five runs a row.
    """
    _gates(circuit)
    work = work or Work()
    return np.array([_one_row(circuit, observable, values, precision, team, work, on) for values in rows])


def _one_row(
    circuit: Circuit, observable: Observable, values: Floats, precision: Precision, team: Team, work: Work,
    on: DeviceName,
) -> Floats:  # fmt: skip
    num_local = circuit.num_qubits - (team.size.bit_length() - 1)
    psi = Run(prepare(circuit, num_local, precision, on), team, values, 0, 0, 0, 0, work).final_state()
    pair = Pair(psi, applied(observable, psi), len(values))
    backwards = _backwards(circuit, psi.layout, precision, on)
    pair.run(backwards.plan, backwards.sweeps(values, precision, psi.device.form))
    return team.sum(pair.derivatives)


def applied(observable: Observable, state: State) -> State:
    """H psi, as a second state in the same layout. *Collective.* Raises OutOfMemoryError on every rank alike."""
    error: QSimEnvError | None = None
    planes = []
    try:
        planes = [state.device.empty(len(state.re), REAL_TYPE[state.precision]) for _ in range(2)]
    except MemoryError:
        error = OutOfMemoryError(
            f"gradient: a second state of {2 * state.re.nbytes >> 20} MiB on each of {state.team.size} ranks does not "
            "fit; use more ranks or precision='single'"
        )
    state.team.agree(error)
    for plane in planes:
        state.device.slots.put(plane, 0, 0, 0)
    other = State(planes[0], planes[1], state.layout, state.team, state.work)
    other.scale = state.scale
    strings = collect((observable,), state.layout)
    for terms in strings.split(state.layout.num_local):
        _add_strings(state, other, strings, terms)
    return other


def _add_strings(state: State, other: State, strings: Strings, terms: range) -> None:
    """Strings that flip one set of rank bits."""
    num_local = state.layout.num_local
    partner = state.team.rank ^ (int(strings.x_masks[terms.start]) >> num_local)
    coefficients = np.bincount(strings.strings, strings.factors, len(strings.x_masks))
    coefficients = np.where(strings.imaginary, -coefficients, coefficients)
    for start, re, im in _planes_of(partner, state):
        for some in strings.split(len(re).bit_length() - 1, terms):
            masks = strings.masks(some)
            first = start ^ (int(masks[0, X_MASK]) & (len(state.re) - len(re)))
            masks[:, X_MASK] &= len(re) - 1
            into = slice(first, first + len(re))
            _kernels_of(state.device).add_pauli_sum(
                re, im, partner << num_local | start, other.re[into], other.im[into], masks,
                strings.z_masks[some.start : some.stop], coefficients[some.start : some.stop],
            )  # fmt: skip


def _planes_of(partner: int, state: State) -> Iterator[tuple[int, Any, Any]]:
    """The state of ``partner``, which wants ours: (where it begins, real parts, imaginary parts) of each piece."""
    if partner == state.team.rank:
        yield 0, state.re, state.im
        return
    size = min(len(state.re), PIECE_BYTES // state.re.itemsize)
    piece = [state.device.buffer(size, state.re.dtype) for _ in range(2)]
    passage = state.device.passage(size, state.re.dtype)
    for start in range(0, len(state.re), size):
        for plane, into in zip((state.re, state.im), piece, strict=True):
            passage.exchange(state.team, partner, plane[start : start + size], into)
        yield start, piece[0], piece[1]


def _kernels_of(device: Device) -> ModuleType:
    """The kernels that apply strings there."""
    return pauli_applied_numba if device.name == "cpu" else pauli_cupy
