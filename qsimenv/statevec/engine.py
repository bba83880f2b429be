"""The state-vector engine: the door of this package.

Chooses how many ranks of a team hold the state, on which device, and which way a task is run (``running``); small
circuits and rows that need not share their state have ways of their own. What a task takes is estimated by
``costs.demand``. ``engines`` finds it by its entry point.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from qsimenv import arrays
from qsimenv.comm import Team
from qsimenv.engines import Engine, Watch, power_of_two
from qsimenv.errors import InvalidArgumentError, NotSupportedError, OutOfMemoryError, QSimEnvError
from qsimenv.statevec.batches.batch_plan import is_small
from qsimenv.statevec.costs.demand import (
    MAX_QUBITS,
    OVERHEAD_BYTES,
    bytes_per_rank,
    is_batch,
    num_rows,
    refusal,
    result_bytes,
    seconds,
    usable_ranks,
)
from qsimenv.statevec.gatewise.listing import is_gatewise
from qsimenv.statevec.kernels.devices import DeviceName, choose
from qsimenv.statevec.running import NAME, parameter_rows, run_large, run_small
from qsimenv.statevec.threads import set_threads
from qsimenv.task import AMPLITUDE_BYTES, WHOLE, Estimate, Result, Task
from qsimenv.wire import decode_hook, encode_hook
from qsimenv.wording import readable

_LONG_SECONDS = 0.5
"""What takes longer than this is worth more ranks than its memory needs."""
_IMMEDIATE_BYTES = 64 << 20
_ENCODER = msgspec.msgpack.Encoder(enc_hook=encode_hook)
_DECODER = msgspec.msgpack.Decoder(Result, dec_hook=decode_hook)


class StateVectorEngine(Engine):
    """All 2**n amplitudes, exactly."""

    name = NAME

    def estimate(self, task: Task, max_ranks: int, free_bytes_per_rank: int) -> Estimate:
        circuit, ranks = task.circuit, 1
        most = 1 << (max(1, max_ranks).bit_length() - 1)
        while ranks < most and bytes_per_rank(task, ranks) > free_bytes_per_rank:
            ranks *= 2
        needed = bytes_per_rank(task, ranks)
        if needed > free_bytes_per_rank or circuit.num_qubits > MAX_QUBITS:
            raise OutOfMemoryError(refusal(task, most, free_bytes_per_rank))
        fits_one = ranks == 1
        while ranks < most and seconds(task, ranks, fits_one) > _LONG_SECONDS:
            ranks *= 2
        return Estimate(NAME, ranks, bytes_per_rank(task, ranks), seconds(task, ranks, fits_one))

    def is_immediate(self, task: Task) -> bool:
        is_short = is_small(task.circuit) or (num_rows(task) == 1 and is_gatewise(task.circuit))
        return _is_on_cpu(task) and is_short and result_bytes(task) <= _IMMEDIATE_BYTES

    def run(self, task: Task, team: Team) -> Result:
        return self.run_watched(task, team, Watch())

    def run_watched(self, task: Task, team: Team, watch: Watch) -> Result:
        _check_one_state(task, watch)
        if _is_on_cpu(task) and is_batch(task) and watch.checkpointing is None and task.save in (None, WHOLE):
            return run_small(task, team, watch)
        on = _device(task, team)
        if _are_run_apart(task, team, on):
            return run_large(task, team, watch, on, apart=True)
        ranks = usable_ranks(task.circuit, team.size)
        if ranks == team.size:
            return run_large(task, team, watch, on)
        result, error = None, None
        if team.rank < ranks:
            try:
                result = run_large(task, team.subteam(range(ranks)), watch, on)
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
    needed = 2 * (AMPLITUDE_BYTES[task.precision] << task.circuit.num_qubits) // ranks + OVERHEAD_BYTES
    on = choose(task.device, team)
    free = team.minimum(arrays.free_bytes(on))
    if needed > free:
        raise OutOfMemoryError(
            f"gradient: two states need {readable(needed)} on each of {ranks} ranks, {readable(free)} are free; "
            "use more ranks or precision='single'"
        )
    rows = parameter_rows(task)
    result, error = np.zeros((len(rows), len(task.circuit.parameters))), None
    if team.rank < ranks:
        try:
            part = team.subteam(range(ranks))
            result = adjoint.gradient(task.circuit, task.observables[0], rows, task.precision, part, on=on)
        except QSimEnvError as found:
            error = found
    team.agree(error)
    result = np.frombuffer(team.broadcast(result.tobytes())).reshape(result.shape).copy()
    return result.reshape(*task.batch_shape, -1)


def _is_on_cpu(task: Task) -> bool:
    """Whether it may take the way of small circuits, which is the CPU's: no launch is as short as they are."""
    return arrays.wished(task.device) != "gpu"


def _device(task: Task, team: Team) -> DeviceName:
    """Where its states lie: with "auto" on the GPUs if every rank has one and its part fits. *Collective.*"""
    on = choose(task.device, team)
    if on == "gpu" and arrays.wished(task.device) == "auto":
        fits = bytes_per_rank(task, usable_ranks(task.circuit, team.size)) <= team.minimum(arrays.free_bytes(on))
        return "gpu" if fits else "cpu"
    return on


def _are_run_apart(task: Task, team: Team, on: DeviceName) -> bool:
    """Whether each rank runs some rows, with their whole states. *Collective* where there are so many rows."""
    if team.size == 1 or num_rows(task) < team.size:
        return False
    return bytes_per_rank(task, 1) <= team.minimum(arrays.free_bytes(on))


def _check_one_state(task: Task, watch: Watch) -> None:
    """A checkpoint and a file are of one state. Raises NotSupportedError or InvalidArgumentError."""
    if watch.checkpointing is not None and num_rows(task) > 1:
        raise NotSupportedError(
            f"checkpoint: {num_rows(task)} sets of parameter values found, one needed; run them one by one"
        )
    if task.save not in (None, WHOLE) and task.batch_shape:
        raise InvalidArgumentError("save: one file holds one state; give one set of parameter values, of shape (P,)")
