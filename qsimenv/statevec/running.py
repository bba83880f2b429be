"""Running a task on a team: every row of parameter values, by the way that suits its circuit, and what came out of all.

``engine`` chooses between ``run_small`` (all rows in one compiled call) and ``run_large`` (row by row, on all ranks or
on each for some rows). *Collective*, both. Nothing that needs a compiler is imported before the first run.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qsimenv import arrays, interrupt, memory
from qsimenv.comm import Team
from qsimenv.engines import Watch
from qsimenv.errors import InvalidArgumentError, NotSupportedError, QSimEnvError
from qsimenv.statevec.batches.shares import ARRAYS, share_out
from qsimenv.statevec.costs.demand import num_rows, seconds_a_run
from qsimenv.statevec.gatewise.listing import is_gatewise
from qsimenv.statevec.kernels.devices import DeviceName
from qsimenv.statevec.threads import set_threads
from qsimenv.task import AMPLITUDE_BYTES, WHOLE, Precision, Result, Task

NAME = "statevector"
_UNINTERRUPTED_SECONDS = 0.1
"""Rows of a small circuit run in one compiled call for about so long, before it is asked whether they are wanted."""
_TOGETHER = 32
"""As many rows at least: lanes and threads have enough to do then."""
_ROWS_WORTH_SHARING = 64
"""Rows of a small circuit for each rank, from which a message costs less than it saves; so do fewer that take longer
than ``_WORTH_SHARING_S``."""
_WORTH_SHARING_S = 0.01


def parameter_rows(task: Task) -> npt.NDArray[np.float64]:
    """The sets of parameter values, shape (B, P)."""
    if task.parameters is None:
        return np.zeros((1, 0))
    return task.parameters if task.parameters.ndim == 2 else task.parameters[np.newaxis]


def run_small(task: Task, team: Team, watch: Watch) -> Result:
    """A small circuit: every rank runs all rows, or where they are many, its share of them. A row counts as a sweep."""
    from qsimenv.statevec.batches import batch
    from qsimenv.statevec.gatewise import small

    began, seed, rows = time.perf_counter(), _agree_on_seed(task.seed, team), parameter_rows(task)
    shared = len(rows) >= team.size > 1 and _are_worth_sharing(task, team)
    together = Team() if shared else team

    def go_on(done: int, total: int) -> None:
        interrupt.check(together)
        if watch.progress is not None and team.rank == 0:
            watch.progress(done, total)

    def run_rows(values: npt.NDArray[np.float64], first: int) -> Result:
        if len(rows) == 1 and is_gatewise(task.circuit):
            return small.run(task, seed, go_on)
        if len(values) <= _TOGETHER:
            return batch.run(task, values, seed, first, set_threads)
        parts, step = [], max(1, int(_UNINTERRUPTED_SECONDS / seconds_a_run(task, 1) / _TOGETHER)) * _TOGETHER
        for start in range(0, len(values), step):
            interrupt.check(together)
            parts.append(batch.run(task, values[start : start + step], seed, first + start, set_threads))
            if watch.progress is not None and team.rank == 0:
                watch.progress(min(start + step, len(values)), len(values))
        return _joined(parts) if len(parts) > 1 else parts[0]

    result = share_out(rows, team, run_rows) if shared else run_rows(rows, 0)
    return _finished(result, task, {
        "engine": NAME, "device": "cpu", "ranks": team.size, "threads": result.metadata["threads"],
        "precision": task.precision, "seed": seed, "stages": 1, "sweeps": 1, "exchanges": 0, "bytes_exchanged": 0,
        "seconds": {"total": round(time.perf_counter() - began, 6)},
        "peak_bytes": int(team.maximum(memory.recent_peak_bytes())),
    })  # fmt: skip


def _are_worth_sharing(task: Task, team: Team) -> bool:
    """Whether the rows of a small circuit take longer than the messages that sharing them costs."""
    count = num_rows(task)
    return count >= _ROWS_WORTH_SHARING * team.size or count * seconds_a_run(task, 1) >= _WORTH_SHARING_S


def _joined(parts: list[Result]) -> Result:
    """Results of some rows each as one of all of them."""
    joined = Result(metadata=parts[0].metadata)
    for name in ARRAYS:
        if getattr(parts[0], name) is not None:
            setattr(joined, name, np.concatenate([getattr(part, name) for part in parts]))
    return joined


def run_large(task: Task, team: Team, watch: Watch, on: DeviceName, apart: bool = False) -> Result:
    """A circuit of any size, row by row: on all ranks together, or with ``apart`` each rank for some of the rows.

    Raises NotSupportedError where one pure state is asked of a circuit that has none, InvalidArgumentError where the
    state cannot be saved, and what the run raises.
    """
    from qsimenv.statevec.gatewise.run import way_of
    from qsimenv.statevec.simulate import Run, phases, prepare
    from qsimenv.statevec.state import Work

    began, cpu_threads, work = time.perf_counter(), set_threads(team), Work()
    together = Team() if apart else team
    num_local = task.circuit.num_qubits - (together.size.bit_length() - 1)
    prepared = prepare(task.circuit, num_local, task.precision, on)
    is_static = prepared.program.is_static
    _check_outputs(task, team, prepared.program.is_pure)
    work.after_sweep = _told(watch, work) if team.rank == 0 else None
    make_run: Callable[..., Run] = way_of(task.circuit, together, on)
    seed = task.seed
    if watch.checkpointing is not None:
        from qsimenv.statevec.storing import resumable

        make_run, seed = resumable.restored_or_new(watch.checkpointing, task, is_static, team, work, on)
    seed = _agree_on_seed(seed, team)
    spare = 0 if is_static else _spare_states(team, num_local, task.precision, on)

    def run_rows(rows: npt.NDArray[np.float64], first: int) -> Result:
        runs = (
            make_run(prepared, together, values, seed, first + number, task.shots or 0, spare, work)
            for number, values in enumerate(rows)
        )
        return _stacked([_run_one(task, run) for run in runs])

    rows = parameter_rows(task)
    result = share_out(rows, team, run_rows) if apart else run_rows(rows, 0)
    return _finished(result, task, {
        "engine": NAME, "device": on, "ranks": team.size, "threads": cpu_threads, "precision": task.precision,
        "seed": seed, "stages": work.stages, "sweeps": work.sweeps, "exchanges": work.exchanges,
        "bytes_exchanged": int(team.sum(np.array([work.bytes_exchanged]))[0]),
        "seconds": {**phases(work), "total": round(time.perf_counter() - began, 6)},
        "peak_bytes": int(team.maximum(memory.peak_bytes())),
    })  # fmt: skip


def _run_one(task: Task, run: Any) -> Result:
    """One row of parameter values."""
    from qsimenv.statevec.measuring.expectation import expectation_values

    result = Result()
    if not (task.observables or task.save):
        result.samples = run.sample()
        return result
    state = run.final_state()
    if task.observables:
        result.expectation_values = expectation_values(state, task.observables)
    if task.shots is not None:
        result.samples = np.zeros((task.shots, max(1, (task.circuit.num_clbits + 7) // 8)), dtype=np.uint8)
        run.draw(state, result.samples)
    if task.save == WHOLE:
        result.statevector = state.amplitudes()
    elif task.save:
        from qsimenv.statevec.storing.checkpoint import save_in_order

        save_in_order(Path(task.save), state, {"circuit": task.circuit.hash, "name": task.circuit.name})
    return result


def _stacked(outcomes: list[Result]) -> Result:
    """The arrays of the results of some rows as one."""
    stacked = Result()
    for name in ARRAYS:
        parts = [getattr(outcome, name) for outcome in outcomes]
        if parts[0] is not None:
            setattr(stacked, name, parts[0][np.newaxis] if len(parts) == 1 else np.stack(parts))
    return stacked


def _finished(result: Result, task: Task, metadata: dict[str, Any]) -> Result:
    """The result of all rows in the shape that the task has, with what belongs to it."""
    if not task.batch_shape:
        for name in ARRAYS:
            array = getattr(result, name)
            setattr(result, name, None if array is None else array[0])
    if task.save not in (None, WHOLE):
        metadata["saved"] = task.save
    circuit = task.circuit
    result.num_clbits, result.registers, result.shots = circuit.num_clbits, circuit.registers, task.shots
    result.metadata = metadata
    return result


def _check_outputs(task: Task, team: Team, is_pure: bool) -> None:
    """Whether there will be what is asked for, and a place for it. *Collective.*"""
    if not is_pure and (task.observables or task.save):
        raise NotSupportedError(
            "run: observables and the statevector are those of one pure state, but this circuit measures, resets or "
            "branches in the middle; ask for shots instead, or move the measurements to the end"
        )
    if task.save not in (None, WHOLE):
        team.agree(_unwritable(Path(str(task.save))) if team.rank == 0 else None)


def _told(watch: Watch, work: Any) -> Callable[[], None] | None:
    """What is called after every sweep."""
    progress = watch.progress
    return None if progress is None else lambda: progress(work.sweeps, work.sweeps_expected)


def _unwritable(path: Path) -> QSimEnvError | None:
    """Why a state cannot be saved there, as far as that can be seen before the run."""
    if path.parent.is_dir() and os.access(path.parent, os.W_OK):
        return None
    return InvalidArgumentError(f"save: {path} cannot be written (no such folder, or no right to); give another path")


def _agree_on_seed(seed: int | None, team: Team) -> int:
    if seed is not None:
        return seed
    if team.size == 1:
        return secrets.randbits(63)
    return int.from_bytes(team.broadcast(secrets.randbits(63).to_bytes(8, "little")), "little")


def _spare_states(team: Team, num_local: int, precision: Precision, on: DeviceName) -> int:
    """How many copies of the state branches may hold at once, so that half of the free memory stays free."""
    free = team.minimum(arrays.free_bytes(on))
    return int(free / 2 // (AMPLITUDE_BYTES[precision] << num_local))
