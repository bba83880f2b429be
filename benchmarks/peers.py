"""Us against qsim, Qiskit Aer, qulacs and PennyLane Lightning: the same circuits, side by side in one run.

    python -m benchmarks peers [--qubits 24] [--repeats 3] [--family hea ...] [--peer qsim ...]

Every simulator computes the final state of each family in `benchmarks.circuits` and keeps it where it is; building
the circuit in the peer's own terms is not timed, choosing kernels and fusing gates is. All run in this process with
as many threads as there are cores, in turn, so that a noisy machine disturbs all alike; the figure is the median. Each
peer runs at its best setting: qsim at its best fusion size, qulacs at its best block size. qsim is single precision and
is compared with our single precision, the others with our double. Peers that are not installed are left out:
pip install '.[peers]'.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable
from importlib import util
from typing import Any

import msgspec
import numpy as np

from benchmarks.circuits import FAMILIES
from benchmarks.machine import save
from qsimenv.circuit import Circuit, Gate
from qsimenv.comm import Team
from qsimenv.formats.qiskit_out import to_qiskit
from qsimenv.statevec.costs.calibrate import measure
from qsimenv.statevec.costs.cost import Machine, cost_of
from qsimenv.statevec.simulate import Run, forget_prepared, prepare
from qsimenv.statevec.state import Work
from qsimenv.statevec.threads import set_threads
from qsimenv.task import Precision

THREADS = len(os.sched_getaffinity(0))
_PAUSE_S = 0.5
"""Before each measurement: the threads of the one before spin for a while, in the hope of more work."""
Runner = Callable[[], Any]


def ours(circuit: Circuit, precision: Precision) -> Runner:
    """Plans anew every time, as the peers fuse anew."""

    def run() -> Any:
        forget_prepared()
        prepared = prepare(circuit, circuit.num_qubits, precision)
        return Run(prepared, Team(), np.zeros(0), 0, 0, 0, 0, Work()).final_state()

    return run


def gates_of(circuit: Circuit) -> Iterable[Gate]:
    return (each for each in circuit.instructions if isinstance(each, Gate))


def qsim(circuit: Circuit) -> list[Runner]:
    import cirq
    import qsimcirq

    qubits = cirq.LineQubit.range(circuit.num_qubits)
    made: dict[str, Callable[..., Any]] = {
        "h": lambda: cirq.H, "cx": lambda: cirq.CNOT, "rx": cirq.rx, "ry": cirq.ry, "rz": cirq.rz,
        "cp": lambda angle: cirq.CZPowGate(exponent=angle / math.pi),
    }  # fmt: skip
    theirs = cirq.Circuit()
    for gate in gates_of(circuit):
        on = [qubits[qubit] for qubit in gate.qubits]
        if gate.name in made:
            theirs.append(made[gate.name](*gate.params).on(*on))
        elif on:  # a phase of the whole state is on none
            controls, value = on[: gate.num_controls], gate.control_value
            operation = cirq.MatrixGate(gate.base_matrix()).on(*reversed(on[len(controls) :]))
            values = [value >> k & 1 for k in range(len(controls))]
            theirs.append(operation.controlled_by(*controls, control_values=values) if controls else operation)
    zero = np.zeros(1 << circuit.num_qubits, dtype=np.complex64)
    zero[0] = 1
    runners = []
    for fused in (2, 3, 4):
        simulator = qsimcirq.QSimSimulator({"f": fused, "t": THREADS})
        runners.append(lambda s=simulator: s.simulate_into_1d_array(theirs, qubit_order=qubits, initial_state=zero))
    return runners


def aer(circuit: Circuit) -> list[Runner]:
    from qiskit import transpile
    from qiskit_aer import AerSimulator

    simulator = AerSimulator(method="statevector", max_parallel_threads=THREADS, precision="double")
    theirs = transpile(to_qiskit(circuit), simulator, optimization_level=0)  # gates that it lacks
    theirs.measure_all()  # one shot: Aer computes the whole state and returns next to nothing
    return [lambda: simulator.run(theirs, shots=1).result().get_counts()]


def qulacs(circuit: Circuit) -> list[Runner]:
    import qulacs as q
    from qulacs.circuit import QuantumCircuitOptimizer

    def build() -> Any:
        theirs = q.QuantumCircuit(circuit.num_qubits)
        for gate in gates_of(circuit):
            match gate.name:
                case "h":
                    theirs.add_H_gate(gate.qubits[0])
                case "cx":
                    theirs.add_CNOT_gate(*gate.qubits)
                case "rx" | "ry" | "rz":
                    getattr(theirs, f"add_{gate.name.upper()}_gate")(gate.qubits[0], -float(gate.params[0]))
                case "cp":
                    matrix = q.gate.DenseMatrix(gate.qubits[1], np.diag([1, np.exp(1j * float(gate.params[0]))]))
                    matrix.add_control_qubit(gate.qubits[0], 1)
                    theirs.add_gate(matrix)
                case _:
                    theirs.add_gate(q.gate.DenseMatrix(list(gate.qubits), gate.base_matrix()))
        return theirs

    def runner(block: int) -> Runner:
        def run() -> Any:
            theirs = built.copy()
            QuantumCircuitOptimizer().optimize(theirs, block)
            state = q.QuantumState(circuit.num_qubits)
            theirs.update_quantum_state(state)
            return state

        built = build()
        return run

    return [runner(block) for block in (1, 2, 3, 4)]


def lightning(circuit: Circuit) -> list[Runner]:
    import pennylane as qml

    n = circuit.num_qubits
    made = {"h": qml.Hadamard, "cx": qml.CNOT, "rx": qml.RX, "ry": qml.RY, "rz": qml.RZ, "cp": qml.ControlledPhaseShift}
    operations = []
    for gate in gates_of(circuit):
        wires = [n - 1 - qubit for qubit in gate.qubits]
        if gate.name == "unitary":
            operations.append(qml.QubitUnitary(gate.base_matrix(), wires=wires[::-1]))
        else:
            operations.append(made[gate.name](*gate.params, wires=wires))
    tape = qml.tape.QuantumScript(operations, [qml.expval(qml.PauliZ(0))])
    device = qml.device("lightning.qubit", wires=n)
    return [lambda: device.execute(tape)]


PEERS: dict[str, tuple[str, Callable[[Circuit], list[Runner]], Precision]] = {
    "qsim": ("qsimcirq", qsim, "single"),
    "aer": ("qiskit_aer", aer, "double"),
    "qulacs": ("qulacs", qulacs, "double"),
    "lightning": ("pennylane_lightning", lightning, "double"),
}


def scipy_fft(num_qubits: int) -> Runner:
    """The transform that the qft circuit makes, by the library that people use for it."""
    from scipy import fft

    random = np.random.default_rng(1)
    numbers = (random.normal(size=1 << num_qubits) + 0j).astype(np.complex64)
    return lambda: fft.fft(numbers, workers=THREADS)


def bounds(circuit: Circuit, machine: Machine) -> dict[str, float]:
    """Seconds that our own plan must take at least, in each precision: its bytes and operations at the peak rates."""
    found = {}
    precisions: tuple[Precision, ...] = ("single", "double")
    for precision in precisions:
        prepared = prepare(circuit, circuit.num_qubits, precision)
        start = prepared.start()
        cost = cost_of(prepared.plan(0, start), prepared.encoding(0, start, np.zeros(0), from_zero=True), precision)
        found[precision] = cost.bound_s(machine)
    return found


def seconds_of(runner: Runner) -> float:
    time.sleep(_PAUSE_S)
    began = time.perf_counter()
    runner()
    return time.perf_counter() - began


def compare(circuit: Circuit, peers: list[str], repeats: int) -> dict[str, Any]:
    """Median seconds of each, and the ratio of each peer to us at its precision. One precision after the other."""
    medians: dict[str, float] = {}
    for precision in ("single", "double"):
        runners = {f"ours {precision}": ours(circuit, precision)}
        runners |= {name: best_setting(PEERS[name][1](circuit)) for name in peers if PEERS[name][2] == precision}
        if circuit.name == "qft" and precision == "single":
            runners["scipy fft"] = scipy_fft(circuit.num_qubits)
        runners[f"ours {precision}"]()  # compiled code is loaded
        times: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(repeats):
            for name, runner in runners.items():
                times[name].append(seconds_of(runner))
        medians |= {name: statistics.median(values) for name, values in times.items()}
    ratios = {name: medians[name] / medians[f"ours {PEERS[name][2]}"] for name in peers}
    return {"seconds": medians, "ratios": ratios}


def best_setting(settings: list[Runner]) -> Runner:
    """The fastest of a peer's settings, each tried once."""
    if len(settings) == 1:
        return settings[0]
    seconds = [seconds_of(runner) for runner in settings]
    return settings[seconds.index(min(seconds))]


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qubits", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--family", choices=list(FAMILIES), action="append")
    parser.add_argument("--peer", choices=list(PEERS), action="append")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    set_threads()
    wanted = options.peer or list(PEERS)
    peers = [name for name in wanted if util.find_spec(PEERS[name][0]) is not None]
    for name in sorted(set(wanted) - set(peers)):
        print(f"{name} is not installed: pip install '.[peers]'")
    machine = Machine(measure(Team(), THREADS), THREADS)
    print(
        f"{options.qubits} qubits, {THREADS} threads; seconds, how many bounds of the plan ours take, and in brackets"
    )
    print(
        f"many times ours a peer takes; {machine.rates.memory_bytes_per_s / 1e9:.0f} GB/s in place, "
        f"{machine.rates.store_bytes_per_s / 1e9:.0f} written alone, "
        f"{machine.rates.single.flops_per_s * THREADS / 1e9:.0f} Gflop/s (single)",
        flush=True,
    )
    figures: dict[str, Any] = {"qubits": options.qubits, "threads": THREADS, "families": {}}
    figures["rates"] = msgspec.to_builtins(machine.rates)
    for family in options.family or list(FAMILIES):
        circuit = FAMILIES[family](options.qubits)
        result = compare(circuit, peers, options.repeats)
        result["bound_seconds"] = bounds(circuit, machine)
        figures["families"][family] = result
        shown = [
            f"ours {precision} {(seconds := result['seconds'][f'ours {precision}']):.3f}, {seconds / bound:.2f} bounds"
            for precision, bound in result["bound_seconds"].items()
        ]
        if "scipy fft" in result["seconds"]:
            shown.append(f"scipy fft {result['seconds']['scipy fft']:.3f}")
        shown += [f"{name} {result['seconds'][name]:.3f} ({result['ratios'][name]:.1f}x)" for name in peers]
        print(f"{family:5} {', '.join(shown)}", flush=True)
    figures["geometric_means"] = {
        name: math.exp(statistics.fmean(math.log(each["ratios"][name]) for each in figures["families"].values()))
        for name in peers
    }
    print("geometric means: " + ", ".join(f"{name} {mean:.2f}x" for name, mean in figures["geometric_means"].items()))
    save(f"peers-{options.qubits}", figures)
    return figures
