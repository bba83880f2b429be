"""An event queue: what happens to an environment, kept until it is read, never more than ``capacity`` of it.

Over ``QPM.register_event_notification``, so it works with every provider. Nothing waits for who reads slowly: the
newest events are kept and those that had to go are counted, here and on the controller's side (an event ``lost``).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

from qsimenv.errors import BadStateError, TimedOutError
from qsimenv.qpm_plugin.api import QPM, Event, EventKind


class EventQueue:
    """The events of the given kinds (none: of all), from now on. For any number of threads; close it, or use ``with``.

    ``lost`` counts the events that were dropped, here or on their way, because they were not read in time.
    """

    def __init__(self, qpm: QPM, kinds: Sequence[str] = (), capacity: int = 10_000) -> None:
        self._events: deque[Event] = deque()
        self._capacity = capacity
        self._changed = threading.Condition()
        self._closed = False
        self.lost = 0
        asked = (*kinds, EventKind.LOST, EventKind.DISCONNECTED) if kinds else ()
        self._stop = qpm.register_event_notification(self._put, asked)

    def get(self, timeout_s: float | None = None) -> Event:
        """The oldest event, as soon as there is one.

        Raises TimedOutError after ``timeout_s`` seconds, BadStateError where none can come any more: the queue was
        closed, or the environment has ended.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not self._events:
                if self._closed:
                    raise BadStateError("events: there will be no more; the queue was closed or its environment ended")
                left_s = None if deadline is None else deadline - time.monotonic()
                if left_s is not None and left_s <= 0:
                    raise TimedOutError(f"events: none came within {timeout_s:g} s")
                self._changed.wait(left_s)
            return self._events.popleft()

    def __iter__(self) -> Iterator[Event]:
        """Every event as it comes, until there will be no more."""
        while True:
            try:
                yield self.get()
            except BadStateError:
                return

    def __len__(self) -> int:
        return len(self._events)

    def close(self) -> None:
        """End it; what has come can still be read. Harmless twice."""
        self._stop()
        self._end()

    def __enter__(self) -> EventQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, event: Event) -> None:
        with self._changed:
            if event.kind == EventKind.LOST:
                self.lost += int(event.details.get("number", 0))
                return
            self._events.append(event)
            if len(self._events) > self._capacity:
                self._events.popleft()
                self.lost += 1
            self._closed = self._closed or event.kind == EventKind.DISCONNECTED
            self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
