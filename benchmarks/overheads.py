"""What is to take no time beside the work: imports, reading circuits, scheduling, wrapping results, refusing, stopping.

    python -m benchmarks overheads

The best of several, as each is pure Python on one core; refusals and the stop of a busy environment are real ones, on
two ranks. The tests hold the reasons (what is imported, how many calls are made, what ends a wait), this the seconds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

import qsimenv as qs
from benchmarks.machine import save
from benchmarks.table import Row, show
from qsimenv.circuit import Circuit, Measure, gate
from qsimenv.errors import PermissionDeniedError, TimedOutError
from qsimenv.launcher import environment
from qsimenv.qpm_plugin.api import TaskState
from qsimenv.qpm_plugin.client import connect
from qsimenv.qpm_plugin.connection import FILE_NAME, Connection, new_keys
from qsimenv.qpm_plugin.scheduler import Item, Schedule

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

GATES, CIRCUITS, QUEUED, STARTED = 1000, 1000, 100_000, 20_000
_REPEATS = 5
_IMPORT = "import time; began = time.perf_counter(); import qsimenv; print(time.perf_counter() - began)"


def gates_of_qiskit(number: int) -> QuantumCircuit:
    """A circuit of so many gates (a multiple of 4) of four kinds."""
    from qiskit import QuantumCircuit

    circuit = QuantumCircuit(5)
    for k in range(number // 4):
        circuit.h(k % 5)
        circuit.cx(k % 5, (k + 1) % 5)
        circuit.rz(0.1 * k, k % 5)
        circuit.ccx(0, 1, 2)
    return circuit


def long_queue(number: int) -> Schedule:
    """So many tasks of eight clients, of 1 to 8 ranks, wait for 64 ranks."""
    made = Schedule()
    made.restart(64)
    for k in range(number):
        made.add(Item(f"t{k}", k, f"c{k % 8}", 1 << (k % 4), seconds=1.0))
    return made


def run_some(schedule: Schedule, number: int) -> int:
    """Start tasks and end them, all that run at once, until so many have ended; how many have."""
    done = 0
    while done < number:
        running = [task_id for placement in schedule.next_launches() for task_id in placement.task_ids]
        assert running
        for task_id in running:
            schedule.finish(task_id)
        done += len(running)
    return done


def _best_s(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _import_s() -> float:
    command = [sys.executable, "-c", _IMPORT]
    return min(float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(_REPEATS))


def _reading_s() -> float:
    from qsimenv.formats.qiskit_in import from_qiskit

    circuit = gates_of_qiskit(GATES)
    return _best_s(lambda: from_qiskit(circuit))


def _scheduling_s() -> float:
    """Seconds for each task that starts and ends while a long queue waits."""
    schedule = long_queue(QUEUED)
    began = time.perf_counter()
    done = run_some(schedule, STARTED)
    return (time.perf_counter() - began) / done


def _wrapping_s() -> float:
    """Seconds for all circuits in one job of Qiskit's, with simulations that take no time."""
    from qiskit import QuantumCircuit

    from qsimenv.qiskit import QSimBackend
    from qsimenv.qiskit.local import LocalProvider

    bell = QuantumCircuit(2)
    bell.h(0)
    bell.cx(0, 1)
    bell.measure_all()
    made = qs.Result(num_clbits=2, shots=100, samples=np.zeros((100, 1), dtype=np.uint8))
    backend = QSimBackend(LocalProvider(lambda _: made))
    return _best_s(lambda: backend.run([bell] * CIRCUITS, shots=100, memory=True).result())


def _refused_s(right: Connection, path: Path, error: type[Exception], **changes: str | int) -> float:
    """Seconds until a connection file that is wrong in one respect is refused."""
    msgspec.structs.replace(right, **changes).write(path)
    began = time.perf_counter()
    try:
        connect(path)
    except error:
        return time.perf_counter() - began
    raise AssertionError(f"{changes} found, and let in")


def _long_task() -> qs.Task:
    """Minutes of work in short sweeps."""
    gates = [gate("rx", qubit, params=("p0",)) for qubit in range(16)]
    circuit = Circuit(16, 1, (*gates, Measure(0, 0)), parameters=("theta",))
    return qs.Task(circuit, shots=1, parameters=np.full((200_000, 1), 0.1))


def _service_s() -> dict[str, float]:
    """Refusals, and the stop of an environment that is in the middle of long tasks."""
    with TemporaryDirectory(prefix="qsimenv-bench-") as scratch:
        folder, copy = Path(scratch) / "run", Path(scratch) / FILE_NAME
        environment.start(run_folder=folder, ranks_per_node=2)
        try:
            right = Connection.read(folder / FILE_NAME)
            public, secret = new_keys()
            found = {
                "wrong_client_key_s": _refused_s(
                    right, copy, PermissionDeniedError, client_key=public, client_secret=secret
                ),
                "wrong_server_key_s": _refused_s(right, copy, PermissionDeniedError, server_key=public),
                "nobody_there_s": _refused_s(
                    right,
                    copy,
                    TimedOutError,
                    address="tcp://127.0.0.1:9",
                    keeper_pid=0,  # a keeper is waited for
                ),
            }
            with connect(folder / FILE_NAME) as qpm:
                ids = qpm.async_run([_long_task(), _long_task()])
                while qpm.status(ids[:1])[0].state != TaskState.RUNNING:
                    time.sleep(0.05)
        finally:
            began = time.perf_counter()
            environment.stop(run_folder=folder)
    return {**found, "stop_s": time.perf_counter() - began}


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    found = {
        "import_s": _import_s(), "reading_s": _reading_s(), "scheduling_s": _scheduling_s(),
        "wrapping_s": _wrapping_s(), **_service_s(),
    }  # fmt: skip
    show("What comes beside the work", [
        Row("import qsimenv", found["import_s"], "s", at_most=0.3),
        Row(f"reading a circuit of Qiskit's with {GATES:,} gates", found["reading_s"], "s", at_most=0.03),
        Row(f"scheduling a task while {QUEUED:,} wait", 1e3 * found["scheduling_s"], "ms", at_most=1),
        Row(f"{CIRCUITS:,} circuits in one job of Qiskit's", found["wrapping_s"], "s", at_most=3),
        Row("refusing a wrong client key", found["wrong_client_key_s"], "s", at_most=5),
        Row("refusing a wrong server key", found["wrong_server_key_s"], "s", at_most=5),
        Row("seeing that nobody is there", found["nobody_there_s"], "s", at_most=5),
        Row("stopping in the middle of long tasks", found["stop_s"], "s", at_most=20),
    ])  # fmt: skip
    save("overheads", found)
    return found
