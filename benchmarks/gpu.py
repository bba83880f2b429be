"""How near to the GPU's bandwidth sweeps come, and circuits to the bound of their plans: ``python -m benchmarks gpu``.

Measured in one run: the rate of a copy on the device, a sweep that turns one bit and one that turns all of its block,
then whole circuits. The bound of a circuit is what its sweeps move, at the rate of the copy. Before all that, a smaller
circuit of each family has to give the amplitudes that the CPU gives. Aims: a sweep of one row at 70 % of a copy, QFT
and HEA of 28 qubits in double precision within 1.6 times their bounds. Writes results/gpu.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import circuits
from benchmarks.machine import save
from qsimenv import arrays
from qsimenv.circuit import Circuit, Gate, gate
from qsimenv.comm import Team
from qsimenv.errors import QSimEnvError
from qsimenv.statevec.encoding.encode import encode
from qsimenv.statevec.encoding.rows import REAL_TYPE
from qsimenv.statevec.kernels.devices import DeviceName, device
from qsimenv.statevec.planning.layout import identity
from qsimenv.statevec.planning.planner import make_plan
from qsimenv.statevec.simulate import Run, prepare
from qsimenv.statevec.state import State, Work
from qsimenv.task import AMPLITUDE_BYTES, Precision

FAMILIES: dict[str, Callable[[int], Circuit]] = {
    "ghz": circuits.ghz, "qft": circuits.qft, "hea": circuits.hea, "tfim": circuits.tfim, "qaoa": circuits.qaoa,
}  # fmt: skip
LEAST_SHARE, MOST_RATIO = 0.7, 1.6
TOLERANCE = {"double": 1e-12, "single": 1e-5}
_CHECKED_QUBITS = 18


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--qubits", type=int, default=28)
    parser.add_argument("--precision", choices=("double", "single"), default="double")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args(arguments)
    try:
        gpu = arrays.gpu()
    except QSimEnvError as error:
        print(f"gpu: nothing is measured; {error}", file=sys.stderr)
        return {}
    figures = {"gpu": gpu.name, "qubits": options.qubits, "precision": options.precision}
    figures |= measure(options.qubits, options.precision, options.repetitions)
    print(f"written to {save('gpu', figures)}")
    return figures


def measure(num_qubits: int, precision: Precision, repetitions: int) -> dict[str, Any]:
    """All figures, printed as they come."""
    checked = min(num_qubits, _CHECKED_QUBITS)
    for name, family in FAMILIES.items():
        off = deviation(family(checked), precision)
        assert off < TOLERANCE[precision], f"{name} of {checked} qubits is off by {off:.1e}"
    print(f"amplitudes of {len(FAMILIES)} circuits of {checked} qubits: as on the CPU")
    copied = copy_bytes_per_s(num_qubits, precision, repetitions)
    print(f"copy on the device: {copied / 1e9:.0f} GB/s, read and write counted")
    found: dict[str, Any] = {"copy_bytes_per_s": copied, "sweeps": {}, "circuits": {}}
    state_bytes = AMPLITUDE_BYTES[precision] << num_qubits
    for name, gates in sweeps(num_qubits, precision).items():
        seconds = sweep_s(gates, num_qubits, precision, repetitions)
        share = 2 * state_bytes / seconds / copied
        found["sweeps"][name] = {"seconds": seconds, "share_of_copy": share}
        print(
            f"sweep, {name}: {seconds * 1e3:.2f} ms, {share:.0%} of the copy's rate (one row: {LEAST_SHARE:.0%} wanted)"
        )
    for name, family in FAMILIES.items():
        seconds, count = circuit_s(family(num_qubits), precision, repetitions)
        bound = count * 2 * state_bytes / copied
        found["circuits"][name] = {"seconds": seconds, "sweeps": count, "bound_s": bound, "ratio": seconds / bound}
        print(
            f"{name}: {seconds * 1e3:.1f} ms, {count} sweeps, {seconds / bound:.2f} of the bound ({MOST_RATIO} wanted)"
        )
    return found


def deviation(circuit: Circuit, precision: Precision) -> float:
    """How far the amplitudes are from those of the CPU."""
    on_cpu, on_gpu = (_final_state(circuit, precision, on).amplitudes() for on in ("cpu", "gpu"))
    return float(np.abs(on_cpu - on_gpu).max())


def _final_state(circuit: Circuit, precision: Precision, on: DeviceName) -> State:
    prepared = prepare(circuit, circuit.num_qubits, precision, on)
    return Run(prepared, Team(), np.zeros(0), 0, 0, 0, 0, Work()).final_state()


def _timed(call: Callable[[], object], repetitions: int) -> float:
    """The median of some times, after one that compiles and touches memory."""
    gpu, seconds = arrays.gpu(), []
    for number in range(repetitions + 1):
        gpu.synchronize()
        began = time.perf_counter()
        call()
        gpu.synchronize()
        if number:
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def copy_bytes_per_s(num_qubits: int, precision: Precision, repetitions: int) -> float:
    """What a copy of a plane to another one moves, counted twice: it is read and it is written."""
    gpu = arrays.gpu()
    source, into = (gpu.empty(1 << num_qubits, REAL_TYPE[precision]) for _ in range(2))
    return 2 * source.nbytes / _timed(lambda: gpu.copy(source, into), repetitions)


def sweeps(num_qubits: int, precision: Precision) -> dict[str, list[Gate]]:
    """Gates that one sweep does: on one bit, and on as many as a block has."""
    bits = device("gpu").block_bits(num_qubits, precision, 1)
    return {"one rotation": [gate("ry", 0, params=[0.3])],
            "rotations of a whole block": [gate("ry", qubit, params=[0.3]) for qubit in range(bits)]}  # fmt: skip


def sweep_s(gates: list[Gate], num_qubits: int, precision: Precision, repetitions: int) -> float:
    """Seconds of one sweep over a full state."""
    on = device("gpu")
    layout = identity(num_qubits, num_qubits)
    plan = make_plan(gates, layout, on.block_bits(num_qubits, precision, 1), on.low_bits(precision))
    (sweep,) = encode(plan, (), precision, on.form)[0]
    state = State.zero(layout, Team(), precision, on="gpu")
    return _timed(
        lambda: on.sweeps.sweep(
            state.re, state.im, sweep.block_bits, sweep.low_bits, sweep.offsets, sweep.outer, sweep.ops,
            sweep.coefficients, sweep.tables, 0,
        ), repetitions,
    )  # fmt: skip


def circuit_s(circuit: Circuit, precision: Precision, repetitions: int) -> tuple[float, int]:
    """Seconds of a run, plan and encoding kept, the state's memory made anew; and its sweeps."""
    prepared = prepare(circuit, circuit.num_qubits, precision, "gpu")
    work = Work()

    def run() -> None:
        Run(prepared, Team(), np.zeros(0), 0, 0, 0, 0, work).final_state()

    seconds = _timed(run, repetitions)
    return seconds, work.sweeps // (repetitions + 1)
