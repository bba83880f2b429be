"""QSimBackend: the house as one of Qiskit's backends.

It runs circuits in the environment that is running, or in this process where there is none. Every gate of the table
that Qiskit knows, mid-circuit measurement and all of Qiskit's control flow are native, any qubit reaches any other, so
``transpile`` leaves circuits nearly as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.providers import BackendV2, Options
from qiskit.transpiler import Target

import qsimenv
from qsimenv.circuit import Circuit
from qsimenv.errors import InvalidArgumentError, NotFoundError, NotSupportedError
from qsimenv.formats.qiskit_in import from_qiskit
from qsimenv.qiskit.job import Provider, QSimJob
from qsimenv.qiskit.local import LocalProvider
from qsimenv.qiskit.results import Experiment, header
from qsimenv.qiskit.target import target
from qsimenv.task import Task, task, written_clbits


class QSimBackend(BackendV2):  # type: ignore[misc]
    """A backend over ``environment``: a QPM that is connected, the path of a connection file, ``"local"`` for this
    process, or None for the environment that is running, and this process where none is.

    ``options`` change the defaults: ``shots`` (1024), ``memory`` (False), ``seed_simulator`` (None), ``precision``
    ("double" or "single"), ``engine`` ("auto"). AttributeError for an unknown one, NotFoundError where a connection
    file does not exist.
    """

    def __init__(self, environment: Any = None, **options: Any) -> None:
        super().__init__(
            name="qsimenv",
            description="Simulation environment for quantum circuits on HPC machines",
            backend_version=qsimenv.__version__,
            **options,
        )
        self._provider_of_runs: Provider = _provider(environment)
        described = self._provider_of_runs.describe()
        here = isinstance(self._provider_of_runs, LocalProvider)
        self._place = "in this process" if here else f"on environment {described.get('name', '?')!r}"
        self._target = target(_num_qubits(described, self.options.precision))

    def __repr__(self) -> str:
        return f"<QSimBackend {self._place}, {self.num_qubits} qubits>"

    @classmethod
    def _default_options(cls) -> Options:
        return Options(
            shots=1024,
            memory=False,
            seed_simulator=None,
            precision="double",
            engine="auto",
            parameter_binds=None,
            noise_model=None,
        )

    @property
    def target(self) -> Target:
        """The gates; one target for the life of the backend, as wide as memory allowed when it was made."""
        return self._target

    @property
    def max_circuits(self) -> int | None:
        """None: a job takes any number of circuits."""
        return None

    def __deepcopy__(self, memo: dict[int, Any]) -> QSimBackend:
        """The backend itself: a connection has no copy."""
        return self

    def run(self, run_input: QuantumCircuit | Sequence[QuantumCircuit], **options: Any) -> QSimJob:
        """Run one circuit or several (in one request) and return the job at once.

        ``options`` are those of the constructor, for this call, and ``parameter_binds``: a list with one mapping
        ``{parameter: value or values}`` for each circuit (or one for all), whose sets of values become results of their
        own, one after the other. With ``seed_simulator`` the first circuit gets that very seed and circuit k one that
        is derived from it and k: equal requests give equal results, and circuits of a request share no random numbers.
        Options that are not known cause a warning.

        Raises InvalidArgumentError for a circuit that measures nothing or a parameter without a value,
        NotSupportedError for what cannot be simulated, and what the environment refuses the tasks for.
        """
        circuits = [run_input] if isinstance(run_input, QuantumCircuit) else list(run_input)
        if not circuits:
            raise InvalidArgumentError("run: no circuit given")
        chosen = self._chosen(options)
        binds = _binds(chosen["parameter_binds"], len(circuits))
        tasks, experiments = [], []
        for k, (circuit, bind) in enumerate(zip(circuits, binds, strict=True)):
            made = _task(circuit, bind, chosen, _seed(chosen["seed_simulator"], k))
            tasks.append(made)
            experiments.append(_experiment(circuit, made, bool(chosen["memory"])))
        job = QSimJob(self, self._provider_of_runs, tasks, experiments)
        job.submit()
        return job

    def _chosen(self, options: Mapping[str, Any]) -> dict[str, Any]:
        chosen = {name: getattr(self.options, name) for name in self._default_options()}
        for name in options:
            if name not in chosen:
                known = ", ".join(chosen)
                warnings.warn(f"run: option {name!r} is not known and has no effect; known are {known}", stacklevel=3)
        chosen.update((name, value) for name, value in options.items() if name in chosen)
        if chosen["noise_model"] is not None:
            raise NotSupportedError("run: noise models are not supported by this backend; leave noise_model out")
        return chosen


def _provider(environment: Any) -> Provider:
    if environment == "local":
        return LocalProvider()
    if environment is None:
        return _running_environment() or LocalProvider()
    if isinstance(environment, str | Path):
        from qsimenv.qpm_plugin.client import connect

        return connect(environment)
    if not (hasattr(environment, "async_run") and hasattr(environment, "read_cq")):
        raise InvalidArgumentError(
            f"QSimBackend: {type(environment).__name__} is no environment; "
            "give a QPM, a connection file, 'local' or nothing"
        )
    provider: Provider = environment
    return provider


def _running_environment() -> Provider | None:
    from qsimenv.qpm_plugin.client import connect, find_connection

    found = find_connection()
    if found is None:
        return None
    try:
        return connect(found)
    except NotFoundError:
        return None


def _num_qubits(described: Mapping[str, Any], precision: str) -> int:
    """How wide a circuit may be: what the environment says, or what this process's memory holds."""
    widths: Any = described["num_qubits"]
    if isinstance(widths, Mapping):
        widths = widths.get(precision, max(widths.values(), default=1))
    return int(widths)


def _task(
    circuit: QuantumCircuit, bind: Mapping[Any, Any] | None, options: Mapping[str, Any], seed: int | None
) -> Task:
    converted = from_qiskit(circuit)
    if converted.num_clbits and not written_clbits(converted):
        raise InvalidArgumentError(
            f"run: circuit {circuit.name!r} has classical bits but measures nothing, so there are no counts; "
            "add a measurement (measure_all) before running it"
        )
    return task(
        converted,
        shots=_shots(options["shots"]),
        seed=seed,
        parameters=None if bind is None else _values(converted, bind),
        precision=options["precision"],
        engine=options["engine"],
        unwritten_registers="zero",
    )


def _shots(shots: Any) -> int | None:
    if shots is not None and (isinstance(shots, bool) or not isinstance(shots, int | np.integer)):
        raise InvalidArgumentError(f"shots: {shots!r} found, a whole number needed")
    return None if shots is None else int(shots)


def _experiment(circuit: QuantumCircuit, made: Task, with_memory: bool) -> Experiment:
    return Experiment(
        header=header(circuit),
        shots=int(made.shots or 0),
        seed=made.seed,
        memory=with_memory,
        batch=made.batch_shape[0] if made.batch_shape else None,
    )


def _binds(binds: Any, count: int) -> list[Mapping[Any, Any] | None]:
    if not binds:
        return [None] * count
    rows = [binds] if isinstance(binds, Mapping) else list(binds)
    if len(rows) == 1:
        return rows * count
    if len(rows) != count:
        raise InvalidArgumentError(f"parameter_binds: {len(rows)} mappings found, 1 or {count} (one a circuit) needed")
    return rows


def _values(circuit: Circuit, bind: Mapping[Any, Any]) -> np.ndarray:
    """Values of shape (B, P), in the order of the circuit's parameters."""
    named = {getattr(parameter, "name", parameter): np.atleast_1d(values) for parameter, values in bind.items()}
    missing = [name for name in circuit.parameters if name not in named]
    if missing:
        raise InvalidArgumentError(f"parameter_binds: {missing[0]!r} is left unbound; give it a value")
    unknown = [name for name in named if name not in circuit.parameters]
    if unknown:
        raise InvalidArgumentError(
            f"parameter_binds: {unknown[0]!r} is not one of the circuit's {list(circuit.parameters)}"
        )
    lengths = {name: len(values) for name, values in named.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidArgumentError(f"parameter_binds: as many values for each parameter are needed, {lengths} found")
    return np.stack([np.asarray(named[name], dtype=np.float64) for name in circuit.parameters], axis=-1)


def _seed(seed: int | None, place: int) -> int | None:
    """The seed of circuit ``place``: the one given for the first, derived ones for the others."""
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 1 << 64:
        raise InvalidArgumentError(f"seed_simulator: {seed!r} found, a whole number from 0 to 2**64 - 1 needed")
    if place == 0:
        return int(seed)
    return int(np.random.SeedSequence(int(seed), spawn_key=(place,)).generate_state(1, np.uint64)[0])
