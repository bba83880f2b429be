"""Python's search for garbage in the controller: among old objects only when there is time for it.

A hundred thousand tasks are a million objects that live long and form no cycles. Python looks through all of them
whenever they have grown by a quarter, and everybody waits: 180 ms. References are counted all the same, so that
what is dropped is freed at once; only cycles that lived long wait for the search. The controller asks now and then.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

IDLE_S, AT_LEAST_EVERY_S = 60.0, 600.0
"""So long after the last search comes the next, where nobody waits for anything, and where somebody always does."""
_NEVER = 1 << 30


class Garbage:
    """When old objects are searched."""

    def __init__(self, collect: Callable[[], object] = gc.collect, clock: Callable[[], float] = time.monotonic) -> None:
        self._collect, self._clock = collect, clock
        self._searched, self._news = clock(), 0

    def look(self, is_idle: bool, news: int) -> None:
        """Search where it is time to; ``news`` counts what has come in all: where nothing has, there is no garbage."""
        since = self._clock() - self._searched
        if news != self._news and since >= (IDLE_S if is_idle else AT_LEAST_EVERY_S):
            self._collect()
            self._searched, self._news = self._clock(), news


@contextmanager
def old_objects_left_alone() -> Iterator[None]:
    """Meanwhile Python by itself searches young objects only."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*before[:2], _NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
