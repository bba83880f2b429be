"""Layers of a circuit for the adjoint method: runs of gates whose parameters can all be looked at from one place. Pure.

The derivative by a parameter is ``2 Re <lambda| K |psi>`` right behind its gate. Behind the gates that follow it is
that with K turned by them: a K on one qubit is turned by gates on that qubit, strings of Z stay strings of Z behind
diagonal gates, CX, X and SWAP, and any K stays what it is behind gates on other qubits. A layer ends where none holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qsimenv import formula
from qsimenv.circuit import Gate
from qsimenv.statevec.gradients.generators import generator
from qsimenv.statevec.planning.steps import unmixed_targets

_PAULIS = ((1, 0), (1, 1), (0, 1))  # X, Y and Z as (flip, sign)
_MATRICES = (np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]]), np.diag([1, -1]))


@dataclass(frozen=True)
class Request:
    """``factor`` times ``2 Im <lambda| P |psi>`` belongs to parameter ``parameter``; P by its masks over qubits."""

    parameter: int
    x_mask: int
    z_mask: int
    factor: float


def split(gate_list: Sequence[Gate]) -> list[tuple[Gate, ...]]:
    """The layers of a run of gates, in order. All parameters of a layer can be looked at behind its last gate."""
    layers: list[list[Gate]] = []
    pending = _Pending()
    for gate in gate_list:
        if not layers or not pending.admits(gate):
            layers.append([])
            pending = _Pending()
            pending.admits(gate)
        layers[-1].append(gate)
    return [tuple(layer) for layer in layers]


def is_parametric(gate: Gate) -> bool:
    return any(isinstance(angle, str) for angle in gate.params)


@dataclass
class _Pending:
    """By qubit, what the parametric gates of a layer left there: strings of Z, a K on one qubit, any other K."""

    signs: set[int] = field(default_factory=set)
    shared_signs: set[int] = field(default_factory=set)
    turned: set[int] = field(default_factory=set)
    fixed: set[int] = field(default_factory=set)

    def admits(self, gate: Gate) -> bool:
        """Whether the gate may follow in this layer; if so it is taken note of."""
        qubits = set(gate.qubits)
        if qubits & self.fixed:
            return False
        diagonal = len(unmixed_targets(gate)) == len(gate.qubits) - gate.num_controls
        if len(qubits) <= 1 and not _is_x(gate):
            return self._one_qubit(gate, qubits, diagonal)
        if qubits & self.turned and not _is_x(gate):
            return False
        if diagonal:
            if is_parametric(gate):
                self.shared_signs |= qubits
        elif _is_permutation(gate):
            self._permute(gate)
        elif qubits & (self.signs | self.shared_signs):
            return False
        elif is_parametric(gate):
            self.fixed |= qubits
        return True

    def _one_qubit(self, gate: Gate, qubits: set[int], diagonal: bool) -> bool:
        if diagonal:
            if is_parametric(gate):
                self.signs |= qubits
            return True
        if qubits & self.shared_signs:
            return False
        if is_parametric(gate) or qubits & self.signs:
            self.turned |= qubits
        return True

    def _permute(self, gate: Gate) -> None:
        moving = gate.qubits if gate.base == "swap" else gate.qubits[1:]
        if set(moving) & (self.signs | self.shared_signs):
            self.shared_signs |= set(gate.qubits)


def _is_x(gate: Gate) -> bool:
    return gate.base == "x" and not gate.num_controls


def _is_permutation(gate: Gate) -> bool:
    """X with at most one control, and SWAP."""
    return (gate.base == "x" and gate.num_controls <= 1) or (gate.base == "swap" and not gate.num_controls)


def requests(layer: Sequence[Gate], values: npt.NDArray[np.float64]) -> Iterator[Request]:
    """What is to be known behind the layer's last gate, for parameter values of shape (P,)."""
    later = _Later()
    for gate in reversed(layer):
        if is_parametric(gate):
            for number, angle in enumerate(gate.params):
                slopes = formula.gradient(angle, values)
                for term in generator(gate, number, values) if slopes else ():
                    for x, z, b in later.turned(gate.qubits, *term):
                        for parameter, slope in slopes.items():
                            yield Request(parameter, x, z, -b * slope)
        later.note(gate, values)


class _Later:
    """What the gates behind a place in a layer do to a K there."""

    def __init__(self) -> None:
        self._turns: dict[int, npt.NDArray[np.complex128]] = {}
        self._signs: dict[int, tuple[int, int]] = {}
        """By qubit the mask that its Z becomes, and the sign."""
        self._mixed: set[int] = set()
        """Qubits on which Z does not stay a string of Z."""

    def note(self, gate: Gate, values: npt.NDArray[np.float64]) -> None:
        """One gate more, before those noted so far."""
        qubits = gate.qubits
        if len(qubits) == 1 and not gate.num_controls:
            matrix = gate.base_matrix(values)
            before = self._turns.get(qubits[0])
            self._turns[qubits[0]] = matrix if before is None else before @ matrix
            if _is_x(gate):
                mask, sign = self._sign(qubits[0])
                self._signs[qubits[0]] = mask, -sign
            elif not unmixed_targets(gate):
                self._mixed.add(qubits[0])
        elif gate.base == "swap" and not gate.num_controls:
            a, b = qubits
            self._signs[a], self._signs[b] = self._sign(b), self._sign(a)
        elif gate.base == "x" and gate.num_controls == 1:
            (mask, sign), (other, other_sign) = self._sign(qubits[1]), self._sign(qubits[0])
            self._signs[qubits[1]] = mask ^ other, sign * other_sign * (1 if gate.control_value else -1)

    def turned(self, qubits: Sequence[int], x: int, z: int, b: float) -> Iterator[tuple[int, int, float]]:
        """A string over a gate's qubits, behind the later gates: strings over all qubits."""
        if len(qubits) == 1 and qubits[0] in (self._turns if x else self._mixed):
            yield from self._turned_one(qubits[0], x, z, b)
        elif x:
            yield _spread(x, qubits), _spread(z, qubits), b
        else:
            mask, total = 0, 1
            for k, qubit in enumerate(qubits):
                if z >> k & 1:
                    other, sign = self._sign(qubit)
                    mask, total = mask ^ other, total * sign
            yield 0, mask, b * total

    def _sign(self, qubit: int) -> tuple[int, int]:
        return self._signs.get(qubit, (1 << qubit, 1))

    def _turned_one(self, qubit: int, x: int, z: int, b: float) -> Iterator[tuple[int, int, float]]:
        turn = self._turns[qubit]
        matrix = turn @ _MATRICES[_PAULIS.index((x, z))] @ turn.conj().T
        for (flip, sign), pauli in zip(_PAULIS, _MATRICES, strict=True):
            part = float(np.trace(pauli @ matrix).real) / 2
            if part:
                yield flip << qubit, sign << qubit, b * part


def _spread(mask: int, qubits: Sequence[int]) -> int:
    return sum((mask >> k & 1) << qubit for k, qubit in enumerate(qubits))
