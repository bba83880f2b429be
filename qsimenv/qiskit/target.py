"""The Target of the backend: what ``transpile`` may leave in a circuit."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from qiskit.circuit import (
    BoxOp,
    BreakLoopOp,
    ContinueLoopOp,
    Delay,
    ForLoopOp,
    IfElseOp,
    Measure,
    Parameter,
    Reset,
    Store,
    SwitchCaseOp,
    WhileLoopOp,
)
from qiskit.circuit.library import Initialize, MCPhaseGate, MCXGate, UnitaryGate, get_standard_gate_name_mapping
from qiskit.transpiler import Target

from qsimenv.formats.qiskit_gates import ROWS

_OF_ANY_WIDTH: dict[str, Any] = {
    "if_else": IfElseOp,
    "switch_case": SwitchCaseOp,
    "while_loop": WhileLoopOp,
    "for_loop": ForLoopOp,
    "break_loop": BreakLoopOp,
    "continue_loop": ContinueLoopOp,
    "box": BoxOp,
    "store": Store,
    "unitary": UnitaryGate,
    "mcx": MCXGate,
    "mcphase": MCPhaseGate,
    "initialize": Initialize,
}


def target(num_qubits: int) -> Target:
    """Every gate without error or time, between any qubits."""
    made = Target(description="qsimenv", num_qubits=num_qubits)
    for gate in _standard_gates():
        made.add_instruction(gate, {None: None})
    for instruction in (Measure(), Reset(), Delay(Parameter("t"))):
        made.add_instruction(instruction, {None: None})
    for name, kind in _OF_ANY_WIDTH.items():
        made.add_instruction(kind, name=name)
    return made


@lru_cache(maxsize=1)
def _standard_gates() -> tuple[Any, ...]:
    mapping = get_standard_gate_name_mapping()
    return tuple(mapping[name] for name in ROWS if name in mapping)
