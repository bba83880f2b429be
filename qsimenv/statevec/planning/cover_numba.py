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

from qsimenv.statevec.kernel_cache import njit, part
from qsimenv.statevec.planning.steps import Masks

_WINDOW = 1024
"""So many steps are looked at to judge a choice; a longer circuit is covered piece by piece."""
_HORIZON = 4
"""So many sets: a choice that pays later than that is not seen, one that pays earlier stands out more."""
SET, _MOVED = 1 << 44, 1 << 24
"""What one more set and one more new wire weigh in a score, against one step that waits for one set."""
_WORK = SET // 14
"""What turning one wire weighs against moving the state."""
_LIGHT = SET // 40
"""The same for a search that looks for few sets; which of both found more is seen by ``_WORK``."""
_LEAST_BITS = 20
"""A sweep costs at least what one over so many bits does, however small the state is still."""
_GAIN = 5
"""A row must be shorter by the score's part 2**-5 to leave wires to a later set."""

_options = {"nogil": True}


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
    work: Masks | None = None,
    searches: int = 2,
) -> Cover:
    """Cover ``members`` with sets of at most ``size`` wires out of ``allowed``, each with all of ``base``.

    ``start``: the first set, where it is given. ``count_moves``: among rows of equal length prefer those whose sets
    differ least. ``visits``: how many steps may be looked at to choose one set (some 2 ns
    each); 0 takes what comes first. ``work``, where the state is |0…0> before: what each step does in a sweep, as a
    number of wires that are turned. A sweep is then cheaper by half for each wire that nothing has mixed yet, so that
    early sets take few new ones. ``searches``: 1 or 2; the second one weighs work as it is, and parts more willingly.
    """
    circuit, limits = (mixed, used, members), (allowed, base, size, start, count_moves)
    if work is None:
        nothing = np.zeros(0, np.int64)
        return _made(*_cover(*circuit, *limits, visits, nothing, nothing))
    weights = work * _WORK
    light = np.minimum(work, np.bitwise_count(mixed)) * _LIGHT
    found = _made(*_cover(*circuit, *limits, visits // 2, light, weights))
    if searches == 1 or len(found.sets) == 1:
        return found
    return min(found, _made(*_cover(*circuit, *limits, visits // 2, weights, weights)), key=lambda each: each.score)


def _made(sets: Masks, ends: Masks, order: npt.NDArray[np.int32], score: int) -> Cover:
    edges = [0, *(int(end) for end in ends)]
    return Cover(sets.tolist(), [order[first:last] for first, last in pairwise(edges)], int(score))


@part(**_options)
def _size(mask):
    count = 0
    while mask:
        mask &= mask - 1
        count += 1
    return count


@part(**_options)
def _take(mixed, used, todo, count, chosen, allowed, size, everything, fresh, most_fresh, left, taken):
    """Take what fits and let ``chosen`` grow up to ``size``; what is left, in order, into ``left`` (may be ``todo``).

    At most ``most_fresh`` of the wires are out of ``fresh``. Returns (chosen, steps left, steps taken). A step waits
    for those left before it on a wire that one of them mixes.
    """
    late_mixed = late_used = np.int64(0)
    room, fresh_room = size - _size(chosen), most_fresh - _size(chosen & fresh)
    kept = done = 0
    for k in range(count):
        step = todo[k]
        m, u = mixed[step], used[step]
        if u & late_mixed == 0 and m & late_used == 0:
            new = m & ~chosen
            grows = 0 if new == 0 else _size(new)
            grows_fresh = 0 if new & fresh == 0 else _size(new & fresh)
            if grows <= room and grows_fresh <= fresh_room and new & ~allowed == 0:
                chosen |= new
                room -= grows
                fresh_room -= grows_fresh
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


@part(**_options)
def _is_spread(mixed, used, step, fresh):
    """Whether a step only turns a wire out of ``fresh``: a sweep does that as it loads its blocks."""
    m = mixed[step]
    return m & fresh != 0 and m == used[step] and m & (m - 1) == 0


@part(**_options)
def _work(weights, mixed, used, steps, count, fresh):
    """What some steps weigh in a sweep over the whole state, before which nothing has mixed the wires ``fresh``;
    nothing where that is not counted."""
    total, first = np.int64(0), 0
    if weights.shape[0] == 0:
        return total
    while fresh and first < count:
        if not _is_spread(mixed, used, steps[first], fresh):
            total += weights[steps[first]]
        fresh &= ~mixed[steps[first]]
        first += 1
    for k in range(first, count):
        total += weights[steps[k]]
    return total


@part(**_options)
def _weight(fresh, everything, work):
    """What a set weighs after which nothing has mixed the wires ``fresh`` yet."""
    least = SET >> max(0, _size(everything) - _LEAST_BITS)
    return max((SET + work) >> _size(fresh), least)


@part(**_options)
def _score(
    mixed, used, todo, count, chosen, before, allowed, base, size, everything, count_moves, weights, fresh, most_fresh,
    room, taken,
):  # fmt: skip
    """What the row costs that starts with ``chosen`` and goes on with what comes first. Returns (score, visits)."""
    score, visits = np.int64(0), 0
    source = todo
    for _ in range(_HORIZON):
        if count == 0:
            break
        visits += count
        chosen, left, done = _take(
            mixed, used, source, count, chosen, allowed, size, everything, fresh, most_fresh, room, taken
        )
        if left == count:
            return np.int64(1) << 62, visits
        work = _work(weights, mixed, used, taken, done, fresh)
        fresh &= ~chosen
        most_fresh = 64
        score += _weight(fresh, everything, work) + left
        if count_moves:
            score += _MOVED * _size(chosen & ~before)
            before = chosen
        source, count, chosen = room, left, base
    return score + _work(weights, mixed, used, source, count, fresh), visits


@part(**_options)
def _needed_first(mixed, used, todo, count, fresh, few):
    """At most so many of the fresh wires: those that steps mix first which are more than a spread."""
    chosen, untouched = np.int64(0), fresh
    for k in range(count):
        new = mixed[todo[k]] & fresh & ~chosen
        if new and not _is_spread(mixed, used, todo[k], untouched) and _size(new | chosen) <= few:
            chosen |= new
            if _size(chosen) == few:
                break
        untouched &= ~mixed[todo[k]]
    return chosen


@part(**_options)
def _few_fresh(
    mixed, used, todo, count, before, allowed, base, size, everything, count_moves, weights, fresh, room, taken
):
    """How many fresh wires the next set should have at most: as many as can be, unless the row is cheaper with less."""
    most = min(size - _size(base), _size(fresh))
    found, best = 64, np.int64(0)
    for few in range(most, -1, -1):
        first = base | _needed_first(mixed, used, todo, count, fresh, few)
        chosen, _, done = _take(mixed, used, todo, count, first, allowed, size, everything, fresh, few, room, taken)
        if done == 0:
            break
        score, _ = _score(
            mixed, used, todo, count, chosen, before, allowed, base, size, everything, count_moves, weights, fresh, few,
            room, taken,
        )  # fmt: skip
        if few == most or score < best - (best >> _GAIN):
            found, best = few, score
    return found


@part(**_options)
def _best_window(
    mixed, used, todo, count, chosen, before, allowed, base, size, everything, count_moves, weights, fresh, most_fresh,
    fewest,
):  # fmt: skip
    """The next set, or wires that follow one another if the row is better with them.

    A chain of gates may begin at the last wire, and a layer of rotations before it at the first.
    """
    room, taken = np.empty(count, np.int32), np.empty(count, np.int32)
    best, _ = _score(
        mixed, used, todo, count, chosen, before, allowed, base, size, everything, count_moves, weights, fresh,
        most_fresh, room, taken,
    )  # fmt: skip
    wires = [wire for wire in range(63) if (allowed & everything & ~base) >> wire & 1]
    width = size - _size(base)
    if best < fewest * SET or width <= 0:
        return chosen
    for first in range(len(wires) - width + 1):
        other = base
        for wire in wires[first : first + width]:
            other |= np.int64(1) << wire
        if _size(other & fresh) <= most_fresh:
            score, _ = _score(
                mixed, used, todo, count, other, before, allowed, base, size, everything, count_moves, weights, fresh,
                most_fresh, room, taken,
            )  # fmt: skip
            if score < best:
                best, chosen = score, other
    return chosen


@part(**_options)
def _improve(
    mixed, used, todo, count, chosen, before, allowed, base, size, everything, count_moves, weights, fresh, most_fresh,
    visits, fewest,
):  # fmt: skip
    """Trade single wires of the next set while that makes the row better, and it is at least ``fewest`` sets long."""
    room, taken = np.empty(count, np.int32), np.empty(count, np.int32)
    best, spent = _score(
        mixed, used, todo, count, chosen, before, allowed, base, size, everything, count_moves, weights, fresh,
        most_fresh, room, taken,
    )  # fmt: skip
    visits -= spent
    improved = True
    while improved and visits > 0 and best >= fewest * SET:
        improved = False
        for out in range(63):
            if not (chosen & ~base) >> out & 1:
                continue
            for into in range(63):
                if not (allowed & ~chosen) >> into & 1:
                    continue
                other = chosen ^ (np.int64(1) << out) ^ (np.int64(1) << into)
                if _size(other & fresh) > most_fresh:
                    continue
                score, spent = _score(
                    mixed, used, todo, count, other, before, allowed, base, size, everything, count_moves, weights,
                    fresh, most_fresh, room, taken,
                )  # fmt: skip
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
def _cover(mixed, used, members, allowed, base, size, start, count_moves, visits, weights, judged):
    """``weights``: of the steps, for the search; ``judged``: for the score.

    With ``weights`` all that is mixed is fresh at first."""
    count = members.shape[0]
    todo, taken = members.copy(), np.empty(count, np.int32)
    sets, ends, order = np.empty(count + 1, np.int64), np.empty(count + 1, np.int64), np.empty(count, np.int32)
    everything = np.int64(0)
    for step in members:
        everything |= mixed[step]
    grows = weights.shape[0] > 0
    fresh = everything if grows else np.int64(0)
    number, placed, score = 0, 0, np.int64(0)
    before = np.int64(-1) if start < 0 else np.int64(start)
    scratch = np.empty(min(count, _WINDOW), np.int32)
    while count:
        near = min(count, _WINDOW)
        chosen, most_fresh = base, 64
        if number == 0 and start >= 0:
            chosen = np.int64(start)
        elif visits > 0:
            if number > 0 and fresh:
                most_fresh = _few_fresh(
                    mixed, used, todo, near, before, allowed, base, size, everything, count_moves, weights, fresh,
                    scratch, taken,
                )  # fmt: skip
            first = base | _needed_first(mixed, used, todo, near, fresh, most_fresh) if most_fresh < 64 else base
            chosen, _, _ = _take(
                mixed, used, todo, near, first, allowed, size, everything, fresh, most_fresh, scratch, taken
            )
            fewest = 1 if grows and number == 0 else 2 if grows or count_moves else 3
            if number == 0 or fresh:
                chosen = _best_window(
                    mixed, used, todo, near, chosen, before, allowed, base, size, everything, count_moves, weights,
                    fresh, most_fresh, fewest,
                )  # fmt: skip
            chosen = _improve(
                mixed, used, todo, near, chosen, before, allowed, base, size, everything, count_moves, weights, fresh,
                most_fresh, visits, fewest,
            )  # fmt: skip
        chosen, left, done = _take(
            mixed, used, todo, count, chosen, allowed, size, everything, fresh, most_fresh, todo, taken
        )
        if done == 0 and not (number == 0 and start >= 0):
            break
        for k in range(done):
            order[placed + k] = taken[k]
        placed += done
        sets[number], ends[number] = chosen, placed
        number += 1
        work = _work(judged, mixed, used, taken, done, fresh)
        fresh &= ~chosen
        score += _weight(fresh, everything, work) + left
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


@part(**_options)
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
