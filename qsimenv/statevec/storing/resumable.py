"""A run that can be broken off and gone on with, on another number of ranks if need be.

It runs every segment in parts (``parts``) and between them writes a checkpoint where one is due. The place in a program
is a number, and in a segment the set of gates that are done: both mean the same on any number of ranks. Where shots
have split, the branches put aside are kept as their outcomes so far, and run again from the start in their turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from qsimenv import checkpoints, shards
from qsimenv.checkpoints import Checkpointing
from qsimenv.circuit import Gate
from qsimenv.comm import Team
from qsimenv.errors import BadStateError, InvalidArgumentError, QSimEnvError, SuspendedError
from qsimenv.shards import Manifest
from qsimenv.statevec.kernels.devices import DeviceName
from qsimenv.statevec.planning.parts import Parts
from qsimenv.statevec.simulate import Branch, Run
from qsimenv.statevec.state import State, Work
from qsimenv.statevec.storing import checkpoint
from qsimenv.task import Task

PART_SECONDS = 5.0
"""A part takes about as long: a batch system's warning must leave time for one part and one checkpoint."""
_FIRST_SWEEPS, _MOST_SWEEPS = 4, 1 << 12
_WAIT, _DUE, _STOP = range(3)


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """What the manifest says of a run besides its state: which run it is, and where it stood.

    ``place`` is the step of the program that was being done, ``pending`` tells of each branch put aside how many shots
    it has and its outcomes so far. Beside it stand the arrays ``parameters``, ``gates_done`` (packed bits, of the step)
    and, where shots may split, ``shots``, ``samples`` and ``pending_shots``.
    """

    circuit: str
    name: str
    seed: int
    num_shots: int
    sweeps: int
    place: int
    clbits: str
    variables: dict[str, int | float]
    turns: dict[str, int]
    history: tuple[int, ...]
    replayed: int
    pending: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Restored:
    """A checkpoint that was read and found good."""

    position: Position
    arrays: dict[str, np.ndarray]
    state: State

    def branches(self, num_shots: int) -> list[Branch]:
        """The branches to follow, that of the state last."""
        position = self.position
        pending = [Branch(np.arange(num_shots))]
        if "shots" in self.arrays:
            pending[0].shots = self.arrays["shots"]
            ends = np.cumsum([count for count, _ in position.pending], dtype=np.int64)
            rows = np.split(self.arrays["pending_shots"], ends[:-1])
            aside = zip(rows, position.pending, strict=False)
            pending = [*(Branch(row, history=history) for row, (_, history) in aside), *pending]
        current = pending[-1]
        current.state, current.place, current.clbits = self.state, position.place, int(position.clbits, 16)
        current.variables = dict(position.variables)
        current.turns = {int(loop): count for loop, count in position.turns.items()}
        current.history, current.replayed = position.history, position.replayed
        return pending


def restored_or_new(
    checkpointing: Checkpointing, task: Task, is_static: bool, team: Team, work: Work, on: DeviceName = "cpu"
) -> tuple[Callable[..., ResumableRun], int | None]:
    """What makes the run, from the newest good checkpoint where there is one, and the seed. *Collective.*

    Raises like ``restore``.
    """
    restored = restore(checkpointing, task, is_static, team, work, on)
    seed = task.seed if restored is None else restored.position.seed
    return partial(ResumableRun, checkpointing=checkpointing, restored=restored), seed


def restore(
    checkpointing: Checkpointing, task: Task, is_static: bool, team: Team, work: Work, on: DeviceName = "cpu"
) -> Restored | None:
    """The newest good checkpoint in the folder, None where there is none. *Collective.*

    Tells of those that are damaged. Raises, on every rank, InvalidArgumentError for one of another run, BadStateError
    where all are damaged, OutOfMemoryError.
    """
    restored: list[Restored] = []

    def take(path: Path) -> None:
        manifest, arrays = _read_manifest(path, team)
        position = _position(path, manifest)
        _refuse_another_run(path.parents[1], manifest, position, arrays, task, is_static)
        restored.append(Restored(position, arrays, checkpoint.read_state(path, manifest, team, work, on)))

    taken = checkpoints.newest(checkpointing.whole(team), team, checkpointing.tell, take)
    if taken is None:
        return None
    found = restored[-1]
    work.sweeps = found.position.sweeps
    if team.rank == 0:
        checkpointing.tell(f"checkpoint {taken.parent}: going on after {found.position.sweeps} sweeps")
    return found


def _read_manifest(path: Path, team: Team) -> tuple[Manifest, dict[str, np.ndarray]]:
    """The manifest and the small arrays, read by rank 0. *Collective.*"""
    error, data = None, b""
    if team.rank == 0:
        try:
            manifest = shards.read_manifest(path)
            arrays = {name: shards.read_array(path, manifest, name) for name in manifest.arrays}
            rows = {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}
            data = msgspec.msgpack.encode((manifest, rows))
        except QSimEnvError as found:
            error = found
    team.agree(error)
    kind = tuple[Manifest, dict[str, tuple[str, tuple[int, ...], bytes]]]
    manifest, rows = msgspec.msgpack.decode(team.broadcast(data), type=kind)
    return manifest, {
        name: np.frombuffer(raw, dtype=dtype).reshape(shape) for name, (dtype, shape, raw) in rows.items()
    }


def _position(path: Path, manifest: Manifest) -> Position:
    try:
        return msgspec.convert(manifest.about, Position)
    except msgspec.ValidationError as error:
        raise BadStateError(f"{path}: it holds no checkpoint ({error})") from None


def _refuse_another_run(
    folder: Path, manifest: Manifest, position: Position, arrays: dict[str, np.ndarray], task: Task, is_static: bool
) -> None:
    """Raise InvalidArgumentError where the checkpoint is not one of the task."""
    values = np.zeros(0) if task.parameters is None else task.parameters
    found = needed = ""
    if position.circuit != task.circuit.hash:
        found, needed = (
            f"circuit {position.name!r} ({position.circuit})",
            f"{task.circuit.name!r} ({task.circuit.hash})",
        )
    elif not np.array_equal(arrays["parameters"], values.reshape(-1)):
        found, needed = f"parameter values {arrays['parameters'].tolist()}", f"{values.reshape(-1).tolist()}"
    elif manifest.about["precision"] != task.precision:
        found, needed = f"{manifest.about['precision']} precision", f"{task.precision}"
    elif task.seed not in (None, position.seed):
        found, needed = f"seed {position.seed}", f"{task.seed}"
    elif not is_static and position.num_shots != task.shots:
        found, needed = f"{position.num_shots} shots", f"{task.shots}"
    if found:
        raise InvalidArgumentError(
            f"checkpoint: {folder} holds a run of {found}, this one is of {needed}; give another folder, or remove it"
        )


class ResumableRun(Run):
    """A Run of one set of parameter values with checkpoints. *Collective* throughout."""

    def __init__(self, *arguments: Any, checkpointing: Checkpointing, restored: Restored | None) -> None:
        super().__init__(*arguments)
        self._checkpointing, self._restored = checkpointing, restored
        self._samples: npt.NDArray[np.uint8] = np.zeros((0, 1), dtype=np.uint8)
        self._part_sweeps = _FIRST_SWEEPS
        self._written_s = self._part_began_s = time.monotonic()
        self._written_sweeps = self._part_began_sweeps = self._work.sweeps

    def _begin(self) -> tuple[list[Branch], npt.NDArray[np.uint8]]:
        branches, self._samples = super()._begin()
        if self._restored is not None:
            branches = self._restored.branches(self._shots)
            if "samples" in self._restored.arrays:
                self._samples[:] = self._restored.arrays["samples"]
        return branches, self._samples

    def _apply(self, branch: Branch, segment: int) -> None:
        """Run a segment part by part, from where the checkpoint left it."""
        gates, state = self._prepared.program.segments[segment], branch.state
        assert state is not None  # noqa: S101 - _follow has made it
        done = self._gates_done(len(gates))
        left = np.flatnonzero(~done)
        if len(left) < len(gates):
            whole = self._prepared.plan_of([gates[k] for k in left], state.layout)
        else:
            whole = self._prepared.plan(segment, state.layout)
            if whole.num_sweeps <= self._next_sweeps():
                super()._apply(branch, segment)
                self._consider(branch, ~done)
                return
        parts = Parts(whole)
        while parts:
            self._expect(parts.sweeps_left)
            chosen = left[np.array(parts.take(self._next_sweeps()), dtype=np.int64)]
            self._run_part([gates[k] for k in chosen], state)
            done[chosen] = True
            self._consider(branch, done)

    def _gates_done(self, count: int) -> npt.NDArray[np.bool_]:
        """Which gates of the segment were done when the checkpoint was written; it is asked for once."""
        if self._restored is None:
            return np.zeros(count, dtype=bool)
        done = np.unpackbits(self._restored.arrays["gates_done"], count=count).astype(bool)
        self._restored = None
        return done

    def _run_part(self, gates: Sequence[Gate], state: State) -> None:
        began = time.perf_counter()
        plan = self._prepared.plan_of(gates, state.layout)
        encoded = self._prepared.encoded(plan, self._values, state.is_untouched)
        self._work.add_seconds("plan", began)
        state.run(plan, encoded)

    def _next_sweeps(self) -> int:
        """How many sweeps the next part may have."""
        often = self._checkpointing.every.sweeps
        if often is None:
            return self._part_sweeps
        return min(self._part_sweeps, max(1, often - (self._work.sweeps - self._written_sweeps)))

    # --- writing ---

    def _consider(self, branch: Branch, done: npt.NDArray[np.bool_]) -> None:
        """Write a checkpoint where one is due or the run is to end; see how long a sweep takes."""
        self._pace()
        wish = int(self._team.maximum(self._wish()))
        if wish == _WAIT:
            return
        began = time.perf_counter()
        folder = self._write(branch, done, must=wish == _STOP)
        self._written_s, self._written_sweeps = time.monotonic(), self._work.sweeps
        self._part_began_s = self._written_s
        self._work.add_seconds("checkpoint", began)
        self._checkpointing.written_s.append(time.perf_counter() - began)
        if wish == _STOP:
            raise SuspendedError(
                f"checkpoint: written to {folder} after {self._work.sweeps} sweeps, as asked for by a signal; "
                "run the same command again to go on"
            )

    def _wish(self) -> int:
        if self._checkpointing.stop_asked():
            return _STOP
        every = self._checkpointing.every
        if every.sweeps is not None:
            return _DUE if self._work.sweeps - self._written_sweeps >= every.sweeps else _WAIT
        assert every.seconds is not None  # noqa: S101 - one of the two is given
        return _DUE if self._team.rank == 0 and time.monotonic() - self._written_s >= every.seconds else _WAIT

    def _pace(self) -> None:
        """Choose the size of the next part by what the slowest rank took for a sweep."""
        sweeps, now = self._work.sweeps - self._part_began_sweeps, time.monotonic()
        if not sweeps:
            return
        pace_s = self._team.maximum((now - self._part_began_s) / sweeps)
        wanted_s = min(PART_SECONDS, self._checkpointing.every.seconds or PART_SECONDS)
        self._part_sweeps = max(1, min(_MOST_SWEEPS, int(wanted_s / max(pace_s, 1e-9))))
        self._part_began_s, self._part_began_sweeps = now, self._work.sweeps

    def _write(self, branch: Branch, done: npt.NDArray[np.bool_], must: bool) -> Path | None:
        """Write a checkpoint. One that cannot be written ends the run only where it ``must`` be."""
        assert branch.state is not None  # noqa: S101 - _follow has made it
        path: Path | None = None
        try:
            path = self._checkpointing.make_room(self._team)
            about = msgspec.to_builtins(self._position(branch))
            checkpoint.write_state(path, branch.state, about, self._arrays(branch, done))
        except BadStateError as error:
            if self._team.rank == 0 and path is not None:
                self._checkpointing.give_up(path)
            if must:
                raise
            if self._team.rank == 0:
                self._checkpointing.tell(f"{error.message} (the run goes on; the checkpoint before this one stays)")
            return None
        return path.parent

    def _position(self, branch: Branch) -> Position:
        circuit = self._prepared.circuit
        return Position(
            circuit=circuit.hash, name=circuit.name, seed=self._seed, num_shots=self._shots, sweeps=self._work.sweeps,
            place=branch.place - 1, clbits=f"{branch.clbits:x}", variables=branch.variables,
            turns={str(loop): count for loop, count in branch.turns.items()}, history=branch.history,
            replayed=branch.replayed,
            pending=tuple((len(other.shots), other.history) for other in self._pending),
        )  # fmt: skip

    def _arrays(self, branch: Branch, done: npt.NDArray[np.bool_]) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {"parameters": self._values, "gates_done": np.packbits(done)}
        if not self._prepared.program.is_static:
            nobody = np.zeros(0, dtype=np.int64)
            aside = np.concatenate([nobody, *(other.shots for other in self._pending)])
            found |= {"shots": branch.shots, "samples": self._samples, "pending_shots": aside}
        return found
