"""A link: one CURVE connection of a client to the controller, with a lane where there is one, and the patience to wait.

Used by one thread at a time. It watches its own connection: who was refused at the door hears so at once, who finds
nobody hears so after ``timeout_s``; a request is sent again when a broken connection stands again, or a new one does.
"""

from __future__ import annotations

import math
import os
import socket
import time
import uuid
from pathlib import Path
from typing import TypeVar

import zmq

from qsimenv.errors import PermissionDeniedError, QSimEnvError, TimedOutError, from_code
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin import result_files
from qsimenv.qpm_plugin.connection import Connection
from qsimenv.qpm_plugin.lanes import Lane, open_lane
from qsimenv.qpm_plugin.sockets import CLIENTS, Socket, client_socket, next_connection_event

T = TypeVar("T", bound=m.ReplyBody)
KEPT_PATIENCE_S = 60.0
_LOOK_EVERY_S = 0.2
_BRIEFLY_MS = 2
"""So long a link waits for its lane alone, which costs less than to wait for all that may happen."""
_PATIENT_RETRIES = 3
"""How often (every 0.1 s) a first connection may be turned down: by a closed port, or by another environment's door."""
_REFUSED = (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_WATCHED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED
)  # fmt: skip


class Link:
    """Opens at once; waits for the connection with the first request.

    ``path`` is the connection file: where a broken connection does not come back, but the file names a new controller,
    the link goes there under its old name, so that what it asked for is neither lost nor done twice. As long as the
    environment's keeper lives on this machine, it is waited for, for KEPT_PATIENCE_S at least.
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        connection: Connection,
        client: str,
        timeout_s: float,
        path: Path | None = None,
    ) -> None:
        self.connection, self._client, self._timeout_s, self._path = connection, client, timeout_s, path
        self._context = context
        self._identity = uuid.uuid4().bytes
        self._bell_address = f"inproc://bell-{uuid.uuid4().hex}"
        self._bell: Socket | None = None
        self._poller = zmq.Poller()
        self._lane: Lane | None = None
        self._number = 0
        self._request = b""
        self._posted: dict[int, tuple[int, m.RequestBody]] = {}
        self._stands = self._stood = False
        self._broke_off = self._retries = 0
        self._lost_at = self._look_at = time.monotonic()
        self._deadline: float | None = None
        self.is_clean = True
        self.repeats = False
        """Whether the last request is sent again with each new connection, though it was answered."""
        self._open()

    def _open(self) -> None:
        connection = self.connection
        self.results = result_files.here(connection)
        self._socket = socket = client_socket(self._context, connection, self._identity)
        self._monitor = socket.get_monitor_socket(_WATCHED)
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        socket.connect(connection.address)

    def _shut(self) -> None:
        self._leave_lane()
        self._poller.unregister(self._socket)
        self._poller.unregister(self._monitor)
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close()

    def ask(self, body: m.RequestBody, within_s: float | None = None) -> m.ReplyBody:
        """The answer, however long it takes, or within so many seconds.

        PermissionDeniedError where the door stays shut, TimedOutError where nobody answers or the connection broke.
        """
        self._deadline = None if within_s is None else time.monotonic() + within_s
        self._number += 1
        self._request = self._packed(body)
        self.is_clean = False
        if self._stands:
            self._say(self._request)
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

    def post(self, ticket: int, body: m.RequestBody) -> None:
        """Ask without waiting; several such requests may be under way, and ``collect`` gives their answers.

        After a broken connection those without an answer are sent again under new numbers: each must be safe to repeat.
        """
        self._deadline = None
        if not self._stands and not self._posted:
            self._lost_at = time.monotonic()
        self._number += 1
        self._posted[self._number] = (ticket, body)
        self.is_clean = False
        if self._stands:
            self._say(self._packed(body))

    def collect(self) -> tuple[int, m.ReplyBody]:
        """The ticket of a posted request, and its answer. Raises like ``ask``."""
        while True:
            reply = self._receive()
            if reply.number in self._posted:
                ticket, _ = self._posted.pop(reply.number)
                self.is_clean = not self._posted
                return ticket, reply.body

    @property
    def posted(self) -> int:
        """How many posted requests have no answer yet."""
        return len(self._posted)

    def _post_again(self) -> None:
        posted, self._posted = list(self._posted.values()), {}
        for ticket, body in posted:
            self.post(ticket, body)

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
            self._say(self._packed(m.Abandon(self._number)))

    def _packed(self, body: m.RequestBody) -> bytes:
        return m.encode(m.Request(self._client, self._number, body, self.results is not None))

    def close(self) -> None:
        if self._bell is not None:
            self._bell.close(linger=0)
        self._shut()

    def _say(self, frame: bytes) -> None:
        """Send a request. Where its lane breaks, all that has no answer is sent again, this one too."""
        if self._lane is None:
            self._socket.send(frame)
            return
        try:
            self._lane.send(frame)
        except OSError:
            self._leave_lane()
            self._ask_again()

    def _take_lane(self) -> None:
        self._leave_lane()
        connection = self.connection
        self._lane = open_lane(connection.server_key, CLIENTS, connection.client_secret, self._identity)
        if self._lane is not None:
            self._poller.register(self._lane.fileno(), zmq.POLLIN)

    def _leave_lane(self) -> None:
        if self._lane is not None:
            self._poller.unregister(self._lane.fileno())
            self._lane.close()
            self._lane = None

    def _from_lane(self) -> bytes | None:
        """What came by the lane. One that breaks is left, and what has no answer is asked for by the socket."""
        try:
            return None if self._lane is None else self._lane.recv(_BRIEFLY_MS)
        except OSError:
            self._leave_lane()
            self._ask_again()
            return None

    def _ask_again(self) -> None:
        if self._posted:
            self._post_again()
        elif self.repeats or not self.is_clean:
            self._say(self._request)

    def _receive(self) -> m.Reply:
        while True:
            frame = self._from_lane()
            if frame is not None:
                return m.decode_reply(frame)
            ready = dict(self._poller.poll(self._patience_ms()))
            if self._lane is not None and self._lane.fileno() in ready:
                continue  # the controller's last word may be there, although the connection is gone
            if self._monitor in ready:
                self._notice_connection()
            if self._socket in ready:
                return m.decode_reply(self._socket.recv())
            if self._bell is not None and self._bell in ready:
                self._bell.recv()
                return m.Reply(0, m.Done())
            now = time.monotonic()
            if now >= self._end():
                raise self._lost()
            if not self._stands and now >= self._look_at:
                self._look_at = now + _LOOK_EVERY_S
                self._follow()

    def _patience_ms(self) -> int | None:
        """How long to wait for the next thing to happen; without a connection, for the next look at the file."""
        left_s = self._end() - time.monotonic()
        if not self._stands:
            left_s = min(left_s, _LOOK_EVERY_S)
        return None if left_s == math.inf else max(0, int(1000 * left_s) + 1)

    def _end(self) -> float:
        """When the patience ends."""
        deadline = math.inf if self._deadline is None else self._deadline
        if self._stands:
            return deadline
        patience_s = max(self._timeout_s, KEPT_PATIENCE_S) if self._is_kept() else self._timeout_s
        return min(deadline, self._lost_at + patience_s)

    def _is_kept(self) -> bool:
        """Whether somebody will start the controller again."""
        pid = self.connection.keeper_pid
        if not pid or self.connection.host != socket.gethostname():
            return False
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return True

    def _follow(self) -> None:
        """Go to the controller that the connection file names now, where that is another one."""
        try:
            found = None if self._path is None else Connection.read(self._path)
        except QSimEnvError:
            return  # none there just now
        if found is not None and found != self.connection:
            self._shut()
            self.connection = found
            self._broke_off = self._retries = 0
            self._open()

    def _notice_connection(self) -> None:
        while self._monitor.poll(0):
            event = next_connection_event(self._monitor)
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._stands = self._stood = True
                self._take_lane()
                self._ask_again()
            elif event in _REFUSED:
                self._check_refusal()
            elif event in (zmq.EVENT_DISCONNECTED, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL):
                self._broke()
            elif event == zmq.EVENT_CONNECT_RETRIED and not self._stood:
                self._retries += 1
                if self._retries > _PATIENT_RETRIES and not self._is_kept():
                    raise self._lost()

    def _broke(self) -> None:
        self._leave_lane()
        if self._stands:
            self._stands, self._lost_at = False, time.monotonic()
        elif not self._stood:
            self._broke_off += 1
            if self._broke_off > _PATIENT_RETRIES:
                self._check_refusal()

    def _check_refusal(self) -> None:
        """Nobody who knows the key refuses it; after a restart somebody else may have got the old controller's port."""
        before = self.connection
        self._follow()
        if not self._stood and self.connection is before:
            raise self._refused()

    def _refused(self) -> QSimEnvError:
        where = self.connection.address
        return PermissionDeniedError(
            f"connect: {where} refuses the key of this connection file; use the file of the environment that runs there"
        )

    def _lost(self) -> QSimEnvError:
        where, seconds = self.connection.address, time.monotonic() - self._lost_at
        if self._stood:
            return TimedOutError(f"client: the connection to {where} broke and did not come back in {seconds:.1f} s")
        return TimedOutError(
            f"connect: nobody answers at {where} after {seconds:.1f} s; is the environment "
            f"(process {self.connection.pid} on {self.connection.host}) still running?"
        )


def expect(reply: m.ReplyBody, kind: type[T]) -> T:
    """The answer, where it is what was asked for; raises what the controller refused the request with."""
    if isinstance(reply, kind):
        return reply
    if isinstance(reply, m.Failed):
        raise from_code(reply.code, reply.message)
    raise QSimEnvError(f"client: a {type(reply).__name__} came where {kind.__name__} was due; versions do not agree")
