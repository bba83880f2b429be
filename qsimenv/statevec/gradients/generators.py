"""What a gate's parameters generate: for each angle the operator K with dG = K G, as a sum of Pauli strings. Pure.

K is anti-Hermitian: ``i b`` times a string for real b. Of a rotation it is the same at every angle. Controls put a
projector beside it, which is a sum of strings of Z. The adjoint method of ``gradient`` needs nothing else of a gate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from qsimenv import formula, gates
from qsimenv.circuit import Gate

Term = tuple[int, int, float]
"""Bits flipped and bits with a sign (bit k for the gate's qubit k), and b."""

_SMALLEST = 1e-14


def generator(gate: Gate, angle: int, values: Sequence[float] | np.ndarray) -> tuple[Term, ...]:
    """The strings of K for angle number ``angle`` of a gate, at parameter values of shape (P,)."""
    if gates.BASE[gate.base].num_params == 1:
        return _of_rotation(gate.base, gate.num_controls, gate.control_value)
    angles = [float(formula.evaluate(each, values)) for each in gate.params]
    matrix = gates.BASE[gate.base].matrix(*angles)
    return _strings(_derivative(gate.base, angles, angle) @ matrix.conj().T, gate.num_controls, gate.control_value)


@lru_cache(maxsize=1024)
def _of_rotation(base: str, num_controls: int, control_value: int) -> tuple[Term, ...]:
    matrix = gates.BASE[base].matrix(0.7)
    return _strings(_derivative(base, [0.7], 0) @ matrix.conj().T, num_controls, control_value)


def _derivative(base: str, angles: Sequence[float], number: int) -> gates.Matrix:
    """Of the matrix by one angle. Entries hold frequencies up to one in steps of a half: five points tell all."""
    if base == "rv":
        return _derivative_of_rv(angles, number)

    def at(step: int) -> gates.Matrix:
        moved = [angle + 4 * math.pi * step / 5 * (k == number) for k, angle in enumerate(angles)]
        return gates.BASE[base].matrix(*moved)

    total: gates.Matrix = sum(-0.25 * (-1) ** j / math.sin(j * math.pi / 5) * at(j) for j in range(1, 5))
    return total


def _derivative_of_rv(angles: Sequence[float], number: int) -> gates.Matrix:
    """Of exp(-i H) by a coefficient of H, in the eigenbasis of H (Daleckii and Krein)."""
    paulis = (np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]]), np.diag([1, -1]))
    energies, basis = np.linalg.eigh(sum(angle / 2 * pauli for angle, pauli in zip(angles, paulis, strict=True)))
    mean, half = np.add.outer(energies, energies) / 2, np.subtract.outer(energies, energies) / 2
    slopes = -1j * np.exp(-1j * mean) * np.sinc(half / np.pi)
    inner = basis.conj().T @ (paulis[number] / 2) @ basis
    return np.asarray(basis @ (slopes * inner) @ basis.conj().T)


def _strings(matrix: gates.Matrix, num_controls: int, control_value: int) -> tuple[Term, ...]:
    """``matrix`` on the targets where the controls have their value, as strings; without the identity."""
    terms: list[Term] = []
    size = len(matrix)
    index = np.arange(size)
    for x in range(size):
        entries = matrix[index ^ x, index]  # what takes i to i ^ x
        for z in range(size):
            signs = 1 - 2 * (np.bitwise_count(index & z).astype(int) & 1)
            b = complex((entries * signs).sum() / size / 1j ** (x & z).bit_count()).imag
            if abs(b) > _SMALLEST:
                terms += _controlled(x << num_controls, z << num_controls, b, num_controls, control_value)
    return tuple(term for term in terms if term[0] or term[1])


def _controlled(x: int, z: int, b: float, num_controls: int, control_value: int) -> list[Term]:
    """A string times the projector on the value of the controls, which are the lowest qubits."""
    return [
        (x, z | chosen, b / (1 << num_controls) * (-1) ** (chosen & control_value).bit_count())
        for chosen in range(1 << num_controls)
    ]
