"""A worker: one MPI rank that waits for tasks and runs them. ``python -m qsimenv.qpm_plugin.worker`` under a launcher.

While idle it sleeps until its ``channel`` has a message: no MPI call, no CPU. A task comes to all ranks of its team, in
one order everywhere, and runs through ``engines.run`` as it would in process; between sweeps the rank looks whether
messages have come (``interrupt``), so that a task can be canceled while it runs. The process ends when the connection
to the controller breaks, which ZeroMQ's own threads notice even while a kernel runs.
"""

from __future__ import annotations

import math
import os
import socket as sockets
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import msgspec

from qsimenv import comm, engines, interrupt, memory
from qsimenv import errors as e
from qsimenv.circuit import Circuit, Measure, gate
from qsimenv.qpm_plugin import large, result_files, rows
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.api import ErrorInfo
from qsimenv.qpm_plugin.channel import Channel
from qsimenv.qpm_plugin.connection import CONNECTION_VARIABLE, GENERATION_VARIABLE, Connection
from qsimenv.qpm_plugin.recent import Recent
from qsimenv.qpm_plugin.shelf import Shelf
from qsimenv.qpm_plugin.sockets import worker_identity
from qsimenv.qpm_plugin.vigil import Vigil
from qsimenv.task import Result, Task

FLUSH_SECONDS = 0.005
"""Answers of small tasks are collected for so long at most."""
LOOK_SECONDS = 0.02
"""So often at most a busy rank looks for messages."""
_CANCELED = ErrorInfo(e.BadStateError.code, interrupt.CANCELED_MESSAGE)


class Worker:
    """One rank: its team of all ranks, its channel, and the circuits it has seen."""

    def __init__(
        self,
        world: comm.Team,
        channel: Channel,
        generation: int,
        shelf: Shelf | None = None,
    ) -> None:
        self._shelf = shelf
        self._world, self._channel, self._generation = world, channel, generation
        self._circuits: Recent[Circuit] = Recent(m.WORKER_CIRCUIT_BYTES)
        self._launches: deque[m.Launch] = deque()
        self._canceled: set[str] = set()
        self._answers: list[m.Answer] = []
        self._flushed = 0.0
        self._refused = 0
        self._stopping = False
        self._vigil = Vigil(lambda: channel.has_news)
        self._running = ""
        self._look_at, self._ends_at = 0.0, math.inf

    def greet(self) -> None:
        """Say that this rank is ready."""
        hello = m.Hello(
            self._generation,
            self._world.rank,
            self._world.size,
            os.getpid(),
            sockets.gethostname(),
            memory.free_bytes_per_process(),
            _versions(),
        )
        self._channel.greet(m.encode(hello))

    def serve(self) -> None:
        """Run what comes until told to stop."""
        while not self._stopping:
            self._listen(wait=not self._launches)
            while self._launches and not self._stopping:
                self._run_launch(self._launches.popleft())

    def _listen(self, wait: bool) -> None:
        """Take in all messages that are there; ``wait`` for the first one, asleep."""
        asked = False
        if wait and not self._vigil.keep(None):
            self._channel.wait()
        while (frame := self._channel.recv()) is not None:
            self._vigil.end()
            try:
                message = m.decode_to_worker(frame)
            except e.QSimEnvError:
                self._refuse()
                continue
            match message:
                case m.Launch():
                    self._launches.append(message)
                case m.Cancel(task_ids=task_ids):
                    self._canceled.update(task_ids)
                case m.Ping():
                    asked = True
                case m.Stop():
                    self._stopping = True
        if asked:
            self._send(m.Pong(self._generation, self._world.rank, memory.free_bytes_per_process()))

    def _refuse(self) -> None:
        """Drop a message that makes no sense; say so at the 1st, 10th, 100th … such message."""
        self._refused += 1
        if str(self._refused).strip("0") == "1":
            sys.stderr.write(f"worker: {self._refused} message(s) so far that make no sense, dropped\n")

    def _can_run(self, launch: m.Launch) -> bool:
        """Whether it names a team that this rank is in, and as many tasks as jobs."""
        ranks = set(launch.ranks)
        return (
            self._world.rank in ranks
            and len(ranks) == len(launch.ranks)
            and min(ranks) >= 0
            and max(ranks) < self._world.size
            and len(launch.task_ids) == len(launch.jobs)
        )

    def _run_launch(self, launch: m.Launch) -> None:
        if not self._can_run(launch):
            self._refuse()
            return
        circuits = self._circuits_of(launch)
        team = self._world.subteam(launch.ranks)
        speaks = self._world.rank == launch.ranks[0]
        for tasks in rows.alike(zip(launch.task_ids, launch.jobs, strict=True)):
            for answer in self._run_alike(tasks, circuits.get(tasks[0][1].circuit), team):
                if speaks:
                    self._answers.append(answer)
                    self._flush(FLUSH_SECONDS)
        self._flush(0.0)
        if not self._launches:
            self._canceled.clear()

    def _circuits_of(self, launch: m.Launch) -> dict[str, Circuit]:
        """The circuits that a launch needs: those kept and those that came with it, used in the controller's order."""
        names = dict.fromkeys(job.circuit for job in launch.jobs)
        kept = {name: circuit for name in names if (circuit := self._circuits.get(name)) is not None}
        new = {}
        for name, data in launch.circuits.items():
            try:
                new[name] = Circuit.from_bytes(data)
            except e.QSimEnvError:
                continue  # its tasks are answered with an error
            self._circuits.put(name, new[name], len(data))
        return kept | new

    def _run_alike(self, tasks: list[rows.Named], circuit: Circuit | None, team: comm.Team) -> Iterator[m.Answer]:
        """Tasks of one circuit: as rows of one run where that goes, else one after the other."""
        if len(tasks) > 1 and circuit is not None and team.size == 1 and not self._canceled:
            answers = self._run_as_rows(tasks, circuit, team)
            if answers is not None:
                yield from answers
                return
        for task_id, job in tasks:
            yield self._run(task_id, job, circuit, team)

    def _run_as_rows(self, tasks: list[rows.Named], circuit: Circuit, team: comm.Team) -> list[m.Answer] | None:
        """None: they are long enough to be run one by one, or one of them is wrong, which has to be told of that one
        alone."""
        task = rows.as_one(tasks).with_circuit(circuit)
        if not engines.is_immediate(task):
            return None
        self._begin(tasks[0][0], None)
        began = time.time()
        try:
            results = rows.apart(engines.run(task, team), tasks)
        except Exception:  # noqa: BLE001 - whoever it was, it comes again
            return None
        share = (time.time() - began) / len(tasks)
        return [
            m.Answer(
                task_id,
                began + number * share,
                began + (number + 1) * share,
                str(result.metadata.get("engine", "")),
                result=self._packed(task_id, result),
            )
            for number, ((task_id, _), result) in enumerate(zip(tasks, results, strict=True))
        ]

    def _run(self, task_id: str, job: m.Job, circuit: Circuit | None, team: comm.Team) -> m.Answer:
        began = time.time()
        if circuit is None:
            missing = f"run: circuit {job.circuit[:16]} did not reach the worker"
            return m.Answer(task_id, began, began, error=ErrorInfo(e.InvalidArgumentError.code, missing))
        self._begin(task_id, job.task.time_limit_s)
        engine, error, result = "", None, m.NO_RESULT
        try:
            interrupt.check(team)
            outcome = engines.run(job.with_circuit(circuit), team)
            engine = str(outcome.metadata.get("engine", ""))
            if team.rank == 0:
                result = self._packed(task_id, outcome)
        except e.QSimEnvError as problem:
            error = ErrorInfo(problem.code, problem.message)
            if error == _CANCELED:
                return m.Answer(task_id, began, time.time(), engine, canceled=True)
        except Exception as problem:  # noqa: BLE001 - whatever it is, the client has to hear of it
            error = _unforeseen(problem)
            if team.size > 1:
                self._break(m.Answer(task_id, began, time.time(), engine, error), team)
        return m.Answer(task_id, began, time.time(), engine, error, result)

    def _begin(self, task_id: str, time_limit_s: float | None) -> None:
        self._running = task_id
        self._ends_at = math.inf if time_limit_s is None else time.monotonic() + time_limit_s

    def verdict(self) -> interrupt.Verdict:
        """Whether the task at hand is still wanted, for ``interrupt``. Takes in what has come, now and then."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._listen(wait=False)
        if self._stopping or self._running in self._canceled:
            return interrupt.CANCELED
        return interrupt.TIMED_OUT if now >= self._ends_at else interrupt.WANTED

    def _flush(self, after_s: float) -> None:
        now = time.monotonic()
        if self._answers and now - self._flushed >= after_s:
            self._send(m.Answers(self._generation, self._world.rank, tuple(self._answers)))
            self._answers.clear()
            self._flushed = now

    def _break(self, answer: m.Answer, team: comm.Team) -> None:
        """Leave a record, then end all ranks: the others of the team may wait for this one forever."""
        self._channel.send_last(m.encode(m.Broken(self._generation, self._world.rank, answer)))
        team.abort(f"rank {self._world.rank}: {answer.error.message if answer.error else ''}")
        os._exit(1)

    def _send(self, message: m.FromWorker) -> None:
        self._channel.send(m.encode(message))

    def _packed(self, task_id: str, outcome: Result) -> msgspec.Raw:
        """What travels of a result: the name of a file where the controller shares the host, else all of it."""
        if self._shelf is not None:
            named = large.write(self._shelf, task_id, self._generation, outcome)
            if named is not None:
                return msgspec.Raw(named)
        return _inline(outcome)


def _inline(outcome: Result) -> msgspec.Raw:
    data = m.encode_result(outcome)
    if len(data) > 2 * m.MAX_RESULT_BYTES:
        limit = m.MAX_RESULT_BYTES >> 20
        raise e.NotSupportedError(f"run: the result has {len(data) >> 20} MiB, {limit} MiB travel through the service")
    return msgspec.Raw(data)


def _unforeseen(problem: Exception) -> ErrorInfo:
    traceback.print_exception(problem)
    code = e.OutOfMemoryError.code if isinstance(problem, MemoryError) else e.QSimEnvError.code
    return ErrorInfo(code, f"run: {type(problem).__name__}: {problem}")


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("qsimenv", "numpy", "numba", "mpi4py", "pyzmq")}


def _warm_up() -> None:
    """Run a small and a wider circuit, so that compiled kernels are loaded before the first client waits for them."""
    try:
        for num_qubits in (2, 14):
            gates = [gate("h", 0), *(gate("cx", qubit, qubit + 1) for qubit in range(num_qubits - 1))]
            circuit = Circuit(num_qubits, 2, (*gates, Measure(0, 0), Measure(1, 1)))
            engines.run(Task(circuit=circuit, shots=10, seed=1), comm.Team())
    except e.QSimEnvError as error:
        sys.stderr.write(f"worker: warm-up: {error}\n")


def main() -> None:
    """Be a worker until told to stop."""
    connection = Connection.read(Path(os.environ[CONNECTION_VARIABLE]))
    generation = int(os.environ.get(GENERATION_VARIABLE, "0"))
    world = comm.world()
    _warm_up()
    channel = Channel(connection, worker_identity(generation, world.rank))
    folders = result_files.here(connection)
    shelf = None if folders is None else Shelf(folders, connection.durable)
    worker = Worker(world, channel, generation, shelf)
    interrupt.watch(worker.verdict)
    worker.greet()
    worker.serve()
    channel.close()


if __name__ == "__main__":
    main()
