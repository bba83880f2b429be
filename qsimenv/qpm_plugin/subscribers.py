"""Who wants to be told what happens, and the notices on their way there.

The controller emits events here; a link subscribes through the clients' door. Nobody waits for who reads slowly: an
event that finds no room is counted, and the link hears how many it has missed as soon as there is room again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.api import Event, EventKind
from qsimenv.qpm_plugin.ports import Port

ARE_YOU_THERE = m.encode(m.Reply(0, m.Done()))
"""Nobody's answer: only whether it can be sent is of interest."""


@dataclass(eq=False)
class _Subscriber:
    """A link that wants events of these kinds (none: of all); ``lost`` of them had no room on their way since."""

    kinds: tuple[str, ...]
    lost: int = 0


class Subscribers:
    """The subscribers at a port; ``dropped`` counts the events that did not reach one."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._subscribers: dict[bytes, _Subscriber] = {}
        self.dropped = 0

    @property
    def are_there(self) -> bool:
        return bool(self._subscribers)

    def add(self, link: bytes, kinds: tuple[str, ...]) -> None:
        """From now on; what the link subscribed to before is forgotten."""
        self._subscribers[link] = _Subscriber(kinds)

    def emit(self, kind: str, details: dict[str, Any]) -> None:
        if not self._subscribers:
            return
        frame = _notice(kind, details)
        for link, subscriber in list(self._subscribers.items()):
            if not subscriber.kinds or kind in subscriber.kinds:
                self._notify(link, subscriber, frame)

    def _notify(self, link: bytes, subscriber: _Subscriber, frame: bytes) -> None:
        if subscriber.lost and self._port.send(link, _notice(EventKind.LOST, {"number": subscriber.lost})):
            subscriber.lost = 0
        if subscriber.lost or not self._port.send(link, frame):
            self.dropped += 1
            subscriber.lost += 1
            if not self._port.reaches(link, ARE_YOU_THERE):
                del self._subscribers[link]


def _notice(kind: str, details: dict[str, Any]) -> bytes:
    return m.encode(m.Reply(0, m.Notice(Event(kind, time.time(), details))))
