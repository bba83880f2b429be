"""Small circuits: the overhead of one, and many sets of parameters in one call; beside Qiskit Aer and Lightning.

    python -m benchmarks small [--repeats 20]

Ours goes through the public `qs.run` and counts everything from the values to the numbers. Aer gets its circuits
transpiled and bound beforehand, or its own batches of parameters (`parameter_binds`); Lightning runs QNodes. Of random
circuits, ours are new every time, and all the peers of `benchmarks peers` run one that they were given beforehand. The
peers are left out where they are not installed: pip install '.[peers]'.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from importlib import util
from typing import Any

import msgspec
import numpy as np

import qsimenv as qs
from benchmarks.machine import save
from benchmarks.peers import PEERS as ALL_PEERS
from benchmarks.peers import best_setting
from benchmarks.service import ansatz, ghz, vqls_epoch
from qsimenv.circuit import Circuit, gate
from qsimenv.formats.qiskit_out import to_qiskit

SETS = 10_000
EPOCH = 480
WIDER, WIDER_SETS = (12, 4), 100
"""Qubits and layers."""
WIDEST = (16, 4)
"""Those of a circuit that is run for one set after the other, as an optimiser asks for them."""
RANDOM = ((4, 30), (4, 1000), (8, 1000), (12, 100), (12, 1000))
"""Qubits and gates of circuits that are run once."""
_PAUSE_S = 0.2
"""Before each measurement: the threads of the one before spin for a while."""

Call = Callable[[int], Any]


def one_circuit() -> Circuit:
    return vqls_epoch()[0].circuit


def values_of(circuit: Circuit, count: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(-3, 3, (count, len(circuit.parameters)))


def ours() -> dict[str, tuple[Call, int]]:
    """What is called, and how often it has to be for a median that means something."""
    one, wide, bell = one_circuit(), ansatz(4, 3), ghz(3)
    fresh, many = values_of(one, 1000), values_of(wide, SETS)
    epoch, measured, wider = vqls_epoch(), _measured(wide), ansatz(*WIDER)
    some, widest = values_of(wider, WIDER_SETS), ansatz(*WIDEST)
    others, string = values_of(widest, 1000), "Z" * WIDEST[0]
    return {
        "one circuit, fresh parameters": (lambda k: qs.run(one, parameters=fresh[k % 1000], observables=["ZZZ"]), 50),
        "one circuit, 100 shots": (lambda k: qs.run(bell, shots=100, seed=k).counts, 50),
        "epoch": (lambda _: [qs.run(t.circuit, parameters=t.parameters, observables=t.observables) for t in epoch], 1),
        "10,000 sets": (lambda _: qs.run(wide, parameters=many, observables=["ZZZZ"]), 1),
        "10,000 sets, single": (
            lambda _: qs.run(wide, parameters=many, observables=["ZZZZ"], precision="single"),
            1,
        ),
        "12 qubits, 100 sets": (lambda _: qs.run(wider, parameters=some, observables=["Z" * WIDER[0]]), 1),
        "16 qubits, fresh parameters": (
            lambda k: qs.run(widest, parameters=others[k % 1000], observables=[string]),
            10,
        ),
        "16 qubits, gradient": (lambda k: qs.gradient(widest, string, others[k % 1000]), 10),
        "10,000 sets, 100 shots each": (
            lambda k: qs.run(measured, parameters=many, shots=100, seed=k),
            1,
        ),
    }


def random_circuit(num_qubits: int, num_gates: int, seed: int) -> Circuit:
    """Rotations of one qubit by any angle, H, and a CX between any two in a third of all cases."""
    random, gates = np.random.default_rng(seed), []
    for name in random.choice(["cx", "rx", "ry", "rz", "h"], num_gates, p=[0.35, 0.2, 0.2, 0.2, 0.05]):
        qubits = [int(q) for q in random.choice(num_qubits, 2 if name == "cx" else 1, replace=False)]
        params = [float(random.uniform(-3, 3))] if name.startswith("r") else []
        gates.append(gate(name, *qubits, params=params))
    return Circuit(num_qubits, 0, tuple(gates))


def once(num_qubits: int, num_gates: int, repeats: int) -> dict[str, float]:
    """Milliseconds of a random circuit, of each simulator."""
    unseen = [random_circuit(num_qubits, num_gates, seed) for seed in range(1 + repeats)]
    string = "Z" * num_qubits
    row = {"ours_ms": 1e3 * seconds_a_call(lambda k: qs.run(unseen[k], observables=[string]), 1, repeats)}
    for name, (module, settings, _) in ALL_PEERS.items():
        if util.find_spec(module):
            runner = best_setting(settings(unseen[0]))
            row[f"{name}_ms"] = 1e3 * seconds_a_call(lambda _, runner=runner: runner(), 1, repeats)  # type: ignore[misc]
    return row


def _measured(circuit: Circuit) -> Circuit:
    ends = ghz(circuit.num_qubits)
    return msgspec.structs.replace(
        circuit,
        num_clbits=ends.num_clbits,
        registers=ends.registers,
        instructions=(*circuit.instructions, *ends.instructions[-circuit.num_qubits :]),
    )


def aer() -> dict[str, tuple[Call, int]]:
    from qiskit_aer import AerSimulator

    simulator = AerSimulator(method="statevector", max_parallel_threads=len(os.sched_getaffinity(0)))
    shots = to_qiskit(ghz(3))

    def with_expectation(circuit: Circuit) -> Any:
        from qiskit.quantum_info import SparsePauliOp

        theirs = to_qiskit(circuit)
        theirs.save_expectation_value(SparsePauliOp("Z" * circuit.num_qubits), range(circuit.num_qubits))
        return theirs

    def batch(circuit: Circuit, values: np.ndarray) -> tuple[list[Any], list[dict[Any, list[float]]]]:
        theirs = with_expectation(circuit)
        return [theirs], [{p: list(values[:, k]) for k, p in enumerate(theirs.parameters)}]

    one, wide = with_expectation(one_circuit()), ansatz(4, 3)
    fresh, many = values_of(one_circuit(), 1000), values_of(wide, SETS)
    bound = [
        with_expectation(t.circuit).assign_parameters(row) for t in vqls_epoch() for row in np.asarray(t.parameters)
    ]
    circuits, binds = batch(wide, many)
    wider = ansatz(*WIDER)
    wider_circuits, wider_binds = batch(wider, values_of(wider, WIDER_SETS))
    widest, others = with_expectation(ansatz(*WIDEST)), values_of(ansatz(*WIDEST), 1000)
    return {
        "one circuit, fresh parameters": (
            lambda k: simulator.run(one.assign_parameters(fresh[k % 1000]), shots=1).result(),
            20,
        ),
        "one circuit, 100 shots": (
            lambda k: simulator.run(shots, shots=100, seed_simulator=k).result().get_counts(),
            20,
        ),
        "epoch": (lambda _: simulator.run(bound, shots=1).result(), 1),
        "10,000 sets": (lambda _: simulator.run(circuits, parameter_binds=binds, shots=1).result(), 1),
        "12 qubits, 100 sets": (
            lambda _: simulator.run(wider_circuits, parameter_binds=wider_binds, shots=1).result(),
            1,
        ),
        "16 qubits, fresh parameters": (
            lambda k: simulator.run(widest.assign_parameters(others[k % 1000]), shots=1).result(),
            1,
        ),
    }


def lightning() -> dict[str, tuple[Call, int]]:
    import pennylane as qml

    device = qml.device("lightning.qubit", wires=3)

    @qml.qnode(device, diff_method=None)
    def node(x: Any) -> Any:
        for wire in range(3):
            qml.RY(x[wire], wires=wire)
        qml.CZ(wires=(0, 1))
        qml.CZ(wires=(1, 2))
        return qml.expval(qml.PauliZ(0) @ qml.PauliZ(1) @ qml.PauliZ(2))

    from benchmarks.gradient import lightning as adjoint

    fresh, widest = values_of(one_circuit(), 1000), ansatz(*WIDEST)
    others, string = values_of(widest, 1000), {"Z" * WIDEST[0]: 1.0}
    value, gradient = (adjoint(widest, string, others, has_gradient) for has_gradient in (False, True))
    return {
        "one circuit, fresh parameters": (lambda k: node(fresh[k % 1000]), 20),
        "16 qubits, fresh parameters": (value, 1),
        "16 qubits, gradient": (gradient, 1),
    }


PEERS = {"aer": ("qiskit_aer", aer), "lightning": ("pennylane_lightning", lightning)}
_SLOW_S = 1.0
"""What takes longer than this is called three times only."""


def seconds_a_call(call: Call, often: int, repeats: int) -> float:
    """The median over ``repeats`` of the mean of ``often`` calls, after one call that does not count."""
    time.sleep(_PAUSE_S)
    began = time.perf_counter()
    call(0)
    if time.perf_counter() - began > _SLOW_S:
        repeats, often = min(repeats, 3), 1
    measured = []
    for repeat in range(repeats):
        began = time.perf_counter()
        for k in range(often):
            call(1 + repeat * often + k)
        measured.append((time.perf_counter() - began) / often)
    return statistics.median(measured)


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args(arguments)
    found = {name: make() for name, (module, make) in PEERS.items() if util.find_spec(module)}
    figures: dict[str, dict[str, float]] = {}

    def show(title: str, row: dict[str, float]) -> None:
        figures[title] = row
        print(f"{title}: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)

    for title, (call, often) in ours().items():
        row = {"ours_ms": 1e3 * seconds_a_call(call, often, options.repeats)}
        for name, calls in found.items():
            if title in calls:
                row[f"{name}_ms"] = 1e3 * seconds_a_call(*calls[title], options.repeats)
        show(title, row)
    for num_qubits, num_gates in RANDOM:
        title = f"random circuit, {num_qubits} qubits, {num_gates} gates, once"
        show(title, once(num_qubits, num_gates, options.repeats))
    save("small", {"sets": SETS, "epoch": EPOCH, "median": figures})
    return figures
