"""Small circuits gate by gate: which ones, and their gates as flat arrays of numbers.

A circuit without parameters is often run once, and others like it never. Tables, or a plan, take longer to make for it
than its gates take to do. Here a gate costs about a microsecond of listing; what kinds of gates there are, and how the
matrix of each comes from its angles, is in *templates*, which are made of the gate table once. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qsimenv import gates
from qsimenv.circuit import Circuit, Gate
from qsimenv.statevec.batches.batch_plan import MAX_QUBITS
from qsimenv.statevec.planning.program import Apply, Program, lower

NUM_TARGETS, NUM_CONTROLS, NUM_NUMBERS, SOURCE, FIRST_TURN, NUM_TURNS = range(6)
"""Columns of a template. ``SOURCE``: where in the constants its matrix begins, ``GIVEN`` where it is among the gate's
own numbers, ``TURNED`` where it is the product of turns (``gates.Turn``)."""
GIVEN, TURNED = -1, -2
KIND, ANGLE, FIRST_PLACE, NUM_PLACES = range(4)
"""Columns of a turn: which of the gate's numbers it is by (-1: none), and its rows of the matrix in ``places``."""
PHASE, TURN_X, TURN_Y = range(3)
MOST_TARGETS = gates.MAX_UNITARY_TARGETS
MOST_QUBITS = 15
"""Up to here a state is near the core, and a gate takes less than to plan and encode it, and hardly more than its part
of a sweep."""

_KINDS = {"phase": PHASE, "x": TURN_X, "y": TURN_Y}

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Listed(NamedTuple):
    """Gates one after the other: the template of each, all their qubits, what their controls must be (-1: all ones),
    and all their numbers: angles, or the entries of matrices, real part and imaginary part in turn."""

    codes: Integers
    qubits: Integers
    states: Integers
    numbers: Floats
    templates: Templates


class Templates(NamedTuple):
    """Templates and turns as above; factor and offset of each turn's angle; rows of matrices; constant matrices."""

    templates: Integers
    turns: Integers
    scales: Floats
    places: Integers
    constants: npt.NDArray[np.complex128]


def is_narrow(circuit: Circuit) -> bool:
    """Whether its gates are done sooner one by one, where one rank has the whole state: few qubits, no parameters."""
    return 1 <= circuit.num_qubits <= MOST_QUBITS and not circuit.parameters


def is_gatewise(circuit: Circuit) -> bool:
    """Whether it is one for ``small.run``: narrow, of the fewest qubits, and measured at the end alone."""
    return circuit.num_qubits <= MAX_QUBITS and is_narrow(circuit) and lower(circuit).is_pure


@lru_cache(maxsize=256)
def listed(circuit: Circuit) -> Listed:
    """The gates of a circuit for which ``is_gatewise`` holds; kept."""
    return list_gates(gates_of(lower(circuit)))


def list_gates(gate_list: Sequence[Gate]) -> Listed:
    """Any gates without parameters. Cost: about half a microsecond a gate."""
    numbers_of: dict[tuple[str, int, int], int] = {}
    codes, qubits, states, numbers = list[int](), list[int](), list[int](), list[float]()
    has_matrix = list[bool]()
    for each in gate_list:
        key = each.name, len(each.qubits), each.controls
        code = numbers_of.setdefault(key, len(numbers_of))
        if code == len(has_matrix):
            has_matrix.append(each.name == gates.UNITARY or each.base in _GIVEN)
        codes.append(code)
        qubits += each.qubits
        states.append(each.control_state)
        if has_matrix[code]:
            numbers += np.ascontiguousarray(each.base_matrix()).view(np.float64).reshape(-1).tolist()
        elif each.params:
            numbers += each.angles() if str in map(type, each.params) else each.params  # type: ignore[arg-type]
    return Listed(
        np.array(codes, dtype=np.int64),
        np.array(qubits, dtype=np.int64),
        np.array(states, dtype=np.int64),
        np.array(numbers, dtype=np.float64),
        _templates(tuple(numbers_of)),
    )


def gates_of(program: Program) -> Sequence[Gate]:
    """All gates of a static program, in order."""
    segments = [program.segments[step.segment] for step in program.code if isinstance(step, Apply)]
    return segments[0] if len(segments) == 1 else [gate for segment in segments for gate in segment]


_GIVEN = frozenset(name for name, row in gates.BASE.items() if row.num_params and row.turns is None)
"""Gates with angles that are no product of turns: their matrix is asked for."""


@lru_cache(maxsize=256)
def _templates(keys: tuple[tuple[str, int, int], ...]) -> Templates:
    """Those of gates by name, number of qubits, and how many of these are controls that were added."""
    rows, turns, places = [], list[tuple[int, int, int, int]](), list[int]()
    scales, constants = list[tuple[float, float]](), list[complex]()
    for name, num_qubits, added in keys:
        base, controls = gates.base_and_controls(name, num_qubits - added)
        targets, row = num_qubits - added - controls, gates.BASE.get(base)
        first, source, num_numbers = len(turns), GIVEN, 2 << 2 * targets
        if row is not None and base not in _GIVEN:
            num_numbers = row.num_params
            source = TURNED if row.turns is not None else len(constants)
            for turn in row.turns or ():
                flat = [place for pair in turn.rows for place in pair]
                half = 1.0 if turn.kind == "phase" else 0.5
                turns.append((_KINDS[turn.kind], turn.angle, len(places), len(flat)))
                scales.append((half * turn.factor, half * turn.offset))
                places += flat
            if row.turns is None:
                constants += row.matrix().reshape(-1).tolist()
        rows.append((targets, controls + added, num_numbers, source, first, len(turns) - first))
    return Templates(
        np.array(rows, dtype=np.int64).reshape(-1, 6),
        np.array(turns, dtype=np.int64).reshape(-1, 4),
        np.array(scales, dtype=np.float64).reshape(-1, 2),
        np.array(places, dtype=np.int64),
        np.array(constants, dtype=np.complex128),
    )
