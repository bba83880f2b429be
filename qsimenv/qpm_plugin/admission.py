"""What may come in: circuits by their hash, and for each task a check and an estimate before it is accepted.

Pure of sockets and clock. Estimates are remembered, since tasks that differ in seed, parameter values or name cost
the same; a thousand tasks on one circuit are estimated once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from qsimenv import engines
from qsimenv.circuit import Circuit
from qsimenv.errors import InvalidArgumentError, NotFoundError, NotSupportedError, OutOfMemoryError
from qsimenv.qpm_plugin.messages import MAX_RESULT_BYTES, Job
from qsimenv.qpm_plugin.recent import Recent
from qsimenv.task import AMPLITUDE_BYTES, WHOLE, Estimate, Observable, Task, validate

CIRCUIT_BYTES = 1 << 30
"""What the controller keeps of circuits that no waiting task needs."""
_REMEMBERED_ESTIMATES = 10_000


class Admission:
    """Knows circuits, and with ``max_ranks`` and ``free_bytes`` per rank what fits."""

    def __init__(self) -> None:
        self._circuits: Recent[Circuit] = Recent(CIRCUIT_BYTES)
        self._estimates: dict[object, Estimate] = {}
        self.max_ranks = 0
        self.free_bytes = 0

    def resize(self, max_ranks: int, free_bytes: int) -> None:
        """The machine as it is now."""
        self.max_ranks, self.free_bytes = max_ranks, free_bytes
        self._estimates.clear()

    @property
    def num_circuits(self) -> int:
        return len(self._circuits)

    def learn(self, circuits: dict[str, bytes]) -> None:
        """Keep circuits. InvalidArgumentError where bytes are not a circuit, or not the one that the hash names."""
        for name, data in circuits.items():
            circuit = Circuit.from_bytes(data)
            if circuit.hash != name:
                raise InvalidArgumentError(f"circuit: the bytes sent as {name!r} have the hash {circuit.hash!r}")
            self._circuits.put(name, circuit, len(data))

    def forget(self, name: str) -> None:
        """NotFoundError where it is not known."""
        if not self._circuits.drop(name):
            raise NotFoundError(f"delete_circuit: {name!r} is not known")

    def unknown(self, jobs: Iterable[Job]) -> tuple[str, ...]:
        """The circuits of ``jobs`` that are not here."""
        return tuple(name for name in dict.fromkeys(job.circuit for job in jobs) if self._circuits.get(name) is None)

    def admit(self, jobs: Sequence[Job]) -> list[tuple[Circuit, Estimate]]:
        """The circuit and estimate of each; raises for the first task that is wrong or does not fit."""
        admitted = []
        for job in jobs:
            circuit = self._circuits.get(job.circuit)
            if circuit is None:
                raise NotFoundError(f"circuit {job.circuit!r} is not known")
            admitted.append((circuit, self.estimate(job, circuit)))
        return admitted

    def estimate(self, job: Job, circuit: Circuit) -> Estimate:
        """What the task would need here. Raises what ``validate`` and ``engines.evaluate`` raise."""
        task = job.with_circuit(circuit)
        validate(task)
        key = (
            job.circuit, task.shots, task.observables, task.batch_shape, task.precision, task.engine, task.save,
            task.unwritten_registers,
        )  # fmt: skip
        found = self._estimates.get(key)
        if found is None:
            _check_result_size(task)
            found = engines.evaluate(task, self.max_ranks, self.free_bytes)
            if len(self._estimates) >= _REMEMBERED_ESTIMATES:
                self._estimates.clear()
            self._estimates[key] = found
        return found

    @property
    def max_qubits(self) -> dict[str, int]:
        """The widest circuit at each precision whose state fits on all ranks together; 0 where none does."""
        return {precision: _max_qubits(precision, self.max_ranks, self.free_bytes) for precision in AMPLITUDE_BYTES}


def _check_result_size(task: Task) -> None:
    runs = task.batch_shape[0] if task.batch_shape else 1
    amplitudes = AMPLITUDE_BYTES[task.precision] << task.circuit.num_qubits if task.save == WHOLE else 0
    samples = (task.shots or 0) * -(-task.circuit.num_clbits // 8)
    size = runs * (amplitudes + samples + 8 * len(task.observables))
    if size > MAX_RESULT_BYTES:
        raise NotSupportedError(
            f"run: the result would have {size >> 20} MiB, {MAX_RESULT_BYTES >> 20} MiB travel through the service; "
            "ask for fewer shots or parameter sets a task, save a state to an .h5 file, or run it under mpirun"
        )


@lru_cache(maxsize=32)
def _max_qubits(precision: str, max_ranks: int, free_bytes: int) -> int:
    if not max_ranks or "statevector" not in engines.names():
        return 0
    for num_qubits in range(1, 64):
        everywhere = Observable((("Z" * num_qubits, 1.0),))
        task = Task(
            circuit=Circuit(num_qubits, 0, ()),
            observables=(everywhere,),
            precision=precision,  # type: ignore[arg-type]
        )
        try:
            engines.engine("statevector").estimate(task, max_ranks, free_bytes)
        except OutOfMemoryError:
            return num_qubits - 1
    return 63
