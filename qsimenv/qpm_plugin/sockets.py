"""What the sockets of an environment have in common: keys, bounds, heartbeats, and how their connection is watched.

Clients (``link``) and workers (``worker``, and those that a benchmark imitates) open a DEALER here, towards the
controller's ``ports``. ZeroMQ's own threads ask and answer heartbeats, however busy Python is.
"""

from __future__ import annotations

import struct

import zmq

from qsimenv.qpm_plugin.connection import Connection
from qsimenv.qpm_plugin.messages import MAX_FRAME_BYTES

HEARTBEAT_MS = 2000
SILENCE_MS = 8000
"""A peer that has been silent for so long is gone."""
CLIENTS, WORKERS = "clients", "workers"
"""The controller's two doors (their ZAP domains)."""
Socket = zmq.Socket[bytes]


def client_socket(context: zmq.Context[Socket], connection: Connection, identity: bytes) -> Socket:
    """A client's socket, ready to ``connect(connection.address)``; to be watched from the start, it is not yet."""
    return _dealer(context, connection, identity, connection.client_key, connection.client_secret, linger_ms=200)


def worker_socket(context: zmq.Context[Socket], connection: Connection, identity: bytes) -> Socket:
    """A worker's socket, ready to ``connect(connection.worker_address)``; ``identity``: of ``worker_identity``."""
    return _dealer(context, connection, identity, connection.worker_key, connection.worker_secret, linger_ms=1000)


def _dealer(
    context: zmq.Context[Socket], connection: Connection, identity: bytes, public: str, secret: str, linger_ms: int
) -> Socket:
    socket = context.socket(zmq.DEALER)
    socket.identity = identity
    socket.curve_serverkey = connection.server_key.encode()
    socket.curve_publickey, socket.curve_secretkey = public.encode(), secret.encode()
    socket.set(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.linger = linger_ms
    set_heartbeat(socket)
    return socket


def worker_identity(generation: int, rank: int) -> bytes:
    """The name under which a worker knocks at the controller's door."""
    return f"{generation}:{rank}".encode()


def set_heartbeat(socket: Socket) -> None:
    """Make a dead peer show as a broken connection after SILENCE_MS."""
    socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.set(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)


def next_connection_event(monitor: Socket) -> int:
    """Wait for the next event (``zmq.EVENT_…``) on a socket's monitor. pyzmq's own function would bring in asyncio."""
    event: int = struct.unpack_from("=H", monitor.recv_multipart()[0])[0]
    return event
