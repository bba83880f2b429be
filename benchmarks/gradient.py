"""Gradients by the adjoint method: against one expectation value, finite differences and PennyLane Lightning's adjoint.

    python -m benchmarks gradient [--qubits 20] [--layers 5] [--repeats 5]

The ansatz has ry and rz on every qubit and a chain of cx in each layer (200 parameters at 20 qubits and 5 layers), the
observable is that of a transverse-field Ising chain. All in turn in one process, double precision, as many threads as
there are cores; minima and medians of several. Lightning is left out where it is not installed: pip install '.[peers]'.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from importlib import util
from typing import Any

import numpy as np

import qsimenv as qs
from benchmarks.machine import save
from qsimenv.circuit import Circuit, Gate, gate

PROMISE = 6.0
"""Times one expectation value."""


def ansatz(num_qubits: int, layers: int) -> Circuit:
    gates: list[Gate] = []
    for layer in range(layers):
        for qubit in range(num_qubits):
            first = 2 * (layer * num_qubits + qubit)
            gates += [gate("ry", qubit, params=[f"p{first}"]), gate("rz", qubit, params=[f"p{first + 1}"])]
        gates += [gate("cx", qubit, qubit + 1) for qubit in range(num_qubits - 1)]
    names = tuple(f"t{k}" for k in range(2 * num_qubits * layers))
    return Circuit(num_qubits, 0, tuple(gates), parameters=names)


def ising(num_qubits: int) -> dict[str, float]:
    terms = {"I" * k + "ZZ" + "I" * (num_qubits - 2 - k): -1.0 for k in range(num_qubits - 1)}
    return terms | {"I" * k + "X" + "I" * (num_qubits - 1 - k): -0.5 for k in range(num_qubits)}


def lightning(circuit: Circuit, observable: dict[str, float], rows: np.ndarray, gradient: bool) -> Callable[[int], Any]:
    """Lightning's expectation value, or its gradient by the adjoint method, for one of ``rows`` of parameter values."""
    import pennylane as qml

    n = circuit.num_qubits
    made = {"ry": qml.RY, "rz": qml.RZ, "cx": qml.CNOT}
    words = [qml.pauli.string_to_pauli_word(text) for text in observable]
    device = qml.device("lightning.qubit", wires=n)
    config = qml.devices.ExecutionConfig(gradient_method="adjoint", gradient_keyword_arguments={})

    def run(number: int) -> Any:
        angles = iter(rows[number % len(rows)])
        operations = []
        for each in circuit.instructions:
            assert isinstance(each, Gate)
            wires = [n - 1 - qubit for qubit in each.qubits]
            operations.append(made[each.name](*(next(angles) for _ in each.params), wires=wires))
        tape = qml.tape.QuantumScript(operations, [qml.expval(qml.Hamiltonian(list(observable.values()), words))])
        if not gradient:
            return device.execute(tape)
        tape.trainable_params = list(range(rows.shape[1]))  # not the coefficients of the observable
        return device.compute_derivatives(tape, config)

    return run


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qubits", type=int, default=20)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
    circuit, observable = ansatz(options.qubits, options.layers), ising(options.qubits)
    values = np.random.default_rng(1).uniform(-3, 3, len(circuit.parameters))
    runners: dict[str, Callable[[], Any]] = {
        "expectation value": lambda: qs.run(circuit, observables=[observable], parameters=values),
        "gradient": lambda: qs.gradient(circuit, observable, values),
    }
    if util.find_spec("pennylane_lightning") is not None:
        adjoint = lightning(circuit, observable, values[np.newaxis], gradient=True)
        runners["lightning adjoint"] = lambda: adjoint(0)
    found = {name: runner() for name, runner in runners.items()}
    deviation = _deviation(circuit, observable, values, found["gradient"])
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(options.repeats):
        for name, runner in runners.items():
            began = time.perf_counter()
            runner()
            times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(each) for name, each in times.items()}
    minima = {name: min(each) for name, each in times.items()}
    ratio = medians["gradient"] / medians["expectation value"]
    figures = {
        "qubits": options.qubits, "parameters": len(values), "seconds": medians, "least_seconds": minima,
        "gradient_over_expectation_value": ratio, "promise": PROMISE, "deviation_from_differences": deviation,
    }  # fmt: skip
    print(", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in medians.items()))
    print(f"gradient / expectation value {ratio:.2f} (promise {PROMISE}), off from finite differences {deviation:.1e}")
    if "lightning adjoint" in medians:
        figures["lightning_over_gradient"] = medians["lightning adjoint"] / medians["gradient"]
        figures["deviation_from_lightning"] = float(
            np.abs(np.ravel(found["lightning adjoint"]) - found["gradient"]).max()
        )
        print(
            f"Lightning's adjoint {figures['lightning_over_gradient']:.1f} times ours, "
            f"results differ by {figures['deviation_from_lightning']:.1e}"
        )
    save("gradient", figures)
    return figures


def _deviation(circuit: Circuit, observable: dict[str, float], values: np.ndarray, found: np.ndarray) -> float:
    """The largest deviation from central differences (fourth order) for some of the parameters."""
    step, worst = 1e-3, 0.0
    for index in range(0, len(values), max(1, len(values) // 5)):
        rows = values + step * np.array([[-2.0], [-1.0], [1.0], [2.0]]) * np.eye(len(values))[index]
        e = qs.run(circuit, observables=[observable], parameters=rows).expectation_values[:, 0]
        worst = max(worst, abs((8 * (e[2] - e[1]) - (e[3] - e[0])) / (12 * step) - found[index]))
    return float(worst)
