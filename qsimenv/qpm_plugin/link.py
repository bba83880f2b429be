"""A link: one CURVE connection of a client to the controller, and the patience to wait on it.

Used by one thread at a time. It watches its own connection: who was refused at the door hears so at once, who finds
nobody hears so after ``timeout_s``; a request is sent again when a broken connection stands again.
"""

from __future__ import annotations

import time
import uuid

import zmq

from qsimenv.errors import PermissionDeniedError, QSimEnvError, TimedOutError
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.connection import Connection, next_connection_event, set_heartbeat

_PATIENT_RETRIES = 3
"""How often (every 0.1 s) a first connection may be turned down: by a closed port, or by another environment's door."""
_REFUSED = (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_WATCHED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED
)  # fmt: skip
_Socket = zmq.Socket[bytes]


class Link:
    """Opens at once; waits for the connection with the first request."""

    def __init__(self, context: zmq.Context[_Socket], connection: Connection, client: str, timeout_s: float) -> None:
        self._connection, self._client, self._timeout_s = connection, client, timeout_s
        self._socket = socket = context.socket(zmq.DEALER)
        socket.identity = uuid.uuid4().bytes
        socket.curve_serverkey = connection.server_key.encode()
        socket.curve_publickey = connection.client_key.encode()
        socket.curve_secretkey = connection.client_secret.encode()
        socket.set(zmq.MAXMSGSIZE, m.MAX_FRAME_BYTES)
        socket.linger = 200
        set_heartbeat(socket)
        self._monitor = socket.get_monitor_socket(_WATCHED)
        self._bell_address = f"inproc://bell-{uuid.uuid4().hex}"
        self._context = context
        self._bell: _Socket | None = None
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        socket.connect(connection.address)
        self._number = 0
        self._request = b""
        self._stands = self._stood = False
        self._broke_off = self._retries = 0
        self._lost_at = time.monotonic()
        self._deadline: float | None = None
        self.is_clean = True
        self.repeats = False
        """Whether the last request is sent again with each new connection, though it was answered."""

    def ask(self, body: m.RequestBody, within_s: float | None = None) -> m.ReplyBody:
        """The answer, however long it takes, or within so many seconds.

        PermissionDeniedError where the door stays shut, TimedOutError where nobody answers or the connection broke.
        """
        self._deadline = None if within_s is None else time.monotonic() + within_s
        self._number += 1
        self._request = m.encode(m.Request(self._client, self._number, body))
        self.is_clean = False
        if self._stands:
            self._socket.send(self._request)
        else:
            self._lost_at = time.monotonic()
        return self.more()

    def more(self) -> m.ReplyBody:
        """The next part of the answer."""
        while True:
            reply = self._receive()
            if reply.number == self._number:
                self.is_clean = not (isinstance(reply.body, m.Records) and reply.body.more)
                return reply.body

    def hang_bell(self) -> None:
        """Make ``wake`` work; before the first ``listen``."""
        self._bell = self._context.socket(zmq.PULL)
        self._bell.bind(self._bell_address)
        self._poller.register(self._bell, zmq.POLLIN)

    def listen(self) -> m.ReplyBody:
        """What comes next, asked for or not; after ``wake``, anything."""
        return self._receive().body

    def wake(self) -> None:
        """Make ``listen`` return; may be called from any thread."""
        with self._context.socket(zmq.PUSH) as bell:
            bell.linger = 1000
            bell.connect(self._bell_address)
            bell.send(b"")

    def abandon(self) -> None:
        """Tell the controller that nobody waits for the last answer any more."""
        if self._stands and not self.is_clean:
            self._socket.send(m.encode(m.Request(self._client, self._number, m.Abandon(self._number))))

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        if self._bell is not None:
            self._bell.close(linger=0)
        self._socket.close()

    def _receive(self) -> m.Reply:
        while True:
            ready = dict(self._poller.poll(self._patience_ms()))
            if self._monitor in ready:
                self._notice_connection()
            if self._socket in ready:
                return m.decode_reply(self._socket.recv())
            if self._bell is not None and self._bell in ready:
                self._bell.recv()
                return m.Reply(0, m.Done())
            if not ready:
                raise self._lost()

    def _patience_ms(self) -> int | None:
        now = time.monotonic()
        ends = [] if self._deadline is None else [self._deadline]
        if not self._stands:
            ends.append(self._lost_at + self._timeout_s)
        return max(0, int(1000 * (min(ends) - now))) if ends else None

    def _notice_connection(self) -> None:
        while self._monitor.poll(0):
            event = next_connection_event(self._monitor)
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._stands = self._stood = True
                if self.repeats or not self.is_clean:
                    self._socket.send(self._request)
            elif event in _REFUSED:
                raise self._refused()
            elif event in (zmq.EVENT_DISCONNECTED, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL):
                self._broke()
            elif event == zmq.EVENT_CONNECT_RETRIED and not self._stood:
                self._retries += 1
                if self._retries > _PATIENT_RETRIES:
                    raise self._lost()

    def _broke(self) -> None:
        if self._stands:
            self._stands, self._lost_at = False, time.monotonic()
        elif not self._stood:
            self._broke_off += 1
            if self._broke_off > _PATIENT_RETRIES:
                raise self._refused()

    def _refused(self) -> QSimEnvError:
        where = self._connection.address
        return PermissionDeniedError(
            f"connect: {where} refuses the key of this connection file; use the file of the environment that runs there"
        )

    def _lost(self) -> QSimEnvError:
        where, seconds = self._connection.address, time.monotonic() - self._lost_at
        if self._stood:
            return TimedOutError(f"client: the connection to {where} broke and did not come back in {seconds:.1f} s")
        return TimedOutError(
            f"connect: nobody answers at {where} after {seconds:.1f} s; is the environment "
            f"(process {self._connection.pid} on {self._connection.host}) still running?"
        )
