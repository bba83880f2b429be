"""A naive dense simulator: what the tests believe.

It shares nothing with the house but the values that it reads (``Circuit`` and ``Gate``): it has its own matrices,
written from definitions (exponentials of Paulis, products of simpler gates), its own way to put a gate on a state,
its own reading of classical expressions, and it follows every outcome of every measurement with its probability.
Plain NumPy in complex128, a few microseconds per amplitude: for up to about twelve qubits.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

NEGLIGIBLE = 1e-13
"""Branches less probable than this are dropped: they are rounding, or the tail of a loop that ends by chance."""

I2 = np.eye(2, dtype=complex)
X = np.array([[0, 1], [1, 0]], dtype=complex)
Y = np.array([[0, -1j], [1j, 0]], dtype=complex)
Z = np.array([[1, 0], [0, -1]], dtype=complex)
PAULIS = {"I": I2, "X": X, "Y": Y, "Z": Z}


# --- matrices, from definitions ---


def exponential(hermitian: np.ndarray, angle: float) -> np.ndarray:
    """exp(-i angle H)."""
    values, vectors = np.linalg.eigh(hermitian)
    return (vectors * np.exp(-1j * angle * values)) @ vectors.conj().T


def pauli_matrix(letters: str) -> np.ndarray:
    """The tensor product; the rightmost letter is qubit 0."""
    matrix = np.eye(1, dtype=complex)
    for letter in letters:
        matrix = np.kron(matrix, PAULIS[letter])
    return matrix


def under_controls(matrix: np.ndarray, num_controls: int, state: int) -> np.ndarray:
    """P ⊗ ... : ``matrix`` where the controls (the least significant qubits) spell ``state``, else the identity."""
    spelled = np.zeros((1 << num_controls, 1 << num_controls))
    spelled[state, state] = 1
    return np.kron(matrix, spelled) + np.kron(np.eye(len(matrix)), np.eye(1 << num_controls) - spelled)


def product(num_qubits: int, *steps: tuple[np.ndarray, tuple[int, ...]]) -> np.ndarray:
    """The matrix of a little circuit, its steps in the order of time."""
    columns = np.eye(1 << num_qubits, dtype=complex)
    return np.array([_chain(column, steps) for column in columns]).T


def _chain(state: np.ndarray, steps: Sequence[tuple[np.ndarray, tuple[int, ...]]]) -> np.ndarray:
    for matrix, qubits in steps:
        state = apply(state, matrix, qubits)
    return state


def apply(state: np.ndarray, matrix: np.ndarray, qubits: Sequence[int]) -> np.ndarray:
    """``matrix`` on ``qubits`` (the first is its least significant bit) of a state of any number of qubits."""
    here = np.zeros(len(state), dtype=np.int64)
    for k, qubit in enumerate(qubits):
        here += ((np.arange(len(state)) >> qubit) & 1) << k
    rest = np.arange(len(state)) - sum((((here >> k) & 1) << qubit for k, qubit in enumerate(qubits)), start=0)
    new = np.zeros_like(state)
    for column in range(len(matrix)):
        source = rest + sum(((column >> k) & 1) << qubit for k, qubit in enumerate(qubits))
        new += matrix[here, column] * state[source]
    return new


def rotation(letters: str) -> Callable[[float], np.ndarray]:
    return lambda theta: exponential(pauli_matrix(letters), theta / 2)


def phase(angle: float) -> np.ndarray:
    return np.diag([1, np.exp(1j * angle)])


def general(theta: float, phi: float, lam: float, gamma: float = 0.0) -> np.ndarray:
    """U = exp(i (gamma + (phi + lam) / 2)) RZ(phi) RY(theta) RZ(lam)."""
    turned = rotation("Z")(phi) @ rotation("Y")(theta) @ rotation("Z")(lam)
    return np.exp(1j * (gamma + (phi + lam) / 2)) * turned


H = (X + Z) / math.sqrt(2)
S = phase(math.pi / 2)
T = phase(math.pi / 4)
SX = np.exp(1j * math.pi / 4) * rotation("X")(math.pi / 2)
CX = under_controls(X, 1, 1)
SWAP = product(2, (CX, (0, 1)), (CX, (1, 0)), (CX, (0, 1)))
ISWAP = exponential(pauli_matrix("XX") + pauli_matrix("YY"), -math.pi / 4)
DCX = product(2, (CX, (0, 1)), (CX, (1, 0)))
ECR = (pauli_matrix("IX") - pauli_matrix("XY")) / math.sqrt(2)
TDG = T.conj().T
RCCX = product(
    3, (H, (2,)), (T, (2,)), (CX, (1, 2)), (TDG, (2,)), (CX, (0, 2)), (T, (2,)), (CX, (1, 2)), (TDG, (2,)), (H, (2,))
)  # the Margolus gate of qelib1.inc
RCCCX = product(
    4,
    *((H, (3,)), (T, (3,)), (CX, (2, 3)), (TDG, (3,)), (H, (3,))),
    *((CX, (0, 3)), (T, (3,)), (CX, (1, 3)), (TDG, (3,)), (CX, (0, 3)), (T, (3,)), (CX, (1, 3)), (TDG, (3,))),
    *((H, (3,)), (T, (3,)), (CX, (2, 3)), (TDG, (3,)), (H, (3,))),
)  # rc3x of qelib1.inc


def _plus(theta: float, beta: float) -> np.ndarray:
    """RZ_0(-beta) . exp(-i theta/2 (XX + YY)/2) . RZ_0(beta)."""
    middle = exponential((pauli_matrix("XX") + pauli_matrix("YY")) / 2, theta / 2)
    turn = np.kron(I2, rotation("Z")(beta))
    return turn.conj().T @ middle @ turn


def _minus(theta: float, beta: float) -> np.ndarray:
    """RZ_1(beta) . exp(-i theta/2 (XX - YY)/2) . RZ_1(-beta)."""
    middle = exponential((pauli_matrix("XX") - pauli_matrix("YY")) / 2, theta / 2)
    turn = np.kron(rotation("Z")(beta), I2)
    return turn @ middle @ turn.conj().T


MATRICES: dict[str, Callable[..., np.ndarray]] = {
    "gphase": lambda a: np.array([[np.exp(1j * a)]]),
    "id": lambda: I2, "u0": lambda _a: I2, "x": lambda: X, "y": lambda: Y, "z": lambda: Z, "h": lambda: H,
    "s": lambda: S, "sdg": lambda: S.conj().T, "t": lambda: T, "tdg": lambda: TDG,
    "sx": lambda: SX, "sxdg": lambda: SX.conj().T, "p": phase, "u1": phase,
    "rx": rotation("X"), "ry": rotation("Y"), "rz": rotation("Z"),
    "r": lambda theta, phi: exponential(math.cos(phi) * X + math.sin(phi) * Y, theta / 2),
    "rv": lambda x, y, z: exponential(x * X + y * Y + z * Z, 0.5),
    "u2": lambda phi, lam: general(math.pi / 2, phi, lam), "u3": general, "u": general, "u4": general,
    "swap": lambda: SWAP, "iswap": lambda: ISWAP, "iswapdg": lambda: ISWAP.conj().T,
    "dcx": lambda: DCX, "dcxdg": lambda: DCX.conj().T, "ecr": lambda: ECR,
    "rxx": rotation("XX"), "ryy": rotation("YY"), "rzz": rotation("ZZ"), "rzx": rotation("XZ"),
    "xx_plus_yy": _plus, "xx_minus_yy": _minus,
    "rccx": lambda: RCCX, "rcccx": lambda: RCCCX, "rcccxdg": lambda: RCCCX.conj().T,
}  # fmt: skip
"""The gates without controls."""

CONTROLLED = {
    "cx": ("x", 1), "ccx": ("x", 2), "c3x": ("x", 3), "c4x": ("x", 4), "mcx": ("x", None), "cy": ("y", 1),
    "cz": ("z", 1), "ccz": ("z", 2), "ch": ("h", 1), "cs": ("s", 1), "csdg": ("sdg", 1), "csx": ("sx", 1),
    "c3sx": ("sx", 3), "cp": ("p", 1), "mcphase": ("p", None), "cu1": ("u1", 1), "crx": ("rx", 1), "cry": ("ry", 1),
    "crz": ("rz", 1), "cu3": ("u3", 1), "cu": ("u4", 1), "cswap": ("swap", 1),
}  # fmt: skip
"""The gates with controls of their own: what is controlled, by how many (None: all qubits but the last)."""


def gate_matrix(gate: Any, values: Sequence[float] = ()) -> tuple[np.ndarray, int]:
    """The full matrix of a Gate over all its qubits, and how many of them, the first ones, are controls."""
    own: int | None = 0
    if gate.name == "unitary":
        size = 1 << (len(gate.qubits) - gate.controls)
        matrix = np.frombuffer(gate.matrix, dtype=np.complex128).reshape(size, size)
    else:
        base, own = CONTROLLED.get(gate.name, (gate.name, 0))
        matrix = MATRICES[base](*(angle(text, values) for text in gate.params))
    num_controls = len(gate.qubits) - (len(matrix).bit_length() - 1)
    assert own is None or num_controls == own + gate.controls, f"{gate.name} on {len(gate.qubits)} qubits"
    state = (1 << num_controls) - 1 if gate.control_state == -1 else gate.control_state
    return under_controls(matrix, num_controls, state), num_controls


FUNCTIONS = {"sin": math.sin, "cos": math.cos, "sqrt": math.sqrt, "exp": math.exp}


def angle(text: float | str, values: Sequence[float]) -> float:
    """A number, or Python arithmetic on p0, p1, … as the tests write it."""
    if not isinstance(text, str):
        return float(text)
    names = {"pi": math.pi} | FUNCTIONS | {f"p{k}": float(value) for k, value in enumerate(values)}
    code = compile(ast.parse(text, mode="eval"), "angle", "eval")
    return float(eval(code, {"__builtins__": {}}, names))  # noqa: S307 - texts of our own tests


# --- programs ---


@dataclass
class World:
    """One history of outcomes: how probable it is and what it led to."""

    probability: float
    state: np.ndarray
    clbits: dict[int, int] = field(default_factory=dict)
    variables: dict[str, float] = field(default_factory=dict)
    leaving: str = ""
    """"break" or "continue" on the way out of a loop's body."""

    def word(self) -> int:
        return sum(value << clbit for clbit, value in self.clbits.items())


def zero_state(num_qubits: int) -> np.ndarray:
    state = np.zeros(1 << num_qubits, dtype=complex)
    state[0] = 1
    return state


def final_state(circuit: Any, values: Sequence[float] = ()) -> np.ndarray:
    """The state after the gates of a circuit; measurements are passed over, so it must have them at the end only."""
    state = zero_state(circuit.num_qubits)
    for instruction in circuit.instructions:
        if type(instruction).__name__ == "Gate":
            state = apply_gate(state, instruction, values)
    return state


def apply_gate(state: np.ndarray, gate: Any, values: Sequence[float] = ()) -> np.ndarray:
    return apply(state, gate_matrix(gate, values)[0], gate.qubits)


def distribution(circuit: Any, values: Sequence[float] = ()) -> dict[int, float]:
    """The exact probability of each value of all classical bits."""
    world = World(1.0, zero_state(circuit.num_qubits), {}, dict.fromkeys(circuit.variables, 0))
    instructions = list(circuit.instructions)
    last: list[tuple[int, int]] = []
    while instructions and type(instructions[-1]).__name__ == "Measure":
        measure = instructions.pop()
        last.append((measure.qubit, measure.clbit))
    found: dict[int, float] = {}
    for end in _block(world, instructions, values):
        for clbits, probability in _read_out(end, last[::-1]):
            word = replace(end, clbits=clbits).word()
            found[word] = found.get(word, 0.0) + probability
    return found


def _read_out(world: World, measures: Sequence[tuple[int, int]]) -> Iterator[tuple[dict[int, int], float]]:
    """The measurements at the very end, whose collapsed states nobody needs, all at once."""
    qubits = sorted({qubit for qubit, _ in measures})
    index = np.arange(len(world.state))
    outcome = sum((((index >> qubit) & 1) << k for k, qubit in enumerate(qubits)), start=np.zeros_like(index))
    masses = np.bincount(outcome, np.abs(world.state) ** 2, minlength=1 << len(qubits)) * world.probability
    for value in np.flatnonzero(masses > NEGLIGIBLE):
        clbits = dict(world.clbits)
        for qubit, clbit in measures:
            clbits[clbit] = int(value) >> qubits.index(qubit) & 1
        yield clbits, float(masses[value])


def _block(world: World, instructions: Sequence[Any], values: Sequence[float]) -> list[World]:
    """All worlds that come out of a block."""
    worlds = [world]
    for instruction in instructions:
        worlds = [
            after for before in worlds
            for after in ([before] if before.leaving else _step(before, instruction, values))
        ]  # fmt: skip
    return worlds


def _step(world: World, instruction: Any, values: Sequence[float]) -> list[World]:
    match type(instruction).__name__:
        case "Gate":
            return [replace(world, state=apply_gate(world.state, instruction, values))]
        case "Barrier":
            return [world]
        case "Measure":
            return [
                replace(after, clbits=after.clbits | {instruction.clbit: bit})
                for bit, after in _project(world, instruction.qubit)
            ]
        case "Reset":
            qubit = instruction.qubit
            return [
                replace(after, state=apply(after.state, X, [qubit]) if bit else after.state)
                for bit, after in _project(world, qubit)
            ]
        case "Assign":
            return [_assigned(world, instruction)]
        case "IfElse":
            branch = instruction.then if _value(instruction.condition, world) else instruction.otherwise
            return _block(world, branch, values)
        case "Switch":
            return _block(world, _chosen_case(world, instruction), values)
        case "While":
            return _while(world, instruction, values)
        case "Repeat":
            return _repeat(world, instruction, values)
        case "Break":
            return [replace(world, leaving="break")]
        case "Continue":
            return [replace(world, leaving="continue")]
    raise AssertionError(f"{type(instruction).__name__} is not an instruction that the oracle knows")


def _project(world: World, qubit: int) -> Iterator[tuple[int, World]]:
    there = (np.arange(len(world.state)) >> qubit) & 1
    for bit in (0, 1):
        part = np.where(there == bit, world.state, 0)
        weight = float(np.vdot(part, part).real)
        if weight * world.probability > NEGLIGIBLE:
            yield bit, replace(world, probability=world.probability * weight, state=part / math.sqrt(weight))


def _assigned(world: World, assign: Any) -> World:
    value = _value(assign.value, world)
    if hasattr(assign.target, "name"):
        return replace(world, variables=world.variables | {assign.target.name: value})
    written = {clbit: (int(value) >> k) & 1 for k, clbit in enumerate(assign.target.clbits)}
    return replace(world, clbits=world.clbits | written)


def _chosen_case(world: World, switch: Any) -> Sequence[Any]:
    value = int(_value(switch.target, world))
    for case in switch.cases:
        if value in case.values:
            return case.body
    return next((case.body for case in switch.cases if not case.values), ())


def _while(world: World, loop: Any, values: Sequence[float]) -> list[World]:
    running, done = [world], []
    for _ in range(loop.max_iterations):
        done += [w for w in running if not _value(loop.condition, w)]
        turned = [after for w in running if _value(loop.condition, w) for after in _block(w, loop.body, values)]
        done += [replace(w, leaving="") for w in turned if w.leaving == "break"]
        running = [replace(w, leaving="") for w in turned if w.leaving != "break"]
        if not running:
            return done
    raise TimeoutError("a while loop turns for ever")


def _repeat(world: World, loop: Any, values: Sequence[float]) -> list[World]:
    running, done = [world], []
    for body in loop.bodies:
        turned = [after for w in running for after in _block(w, body, values)]
        done += [replace(w, leaving="") for w in turned if w.leaving == "break"]
        running = [replace(w, leaving="") for w in turned if w.leaving != "break"]
    return done + running


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "logic_not": lambda a: not a, "negate": lambda a: -a, "cast": lambda a: a, "bool": bool,
    "bit_not": lambda a: ~int(a), "bit_and": lambda a, b: int(a) & int(b), "bit_or": lambda a, b: int(a) | int(b),
    "bit_xor": lambda a, b: int(a) ^ int(b), "logic_and": lambda a, b: bool(a) and bool(b),
    "logic_or": lambda a, b: bool(a) or bool(b), "equal": lambda a, b: a == b, "not_equal": lambda a, b: a != b,
    "less": lambda a, b: a < b, "less_equal": lambda a, b: a <= b, "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b, "shift_left": lambda a, b: int(a) * 2 ** int(b),
    "shift_right": lambda a, b: int(a) // 2 ** int(b), "add": lambda a, b: a + b, "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b, "index": lambda a, b: (int(a) // 2 ** int(b)) % 2,
}  # fmt: skip


def _value(expression: Any, world: World) -> Any:
    """The value of a classical expression; numbers with a width wrap around as unsigned ones do."""
    match type(expression).__name__:
        case "Literal":
            return expression.value
        case "Bits":
            return sum(world.clbits.get(clbit, 0) << k for k, clbit in enumerate(expression.clbits))
        case "Variable":
            return world.variables[expression.name]
    arguments = [_value(argument, world) for argument in expression.arguments]
    if expression.operator == "div":
        return arguments[0] // arguments[1] if expression.width else arguments[0] / arguments[1]
    value = _OPERATIONS[expression.operator](*arguments)
    return int(value) % 2**expression.width if expression.width else value


# --- expectation values ---


def expectation(state: np.ndarray, terms: Sequence[tuple[str, float]]) -> float:
    """<state| sum of coefficient times Pauli string |state>, by the dense matrix of every letter."""
    total = 0.0
    for letters, coefficient in terms:
        turned = state
        for qubit, letter in enumerate(reversed(letters)):
            turned = apply(turned, PAULIS[letter], [qubit])
        total += coefficient * float(np.vdot(state, turned).real)
    return total


# --- comparing samples with a distribution ---


def chi_square_excess(observed: dict[int, int], expected: dict[int, float]) -> float:
    """How far the counts are from the distribution: (chi-square - degrees of freedom) in its standard deviations.

    Outcomes expected fewer than 8 times are pooled. A right simulator stays below 6 but for about one seed in a
    million; an outcome that cannot happen gives infinity.
    """
    shots = sum(observed.values())
    if any(expected.get(word, 0.0) < NEGLIGIBLE for word in observed):
        return math.inf
    common = {word: p * shots for word, p in expected.items() if p * shots >= 8}
    rest = max(0.0, shots - sum(common.values()))
    bins = [(observed.get(word, 0), mean) for word, mean in common.items()]
    if rest >= 8:
        bins.append((shots - sum(observed.get(word, 0) for word in common), rest))
    freedom = max(1, len(bins) - 1)
    chi_square = sum((count - mean) ** 2 / mean for count, mean in bins)
    return float((chi_square - freedom) / math.sqrt(2 * freedom))
