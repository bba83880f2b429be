"""Task and Result: the two values between whoever asks and whatever simulates.

The same Task goes through ``qs.run`` in one process, under ``mpirun`` and through the service; the same Result
comes back. Both travel as msgpack (arrays by the hooks of ``wire``).
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from qsimenv.circuit import Assign, Circuit, Measure, Register, walk
from qsimenv.errors import InvalidArgumentError
from qsimenv.wording import plural

Precision = Literal["double", "single"]
Where = Literal["auto", "cpu", "gpu"]
_DEVICES = get_args(Where)
_FEW_VALUES = 256
AMPLITUDE_BYTES: dict[Precision, int] = {"double": 16, "single": 8}
MAX_PRIORITY = 1000
MAX_APPLICATION_LETTERS = 64
MAX_SHOTS = 1 << 31
WHOLE = "statevector"
"""What ``save`` says for all amplitudes in the result; else it names the HDF5 file that they go to, sharded."""
SHARDED = (".h5", ".hdf5")


class Observable(msgspec.Struct, frozen=True):
    """A real sum of Pauli strings, ``((string, coefficient), …)``; the rightmost letter is qubit 0, as in Qiskit."""

    terms: tuple[tuple[str, float], ...]


ObservableLike = str | Mapping[str, float] | Observable | Iterable[tuple[str, float]]


def observable(value: ObservableLike) -> Observable:
    """An Observable from ``"ZZ"``, ``{"XX": 0.5, "ZI": -1.0}``, pairs, or what has ``to_list()`` (SparsePauliOp)."""
    if isinstance(value, Observable):
        return value
    if isinstance(value, str):
        return Observable(((value.upper(), 1.0),))
    pairs = value.items() if isinstance(value, Mapping) else getattr(value, "to_list", lambda: value)()
    try:
        return Observable(tuple((str(pauli).upper(), _real(pauli, coefficient)) for pauli, coefficient in pairs))
    except (TypeError, ValueError):
        raise InvalidArgumentError(
            f"observable: {value!r} found, a Pauli string, {{string: coefficient}} or [(string, coefficient)] is needed"
        ) from None


def _real(pauli: str, coefficient: complex) -> float:
    if abs(complex(coefficient).imag) > 1e-12 * max(1.0, abs(coefficient)):
        raise InvalidArgumentError(f"observable: the coefficient {coefficient} of {pauli} is complex, real is needed")
    return float(complex(coefficient).real)


class Task(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One circuit with what is to be done with it. Checked by ``validate``; see ``task`` for the friendly constructor.

    ``parameters`` holds values of the circuit's free parameters, shape (P,) for one run or (B, P) for B runs.
    ``save`` is "statevector", or the path of an ``.h5`` file that the ranks write their shards of the state to.
    ``device`` is where a state vector lives: "cpu", "gpu", or "auto": a GPU where every rank has one.
    ``unwritten_registers="zero"`` lets a classical register that nothing writes read as zeros, as Qiskit does.
    ``time_limit_s`` seconds after its ranks began, the service breaks the task off: it ends FAILED (TIMEOUT).
    The service starts higher ``priority`` first, and shares the ranks between ``application``s (default: the client).
    """

    circuit: Circuit
    shots: int | None = None
    seed: int | None = None
    observables: tuple[Observable, ...] = ()
    parameters: np.ndarray | None = None
    precision: Precision = "double"
    engine: str = "auto"
    device: Where = "auto"
    save: str | None = None
    unwritten_registers: Literal["refuse", "zero"] = "refuse"
    name: str = ""
    time_limit_s: float | None = None
    application: str = ""
    priority: int = 0

    @property
    def kind(self) -> tuple[object, ...]:
        """What tasks on one circuit have in common that cost the same; see ``validate_kind``."""
        shape = None if self.parameters is None else self.parameters.shape
        return (
            self.shots, self.observables, shape, self.precision, self.engine, self.device, self.save,
            self.unwritten_registers,
        )  # fmt: skip

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """() for one run, (B,) for B of them."""
        return () if self.parameters is None else tuple(self.parameters.shape[:-1])


def task(
    circuit: Circuit,
    *,
    shots: int | None = None,
    seed: int | None = None,
    observables: ObservableLike | Sequence[ObservableLike] = (),
    parameters: npt.ArrayLike | Mapping[str, float] | None = None,
    precision: str = "double",
    engine: str = "auto",
    device: str = "auto",
    save: str | Path | None = None,
    unwritten_registers: str = "refuse",
    name: str = "",
    time_limit_s: float | None = None,
    application: str = "",
    priority: int = 0,
) -> Task:
    """A checked Task. ``parameters`` is an array of shape (P,) or (B, P), or a mapping of names to numbers.

    Raises InvalidArgumentError with what was found and what is needed.
    """
    made = Task(
        circuit=circuit,
        shots=_integer("shots", shots),
        seed=_integer("seed", seed),
        observables=_observables(observables),
        parameters=_parameter_values(circuit, parameters),
        precision=precision,  # type: ignore[arg-type]
        engine=engine,
        device=device,  # type: ignore[arg-type]
        save=_where_to_save(save),
        unwritten_registers=unwritten_registers,  # type: ignore[arg-type]
        name=name or circuit.name,
        time_limit_s=time_limit_s,
        application=application,
        priority=_integer("priority", priority) or 0,
    )
    validate(made)
    return made


def _where_to_save(save: str | Path | None) -> str | None:
    """A path in full, because who writes it may run elsewhere."""
    return str(Path(save).absolute()) if save is not None and str(save).endswith(SHARDED) else save  # type: ignore[return-value]


def _integer(name: str, value: int | None) -> int | None:
    """The number as a plain int, so that it travels whatever type it came in (a NumPy one, say)."""
    try:
        return None if value is None else int(operator.index(value))
    except TypeError:
        raise InvalidArgumentError(f"{name}: {value!r} found, a whole number is needed") from None


def _observables(values: ObservableLike | Sequence[ObservableLike]) -> tuple[Observable, ...]:
    if isinstance(values, str | Mapping | Observable) or hasattr(values, "to_list"):
        return (observable(values),)  # type: ignore[arg-type]
    return tuple(observable(value) for value in values)  # type: ignore[arg-type]


def _parameter_values(circuit: Circuit, values: npt.ArrayLike | Mapping[str, float] | None) -> np.ndarray | None:
    if values is None:
        return None
    if isinstance(values, Mapping):
        unknown = sorted(set(values) - set(circuit.parameters))
        if unknown:
            raise InvalidArgumentError(
                f"parameters: {unknown[0]!r} is not one of the circuit's {list(circuit.parameters) or '(it has none)'}"
            )
        missing = [name for name in circuit.parameters if name not in values]
        if missing:
            raise InvalidArgumentError(f"parameters: {missing[0]!r} is left unbound; give it a value")
        values = [values[name] for name in circuit.parameters]
    try:
        return np.ascontiguousarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidArgumentError("parameters: an array of numbers of shape (P,) or (B, P) is needed") from None


def validate(task: Task) -> None:
    """Raise InvalidArgumentError for the first thing about the task that cannot be done, whatever the engine."""
    validate_kind(task)
    validate_details(task)


def validate_details(task: Task) -> None:
    """The part of ``validate`` for what differs among tasks of one kind; does not look at the circuit."""
    if task.seed is not None and not 0 <= task.seed < 1 << 64:
        raise InvalidArgumentError(f"seed: {task.seed} found, 0 to 2**64 - 1 needed")
    if task.time_limit_s is not None and not 0 < task.time_limit_s < math.inf:
        raise InvalidArgumentError(f"time_limit_s: {task.time_limit_s} found, a positive number of seconds needed")
    if abs(task.priority) > MAX_PRIORITY:
        raise InvalidArgumentError(f"priority: {task.priority} found, -{MAX_PRIORITY} to {MAX_PRIORITY} needed")
    if len(task.application) > MAX_APPLICATION_LETTERS or not task.application.isprintable():
        raise InvalidArgumentError(
            f"application: {task.application[:20]!r} found, at most {MAX_APPLICATION_LETTERS} printable letters needed"
        )
    if task.parameters is not None and not _are_finite(task.parameters):
        raise InvalidArgumentError("parameters: a value that is not a finite number found")


def validate_kind(task: Task) -> None:
    """The part of ``validate`` for what tasks of one ``kind`` on one circuit share."""
    circuit = task.circuit
    if task.shots is not None and not 1 <= task.shots <= MAX_SHOTS:
        raise InvalidArgumentError(
            f"shots: {task.shots} found, 1 to {MAX_SHOTS} needed (leave shots out for exact values)"
        )
    if task.precision not in AMPLITUDE_BYTES:
        raise InvalidArgumentError(f"precision: {task.precision!r} found, 'double' or 'single' needed")
    if task.device not in _DEVICES:
        raise InvalidArgumentError(f"device: {task.device!r} found, 'auto', 'cpu' or 'gpu' needed")
    if task.save not in (None, WHOLE) and not str(task.save).endswith(SHARDED):
        raise InvalidArgumentError(f"save: {task.save!r} found, 'statevector' or the path of an .h5 file needed")
    if task.unwritten_registers not in ("refuse", "zero"):
        raise InvalidArgumentError(
            f"unwritten_registers: {task.unwritten_registers!r} found, 'refuse' or 'zero' needed"
        )
    if task.shots is None and not task.observables and task.save is None:
        raise InvalidArgumentError("run: nothing is asked for; give shots, observables or save='statevector'")
    _validate_parameters(task)
    for value in task.observables:
        _validate_observable(value, circuit.num_qubits)
    if task.shots is not None:
        _validate_registers(task)


def _validate_parameters(task: Task) -> None:
    needed = len(task.circuit.parameters)
    if task.parameters is None:
        if needed:
            raise InvalidArgumentError(
                f"parameters: {task.circuit.parameters[0]!r} is left unbound; give values for {needed} parameter(s)"
            )
        return
    shape = task.parameters.shape
    if len(shape) not in (1, 2) or shape[-1] != needed:
        raise InvalidArgumentError(f"parameters: an array of shape {shape} found, ({needed},) or (B, {needed}) needed")
    if 0 in task.batch_shape:
        raise InvalidArgumentError("parameters: an array without any set of values found; give at least one")


def _are_finite(values: np.ndarray) -> bool:
    # Of few values one sum of squares is quicker than a look at each, but it may overflow; of many the BLAS would start
    # threads, which go on to keep cores from others for 20 ms.
    few = values.size <= _FEW_VALUES
    return (few and math.isfinite(np.vdot(values, values))) or bool(np.isfinite(values).all())


def _validate_observable(value: Observable, num_qubits: int) -> None:
    if not value.terms:
        raise InvalidArgumentError("observable: it has no terms")
    for pauli, coefficient in value.terms:
        if len(pauli) != num_qubits:
            raise InvalidArgumentError(
                f"observable: {pauli!r} has {plural(len(pauli), 'letter')}, the circuit {plural(num_qubits, 'qubit')}; "
                "write I where nothing acts"
            )
        if pauli.strip("IXYZ"):
            raise InvalidArgumentError(f"observable: {pauli!r} has letters other than I, X, Y and Z")
        if not math.isfinite(coefficient):
            raise InvalidArgumentError(f"observable: the coefficient {coefficient} of {pauli} is not a finite number")


def _validate_registers(task: Task) -> None:
    circuit = task.circuit
    if circuit.num_clbits == 0:
        raise InvalidArgumentError(
            "run: the circuit has no measurement, so there are no counts; "
            "add one, or ask for observables or the statevector without shots"
        )
    if task.unwritten_registers == "zero":
        return
    written = written_clbits(circuit)
    for register in circuit.registers:
        if register.clbits and not written.intersection(register.clbits):
            raise InvalidArgumentError(
                f"run: the classical register {register.name!r} is never written; measure into it or remove it"
            )


@lru_cache(maxsize=1024)
def written_clbits(circuit: Circuit) -> frozenset[int]:
    """The classical bits that a measurement or an assignment may write."""
    written: set[int] = set()
    for instruction in walk(circuit.instructions):
        match instruction:
            case Measure(clbit=clbit):
                written.add(clbit)
            case Assign(target=target) if hasattr(target, "clbits"):
                written.update(target.clbits)
    return frozenset(written)


_MOST_OUTCOME_BITS = 63


class Result(msgspec.Struct, dict=True, kw_only=True):
    """What a task gave. Arrays have a leading axis B where the task had B sets of parameters.

    ``samples``: uint8 of shape (…, shots, ceil(num_clbits / 8)), the classical bits of each shot as a big-endian
    number (Qiskit's BitArray), in the order in which they were drawn. ``expectation_values``: float64 of shape
    (…, observables). ``statevector``: complex of shape (…, 2**num_qubits), index bit q is qubit q.
    ``metadata``: engine, ranks, precision, seconds by phase, peak bytes, and what the engine has to say.
    """

    num_clbits: int = 0
    registers: tuple[Register, ...] = ()
    shots: int | None = None
    samples: np.ndarray | None = None
    expectation_values: np.ndarray | None = None
    statevector: np.ndarray | None = None
    metadata: dict[str, Any] = {}

    def __repr__(self) -> str:
        """What it holds, in a line: ``<Result of statevector: 1000 shots of 2 bits, expectation values [1.  0.5]>``."""
        held = []
        if self.samples is not None:
            sets = "" if self.samples.ndim == 2 else f"{len(self.samples)} x "
            held.append(f"{sets}{plural(self.samples.shape[-2], 'shot')} of {plural(self.num_clbits, 'bit')}")
        if self.expectation_values is not None:
            shown = np.array2string(self.expectation_values, threshold=8, edgeitems=2).replace("\n", "")
            held.append(f"expectation values {shown}")
        if self.statevector is not None:
            held.append(f"statevector of shape {self.statevector.shape}")
        return f"<Result of {self.metadata.get('engine', 'no engine')}: {', '.join(held) or 'nothing'}>"

    @property
    def outcomes(self) -> np.ndarray:
        """The classical bits of each shot as a number, int64 of shape (…, shots); bit k is classical bit k.

        Raises InvalidArgumentError where no shots were asked for, or for more than 63 classical bits.
        """
        if self.samples is None:
            raise InvalidArgumentError("outcomes: the task asked for no shots")
        if self.num_clbits > _MOST_OUTCOME_BITS:
            raise InvalidArgumentError(
                f"outcomes: {self.num_clbits} classical bits found, a number holds {_MOST_OUTCOME_BITS}; use samples"
            )
        words = np.zeros((*self.samples.shape[:-1], 8), dtype=np.uint8)
        words[..., 8 - self.samples.shape[-1] :] = self.samples
        return words.view(">i8")[..., 0].astype(np.int64)

    @property
    def counts(self) -> Any:
        """``{"00": 503, "11": 497}``, or a list of such dicts, one a set of parameters. Counted when asked for.

        Registers are set apart by blanks, the last one first, the last bit of each first, as in Qiskit. Keys are
        sorted. Raises InvalidArgumentError where no shots were asked for.
        """
        if self.samples is None:
            raise InvalidArgumentError("counts: the task asked for no shots")
        if self.samples.ndim == 2:
            return self._counts_of(self.samples)
        return [self._counts_of(samples) for samples in self.samples]

    @property
    def memory(self) -> Any:
        """The outcome of each shot as text, in the order of drawing; a list of lists for several sets of parameters."""
        if self.samples is None:
            raise InvalidArgumentError("memory: the task asked for no shots")
        if self.samples.ndim == 2:
            return [self._key(row) for row in self.samples]
        return [[self._key(row) for row in samples] for samples in self.samples]

    def save(self, path: str | Path) -> None:
        """Write the statevector to an HDF5 file that ``qs.load_state`` and h5py read. *Local*: call it on one rank.

        A state too large for one rank is written by all of them with ``qs.run(…, save="state.h5")``. Raises
        InvalidArgumentError where there is no statevector, BadStateError where it cannot be written.
        """
        if self.statevector is None or self.statevector.ndim != 1:
            raise InvalidArgumentError("save: no statevector of one run is there; ask for save='statevector'")
        import qsimenv as qs

        qs.save_state(path, self.statevector)

    def _counts_of(self, samples: np.ndarray) -> dict[str, int]:
        width = samples.shape[-1]
        found: Mapping[bytes, int]
        if width <= 2:
            counts = np.bincount(np.ascontiguousarray(samples).view(f">u{width}").ravel())
            found = {int(value).to_bytes(width, "big"): int(counts[value]) for value in np.flatnonzero(counts)}
        elif self.num_clbits <= _MOST_OUTCOME_BITS:
            alone = Result(num_clbits=self.num_clbits, samples=samples)
            values, counts = np.unique(alone.outcomes, return_counts=True)
            found = {int(value).to_bytes(8, "big"): int(count) for value, count in zip(values, counts, strict=True)}
        else:
            found = Counter(np.ascontiguousarray(samples).view(f"V{width}").ravel().tolist())
        return dict(sorted((_key(row, self.num_clbits, self.registers), count) for row, count in found.items()))

    def _key(self, row: np.ndarray) -> str:
        return _key(row.tobytes(), self.num_clbits, self.registers)


@lru_cache(maxsize=4096)
def _key(row: bytes, num_clbits: int, registers: tuple[Register, ...]) -> str:
    """An outcome as text: registers set apart by blanks, the last one first, the last bit of each first."""
    bits = f"{int.from_bytes(row, 'big'):0{num_clbits}b}"[::-1]
    named = {clbit for register in registers for clbit in register.clbits}
    loose = tuple(clbit for clbit in range(num_clbits) if clbit not in named)
    groups = [*(register.clbits for register in registers), *((loose,) if loose else ())]
    return " ".join("".join(bits[clbit] for clbit in reversed(group)) for group in reversed(groups) if group)


class Estimate(msgspec.Struct, frozen=True):
    """What a task would need: engine, number of ranks, bytes on each of them, seconds."""

    engine: str
    ranks: int
    bytes_per_rank: int
    seconds: float
