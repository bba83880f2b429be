"""A worker's way to the controller: a ZeroMQ connection, watched by a thread, and a lane where there is one.

What the worker says goes by the lane, but for its first word: that one tells the controller that ZeroMQ reaches this
worker, too. What comes may come either way. Where the connection breaks the process ends: what was on its way is lost,
so nothing good can follow.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import NoReturn

import zmq

from qsimenv.qpm_plugin.connection import Connection
from qsimenv.qpm_plugin.lanes import open_lane
from qsimenv.qpm_plugin.sockets import WORKERS, Socket, next_connection_event, worker_socket

CONNECT_MS = 30_000
"""A worker that finds no controller for so long ends."""
_WATCHED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_DISCONNECTED | zmq.EVENT_MONITOR_STOPPED
)  # fmt: skip


class Channel:
    """Connects at once, under the name ``identity`` (see ``sockets.worker_identity``). For one thread."""

    def __init__(self, connection: Connection, identity: bytes) -> None:
        self._context: zmq.Context[Socket] = zmq.Context()
        self._socket = worker_socket(self._context, connection, identity)
        monitor = self._socket.get_monitor_socket(_WATCHED)
        threading.Thread(target=_watch, args=(monitor,), name="watch", daemon=True).start()
        self._socket.connect(connection.worker_address)
        self._lane = open_lane(connection.server_key, WORKERS, connection.worker_secret, identity)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        if self._lane is not None:
            self._poller.register(self._lane.fileno(), zmq.POLLIN)

    def greet(self, frame: bytes) -> None:
        """Say the first word."""
        self._socket.send(frame)

    def send(self, frame: bytes) -> None:
        if self._lane is None:
            self._socket.send(frame)
            return
        try:
            self._lane.send(frame)
        except OSError:
            _end()

    def recv(self) -> bytes | None:
        """The next message; None where none has come."""
        try:
            frame = None if self._lane is None else self._lane.recv()
            return self._socket.recv(zmq.NOBLOCK) if frame is None else frame
        except zmq.Again:
            return None
        except OSError:
            _end()

    def wait(self) -> None:
        """Sleep until a message comes."""
        self._poller.poll()

    @property
    def has_news(self) -> bool:
        """Whether a message waits."""
        if self._lane is not None and self._lane.has_news:
            return True
        return bool(int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN)

    def send_last(self, frame: bytes) -> None:
        """Say the last word of a process that is about to end in the middle of things."""
        self.send(frame)
        self._socket.close(linger=1000)
        time.sleep(0.2)  # ZeroMQ's thread sends; closing the context would wait for the daemon thread

    def close(self) -> None:
        self._socket.disable_monitor()
        self._socket.close()
        if self._lane is not None:
            self._lane.close()
        self._context.term()


def _watch(monitor: Socket) -> None:
    try:
        event = next_connection_event(monitor) if monitor.poll(CONNECT_MS) else None
        while event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            event = next_connection_event(monitor)
    except zmq.ContextTerminated:
        return
    if event != zmq.EVENT_MONITOR_STOPPED:
        _end()


def _end() -> NoReturn:
    sys.stderr.write("worker: the controller is gone\n")
    os._exit(3)
