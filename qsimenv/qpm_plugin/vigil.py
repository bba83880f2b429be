"""A vigil: for a moment after something has come, look for the next message instead of falling asleep.

To sleep until a message comes costs switches of threads, and in a virtual machine a halted core that the host has to
wake: more than all the work on a small task. So who was woken soon a few times running looks without sleeping for up
to LONGEST_S, and lets everybody else on its core run between two looks; who was not sleeps at once, so that idling
costs nothing (the rule of Linux's ``haltpoll`` governor). Where others want the core, sleep is better: who
wakes is let in first. The controller and the workers keep one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable

LONGEST_S = 0.001
"""A longer look costs the others on this core more than the sleep that it saves."""
BUSY_S = 0.00025
"""The core is wanted by others where they keep it for so long between two looks."""
_SURE, _DOUBT = 2, -20
"""So many waits in a row have ended in time before the next one is a vigil; counted from doubt after a busy core."""


class Vigil:
    """How long the last waits were, for each kind of them. ``look`` says whether there is something to do; cheap."""

    def __init__(
        self,
        look: Callable[[], bool],
        clock: Callable[[], float] = time.perf_counter,
        give_way: Callable[[], None] = os.sched_yield,
    ) -> None:
        self._look, self._clock, self._give_way = look, clock, give_way
        self._in_time: dict[Hashable, int] = {}
        self._kind: Hashable = None
        self._began: float | None = None

    def keep(self, kind: Hashable) -> bool:
        """Begin to wait for something of this ``kind``; whether it came before LONGEST_S. False: sleep, if at all."""
        self._kind, self._began = kind, self._clock()
        if self._in_time.get(kind, 0) < _SURE:
            return False
        now = self._began
        while now - self._began < LONGEST_S:
            if self._look():
                return True
            self._give_way()
            before, now = now, self._clock()
            if now - before > BUSY_S:
                self._in_time[kind], self._began = _DOUBT, None
                break
        return False

    def end(self) -> None:
        """Something has come: remember whether that was soon. Harmless where nobody waited."""
        if self._began is not None:
            soon = self._clock() - self._began < LONGEST_S
            before = self._in_time.get(self._kind, 0)
            self._in_time[self._kind] = min(_SURE, before + 1) if soon else min(before, 0)
            self._began = None
