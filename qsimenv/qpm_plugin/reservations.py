"""Reservations: ranks that one client has to itself until a time (the QPM's ``reserve``, ``renew``, ``release``).

The schedule keeps the claims and obeys them; here they are checked, written to the ledger, and ended when their time
is over; the ``Service`` hears of that (``on_expiry``), since waiting tasks may start on the ranks that fall free.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable

from qsimenv.errors import InvalidArgumentError
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.api import Reservation
from qsimenv.qpm_plugin.ledger import Ledger
from qsimenv.qpm_plugin.outside import Outside
from qsimenv.qpm_plugin.scheduler import Claim, Schedule

_LONGEST_S = 1e7
_CLOCK_SLACK_S = 0.001
"""A timer may ring this much early by the wall clock."""


class Reservations:
    """The reservations of an environment. All methods but ``recover`` and ``list`` leave a row for the journal."""

    def __init__(self, schedule: Schedule, ledger: Ledger, outside: Outside, on_expiry: Callable[[], None]) -> None:
        self._schedule, self._ledger, self._outside, self._on_expiry = schedule, ledger, outside, on_expiry

    def recover(self) -> None:
        """Go on from the journal; what has expired meanwhile ends at once."""
        self._schedule.claims.update(self._ledger.claims())
        for claim in self._schedule.claims.values():
            self._outside.later(claim.expires - time.time(), self._expire)

    def reserve(self, client: str, body: m.Reserve) -> m.Reservations:
        """InvalidArgumentError for such a duration, OutOfRangeError where so many ranks are not there to be had."""
        expires = _expiry("reserve", body.duration_s)
        name = uuid.uuid4().hex[:12]
        return self._stand(name, self._schedule.claim(name, client, body.ranks, expires), body.duration_s)

    def renew(self, body: m.Renew) -> m.Reservations:
        """So long from now on. Raises NotFoundError for one that has ended."""
        claim = self._schedule.renew(body.reservation_id, _expiry("renew", body.duration_s))
        return self._stand(body.reservation_id, claim, body.duration_s)

    def _stand(self, name: str, claim: Claim, duration_s: float) -> m.Reservations:
        self._ledger.claim(name, claim)
        self._outside.later(duration_s, self._expire)
        return m.Reservations((_reservation(name, claim),))

    def release(self, name: str) -> None:
        """NotFoundError for one that has ended."""
        self._schedule.release(name)
        self._ledger.unclaim([name])

    def list(self) -> m.Reservations:
        return m.Reservations(tuple(_reservation(name, claim) for name, claim in self._schedule.claims.items()))

    def _expire(self) -> None:
        self._ledger.unclaim(self._schedule.expire(time.time() + _CLOCK_SLACK_S))
        self._on_expiry()


def _expiry(call: str, duration_s: float) -> float:
    if not (math.isfinite(duration_s) and 0 < duration_s <= _LONGEST_S):
        raise InvalidArgumentError(f"{call}: a duration of {duration_s} s found, between 0 and 1e7 s needed")
    return time.time() + duration_s


def _reservation(name: str, claim: Claim) -> Reservation:
    return Reservation(name, claim.ranks.bit_count(), claim.expires)
