"""Formats: what Qiskit and OpenQASM say is what the Circuit does, and back again.

The oracle multiplies dense matrices from the gate table and shares nothing with the engine; on the other side stands
``qiskit.quantum_info.Operator``. Control flow is compared as written out by hand.
"""

import io
import subprocess
import sys

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister, qasm2, qasm3, qpy
from qiskit.circuit import (
    AnnotatedOperation,
    Clbit,
    ControlModifier,
    Gate,
    Instruction,
    InverseModifier,
    Parameter,
    ParameterVector,
    PowerModifier,
    Qubit,
)
from qiskit.circuit import library as lib
from qiskit.circuit.classical import expr, types
from qiskit.circuit.random import random_circuit
from qiskit.quantum_info import Operator, SparsePauliOp, random_unitary

from benchmarks.overheads import gates_of_qiskit
from qsimenv import circuit as qs
from qsimenv import formats, formula, gates
from qsimenv.circuit import Bits, Literal, Operation, Variable
from qsimenv.errors import InvalidArgumentError, NotFoundError, NotSupportedError, ParseError
from qsimenv.formats.qiskit_in import from_qiskit
from qsimenv.formats.qiskit_out import to_qiskit
from tests.calls import calls_of

STANDARD = {
    name: gate
    for name, gate in lib.get_standard_gate_name_mapping().items()
    if name not in ("measure", "reset", "delay")
}


def dense(circuit, values=()):
    """The unitary of a circuit of gates, qubit 0 the least significant bit."""
    size = 1 << circuit.num_qubits
    total = np.eye(size, dtype=complex).reshape((2,) * circuit.num_qubits + (size,))
    for gate in circuit.instructions:
        if isinstance(gate, qs.Barrier):
            continue
        matrix = gates.controlled_matrix(gate.base_matrix(values), gate.num_controls, gate.control_value)
        count = len(gate.qubits)
        axes = [circuit.num_qubits - 1 - qubit for qubit in reversed(gate.qubits)]  # the first axis is the highest bit
        applied = np.tensordot(matrix.reshape((2,) * 2 * count), total, (range(count, 2 * count), axes))
        total = np.moveaxis(applied, range(count), axes)
    return total.reshape(size, size)


def check(circuit):
    """Import a circuit and compare; returns what was imported."""
    imported = from_qiskit(circuit)
    np.testing.assert_allclose(dense(imported), Operator(circuit).data, atol=1e-9)
    return imported


def on(operation):
    """A circuit of that one operation, on its qubits in the order 0, n-1, n-2, …, 1."""
    count = operation.num_qubits
    circuit = QuantumCircuit(count)
    circuit.append(operation, [-k % count for k in range(count)])
    return circuit


# --- gates ---


@pytest.mark.parametrize("controls", [0, 1, 2])
@pytest.mark.parametrize("name", STANDARD)
def test_every_standard_gate_is_one_table_gate(name, controls):
    rng = np.random.default_rng(len(name) + controls)
    gate = STANDARD[name].base_class(*rng.uniform(-3, 3, len(STANDARD[name].params)))
    if controls:
        gate = gate.control(controls, ctrl_state=int(rng.integers(1 << controls)))
    circuit = on(gate)
    imported = check(circuit)
    assert len(imported.instructions) == 1
    np.testing.assert_allclose(Operator(to_qiskit(imported)).data, Operator(circuit).data, atol=1e-9)


@pytest.mark.parametrize("name", [n for n, g in STANDARD.items() if hasattr(g, "ctrl_state")])
def test_open_controls_of_named_gates(name):
    rng = np.random.default_rng(7)
    kind = STANDARD[name]
    for state in range(1 << kind.num_ctrl_qubits):
        gate = kind.base_class(*rng.uniform(-3, 3, len(kind.params)), ctrl_state=state)
        imported = check(on(gate))
        assert imported.instructions[0].control_value == state


@pytest.mark.parametrize("name", [*gates.BASE, *gates.CONTROLLED])
def test_every_row_of_the_table_comes_back_from_qiskit(name):
    row = gates.CONTROLLED.get(name)
    own = 0 if row is None else (3 if row.num_controls is None else row.num_controls)
    base = gates.BASE[row.base if row else name]
    angles = np.random.default_rng(3).uniform(-3, 3, base.num_params).tolist()
    for added, state in ((0, -1), (2, -1), (2, 1)):
        qubits = tuple(range(own + base.num_targets + added))[::-1]
        made = qs.Circuit(len(qubits), 0, (qs.Gate(name, qubits, tuple(angles), added, state),))
        np.testing.assert_allclose(Operator(to_qiskit(made)).data, dense(made), atol=1e-9)


def test_unitaries_up_to_five_qubits_stay_whole():
    for n in (1, 2, 5):
        gate = lib.UnitaryGate(random_unitary(1 << n, seed=n))
        imported = check(on(gate))
        assert [g.name for g in imported.instructions] == ["unitary"]
        assert len(check(on(gate.control(1, ctrl_state=0))).instructions) == 1
    bigger = check(QuantumCircuit.from_instructions([on(lib.UnitaryGate(random_unitary(64, seed=6))).data[0]]))
    assert len(bigger.instructions) > 1


def opaque_with_matrix():
    class Odd(Gate):
        def __init__(self):
            super().__init__("odd", 1, [])

        def __array__(self, dtype=None, copy=None):
            return np.array([[0, 1j], [1, 0]])

    return Odd()


def with_phase():
    inner = QuantumCircuit(2, global_phase=0.7, name="with_phase")
    inner.h(0)
    inner.append(lib.RZXGate(0.3), [1, 0])
    inner.append(lib.iSwapGate().inverse(), [0, 1])
    return inner.to_gate()


def annotated(*modifiers):
    return AnnotatedOperation(with_phase(), list(modifiers))


COMPOSITE = {
    "qft": lib.QFTGate(3),
    "diagonal": lib.DiagonalGate([1, 1j, -1, 1, 1, 1, -1j, 1]),
    "permutation": lib.PermutationGate([2, 0, 3, 1]),
    "pauli": lib.PauliGate("XIYZ"),
    "preparation": lib.StatePreparation([0.5, 0.5j, -0.5, 0.5]),
    "ucry": lib.UCRYGate([0.1, 0.2, 0.3, 0.4]),
    "mcx": lib.MCXGate(4, ctrl_state=5),
    "mcphase": lib.MCPhaseGate(0.3, 3),
    "mcmt": lib.MCMTGate(lib.HGate(), 2, 2),
    "rv": lib.RVGate(0.3, -0.2, 0.9),
    "rv0": lib.RVGate(0.0, 0.0, 0.0),
    "cu2": lib.CUGate(0.1, 0.2, 0.3, 0.4).control(1, ctrl_state=0),
    "inverses": lib.RC3XGate().inverse(),
    "c3sx": lib.C3SXGate(),
    "phase": with_phase(),
    "controlled phase": with_phase().control(1),
    "twice controlled": with_phase().control(2, ctrl_state=2),
    "inverse": annotated(InverseModifier()),
    "controlled inverse": annotated(InverseModifier(), ControlModifier(2, 1)),
    "control of control": annotated(ControlModifier(1, 0), ControlModifier(1, 1)),
    "powers": annotated(PowerModifier(3), ControlModifier(1)),
    "negative power": annotated(PowerModifier(-2)),
    "root": annotated(PowerModifier(0.5), ControlModifier(1, 0)),
    "big power": AnnotatedOperation(lib.UGate(0.1, 0.2, 0.3), [PowerModifier(1 << 20)]),
    "power of rz": AnnotatedOperation(lib.CRZGate(0.3), [PowerModifier(5)]),
    "opaque": opaque_with_matrix(),
    "adder": lib.HalfAdderGate(1),
}


@pytest.mark.parametrize("name", COMPOSITE)
def test_composite_gates(name):
    check(on(COMPOSITE[name]))


def test_evolution_goes_by_its_definition():
    gate = lib.PauliEvolutionGate(SparsePauliOp(["XX", "ZI"], [0.3, 0.4]), time=0.7)
    wanted = Operator(on(gate.definition.to_gate()))
    np.testing.assert_allclose(dense(from_qiskit(on(gate))), wanted.data, atol=1e-9)


def test_global_phase_comes_first():
    circuit = QuantumCircuit(1, global_phase=0.5)
    circuit.x(0)
    assert check(circuit).instructions[0] == qs.Gate("gphase", (), (0.5,))


def test_a_gate_that_only_shares_a_name_goes_by_its_definition():
    fake = QuantumCircuit(2, name="rzz")
    fake.h(0)
    imported = check(on(fake.to_gate()))
    assert [g.name for g in imported.instructions] == ["h"]


def test_initialize_resets_first():
    circuit = QuantumCircuit(1)
    circuit.initialize([0, 1])
    imported = from_qiskit(circuit)
    assert isinstance(imported.instructions[0], qs.Reset)
    assert len(imported.instructions) > 1


def test_opaque_instructions_are_named():
    for instruction in (Gate("mystery", 2, []), Instruction("mystery", 2, 0, [])):
        with pytest.raises(NotSupportedError, match="mystery"):
            from_qiskit(on(instruction))
    with pytest.raises(NotSupportedError, match="mystery"):
        from_qiskit(on(AnnotatedOperation(Gate("mystery", 2, []), [ControlModifier(1)])))


def test_no_qubits_at_all():
    assert from_qiskit(QuantumCircuit()).num_qubits == 0
    assert to_qiskit(qs.Circuit(0, 0, ())).num_qubits == 0


# --- parameters ---


def test_parameters_keep_qiskits_order_and_names():
    theta, odd = ParameterVector("θ", 11), Parameter("p0")
    circuit = QuantumCircuit(1)
    for parameter in [*reversed(list(theta)), odd]:
        circuit.rx(2 * parameter, 0)
    imported = from_qiskit(circuit)
    assert imported.parameters == tuple(p.name for p in circuit.parameters)
    values = np.linspace(-1, 1, 12)
    np.testing.assert_allclose(dense(imported, values), Operator(circuit.assign_parameters(values)).data, atol=1e-12)


def random_expression(rng, leaves, depth):
    if depth == 0:
        return leaves[rng.integers(len(leaves))]
    left = random_expression(rng, leaves, depth - 1)
    kind = rng.integers(9)
    if kind < 5:
        right = random_expression(rng, leaves, depth - 1)
        return (left + right, left - right, left * right, left / (2.5 + right * right), -left)[kind]
    return (
        left.sin(), abs(left), (1.5 + left * left).log() ** 0.3, 2 ** (left.cos().arctan() - 1e-7),
    )[kind - 5]  # fmt: skip


def test_formulas_mean_what_qiskit_means():
    rng = np.random.default_rng(11)
    leaves = [Parameter(name) for name in ("p1", "θ[3]", "p0", "x y", "e")]
    for _ in range(150):
        value = random_expression(rng, leaves, int(rng.integers(1, 5))) + leaves[0]
        circuit = QuantumCircuit(1)
        circuit.rz(value, 0)
        imported = from_qiskit(circuit)
        numbers = rng.uniform(-2, 2, len(imported.parameters))
        wanted = complex(value.bind(dict(zip(circuit.parameters, numbers, strict=True)))).real
        found = formula.evaluate(imported.instructions[0].params[0], numbers)
        assert found == pytest.approx(wanted, rel=1e-12, abs=1e-12)
        back = to_qiskit(imported)
        named = dict(zip(imported.parameters, numbers, strict=True))
        again = back.assign_parameters(named, strict=False).data[0].params[0]
        assert again == pytest.approx(wanted, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    "function", ["sin", "cos", "tan", "arcsin", "arccos", "arctan", "exp", "log", "sign", "conjugate"]
)
def test_every_function_of_a_parameter(function):
    a = Parameter("a")
    circuit = QuantumCircuit(1)
    circuit.rz(getattr(a, function)(), 0)
    imported = from_qiskit(circuit)
    expected = complex(getattr(a, function)().bind({a: 0.4})).real
    assert formula.evaluate(imported.instructions[0].params[0], [0.4]) == pytest.approx(expected, rel=1e-13)
    again = from_qiskit(to_qiskit(imported))
    assert formula.evaluate(again.instructions[0].params[0], [0.4]) == pytest.approx(expected, rel=1e-13)


def test_complex_angles_are_refused():
    circuit = QuantumCircuit(1)
    circuit.rz(Parameter("a") * 1j, 0)
    with pytest.raises(InvalidArgumentError, match="1i"):
        from_qiskit(circuit)


def test_inputs_bind_some_parameters():
    text = 'OPENQASM 3.0; include "stdgates.inc"; input float b; input angle a; qubit q; rx(a*b) q; rz(b/4) q;'
    free = formats.load(text)
    assert free.parameters == ("a", "b")
    bound = formats.load(text, inputs={"b": 1e-9})
    assert bound.parameters == ("a",)
    np.testing.assert_allclose(dense(bound, [0.3]), dense(free, [0.3, 1e-9]), atol=1e-15)
    assert formats.load(text, inputs={"b": 2, "a": 0.5}).instructions[0].params == (1.0,)
    with pytest.raises(InvalidArgumentError, match="'c'"):
        formats.load(text, inputs={"c": 2.0})


# --- round trips ---


@pytest.mark.parametrize("seed", range(12))
def test_random_circuits_go_through_every_format(seed, tmp_path):
    circuit = random_circuit(4, 6, max_operands=4, seed=seed)
    circuit.barrier()
    imported = check(circuit)
    wanted = Operator(circuit)
    assert from_qiskit(to_qiskit(imported)).hash == imported.hash
    for name, suffix in (("qasm2", "qasm"), ("qasm3", "qasm"), ("qpy", "qpy")):
        written = formats.dumps(imported, name)
        assert Operator(dense(formats.load(written))).equiv(wanted), name
        path = tmp_path / f"{name}.{suffix}"
        path.write_bytes(written if isinstance(written, bytes) else written.encode())
        assert Operator(dense(formats.load(str(path)))).equiv(wanted), name
        assert Operator(dense(formats.load(path))).equiv(wanted), name


@pytest.mark.parametrize("seed", range(4))
def test_texts_that_qiskit_wrote(seed):
    circuit = random_circuit(3, 5, max_operands=3, seed=100 + seed)
    for text in (qasm2.dumps(circuit), qasm3.dumps(circuit)):
        assert Operator(dense(formats.load(text))).equiv(Operator(circuit))
    buffer = io.BytesIO()
    qpy.dump(circuit, buffer)
    assert formats.load(buffer.getvalue()).hash == from_qiskit(circuit).hash


def test_registers_survive_every_format():
    circuit = QuantumCircuit(QuantumRegister(2, "q"), ClassicalRegister(1, "low"), ClassicalRegister(2, "high"))
    circuit.measure([0, 1, 0], [0, 1, 2])
    imported = from_qiskit(circuit)
    for name in ("qasm2", "qasm3", "qpy"):
        again = formats.load(formats.dumps(imported, name))
        assert again.registers == (qs.Register("low", (0,)), qs.Register("high", (1, 2))), name
        assert again.instructions == imported.instructions, name


def test_loose_and_shared_bits():
    bits = [Clbit() for _ in range(4)]
    circuit = QuantumCircuit([Qubit()], bits)
    circuit.add_register(ClassicalRegister(name="a", bits=bits[2:0:-1]), ClassicalRegister(name="b", bits=bits[1:3]))
    circuit.measure(0, 3)
    imported = from_qiskit(circuit)
    assert imported.registers == (qs.Register("a", (2, 1)), qs.Register("b", (1, 2)))
    assert imported.instructions == (qs.Measure(0, 3),)
    again = from_qiskit(to_qiskit(imported))
    assert again.hash == imported.hash


# --- control flow ---


def test_if_and_else_by_bit_register_and_expression():
    circuit = QuantumCircuit(2, 2)
    with circuit.if_test((circuit.clbits[1], True)) as otherwise:
        circuit.x(1)
    with otherwise:
        circuit.h(0)
    with circuit.if_test((circuit.cregs[0], 2)):
        circuit.measure(1, 0)
    with circuit.if_test(expr.logic_and(expr.less(circuit.cregs[0], 3), circuit.clbits[0])):
        circuit.reset(0)
    one, two, three = from_qiskit(circuit).instructions
    assert one == qs.IfElse(Operation("equal", (Bits((1,)), Literal(1))), (qs.gate("x", 1),), (qs.gate("h", 0),))
    assert two == qs.IfElse(Operation("equal", (Bits((0, 1)), Literal(2))), (qs.Measure(1, 0),))
    less = Operation("less", (Bits((0, 1)), Literal(3)))
    assert three == qs.IfElse(Operation("logic_and", (less, Bits((0,)))), (qs.Reset(0),))


def test_blocks_bind_their_bits_by_position():
    body = QuantumCircuit(2, 1)
    body.cx(0, 1)
    body.measure(1, 0)
    with body.if_test((body.clbits[0], False)):
        body.z(1)
    circuit = QuantumCircuit(3, 3)
    circuit.if_test((circuit.clbits[0], True), body, [2, 0], [1])
    inner = qs.IfElse(Operation("equal", (Bits((1,)), Literal(0))), (qs.gate("z", 0),))
    assert from_qiskit(circuit).instructions[0].then == (qs.gate("cx", 2, 0), qs.Measure(0, 1), inner)


def test_switch_while_and_jumps():
    circuit = QuantumCircuit(1, 2)
    with circuit.switch(circuit.cregs[0]) as case:
        with case(0, 3):
            circuit.x(0)
        with case(case.DEFAULT):
            circuit.y(0)
    with circuit.while_loop((circuit.clbits[0], False)):
        circuit.measure(0, 0)
        with circuit.if_test((circuit.clbits[1], True)):
            circuit.break_loop()
        circuit.continue_loop()
    switch, loop = from_qiskit(circuit).instructions
    assert switch == qs.Switch(Bits((0, 1)), (qs.Case((0, 3), (qs.gate("x", 0),)), qs.Case((), (qs.gate("y", 0),))))
    leave = qs.IfElse(Operation("equal", (Bits((1,)), Literal(1))), (qs.Break(),))
    assert loop == qs.While(Operation("equal", (Bits((0,)), Literal(0))), (qs.Measure(0, 0), leave, qs.Continue()))


def test_for_loops_are_written_out():
    a = Parameter("a")
    circuit = QuantumCircuit(1)
    with circuit.for_loop((1, 5)) as i, circuit.for_loop(range(2)) as j:
        circuit.rx(i + 10 * j, 0)
        circuit.rz(a * i, 0)
    with circuit.for_loop(range(3)):
        circuit.x(0)
    outer, plain = from_qiskit(circuit).instructions
    turns = [inner.bodies for (inner,) in outer.bodies]
    angles = [[formula.evaluate(body[0].params[0], [0.5]) for body in turn] for turn in turns]
    assert angles == [[1, 11], [5, 15]]
    assert formula.evaluate(turns[1][0][1].params[0], [0.5]) == 2.5
    assert plain == qs.Repeat(((qs.gate("x", 0),),) * 3)


def test_boxes_open_and_delays_vanish():
    circuit = QuantumCircuit(2)
    with circuit.box():
        circuit.h(1)
        circuit.delay(100, 0)
    circuit.delay(3, 1)
    assert from_qiskit(circuit).instructions == (qs.gate("h", 1),)


def test_variables_are_stored_and_read():
    circuit = QuantumCircuit(1, 3)
    count = circuit.add_var("count", expr.lift(5, types.Uint(8)))
    circuit.store(count, expr.bit_xor(expr.shift_left(count, 1), 3))
    circuit.store(circuit.clbits[2], expr.index(count, 1))
    circuit.store(expr.index(count, 2), True)
    with circuit.if_test(expr.equal(expr.cast(circuit.cregs[0], types.Uint(8)), count)):
        circuit.x(0)
    imported = from_qiskit(circuit)
    assert imported.variables == ("count",)
    first, second, third, _fourth, last = imported.instructions
    variable = Variable("count")
    assert first == qs.Assign(variable, Operation("cast", (Literal(5),), 8))
    shifted = Operation("shift_left", (variable, Literal(1)), 8)
    assert second == qs.Assign(variable, Operation("bit_xor", (shifted, Literal(3)), 8))
    assert third == qs.Assign(Bits((2,)), Operation("index", (variable, Literal(1))))
    assert last.condition == Operation("equal", (Operation("cast", (Bits((0, 1, 2)),), 8), variable))


def test_the_bits_of_a_boolean_are_negated_as_a_boolean():
    circuit = QuantumCircuit(1, 2)
    with circuit.if_test(expr.bit_not(circuit.clbits[0])):
        circuit.x(0)
    with circuit.if_test(expr.equal(expr.bit_not(circuit.cregs[0]), 1)):
        circuit.x(0)
    one, two = from_qiskit(circuit).instructions
    assert one.condition == Operation("logic_not", (Bits((0,)),))
    assert two.condition == Operation("equal", (Operation("bit_not", (Bits((0, 1)),), 2), Literal(1)))


def test_variables_of_blocks_get_names_of_their_own():
    circuit = QuantumCircuit(1, 1)
    circuit.add_var("x", False)
    with circuit.if_test((circuit.clbits[0], True)):
        circuit.store(circuit.add_var("y", True), False)
    with circuit.if_test((circuit.clbits[0], True)):
        circuit.add_var("y", True)
    assert from_qiskit(circuit).variables == ("x", "y", "y_1")
    circuit = QuantumCircuit(inputs=[expr.Var.new("outside", types.Bool())])
    with pytest.raises(NotSupportedError, match="outside"):
        from_qiskit(circuit)


def classical_program():
    circuit = QuantumCircuit(2, 3)
    a = circuit.add_var("a", expr.lift(7, types.Uint(4)))
    f = circuit.add_var("f", 0.5)
    b = circuit.add_var("b", False)
    low = circuit.cregs[0]
    for operator in ("bit_and", "bit_or", "bit_xor", "add", "sub", "mul", "div"):
        circuit.store(a, getattr(expr, operator)(a, expr.lift(3, types.Uint(4))))
    for operator in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"):
        circuit.store(b, getattr(expr, operator)(low, 5))
    circuit.store(b, expr.logic_or(expr.logic_not(b), expr.bit_not(circuit.clbits[1])))
    circuit.store(a, expr.shift_right(expr.bit_not(a), 1))
    circuit.store(f, expr.negate(expr.mul(f, 2.0)))
    circuit.store(low, expr.cast(a, types.Uint(3)))
    circuit.store(b, expr.less(f, 1.5))
    with circuit.while_loop(expr.logic_and(b, expr.less(a, 9))):
        circuit.x(0)
        with circuit.if_test(b):
            circuit.break_loop()
    with circuit.switch(a) as case:
        with case(1):
            circuit.h(0)
        with case(case.DEFAULT):
            circuit.h(1)
    with circuit.for_loop(range(3)):
        circuit.measure(0, 0)
        with circuit.if_test(expr.index(a, 1)):
            circuit.continue_loop()
    return circuit


def test_classical_programs_come_back_from_qiskit_and_qpy():
    imported = from_qiskit(classical_program())
    for again in (from_qiskit(to_qiskit(imported)), formats.load(formats.dumps(imported, "qpy"))):
        assert again.variables == imported.variables
        declared = len(imported.variables)  # the variables' zeros come first
        assert again.instructions[declared:] == imported.instructions
        assert again.registers == imported.registers
    assert "while" in formats.dumps(imported, "qasm3")
    with pytest.raises(NotSupportedError, match="OpenQASM 2"):
        formats.dumps(imported, "qasm2")


def test_loops_with_different_turns_are_written_out_on_the_way_back():
    x, y = qs.gate("x", 0), qs.gate("y", 0)
    loop = qs.Circuit(1, 1, (qs.Repeat(((x,), (y,))),))
    assert from_qiskit(to_qiskit(loop)).instructions == (x, y)
    left = qs.Repeat(((x, qs.IfElse(Bits((0,)), (qs.Break(),))), (y,)))
    with pytest.raises(NotSupportedError, match="break"):
        to_qiskit(qs.Circuit(1, 1, (left,)))


# --- OpenQASM ---

HEAD = 'OPENQASM 3.0;\ninclude "stdgates.inc";\n'


def test_openqasm_3_control_flow():
    circuit = formats.load(
        HEAD + "qubit[2] q; bit[2] c; for int i in [0:2] { rx(i) q[0]; } c = measure q; "
        "if (c == 2) { x q[0]; } else { negctrl @ x q[0], q[1]; } while (c[0] == 0) { c[0] = measure q[0]; }"
    )
    *turns, _, _, branch, again = circuit.instructions
    assert [turn.params[0] for turn in turns] == [0, 1, 2]
    assert branch.otherwise[0].control_value == 0
    assert again.condition == Operation("equal", (Bits((0,)), Literal(0)))


def test_openqasm_3_loops_are_written_out():
    circuit = formats.load(
        HEAD + "const int n = 3; const float step = pi / 4; qubit[n] q; bit[n] c;"
        "for uint i in [0:n - 2] { for int j in {2, i + 1} { cp(step * (j - i)) q[j], q[i]; } }"
        "for int i in [n - 1:-1:0] { rx(sin(step) * i) q[i]; }"
    )
    pairs = [(each.qubits, each.params[0]) for each in circuit.instructions]
    quarter, root = np.pi / 4, np.sqrt(0.5)
    expected = [((2, 0), 2 * quarter), ((1, 0), quarter), ((2, 1), quarter), ((2, 1), quarter)]
    expected += [((2,), 2 * root), ((1,), root), ((0,), 0)]
    assert [qubits for qubits, _ in pairs] == [qubits for qubits, _ in expected]
    np.testing.assert_allclose([angle for _, angle in pairs], [angle for _, angle in expected], atol=1e-15)


def test_openqasm_3_loops_whose_variable_nobody_reads():
    circuit = formats.load(
        HEAD + "const int n = 2; qubit[2] q; for int k in [0:-1] { y q[0]; }"
        "for int i in [1:2] { h q[0]; for int j in [1:n] { rx(j) q[n - 1]; } for int i in [0:1] { rz(i) q[0]; } }"
    )
    near = formats.load(HEAD + "qubit[4] q; for int i in [0:2] { cx q[i], q[i + 1]; } for int i in [1:2] { x q[i:3]; }")
    assert [each.qubits for each in near.instructions] == [(0, 1), (1, 2), (2, 3), (1,), (2,), (3,), (2,), (3,)]
    turn = [("h", ()), ("rx", (1,)), ("rx", (2,)), ("rz", (0,)), ("rz", (1,))]
    assert [(each.name, each.params) for each in circuit.instructions] == 2 * turn


def test_openqasm_3_loop_with_break_stays_a_loop():
    circuit = formats.load(
        HEAD + "qubit[2] q; bit[2] c; for int i in [0:2] { c[0] = measure q[0]; if (c[0]) { break; } x q[0]; }"
    )
    (loop,) = circuit.instructions
    assert len(loop.bodies) == 3


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("const int n = 1 / 0;", "cannot be worked out"),
        ("bit[2] c; const int n = c;", "not a constant"),
        ("for int i in [0:0:3] { }", "step 0"),
        ("qubit q; for int i in [0:100000000] { x q; }", "turns"),
        ("qubit q; for int i in [1:1000] { for int j in [1:1001] { x q; } }", "statements"),
    ],
)
def test_openqasm_3_bad_constants(program, message):
    with pytest.raises(ParseError, match=message):
        formats.load(HEAD + program)


def test_openqasm_3_conditions_and_switch():
    circuit = formats.load(
        HEAD + "qubit q; bit[2] c; if (!c[0] && (c < 2 || c[1])) { x q; } if ((c & 1) == 1) { z q; } "
        "switch (c) { case 0, 2 { y q; } default { h q; } }"
    )
    first, _, switch = circuit.instructions
    either = Operation("logic_or", (Operation("less", (Bits((0, 1)), Literal(2))), Bits((1,))))
    assert first.condition == Operation("logic_and", (Operation("logic_not", (Bits((0,)),)), either))
    assert switch == qs.Switch(Bits((0, 1)), (qs.Case((0, 2), (qs.gate("y", 0),)), qs.Case((), (qs.gate("h", 0),))))


def test_openqasm_3_includes(tmp_path):
    (tmp_path / "own.inc").write_text("gate mine(t) a {\n  rx(t) a;\n}\n", encoding="utf-8")
    path = tmp_path / "main.qasm"
    path.write_text(HEAD + 'include "own.inc"; qubit q;\nmine(0.5) q;\n', encoding="utf-8")
    assert formats.load(path).instructions == (qs.gate("rx", 0, params=[0.5]),)
    (tmp_path / "own.inc").write_text("gate mine(t) a {\n  oops(t) a;\n}\n", encoding="utf-8")
    with pytest.raises(ParseError, match=r"own\.inc:2:3: .*oops"):
        formats.load(path)
    (tmp_path / "own.inc").write_text('include "own.inc";', encoding="utf-8")
    with pytest.raises(ParseError, match="nested"):
        formats.load(path)


def test_openqasm_2_conditions_and_includes(tmp_path):
    (tmp_path / "own.inc").write_text("gate mine(t) a { rx(t) a; }\n", encoding="utf-8")
    path = tmp_path / "main.qasm"
    path.write_text(
        'OPENQASM 2.0;\ninclude "qelib1.inc";\ninclude "own.inc";\nqreg q[1]; creg c[2];\nif (c==3) mine(0.5) q[0];\n',
        encoding="utf-8",
    )
    circuit = formats.load(path)
    assert circuit.name == "main"
    wanted = qs.IfElse(Operation("equal", (Bits((0, 1)), Literal(3))), (qs.gate("rx", 0, params=[0.5]),))
    assert circuit.instructions == (wanted,)


def test_openqasm_2_names_are_table_gates_unless_the_program_defines_them():
    head = 'OPENQASM 2.0;\ninclude "qelib1.inc";\nqreg q[4];\n'
    names = {"rzz(0.1) q[0],q[1];": "rzz", "c3x q[0],q[1],q[2],q[3];": "mcx", "cswap q[0],q[1],q[2];": "cswap"}
    for statement, name in names.items():
        assert [g.name for g in formats.load(head + statement).instructions] == [name]
    own = "OPENQASM 2.0;\nqreg q[2];\ngate rzz(t) a,b { CX a,b; U(0,0,t) b; CX a,b; }\nrzz(0.3) q[0],q[1];\n"
    assert [g.name for g in formats.load(own).instructions] == ["cx", "u", "cx"]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("OPENQASM 2.0;\nqreg q[2];\n  foo q[0];\n", "3:3", "'foo'"),
        ("OPENQASM 2.0;\nqreg q[2]\nx q[0];\n", "3:1", "';'"),
        ("OPENQASM 2.0;\nqreg q[2];\nCX q[0],q[5];\n", "3:11", "out-of-range"),
        ('OPENQASM 2.0;\ninclude "nope.inc";\n', "2:9", "nope.inc"),
        ("OPENQASM 2.0;\nqreg q[1];\nrx(0.1) q[0];\n", "3:1", "include"),
        (HEAD + "qubit[2] q;\n  foo q[0];\n", "4:3", "'foo'"),
        (HEAD + "qubit[2] q\nx q[0];\n", "4:1", "'x'"),
        (HEAD + "qubit q; x", "3:11", "end of the program"),
        (HEAD + "qubit[2] q;\nx q[7];\n", "4:1", "out of range"),
        (HEAD + "qubit q; rx q;", "3:10", "angles"),
        (HEAD + "qubit q; # x", "3:10", "#"),
        (HEAD + "int[32] a;\n", "3:1", "int"),
        (HEAD + "qubit q; ctrl @ x q;", "3:10", "qubit"),
    ],
)
def test_broken_programs_get_one_line_with_its_place(text, place, words, tmp_path, capfd):
    path = tmp_path / "bad.qasm"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParseError) as caught:
        formats.load(path)
    assert caught.value.message.startswith(f"{path}:{place}: ")
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert capfd.readouterr() == ("", "")


def test_other_sources_that_cannot_be(tmp_path):
    with pytest.raises(NotFoundError, match=r"^circuit: no file 'x\.qasm'; give a path or OpenQASM text$"):
        formats.load("x.qasm")
    for source in ("", 3, tmp_path):
        with pytest.raises(InvalidArgumentError):
            formats.load(source)
    for source in ("\n", b"QISKIT\x0d", b"\xff\xfe", "OPENQASM 7.0;\n"):
        with pytest.raises(ParseError):
            formats.load(source)
    with pytest.raises(NotSupportedError, match="'foo'"):
        formats.load("OPENQASM 2.0;\nqreg q[1];\nopaque foo a; foo q[0];")
    buffer = io.BytesIO()
    qpy.dump([QuantumCircuit(1), QuantumCircuit(1)], buffer)
    with pytest.raises(ParseError, match="2 circuits"):
        formats.load(buffer.getvalue())
    with pytest.raises(InvalidArgumentError, match="'qir'"):
        formats.dumps(qs.Circuit(1, 0, ()), "qir")


def test_text_may_begin_with_a_comment():
    assert formats.load("// a comment\nOPENQASM 2.0; qreg q[3];").num_qubits == 3
    assert formats.load("/* one line */ OPENQASM 3.0; qubit[2] q;").num_qubits == 2
    circuit = qs.Circuit(1, 0, ())
    assert formats.load(circuit) is circuit


def test_importing_formats_does_not_import_qiskit():
    code = "import sys, qsimenv.formats, qsimenv.qiskit; sys.exit('qiskit' in sys.modules or 'numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_gate_of_qiskit_takes_few_calls():
    """Why reading a circuit of Qiskit is quick; how quick: ``python -m benchmarks overheads``."""

    def calls(gates):
        circuit = gates_of_qiskit(gates)
        from_qiskit(circuit)
        return calls_of(lambda: from_qiskit(circuit))

    assert calls(1000) < 16_000  # 13,792
    assert calls(2000) < 2 * calls(1000)
