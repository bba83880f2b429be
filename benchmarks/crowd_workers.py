"""Imitated workers, many in one process: what ``benchmarks.crowd`` puts in place of the MPI ranks of a big machine.

``python -m benchmarks.crowd_workers FIRST COUNT SIZE TASK_S`` under a controller's environment. Each has a connection
of its own under the worker's own name, greets, answers pings and runs its launches one after the other, as the worker
does; only that a task is a timer instead of a simulation, and its result always the same.
"""

from __future__ import annotations

import asyncio
import os
import socket as sockets
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import zmq

from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.connection import CONNECTION_VARIABLE, GENERATION_VARIABLE, Connection
from qsimenv.qpm_plugin.sockets import Socket, worker_identity, worker_socket
from qsimenv.task import Result

FREE_BYTES = 4 << 30
OUTCOMES = Result(num_clbits=19, shots=10, samples=np.zeros((10, 3), np.uint8), metadata={"engine": "imitated"})


class Imitated:
    """One rank: its connection, and the tasks that were sent to it. ``on_stop`` is called when it is told to stop."""

    def __init__(
        self, socket: Socket, generation: int, rank: int, size: int, task_s: float, on_stop: Callable[[], None]
    ) -> None:
        self._socket, self._generation, self._rank, self._task_s = socket, generation, rank, task_s
        self._on_stop, self._result = on_stop, msgspec.Raw(m.encode_result(OUTCOMES))
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[str] = deque()
        self._runs = self._scheduled = False
        self._loop.add_reader(socket.fileno(), self._schedule)
        self._send(m.Hello(generation, rank, size, os.getpid(), sockets.gethostname(), FREE_BYTES))

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _send(self, message: m.FromWorker) -> None:
        self._socket.send(m.encode(message))
        self._schedule()  # a send may swallow the news that there is something to read

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._listen)

    def _listen(self) -> None:
        self._scheduled = False
        while not self._socket.closed and int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            message = m.decode_to_worker(self._socket.recv(zmq.NOBLOCK))
            match message:
                case m.Launch(task_ids=task_ids):
                    self._waiting += task_ids
                case m.Ping():
                    self._socket.send(m.encode(m.Pong(self._generation, self._rank, FREE_BYTES)))
                case m.Stop():
                    self._on_stop()
        if self._waiting and not self._runs:
            self._begin(self._loop.time(), time.time())

    def _begin(self, at: float, began: float) -> None:
        """The next task begins at ``at`` of the loop's clock: where this process is late, no task takes longer."""
        self._runs = True
        self._loop.call_at(at + self._task_s, self._end, self._waiting.popleft(), at + self._task_s, began)

    def _end(self, task_id: str, at: float, began: float) -> None:
        if self._socket.closed:
            return
        self._runs = False
        ended = began + self._task_s
        answer = m.Answer(task_id, began, ended, "imitated", result=self._result)
        if self._waiting:
            self._begin(at, ended)
        self._send(m.Answers(self._generation, self._rank, (answer,)))


async def main(first: int, count: int, size: int, task_s: float) -> None:
    connection = Connection.read(Path(os.environ[CONNECTION_VARIABLE]))
    generation = int(os.environ[GENERATION_VARIABLE])
    stop = asyncio.Event()
    with zmq.Context() as context:
        context.set(zmq.MAX_SOCKETS, count + 16)
        workers = []
        for rank in range(first, first + count):
            socket = worker_socket(context, connection, worker_identity(generation, rank))
            socket.connect(connection.worker_address)
            workers.append(Imitated(socket, generation, rank, size, task_s, stop.set))
        await stop.wait()
        for worker in workers:
            worker.close()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:4]), float(sys.argv[4])))
