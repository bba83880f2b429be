"""The controller's two doors: a ROUTER socket on the asyncio loop, and the guard that checks keys.

A ``Port`` reads all that has come, hands each frame on, and then says once that it has: no task, future or thread per
message. ZeroMQ tells of news by an edge on a file descriptor, which a send may swallow, so every send looks again.
The guard (ZAP) lets a key through at the door that it belongs to, and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import zmq
import zmq.auth.asyncio

from qsimenv.qpm_plugin.messages import MAX_FRAME_BYTES
from qsimenv.qpm_plugin.sockets import Socket, set_heartbeat

_READ_AT_ONCE = 100
"""Frames taken before the other door, and the timers, get their turn."""
_REFUSED_AT_ONCE = 10
"""Of frames that make no sense so many end a turn: who sends them waits, and nobody else does."""
_log = logging.getLogger("qsimenv.controller")


class Guard:
    """Lets through exactly one key at each door (ZAP domain)."""

    def __init__(self, context: zmq.Context[Socket], allowed: dict[str, str]) -> None:
        self._authenticator = zmq.auth.asyncio.AsyncioAuthenticator(context)
        self._authenticator.start()
        for domain, key in allowed.items():
            self._authenticator.configure_curve_callback(domain, credentials_provider=_OneKey(key))

    def close(self) -> None:
        self._authenticator.stop()


class _OneKey:
    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def callback(self, domain: str, key: bytes) -> bool:  # the name and arguments are pyzmq's
        return key == self._key


class Port:
    """A ROUTER socket with CURVE at ``tcp://host:*``. ``receive(sender, frame)``, which says whether it made any sense
    of it, and ``drained()`` must not raise. ZeroMQ takes frames from its connections in turn, one from each."""

    def __init__(
        self,
        context: zmq.Context[Socket],
        host: str,
        domain: str,
        secret_key: str,
        receive: Callable[[bytes, bytes], bool],
        drained: Callable[[], None],
    ) -> None:
        self._receive, self._drained = receive, drained
        self._loop = asyncio.get_running_loop()
        self._socket = socket = context.socket(zmq.ROUTER)
        socket.curve_server = True
        socket.curve_secretkey = secret_key.encode()
        socket.zap_domain = domain.encode()
        socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.set(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        socket.set(zmq.ROUTER_MANDATORY, 1)
        socket.set(zmq.ROUTER_HANDOVER, 1)
        socket.set(zmq.SNDHWM, 10_000)
        socket.set(zmq.BACKLOG, 4096)
        set_heartbeat(socket)
        socket.bind(f"tcp://{host}:*")
        self.address = socket.get_string(zmq.LAST_ENDPOINT)
        self._scheduled = False
        self._refused = 0
        self.received_bytes = self.sent_bytes = 0
        self._loop.add_reader(socket.fileno(), self._drain)
        self._schedule()

    def send(self, receiver: bytes, frame: bytes) -> bool:
        """Send one frame; False where the receiver is gone or does not read. Never waits."""
        if self._socket.closed:
            return False
        try:
            self._put(receiver, frame)
        except zmq.ZMQError:
            return False
        finally:
            self.read_soon()
        self.sent_bytes += len(frame)
        return True

    def reaches(self, receiver: bytes, frame: bytes) -> bool:
        """Send a frame that may be lost; False only where the receiver's connection is gone."""
        try:
            self._put(receiver, frame)
        except zmq.Again:
            return True
        except zmq.ZMQError:
            return False
        finally:
            self.read_soon()
        return True

    def _put(self, receiver: bytes, frame: bytes) -> None:
        self._socket.send(receiver, zmq.NOBLOCK | zmq.SNDMORE)
        self._socket.send(frame, zmq.NOBLOCK)

    @property
    def has_news(self) -> bool:
        """Whether a frame waits to be read."""
        return not self._socket.closed and bool(int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN)

    def read_soon(self) -> None:
        """Read what has come as soon as the loop gets to it."""
        if not self._scheduled and self.has_news:
            self._schedule()

    def close(self, linger_ms: int = 1000) -> None:
        """Stop reading; what was sent still goes out for ``linger_ms``."""
        if not self._socket.closed:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close(linger=linger_ms)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._scheduled = False
        refused = 0
        for _ in range(_READ_AT_ONCE):
            if self._socket.closed:
                return
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if len(frames) == 2:
                self.received_bytes += len(frames[1])
                refused += not self._receive(frames[0], frames[1])
            else:
                self._refuse(len(frames))
                refused += 1
            if refused == _REFUSED_AT_ONCE:
                break
        self.read_soon()
        self._drained()

    def _refuse(self, frames: int) -> None:
        """Say so at the 1st, 10th, 100th … such message: a flood of them must not fill the log's disk."""
        self._refused += 1
        if str(self._refused).strip("0") == "1":
            _log.warning("%d message(s) so far dropped, this one of %d frames; 2 are needed", self._refused, frames)
