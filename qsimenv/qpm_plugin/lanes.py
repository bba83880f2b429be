"""Lanes: what processes of one host say to the controller goes over a Unix socket, past ZeroMQ's threads.

A frame through ZeroMQ wakes two threads besides those that talk, which costs a small task more than its simulation. So
who has connected there opens a lane, too, where the controller can be reached by one: the same frames between the same
two identities, in order, in both directions. ZeroMQ still finds out who is gone, and carries what finds no lane.

The socket has a name in Linux' abstract namespace (no file is left behind; other network namespaces do not see it).
The first frame has to hold the key of the connection file, and the process to be this user's. ``ports`` accepts lanes;
clients (``link``) and workers (``worker``) ``open_lane``.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import resource
import select
import socket
import struct
from collections import deque

from qsimenv.qpm_plugin.messages import MAX_FRAME_BYTES

STALLED_MS = 8000
"""A controller that takes nothing for so long is gone."""
_READ_BYTES = 1 << 18
_UNREAD_FRAMES = 10_000
"""So many frames that a peer does not read are kept."""
_LARGE_BYTES = 1 << 16
"""A longer frame is not copied to stand behind its length."""
_MOST_LANES = 1000
_LENGTH = struct.Struct("<I")
_PEER = struct.Struct("3i")
_PROOF_BYTES, _GREETING_BYTES = 32, 32 + 255
_log = logging.getLogger("qsimenv.controller")


def open_lane(server_key: str, domain: str, secret_key: str, identity: bytes) -> Lane | None:
    """A lane to a door of the controller with that key; None where that is not on this host, or has no room for it."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.setblocking(False)
    lane = Lane(end)
    try:
        end.connect(_name(server_key, domain))
        if _is_ours(end):
            lane.send(_proof(secret_key) + identity)
            return lane
    except OSError:
        pass
    lane.close()
    return None


def _name(server_key: str, domain: str) -> str:
    return "\0qsimenv-" + hashlib.sha256(f"{server_key} {domain}".encode()).hexdigest()[:40]


def _proof(secret_key: str) -> bytes:
    return hashlib.sha256(b"lane " + secret_key.encode()).digest()


def _is_ours(end: socket.socket) -> bool:
    """Whether the process at the other end is this user's."""
    _, uid, _ = _PEER.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return bool(uid == os.geteuid())


def _pieces(frame: bytes) -> list[memoryview]:
    length = _LENGTH.pack(len(frame))
    parts = (length + frame,) if len(frame) < _LARGE_BYTES else (length, frame)
    return [memoryview(part) for part in parts]


class _Incoming:
    """Bytes as they come, cut into frames of ``most`` bytes. Holds no more than one of them and one read."""

    def __init__(self, most: int = MAX_FRAME_BYTES) -> None:
        self._bytes, self.most = bytearray(), most

    def read(self, end: socket.socket) -> bool:
        """Take what has come; False where nothing more can come. BlockingIOError, OSError."""
        data = end.recv(_READ_BYTES)
        self._bytes += data
        return bool(data)

    def take(self) -> bytes | None:
        """The next frame, if it has come whole. ConnectionResetError where it would be too long."""
        if len(self._bytes) < _LENGTH.size:
            return None
        length = int(_LENGTH.unpack_from(self._bytes)[0])
        if length > self.most:
            raise ConnectionResetError
        end = _LENGTH.size + length
        if len(self._bytes) < end:
            return None
        frame = bytes(memoryview(self._bytes)[_LENGTH.size : end])
        del self._bytes[:end]
        return frame


class Lane:
    """A client's or a worker's end. After an OSError of any method it is of no more use."""

    def __init__(self, end: socket.socket) -> None:
        self._end, self._incoming = end, _Incoming()
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(end, select.POLLIN)
        self._writable.register(end, select.POLLOUT)

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, frame: bytes) -> None:
        """Returns when the system has it; TimeoutError where the controller takes nothing for STALLED_MS."""
        for piece in _pieces(frame):
            left = piece
            while left:
                try:
                    left = left[self._end.send(left) :]
                except BlockingIOError:
                    if not self._writable.poll(STALLED_MS):
                        raise TimeoutError from None

    def recv(self, wait_ms: int = 0) -> bytes | None:
        """The next frame; None where nothing comes for ``wait_ms``."""
        while (frame := self._incoming.take()) is None:
            if wait_ms and not self._readable.poll(wait_ms):
                return None
            try:
                if not self._incoming.read(self._end):
                    raise ConnectionResetError
            except BlockingIOError:
                return None
        return frame

    @property
    def has_news(self) -> bool:
        return bool(self._readable.poll(0))

    def close(self) -> None:
        self._end.close()


class _End:
    """The controller's end of a lane. ``identity``: None until the greeting has come."""

    def __init__(self, end: socket.socket) -> None:
        self.socket, self.incoming = end, _Incoming(_GREETING_BYTES)
        self.identity: bytes | None = None
        self.unsent: deque[memoryview] = deque()
        self.is_ready = False

    def put(self, frame: bytes) -> bool:
        """Send what goes at once, keep the rest; False where too much is kept already. OSError."""
        if len(self.unsent) >= _UNREAD_FRAMES:
            return False
        self.unsent.extend(_pieces(frame))
        self.flush()
        return True

    def flush(self) -> None:
        """Send what goes. OSError."""
        with contextlib.suppress(BlockingIOError):
            while self.unsent:
                sent = self.socket.send(self.unsent[0])
                if sent < len(self.unsent[0]):
                    self.unsent[0] = self.unsent[0][sent:]
                else:
                    self.unsent.popleft()


class Lanes:
    """The lanes of one door. ``fileno`` is readable when there is something to ``look`` at. Never waits.

    Frames are taken from the lanes in turn, one from each; a lane with a frame that was not taken is not read.
    """

    def __init__(self, server_key: str, domain: str, secret_key: str) -> None:
        self._proof = _proof(secret_key)
        self._ends: dict[int, _End] = {}
        self._by_identity: dict[bytes, _End] = {}
        self._ready: deque[_End] = deque()
        self._most = min(_MOST_LANES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._epoll = select.epoll()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        try:
            self._listener.bind(_name(server_key, domain))
            self._listener.listen(self._most)
            self._epoll.register(self._listener, select.EPOLLIN)
        except OSError as error:
            _log.warning("no lanes for processes of this host, all goes through ZeroMQ: %s", error.strerror)

    def fileno(self) -> int:
        return self._epoll.fileno()

    @property
    def has_news(self) -> bool:
        """Whether there is something to ``look`` at or to ``take``."""
        return bool(self._ready) or bool(self._epoll.poll(0, 1))

    def look(self) -> None:
        """Read what has come, send what waits, let in who knocks."""
        for number, event in self._epoll.poll(0):
            end = self._ends.get(number)
            if end is None:
                self._accept()
                continue
            try:
                if event & select.EPOLLOUT:
                    self._flush(end)
                if event & ~select.EPOLLOUT and not end.is_ready:
                    self._read(end)
            except OSError:
                self._drop(end)

    def take(self) -> tuple[bytes, bytes] | None:
        """The next frame and who it is from."""
        while self._ready:
            end = self._ready.popleft()
            try:
                frame = end.incoming.take()
            except OSError:
                self._drop(end)
                continue
            if frame is not None and end.identity is not None:
                self._ready.append(end)
                return end.identity, frame
            end.is_ready = False
        return None

    def send(self, identity: bytes, frame: bytes) -> bool | None:
        """Whether it is on its way; None where there is no lane to that peer."""
        end = self._by_identity.get(identity)
        if end is None:
            return None
        try:
            waited = bool(end.unsent)
            sent = end.put(frame)
            if end.unsent and not waited:
                self._epoll.modify(end.socket, select.EPOLLIN | select.EPOLLOUT)
        except OSError:
            self._drop(end)
            return False
        return sent

    def close(self, linger_s: float) -> None:
        """What was sent still goes out for so long."""
        for end in list(self._ends.values()):
            with contextlib.suppress(OSError):
                end.socket.settimeout(linger_s)
                while end.unsent:
                    end.socket.sendall(end.unsent.popleft())
            end.socket.close()
        self._listener.close()
        self._epoll.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                end, _ = self._listener.accept()
                if len(self._ends) >= self._most or not _is_ours(end):
                    end.close()  # whoever it is, ZeroMQ is there, too
                    continue
                end.setblocking(False)
                self._ends[end.fileno()] = _End(end)
                self._epoll.register(end, select.EPOLLIN)

    def _read(self, end: _End) -> None:
        try:
            goes_on = end.incoming.read(end.socket)
        except BlockingIOError:
            return
        if end.identity is None:
            goes_on = self._greet(end) and goes_on
        if end.identity is not None:
            end.is_ready = True
            self._ready.append(end)
        if not goes_on:
            self._drop(end)

    def _greet(self, end: _End) -> bool:
        """Learn who is there; False for who does not know the key. A later lane of the same peer takes its place."""
        greeting = end.incoming.take()
        if greeting is None:
            return True
        if not hmac.compare_digest(greeting[:_PROOF_BYTES], self._proof):
            return False
        end.identity, end.incoming.most = greeting[_PROOF_BYTES:], MAX_FRAME_BYTES
        before = self._by_identity.get(end.identity)
        if before is not None:
            self._drop(before)
        self._by_identity[end.identity] = end
        return True

    def _flush(self, end: _End) -> None:
        end.flush()
        if not end.unsent:
            self._epoll.modify(end.socket, select.EPOLLIN)

    def _drop(self, end: _End) -> None:
        """Close it; what has come whole can still be taken."""
        if self._ends.pop(end.socket.fileno(), None) is None:
            return
        if end.identity is not None and self._by_identity.get(end.identity) is end:
            del self._by_identity[end.identity]
        self._epoll.unregister(end.socket)
        end.socket.close()
