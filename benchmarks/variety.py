"""Us against qsim and Qiskit Aer on circuits of many kinds: chemistry, lattice models, arithmetic, random gates.

    python -m benchmarks variety [--qubits 20] [--repeats 3] [--family uccsd ...] [--peer qsim ...]

What `peers` does for six circuits that have been studied, for those that nobody has: planning and fusing are timed, as
there, and nothing is claimed but that none of them is slower than with a peer. Circuits are made with Qiskit and read
by us as any user's are.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from importlib import util
from typing import Any

import numpy as np

from benchmarks.circuits import random_unitary
from benchmarks.machine import save
from benchmarks.peers import PEERS, THREADS, compare
from benchmarks.table import Row, show
from qsimenv.circuit import Circuit
from qsimenv.formats.qiskit_in import from_qiskit
from qsimenv.statevec.threads import set_threads

_PEERS = ("qsim", "aer")
Random = np.random.Generator
Made = Any
"""A circuit of Qiskit's."""


def _empty(n: int) -> Made:
    from qiskit import QuantumCircuit

    return QuantumCircuit(n)


def _half_filled(n: int) -> Made:
    circuit = _empty(n)
    circuit.x(range(n // 2))
    return circuit


def _bonds(n: int) -> list[tuple[int, int]]:
    """Neighbours in a chain: every second pair, then the others."""
    return [(q, q + 1) for first in (0, 1) for q in range(first, n - 1, 2)]


def _evolve(circuit: Made, letters: dict[int, str], angle: float) -> None:
    """``exp(-i angle P)`` for a Pauli string, as Qiskit writes it out."""
    from qiskit.circuit.library import PauliEvolutionGate
    from qiskit.quantum_info import SparsePauliOp

    string = "".join(letters.get(qubit, "I") for qubit in reversed(range(circuit.num_qubits)))
    circuit.compose(PauliEvolutionGate(SparsePauliOp(string), time=angle).definition, inplace=True)


def uccsd(n: int, random: Random) -> Made:
    """Six double excitations of unitary coupled cluster, eight Pauli strings each."""
    circuit, half = _half_filled(n), n // 2
    for _ in range(6):
        i, j = sorted(random.choice(half, 2, replace=False))
        a, b = sorted(half + random.choice(n - half, 2, replace=False))
        between = dict.fromkeys([*range(i + 1, j), *range(a + 1, b)], "Z")
        angle = float(random.uniform(-1, 1))
        for letters in ("XXXY", "XXYX", "XYXX", "YXXX", "YYYX", "YYXY", "YXYY", "XYYY"):
            _evolve(circuit, between | dict(zip((i, j, a, b), letters, strict=True)), angle)
    return circuit


def paulis(n: int, random: Random) -> Made:
    """Thirty evolutions by random Pauli strings of weight five."""
    circuit = _half_filled(n)
    for _ in range(30):
        chosen = random.choice(n, 5, replace=False)
        _evolve(circuit, {int(q): str(random.choice(["X", "Y", "Z"])) for q in chosen}, float(random.uniform(0, 1)))
    return circuit


def heisenberg(n: int, random: Random) -> Made:
    """Six Trotter steps of a Heisenberg chain."""
    circuit = _half_filled(n)
    for _ in range(6):
        for bond in _bonds(n):
            for name in ("rxx", "ryy", "rzz"):
                getattr(circuit, name)(0.1, *bond)
    return circuit


def hubbard(n: int, random: Random) -> Made:
    """Five Trotter steps of a Fermi-Hubbard chain: hopping, chemical potential, repulsion."""
    circuit = _half_filled(n)
    for _ in range(5):
        for bond in _bonds(n):
            circuit.rxx(0.3, *bond)
            circuit.ryy(0.3, *bond)
        for q in range(n):
            circuit.p(0.2, q)
        for q in range(n // 2):
            circuit.cp(0.3, q, q + n // 2)
    return circuit


def grid(n: int, random: Random) -> Made:
    """Twelve cycles of a random circuit on a grid: a root of X, Y or W on all, iSWAP-like gates on some edges."""
    circuit, width = _empty(n), 5
    edges = [(q, q + 1) for q in range(n - 1) if (q + 1) % width], [(q, q + width) for q in range(n - width)]
    for cycle in range(12):
        for q in range(n):
            lean = float(random.choice([0.0, math.pi / 2, math.pi / 4]))
            circuit.u(math.pi / 2, lean - math.pi / 2, math.pi / 2 - lean, q)
        for a, b in edges[cycle % 2]:
            if (a // (width if cycle % 2 else 1) + cycle // 2) % 2 == 0:
                circuit.iswap(a, b)
                circuit.cp(math.pi / 6, a, b)
    return circuit


def brickwork(n: int, random: Random) -> Made:
    """Eight layers of random two-qubit matrices on neighbours."""
    circuit = _empty(n)
    for layer in range(8):
        for q in range(layer % 2, n - 1, 2):
            circuit.unitary(random_unitary(random, 4), [q, q + 1])
    return circuit


def clifford_t(n: int, random: Random) -> Made:
    """Twenty layers of random H, S, T, X, then of CX and CZ on random pairs."""
    circuit = _empty(n)
    for _ in range(20):
        for q in range(n):
            getattr(circuit, str(random.choice(["h", "s", "t", "x"])))(q)
        order = random.permutation(n)
        for k in range(n // 2):
            getattr(circuit, str(random.choice(["cx", "cz"])))(int(order[2 * k]), int(order[2 * k + 1]))
    return circuit


def adder(n: int, random: Random) -> Made:
    """A ripple-carry adder of Toffoli and CX gates, on all pairs of numbers at once."""
    from qiskit.circuit.library import CDKMRippleCarryAdder

    bits = (n - 2) // 2
    circuit, sums = _empty(n), CDKMRippleCarryAdder(bits, kind="full").decompose(reps=2)
    circuit.h(range(1, 2 * bits + 1))
    return circuit.compose(sums, range(sums.num_qubits))


def fourier_adder(n: int, random: Random) -> Made:
    """The same by Fourier transforms."""
    from qiskit.circuit.library import DraperQFTAdder

    bits = n // 2
    circuit = _empty(n)
    circuit.h(range(bits))
    circuit.x(range(bits, 2 * bits, 2))
    return circuit.compose(DraperQFTAdder(bits, kind="fixed").decompose(reps=3), range(2 * bits))


def estimation(n: int, random: Random) -> Made:
    """Phase estimation of a phase that the qubits cannot spell."""
    from qiskit.synthesis import synth_qft_full

    circuit = _empty(n)
    circuit.h(range(n - 1))
    circuit.x(n - 1)
    for q in range(n - 1):
        circuit.cp(math.tau * 0.34567 * 2**q, q, n - 1)
    return circuit.compose(synth_qft_full(n - 1, inverse=True), range(n - 1))


def grover(n: int, random: Random) -> Made:
    """Two turns of Grover's search for one number."""
    circuit, controls = _empty(n), list(range(n - 1))
    wanted = [q for q in range(n) if not random.integers(2)]
    circuit.h(range(n))
    for _ in range(2):
        for flipped in (wanted, range(n)):
            circuit.x(flipped)
            circuit.h(n - 1)
            circuit.mcx(controls, n - 1)
            circuit.h(n - 1)
            circuit.x(flipped)
            if flipped is wanted:
                circuit.h(range(n))
        circuit.h(range(n))
    return circuit


def two_local(n: int, random: Random) -> Made:
    """EfficientSU2, four times entangled between all pairs."""
    return _with_values("efficient_su2", n, random, reps=4, entanglement="full")


def feature_map(n: int, random: Random) -> Made:
    """Two rounds of ZZFeatureMap."""
    return _with_values("zz_feature_map", n, random, reps=2)


def _with_values(name: str, n: int, random: Random, **options: Any) -> Made:
    from qiskit.circuit import library

    circuit = getattr(library, name)(n, **options)
    return circuit.assign_parameters(random.uniform(-3, 3, circuit.num_parameters))


def mixed(n: int, random: Random) -> Made:
    """Twelve layers of Qiskit's random circuits: any standard gate on up to three qubits."""
    from qiskit.circuit.random import random_circuit

    return random_circuit(n, 12, max_operands=3, seed=5)


def dense(targets: int, count: int) -> Callable[[int, Random], Made]:
    """Random matrices on so many random qubits."""

    def make(n: int, random: Random) -> Made:
        circuit = _empty(n)
        for _ in range(count):
            circuit.unitary(
                random_unitary(random, 1 << targets), [int(q) for q in random.choice(n, targets, replace=False)]
            )
        return circuit

    return make


FAMILIES: dict[str, Callable[[int, Random], Made]] = {
    "uccsd": uccsd, "paulis": paulis, "heisenberg": heisenberg, "hubbard": hubbard, "grid": grid,
    "brickwork": brickwork, "clifford_t": clifford_t, "adder": adder, "fourier_adder": fourier_adder,
    "estimation": estimation, "grover": grover, "two_local": two_local, "feature_map": feature_map, "mixed": mixed,
    "dense_3": dense(3, 24), "dense_4": dense(4, 12), "dense_5": dense(5, 8),
}  # fmt: skip


def circuit_of(family: str, num_qubits: int) -> Circuit:
    """As we read it."""
    return from_qiskit(FAMILIES[family](num_qubits, np.random.default_rng(7)))


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qubits", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--family", choices=list(FAMILIES), action="append")
    parser.add_argument("--peer", choices=_PEERS, action="append")
    options = parser.parse_args(arguments)
    set_threads()
    wanted = options.peer or _PEERS
    peers = [name for name in wanted if util.find_spec(PEERS[name][0]) is not None]
    for name in sorted(set(wanted) - set(peers)):
        print(f"{name} is not installed: pip install '.[peers]'")
    found: dict[str, Any] = {}
    for family in options.family or list(FAMILIES):
        result = compare(circuit_of(family, options.qubits), peers, options.repeats)
        found[family] = result
        seconds = (f"{name} {value:.3f}" for name, value in result["seconds"].items())
        print(f"{family:13} {', '.join(seconds)} s", flush=True)
    rows = [Row(f"{family}, {name}", each["ratios"][name], "x ours", at_least=1.0)
            for family, each in found.items() for name in peers]  # fmt: skip
    means = {name: math.exp(np.mean([math.log(each["ratios"][name]) for each in found.values()])) for name in peers}
    rows += [Row(f"geometric mean, {name}", mean, "x ours") for name, mean in means.items()]
    show(f"circuits of many kinds, {options.qubits} qubits, {THREADS} threads: a peer's time", rows)
    figures = {"qubits": options.qubits, "threads": THREADS, "families": found, "geometric_means": means}
    save(f"variety-{options.qubits}", figures)
    return figures
