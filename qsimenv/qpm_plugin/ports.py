"""The controller's two doors: a ROUTER socket and its lanes on the asyncio loop, and the guard that checks keys.

A ``Port`` reads all that has come, hands each frame on, and then says once that it has: no task, future or thread per
message. Who has a lane (``lanes``) is sent everything on it. ZeroMQ tells of news by an edge on a file descriptor,
which a send may swallow, so every send looks again. The guard (ZAP) lets a key through at the door that it belongs to,
and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import zmq
import zmq.auth.asyncio

from qsimenv.qpm_plugin.lanes import Lanes
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


class Keys(NamedTuple):
    """The controller's own pair of CURVE keys, and the secret that who knocks at this door has to know."""

    public: str
    secret: str
    visitors_secret: str


class Port:
    """A ROUTER socket with CURVE at ``tcp://host:*``, and lanes. ``receive(sender, frame)``, which says whether it made
    any sense of it, and ``drained()`` must not raise. Frames are taken from all connections in turn, one from each."""

    def __init__(
        self,
        context: zmq.Context[Socket],
        host: str,
        domain: str,
        keys: Keys,
        receive: Callable[[bytes, bytes], bool],
        drained: Callable[[], None],
    ) -> None:
        self._receive, self._drained = receive, drained
        self._loop = asyncio.get_running_loop()
        self._socket = socket = context.socket(zmq.ROUTER)
        socket.curve_server = True
        socket.curve_secretkey = keys.secret.encode()
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
        self._lanes = Lanes(keys.public, domain, keys.visitors_secret)
        self._loop.add_reader(socket.fileno(), self._drain)
        self._loop.add_reader(self._lanes.fileno(), self._drain)
        self._schedule()

    def send(self, receiver: bytes, frame: bytes) -> bool:
        """Send one frame; False where the receiver is gone or does not read. Never waits."""
        if self._socket.closed:
            return False
        sent = self._lanes.send(receiver, frame)
        if sent is None:
            sent = self._sends(receiver, frame)
        self.sent_bytes += sent * len(frame)
        return sent

    def _sends(self, receiver: bytes, frame: bytes) -> bool:
        try:
            self._put(receiver, frame)
        except zmq.ZMQError:
            return False
        finally:
            self._look_again()
        return True

    def reaches(self, receiver: bytes, frame: bytes) -> bool:
        """Send a frame that may be lost, by way of ZeroMQ; False only where the receiver's connection is gone."""
        try:
            self._put(receiver, frame)
        except zmq.Again:
            return True
        except zmq.ZMQError:
            return False
        finally:
            self._look_again()
        return True

    def _put(self, receiver: bytes, frame: bytes) -> None:
        self._socket.send(receiver, zmq.NOBLOCK | zmq.SNDMORE)
        self._socket.send(frame, zmq.NOBLOCK)

    @property
    def has_news(self) -> bool:
        """Whether a frame waits to be read."""
        return not self._socket.closed and (self._lanes.has_news or self._socket_has_news)

    @property
    def _socket_has_news(self) -> bool:
        return bool(int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN)

    def read_soon(self) -> None:
        """Read what has come as soon as the loop gets to it."""
        if not self._scheduled and self.has_news:
            self._schedule()

    def _look_again(self) -> None:
        if not self._scheduled and self._socket_has_news:
            self._schedule()

    def close(self, linger_ms: int = 1000) -> None:
        """Stop reading; what was sent still goes out for ``linger_ms``."""
        if not self._socket.closed:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_reader(self._lanes.fileno())
            self._lanes.close(linger_ms / 1000)
            self._socket.close(linger=linger_ms)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._scheduled = False
        if self._socket.closed:
            return
        self._lanes.look()
        sources, taken, refused = deque([self._lanes.take, self._take]), 0, 0
        while sources and taken < _READ_AT_ONCE and refused < _REFUSED_AT_ONCE:
            found = sources[0]()
            if found is None:
                sources.popleft()
                continue
            taken += 1
            refused += not self._hear(*found)
            sources.rotate(1)
            if self._socket.closed:
                return
        self.read_soon()
        self._drained()

    def _take(self) -> list[bytes] | None:
        try:
            return self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def _hear(self, *frames: bytes) -> bool:
        if len(frames) != 2:
            self._refuse(len(frames))
            return False
        self.received_bytes += len(frames[1])
        return self._receive(*frames)

    def _refuse(self, frames: int) -> None:
        """Say so at the 1st, 10th, 100th … such message: a flood of them must not fill the log's disk."""
        self._refused += 1
        if str(self._refused).strip("0") == "1":
            _log.warning("%d message(s) so far dropped, this one of %d frames; 2 are needed", self._refused, frames)
