"""What may come in: circuits by their hash, and for each task a check and an estimate before it is accepted.

Pure of sockets and clock. Estimates are remembered, since tasks that differ in seed, parameter values or name cost
the same; a thousand tasks on one circuit are estimated once. Long circuits are not opened in the controller: it keeps
them ``sealed`` and asks the ``appraiser``, which has an ``Admission`` of its own.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import lru_cache

import msgspec

from qsimenv import engines
from qsimenv.circuit import Circuit
from qsimenv.errors import InvalidArgumentError, NotFoundError, NotSupportedError, OutOfMemoryError, QSimEnvError
from qsimenv.qpm_plugin.messages import MAX_RESULT_BYTES, Failed, Job, NeedCircuits
from qsimenv.qpm_plugin.recent import Recent
from qsimenv.qpm_plugin.sealed import OPENED_BYTES, Sealed, opened
from qsimenv.task import AMPLITUDE_BYTES, WHOLE, Estimate, Observable, Task, validate_details, validate_kind

CIRCUIT_BYTES = 1 << 30
"""What the controller keeps of circuits that no waiting task needs."""
_REMEMBERED_ESTIMATES = 10_000


class Appraise(msgspec.Struct, frozen=True):
    """A question to the appraiser: are the circuits right, and what would the jobs need on this machine?

    Where they are right and the jobs fit, the circuits are put into the ``folder``, if one is named; ``durable``: the
    disk has them before there is an answer.
    """

    jobs: tuple[Job, ...]
    circuits: dict[str, bytes]
    max_ranks: int
    free_bytes: int
    folder: str = ""
    durable: bool = False


class Appraised(msgspec.Struct, frozen=True, tag="appraised"):
    """The circuits are right; an estimate for each job, on ``max_ranks`` ranks."""

    max_ranks: int
    estimates: tuple[Estimate, ...]


Finding = Appraised | Failed | NeedCircuits


class Admission:
    """Knows circuits, and with ``max_ranks`` and ``free_bytes`` per rank what fits."""

    def __init__(self, kept_bytes: int = CIRCUIT_BYTES) -> None:
        self._circuits: Recent[Circuit | Sealed] = Recent(kept_bytes)
        self._asked: Counter[str] = Counter()
        self._estimates: dict[object, Estimate] = {}
        self.max_ranks = 0
        self.free_bytes = 0

    def resize(self, max_ranks: int, free_bytes: int) -> None:
        """The machine as it is now. Loads the engines, which takes a moment: it is now, and not the first client, that
        has it."""
        self.max_ranks, self.free_bytes = max_ranks, free_bytes
        self._estimates.clear()
        for name in engines.names():
            with contextlib.suppress(QSimEnvError):  # who asks for that engine hears of it
                engines.engine(name)

    @property
    def num_circuits(self) -> int:
        return len(self._circuits)

    def learn(self, circuits: dict[str, bytes]) -> None:
        """Keep circuits. InvalidArgumentError where bytes are not a circuit, or not the one that the hash names."""
        for name, data in circuits.items():
            known = self._circuits.get(name)
            if isinstance(known, Circuit) and known.bytes == data:
                continue
            circuit = Circuit.from_bytes(data)
            if circuit.hash != name:
                raise InvalidArgumentError(f"circuit: the bytes sent as {name!r} have the hash {circuit.hash!r}")
            self._circuits.put(name, circuit, len(data))

    def keep_sealed(self, circuits: Mapping[str, bytes]) -> None:
        """Keep circuits that the appraiser has found right."""
        for name, data in circuits.items():
            self._circuits.put(name, Sealed(name, data), len(data))

    def forget(self, name: str) -> None:
        """NotFoundError where it is not known."""
        if not self._circuits.drop(name):
            raise NotFoundError(f"delete_circuit: {name!r} is not known")

    def unknown(self, jobs: Iterable[Job], coming: Container[str] = ()) -> tuple[str, ...]:
        """The circuits of ``jobs`` that are neither here nor ``coming``, nor with the appraiser just now."""
        names = dict.fromkeys(job.circuit for job in jobs)
        return tuple(
            name
            for name in names
            if self._circuits.get(name) is None and name not in coming and name not in self._asked
        )

    def question(self, jobs: Sequence[Job], circuits: Mapping[str, bytes], lost: Iterable[str] = ()) -> Appraise | None:
        """What the appraiser is to be asked, where ``circuits`` that come, or those of ``jobs``, are not to be opened
        here; None: they are. It is told again of those that it has ``lost``."""
        is_long = sum(map(len, circuits.values())) > OPENED_BYTES
        if not is_long and all(name in circuits or self._is_open(name) for name in {job.circuit for job in jobs}):
            return None
        again = {name: circuit.bytes for name in lost if (circuit := self._circuits.get(name)) is not None}
        asked = {**again, **circuits}
        self._asked.update(asked.keys())
        return Appraise(tuple(jobs), asked, self.max_ranks, self.free_bytes)

    def _is_open(self, name: str) -> bool:
        return isinstance(self._circuits.get(name), Circuit)

    def answered(self, question: Appraise) -> None:
        """The appraiser has nothing more to say to a question."""
        self._asked -= Counter(dict.fromkeys(question.circuits, 1))

    def circuits(self, jobs: Iterable[Job]) -> dict[str, Circuit | Sealed]:
        """The circuits of jobs. NotFoundError where one is not known."""
        found = {}
        for name in dict.fromkeys(job.circuit for job in jobs):
            circuit = self._circuits.get(name)
            if circuit is None:
                raise NotFoundError(f"circuit {name!r} is not known")
            found[name] = circuit
        return found

    def estimates(self, jobs: Sequence[Job]) -> list[Estimate]:
        """Of each, where all their circuits are open; raises for the first task that is wrong or does not fit."""
        circuits = self.circuits(jobs)
        return [self.estimate(job, circuits[job.circuit]) for job in jobs]

    def estimate(self, job: Job, circuit: Circuit | Sealed) -> Estimate:
        """What the task would need here. Raises what ``validate`` and ``engines.evaluate`` raise."""
        validate_details(job.task)
        key = job.circuit, job.task.kind
        found = self._estimates.get(key)
        if found is None:
            found = self._evaluate(job.with_circuit(opened(circuit)))
            if len(self._estimates) >= _REMEMBERED_ESTIMATES:
                self._estimates.clear()
            self._estimates[key] = found
        return found

    def _evaluate(self, task: Task) -> Estimate:
        validate_kind(task)
        _check_result_size(task)
        return engines.evaluate(task, self.max_ranks, self.free_bytes)

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
