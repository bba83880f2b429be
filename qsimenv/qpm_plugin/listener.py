"""A listener: a thread that subscribes to the events of an environment and hands them to a callback.

``Client.register_event_notification`` makes it, with a link that nobody else uses. The link subscribes anew after a
broken connection; where that does not come back, the callback hears DISCONNECTED and the thread ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from qsimenv.errors import QSimEnvError
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.api import Event, EventKind
from qsimenv.qpm_plugin.link import Link, expect

_log = logging.getLogger("qsimenv.client")


class Listener:
    """A thread with a link of its own that hands events on, until ``stop``; the callback runs in that thread."""

    def __init__(self, link: Link, callback: Callable[[Event], None], kinds: tuple[str, ...]) -> None:
        self._link, self._callback, self._kinds = link, callback, kinds
        self._stopped = threading.Event()
        expect(link.ask(m.Subscribe(kinds)), m.Done)
        link.repeats = True
        link.hang_bell()
        self._thread = threading.Thread(target=self._listen, name="qsimenv-events", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Hand on nothing more. Returns when the thread has ended, unless it is the thread that calls."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._link.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _listen(self) -> None:
        try:
            while not self._stopped.is_set():
                body = self._link.listen()
                if isinstance(body, m.Notice) and not self._stopped.is_set():
                    self._hand_on(body.event)
        except QSimEnvError:
            if not self._kinds or EventKind.DISCONNECTED in self._kinds:
                self._hand_on(Event(EventKind.DISCONNECTED, time.time()))
        finally:
            self._link.close()

    def _hand_on(self, event: Event) -> None:
        try:
            self._callback(event)
        except Exception:  # noqa: BLE001 - the next event is handed on, whatever the callback does with this one
            _log.exception("the callback for the event %s failed", event.kind)
