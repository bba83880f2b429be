"""The event queue by itself: order, bounds, counts of what was lost, and its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from qsimenv.errors import BadStateError, TimedOutError
from qsimenv.qpm_plugin import QPM, Event, EventKind, EventQueue


class Provider:
    """The one call of a QPM that the queue makes."""

    def __init__(self) -> None:
        self.kinds: Sequence[str] = ()
        self.stopped = 0

    def register_event_notification(self, callback: Callable[[Event], None], kinds: Sequence[str] = ()) -> Any:
        self.callback, self.kinds = callback, kinds
        return self._stop

    def _stop(self) -> None:
        self.stopped += 1

    def tell(self, kind: str, **details: Any) -> None:
        self.callback(Event(kind, 0.0, details))


def opened(*kinds: str, capacity: int = 10) -> tuple[Provider, EventQueue]:
    provider = Provider()
    return provider, EventQueue(cast(QPM, provider), kinds, capacity)


def test_events_come_in_order() -> None:
    provider, queue = opened()
    for number in range(3):
        provider.tell("task", number=number)
    assert [queue.get().details["number"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(TimedOutError, match="within 0 s"):
        queue.get(0)


def test_who_reads_slowly_keeps_the_newest_and_hears_how_many_were_lost() -> None:
    provider, queue = opened(capacity=4)
    for number in range(10):
        provider.tell("task", number=number)
    provider.tell(EventKind.LOST, number=5)
    assert [queue.get(0).details["number"] for _ in range(len(queue))] == [6, 7, 8, 9]
    assert queue.lost == 6 + 5


def test_losses_and_the_end_are_heard_whatever_was_asked_for() -> None:
    provider, queue = opened("drain")
    assert set(provider.kinds) == {"drain", EventKind.LOST, EventKind.DISCONNECTED}
    queue.close()
    queue.close()
    assert provider.stopped == 2


def test_the_end_lets_go_of_who_waits() -> None:
    provider, queue = opened()
    provider.tell("shutdown")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.extend(event.kind for event in queue))
    reader.start()
    provider.tell(EventKind.DISCONNECTED)
    reader.join(60)
    assert found == ["shutdown", "disconnected"]
    with pytest.raises(BadStateError, match="no more"):
        queue.get()
