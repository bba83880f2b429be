"""THE gate table: every gate the house knows is one row here, and nowhere else.

A row is either a *base* gate with its matrix on the targets, or a name for a base gate under some controls
(``cx`` is ``x`` under one). Conventions are Qiskit's: qubit 0 of a gate is the least significant bit of a row
or column index of its matrix, and controls come before targets. Formats translate names into rows, the planner
reads the structure, the kernels get the matrix; the tests loop over all rows, so a new one is tested on arrival.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from qsimenv.errors import InvalidArgumentError
from qsimenv.formula import Angle, negate, shift

Matrix = npt.NDArray[np.complex128]
Structure = Literal["identity", "diagonal", "permutation", "dense"]
"""What is true of the matrix for *all* parameter values; ``permutation`` moves amplitudes and never scales them."""

MAX_UNITARY_TARGETS = 5


class Turn(NamedTuple):
    """A rotation by ``x = factor * angles[angle] + offset`` on some rows of a gate's matrix (angle -1: by ``offset``).

    ``phase`` multiplies each of ``rows`` by exp(i x); ``x`` and ``y`` turn each pair of rows by exp(-i x/2 P), P being
    that Pauli. The turns of a gate, one after the other, are its matrix: numbers that can be worked out for many sets
    of parameters at once, and a rotation is cheaper than a matrix.
    """

    kind: Literal["phase", "x", "y"]
    rows: tuple[tuple[int, ...], ...]
    angle: int
    factor: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class GateType:
    """One base gate.

    ``matrix(*angles)`` is its complex matrix of shape (2**num_targets, 2**num_targets), angles in radians.
    ``inverse(angles)`` names the row and the angles of the inverse. ``real`` is true where the matrix is.
    ``turns`` spells a gate with angles as rotations, where it can be: the way of those who run many sets of parameters.
    """

    name: str
    num_targets: int
    num_params: int
    matrix: Callable[..., Matrix]
    inverse: Callable[[Sequence[Angle]], tuple[str, tuple[Angle, ...]]]
    structure: Structure = "dense"
    real: bool = False
    turns: tuple[Turn, ...] | None = None


@dataclass(frozen=True)
class ControlledName:
    """A name of the field's for ``base`` under ``num_controls`` controls; None means that the qubits tell how many."""

    name: str
    base: str
    num_controls: int | None


def _m(*rows: Sequence[complex]) -> Matrix:
    return np.array(rows, dtype=np.complex128)


def _constant(*rows: Sequence[complex]) -> Callable[[], Matrix]:
    matrix = _m(*rows)
    matrix.setflags(write=False)
    return lambda: matrix


def _diagonal(*entries: complex) -> Matrix:
    return np.diag(np.array(entries, dtype=np.complex128))


def _phase(angle: float) -> complex:
    return cmath.exp(1j * angle)


# --- matrices of the parametric gates; half angles as everywhere in the field ---


def _u(theta: float, phi: float, lam: float) -> Matrix:
    cos, sin = math.cos(theta / 2), math.sin(theta / 2)
    return _m((cos, -_phase(lam) * sin), (_phase(phi) * sin, _phase(phi + lam) * cos))


def _r(theta: float, phi: float) -> Matrix:
    cos, sin = math.cos(theta / 2), math.sin(theta / 2)
    return _m((cos, -1j * _phase(-phi) * sin), (-1j * _phase(phi) * sin, cos))


def _rv(x: float, y: float, z: float) -> Matrix:
    angle = math.sqrt(x * x + y * y + z * z)
    if angle == 0:
        return np.eye(2, dtype=np.complex128)
    cos, sin = math.cos(angle / 2), math.sin(angle / 2) / angle
    return _m((cos - 1j * z * sin, (-y - 1j * x) * sin), ((y - 1j * x) * sin, cos + 1j * z * sin))


def _pauli_rotation(pauli: Matrix) -> Callable[[float], Matrix]:
    """exp(-i theta/2 P) for a P that squares to one."""
    identity = np.eye(len(pauli))
    return lambda theta: math.cos(theta / 2) * identity - 1j * math.sin(theta / 2) * pauli


def _kron(second: Matrix, first: Matrix) -> Matrix:
    """``first`` on qubit 0, ``second`` on qubit 1."""
    return np.kron(second, first).astype(np.complex128)


def _xx_plus_yy(theta: float, beta: float) -> Matrix:
    matrix = np.eye(4, dtype=np.complex128)
    matrix[1:3, 1:3] = _r(theta, beta)
    return matrix


def _xx_minus_yy(theta: float, beta: float) -> Matrix:
    matrix = np.eye(4, dtype=np.complex128)
    matrix[np.ix_((0, 3), (0, 3))] = _r(theta, beta)
    return matrix


def _with_block(size: int, entries: dict[tuple[int, int], complex]) -> Callable[[], Matrix]:
    """The identity, but for the given entries."""
    matrix = np.eye(size, dtype=np.complex128)
    for row, column in entries:
        matrix[row, row] = matrix[column, column] = 0
    for (row, column), value in entries.items():
        matrix[row, column] = value
    matrix.setflags(write=False)
    return lambda: matrix


def _self(name: str) -> Callable[[Sequence[Angle]], tuple[str, tuple[Angle, ...]]]:
    return lambda angles: (name, tuple(angles))


def _to(name: str) -> Callable[[Sequence[Angle]], tuple[str, tuple[Angle, ...]]]:
    return lambda _angles: (name, ())


def _negated(name: str) -> Callable[[Sequence[Angle]], tuple[str, tuple[Angle, ...]]]:
    return lambda angles: (name, tuple(negate(angle) for angle in angles))


def _first_negated(name: str) -> Callable[[Sequence[Angle]], tuple[str, tuple[Angle, ...]]]:
    return lambda angles: (name, (negate(angles[0]), *angles[1:]))


def _u_inverse(name: str) -> Callable[[Sequence[Angle]], tuple[str, tuple[Angle, ...]]]:
    return lambda a: (name, (negate(a[0]), negate(a[2]), negate(a[1]), *(negate(gamma) for gamma in a[3:])))


def _euler(theta: int, phi: int, lam: int, theta_offset: float = 0.0) -> tuple[Turn, ...]:
    """U as phase, turn about y, phase; the numbers are those of its angles."""
    return Turn("phase", ((1,),), lam), Turn("y", ((0, 1),), theta, 1.0, theta_offset), Turn("phase", ((1,),), phi)


def _tilted(low: int, high: int) -> tuple[Turn, ...]:
    """A turn by angle 0 about the axis cos(angle 1) x + sin(angle 1) y, on one pair of rows."""
    return Turn("phase", ((high,),), 1, -1.0), Turn("x", ((low, high),), 0), Turn("phase", ((high,),), 1)


_PHASE = (Turn("phase", ((1,),), 0),)

_SQRT_HALF = math.sqrt(0.5)
_X = _m((0, 1), (1, 0))
_Y = _m((0, -1j), (1j, 0))
_Z = _m((1, 0), (0, -1))

_BASE_GATES = (
    GateType(
        "gphase", 0, 1, lambda a: _m((_phase(a),)), _negated("gphase"), "diagonal", turns=(Turn("phase", ((0,),), 0),)
    ),
    GateType("id", 1, 0, _constant((1, 0), (0, 1)), _self("id"), "identity", real=True),
    GateType("u0", 1, 1, lambda _a: _m((1, 0), (0, 1)), _self("u0"), "identity", real=True),
    GateType("x", 1, 0, _constant((0, 1), (1, 0)), _self("x"), "permutation", real=True),
    GateType("y", 1, 0, _constant((0, -1j), (1j, 0)), _self("y")),
    GateType("z", 1, 0, _constant((1, 0), (0, -1)), _self("z"), "diagonal", real=True),
    GateType("h", 1, 0, _constant((_SQRT_HALF, _SQRT_HALF), (_SQRT_HALF, -_SQRT_HALF)), _self("h"), real=True),
    GateType("s", 1, 0, _constant((1, 0), (0, 1j)), _to("sdg"), "diagonal"),
    GateType("sdg", 1, 0, _constant((1, 0), (0, -1j)), _to("s"), "diagonal"),
    GateType("t", 1, 0, _constant((1, 0), (0, _SQRT_HALF + _SQRT_HALF * 1j)), _to("tdg"), "diagonal"),
    GateType("tdg", 1, 0, _constant((1, 0), (0, _SQRT_HALF - _SQRT_HALF * 1j)), _to("t"), "diagonal"),
    GateType("sx", 1, 0, _constant((0.5 + 0.5j, 0.5 - 0.5j), (0.5 - 0.5j, 0.5 + 0.5j)), _to("sxdg")),
    GateType("sxdg", 1, 0, _constant((0.5 - 0.5j, 0.5 + 0.5j), (0.5 + 0.5j, 0.5 - 0.5j)), _to("sx")),
    GateType("p", 1, 1, lambda a: _diagonal(1, _phase(a)), _negated("p"), "diagonal", turns=_PHASE),
    GateType("u1", 1, 1, lambda a: _diagonal(1, _phase(a)), _negated("u1"), "diagonal", turns=_PHASE),
    GateType("rx", 1, 1, _pauli_rotation(_X), _negated("rx"), turns=(Turn("x", ((0, 1),), 0),)),
    GateType("ry", 1, 1, _pauli_rotation(_Y), _negated("ry"), real=True, turns=(Turn("y", ((0, 1),), 0),)),
    GateType(
        "rz",
        1,
        1,
        lambda a: _diagonal(_phase(-a / 2), _phase(a / 2)),
        _negated("rz"),
        "diagonal",
        turns=(Turn("phase", ((0,),), 0, -0.5), Turn("phase", ((1,),), 0, 0.5)),
    ),
    GateType("r", 1, 2, _r, _first_negated("r"), turns=_tilted(0, 1)),
    GateType("rv", 1, 3, _rv, _negated("rv")),
    GateType(
        "u2",
        1,
        2,
        lambda p, la: _u(math.pi / 2, p, la),
        lambda a: ("u2", (shift(negate(a[1]), -math.pi), shift(negate(a[0]), math.pi))),
        turns=_euler(-1, 0, 1, math.pi / 2),
    ),
    GateType("u3", 1, 3, _u, _u_inverse("u3"), turns=_euler(0, 1, 2)),
    GateType("u", 1, 3, _u, _u_inverse("u"), turns=_euler(0, 1, 2)),
    GateType(
        "u4",
        1,
        4,
        lambda t, p, la, g: _phase(g) * _u(t, p, la),
        _u_inverse("u4"),
        turns=(*_euler(0, 1, 2), Turn("phase", ((0,), (1,)), 3)),
    ),
    GateType(
        "swap",
        2,
        0,
        _constant((1, 0, 0, 0), (0, 0, 1, 0), (0, 1, 0, 0), (0, 0, 0, 1)),
        _self("swap"),
        "permutation",
        real=True,
    ),
    GateType("iswap", 2, 0, _constant((1, 0, 0, 0), (0, 0, 1j, 0), (0, 1j, 0, 0), (0, 0, 0, 1)), _to("iswapdg")),
    GateType("iswapdg", 2, 0, _constant((1, 0, 0, 0), (0, 0, -1j, 0), (0, -1j, 0, 0), (0, 0, 0, 1)), _to("iswap")),
    GateType(
        "dcx",
        2,
        0,
        _constant((1, 0, 0, 0), (0, 0, 0, 1), (0, 1, 0, 0), (0, 0, 1, 0)),
        _to("dcxdg"),
        "permutation",
        real=True,
    ),
    GateType(
        "dcxdg",
        2,
        0,
        _constant((1, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 1, 0, 0)),
        _to("dcx"),
        "permutation",
        real=True,
    ),
    GateType(
        "ecr",
        2,
        0,
        _constant(*(_SQRT_HALF * _m((0, 1, 0, 1j), (1, 0, -1j, 0), (0, 1j, 0, 1), (-1j, 0, 1, 0)))),
        _self("ecr"),
    ),
    GateType("rxx", 2, 1, _pauli_rotation(_kron(_X, _X)), _negated("rxx"), turns=(Turn("x", ((0, 3), (1, 2)), 0),)),
    GateType(
        "ryy",
        2,
        1,
        _pauli_rotation(_kron(_Y, _Y)),
        _negated("ryy"),
        turns=(Turn("x", ((0, 3),), 0, -1.0), Turn("x", ((1, 2),), 0)),
    ),
    GateType(
        "rzz",
        2,
        1,
        lambda a: _diagonal(_phase(-a / 2), _phase(a / 2), _phase(a / 2), _phase(-a / 2)),
        _negated("rzz"),
        "diagonal",
        turns=(Turn("phase", ((0,), (3,)), 0, -0.5), Turn("phase", ((1,), (2,)), 0, 0.5)),
    ),
    GateType(
        "rzx",
        2,
        1,
        _pauli_rotation(_kron(_X, _Z)),
        _negated("rzx"),
        turns=(Turn("x", ((0, 2),), 0), Turn("x", ((1, 3),), 0, -1.0)),
    ),
    GateType("xx_plus_yy", 2, 2, _xx_plus_yy, _first_negated("xx_plus_yy"), turns=_tilted(1, 2)),
    GateType("xx_minus_yy", 2, 2, _xx_minus_yy, _first_negated("xx_minus_yy"), turns=_tilted(0, 3)),
    GateType("rccx", 3, 0, _with_block(8, {(3, 7): -1j, (7, 3): 1j, (5, 5): -1}), _self("rccx")),
    GateType("rcccx", 4, 0, _with_block(16, {(3, 3): 1j, (11, 11): -1j, (7, 15): 1, (15, 7): -1}), _to("rcccxdg")),
    GateType("rcccxdg", 4, 0, _with_block(16, {(3, 3): -1j, (11, 11): 1j, (7, 15): -1, (15, 7): 1}), _to("rcccx")),
)

_CONTROLLED_NAMES = (
    ControlledName("cx", "x", 1), ControlledName("ccx", "x", 2), ControlledName("c3x", "x", 3),
    ControlledName("c4x", "x", 4), ControlledName("mcx", "x", None),
    ControlledName("cy", "y", 1), ControlledName("cz", "z", 1), ControlledName("ccz", "z", 2),
    ControlledName("ch", "h", 1), ControlledName("cs", "s", 1), ControlledName("csdg", "sdg", 1),
    ControlledName("csx", "sx", 1), ControlledName("c3sx", "sx", 3),
    ControlledName("cp", "p", 1), ControlledName("mcphase", "p", None), ControlledName("cu1", "u1", 1),
    ControlledName("crx", "rx", 1), ControlledName("cry", "ry", 1), ControlledName("crz", "rz", 1),
    ControlledName("cu3", "u3", 1), ControlledName("cu", "u4", 1), ControlledName("cswap", "swap", 1),
)  # fmt: skip

ALIASES = {
    "CX": "cx", "cnot": "cx", "toffoli": "ccx", "fredkin": "cswap", "U": "u", "phase": "p", "cphase": "cp",
    "global_phase": "gphase", "c3sqrtx": "c3sx", "rc3x": "rcccx", "mcx_gray": "mcx", "mcp": "mcphase", "i": "id",
}  # fmt: skip
"""Other spellings of the formats; a Circuit holds only the names of the table."""

BASE: dict[str, GateType] = {gate.name: gate for gate in _BASE_GATES}
CONTROLLED: dict[str, ControlledName] = {row.name: row for row in _CONTROLLED_NAMES}
UNITARY = "unitary"
"""The one gate that carries its matrix with it."""
NAMES: tuple[str, ...] = (*BASE, *CONTROLLED, UNITARY)

_NAME_OF_CONTROLLED = {(row.base, row.num_controls): row.name for row in _CONTROLLED_NAMES}


def base_and_controls(name: str, num_qubits: int) -> tuple[str, int]:
    """The base gate behind ``name`` and how many of its ``num_qubits`` qubits (the first ones) are its controls.

    Raises InvalidArgumentError for a name that is not in the table or a number of qubits that it does not have.
    """
    if name == UNITARY:
        if not 1 <= num_qubits <= MAX_UNITARY_TARGETS:
            raise InvalidArgumentError(
                f"gate unitary: {num_qubits} targets found, 1 to {MAX_UNITARY_TARGETS} supported; decompose it first"
            )
        return UNITARY, 0
    if name in CONTROLLED:
        row = CONTROLLED[name]
        targets = BASE[row.base].num_targets
        controls = num_qubits - targets if row.num_controls is None else row.num_controls
        base = row.base
    elif name in BASE:
        base, targets, controls = name, BASE[name].num_targets, 0
    else:
        raise InvalidArgumentError(f"gate {name!r} is not known; `qsimenv.gates.NAMES` lists those that are")
    if controls < 0 or controls + targets != num_qubits:
        raise InvalidArgumentError(f"gate {name}: {num_qubits} qubits found, {max(controls, 0) + targets} needed")
    return base, controls


def num_params(name: str) -> int:
    """How many angles the gate takes."""
    if name == UNITARY:
        return 0
    return BASE[CONTROLLED[name].base if name in CONTROLLED else name].num_params


def controlled_name(base: str, num_controls: int) -> str | None:
    """The field's name for ``base`` under ``num_controls`` controls; None where it has none."""
    if num_controls == 0:
        return base
    return _NAME_OF_CONTROLLED.get((base, num_controls)) or _NAME_OF_CONTROLLED.get((base, None))


def controlled_matrix(matrix: Matrix, num_controls: int, control_state: int) -> Matrix:
    """The matrix on controls and targets, controls least significant; the identity unless they spell the state."""
    size = len(matrix) << num_controls
    full = np.eye(size, dtype=np.complex128)
    chosen = (np.arange(len(matrix)) << num_controls) | control_state
    full[np.ix_(chosen, chosen)] = matrix
    return full


@lru_cache(maxsize=512)
def unmixed_targets(base: str) -> frozenset[int]:
    """Targets on whose value the gate only depends: it never moves amplitude between their 0 and 1.

    They need no local bit, exactly like controls. Found from the matrix at angles that cancel nowhere.
    """
    gate = BASE[base]
    matrix = gate.matrix(*(0.7 + 0.31 * k for k in range(gate.num_params)))
    return unmixed_bits(matrix)


def unmixed_bits(matrix: Matrix) -> frozenset[int]:
    """Bits of the index between whose two values the matrix has no entry."""
    rows, columns = np.nonzero(matrix)
    mixed = int(np.bitwise_or.reduce(rows ^ columns))
    return frozenset(bit for bit in range(len(matrix).bit_length() - 1) if not mixed >> bit & 1)
