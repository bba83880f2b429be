"""Hostile frames at every door: nobody dies, nothing grows, a client is served all the while.

The same attack with a million frames, with figures: ``python -m benchmarks hostile``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import zmq
import zmq.auth.thread
from environments import Environment, wait_until

import qsimenv as qs
from benchmarks import hostile
from qsimenv.errors import InvalidArgumentError
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.connection import Connection, new_keys
from qsimenv.qpm_plugin.sockets import worker_identity

FRAMES = 20_000
GROWTH_BYTES = 64 << 20


@pytest.mark.parametrize(
    ("decode", "seeds"),
    [
        (m.decode_request, hostile.valid_requests()),
        (m.decode_from_worker, hostile.valid_from_worker()),
        (m.decode_to_worker, hostile.valid_to_worker()),
    ],
)
def test_a_frame_is_a_message_or_an_invalid_argument(decode, seeds):
    refused = 0
    for frame in hostile.hostile_frames(seeds, FRAMES):
        try:
            decode(frame)
        except InvalidArgumentError:
            refused += 1
    assert FRAMES / 2 < refused < FRAMES


@pytest.mark.slow
def test_hostile_frames_harm_nobody(shared: Environment):
    connection = Connection.read(shared.connection)
    workers = sorted(worker.pid for worker in shared.workers)
    with shared.connect() as client:
        launches = client.telemetry()["instances"]
        found = hostile.attack(connection, FRAMES, shared.connect)
        assert found["answers_to_wrong_keys"] == 0
        assert found["replies"] > FRAMES / 4
        assert found["round_trips"] > 10
        assert found["growth_mib"] < GROWTH_BYTES / 2**20
        assert client.telemetry()["instances"] == launches
    assert sorted(worker.pid for worker in shared.workers) == workers
    assert shared.log.stat().st_size < 1 << 20


@pytest.mark.slow
def test_a_worker_drops_what_makes_no_sense(tmp_path: Path):
    """A real worker whose controller is this test, which sends it garbage, launches of no sense, then a good one."""
    server, client, key = new_keys(), new_keys(), new_keys()
    with zmq.Context() as context:
        guard = zmq.auth.thread.ThreadAuthenticator(context)
        guard.start()
        guard.configure_curve(domain="*", location=zmq.auth.CURVE_ALLOW_ANY)
        door = context.socket(zmq.ROUTER)
        door.curve_server, door.curve_secretkey = True, server[1].encode()
        door.set(zmq.SNDHWM, 0)  # a ROUTER drops what it cannot queue
        port = door.bind_to_random_port("tcp://127.0.0.1")
        address = f"tcp://127.0.0.1:{port}"
        connection = Connection(
            name="test", address=address, worker_address=address, server_key=server[0], client_key=client[0],
            client_secret=client[1], worker_key=key[0], worker_secret=key[1], pid=os.getpid(), host="here", started=0.0,
        )  # fmt: skip
        connection.write(tmp_path / "connection.json")
        environ = {**os.environ, "QSIMENV_CONNECTION": str(tmp_path / "connection.json"), "NUMBA_NUM_THREADS": "1"}
        with (tmp_path / "log").open("wb") as log:
            worker = subprocess.Popen([sys.executable, "-m", "qsimenv.qpm_plugin.worker"], env=environ, stderr=log)
        try:
            assert door.poll(120_000), "the worker said nothing"
            identity, hello = door.recv_multipart()
            assert isinstance(m.decode_from_worker(hello), m.Hello)
            assert identity == worker_identity(0, 0)
            before = psutil.Process(worker.pid).memory_info().rss
            for frame in hostile.hostile_frames(hostile.valid_to_worker(), FRAMES):
                door.send_multipart([identity, frame])
                while door.poll(0):
                    door.recv_multipart()
            circuit = hostile.bell()
            job = m.Job.of(qs.Task(circuit=circuit, shots=100, seed=7))
            door.send_multipart(
                [identity, m.encode(m.Launch((0,), ("the last",), (job,), {circuit.hash: circuit.bytes}))]
            )
            wanted = qs.run(circuit, shots=100, seed=7).counts
            wait_until(lambda: wanted == _answer_to(door, "the last"), 120, "no right answer to the good task")
            assert psutil.Process(worker.pid).memory_info().rss - before < GROWTH_BYTES
            door.send_multipart([identity, m.encode(m.Stop())])
            deadline = time.monotonic() + 60
            while worker.poll() is None and time.monotonic() < deadline:
                door.poll(100)
            assert worker.poll() == 0, (tmp_path / "log").read_text()
        finally:
            worker.kill()
            worker.wait()
            door.close(linger=0)
            guard.stop()
    assert (tmp_path / "log").stat().st_size < 1 << 16


def _answer_to(door: zmq.Socket[bytes], task_id: str) -> dict[str, int] | None:
    """The counts of a task, if its answer is among what has come."""
    while door.poll(100):
        message = m.decode_from_worker(door.recv_multipart()[1])
        for answer in message.answers if isinstance(message, m.Answers) else ():
            if answer.task_id == task_id:
                result = m.decode_result(answer.result)
                assert result is not None
                return result.counts
    return None
