"""Gates of Qiskit into gates of the table, without control flow: ``qiskit_in`` calls it for whatever is not simple.

A controlled gate becomes its base gate with controls added to every gate that it is made of, open controls included,
which is exact and far shorter than the decomposition in its definition. Powers repeat, or go through the matrix.
"""

from __future__ import annotations

import cmath
from typing import Any

import numpy as np
from qiskit.circuit import (
    AnnotatedOperation,
    ControlledGate,
    ControlModifier,
    Gate,
    InverseModifier,
    PowerModifier,
    QuantumCircuit,
)
from qiskit.circuit.library import (
    Barrier,
    CUGate,
    RVGate,
    UGate,
    UnitaryGate,
    get_standard_gate_name_mapping,
)
from qiskit.quantum_info import Operator

from qsimenv import circuit as qs
from qsimenv import gates
from qsimenv.errors import NotSupportedError
from qsimenv.formats.qiskit_expr import Angles

_ALWAYS_REPEATED = 4
_MAX_REPEATED = 10_000
"""A power of at most so many gates is written out, even where a matrix would do (or only where none would)."""
_SCALED_BY_POWERS = frozenset({"p", "u1", "rx", "ry", "rz", "rxx", "ryy", "rzz", "rzx", "gphase"})


def _row(name: str) -> str | None:
    row = gates.ALIASES.get(name, name)
    return row if row in gates.NAMES else None


_STANDARD = {name: gate for name, gate in get_standard_gate_name_mapping().items() if _row(name)}
ROWS: dict[str, str] = {name: _row(name) or "" for name in (*_STANDARD, "mcx")}
"""Names of Qiskit's standard gates with their rows in the table."""
_ROW_OF_CLASS: dict[type, str] = {gate.base_class: ROWS[name] for name, gate in _STANDARD.items()} | {RVGate: "rv"}


class GateImporter:
    """Turns operations that are gates into table gates; ``angles`` reads their parameters."""

    def __init__(self, angles: Angles) -> None:
        self._angles = angles

    def gates(self, operation: Any, qubits: tuple[int, ...]) -> list[qs.Gate] | None:
        """The gates that do what ``operation`` does; None where only its definition can tell.

        Raises NotSupportedError for a power that cannot be written as gates.
        """
        match operation:
            case AnnotatedOperation():
                return self._annotated(operation.base_op, list(operation.modifiers), qubits)
            case UnitaryGate():
                return _unitary(operation.to_matrix(), qubits)
            case ControlledGate():
                return self._controlled(operation, qubits)
        row = _ROW_OF_CLASS.get(getattr(operation, "base_class", type(operation)))
        if row is not None:
            return [self._gate(row, operation, qubits)]
        return self._opaque(operation, qubits)

    def _gate(self, row: str, operation: Any, qubits: tuple[int, ...], control_state: int = -1) -> qs.Gate:
        return qs.Gate(row, qubits, tuple(map(self._angles, operation.params)), 0, control_state)

    def _all(self, operation: Any, qubits: tuple[int, ...]) -> list[qs.Gate]:
        """The same for an operation that must be made of gates, by its definition where nothing else helps."""
        found = self.gates(operation, qubits)
        if found is not None:
            return found
        definition = operation if isinstance(operation, QuantumCircuit) else getattr(operation, "definition", None)
        if definition is None:
            raise NotSupportedError(f"circuit: gate {operation.name!r} has no definition; replace it by gates")
        out = []
        if phase := self._angles(definition.global_phase):
            out.append(qs.Gate("gphase", (), (phase,)))
        numbers = dict(zip(definition.qubits, qubits, strict=True))
        for item in definition.data:
            if isinstance(item.operation, Barrier):
                continue
            if item.clbits:
                raise NotSupportedError(f"circuit: {item.name!r} cannot be controlled, inverted or raised to a power")
            out.extend(self._all(item.operation, tuple(numbers[qubit] for qubit in item.qubits)))
        return out

    def _controlled(self, operation: ControlledGate, qubits: tuple[int, ...]) -> list[qs.Gate] | None:
        if isinstance(operation, CUGate):  # its base gate lacks the fourth angle
            return [self._gate("cu", operation, qubits, _state(operation.ctrl_state, 1))]
        count, base = operation.num_ctrl_qubits, operation.base_gate
        if count + base.num_qubits != len(qubits):
            return None  # there are ancillas: only the definition knows what they are for
        controls, targets = qubits[:count], qubits[count:]
        if isinstance(base, UGate) and len(operation.params) == 4:  # a controlled CUGate
            inner = [self._gate("u4", operation, targets)]
        else:
            inner = self._all(base, targets)
        return [add_controls(gate, controls, operation.ctrl_state) for gate in inner]

    def _annotated(self, base: Any, modifiers: list[Any], qubits: tuple[int, ...]) -> list[qs.Gate]:
        if not modifiers:
            return self._all(base, qubits)
        *first, last = modifiers
        match last:
            case InverseModifier():
                return [gate.inverse() for gate in reversed(self._annotated(base, first, qubits))]
            case ControlModifier(num_ctrl_qubits=count, ctrl_state=state):
                inner = self._annotated(base, first, qubits[count:])
                return [add_controls(gate, qubits[:count], state) for gate in inner]
            case PowerModifier(power=power):
                return self._power(base, first, power, qubits)
        raise NotSupportedError(f"circuit: the modifier {last!r} is not supported")

    def _power(self, base: Any, first: list[Any], power: float, qubits: tuple[int, ...]) -> list[qs.Gate]:
        once = self._annotated(base, first, qubits)
        whole = float(power).is_integer()
        if whole and len(once) == 1 and once[0].base in _SCALED_BY_POWERS:
            return [_scaled(once[0], int(power))]
        small = len(qubits) <= gates.MAX_UNITARY_TARGETS
        free = any(isinstance(angle, str) for gate in once for angle in gate.params)
        if small and not free and not (whole and len(once) * abs(power) <= _ALWAYS_REPEATED):
            return _unitary(Operator(AnnotatedOperation(base, [*first, PowerModifier(power)])).data, qubits) or []
        if whole and len(once) * abs(power) <= _MAX_REPEATED:
            turn = once if power > 0 else [gate.inverse() for gate in reversed(once)]
            return turn * int(abs(power))
        raise NotSupportedError(
            f"circuit: {base.name!r} to the power {power} on {len(qubits)} qubits; what can be had is a whole power "
            f"of up to {_MAX_REPEATED} gates, or any on up to {gates.MAX_UNITARY_TARGETS} qubits without parameters"
        )

    def _opaque(self, operation: Any, qubits: tuple[int, ...]) -> list[qs.Gate] | None:
        """A gate without definition, by its matrix if it has one."""
        if not isinstance(operation, Gate) or operation.definition is not None:
            return None
        try:
            return _unitary(operation.to_matrix(), qubits)
        except Exception:  # noqa: BLE001 - no matrix: whatever the gate's author raises for that
            return None


def add_controls(gate: qs.Gate, controls: tuple[int, ...], state: int | None) -> qs.Gate:
    """The gate under more controls, which come first; ``state`` is the value they must have, None for all ones."""
    if not controls:
        return gate
    count = len(controls)
    own = gate.num_controls
    wanted = ((1 << count) - 1 if state is None else state) | gate.control_value << count
    qubits = (*controls, *gate.qubits)
    if gate.name == gates.UNITARY:
        return qs.Gate(gates.UNITARY, qubits, (), count + own, _state(wanted, count + own), gate.matrix)
    return qs.controlled(gate.base, qubits, gate.params, count + own, wanted)


def _state(value: int, controls: int) -> int:
    return -1 if value == (1 << controls) - 1 else value


def _scaled(gate: qs.Gate, factor: int) -> qs.Gate:
    angle = gate.params[0]
    new = f"{factor}*({angle})" if isinstance(angle, str) else factor * angle
    return qs.controlled(gate.base, gate.qubits, (new,), gate.num_controls, gate.control_value)


def _unitary(matrix: Any, qubits: tuple[int, ...]) -> list[qs.Gate] | None:
    """A matrix as a gate; None where it is too big for one."""
    if not qubits:
        return [qs.Gate("gphase", (), (cmath.phase(complex(matrix[0, 0])),))]
    if len(qubits) > gates.MAX_UNITARY_TARGETS:
        return None
    return [qs.gate(gates.UNITARY, *qubits, matrix=np.asarray(matrix))]


__all__ = ["ROWS", "GateImporter", "add_controls"]
