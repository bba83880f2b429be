"""What plans cost and how short they are; nothing is run.

    python -m benchmarks plan

Exchanges: circuits of MQT Bench with 31 qubits on 16 ranks, beside what Atlas' integer program reaches (SC '24; its
stages less one). Sweeps: the six families of ``benchmarks.circuits``, with the passes that their sweeps take and the
milliseconds of processor time that planning and encoding take. Long: a circuit of a hundred thousand gates.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from benchmarks import circuits, mqt
from benchmarks.machine import save
from qsimenv.circuit import Circuit, Gate
from qsimenv.statevec.encoding import rows as form
from qsimenv.statevec.encoding.encode import encode
from qsimenv.statevec.kernels.sweep_numba import block_bits
from qsimenv.statevec.planning.plan import Plan
from qsimenv.statevec.planning.planner import forget_plans, plan_from_zero
from qsimenv.task import Precision

EXCHANGES = {"ghz": 1, "qft": 1, "wstate": 1, "graphstate": 1, "ae": 2, "qpeexact": 2, "su2random": 4}
"""At most so many, at 31 qubits with 4 rank bits."""
QUBITS, RANK_BITS, SECONDS = 31, 4, 1.0
THREADS = len(os.sched_getaffinity(0))
LONG_GATES = 106_000
PASSES = {
    form.ROTATE: "rotate",
    form.QUADRATIC: "phases",
    form.PERMUTE: "permute",
    form.TWO_TARGETS: "dense",
    form.DENSE: "dense",
    form.SPREAD: "spread",
    form.BUTTERFLIES: "butterflies",
    form.ARRANGE: "arrange",
}

Made = TypeVar("Made")


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args(arguments)
    plan_of(circuits.qft(18), 18, "double")  # compiles
    figures = {
        "exchanges": {"qubits": QUBITS, "rank_bits": RANK_BITS, "families": exchanges(options.repetitions)},
        "sweeps": {str(n): sweeps(n, options.repetitions) for n in (20, 24, 26)},
        "long": long(),
    }
    save("plan", figures)
    return figures


def plan_of(circuit: Circuit, num_local: int, precision: Precision) -> Plan:
    """Made anew."""
    forget_plans()
    return plan_from_zero(gates_of(circuit), circuit.num_qubits, num_local, block_bits(num_local, THREADS))


def gates_of(circuit: Circuit) -> list[Gate]:
    return [each for each in circuit.instructions if isinstance(each, Gate)]


def exchanges(repetitions: int) -> dict[str, Any]:
    figures = {}
    for name, family in mqt.FAMILIES.items():
        circuit = family(QUBITS)
        seconds, plan = timed(lambda c=circuit: plan_of(c, QUBITS - RANK_BITS, "double"), repetitions)
        moved = [len(stage.exchange) for stage in plan.stages if stage.exchange]
        figures[name] = {
            "gates": len(plan.gates), "exchanges": plan.num_exchanges, "at_most": EXCHANGES.get(name),
            "bits_moved": moved, "sweeps": plan.num_sweeps, "plan_s": round(seconds, 5),
        }  # fmt: skip
        promise = f"at most {EXCHANGES[name]} wanted" if name in EXCHANGES else "no promise"
        print(f"{name:10} {len(plan.gates):5} gates: {plan.num_exchanges} exchanges ({promise}) of {moved} bits, "
              f"{plan.num_sweeps} sweeps, planned in {seconds * 1e3:.1f} ms")  # fmt: skip
    return figures


def sweeps(num_qubits: int, repetitions: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name, family in circuits.FAMILIES.items():
        circuit = family(num_qubits)
        figures[name] = {"gates": len(circuit.instructions)}
        for precision in ("single", "double"):
            plan_s, plan = timed(lambda c=circuit, p=precision: plan_of(c, num_qubits, p), repetitions)
            encode_s, encoded = timed(lambda plan=plan, p=precision: encode(plan, (), p, from_zero=True), repetitions)
            kinds = Counter(PASSES.get(row[form.KIND], "plain") for sweep in encoded[0] for row in sweep.ops.tolist())
            figures[name][precision] = {
                "sweeps": plan.num_sweeps, "passes": dict(sorted(kinds.items())),
                "plan_ms": round(plan_s * 1e3, 3), "encode_ms": round(encode_s * 1e3, 3),
            }  # fmt: skip
            passes = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            print(f"{name:5} {num_qubits} qubits {precision}: {plan.num_sweeps} sweeps ({passes}), "
                  f"plan {plan_s * 1e3:.1f} ms, encode {encode_s * 1e3:.1f} ms")  # fmt: skip
    return figures


def long() -> dict[str, Any]:
    """Layers of hea on 24 qubits until there are enough gates."""
    gates_a_layer = 3 * 24 - 1
    circuit = circuits.hea(24, -(-LONG_GATES // gates_a_layer))
    plan_s, plan = timed(lambda: plan_of(circuit, 24, "double"), 1)
    encode_s, _ = timed(lambda: encode(plan, (), "double"), 1)
    print(f"{len(plan.gates)} gates: {plan.num_sweeps} sweeps, plan {plan_s:.2f} s, encode {encode_s:.2f} s")
    return {"gates": len(plan.gates), "sweeps": plan.num_sweeps, "plan_s": round(plan_s, 3),
            "encode_s": round(encode_s, 3)}  # fmt: skip


def timed(make: Callable[[], Made], repetitions: int) -> tuple[float, Made]:
    """The median of the seconds of processor time, and what was made last. Other load on the machine does not count."""
    seconds: list[float] = []
    for _ in range(repetitions):
        began = time.thread_time()
        made = make()
        seconds.append(time.thread_time() - began)
    return statistics.median(seconds), made
