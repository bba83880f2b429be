"""Checkpoints and saved states on the ranks of this job: written on some ranks, gone on with on others.

A run is broken off by its own watch, as a batch system's signal would; tests/faults kills processes instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

import qsimenv as qs
from qsimenv import engines, shards
from qsimenv.checkpoints import FILE_NAME, Checkpointing, Every, claimed
from qsimenv.circuit import Bits, Circuit, Gate, IfElse, Instruction, Literal, Measure, Operation, Register, Reset, gate
from qsimenv.comm import Team
from qsimenv.engines import Watch
from qsimenv.errors import BadStateError, InvalidArgumentError, NotSupportedError, QSimEnvError, SuspendedError
from qsimenv.task import Result, Task, task

pytestmark = pytest.mark.mpi

QUBITS = 18
"""Enough for several sweeps of a block."""


@pytest.fixture
def folder(team: Team, tmp_path: Path) -> Iterator[Path]:
    """One folder for all ranks, that of rank 0."""
    yield Path(team.broadcast(str(tmp_path).encode()).decode())
    team.barrier()


def layers(num_qubits: int, count: int, seed: int = 3) -> list[Gate]:
    """Layers of turns, chains of CX, and what a layout has to remember."""
    random = np.random.default_rng(seed)
    made: list[Gate] = []
    for _ in range(count):
        made += [gate("u", q, params=[float(a) for a in random.uniform(-3, 3, 3)]) for q in range(num_qubits)]
        made += [gate("cx", q, (q + 1) % num_qubits) for q in range(num_qubits)]
        made += [gate("x", int(random.integers(num_qubits))), gate("swap", 0, int(random.integers(1, num_qubits)))]
    return made


def circuit(num_qubits: int = QUBITS, count: int = 12, seed: int = 3) -> Circuit:
    return Circuit(num_qubits, 0, tuple(layers(num_qubits, count, seed)), name="layers")


def teams(team: Team) -> list[Team]:
    """All ranks, and fewer and fewer of them; those left out have None in their place."""
    sizes = [team.size >> k for k in range(team.size.bit_length())]
    return [team.subteam(range(size)) for size in sizes if team.rank < size]


class Stop:
    """Asks to stop at the so many-th occasion, on one rank of several."""

    def __init__(self, occasion: int, team: Team) -> None:
        self.left, self.mine = occasion, team.rank == team.size - 1

    def __call__(self) -> bool:
        self.left -= 1
        return self.mine and self.left == 0


def broken_off(made: Task, team: Team, folder: Path, occasion: int, every: int = 1) -> Result | None:
    """Run until the so many-th occasion; the result where it was done before."""
    checkpointing = Checkpointing(folder, Every(sweeps=every), stop_asked=Stop(occasion, team))
    try:
        return engines.run(made, team, Watch(checkpointing=checkpointing))
    except SuspendedError:
        return None


def resumed(made: Task, team: Team, folder: Path, words: list[str] | None = None) -> Result:
    tell = (lambda _: None) if words is None else words.append
    return engines.run(made, team, Watch(checkpointing=Checkpointing(folder, Every(sweeps=1000), tell=tell)))


@pytest.mark.parametrize("precision", ["double", "single"])
def test_a_run_goes_on_on_more_and_on_fewer_ranks(team: Team, folder: Path, precision: str) -> None:
    made = task(circuit(), save="statevector", precision=precision)
    undisturbed = engines.run(made, team).statevector
    assert undisturbed is not None
    tolerance = 1e-12 if precision == "double" else 2e-6
    for number, (first, then) in enumerate([(0, -1), (-1, 0)]):
        for occasion in (1, 3):
            place = folder / f"{number}-{occasion}"
            some = teams(team)
            if first == 0 or team.rank == 0:
                assert broken_off(made, some[first], place, occasion) is None
            team.barrier()
            if then == 0 or team.rank == 0:
                words: list[str] = []
                result = resumed(made, some[then], place, words)
                assert result.statevector is not None
                assert np.abs(result.statevector - undisturbed).max() < tolerance
                assert team.rank or "going on after" in words[0]
            team.barrier()


def flip_last_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    with h5py.File(file, "r") as shard:
        offset = shard["re"].id.get_offset()
    data[offset + 100] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-500])


@pytest.mark.parametrize("damage", [flip_last_byte, truncate, Path.unlink], ids=["flipped", "truncated", "missing"])
def test_a_damaged_checkpoint_is_refused_and_the_older_one_taken(team: Team, folder: Path, damage: object) -> None:
    made = task(circuit(), save="statevector")
    undisturbed = engines.run(made, team).statevector
    assert undisturbed is not None
    assert broken_off(made, team, folder / "c", 3, every=1) is None
    newest, older = sorted((folder / "c").iterdir())[::-1]
    if team.rank == 0:
        damage(sorted(shards.shard_folder(newest / FILE_NAME).iterdir())[-1])  # type: ignore[operator]
    team.barrier()
    words: list[str] = []
    result = resumed(made, team, folder / "c", words)
    assert result.statevector is not None
    assert np.abs(result.statevector - undisturbed).max() < 1e-12
    if team.rank == 0:
        assert len(words) == 2
        assert words[0].startswith(f"checkpoint {newest} refused: ")
        assert "shard" in words[0]
        assert words[1].startswith(f"checkpoint {older}: going on")
        damage(sorted(shards.shard_folder(older / FILE_NAME).iterdir())[0])  # type: ignore[operator]
    team.barrier()
    with pytest.raises(BadStateError, match=r"none of the 2 in .* is whole; remove the folder"):
        resumed(made, team, folder / "c")


def test_a_folder_in_use_is_refused_on_every_rank(team: Team, folder: Path) -> None:
    words: list[str] = []
    with (
        claimed(folder / "c", team, words.append),
        pytest.raises(BadStateError, match="is in use by process"),
        claimed(folder / "c", team, words.append),
    ):
        pytest.fail("two runs have it")
    team.barrier()
    assert not (folder / "c").exists()
    assert not words


def test_a_checkpoint_of_another_run_is_refused(team: Team, folder: Path) -> None:
    made = task(circuit(), save="statevector", seed=4)
    assert broken_off(made, team, folder / "c", 1) is None
    others = {
        "a run of circuit 'layers' .* this one is of 'layers'": task(circuit(seed=9), save="statevector"),
        "double precision, this one is of single": task(circuit(), save="statevector", precision="single"),
        "seed 4, this one is of 5": task(circuit(), save="statevector", seed=5),
    }
    for message, other in others.items():
        with pytest.raises(InvalidArgumentError, match=message):
            resumed(other, team, folder / "c")
    assert resumed(made, team, folder / "c").metadata["seed"] == 4


def measured(num_qubits: int) -> Circuit:
    """Shots split at two measurements; what follows depends on the outcome."""
    one = Operation("equal", (Bits((0,)), Literal(1)))
    instructions: list[Instruction] = [
        *layers(num_qubits, 2), Measure(3, 0),
        IfElse(one, tuple(layers(num_qubits, 1, 5)), tuple(layers(num_qubits, 2, 6))), Reset(2),
        Measure(num_qubits - 1, 1),
        *layers(num_qubits, 2, 8), Measure(0, 2), Measure(1, 3),
    ]  # fmt: skip
    return Circuit(num_qubits, 4, tuple(instructions), (Register("c", (0, 1, 2, 3)),))


def test_shots_that_split_come_out_the_same(team: Team, folder: Path) -> None:
    made = task(measured(16), shots=300, seed=11)
    undisturbed = engines.run(made, team).samples
    for occasion in (1, 3, 6):
        place = folder / str(occasion)
        if broken_off(made, team, place, occasion) is not None:
            pytest.fail(f"it was done before occasion {occasion}")
        half = teams(team)[1:2] if team.size > 1 else [team]
        for others in half:  # none on the ranks that are left out
            result = resumed(made, others, place)
            assert np.array_equal(result.samples, undisturbed)
        team.barrier()


def test_several_sets_of_values_are_refused(team: Team, folder: Path) -> None:
    turned = Circuit(2, 0, (gate("rx", 0, params=["p0"]),), parameters=("theta",))
    made = task(turned, parameters=[[0.1], [0.2]], observables="ZZ")
    with pytest.raises(NotSupportedError, match="2 sets of parameter values found, one needed"):
        resumed(made, team, folder / "c")


@pytest.mark.parametrize("num_qubits", [3, QUBITS])
@pytest.mark.parametrize("precision", ["double", "single"])
def test_a_saved_state_is_in_the_order_of_the_qubits(team: Team, folder: Path, num_qubits: int, precision: str) -> None:
    made = circuit(num_qubits, 3)
    wanted = engines.run(task(made, save="statevector", precision=precision), team).statevector
    assert wanted is not None
    path = folder / f"{num_qubits}.h5"
    result = engines.run(task(made, save=path, precision=precision), team)
    assert result.statevector is None
    assert result.metadata["saved"] == str(path)
    tolerance = 1e-14 if precision == "double" else 1e-6
    assert np.abs(qs.load_state(path) - wanted).max() < tolerance
    with h5py.File(path, "r") as whole:
        assert np.abs(whole["re"][:] + 1j * whole["im"][:] - wanted).max() < tolerance
    team.barrier()


def test_a_place_that_cannot_be_written_is_told_before_the_run(team: Team, folder: Path) -> None:
    done: list[int] = []
    with pytest.raises(QSimEnvError, match="no such folder"):
        engines.run(task(circuit(), save=folder / "none" / "x.h5"), team, Watch(progress=lambda a, _: done.append(a)))
    assert not done


def test_progress_is_told_after_every_sweep(team: Team) -> None:
    told: list[tuple[int, int | None]] = []
    result = engines.run(task(circuit(), save="statevector"), team, Watch(progress=lambda *two: told.append(two)))
    if team.rank == 0:
        assert [done for done, _ in told] == list(range(1, result.metadata["sweeps"] + 1))
        assert {total is not None and total >= result.metadata["sweeps"] for _, total in told} == {True}
