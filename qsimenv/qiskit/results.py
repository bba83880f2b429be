"""Records of finished tasks as Qiskit's Result: counts and memory in hexadecimal, with the headers that name the bits.

``QSimJob.result`` calls it. Everything about a circuit that Qiskit wants to read in a result is taken when it is
submitted (``Experiment``), so that a job does not keep circuits alive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterExpression
from qiskit.exceptions import QiskitError
from qiskit.result import Result
from qiskit.result.models import ExperimentResult, ExperimentResultData

from qsimenv.qpm_plugin.api import TaskRecord, TaskState
from qsimenv.task import Result as TaskResult


@dataclass(frozen=True)
class Experiment:
    """What a result says about its circuit. ``batch`` counts the sets of parameters, None for a circuit without."""

    header: dict[str, Any]
    shots: int
    seed: int | None
    memory: bool
    batch: int | None = None


def header(circuit: QuantumCircuit) -> dict[str, Any]:
    """The header of Qiskit's experiment results."""
    phase = circuit.global_phase
    return {
        "name": circuit.name,
        "n_qubits": circuit.num_qubits,
        "memory_slots": circuit.num_clbits,
        "creg_sizes": creg_sizes(circuit),
        "clbit_labels": [[register.name, k] for register in circuit.cregs for k in range(register.size)],
        "qreg_sizes": [[register.name, register.size] for register in circuit.qregs],
        "qubit_labels": [[register.name, k] for register in circuit.qregs for k in range(register.size)],
        "global_phase": str(phase) if isinstance(phase, ParameterExpression) else float(phase),
        "metadata": circuit.metadata or {},
    }


def creg_sizes(circuit: QuantumCircuit) -> list[list[Any]]:
    """Names and sizes of the registers, in the order of their bits, as Qiskit cuts an outcome into them.

    Bits between registers count as a register without a name. Where registers share bits or are scattered, no cut is
    right, and the outcome stays whole.
    """
    place = {bit: k for k, bit in enumerate(circuit.clbits)}
    spans = sorted((place[register[0]], register.size, register.name) for register in circuit.cregs if register.size)
    whole = all(
        [place[bit] for bit in register] == list(range(place[register[0]], place[register[0]] + register.size))
        for register in circuit.cregs
        if register.size
    )
    sizes: list[list[Any]] = []
    end = 0
    for start, size, name in spans:
        if start < end or not whole:
            return [["", circuit.num_clbits]]
        sizes += [["", start - end]] if start > end else []
        sizes.append([name, size])
        end = start + size
    return sizes + ([["", circuit.num_clbits - end]] if end < circuit.num_clbits else [])


def qiskit_result(
    job_id: str, backend: tuple[str, str], experiments: Sequence[Experiment], records: Sequence[TaskRecord]
) -> Result:
    """The Result of a job: one experiment result for each circuit and set of parameters, in the order asked for."""
    results = [
        made for experiment, record in zip(experiments, records, strict=True) for made in _results(experiment, record)
    ]
    failed = [result.status for result in results if not result.success]
    return Result(
        backend_name=backend[0],
        backend_version=backend[1],
        job_id=job_id,
        success=not failed,
        results=results,
        date=datetime.now(UTC).isoformat(),
        status=f"{len(failed)} of {len(results)} failed: {failed[0]}" if failed else "COMPLETED",
    )


class _NoData(ExperimentResultData):  # type: ignore[misc]
    """The data of an experiment that failed.

    Some readers (BackendSamplerV2) take missing memory for shots that all gave zero; here they meet the reason instead.
    """

    def __init__(self, reason: str) -> None:
        super().__init__()
        self._reason = reason

    @property
    def memory(self) -> Any:
        raise QiskitError(f"there is no outcome: {self._reason}")


def _results(experiment: Experiment, record: TaskRecord) -> Iterator[ExperimentResult]:
    count = experiment.batch or 1
    if record.state is not TaskState.DONE or record.result is None:
        reason = record.error.message if record.error else record.state.name
        for _ in range(count):
            yield _experiment_result(experiment, record, _NoData(reason), reason)
        return
    samples = record.result.samples
    if samples is None:
        raise QiskitError(f"task {record.task_id}: its result has no samples")
    for rows in samples if experiment.batch is not None else (samples,):
        yield _experiment_result(experiment, record, outcome(rows, experiment.memory), None)


def _experiment_result(
    experiment: Experiment, record: TaskRecord, data: ExperimentResultData, failure: str | None
) -> ExperimentResult:
    result: TaskResult | None = record.result
    details = dict(result.metadata) if result else {}
    return ExperimentResult(
        shots=experiment.shots,
        success=failure is None,
        data=data,
        status=failure or "DONE",
        seed=experiment.seed,
        header=experiment.header,
        time_taken=record.execution_s,
        metadata={**details, "engine": record.engine, "task_id": record.task_id},
    )


def outcome(samples: np.ndarray, memory: bool) -> ExperimentResultData:
    """Counts, and each shot where ``memory`` is wanted, of samples of shape (shots, bytes), big-endian."""
    values, places, counts = _distinct(samples)
    keys = [hex(value) for value in values]
    shots = [keys[place] for place in places.tolist()] if memory else None
    return ExperimentResultData(counts=dict(zip(keys, counts.tolist(), strict=True)), memory=shots)


def _distinct(samples: np.ndarray) -> tuple[list[int], np.ndarray, np.ndarray]:
    """The different outcomes as numbers, which of them each shot is, and how often each was seen."""
    shots, width = samples.shape
    if width <= 8:
        padded = np.zeros((shots, 8), dtype=np.uint8)
        padded[:, 8 - width :] = samples
        numbers, places, counts = np.unique(padded.view(">u8").ravel(), return_inverse=True, return_counts=True)
        return numbers.tolist(), places, counts
    rows = np.ascontiguousarray(samples).view(f"V{width}").ravel()
    values, places, counts = np.unique(rows, return_inverse=True, return_counts=True)
    return [int.from_bytes(value.tobytes(), "big") for value in values], places, counts
