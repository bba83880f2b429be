"""The service on two ranks of this machine: round trip, many small tasks at once, a wide one among them, idle workers.

    python -m benchmarks service

Every figure has a real state vector behind it. Starts an environment of its own and stops it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import psutil

import qsimenv as qs
from benchmarks.machine import save
from qsimenv.circuit import Circuit, Gate, Measure, Register, gate
from qsimenv.launcher import environment
from qsimenv.qpm_plugin import QPM, TaskState
from qsimenv.qpm_plugin.client import Client, connect
from qsimenv.qpm_plugin.connection import FILE_NAME, RUN_FOLDER_VARIABLE, default_run_folder


def ghz(num_qubits: int) -> Circuit:
    gates = [gate("h", 0), *(gate("cx", qubit, qubit + 1) for qubit in range(num_qubits - 1))]
    measures = [Measure(qubit, qubit) for qubit in range(num_qubits)]
    return Circuit(num_qubits, num_qubits, (*gates, *measures), (Register("c", tuple(range(num_qubits))),))


def round_trip(qpm: QPM, repeats: int = 500) -> dict[str, float]:
    """Seconds for one 3-qubit circuit with 100 shots, one at a time, seeds differing."""
    circuit, seconds = ghz(3), []
    for seed in range(repeats):
        began = time.perf_counter()
        qpm.sync_run(qs.Task(circuit, shots=100, seed=seed))
        seconds.append(time.perf_counter() - began)
    ordered = sorted(seconds)
    return {"median_ms": 1e3 * statistics.median(seconds), "p95_ms": 1e3 * ordered[int(0.95 * repeats)]}


def many(qpm: QPM, number: int = 1000) -> dict[str, float]:
    """Seconds from the submission of so many such tasks in one request to the last result."""
    tasks = [qs.Task(ghz(3), shots=100, seed=seed) for seed in range(number)]
    began = time.perf_counter()
    records = qpm.read_cq(task_ids=qpm.async_run(tasks), timeout_s=60)
    seconds = time.perf_counter() - began
    assert all(record.state == TaskState.DONE for record in records)
    return {"seconds": seconds, "per_second": number / seconds}


def single_submissions(qpm: QPM, number: int = 3000) -> dict[str, float]:
    """Tasks a second of one client that submits one by one, each recorded before it is acknowledged."""
    tasks = [qs.Task(ghz(3), shots=100, seed=seed) for seed in range(number)]
    began = time.perf_counter()
    ids = [task_id for task in tasks for task_id in qpm.async_run(task)]
    submitted = time.perf_counter() - began
    qpm.read_cq(task_ids=ids, timeout_s=60)
    return {"submitted_per_second": number / submitted, "ended_per_second": number / (time.perf_counter() - began)}


_CLIENT = """
import sys, time
import qsimenv as qs
from benchmarks.service import ghz
from qsimenv.qpm_plugin.client import Client, connect
with connect(sys.argv[1]) as qpm:
    tasks = [qs.Task(ghz(3), shots=100, seed=seed) for seed in range(int(sys.argv[2]))]
    qpm.sync_run(tasks[0])
    print("there", flush=True)
    sys.stdin.readline()
    for first in range(0, len(tasks), 50):
        qpm.read_cq(task_ids=qpm.async_run(tasks[first : first + 50]), timeout_s=60)
"""


def stream(qpm: QPM, number: int = 10_000) -> dict[str, float]:
    """Tasks a second of one client that submits one by one without waiting, each recorded before acknowledged."""
    assert isinstance(qpm, Client)
    tasks = [qs.Task(ghz(3), shots=100, seed=seed) for seed in range(number)]
    began = time.perf_counter()
    with qpm.stream() as submissions:
        for task in tasks:
            submissions.submit(task)
    submitted = time.perf_counter() - began
    qpm.read_cq(task_ids=submissions.finish(), timeout_s=60)
    return {"submitted_per_second": number / submitted, "ended_per_second": number / (time.perf_counter() - began)}


def eight_clients(qpm: QPM, clients: int = 8, number: int = 1500) -> dict[str, float]:
    """Circuits a second of eight client processes that submit 50 at a time and wait for them."""
    path = str(default_run_folder("bench") / FILE_NAME)
    command = [sys.executable, "-c", _CLIENT, path, str(number)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for _ in range(clients)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    began = time.perf_counter()
    for process in processes:
        process.communicate(b"go\n")
    seconds = time.perf_counter() - began
    assert not any(process.returncode for process in processes)
    return {"seconds": seconds, "per_second": clients * number / seconds}


def wide_among_small(qpm: QPM, num_qubits: int = 27, number: int = 1000) -> dict[str, Any]:
    """A task that is worth both ranks by its estimate, with small tasks queued before and behind it."""
    small = [qs.Task(ghz(3), shots=100, seed=seed) for seed in range(number)]
    circuit = ansatz(num_qubits, 2)
    angles = np.random.default_rng(0).uniform(-3, 3, len(circuit.parameters))
    began = time.perf_counter()
    first = qpm.async_run(small[: number // 2])
    wide = qpm.async_run(qs.Task(circuit, parameters=angles, observables=["Z" * num_qubits]))
    behind = qpm.async_run(small[number // 2 :])
    records = qpm.read_cq(task_ids=[*first, *wide, *behind], timeout_s=600)
    record = records[len(first)]
    return {
        "seconds": time.perf_counter() - began,
        "wide_ranks": len(record.ranks),
        "wide_seconds": record.execution_s,
        "done": sum(record.state == TaskState.DONE for record in records),
        "of": len(records),
    }


def ansatz(num_qubits: int, layers: int) -> Circuit:
    """Layers of RY and RZ with a parameter each, and a chain of CX: 30 gates on 4 qubits with 3 layers."""
    steps, names = list[Gate](), list[str]()
    for _ in range(layers):
        for name in ("ry", "rz"):
            for qubit in range(num_qubits):
                steps.append(gate(name, qubit, params=[f"p{len(names)}"]))
                names.append(f"theta{len(names)}")
        steps += [gate("cx", qubit, qubit + 1) for qubit in range(0, num_qubits - 1, 2)]
    return Circuit(num_qubits, 0, tuple(steps), parameters=tuple(names))


def vqls_epoch() -> list[qs.Task]:
    """480 circuits as the paper's linear solver needs them: 3 qubits, 3 angles, 16 circuits for each set of angles."""
    circuits = []
    for number in range(16):
        paulis = [("x", "z", "h", "s")[number >> 2 * k & 3] for k in range(2)]
        steps = [gate("ry", qubit, params=[f"p{qubit}"]) for qubit in range(3)]
        steps += [gate("cz", 0, 1), gate("cz", 1, 2), *(gate(name, qubit) for qubit, name in enumerate(paulis))]
        circuits.append(Circuit(3, 0, tuple(steps), parameters=("a", "b", "c")))
    angles = np.random.default_rng(0).uniform(-3, 3, (30, 3))
    return [qs.Task(circuit, parameters=angles, observables=["ZZZ"]) for circuit in circuits]


def parameters(qpm: QPM, number: int = 10_000, repeats: int = 20) -> dict[str, float]:
    """One request with so many sets of parameters of a 4-qubit circuit of 30 gates, two observables each."""
    circuit, rng, seconds = ansatz(4, 3), np.random.default_rng(0), []
    for _ in range(repeats):
        values = rng.uniform(-3, 3, (number, len(circuit.parameters)))
        began = time.perf_counter()
        result = qpm.sync_run(qs.Task(circuit, parameters=values, observables=["ZZZZ", {"XXII": 0.5, "IIYY": -1.0}]))
        seconds.append(time.perf_counter() - began)
        assert result.expectation_values is not None
        assert result.expectation_values.shape == (number, 2)
    median = statistics.median(seconds)
    return {"median_ms": 1e3 * median, "per_second": number / median}


def vqls(qpm: QPM, repeats: int = 20) -> dict[str, float]:
    """An epoch of the paper's linear solver: 480 circuits in one request."""
    tasks, seconds = vqls_epoch(), []
    for _ in range(repeats):
        began = time.perf_counter()
        records = qpm.read_cq(task_ids=qpm.async_run(tasks), timeout_s=60)
        seconds.append(time.perf_counter() - began)
        assert sum(len(record.result.expectation_values) for record in records) == 480
    return {"median_ms": 1e3 * statistics.median(seconds)}


def vqls_tasks(qpm: QPM, repeats: int = 20) -> dict[str, float]:
    """The same epoch as 480 tasks, each with its own values, submitted in one request."""
    tasks = [
        qs.Task(task.circuit, parameters=values, observables=task.observables)
        for task in vqls_epoch()
        if task.parameters is not None
        for values in task.parameters
    ]
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        records = qpm.read_cq(task_ids=qpm.async_run(tasks), timeout_s=60)
        seconds.append(time.perf_counter() - began)
        assert sum(len(record.result.expectation_values) for record in records) == len(tasks) == 480
    return {"median_ms": 1e3 * statistics.median(seconds), "least_ms": 1e3 * min(seconds)}


def workers(qpm: QPM, number: int = 1000, num_qubits: int = 16) -> dict[str, float]:
    """Circuits a second on both workers, and on one of them while somebody else has reserved the other."""
    circuit = ansatz(num_qubits, 4)
    values = np.random.default_rng(0).uniform(-3, 3, (number, len(circuit.parameters)))
    tasks = [qs.Task(circuit, parameters=row, observables=["Z" * num_qubits]) for row in values]
    with connect(default_run_folder("bench") / FILE_NAME) as holder:
        rates: dict[int, list[float]] = {1: [], 2: []}
        for ranks in (2, 1, 2, 1):
            claim = holder.reserve(1, 3600.0) if ranks == 1 else None
            began = time.perf_counter()
            records = qpm.read_cq(task_ids=qpm.async_run(tasks), timeout_s=300)
            rates[ranks].append(number / (time.perf_counter() - began))
            assert len({record.ranks for record in records}) == ranks
            if claim is not None:
                holder.release(claim.reservation_id)
    return {"one_per_second": max(rates[1]), "two_per_second": max(rates[2]), "ratio": max(rates[2]) / max(rates[1])}


def state(qpm: QPM, num_qubits: int = 20, repeats: int = 15) -> dict[str, float]:
    """A state vector at the client, beside the time that its rank took for it; and its first pass over it."""
    circuit = ansatz(num_qubits, 2)
    rng, over, worked, summed = np.random.default_rng(0), list[float](), list[float](), list[float]()
    for _ in range(repeats):
        task = qs.Task(circuit, parameters=rng.uniform(-3, 3, len(circuit.parameters)), save="statevector")
        began = time.perf_counter()
        result = qpm.sync_run(task)
        seconds = time.perf_counter() - began
        assert result.statevector is not None
        began = time.perf_counter()
        assert abs(np.vdot(result.statevector, result.statevector) - 1) < 1e-9
        summed.append(time.perf_counter() - began)
        worked.append(result.metadata["seconds"]["total"])
        over.append(seconds - worked[-1])
    return {
        "simulated_ms": 1e3 * statistics.median(worked),
        "over_median_ms": 1e3 * statistics.median(over),
        "over_least_ms": 1e3 * min(over),
        "first_pass_ms": 1e3 * statistics.median(summed),
    }


def beside_long_circuits(qpm: QPM, num_gates: int = 100_000, number: int = 5) -> dict[str, float]:
    """Seconds that one client waits for a status while another submits circuits of so many gates."""
    steps = [
        gate("rx", k % 10, params=[0.01 * k]) if k % 2 else gate("cx", k % 10, (k + 1) % 10) for k in range(num_gates)
    ]
    circuits = [Circuit(10, 0, (*steps, gate("rz", 0, params=[float(k)]))) for k in range(number)]
    tasks = [qs.Task(circuit, observables=["Z" * 10]) for circuit in circuits]
    assert all(task.circuit.hash for task in tasks)  # encoded before the clock starts
    ids, seconds = list[str](), list[float]()
    with connect(default_run_folder("bench") / FILE_NAME) as other:
        submitting = threading.Thread(target=lambda: ids.extend(i for task in tasks for i in other.async_run(task)))
        submitting.start()
        while submitting.is_alive():
            began = time.perf_counter()
            qpm.status([])
            seconds.append(time.perf_counter() - began)
            time.sleep(0.001)
        submitting.join()
        records = other.read_cq(task_ids=ids, timeout_s=300)
    assert [record.state for record in records] == [TaskState.DONE] * number
    return {"median_ms": 1e3 * statistics.median(seconds), "longest_ms": 1e3 * max(seconds), "looks": len(seconds)}


def idle(qpm: QPM, seconds: float = 10.0) -> dict[str, float]:
    """Share of a core that a waiting worker and the controller use, in percent."""
    facts = qpm.describe()
    pids = {f"worker {worker['rank']}": worker["pid"] for worker in facts["workers"]}
    pids["controller"] = facts["controller"]["pid"]
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    before = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
    time.sleep(seconds)
    return {name: 100 * (sum(processes[name].cpu_times()[:2]) - before[name]) / seconds for name in processes}


class Row(NamedTuple):
    """A measurement, what it is in words, and what is wanted of its figures: at most or at least so much."""

    measure: Callable[[QPM], dict[str, Any]]
    title: str
    at_most: Mapping[str, float] = MappingProxyType({})
    at_least: Mapping[str, float] = MappingProxyType({})


ROWS: dict[str, Row] = {
    "round_trip": Row(
        round_trip, "a 3-qubit circuit with 100 shots, one at a time", at_most={"median_ms": 0.6, "p95_ms": 1.2}
    ),
    "many": Row(many, "1,000 of them in one request", at_most={"seconds": 2.0}),
    "single_submissions": Row(single_submissions, "one client, one task a request, each acknowledged before the next"),
    "stream": Row(stream, "one client, one task a request, asynchronous", at_least={"submitted_per_second": 4000}),
    "eight_clients": Row(eight_clients, "eight clients", at_least={"per_second": 3000}),
    "parameters": Row(parameters, "10,000 sets of parameters, two observables", at_least={"per_second": 50_000}),
    "vqls": Row(vqls, "480 circuits of a linear solver as 16 tasks of one request", at_most={"median_ms": 40}),
    "vqls_tasks": Row(vqls_tasks, "the same as 480 tasks of one request", at_most={"median_ms": 40}),
    "workers": Row(workers, "1,000 circuits of 16 qubits on 2 workers and on 1", at_least={"ratio": 1.85}),
    "state": Row(state, "a 20-qubit double state vector at the client", at_most={"over_median_ms": 10}),
    "wide_among_small": Row(wide_among_small, "27 qubits among 1,000 small ones", at_least={"wide_ranks": 2}),
    "beside_long_circuits": Row(
        beside_long_circuits, "a status while circuits of 100,000 gates come", at_most={"longest_ms": 20}
    ),
    "idle": Row(
        idle, "percent of a core while waiting for 10 s", at_most={"worker 0": 2, "worker 1": 2, "controller": 2}
    ),
}


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(ROWS), action="append")
    options = parser.parse_args(arguments)
    figures = {}
    with TemporaryDirectory(prefix="qsimenv-bench-") as scratch:
        folder = Path(scratch) / "run"
        os.environ[RUN_FOLDER_VARIABLE] = str(folder)
        began = time.perf_counter()
        environment.start("bench", run_folder=folder, ranks_per_node=2)
        figures["start"] = {"seconds": time.perf_counter() - began}
        print(f"start: {figures['start']['seconds']:.2f} s")
        try:
            with connect(folder / FILE_NAME) as qpm:
                for name in options.only or ROWS:
                    figures[name] = ROWS[name].measure(qpm)
                    print(f"{ROWS[name].title}:\n{_text(ROWS[name], figures[name])}", flush=True)
                    figures[name]["wanted"] = {
                        "at_most": dict(ROWS[name].at_most),
                        "at_least": dict(ROWS[name].at_least),
                    }
        finally:
            began = time.perf_counter()
            environment.stop("bench", run_folder=folder)
        figures["stop"] = {"seconds": time.perf_counter() - began}
        print(f"stop: {figures['stop']['seconds']:.2f} s")
    save("service", figures)
    return figures


def _text(row: Row, figures: dict[str, Any]) -> str:
    return "\n".join(f"  {name:22} {value:>10.4g}{_verdict(row, name, value)}" for name, value in figures.items())


def _verdict(row: Row, name: str, value: float) -> str:
    if name in row.at_most:
        return f"   wanted at most {row.at_most[name]:g}" + ("" if value <= row.at_most[name] else "  <- not held")
    if name in row.at_least:
        return f"   wanted at least {row.at_least[name]:g}" + ("" if value >= row.at_least[name] else "  <- not held")
    return ""
