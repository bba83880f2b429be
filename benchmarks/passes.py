"""What one pass over the blocks costs, by its kind, beside what it must cost at least.

    python -m benchmarks passes [--qubits 24] [--repeats 5]

A state is swept over with one pass done many times on each block, and with none; the difference is the pass. It must
cost at least its operations at the processor's peak, and at least what it takes to read and write the block where it
lies, in the second-level cache: the cost of multiplying it by a number. The sweep without a pass, a copy of each block
to scratch and back, stands beside its bytes at the bandwidth of copying in memory. All on as many threads as cores.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.machine import save
from qsimenv import arrays
from qsimenv.circuit import Gate, gate
from qsimenv.statevec.costs.calibrate import peak
from qsimenv.statevec.encoding import rows as form
from qsimenv.statevec.encoding.encode import encode
from qsimenv.statevec.encoding.rows import REAL_TYPE, EncodedSweep
from qsimenv.statevec.kernels import sweep_numba as kernels
from qsimenv.statevec.kernels.sweep_numba import block_bits
from qsimenv.statevec.planning.layout import identity
from qsimenv.statevec.planning.planner import make_plan
from qsimenv.statevec.threads import set_threads
from qsimenv.task import Precision

_TIMES = 6
_FLOPS = {form.QUADRATIC: 12.0, form.PERMUTE: 0.0, form.TWO_TARGETS: 32.0, form.DENSE: 64.0, form.PHASE: 0.0}
"""Operations an amplitude; a rotation has four for each bit, a quadratic phase two complex products."""


def kinds(bits: int) -> dict[str, tuple[int, list[Gate]]]:
    """By name: the kind of row, and gates on a block of so many bits that make one (the first of its kind is taken)."""
    random = np.random.default_rng(1)
    unitary, wide = (
        np.linalg.qr(random.normal(size=(size, size)) + 1j * random.normal(size=(size, size)))[0] for size in (4, 8)
    )

    def turns(*targets: int) -> list[Gate]:
        return [gate("ry", target, params=[0.3]) for target in targets]

    def terms(*pairs: tuple[int, int]) -> list[Gate]:
        return [gate("cp", a, b, params=[0.1 + 0.01 * a]) for a, b in pairs]

    return {
        "rotation, 1 bit": (form.ROTATE, turns(bits - 1)),
        "rotation, 3 bits": (form.ROTATE, turns(8, 9, 10)),
        "rotation, 4 bits": (form.ROTATE, turns(8, 9, 10, 11)),
        "rotation, 3 highest bits": (form.ROTATE, turns(*range(bits - 3, bits))),
        "rotation, lanes": (form.ROTATE, turns(0, 1, 2)),
        "rotation, lanes and 2 bits": (form.ROTATE, turns(0, 1, 2, 8, 9)),
        "phases, a chain": (form.QUADRATIC, terms(*((k, k + 1) for k in range(bits - 1)))),
        "phases, all with a high bit": (form.QUADRATIC, terms(*((k, bits - 1) for k in range(bits - 1)))),
        "phases, all with a lane": (form.QUADRATIC, terms(*((0, k) for k in range(1, bits)))),
        "permutation of lines": (form.PERMUTE, [gate("cx", k, k + 1) for k in range(8, bits - 1)]),
        "permutation, a chain": (form.PERMUTE, [gate("cx", k, k + 1) for k in range(bits - 1)]),
        "permutation, lanes traded": (
            form.PERMUTE,
            [each for k in range(3) for each in (gate("cx", k, 7 + k), gate("cx", 7 + k, k))],
        ),
        "dense, 2 bits": (form.TWO_TARGETS, [gate("unitary", 8, 12, matrix=unitary)]),
        "dense, a lane and a bit": (form.TWO_TARGETS, [gate("unitary", 1, 12, matrix=unitary)]),
        "dense, 2 lanes": (form.TWO_TARGETS, [gate("unitary", 0, 2, matrix=unitary)]),
        "dense, 3 bits": (form.DENSE, [gate("unitary", 8, 10, 12, matrix=wide)]),
        "dense, a lane and 2 bits": (form.DENSE, [gate("unitary", 1, 10, 12, matrix=wide)]),
    }


class Probe:
    """A state to sweep over, in blocks of its lowest bits."""

    def __init__(self, num_qubits: int, precision: Precision, threads: int, repeats: int) -> None:
        self._num_qubits, self._precision, self._repeats = num_qubits, precision, repeats
        self.bits = block_bits(num_qubits, threads)
        self._re, self._im = (arrays.empty(1 << num_qubits, REAL_TYPE[precision]) for _ in range(2))

    def sweep_s(self) -> float:
        """Seconds of a sweep that does nothing."""
        empty = self._encode([gate("cp", 0, 1, params=[0.1])])
        return self._seconds(empty, empty.ops[:0])

    def copy_s(self) -> float:
        """Seconds to copy as many bytes as a sweep reads, and writes, from one place in memory to another."""
        half = len(self._re) // 2
        one = self._fastest(lambda: np.copyto(self._re[:half], self._im[:half]))
        return 4 * one

    def pass_s(self, kind: int, gates: list[Gate]) -> tuple[float, float]:
        """Seconds of a pass, and its operations an amplitude."""
        sweep = self._encode(gates)
        row = next(row for row in sweep.ops if row[form.KIND] == kind)
        without, with_passes = (
            self._seconds(sweep, sweep.ops[:0]),
            self._seconds(sweep, np.repeat(row[None], _TIMES, 0)),
        )
        flops = _FLOPS.get(kind) or 4.0 * len(gates) * (kind == form.ROTATE)
        return (with_passes - without) / _TIMES, flops

    def stream_s(self) -> float:
        """Seconds of a pass that reads and writes the block and does next to nothing: a product with a number."""
        sweep = self._encode([gate("ry", 8, params=[0.3])])
        row = np.zeros((1, form.ROW), dtype=np.int64)
        row[0, form.KIND] = form.PHASE
        row[0, form.OFFSET] = len(sweep.coefficients) - 1
        one = np.concatenate([sweep.coefficients[:-1], np.array([1, 0], dtype=sweep.coefficients.dtype)])
        without = self._seconds(sweep, sweep.ops[:0])
        return (self._seconds(sweep, np.repeat(row, _TIMES, 0), one) - without) / _TIMES

    def _encode(self, gates: list[Gate]) -> EncodedSweep:
        layout = identity(self._num_qubits, self._num_qubits)
        return encode(make_plan(gates, layout, self.bits), (), self._precision)[0][0]

    def _seconds(self, sweep: EncodedSweep, ops: np.ndarray, coefficients: np.ndarray | None = None) -> float:
        numbers = sweep.coefficients if coefficients is None else coefficients

        def run() -> None:
            kernels.sweep(
                self._re, self._im, sweep.block_bits, sweep.low_bits, sweep.offsets, sweep.outer, ops, numbers,
                sweep.tables, 0,
            )  # fmt: skip

        self._re.fill(1e-4)
        self._im.fill(1e-4)
        return self._fastest(run)

    def _fastest(self, run: Callable[[], object]) -> float:
        """The median of the better half: others on the machine can only make a run longer."""
        run()
        seconds = []
        for _ in range(self._repeats):
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
        return statistics.median(sorted(seconds)[: (self._repeats + 1) // 2])


def measure(num_qubits: int, precision: Precision, threads: int, repeats: int) -> dict[str, Any]:
    probe, peak_flops = Probe(num_qubits, precision, threads, repeats), peak(precision)
    stream_s, sweep_s, copy_s = probe.stream_s(), probe.sweep_s(), probe.copy_s()
    print(f"{precision}, blocks of {probe.bits} bits, peak {peak_flops / 1e9:.0f} Gflop/s; milliseconds", flush=True)
    print(f"  {'a sweep without passes':30} {sweep_s * 1e3:7.2f}  bound {copy_s * 1e3:6.2f}  {sweep_s / copy_s:.2f} x")
    figures: dict[str, Any] = {
        "sweep_s": sweep_s,
        "copy_s": copy_s,
        "stream_s": stream_s,
        "peak_flops_per_s": peak_flops,
    }
    figures["passes"] = {}
    for name, (kind, gates) in kinds(probe.bits).items():
        seconds, flops = probe.pass_s(kind, gates)
        bound = max(stream_s, flops * 2**num_qubits / peak_flops)
        figures["passes"][name] = {"seconds": seconds, "bound_s": bound}
        print(f"  {name:30} {seconds * 1e3:7.2f}  bound {bound * 1e3:6.2f}  {seconds / bound:.2f} x", flush=True)
    return figures


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qubits", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    threads = set_threads()
    figures: dict[str, Any] = {"qubits": options.qubits, "threads": threads}
    for precision in ("single", "double"):
        figures[precision] = measure(options.qubits, precision, threads, options.repeats)
    save("passes", figures)
    return figures
