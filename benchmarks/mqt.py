"""Circuits of MQT Bench (Quetschlich, Burgholzer, Wille, Quantum 7, 1062) that planners are compared on, as Circuits.

They are what its version 2.3 makes at the algorithm level, with composite gates (QFT, permutation) written out as
Qiskit writes them and without measurements; su2random is that of version 1, with entanglement between all pairs. Random
angles are our own, and so is the ring of graphstate: planning depends on neither but on which qubits have an edge.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from qsimenv.circuit import Circuit, Gate, gate


def ghz(n: int) -> Circuit:
    return _circuit("ghz", n, [gate("h", n - 1), *(gate("cx", q, q - 1) for q in reversed(range(1, n)))])


def qft(n: int) -> Circuit:
    return _circuit("qft", n, [*_qft(n), *_reversal(n)])


def wstate(n: int) -> Circuit:
    gates = [gate("x", n - 1)]
    for m in range(1, n):
        angle = math.acos(math.sqrt(1 / (n - m + 1)))
        target = n - m - 1
        gates.append(gate("ry", target, params=[-angle]))
        gates += [gate("cz", n - m, target), gate("ry", target, params=[angle])]
    return _circuit("wstate", n, [*gates, *(gate("cx", k - 1, k) for k in reversed(range(1, n)))])


def graphstate(n: int, seed: int = 1) -> Circuit:
    """Every qubit has two edges."""
    order = [int(qubit) for qubit in np.random.default_rng(seed).permutation(n)]
    edges = sorted((min(a, b), max(a, b)) for a, b in zip(order, [*order[1:], order[0]], strict=True))
    return _circuit("graphstate", n, [*(gate("h", q) for q in range(n)), *(gate("cz", *edge) for edge in edges)])


def ae(n: int, probability: float = 0.2) -> Circuit:
    """Amplitude estimation; the last qubit is the one that is estimated."""
    angle, m = 2 * math.asin(math.sqrt(probability)), n - 1
    gates = [gate("ry", m, params=[angle]), *(gate("h", q) for q in range(m))]
    gates += [gate("cry", q, m, params=[math.remainder(2 * angle * 2**q, 4 * math.pi)]) for q in range(m)]
    return _circuit("ae", n, [*gates, *_inverse_qft(m), *_reversal(m)])


def qpeexact(n: int) -> Circuit:
    """Phase estimation of a phase that n - 1 bits spell; the last qubit holds the eigenstate."""
    m = n - 1
    random.seed(10)
    bits = 0
    while bits == 0:
        bits = random.getrandbits(m)
    phase = sum((Fraction(1, 1 << k) for k in range(m) if bits >> (m - k - 1) & 1), Fraction(0))
    gates = [gate("x", m), *(gate("h", q) for q in range(m))]
    for q in range(m):
        angle = (phase * 2**q) % 2
        angle -= 2 if angle > 1 else 0
        if angle:
            gates.append(gate("cp", m, q, params=[float(angle) * math.pi]))
    return _circuit("qpeexact", n, [*gates, *_inverse_qft(m)])


def vqe_su2(n: int) -> Circuit:
    return _su2("vqe_su2", n, [(k - 1, k) for k in reversed(range(1, n))])


def su2random(n: int) -> Circuit:
    return _su2("su2random", n, [(a, b) for a in range(n) for b in range(a + 1, n)])


FAMILIES: dict[str, Callable[[int], Circuit]] = {
    "ghz": ghz, "qft": qft, "wstate": wstate, "graphstate": graphstate, "ae": ae, "qpeexact": qpeexact,
    "su2random": su2random, "vqe_su2": vqe_su2,
}  # fmt: skip


def _qft(n: int) -> list[Gate]:
    gates = []
    for target in reversed(range(n)):
        gates.append(gate("h", target))
        gates += [gate("cp", target, q, params=[math.pi / 2 ** (target - q)]) for q in reversed(range(target))]
    return gates


def _inverse_qft(n: int) -> list[Gate]:
    gates = _reversal(n)[::-1]
    for target in range(n):
        gates += [gate("cp", target, q, params=[-math.pi / 2 ** (target - q)]) for q in range(target)]
        gates.append(gate("h", target))
    return gates


def _reversal(n: int) -> list[Gate]:
    return [gate("swap", q, n - 1 - q) for q in range(n // 2)]


def _su2(name: str, n: int, pairs: Sequence[tuple[int, int]], layers: int = 3) -> Circuit:
    """EfficientSU2: ry and rz on all, then cx on the pairs; and once more ry and rz."""
    numbers = np.random.default_rng(10)
    gates: list[Gate] = []
    for layer in range(layers + 1):
        for kind in ("ry", "rz"):
            gates += [gate(kind, q, params=[float(numbers.uniform(0, 2 * math.pi))]) for q in range(n)]
        if layer < layers:
            gates += [gate("cx", a, b) for a, b in pairs]
    return _circuit(name, n, gates)


def _circuit(name: str, n: int, gates: list[Gate]) -> Circuit:
    return Circuit(n, 0, tuple(gates), name=name)
