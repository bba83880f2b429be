"""Who runs next, and on which ranks: a value and pure functions of it, without clock, sockets or tasks' contents.

Ranks are handed out in aligned blocks of a power of two, the tightest gap that fits, so that wide gaps stay whole.
Higher priorities start first, then applications that have the most credits left (``credits``), then what was submitted
first. Where the first in line finds no block, it *holds* the block that has the fewest
busy ranks: nobody else gets a rank of it, so it only empties and the wide task cannot starve; later tasks that fit
go around it on the other ranks. A rank at work on small tasks gets its next ones beforehand where nobody else waits
(``ahead``), so that it need not idle while its answers travel. Sets of ranks are integers, bit k for rank k: a search
costs a few operations on them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from qsimenv.errors import NotFoundError, OutOfRangeError
from qsimenv.qpm_plugin.credits import Credits

BUNDLE_TASKS = 64
BUNDLE_SECONDS = 0.02
SMALL_SECONDS = 0.1
"""One-rank tasks estimated below this travel together, as many as a rank does in BUNDLE_SECONDS."""
BUNDLES_A_SECOND = 2000
"""What a controller starts and still has most of its time for answers and clients. The more ranks there are, the longer
are the bundles that keep it below that, while the queue is long: a rank falls free as often as before, so that nobody
waits for longer."""
_BUNDLES_A_RANK = 16
"""A longer bundle holds at most this share of a rank's part of the queue: towards its end all ranks have work."""
_AHEAD_A_RANK = 4
"""Ranks get a second bundle only while so many tasks a rank wait: towards the end whoever is idle takes the next."""
ALONE_ATTEMPTS = 2
"""A task that was running at this many deaths of instances runs next with nothing beside it: is it to blame?"""


class Item(NamedTuple):
    """A task as the scheduler sees it. ``order`` is unique and grows with submission; ``width`` is a power of two."""

    task_id: str
    order: int
    client: str
    width: int
    seconds: float = 0.0
    attempts: int = 0
    pinned: tuple[int, ...] = ()
    application: str = ""
    priority: int = 0
    is_timed: bool = False
    """Whether its time runs from its launch: it does not wait behind others on its ranks."""

    @property
    def lane(self) -> Lane:
        """The queue in which it waits; what shares a lane fits where the others of it fit."""
        free_to_wait = not (self.attempts or self.pinned or self.is_timed)
        small = self.width == 1 and self.seconds < SMALL_SECONDS and free_to_wait
        alone = self.attempts >= ALONE_ATTEMPTS
        application = self.application or self.client
        return Lane(self.client, self.width, small, alone, self.pinned, application, self.priority)


class Lane(NamedTuple):
    client: str
    width: int
    small: bool
    alone: bool
    pinned: tuple[int, ...]
    application: str
    priority: int


class Urgency(NamedTuple):
    """What waits is ordered by this."""

    priority: int
    spent: bool
    share: float
    order: int


class Placement(NamedTuple):
    """Start these tasks, one after the other, on the team of these ranks."""

    task_ids: tuple[str, ...]
    ranks: tuple[int, ...]


class Claim(NamedTuple):
    """The ranks (a set as a number) kept for ``client`` until ``expires``."""

    client: str
    ranks: int
    expires: float


@dataclass(eq=False)
class _Occupation:
    """Ranks that work for ``application`` until ``left`` more tasks have ended."""

    ranks: int
    application: str
    left: int


@dataclass
class Schedule:
    """The whole state: ``size`` ranks, which are ``free``, what waits (by lane), what runs (where, and how many
    rank-seconds each takes), and the claims."""

    size: int = 0
    free: int = 0
    waiting: dict[str, Item] = field(default_factory=dict)
    lanes: dict[Lane, list[tuple[int, str]]] = field(default_factory=dict)
    running: dict[str, tuple[_Occupation, float]] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    credits: Credits = field(default_factory=Credits)
    looks_ahead: bool = False
    """Whether ranks get small tasks before they have ended the last ones."""
    ahead: int = 0
    """The ranks that have such tasks."""
    _on_small: int = 0
    """The ranks at work on small tasks."""
    _holding: tuple[Lane, int, int, int] | None = None
    """Who was the first in line without a block at the last look, its task's order, the ranks it might get, and those
    that it holds."""

    def restart(self, size: int) -> None:
        """A new instance of ``size`` free ranks; 0 while there is none. What ran is forgotten, what waits waits."""
        self.size, self.free = size, (1 << size) - 1
        self.ahead = self._on_small = 0
        self.running.clear()
        self.credits.clear()

    @property
    def has_room(self) -> bool:
        """Whether a rank can be given anything."""
        return bool(self.free or (self.looks_ahead and self._on_small & ~self.ahead))

    @property
    def max_width(self) -> int:
        """The widest team there can be; 0 without an instance."""
        return 1 << (self.size.bit_length() - 1) if self.size else 0

    def add(self, item: Item) -> None:
        """Let a task wait; one that comes back keeps its ``order`` and so goes to the front. O(log n)."""
        self.waiting[item.task_id] = item
        heapq.heappush(self.lanes.setdefault(item.lane, []), (item.order, item.task_id))

    def withdraw(self, task_id: str) -> bool:
        """Take a waiting task out; whether it waited. O(1)."""
        return self.waiting.pop(task_id, None) is not None

    def finish(self, task_id: str) -> None:
        """A running task has ended: its ranks are free when the last of its bundle has. Unknown tasks are ignored."""
        found = self.running.pop(task_id, None)
        if found is None:
            return
        occupation, cost = found
        self.credits.give_back(occupation.application, cost)
        occupation.left -= 1
        if not occupation.left:
            emptied = occupation.ranks & ~self.ahead
            self.free |= emptied
            self._on_small &= ~emptied
            self.ahead &= ~occupation.ranks

    def claim(self, claim_id: str, client: str, ranks: int, expires: float) -> Claim:
        """Keep ``ranks`` ranks for ``client``, idle ones first; busy ones are kept once their task ends.

        OutOfRangeError where so many are not there or already kept for somebody.
        """
        open_ranks = (1 << self.size) - 1 & ~self._claimed_by_others("")
        if not 0 < ranks <= open_ranks.bit_count():
            raise OutOfRangeError(
                f"reserve: {ranks} ranks asked for, {open_ranks.bit_count()} of {self.size} can be reserved now"
            )
        width = 1 << (ranks - 1).bit_length()
        start = _gap(open_ranks & self.free, width)
        if start is None:
            start = _gap(open_ranks, width) or 0
        chosen = _lowest(open_ranks >> start << start, ranks)
        chosen |= _lowest(open_ranks & ~chosen, ranks - chosen.bit_count())
        self.claims[claim_id] = Claim(client, chosen, expires)
        return self.claims[claim_id]

    def renew(self, claim_id: str, expires: float) -> Claim:
        """Move the end of a claim. NotFoundError where it has ended."""
        if claim_id not in self.claims:
            raise NotFoundError(f"renew: reservation {claim_id!r} is not known or has expired; reserve again")
        self.claims[claim_id] = self.claims[claim_id]._replace(expires=expires)
        return self.claims[claim_id]

    def release(self, claim_id: str) -> None:
        """End a claim. NotFoundError where it has ended."""
        if self.claims.pop(claim_id, None) is None:
            raise NotFoundError(f"release: reservation {claim_id!r} is not known or has expired")

    def expire(self, now: float) -> list[str]:
        """End the claims whose time is over; which they were."""
        over = [claim_id for claim_id, claim in self.claims.items() if claim.expires <= now]
        for claim_id in over:
            del self.claims[claim_id]
        return over

    def next_launches(self) -> list[Placement]:
        """Start what can start now; the state then says that it runs. O(lanes + launches), each times a log."""
        lanes = list(self.lanes) if self.free else []
        heads = [(key, lane) for lane in lanes if (key := self._urgency(lane)) is not None]
        heapq.heapify(heads)
        launches: list[Placement] = []
        held = 0
        while heads and self.free & ~held:
            key, lane = heapq.heappop(heads)
            now = self._urgency(lane)
            if now != key:  # its application has taken credits meanwhile
                heapq.heappush(heads, (now or key, lane))
                continue
            usable = self.free & ~held & ~self._claimed_by_others(lane.client)
            ranks = self._find(lane, usable)
            if ranks is None:
                held = held or self._hold(lane)
                continue
            launches.append(self._start(lane, ranks, usable.bit_count()))
            key_of_next = self._urgency(lane)
            if key_of_next is not None:
                heapq.heappush(heads, (key_of_next, lane))
        return launches + self._launches_ahead() if self.looks_ahead else launches

    def _launches_ahead(self) -> list[Placement]:
        """Second bundles for the ranks that work on small tasks and have none."""
        launches: list[Placement] = []
        ranks = self._on_small & ~self.ahead & ~self.free
        while ranks and (lane := self._lane_ahead()) is not None:
            first = ranks & -ranks
            launches.append(self._start(lane, (first.bit_length() - 1,), self.size))
            self.ahead |= first
            ranks &= ~first
        return launches

    def _lane_ahead(self) -> Lane | None:
        """The lane that second bundles come from: one of short tasks, many of them, and nothing else waits."""
        lane = self._only_lane()
        if lane is None or not lane.small or self.claims:
            return None
        queue = self.lanes[lane]
        too_few = len(queue) < _AHEAD_A_RANK * self.size
        return None if too_few or self.waiting[queue[0][1]].seconds > BUNDLE_SECONDS else lane

    def _only_lane(self) -> Lane | None:
        """The lane in which all that waits waits; None where there are several, or none."""
        found: Lane | None = None
        for lane in list(self.lanes):
            if self._first(lane) is not None:
                if found is not None:
                    return None
                found = lane
        return found

    def _urgency(self, lane: Lane) -> Urgency | None:
        """What lanes are ordered by, the smallest first; None for one that is empty."""
        order = self._first(lane)
        if order is None:
            return None
        return Urgency(-lane.priority, *self.credits.rank(lane.application, self.size), order)

    def _first(self, lane: Lane) -> int | None:
        """The order of the lane's first task; forgets those that were withdrawn, and an empty lane."""
        heap = self.lanes.get(lane, [])
        while heap:
            if heap[0][1] in self.waiting:
                return heap[0][0]
            heapq.heappop(heap)
        self.lanes.pop(lane, None)
        return None

    def _find(self, lane: Lane, usable: int) -> tuple[int, ...] | None:
        if lane.pinned:
            wanted = _mask(lane.pinned)
            return lane.pinned if usable & wanted == wanted else None
        if lane.alone and self.running:
            return None
        own = usable & self._claimed_by(lane.client)
        for ranks in (own, usable) if own else (usable,):
            start = _gap(ranks, lane.width)
            if start is not None:
                return tuple(range(start, start + lane.width))
        return None

    def _hold(self, lane: Lane) -> int:
        """The ranks kept from others so that the first in line will find its block; 0 where claims are in the way."""
        allowed = (1 << self.size) - 1 & ~self._claimed_by_others(lane.client)
        if lane.pinned:
            wanted = _mask(lane.pinned)
            return wanted if allowed & wanted == wanted else 0
        if lane.alone:
            return (1 << self.size) - 1
        place = (lane, self._first(lane) or 0, allowed)
        if self._holding is None or self._holding[:3] != place:
            self._holding = (*place, self._emptiest(lane, allowed))
        return self._holding[3]

    def _emptiest(self, lane: Lane, allowed: int) -> int:
        """The block of allowed ranks of which the fewest are busy; 0 where there is none. O(ranks)."""
        block = (1 << lane.width) - 1
        blocks = (block << start for start in range(0, self.size - lane.width + 1, lane.width))
        open_blocks = (ranks for ranks in blocks if ranks & allowed == ranks)
        return min(open_blocks, key=lambda ranks: (ranks & ~self.free).bit_count(), default=0)

    def _start(self, lane: Lane, ranks: tuple[int, ...], idle: int) -> Placement:
        bundle = self._bundle(lane, idle)
        occupied = self.free if lane.alone else _mask(ranks)
        occupation = _Occupation(occupied, lane.application, len(bundle))
        for task_id, seconds in bundle:
            self.running[task_id] = occupation, seconds * lane.width
        self.credits.take(lane.application, lane.width * sum(seconds for _, seconds in bundle))
        self.free &= ~occupied
        if lane.small:
            self._on_small |= occupied
        return Placement(tuple(task_id for task_id, _ in bundle), ranks)

    def _bundle(self, lane: Lane, idle: int) -> list[tuple[str, float]]:
        """The lane's first task, and where tasks are small its fair share of those behind it; with their seconds."""
        queue = self.lanes[lane]
        most, limit_s = 1, 0.0
        if lane.small:
            most = min(BUNDLE_TASKS, -(-len(queue) // idle))
            share_s = len(queue) * self.waiting[queue[0][1]].seconds / (self.size * _BUNDLES_A_RANK)
            limit_s = max(BUNDLE_SECONDS, min(self.size / BUNDLES_A_SECOND, share_s))
        taken: list[tuple[str, float]] = []
        total = 0.0
        while not taken or (len(taken) < most and total < limit_s and self._first(lane) is not None):
            task_id = heapq.heappop(queue)[1]
            seconds = self.waiting.pop(task_id).seconds
            total += seconds
            taken.append((task_id, seconds))
        return taken

    def _claimed_by(self, client: str) -> int:
        if not self.claims:
            return 0
        return _union(claim.ranks for claim in self.claims.values() if claim.client == client)

    def _claimed_by_others(self, client: str) -> int:
        if not self.claims:
            return 0
        return _union(claim.ranks for claim in self.claims.values() if claim.client != client)


def _mask(ranks: tuple[int, ...]) -> int:
    return sum(1 << rank for rank in ranks)


def _union(sets: Iterable[int]) -> int:
    total = 0
    for ranks in sets:
        total |= ranks
    return total


def _lowest(mask: int, count: int) -> int:
    chosen = 0
    for _ in range(min(count, mask.bit_count())):
        chosen |= (mask & -mask) & ~chosen
        mask &= mask - 1
    return chosen


def _gap(usable: int, width: int) -> int | None:
    """The first rank of an aligned block of ``width`` usable ranks, in the tightest gap there is; None without one."""
    blocks, span = usable, 1
    while span < width:
        blocks = _merged(blocks, span)
        span *= 2
    while blocks:
        wider = _merged(blocks, span)
        tight = blocks & ~(wider | wider << span)
        if tight:
            return (tight & -tight).bit_length() - 1
        blocks, span = wider, span * 2
    return None


def _merged(blocks: int, span: int) -> int:
    """From the starts of usable blocks of ``span`` to those of twice the span, aligned."""
    pairs = blocks & blocks >> span
    return pairs & _aligned(pairs.bit_length(), span * 2)


def _aligned(length: int, span: int) -> int:
    """Bits 0, span, 2 span, … below ``length`` rounded up."""
    count = -(-length // span)
    return ((1 << count * span) - 1) // ((1 << span) - 1)
