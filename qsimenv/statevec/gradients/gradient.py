"""Gradients of an expectation value by the adjoint method (Jones and Gacon, arXiv:2009.02823), layer by layer.

Forward once; then lambda = H psi, and both are taken back through the circuit together. Behind each layer of gates
(``layers``) twice the imaginary parts of <lambda| P |psi> for some strings P are all that its parameters need.
Two states of memory and the buffers of an exchange; the time hangs on the gates, not on the number of parameters.
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
from qsimenv.statevec.encoding.encode import REAL_TYPE, encode
from qsimenv.statevec.exchange import PIECE_BYTES
from qsimenv.statevec.gradients.layers import Request, is_parametric, requests, split
from qsimenv.statevec.kernels.devices import Device, DeviceName, device
from qsimenv.statevec.measuring import pauli_applied_numba, pauli_cupy
from qsimenv.statevec.measuring.expectation import imaginary_parts
from qsimenv.statevec.measuring.pauli_groups import Strings, collect
from qsimenv.statevec.measuring.pauli_numba import X_MASK
from qsimenv.statevec.planning.layout import Layout
from qsimenv.statevec.planning.plan import Plan
from qsimenv.statevec.planning.planner import make_plan
from qsimenv.statevec.planning.program import lower
from qsimenv.statevec.simulate import Run, prepare
from qsimenv.statevec.state import State, Work
from qsimenv.task import Observable, Precision

Floats = npt.NDArray[np.float64]


class _Backwards:
    """A circuit's layers, and the plans that undo them: made once for each number of ranks."""

    def __init__(self, circuit: Circuit, num_local: int, precision: Precision, on: DeviceName) -> None:
        program = lower(circuit)
        if not program.is_static:
            raise NotSupportedError(
                "gradient: this circuit measures, resets or branches in the middle, where no gradient is defined; "
                "move the measurements to the end"
            )
        gate_list = [gate for segment in program.segments for gate in segment]
        last = max((k for k, gate in enumerate(gate_list) if is_parametric(gate)), default=-1)
        self.behind = tuple(gate_list[last + 1 :])
        self.layers = split(gate_list[: last + 1])
        found = device(on)
        threads = found.sweeps.num_threads()
        self._sizes = found.block_bits(num_local, precision, threads), found.low_bits(precision)
        self._plans: dict[tuple[tuple[Gate, ...], Layout], Plan] = {}

    def undoing(self, layer: tuple[Gate, ...], layout: Layout) -> Plan:
        if (layer, layout) not in self._plans:
            inverse = [gate.inverse() for gate in reversed(layer)]
            self._plans[layer, layout] = make_plan(inverse, layout, *self._sizes)
        return self._plans[layer, layout]


@lru_cache(maxsize=64)
def _backwards(circuit: Circuit, num_local: int, precision: Precision, on: DeviceName) -> _Backwards:
    return _Backwards(circuit, num_local, precision, on)


def gradient(
    circuit: Circuit, observable: Observable, rows: Floats, precision: Precision, team: Team, work: Work | None = None,
    on: DeviceName = "cpu",
) -> Floats:  # fmt: skip
    """The derivatives of the expectation value by each parameter, for ``rows`` of shape (B, P): shape (B, P).

    *Collective* over a power of two of ranks; all return the same. Raises NotSupportedError for circuits that measure,
    reset or branch in the middle, OutOfMemoryError where two states do not fit. Cost: three to five runs a row.
    """
    num_local = circuit.num_qubits - (team.size.bit_length() - 1)
    backwards = _backwards(circuit, num_local, precision, on)
    work = work or Work()
    return np.array([_one_row(circuit, backwards, observable, values, precision, team, work, on) for values in rows])


def _one_row(
    circuit: Circuit, backwards: _Backwards, observable: Observable, values: Floats, precision: Precision, team: Team,
    work: Work, on: DeviceName,
) -> Floats:  # fmt: skip
    num_local = circuit.num_qubits - (team.size.bit_length() - 1)
    psi = Run(prepare(circuit, num_local, precision, on), team, values, 0, 0, 0, 0, work).final_state()
    other = applied(observable, psi)
    result = np.zeros(len(values))
    following = backwards.behind
    for layer in reversed(backwards.layers):
        plan = backwards.undoing(following, psi.layout)
        encoded = encode(plan, values, precision, psi.device.form)
        psi.run(plan, encoded)
        other.run(plan, encoded)
        _add_layer(psi, other, list(requests(layer, values)), result)
        following = layer
    return result


def _add_layer(psi: State, other: State, wanted: list[Request], result: Floats) -> None:
    """Each distinct string is looked at once."""
    numbers = {key: k for k, key in enumerate(dict.fromkeys((each.x_mask, each.z_mask) for each in wanted))}
    if not numbers:
        return
    masks = np.array(list(numbers), dtype=np.int64)
    parts = imaginary_parts(psi, other, masks[:, 0], masks[:, 1])
    for each in wanted:
        result[each.parameter] += each.factor * parts[numbers[each.x_mask, each.z_mask]]


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
    strings = collect([observable], state.layout)
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
