"""Hostile frames: what the service does with garbage, broken messages, replays and strangers while it serves a client.

    python -m benchmarks hostile [--frames 1000000]

Frames are made from valid ones (bytes flipped, cut, spliced, lengths and depths blown up) or are plain garbage. They go
to the controller's door for clients under the right key, to its door for workers under the workers' key, half of each
by way of a lane, and, as raw bytes or under wrong keys, to both. Meanwhile a client runs one small task after the
other. What is kept: its round trips, before and meanwhile, how much the controller grew, whether anything died. Sends
to this machine alone, and stops by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import zmq

import qsimenv as qs
from benchmarks.machine import save
from benchmarks.table import Row, show
from qsimenv.circuit import Circuit, Measure, gate
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.connection import Connection, new_keys
from qsimenv.qpm_plugin.lanes import open_lane
from qsimenv.qpm_plugin.sockets import CLIENTS, WORKERS

UNDISTURBED = 200
"""So many round trips come before the attack, to compare with."""
GROWTH_PROMISE_MIB = 64
MEDIAN_PROMISE_MS = 5.0
_BLOWN_UP = (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff")
"""msgpack's heads of an array, a map, bytes and a text of four billion items."""
_IN_FLIGHT = 500


def bell() -> Circuit:
    return Circuit(2, 2, (gate("h", 0), gate("cx", 0, 1), Measure(0, 0), Measure(1, 1)))


def valid_requests() -> list[bytes]:
    """One frame for each kind of request that changes nothing of what others have."""
    circuit = bell()
    job = m.Job.of(qs.Task(circuit=circuit, shots=10, seed=1))
    bodies: list[m.RequestBody] = [
        m.Submit((job,), {circuit.hash: circuit.bytes}, wait=True), m.Evaluate(job, {circuit.hash: circuit.bytes}),
        m.CreateCircuit(circuit.hash, circuit.bytes), m.Read(1, 0.0), m.Status(), m.Peek(), m.Log(5), m.Telemetry(),
        m.Describe(), m.CancelTasks(("1", "2")), m.ListReservations(), m.Renew("x", 1.0), m.Release("x"),
    ]  # fmt: skip
    return [m.encode(m.Request("hostile", 7, body)) for body in bodies]


def valid_from_worker() -> list[bytes]:
    answer = m.Answer("1", 0.0, 1.0)
    messages: list[m.FromWorker] = [
        m.Hello(0, 0, 2, 1, "nowhere", 1), m.Answers(0, 0, (answer,)), m.Broken(0, 1, answer), m.Pong(0, 0, 1),
    ]  # fmt: skip
    return [m.encode(message) for message in messages]


def valid_to_worker() -> list[bytes]:
    circuit = bell()
    job = m.Job.of(qs.Task(circuit=circuit, shots=10, seed=1))
    messages: list[m.ToWorker] = [
        m.Launch((0,), ("1",), (job,), {circuit.hash: circuit.bytes}), m.Cancel(("1",)), m.Ping(),
    ]  # fmt: skip
    return [m.encode(message) for message in messages]


def hostile_frames(seeds: list[bytes], count: int, seed: int = 1) -> Iterator[bytes]:
    """``count`` frames made from ``seeds``; the same for the same numbers."""
    generator = random.Random(seed)  # noqa: S311 - nothing here is secret
    for _ in range(count):
        yield _spoiled(generator, bytearray(generator.choice(seeds)), seeds)


def _spoiled(generator: random.Random, frame: bytearray, seeds: list[bytes]) -> bytes:
    place = generator.randrange(len(frame))
    match generator.randrange(8):
        case 0:  # a few bytes
            for _ in range(generator.randint(1, 8)):
                frame[generator.randrange(len(frame))] = generator.randrange(256)
        case 1:
            del frame[place:]
        case 2:
            frame[place:] = generator.choice(seeds)[place // 2 :]
        case 3:
            frame[place : place + 1] = generator.choice(_BLOWN_UP)
        case 4:
            frame[place : place + 1] = generator.choice((b"\x91", b"\x81", b"\x92")) * generator.randint(10, 5000)
        case 5:
            return generator.randbytes(generator.randint(0, 300))
        case 6:
            frame += generator.randbytes(generator.randint(1, 50))
        case _:  # as it was: a replay, or a message of nobody
            pass
    return bytes(frame)


def attack_clients_door(connection: Connection, count: int, seed: int = 1) -> int:
    """Send frames under the client's key, reading what comes back. Returns the number of replies."""
    keys = (connection.client_key, connection.client_secret)
    replies = _attack(connection.address, connection, keys, hostile_frames(valid_requests(), count // 2, seed))
    frames = hostile_frames(valid_requests(), count - count // 2, seed + 100)
    return replies + _attack_by_lane(connection, CLIENTS, connection.client_secret, frames)


def attack_workers_door(connection: Connection, count: int, seed: int = 1) -> int:
    """Send frames under the workers' key, as somebody who is no worker of the instance."""
    keys = (connection.worker_key, connection.worker_secret)
    replies = _attack(
        connection.worker_address, connection, keys, hostile_frames(valid_from_worker(), count // 2, seed)
    )
    frames = hostile_frames(valid_from_worker(), count - count // 2, seed + 100)
    return replies + _attack_by_lane(connection, WORKERS, connection.worker_secret, frames)


def _attack(address: str, connection: Connection, keys: tuple[str, str], frames: Iterator[bytes]) -> int:
    replies = 0
    with zmq.Context() as context, context.socket(zmq.DEALER) as door:
        door.curve_serverkey = connection.server_key.encode()
        door.curve_publickey, door.curve_secretkey = (key.encode() for key in keys)
        door.linger = 5000
        door.set(zmq.SNDHWM, _IN_FLIGHT)
        door.set(zmq.SNDTIMEO, 60_000)
        door.connect(address)
        for frame in frames:
            door.send(frame)
            with contextlib.suppress(zmq.Again):
                while True:
                    door.recv(zmq.NOBLOCK)
                    replies += 1
        while door.poll(500):
            door.recv()
            replies += 1
    return replies


def _attack_by_lane(connection: Connection, domain: str, secret: str, frames: Iterator[bytes]) -> int:
    lane = open_lane(connection.server_key, domain, secret, b"hostile")
    assert lane is not None, "the controller has no lanes"
    replies = 0
    try:
        for frame in frames:
            lane.send(frame)
            while lane.recv() is not None:
                replies += 1
        while lane.recv(500) is not None:
            replies += 1
    finally:
        lane.close()
    return replies


def attack_lanes_without_a_key(connection: Connection, connections: int, seed: int = 1) -> int:
    """Knock at both doors' lanes: under wrong keys, and with garbage. Returns how many answers came (none should)."""
    generator = random.Random(seed)  # noqa: S311
    answers = 0
    for number in range(connections):
        lane = open_lane(connection.server_key, WORKERS if number % 2 else CLIENTS, new_keys()[1], b"stranger")
        assert lane is not None, "the controller has no lanes"
        with contextlib.suppress(OSError):
            lane.send(valid_requests()[0] if number % 4 < 2 else generator.randbytes(generator.randint(1, 2000)))
            answers += lane.recv(20) is not None
        lane.close()
    return answers


def attack_with_raw_bytes(address: str, connections: int, seed: int = 1) -> None:
    """Open plain TCP connections and write garbage, among it the start of ZeroMQ's greeting."""
    generator = random.Random(seed)  # noqa: S311
    parts = urlsplit(address)
    assert parts.hostname is not None
    assert parts.port is not None
    for number in range(connections):
        with contextlib.suppress(OSError), socket.create_connection((parts.hostname, parts.port), timeout=5) as raw:
            greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" if number % 2 else b""
            raw.sendall(greeting + generator.randbytes(generator.randint(1, 2000)))


def attack_with_wrong_keys(connection: Connection, connections: int) -> int:
    """Knock at both doors with keys that nobody gave us. Returns how many answers came (none should)."""
    answers = 0
    with zmq.Context() as context:
        for number in range(connections):
            public, secret = new_keys()
            with context.socket(zmq.DEALER) as door:
                door.curve_serverkey = connection.server_key.encode()
                door.curve_publickey, door.curve_secretkey = public.encode(), secret.encode()
                door.linger = 0
                door.connect(connection.worker_address if number % 2 else connection.address)
                with contextlib.suppress(zmq.Again):
                    door.send(valid_requests()[0], zmq.NOBLOCK)
                answers += door.poll(20)
    return answers


class RoundTrips:
    """A client in a thread that runs one small task after the other, until the block is left."""

    def __init__(self, connect: Callable[[], Any], pause_s: float = 0.002) -> None:
        self.seconds: list[float] = []
        self._pause_s = pause_s
        self._connect, self._end = connect, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._error: BaseException | None = None

    def __enter__(self) -> RoundTrips:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def first_median(self, count: int) -> float:
        """Wait for so many, or for the end of the client; their median."""
        while len(self.seconds) < count and self._thread.is_alive():
            time.sleep(0.05)
        return statistics.median(self.seconds)

    def _run(self) -> None:
        task = qs.Task(circuit=bell(), shots=100, seed=7)
        wanted = qs.run(task.circuit, shots=100, seed=7).counts
        try:
            with self._connect() as client:
                while not self._end.is_set():
                    began = time.perf_counter()
                    found = client.sync_run(task, timeout_s=60).counts
                    self.seconds.append(time.perf_counter() - began)
                    assert found == wanted
                    time.sleep(self._pause_s)
        except BaseException as error:  # noqa: BLE001 - raised again where the block is left
            self._error = error


def attack(connection: Connection, frames: int, connect: Callable[[], Any]) -> dict[str, Any]:
    """All attacks one after the other, most frames at the clients' door; the controller is ``connection.pid``."""
    controller = psutil.Process(connection.pid)
    with RoundTrips(connect) as trips:
        undisturbed = trips.first_median(UNDISTURBED)
        attack_clients_door(connection, min(2000, frames))  # what is allocated once
        before, began = controller.memory_info().rss, time.monotonic()
        trips.seconds.clear()
        replies = attack_clients_door(connection, frames * 9 // 10, seed=2)
        attack_workers_door(connection, frames // 10, seed=3)
        for address in (connection.address, connection.worker_address):
            attack_with_raw_bytes(address, 100)
        strangers = attack_with_wrong_keys(connection, 50) + attack_lanes_without_a_key(connection, 50)
        seconds = time.monotonic() - began
    return {
        "frames": frames,
        "seconds": round(seconds, 1),
        "frames_per_s": round(frames / seconds),
        "replies": replies,
        "answers_to_wrong_keys": strangers,
        "round_trip_before_ms": round(1e3 * undisturbed, 2),
        "round_trips": len(trips.seconds),
        "round_trip_median_ms": round(1e3 * statistics.median(trips.seconds), 2),
        "round_trip_longest_ms": round(1e3 * max(trips.seconds), 1),
        "growth_mib": round((controller.memory_info().rss - before) / 2**20, 1),
    }


def main(arguments: list[str]) -> dict[str, Any]:
    from qsimenv.launcher import environment
    from qsimenv.qpm_plugin.client import connect
    from qsimenv.qpm_plugin.connection import FILE_NAME

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000, help="how many in all  [default: 1000000]")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        run_folder = Path(folder) / "run"
        connection = environment.start(run_folder=run_folder, ranks_per_node=2)
        try:
            figures = attack(connection, options.frames, lambda: connect(run_folder / FILE_NAME))
        finally:
            environment.stop(run_folder=run_folder)
    show(f"{options.frames:,} hostile frames", [
        Row("round trip meanwhile, median", figures["round_trip_median_ms"], "ms", at_most=MEDIAN_PROMISE_MS),
        Row("round trip before, median", figures["round_trip_before_ms"], "ms"),
        Row("round trip meanwhile, longest", figures["round_trip_longest_ms"], "ms"),
        Row("the controller has grown by", figures["growth_mib"], "MiB", at_most=GROWTH_PROMISE_MIB),
        Row("answers to strangers", figures["answers_to_wrong_keys"], at_most=0),
        Row("frames", figures["frames_per_s"], "1/s"),
    ])  # fmt: skip
    save("hostile", figures)
    return figures
