"""Measuring the rates of this machine: some seconds of the very sweeps that runs are made of.

Called by ``qsimenv doctor --measure`` on every rank. Moving the state is timed by sweeps without passes, in place and
over a fresh state that is written without being read. Short circuits that need different mixtures of passes are run
and timed; least squares (with no negative cost) give what each kind of pass costs beyond moving the state. The peak is
that of NumPy's matrix product, which its library has tuned for the machine; the exchange rate is measured where there
is a partner.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from qsimenv import memory
from qsimenv.circuit import Circuit, Gate, gate
from qsimenv.comm import Team
from qsimenv.errors import OutOfRangeError
from qsimenv.statevec.costs.cost import cost_of
from qsimenv.statevec.costs.rates import ASSUMED, PASS_KINDS, PassRates, Rates, processor
from qsimenv.statevec.encoding.rows import MOST_RUN_BITS
from qsimenv.statevec.kernels import sweep_numba as kernels
from qsimenv.statevec.simulate import prepare
from qsimenv.statevec.state import State
from qsimenv.task import Precision

_REPEATS = 5
_MATRIX_SIZE = 2048
_EXCHANGE_BYTES = 64 << 20


def measure(team: Team, threads: int, num_qubits: int = 22) -> Rates:
    """The rates of this machine, with ``threads`` a rank. *Collective*; takes about ten seconds.

    ``num_qubits``: of the state that each rank sweeps over; its planes must not fit the last cache, or the memory's
    bandwidth is not what is measured. Raises OutOfRangeError below 18.
    """
    if num_qubits < 18:
        raise OutOfRangeError(f"measure: {num_qubits} qubits found, at least 18 are needed to fill the caches")
    ranks = memory.ranks_on_this_node()
    bandwidth, store_rate = (team.minimum(rate * ranks) for rate in _bandwidths(num_qubits, team))
    per_byte = ranks / bandwidth
    found = {precision: _passes(num_qubits, precision, threads, team, per_byte) for precision in ("single", "double")}
    exchange = _exchange_rate(team)
    return Rates(
        source=f"measured on {platform.node()} ({processor()}), {team.size} rank(s) x {threads} thread(s), "
        f"{time.strftime('%Y-%m-%d')}" + ("" if exchange else "; exchange rate assumed, one rank has no partner"),
        memory_bytes_per_s=bandwidth,
        store_bytes_per_s=store_rate,
        sweep_s=team.maximum(max(rates[1] for rates in found.values())),
        exchange_bytes_per_s=exchange or ASSUMED.exchange_bytes_per_s,
        exchange_s=ASSUMED.exchange_s,
        single=found["single"][0],
        double=found["double"][0],
    )


def _bandwidths(num_qubits: int, team: Team) -> tuple[float, float]:
    """Bytes a second of this rank's sweeps without passes: read and written in place; written alone. *Collective.*"""
    circuit = Circuit(num_qubits, 0, tuple(gate("h", qubit) for qubit in range(num_qubits)))
    prepared = prepare(circuit, num_qubits, "double")
    fills = prepared.encoding(0, prepared.start(), np.zeros(0))[0][-1]
    state = State.zero(prepared.start(), Team(), "double")
    planes = (state.re, state.im)
    everything = (1 << num_qubits) - 1
    empty = everything & ~((1 << MOST_RUN_BITS) - 1) & ~sum(1 << int(bit) for bit in fills.outer)
    rates = []
    for before in (0, empty):
        run = partial(
            kernels.sweep, *planes, fills.block_bits, fills.low_bits, fills.offsets, fills.outer, fills.ops[:0],
            fills.coefficients, fills.tables, 0, before, 0,
        )  # fmt: skip
        team.barrier()  # ranks of one node share its memory's bandwidth, so they must sweep at the same time
        read = sum(plane.nbytes for plane in planes) >> before.bit_count()
        rates.append((read + sum(plane.nbytes for plane in planes)) / _fastest(run))
    return rates[0], rates[1]


def _passes(
    num_qubits: int, precision: Precision, threads: int, team: Team, per_byte: float
) -> tuple[PassRates, float]:
    """What passes cost, and the seconds to start a sweep; ``per_byte``: what moving the state costs this rank."""
    probes = _probes(num_qubits)
    rows, seconds, moved_s = list[list[float]](), list[float](), list[float]()
    for circuit in probes:
        prepared = prepare(circuit, num_qubits, precision)
        plan = prepared.plan(0, prepared.start())
        encoded = prepared.encoding(0, prepared.start(), np.zeros(0))
        state = State.zero(prepared.start(), Team(), precision)
        state.fill()
        team.barrier()  # ranks of one node share its memory's bandwidth, so they must sweep at the same time
        seconds.append(_fastest(partial(state.run, plan, encoded)))
        cost = cost_of(plan, encoded, precision, from_zero=False)  # the state is full
        totals = [sum(sweep.passes.get(kind, 0.0) for sweep in cost.sweeps) / threads for kind in PASS_KINDS]
        rows.append(totals)
        moved_s.append(per_byte * sum(sweep.bytes for sweep in cost.sweeps))
    costs = _least_squares(np.array(rows), np.array(seconds), np.array(moved_s))
    return PassRates(peak(precision) / threads, *costs), _start_of_a_sweep(precision)


def _probes(n: int) -> Sequence[Circuit]:
    """Circuits of one sweep or few, each with another mixture of passes."""
    random = np.random.default_rng(5)

    def turns(count: int, first: int = 0) -> list[Gate]:
        return [gate("ry", (first + k) % n, params=[0.3 + 0.01 * k]) for k in range(count)]

    def phases(count: int) -> list[Gate]:
        return [gate("cp", k, (k + 1) % n, params=[0.2 + 0.01 * k]) for k in range(count)]

    def chain(count: int) -> list[Gate]:
        return [gate("cx", k, k + 1) for k in range(count)]

    def blocks(count: int) -> list[Gate]:
        return [gate("unitary", 2 * k, 2 * k + 1, matrix=_unitary(random, 4)) for k in range(count)]

    def triples(count: int) -> list[Gate]:
        return [gate("unitary", 3 * k, 3 * k + 1, 3 * k + 2, matrix=_unitary(random, 8)) for k in range(count)]

    def controlled(count: int) -> list[Gate]:
        return [gate("cry", n - 1 - 2 * k, n - 2 - 2 * k, params=[0.3 + 0.01 * k]) for k in range(count)]

    lists = [
        phases(1), turns(4, 5), turns(8, 4), turns(12), turns(n), turns(12) + phases(10) + turns(12),
        phases(12) + turns(12) + phases(12) + turns(12) + phases(12), turns(12) + chain(11),
        turns(12) + chain(11) + turns(12) + chain(11), blocks(2), blocks(4), blocks(7), triples(1), triples(3),
        controlled(2), controlled(5), turns(n) + phases(n) + turns(n), chain(n - 1),
        turns(n) + chain(n - 1) + turns(n) + blocks(3),
    ]  # fmt: skip
    return [Circuit(n, 0, tuple(gates), name=f"probe{number}") for number, gates in enumerate(lists)]


def _unitary(random: np.random.Generator, size: int) -> npt.NDArray[np.complex128]:
    q, _ = np.linalg.qr(random.normal(size=(size, size)) + 1j * random.normal(size=(size, size)))
    return np.asarray(q, dtype=np.complex128)


def _start_of_a_sweep(precision: Precision) -> float:
    """Seconds of a sweep over so few amplitudes that only its start counts."""
    n = 16
    circuit = Circuit(n, 0, (gate("cp", 0, 1, params=[0.1]),))
    prepared = prepare(circuit, n, precision)
    plan, encoded = prepared.plan(0, prepared.start()), prepared.encoding(0, prepared.start(), np.zeros(0))
    state = State.zero(prepared.start(), Team(), precision)
    return _fastest(partial(state.run, plan, encoded))


def _fastest(run: Callable[[], object]) -> float:
    """The shortest of some runs: others on the machine can only make it longer."""
    run()
    seconds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _least_squares(
    rows: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64], known_s: npt.NDArray[np.float64]
) -> list[float]:
    """Non-negative costs that explain the seconds beyond the known ones with the smallest relative error."""
    from scipy.optimize import nnls

    relative = rows / seconds[:, None]
    size = relative.max(axis=0)
    costs, _ = nnls(relative / size, 1 - known_s / seconds)
    return [float(cost) for cost in np.maximum(costs / size, 1e-15)]


def peak(precision: Precision) -> float:
    """Operations a second of a large real matrix product on all cores of this process."""
    kind = np.float32 if precision == "single" else np.float64
    a = np.ones((_MATRIX_SIZE, _MATRIX_SIZE), dtype=kind)
    out = np.empty_like(a)
    return float(2 * _MATRIX_SIZE**3 / _fastest(lambda: np.matmul(a, a, out=out)))


def _exchange_rate(team: Team) -> float:
    """Bytes a second that the slowest rank sends while it receives as many; 0 for a team of one. *Collective.*"""
    if team.size == 1:
        return 0.0
    send, receive = (np.ones(_EXCHANGE_BYTES, dtype=np.uint8) for _ in range(2))
    partner = team.rank ^ 1
    team.barrier()
    seconds = _fastest(lambda: team.exchange(partner, send, receive))
    return _EXCHANGE_BYTES / team.maximum(seconds)
