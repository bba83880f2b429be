"""Which device a state is put on, what is said where there is none, and whole runs on the stand-in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qsimenv import arrays, arrays_cupy, engines
from qsimenv.circuit import Circuit, Measure, Reset, gate
from qsimenv.comm import Team
from qsimenv.errors import InvalidArgumentError, LibraryNotFoundError, NotSupportedError, OutOfMemoryError
from qsimenv.statevec import engine
from qsimenv.statevec.gradients.gradient import gradient
from qsimenv.task import Task, task
from tests.gpu.stand_in import DeviceArray, StandIn, needs_compiler

Make = Callable[..., StandIn]
QUBITS = 13
GATES = (
    *(gate("ry", q, params=["p0"]) for q in range(QUBITS)),
    *(gate("cx", q, q + 1) for q in range(QUBITS - 1)),
    *(gate("rz", q, params=["p1"]) for q in range(QUBITS)),
    *(gate("rx", q, params=["p0"]) for q in range(QUBITS)),
)
MEASURES = tuple(Measure(q, q) for q in range(QUBITS))
VALUES = [0.4, 1.1]
OBSERVABLES = ["Z" * QUBITS, {"XY" + "I" * (QUBITS - 2): 0.5, "Y" * QUBITS: 0.3}]


def made(*instructions: object, device: str = "gpu", **options: object) -> Task:
    circuit = Circuit(QUBITS, QUBITS, (*GATES, *instructions), parameters=("a", "b"))  # type: ignore[arg-type]
    return task(circuit, parameters=VALUES, device=device, engine="statevector", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("affinity", "ranks", "wanted"),
    [
        ([set(), set()], range(4), [0, 1, 0, 1]),  # the system does not tell, or nothing is bound
        ([{0, 1}, {0, 1}, {0}, set()], range(4), [0, 1, 0, 1]),  # two devices next to all of the rank's cores
        ([set(), set(), {7}], range(3), [2, 2, 2]),
    ],
)
def test_the_device_of_a_rank(affinity: list[set[int]], ranks: range, wanted: list[int]) -> None:
    assert [arrays_cupy.choose_device(rank, affinity, len(affinity)) for rank in ranks] == wanted


def test_lists_of_cores() -> None:
    assert arrays_cupy.parse_cores("0-3,8,10-11") == {0, 1, 2, 3, 8, 10, 11}
    assert arrays_cupy.parse_cores("") == set()


def test_devices_that_other_ranks_have_count(tmp_path: Path) -> None:
    """A launcher that shows each rank one device of four: no rank shares its own."""
    assert arrays_cupy.devices_on_node(2, tmp_path) == 2
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl"):
        (tmp_path / name).touch()
    assert arrays_cupy.devices_on_node(1, tmp_path) == 4


def test_whether_mpi_takes_buffers_of_the_gpu() -> None:
    assert arrays_cupy.takes_messages({"MPICH_GPU_SUPPORT_ENABLED": "1"})
    assert not arrays_cupy.takes_messages({"QSIMENV_GPU_AWARE_MPI": "0", "MPICH_GPU_SUPPORT_ENABLED": "1"})


def test_the_environment_stands_for_auto() -> None:
    assert arrays.wished("auto", {}) == "auto"
    assert arrays.wished("auto", {"QSIMENV_DEVICE": "gpu"}) == "gpu"
    assert arrays.wished("cpu", {"QSIMENV_DEVICE": "gpu"}) == "cpu"
    with pytest.raises(InvalidArgumentError, match="QSIMENV_DEVICE='tpu' found, 'auto', 'cpu' or 'gpu' needed"):
        arrays.wished("auto", {"QSIMENV_DEVICE": "tpu"})
    with pytest.raises(InvalidArgumentError, match="device: 'tpu' found"):
        made(*MEASURES, shots=1, device="tpu")


def test_a_gpu_that_is_not_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_gpu", NotSupportedError("device: CuPy 14.2 sees no GPU; use device='cpu'"))
    with pytest.raises(NotSupportedError, match="sees no GPU; use device='cpu'"):
        engines.run(made(*MEASURES, shots=1), Team())
    assert engines.run(made(*MEASURES, shots=1, device="auto"), Team()).metadata["device"] == "cpu"
    monkeypatch.setattr(arrays, "_gpu", None)
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    with pytest.raises(LibraryNotFoundError, match=r"CuPy cannot be imported .*; install cupy-.* or use device='cpu'"):
        engines.run(made(*MEASURES, shots=1), Team())


def test_numpy_cannot_reach_what_is_not_downloaded() -> None:
    """The stand-in is as strict as a GPU: else these tests would show nothing."""
    array = DeviceArray(np.zeros(4))
    for mistake in (lambda: np.asarray(array), lambda: array[0], lambda: np.add(array, 1)):
        with pytest.raises((TypeError, AssertionError)):
            mistake()


@needs_compiler
@pytest.mark.parametrize(
    "instructions", [MEASURES, MEASURES[::-3], (Measure(0, 0), *GATES[:9], Reset(3), *GATES, *MEASURES)]
)
def test_the_same_shots_as_on_the_cpu(instructions: tuple[object, ...], stand_in: Make) -> None:
    gpu = stand_in(32, shared_bytes=60 << 10)
    results = [engines.run(made(*instructions, shots=3000, seed=5, device=on), Team()) for on in ("cpu", "gpu")]
    assert [result.metadata["device"] for result in results] == ["cpu", "gpu"]
    assert np.array_equal(results[0].samples, results[1].samples)
    assert {"sweep", "marginal"} <= set(gpu.launches)


@needs_compiler
def test_the_same_values_as_on_the_cpu(stand_in: Make) -> None:
    stand_in()
    on_cpu, on_gpu = (
        engines.run(made(observables=OBSERVABLES, save="statevector", device=on), Team()) for on in ("cpu", "gpu")
    )
    assert np.allclose(on_gpu.expectation_values, on_cpu.expectation_values, rtol=0, atol=1e-12)
    assert np.allclose(on_gpu.statevector, on_cpu.statevector, rtol=0, atol=1e-12)
    slopes = [engine.gradient(made(observables=OBSERVABLES[1:], device=on), Team()) for on in ("cpu", "gpu")]
    assert np.allclose(slopes[1], slopes[0], rtol=0, atol=1e-12)


@needs_compiler
def test_one_set_of_parameters_after_the_other(stand_in: Make) -> None:
    """From the second on by recipes, for the rows that threads want."""
    stand_in()
    circuit = made(shots=1).circuit
    rows = np.random.default_rng(4).uniform(-3, 3, (4, 2))
    found, wanted = (
        [engines.run(task(circuit, parameters=row, device=on, observables=OBSERVABLES), Team()) for row in rows]
        for on in ("gpu", "cpu")
    )
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.expectation_values, other.expectation_values, atol=1e-12)
    assert found[0].metadata["device"] == "gpu"
    observable = task(circuit, parameters=rows, observables=OBSERVABLES).observables[1]
    slopes = [gradient(circuit, observable, rows, "double", Team(), on=on) for on in ("gpu", "cpu")]
    np.testing.assert_allclose(*slopes, atol=1e-12)


@needs_compiler
def test_a_state_on_the_gpu_is_saved_in_order(stand_in: Make, tmp_path: Path) -> None:
    from qsimenv.statevec.storing.stored import load_state

    stand_in()
    engines.run(made(save=str(tmp_path / "state.h5")), Team())
    wanted = engines.run(made(save="statevector", device="cpu"), Team()).statevector
    assert np.allclose(load_state(tmp_path / "state.h5"), wanted, rtol=0, atol=1e-12)


@needs_compiler
def test_auto_takes_the_gpu_where_the_state_fits(stand_in: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = stand_in()
    assert engines.run(made(*MEASURES, shots=1, device="auto"), Team()).metadata["device"] == "gpu"
    monkeypatch.setattr(gpu, "free_bytes", lambda: 1 << 16)
    assert engines.run(made(*MEASURES, shots=1, device="auto"), Team()).metadata["device"] == "cpu"
    with pytest.raises(OutOfMemoryError, match=r"13 qubits in double precision need 128 KiB, 1 rank.* 64 KiB free"):
        engines.run(made(*MEASURES, shots=1), Team())
