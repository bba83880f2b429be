"""The circuit families that the benchmarks run, as Circuits without measurements.

ghz: h and a chain of cx. qft: h on all, then the textbook transform. hea: four layers of ry, rz and a chain of cx.
tfim: five Trotter steps. qaoa: three rounds over the edges of a random graph of mean degree three. qv: eight layers of
random two-qubit unitaries on random pairs (quantum volume). Random numbers come from a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np

from qsimenv.circuit import Circuit, Gate, Measure, gate


def ghz(n: int) -> Circuit:
    return _circuit("ghz", n, [gate("h", 0), *_chain(n)])


def qft(n: int) -> Circuit:
    gates = [gate("h", qubit) for qubit in range(n)]
    for target in reversed(range(n)):
        gates.append(gate("h", target))
        gates += [gate("cp", control, target, params=[math.pi / 2 ** (target - control)]) for control in range(target)]
    return _circuit("qft", n, gates)


def hea(n: int, layers: int = 4) -> Circuit:
    random = np.random.default_rng(1)
    gates: list[Gate] = []
    for _ in range(layers):
        for qubit in range(n):
            gates.append(gate("ry", qubit, params=[float(random.uniform(-math.pi, math.pi))]))
            gates.append(gate("rz", qubit, params=[float(random.uniform(-math.pi, math.pi))]))
        gates += _chain(n)
    return _circuit("hea", n, gates)


def tfim(n: int, steps: int = 5) -> Circuit:
    gates: list[Gate] = []
    for _ in range(steps):
        for qubit in range(n - 1):
            gates += [gate("cx", qubit, qubit + 1), gate("rz", qubit + 1, params=[0.2]), gate("cx", qubit, qubit + 1)]
        gates += [gate("rx", qubit, params=[0.3]) for qubit in range(n)]
    return _circuit("tfim", n, gates)


def qaoa(n: int, rounds: int = 3) -> Circuit:
    random = np.random.default_rng(2)
    pairs = [(a, b) for a in range(n) for b in range(a + 1, n)]
    edges = [pairs[k] for k in sorted(random.choice(len(pairs), size=3 * n // 2, replace=False))]
    gates = [gate("h", qubit) for qubit in range(n)]
    for number in range(rounds):
        for a, b in edges:
            gates += [gate("cx", a, b), gate("rz", b, params=[0.4 + 0.1 * number]), gate("cx", a, b)]
        gates += [gate("rx", qubit, params=[0.7 - 0.1 * number]) for qubit in range(n)]
    return _circuit("qaoa", n, gates)


def qv(n: int, depth: int = 8) -> Circuit:
    random = np.random.default_rng(3)
    gates: list[Gate] = []
    for _ in range(depth):
        order = random.permutation(n)
        for k in range(n // 2):
            pair = (int(order[2 * k]), int(order[2 * k + 1]))
            gates.append(gate("unitary", *pair, matrix=random_unitary(random, 4)))
    return _circuit("qv", n, gates)


FAMILIES: dict[str, Callable[[int], Circuit]] = {
    "ghz": ghz, "qft": qft, "hea": hea, "tfim": tfim, "qaoa": qaoa, "qv": qv,
}  # fmt: skip


def measured(circuit: Circuit) -> Circuit:
    """The same, with all qubits measured at the end."""
    n = circuit.num_qubits
    instructions = (*circuit.instructions, *(Measure(qubit, qubit) for qubit in range(n)))
    return msgspec.structs.replace(circuit, num_clbits=n, instructions=instructions)


def _chain(n: int) -> list[Gate]:
    return [gate("cx", qubit, qubit + 1) for qubit in range(n - 1)]


def _circuit(name: str, n: int, gates: list[Gate]) -> Circuit:
    return Circuit(n, 0, tuple(gates), name=name)


def random_unitary(random: np.random.Generator, size: int) -> np.ndarray:
    """From the Haar measure: the Q of a complex Gaussian matrix, with the phases of R's diagonal put in."""
    q, r = np.linalg.qr(random.normal(size=(size, size)) + 1j * random.normal(size=(size, size)))
    return np.asarray(q * (np.diagonal(r) / np.abs(np.diagonal(r))))
