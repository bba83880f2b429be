"""The Qiskit backend, in this process: results as Qiskit users read them, and jobs that can be watched and stopped."""

import copy
import threading
import warnings

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister, transpile
from qiskit.circuit import Clbit, Parameter
from qiskit.circuit import library as lib
from qiskit.circuit.classical import expr
from qiskit.exceptions import QiskitError
from qiskit.primitives import BackendEstimatorV2, BackendSamplerV2, StatevectorEstimator
from qiskit.providers import JobStatus
from qiskit.providers.exceptions import JobTimeoutError
from qiskit.quantum_info import SparsePauliOp, Statevector

from qsimenv import errors
from qsimenv.qiskit import QSimBackend
from qsimenv.qiskit.job import combined
from qsimenv.qiskit.local import LocalProvider
from qsimenv.qiskit.results import creg_sizes, outcome
from qsimenv.qpm_plugin.api import TaskState
from qsimenv.task import Result
from tests.calls import calls_of
from tests.support import wait_until


@pytest.fixture(scope="module")
def backend():
    return QSimBackend("local")


def bell(name="bell"):
    circuit = QuantumCircuit(2, name=name)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def flipped(*ones, width=3):
    """A circuit whose only outcome has those bits set."""
    circuit = QuantumCircuit(width, width)
    for qubit in ones:
        circuit.x(qubit)
    circuit.measure(range(width), range(width))
    return circuit


# --- results ---


def test_bell(backend):
    result = backend.run(bell(), shots=2000, seed_simulator=1).result()
    counts = result.get_counts()
    assert set(counts) == {"00", "11"}
    assert sum(counts.values()) == 2000
    assert abs(counts["00"] - 1000) < 150
    assert result.success
    experiment = result.results[0]
    assert (experiment.shots, experiment.seed, experiment.status) == (2000, 1, "DONE")
    assert experiment.header["name"] == "bell"
    assert result.get_counts("bell") == counts
    assert result.to_dict()["backend_name"] == "qsimenv"


def test_keys_are_cut_at_the_registers(backend):
    circuit = QuantumCircuit(QuantumRegister(4), ClassicalRegister(1, "a"), ClassicalRegister(3, "b"))
    circuit.x([0, 2])
    circuit.measure([0, 1, 2, 3], [0, 1, 2, 3])
    result = backend.run(circuit, shots=5, memory=True).result()
    assert result.get_counts() == {"010 1": 5}
    assert result.get_memory() == ["010 1"] * 5
    assert result.data()["counts"] == {"0x5": 5}


def test_loose_bits_and_unwritten_registers(backend):
    circuit = QuantumCircuit([*QuantumRegister(2)], [Clbit(), Clbit()])
    circuit.add_register(ClassicalRegister(2, "unwritten"))
    circuit.x(0)
    circuit.measure([0, 1], [1, 0])
    assert backend.run(circuit, shots=3).result().get_counts() == {"00 10": 3}
    shared = [Clbit() for _ in range(3)]
    circuit = QuantumCircuit(QuantumRegister(1), shared)
    circuit.add_register(ClassicalRegister(name="x", bits=shared[:2]), ClassicalRegister(name="y", bits=shared[1:]))
    assert creg_sizes(circuit) == [["", 3]]


def test_wide_outcomes():
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 256, size=(3, 11), dtype=np.uint8)
    samples = bits[[0, 1, 0, 2, 0]]
    data = outcome(samples, memory=True)
    expected = [hex(int.from_bytes(row.tobytes(), "big")) for row in samples]
    assert data.memory == expected
    assert data.counts == {key: expected.count(key) for key in expected}
    assert outcome(samples, memory=False).to_dict() == {"counts": data.counts}


def test_mid_circuit_measurement_and_control_flow(backend):
    circuit = QuantumCircuit(2, 2)
    circuit.h(0)
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], True)):
        circuit.x(1)
    circuit.measure(1, 1)
    counts = backend.run(transpile(circuit, backend), shots=500, seed_simulator=2).result().get_counts()
    assert set(counts) == {"00", "11"}
    circuit = QuantumCircuit(1, 3)
    turns = circuit.add_var("turns", expr.lift(0, expr.lift(circuit.cregs[0]).type))
    with circuit.while_loop(expr.less(turns, 5)):
        circuit.x(0)
        circuit.store(turns, expr.add(turns, 1))
    circuit.store(circuit.cregs[0], turns)
    with circuit.switch(turns) as case:
        with case(5):
            circuit.reset(0)
        with case(case.DEFAULT):
            circuit.id(0)
    with circuit.for_loop(range(3)):
        circuit.x(0)
    circuit.measure(0, 1)
    assert backend.run(circuit, shots=20).result().get_counts() == {"111": 20}


def test_lists_come_back_in_order(backend):
    circuits = [flipped(k) for k in range(3)] * 4
    assert backend.run(circuits, shots=2).result().get_counts() == [{f"{1 << k:03b}": 2} for k in range(3)] * 4


def test_the_library_runs_as_it_is_and_transpiled(backend):
    circuit = QuantumCircuit(4)
    circuit.append(lib.QFTGate(3), [0, 2, 3])
    circuit.append(lib.MCXGate(3, ctrl_state=2), [0, 1, 2, 3])
    circuit.initialize([0.6, 0.8j], 1)
    circuit.append(lib.PauliEvolutionGate(SparsePauliOp("XYZ"), 0.3), [1, 2, 3])
    probabilities = Statevector.from_instruction(
        transpile(circuit.decompose(), basis_gates=["u", "cx"])
    ).probabilities()
    circuit.measure_all()
    for level in (None, 0, 1, 2, 3):
        run = circuit if level is None else transpile(circuit, backend, optimization_level=level)
        counts = backend.run(run, shots=4000, seed_simulator=level or 0).result().get_counts()
        found = np.array([counts.get(f"{k:04b}", 0) / 4000 for k in range(16)])
        assert np.abs(found - probabilities).max() < 0.05


# --- seeds and options ---


def test_seeds(backend):
    def memory(circuits, seed):
        return [
            e.data.memory for e in backend.run(circuits, shots=64, memory=True, seed_simulator=seed).result().results
        ]

    first, second, third = memory([bell(), bell(), bell()], 7)
    assert memory([bell(), bell(), bell()], 7) == [first, second, third]
    assert len({tuple(first), tuple(second), tuple(third)}) == 3
    assert memory(bell(), 7) == [first]
    assert memory(bell(), 8) not in ([first], [second])
    assert memory(bell(), None) != memory(bell(), None)


def test_options_have_defaults_and_limits(backend):
    own = QSimBackend("local", shots=17, memory=True, precision="single")
    result = own.run(bell()).result()
    assert len(result.get_memory()) == 17
    assert result.results[0].metadata["precision"] == "single"
    with pytest.raises(AttributeError, match="nonsense"):
        QSimBackend("local", nonsense=1)
    with pytest.warns(UserWarning, match="nonsense"):
        backend.run(flipped(0), nonsense=1).result()
    with pytest.raises(errors.NotSupportedError, match="noise_model"):
        backend.run(bell(), noise_model=object())
    for options in ({"shots": 0}, {"shots": 1.5}, {"precision": "half"}, {"seed_simulator": -1}, {"shots": None}):
        with pytest.raises(errors.InvalidArgumentError):
            backend.run(bell(), **options)


def test_nothing_measured_is_an_error_and_no_zeros(backend):
    for circuit in (QuantumCircuit(1), QuantumCircuit(1, 1)):
        with pytest.raises(errors.InvalidArgumentError, match="measure"):
            backend.run(circuit)
    with pytest.raises(errors.InvalidArgumentError):
        backend.run([])


def test_parameter_binds(backend):
    theta, phi = Parameter("θ"), Parameter("φ")
    circuit = QuantumCircuit(2)
    circuit.rx(theta, 0)
    circuit.rx(theta + phi, 1)
    circuit.measure_all()
    with pytest.raises(errors.InvalidArgumentError, match="unbound"):
        backend.run(circuit)
    binds = [{theta: [0, np.pi, np.pi], phi: [0, 0, np.pi]}]
    assert backend.run(circuit, shots=4, parameter_binds=binds).result().get_counts() == [
        {"00": 4},
        {"11": 4},
        {"01": 4},
    ]
    for bad in ([{theta: 1}], [{theta: [1, 2], phi: [1]}], [{theta: 1, phi: 1, "x": 1}], [{}, {}]):
        with pytest.raises(errors.InvalidArgumentError):
            backend.run(circuit, parameter_binds=bad)


def test_target(backend):
    target = backend.target
    assert backend.num_qubits == target.num_qubits > 10
    assert backend.max_circuits is None
    for name in (
        "rzz",
        "ccx",
        "measure",
        "reset",
        "if_else",
        "switch_case",
        "while_loop",
        "for_loop",
        "unitary",
        "mcx",
    ):
        assert name in target
    assert copy.deepcopy(backend) is backend
    circuit = QuantumCircuit(3, 1)
    circuit.rccx(0, 1, 2)
    circuit.rxx(0.1, 0, 2)
    circuit.append(lib.UnitaryGate(np.eye(4)[[0, 2, 1, 3]] * 1j), [0, 1])
    circuit.measure(2, 0)
    assert dict(transpile(circuit, backend, optimization_level=0).count_ops()) == dict(circuit.count_ops())


# --- jobs ---


class Gated:
    """A runner that waits until it is told to go on."""

    def __init__(self):
        self.go, self.begun, self.ran = threading.Event(), threading.Event(), []

    def __call__(self, task):
        self.begun.set()
        assert self.go.wait(300)
        self.ran.append(task)
        if task.circuit.name.startswith("bad"):
            raise errors.OutOfMemoryError("run: it does not fit")
        return Result(num_clbits=2, shots=task.shots, samples=np.full((task.shots, 1), 3, dtype=np.uint8))


@pytest.fixture
def gated():
    runner = Gated()
    yield QSimBackend(LocalProvider(runner)), runner
    runner.go.set()


def test_status_follows_the_run(gated):
    backend, runner = gated
    job = backend.run([bell(), bell()], shots=3)
    assert runner.begun.wait(60)
    assert job.status() is JobStatus.RUNNING
    later = backend.run(bell(), shots=3)
    assert later.status() is JobStatus.QUEUED
    with pytest.raises(JobTimeoutError):
        job.result(timeout=0.01)
    runner.go.set()
    assert job.result(timeout=60).get_counts() == [{"11": 3}, {"11": 3}]
    assert later.result().get_counts() == {"11": 3}
    assert job.status() is later.status() is JobStatus.DONE
    record = job.records()[0]
    assert record.times.creation_time <= record.times.exec_time <= record.times.completion_time
    assert not job.cancel()
    with pytest.raises(errors.BadStateError):
        job.submit()


def test_cancel_stops_what_has_not_begun(gated):
    backend, runner = gated
    job = backend.run([bell(), bell(), bell()], shots=3)
    other = backend.run(bell(), shots=3)
    assert runner.begun.wait(60)
    assert other.cancel()
    assert other.status() is JobStatus.CANCELLED
    assert not other.result(timeout=60).success  # at once, though the thread is busy
    assert job.cancel()
    runner.go.set()
    result = job.result(timeout=60)
    assert [e.success for e in result.results] == [True, False, False]
    assert len(runner.ran) == 1
    assert result.results[1].status == "CANCELED"


def test_a_failure_spares_the_others_and_never_reads_as_zeros(gated):
    backend, runner = gated
    runner.go.set()
    bad = bell("bad")
    job = backend.run([bell(), bad], shots=3, memory=True)
    result = job.result()
    assert not result.success
    assert "does not fit" in result.status
    assert "does not fit" in result.results[1].status
    assert job.status() is JobStatus.ERROR
    assert result.get_counts(0) == {"11": 3}
    with pytest.raises(QiskitError):
        result.get_counts(1)
    with pytest.raises(QiskitError, match="does not fit"):
        BackendSamplerV2(backend=backend).run([bad]).result()


def test_a_bug_in_an_engine_becomes_a_failed_circuit():
    def broken(task):
        raise ZeroDivisionError("oops")

    result = QSimBackend(LocalProvider(broken)).run(bell()).result()
    assert "ZeroDivisionError" in result.status


def test_the_status_of_many():
    queued, running, done = TaskState.QUEUED, TaskState.RUNNING, TaskState.DONE
    assert combined({queued, done}) is JobStatus.RUNNING
    assert combined({queued, running}) is JobStatus.RUNNING
    assert combined({TaskState.SUBMITTED, queued}) is JobStatus.QUEUED
    assert combined({done, TaskState.CANCELED}) is JobStatus.CANCELLED
    assert combined({done, TaskState.CANCELED, TaskState.FAILED}) is JobStatus.ERROR
    assert combined({done}) is JobStatus.DONE


def test_one_request_for_all_circuits_and_what_the_environment_says():
    class Environment(LocalProvider):
        requests = 0

        def describe(self):
            return {"num_qubits": {"double": 33, "single": 34}}

        def async_run(self, tasks):
            self.requests += 1
            return super().async_run(tasks)

    environment = Environment()
    assert QSimBackend(environment, precision="single").num_qubits == 34
    backend = QSimBackend(environment)
    assert backend.num_qubits == 33
    assert len(backend.run([flipped(0)] * 5, shots=1).result().results) == 5
    assert environment.requests == 1
    with pytest.raises(errors.InvalidArgumentError):
        QSimBackend(3)


def test_small_circuits_take_few_calls_here():
    """Why many take no time; how little: ``python -m benchmarks overheads``."""

    def calls(number):
        """Of the submission while nothing runs, and of the results when all have ended."""
        go = threading.Event()
        made = Result(num_clbits=2, shots=100, samples=np.zeros((100, 1), dtype=np.uint8))
        backend = QSimBackend(LocalProvider(lambda task: made if go.wait(60) else None))
        jobs, results = [], []
        submission = calls_of(lambda: jobs.append(backend.run([bell()] * number, shots=100, memory=True)))
        go.set()
        wait_until(lambda: jobs[0].status() is JobStatus.DONE, 60, "the circuits do not end")
        reading = calls_of(lambda: results.append(jobs[0].result()))
        assert len(results[0].results) == number
        return submission + reading

    calls(1)
    assert calls(1000) < 400_000  # 310 a circuit
    assert calls(1000) < 10.1 * calls(100)


# --- Qiskit's primitives ---


def test_backend_sampler(backend):
    theta = Parameter("θ")
    circuit = QuantumCircuit(QuantumRegister(2), ClassicalRegister(1, "low"), ClassicalRegister(1, "high"))
    circuit.rx(theta, 0)
    circuit.x(1)
    circuit.measure([0, 1], [0, 1])
    sampler = BackendSamplerV2(backend=backend, options={"seed_simulator": 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = sampler.run([(circuit, [[0.0], [np.pi], [np.pi / 2]])], shots=1000).result()[0].data
    assert data.high.get_counts() == {"1": 3000}
    assert [data.low.get_counts(k).get("1", 0) for k in (0, 1)] == [0, 1000]
    assert abs(data.low.get_counts(2)["1"] - 500) < 80


def test_backend_estimator_against_the_reference(backend):
    circuit = lib.efficient_su2(3, reps=2)
    values = np.random.default_rng(4).uniform(-1, 1, (3, circuit.num_parameters))
    operator = SparsePauliOp(["ZZI", "XIX", "IYY", "III"], [1.0, 0.5, -0.3, 2.0])
    exact = StatevectorEstimator().run([(circuit, operator, values)]).result()[0].data.evs
    estimator = BackendEstimatorV2(backend=backend, options={"seed_simulator": 5})
    found = estimator.run([(transpile(circuit, backend), operator, values)], precision=0.01).result()[0].data
    assert np.abs(found.evs - exact).max() < 0.06
    assert (found.stds > 0).all()
