"""Cover: split steps into a short row of sets of wires, so that each step finds the wires it mixes in one of them.

The planner asks this twice: for the wires that are local in each stage, and for those of the block of each sweep. Every
set takes what is ready, first come, first served; then single wires are traded as long as the whole row becomes
shorter (the pilot method: what a choice is worth is found by finishing the plan in the simple way). Compiled, because
a plan tries thousands of rows. Knows nothing but masks.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qsimenv.statevec.kernel_cache import njit
from qsimenv.statevec.planning.steps import Masks

_WINDOW = 1024
"""So many steps are looked at to judge a choice; a longer circuit is covered piece by piece."""
_HORIZON = 4
"""So many sets: a choice that pays later than that is not seen, one that pays earlier stands out more."""
_SET, _MOVED = 1 << 44, 1 << 24
"""What one more set and one more new wire weigh in a score, against one step that waits for one set."""

_options = {"nogil": True, "cache": True}


class Cover(NamedTuple):
    """``sets``: masks of wires; ``members``: the steps that each takes, in order; ``score``: less is better."""

    sets: list[int]
    members: list[npt.NDArray[np.int32]]
    score: int

    def part(self, chosen: slice) -> Cover:
        """Some of the sets."""
        return Cover(self.sets[chosen], self.members[chosen], 0)


def cover(
    mixed: Masks,
    used: Masks,
    members: npt.NDArray[np.int32],
    allowed: int,
    base: int,
    size: int,
    start: int = -1,
    count_moves: bool = False,
    visits: int = 0,
    fill_first: bool = False,
) -> Cover:
    """Cover ``members`` with sets of at most ``size`` wires out of ``allowed``, each with all of ``base``.

    ``start``: the first set, where it is given. ``count_moves``: among rows of equal length prefer those whose sets
    differ least. ``visits``: how many steps may be looked at to choose one set (some 2 ns
    each); 0 takes what comes first. ``fill_first``: the first set should take all it can, even if no row is shorter.
    """
    sets, ends, order, score = _cover(mixed, used, members, allowed, base, size, start, count_moves, visits, fill_first)
    edges = [0, *(int(end) for end in ends)]
    return Cover(
        [int(each) for each in sets],
        [order[first:last] for first, last in pairwise(edges)],
        int(score),
    )


@njit(**_options)
def _size(mask):
    count = 0
    while mask:
        mask &= mask - 1
        count += 1
    return count


@njit(**_options)
def _take(mixed, used, todo, count, chosen, allowed, size, everything, left, taken):
    """Take what fits and let ``chosen`` grow up to ``size``; what is left, in order, into ``left`` (may be ``todo``).

    Returns (chosen, steps left, steps taken). A step waits for those left before it on a wire that one of them mixes.
    """
    late_mixed = late_used = np.int64(0)
    room = size - _size(chosen)
    kept = done = 0
    for k in range(count):
        step = todo[k]
        m, u = mixed[step], used[step]
        if u & late_mixed == 0 and m & late_used == 0:
            new = m & ~chosen
            grows = 0 if new == 0 else _size(new)
            if grows <= room and new & ~allowed == 0:
                chosen |= new
                room -= grows
                taken[done] = step
                done += 1
                continue
        late_mixed |= m
        late_used |= u
        left[kept] = step
        kept += 1
        if late_mixed == everything:
            for rest in range(k + 1, count):
                left[kept] = todo[rest]
                kept += 1
            break
    return chosen, kept, done


@njit(**_options)
def _score(mixed, used, todo, count, chosen, before, allowed, base, size, everything, count_moves, room, taken):
    """What the row costs that starts with ``chosen`` and goes on with what comes first. Returns (score, visits)."""
    score, visits = np.int64(0), 0
    source = todo
    for _ in range(_HORIZON):
        if count == 0:
            break
        visits += count
        chosen, left, _ = _take(mixed, used, source, count, chosen, allowed, size, everything, room, taken)
        if left == count:
            return np.int64(1) << 62, visits
        score += _SET + left
        if count_moves:
            score += _MOVED * _size(chosen & ~before)
            before = chosen
        source, count, chosen = room, left, base
    return score, visits


@njit(**_options)
def _improve(mixed, used, todo, count, chosen, before, allowed, base, size, everything, count_moves, visits, fewest):
    """Trade single wires of the next set while that makes the row better, and it is at least ``fewest`` sets long."""
    room, taken = np.empty(count, np.int32), np.empty(count, np.int32)
    best, spent = _score(
        mixed, used, todo, count, chosen, before, allowed, base, size, everything, count_moves, room, taken
    )
    visits -= spent
    improved = True
    while improved and visits > 0 and best >= fewest * _SET:
        improved = False
        for out in range(63):
            if not (chosen & ~base) >> out & 1:
                continue
            for into in range(63):
                if not (allowed & ~chosen) >> into & 1:
                    continue
                other = chosen ^ (np.int64(1) << out) ^ (np.int64(1) << into)
                score, spent = _score(
                    mixed, used, todo, count, other, before, allowed, base, size, everything, count_moves, room, taken
                )
                visits -= spent
                if score < best:
                    best, chosen, improved = score, other, True
                    break
                if visits <= 0:
                    break
            if visits <= 0:
                break
    return chosen


@njit(**_options)
def _cover(mixed, used, members, allowed, base, size, start, count_moves, visits, fill_first):
    count = members.shape[0]
    todo, taken = members.copy(), np.empty(count, np.int32)
    sets, ends, order = np.empty(count + 1, np.int64), np.empty(count + 1, np.int64), np.empty(count, np.int32)
    everything = np.int64(0)
    for step in members:
        everything |= mixed[step]
    number, placed, score = 0, 0, np.int64(0)
    before = np.int64(-1) if start < 0 else np.int64(start)
    scratch = np.empty(min(count, _WINDOW), np.int32)
    while count:
        near = min(count, _WINDOW)
        chosen = base
        if number == 0 and start >= 0:
            chosen = np.int64(start)
        elif visits > 0:
            chosen, _, _ = _take(mixed, used, todo, near, base, allowed, size, everything, scratch, taken)
            fewest = 2 if count_moves or (fill_first and number == 0) else 3
            chosen = _improve(
                mixed, used, todo, near, chosen, before, allowed, base, size, everything, count_moves, visits, fewest
            )
        chosen, left, done = _take(mixed, used, todo, count, chosen, allowed, size, everything, todo, taken)
        if done == 0 and not (number == 0 and start >= 0):
            break
        order[placed : placed + done] = taken[:done]
        placed += done
        sets[number], ends[number] = chosen, placed
        number += 1
        score += _SET + left
        if count_moves:
            score += _MOVED * _size(chosen & ~before)
            before = chosen
        count = left
    return sets[:number], ends[:number], order[:placed], score


@njit(**_options)
def by_layer(mixed, used, affine, members):
    """The same steps in layers: by turns those that are affine (or mix nothing), and the others, one on a wire.

    So a network of CX, or a row of rotations, comes in one piece. ``affine`` has a flag for each step.
    """
    layers, mixed_in, used_in = np.empty(members.shape[0], np.int64), np.ones(63, np.int64), np.ones(63, np.int64)
    for k in range(members.shape[0]):
        m, u = mixed[members[k]], used[members[k]]
        last = np.int64(1)
        for wire in range(63):
            if m >> wire & 1:
                last = max(last, used_in[wire])
            elif u >> wire & 1:
                last = max(last, mixed_in[wire])
        layers[k] = last | 1 if m == 0 or affine[members[k]] else (last + 2) & ~1
        for wire in range(63):
            if m >> wire & 1:
                mixed_in[wire] = layers[k]
            if u >> wire & 1:
                used_in[wire] = max(used_in[wire], layers[k])
    return _sorted(members, layers)


@njit(**_options)
def _sorted(members, layers):
    """The steps by layer, those of one layer as they were: a counting sort."""
    places = np.zeros(layers.max() + 2 if layers.shape[0] else 1, np.int64)
    for each in layers:
        places[each + 1] += 1
    places = np.cumsum(places)
    ordered = np.empty_like(members)
    for k in range(members.shape[0]):
        ordered[places[layers[k]]] = members[k]
        places[layers[k]] += 1
    return ordered
