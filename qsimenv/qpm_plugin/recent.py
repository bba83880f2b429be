"""A bounded memory of what was used last: circuits in the controller, and circuits in each worker.

The controller and a worker keep the same ``Recent`` with the same limit and use it in the same order (messages to a
worker arrive in the order sent), so the controller knows without asking which circuits a worker still holds.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by key; the least recently used ones go when their sizes add up to more than ``limit_bytes``."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._values: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: str) -> T | None:
        """The value, which counts as used now; None where it is not (or no longer) here."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: str, value: T, size_bytes: int) -> None:
        """Keep a value, the newest now; it stays even where it alone is over the limit."""
        self.drop(key)
        self._values[key] = (value, size_bytes)
        self.size_bytes += size_bytes
        while self.size_bytes > self._limit_bytes and len(self._values) > 1:
            self.size_bytes -= self._values.popitem(last=False)[1][1]

    def drop(self, key: str) -> bool:
        """Forget a key; whether it was there."""
        found = self._values.pop(key, None)
        if found is not None:
            self.size_bytes -= found[1]
        return found is not None

    def __len__(self) -> int:
        return len(self._values)
