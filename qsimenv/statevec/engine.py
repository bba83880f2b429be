"""The state-vector engine: the door of this package.

Chooses how many ranks of a team hold the state, prepares the circuit, runs it for every row of parameter values, and
says in the metadata what was done. Small circuits take another way: all rows in one compiled call. Rows that need not
share their state are shared out over the ranks. Nothing that needs a compiler is imported before the first run.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from qsimenv import arrays, comm, interrupt, memory
from qsimenv.circuit import Circuit, Gate, walk
from qsimenv.comm import Team
from qsimenv.engines import Engine, Watch, power_of_two
from qsimenv.errors import InvalidArgumentError, NotSupportedError, OutOfMemoryError, QSimEnvError
from qsimenv.statevec.batches.batch_plan import is_small
from qsimenv.statevec.batches.shares import ARRAYS, share_out
from qsimenv.statevec.costs import rates
from qsimenv.statevec.costs.cost import Machine, rough_s
from qsimenv.statevec.kernels.devices import DeviceName, choose
from qsimenv.statevec.planning.steps import mixed_qubits
from qsimenv.task import AMPLITUDE_BYTES, WHOLE, Estimate, Precision, Result, Task, decode_hook, encode_hook

NAME = "statevector"
MAX_QUBITS = 60
_OVERHEAD_BYTES = 64 << 20
"""Exchange buffers, scratch blocks and tables beside the planes."""

_LONG_SECONDS = 0.5
"""What takes longer than this is worth more ranks than its memory needs."""
_SMALL_SECONDS, _SMALL_SECONDS_A_ROW = 3e-5, 1e-9
"""Of a small circuit: for the call, and for each amplitude of each gate."""
_UNINTERRUPTED_SECONDS = 0.1
"""Rows of a small circuit run in one compiled call for about so long, before it is asked whether they are wanted."""
_ROWS_WORTH_SHARING = 64
"""Rows of a small circuit for each rank, from which a message costs less than it saves."""
_IMMEDIATE_BYTES = 64 << 20


class StateVectorEngine(Engine):
    """All 2**n amplitudes, exactly."""

    name = NAME

    def estimate(self, task: Task, max_ranks: int, free_bytes_per_rank: int) -> Estimate:
        circuit, ranks = task.circuit, 1
        most = 1 << (max(1, max_ranks).bit_length() - 1)
        while ranks < most and _bytes_per_rank(task, ranks) > free_bytes_per_rank:
            ranks *= 2
        needed = _bytes_per_rank(task, ranks)
        if needed > free_bytes_per_rank or circuit.num_qubits > MAX_QUBITS:
            raise OutOfMemoryError(_refusal(task, most, free_bytes_per_rank))
        fits_one = ranks == 1
        while ranks < most and _seconds(task, ranks, fits_one) > _LONG_SECONDS:
            ranks *= 2
        return Estimate(NAME, ranks, _bytes_per_rank(task, ranks), _seconds(task, ranks, fits_one))

    def is_immediate(self, task: Task) -> bool:
        return _is_small(task) and _result_bytes(task) <= _IMMEDIATE_BYTES

    def run(self, task: Task, team: Team) -> Result:
        return self.run_watched(task, team, Watch())

    def run_watched(self, task: Task, team: Team, watch: Watch) -> Result:
        _check_one_state(task, watch)
        if _is_small(task) and watch.checkpointing is None and task.save in (None, WHOLE):
            return _run_small(task, team)
        on = _device(task, team)
        if _are_run_apart(task, team, on):
            return _run(task, team, watch, on, apart=True)
        ranks = usable_ranks(task.circuit, team.size)
        if ranks == team.size:
            return _run(task, team, watch, on)
        result, error = None, None
        if team.rank < ranks:
            try:
                result = _run(task, team.subteam(range(ranks)), watch, on)
            except QSimEnvError as found:
                error = found
        team.agree(error)  # the other ranks wait for the result, and must hear where there is none
        data = _ENCODER.encode(result) if team.rank == 0 else b""
        return _DECODER.decode(team.broadcast(data))


def gradient(task: Task, team: Team) -> npt.NDArray[np.float64]:
    """The derivatives of the task's one observable by its parameters, shape (P,) or (B, P). *Collective.*

    Every rank returns the same. Raises as ``gradient.gradient``, and OutOfMemoryError before anything is run.
    """
    from qsimenv.statevec.gradients import gradient as adjoint

    power_of_two(team)
    set_threads(team)
    ranks = usable_ranks(task.circuit, team.size)
    needed = 2 * (AMPLITUDE_BYTES[task.precision] << task.circuit.num_qubits) // ranks + _OVERHEAD_BYTES
    on = choose(task.device, team)
    free = team.minimum(arrays.free_bytes(on))
    if needed > free:
        raise OutOfMemoryError(
            f"gradient: two states need {readable(needed)} on each of {ranks} ranks, {readable(free)} are free; "
            "use more ranks or precision='single'"
        )
    result, error = np.zeros((len(_rows(task)), len(task.circuit.parameters))), None
    if team.rank < ranks:
        try:
            part = team.subteam(range(ranks))
            result = adjoint.gradient(task.circuit, task.observables[0], _rows(task), task.precision, part, on=on)
        except QSimEnvError as found:
            error = found
    team.agree(error)
    result = np.frombuffer(team.broadcast(result.tobytes())).reshape(result.shape).copy()
    return result.reshape(*task.batch_shape, -1)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=encode_hook)
_DECODER = msgspec.msgpack.Decoder(Result, dec_hook=decode_hook)


def usable_ranks(circuit: Circuit, ranks: int) -> int:
    """How many of ``ranks`` can share the state: every gate must find the qubits it mixes in one rank's memory."""
    reach = max((len(mixed_qubits(i)) for i in walk(circuit.instructions) if isinstance(i, Gate)), default=0)
    while ranks > 1 and circuit.num_qubits - (ranks.bit_length() - 1) < max(reach, 1):
        ranks //= 2
    return ranks


def _rows(task: Task) -> npt.NDArray[np.float64]:
    """The sets of parameter values, shape (B, P)."""
    if task.parameters is None:
        return np.zeros((1, 0))
    return task.parameters if task.parameters.ndim == 2 else task.parameters[np.newaxis]


def _num_rows(task: Task) -> int:
    return task.batch_shape[0] if task.batch_shape else 1


def _is_small(task: Task) -> bool:
    """Whether it takes the way of small circuits, which is the CPU's: no launch is as short as they are."""
    return arrays.wished(task.device) != "gpu" and is_small(task.circuit)


def _device(task: Task, team: Team) -> DeviceName:
    """Where its states lie: with "auto" on the GPUs if every rank has one and its part fits. *Collective.*"""
    on = choose(task.device, team)
    if on == "gpu" and arrays.wished(task.device) == "auto":
        fits = _bytes_per_rank(task, usable_ranks(task.circuit, team.size)) <= team.minimum(arrays.free_bytes(on))
        return "gpu" if fits else "cpu"
    return on


def _are_run_apart(task: Task, team: Team, on: DeviceName) -> bool:
    """Whether each rank runs some rows, with their whole states. *Collective* where there are so many rows."""
    if team.size == 1 or _num_rows(task) < team.size:
        return False
    return _bytes_per_rank(task, 1) <= team.minimum(arrays.free_bytes(on))


def _seconds(task: Task, ranks: int, fits_one: bool) -> float:
    """Of all rows: run apart on the ranks where there are enough and their states fit, else one after the other."""
    runs = _num_rows(task)
    if fits_one and runs >= ranks:
        return -(-runs // ranks) * _seconds_a_run(task, 1)
    return runs * _seconds_a_run(task, ranks)


def _seconds_a_run(task: Task, ranks: int) -> float:
    """A guess from the gates and the rates of this machine, with some microseconds a gate for deciding."""
    gate_list = _gates(task.circuit)
    if is_small(task.circuit):
        row = _SMALL_SECONDS_A_ROW * (len(gate_list) << task.circuit.num_qubits) + 1e-8 * (task.shots or 0)
        return _SMALL_SECONDS / _num_rows(task) + row
    num_local = task.circuit.num_qubits - (ranks.bit_length() - 1)
    machine = Machine(rates.load(), default_threads())
    return 1e-4 + len(gate_list) * 1e-6 + rough_s(gate_list, num_local, task.precision, machine)


@lru_cache(maxsize=256)
def _gates(circuit: Circuit) -> tuple[Gate, ...]:
    return tuple(each for each in walk(circuit.instructions) if isinstance(each, Gate))


def _bytes_per_rank(task: Task, ranks: int) -> int:
    state = (AMPLITUDE_BYTES[task.precision] << task.circuit.num_qubits) // ranks
    whole = AMPLITUDE_BYTES[task.precision] << task.circuit.num_qubits if task.save == WHOLE else 0
    return state + state // 8 + 3 * whole + 2 * _result_bytes(task) + _OVERHEAD_BYTES


def _result_bytes(task: Task) -> int:
    """The arrays of the result for all rows."""
    amplitudes = AMPLITUDE_BYTES[task.precision] << task.circuit.num_qubits if task.save == WHOLE else 0
    samples = (task.shots or 0) * -(-task.circuit.num_clbits // 8)
    return _num_rows(task) * (amplitudes + samples + 8 * len(task.observables))


def _refusal(task: Task, ranks: int, free: int) -> str:
    """What was asked for, what there is, and at which number of ranks or precision it would fit."""
    qubits = task.circuit.num_qubits
    total = AMPLITUDE_BYTES[task.precision] << qubits
    if qubits > MAX_QUBITS:
        return f"run: {qubits} qubits found, a state vector has at most {MAX_QUBITS}; use another engine"
    needed = ranks
    while _bytes_per_rank(task, needed) > free and needed < 1 << qubits:
        needed *= 2
    single = msgspec.structs.replace(task, precision="single")
    advice = f"use {needed} ranks like these"
    if task.precision == "double" and _bytes_per_rank(single, ranks) <= free:
        advice += " or precision='single'"
    if task.save == WHOLE:
        advice += ", or do not ask for the whole statevector on every rank"
    return (
        f"run: {qubits} qubits in {task.precision} precision need {readable(total)}, "
        f"{ranks} rank(s) have {readable(free)} free each; {advice}"
    )


def readable(num_bytes: float) -> str:
    """``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if num_bytes < 1024 or unit == "PiB":
            break
        num_bytes /= 1024
    return f"{num_bytes:.0f} {unit}" if num_bytes >= 10 or unit == "B" else f"{num_bytes:.1f} {unit}"


def default_threads() -> int:
    """This rank's share of the cores, or fewer where OMP_NUM_THREADS says so."""
    return min(comm.cores(), _wished_threads(os.environ))


def set_threads(team: Team | None = None) -> int:
    """Give this rank its threads. Returns their number.

    *Collective* with a ``team``: all ranks get as many, because a plan hangs on it, and plans must be equal.
    """
    import numba

    threads: int = min(default_threads(), numba.config.NUMBA_NUM_THREADS)
    if team is not None:
        threads = int(team.minimum(threads))
    numba.set_num_threads(threads)
    return threads


def _wished_threads(environ: Mapping[str, str]) -> int:
    """OMP_NUM_THREADS, of which the first number counts; without one as many as there are."""
    wished = environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(1, int(wished)) if wished.isdecimal() else 1 << 30


def _run_small(task: Task, team: Team) -> Result:
    """A small circuit: every rank runs all rows, or where they are many, its share of them."""
    from qsimenv.statevec.batches import batch

    began, seed, rows = time.perf_counter(), _agree_on_seed(task.seed, team), _rows(task)

    shared = team.size > 1 and len(rows) >= _ROWS_WORTH_SHARING * team.size
    together = Team() if shared else team
    step = max(1, int(_UNINTERRUPTED_SECONDS / _seconds_a_run(task, 1)))

    def run_rows(values: npt.NDArray[np.float64], first: int) -> Result:
        if len(values) <= step:
            return batch.run(task, values, seed, first, set_threads)
        parts = []
        for start in range(0, len(values), step):
            interrupt.check(together)
            parts.append(batch.run(task, values[start : start + step], seed, first + start, set_threads))
        return _joined(parts)

    result = share_out(rows, team, run_rows) if shared else run_rows(rows, 0)
    return _finished(result, task, {
        "engine": NAME, "device": "cpu", "ranks": team.size, "threads": result.metadata["threads"],
        "precision": task.precision, "seed": seed, "stages": 1, "sweeps": 1, "exchanges": 0, "bytes_exchanged": 0,
        "seconds": {"total": round(time.perf_counter() - began, 6)},
        "peak_bytes": int(team.maximum(memory.peak_bytes())),
    })  # fmt: skip


def _joined(parts: list[Result]) -> Result:
    """Results of some rows each as one of all of them."""
    joined = Result(metadata=parts[0].metadata)
    for name in ARRAYS:
        if getattr(parts[0], name) is not None:
            setattr(joined, name, np.concatenate([getattr(part, name) for part in parts]))
    return joined


def _run(task: Task, team: Team, watch: Watch, on: DeviceName, apart: bool = False) -> Result:
    """A circuit of any size, row by row: on all ranks together, or with ``apart`` each rank for some of the rows."""
    from qsimenv.statevec.simulate import Run, phases, prepare
    from qsimenv.statevec.state import Work

    began, cpu_threads, work = time.perf_counter(), set_threads(team), Work()
    together = Team() if apart else team
    num_local = task.circuit.num_qubits - (together.size.bit_length() - 1)
    prepared = prepare(task.circuit, num_local, task.precision, on)
    if not prepared.program.is_static and (task.observables or task.save):
        raise NotSupportedError(
            "run: observables and the statevector are those of one pure state, but this circuit measures, resets or "
            "branches in the middle; ask for shots instead, or move the measurements to the end"
        )
    if task.save not in (None, WHOLE):
        team.agree(_unwritable(Path(str(task.save))) if team.rank == 0 else None)
    work.after_sweep = _told(watch, work) if team.rank == 0 else None
    make_run: Callable[..., Run] = Run
    seed = task.seed
    if watch.checkpointing is not None:
        from qsimenv.statevec.storing import resumable

        make_run, seed = resumable.restored_or_new(
            watch.checkpointing, task, prepared.program.is_static, team, work, on
        )
    seed = _agree_on_seed(seed, team)
    spare = _spare_states(team, num_local, task.precision, on) if not prepared.program.is_static else 0

    def run_rows(rows: npt.NDArray[np.float64], first: int) -> Result:
        runs = (
            make_run(prepared, together, values, seed, first + number, task.shots or 0, spare, work)
            for number, values in enumerate(rows)
        )
        return _stacked([_run_one(task, run) for run in runs])

    result = share_out(_rows(task), team, run_rows) if apart else run_rows(_rows(task), 0)
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
            setattr(stacked, name, np.stack(parts))
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


def _check_one_state(task: Task, watch: Watch) -> None:
    """A checkpoint and a file are of one state. Raises NotSupportedError or InvalidArgumentError."""
    if watch.checkpointing is not None and _num_rows(task) > 1:
        raise NotSupportedError(
            f"checkpoint: {_num_rows(task)} sets of parameter values found, one needed; run them one by one"
        )
    if task.save not in (None, WHOLE) and task.batch_shape:
        raise InvalidArgumentError("save: one file holds one state; give one set of parameter values, of shape (P,)")


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
