"""The scheduler on values: who starts, where, and who must not starve."""

from __future__ import annotations

import random

import pytest

from benchmarks.overheads import long_queue, run_some
from qsimenv.errors import NotFoundError, OutOfRangeError
from qsimenv.qpm_plugin.scheduler import BUNDLE_TASKS, BUNDLES_A_SECOND, Item, Placement, Schedule
from tests.calls import calls_of


def schedule(size: int, *items: Item) -> Schedule:
    made = Schedule()
    made.restart(size)
    for item in items:
        made.add(item)
    return made


def wide(order: int, width: int, client: str = "a", **options: object) -> Item:
    return Item(f"t{order}", order, client, width, seconds=1.0, **options)  # type: ignore[arg-type]


def started(placements: list[Placement]) -> list[tuple[str, tuple[int, ...]]]:
    return [(task_id, placement.ranks) for placement in placements for task_id in placement.task_ids]


def test_tasks_start_in_order_on_aligned_blocks():
    made = schedule(8, wide(0, 1), wide(1, 4), wide(2, 2))
    assert started(made.next_launches()) == [("t0", (0,)), ("t1", (4, 5, 6, 7)), ("t2", (2, 3))]
    assert made.free == 0b10


def test_a_small_task_takes_the_tightest_gap():
    made = schedule(8, wide(0, 1), wide(1, 1))
    assert started(made.next_launches()) == [("t0", (0,)), ("t1", (1,))]


def test_a_size_that_is_no_power_of_two_is_used_to_the_last_rank():
    made = schedule(6, *(wide(k, 2) for k in range(3)))
    assert [ranks for _, ranks in started(made.next_launches())] == [(4, 5), (0, 1), (2, 3)]
    assert made.max_width == 4


def test_small_tasks_go_around_a_wide_one_that_waits_and_do_not_starve_it():
    made = schedule(4, *(wide(k, 1) for k in range(4)))
    made.next_launches()
    made.add(wide(4, 2))
    for order in range(5, 20):
        made.add(wide(order, 1))
    made.finish("t0")
    assert made.next_launches() == []  # rank 0 is held: with rank 1 it is the first block that can become free
    made.finish("t3")
    assert started(made.next_launches()) == [("t5", (3,))]
    made.finish("t1")
    assert started(made.next_launches()) == [("t4", (0, 1))]


@pytest.mark.parametrize("seed", range(20))
def test_random_loads_never_overlap_and_wide_tasks_start_soon(seed):
    rng = random.Random(seed)  # noqa: S311 - a test
    size = rng.choice([1, 2, 3, 4, 6, 8, 16, 24])
    made = schedule(size)
    waits: dict[str, int] = {}
    running: dict[str, tuple[int, ...]] = {}
    order = 0
    for step in range(400):
        if step < 300:
            width = 1 << rng.randrange(made.max_width.bit_length())
            made.add(wide(order, width, client=rng.choice("ab")))
            waits[f"t{order}"] = step
            order += 1
        for task_id, ranks in started(made.next_launches()):
            taken = {rank for others in running.values() for rank in others}
            assert not taken.intersection(ranks)
            assert ranks[0] % len(ranks) == 0
            assert ranks[-1] < size
            assert len(ranks) & (len(ranks) - 1) == 0
            running[task_id] = ranks
            del waits[task_id]
        for task_id in rng.sample(sorted(running), k=min(len(running), rng.randrange(1, 4))):
            made.finish(task_id)
            del running[task_id]
    while waits:  # everything starts in the end
        for task_id, ranks in started(made.next_launches()):
            running[task_id] = ranks
            del waits[task_id]
        assert running
        made.finish(running.popitem()[0])


def test_what_is_withdrawn_never_starts():
    made = schedule(1, wide(0, 1), wide(1, 1))
    assert made.withdraw("t0")
    assert not made.withdraw("t0")
    assert started(made.next_launches()) == [("t1", (0,))]


def test_what_comes_back_goes_to_the_front():
    made = schedule(1, wide(0, 1), wide(1, 1))
    made.next_launches()
    made.restart(1)
    made.add(wide(0, 1, attempts=1))
    assert started(made.next_launches()) == [("t0", (0,))]


def test_a_suspect_runs_alone():
    made = schedule(4, wide(1, 1))
    made.next_launches()
    made.add(wide(0, 1, attempts=2))
    made.add(wide(2, 1))
    assert made.next_launches() == []  # something runs
    made.finish("t1")
    assert started(made.next_launches()) == [("t0", (0,))]
    assert made.free == 0
    made.finish("t0")
    assert started(made.next_launches()) == [("t2", (0,))]
    assert made.free == 0b1110


def test_small_tasks_travel_together_in_fair_shares():
    made = schedule(2, *(Item(f"t{k}", k, "a", 1, seconds=1e-4) for k in range(10)))
    bundles = made.next_launches()
    assert [len(bundle.task_ids) for bundle in bundles] == [5, 5]
    assert [bundle.task_ids[0] for bundle in bundles] == ["t0", "t5"]
    for task_id in bundles[0].task_ids[:-1]:
        made.finish(task_id)
        assert made.free == 0
    made.finish(bundles[0].task_ids[-1])
    assert made.free == 0b1


def test_a_bundle_is_bounded_in_number_and_seconds():
    made = schedule(1, *(Item(f"t{k}", k, "a", 1, seconds=1e-6) for k in range(1000)))
    assert len(made.next_launches()[0].task_ids) == BUNDLE_TASKS
    made = schedule(1, *(Item(f"t{k}", k, "a", 1, seconds=4e-3) for k in range(1000)))
    assert len(made.next_launches()[0].task_ids) == 5


def looking_ahead(size: int, *items: Item) -> Schedule:
    made = schedule(size, *items)
    made.looks_ahead = True
    return made


def small(order: int, seconds: float = 1e-4, client: str = "a") -> Item:
    return Item(f"t{order}", order, client, 1, seconds=seconds)


def test_ranks_have_their_next_small_tasks_before_they_end_the_last():
    made = looking_ahead(2, *map(small, range(200)))
    first, second = (made.next_launches() for _ in range(2))
    assert [bundle.ranks for bundle in first] == [(0,), (1,), (0,), (1,)]
    assert second == []
    assert not made.has_room
    for task_id in first[0].task_ids:
        made.finish(task_id)
    assert made.free == 0
    assert [bundle.ranks for bundle in made.next_launches()] == [(0,)]


def test_towards_the_end_of_the_queue_whoever_is_idle_takes_the_next():
    made = looking_ahead(2, *map(small, range(2 * BUNDLE_TASKS + 7)))
    assert [bundle.ranks for bundle in made.next_launches()] == [(0,), (1,)]
    for _ in range(BUNDLE_TASKS):
        made.finish(next(iter(made.running)))
    assert [(bundle.ranks, len(bundle.task_ids)) for bundle in made.next_launches()] == [((0,), 7)]


@pytest.mark.parametrize(
    "other",
    [wide(1000, 2), wide(1000, 1), small(1000, client="b"), small(1000)._replace(priority=1)],
    ids=["wide", "long", "another client", "urgent"],
)
def test_nobody_is_overtaken_by_what_looks_ahead(other):
    made = looking_ahead(2, *map(small, range(200)))
    assert len(made.next_launches()) == 4
    made.add(other)
    running = list(made.running)
    for task_id in running[:BUNDLE_TASKS]:
        made.finish(task_id)
    assert made.next_launches() == []
    for task_id in running[BUNDLE_TASKS:]:
        made.finish(task_id)
    made.next_launches()
    assert made.ahead == 0 or "t1000" in made.running


@pytest.mark.parametrize("seconds", [0.05, 1.0])
def test_long_tasks_are_given_to_idle_ranks_alone(seconds):
    made = looking_ahead(2, *(small(order, seconds) for order in range(200)))
    assert [bundle.ranks for bundle in made.next_launches()] == [(0,), (1,)]


def test_reserved_ranks_and_a_new_instance_hold_nothing_ahead():
    made = looking_ahead(2, *map(small, range(300)))
    made.claim("c", "b", 1, expires=10.0)
    assert len(made.next_launches()) == 1
    made.release("c")
    assert len(made.next_launches()) == 3
    made.restart(2)
    assert (made.free, made.ahead) == (0b11, 0)
    assert made.has_room


@pytest.mark.parametrize("seed", range(10))
def test_looking_ahead_starts_everything_once_and_in_order(seed):
    rng = random.Random(seed)  # noqa: S311 - a test
    made = looking_ahead(rng.choice([1, 2, 3, 8]))
    order, began = 0, list[str]()
    while order < 500 or made.waiting or made.running:
        for _ in range(rng.randrange(60) if order < 500 else 0):
            made.add(small(order, seconds=rng.choice([1e-5, 1e-3])))
            order += 1
        began += [task_id for task_id, _ in started(made.next_launches())]
        for task_id in list(made.running)[: rng.randrange(1, 80)]:
            made.finish(task_id)
    assert began == [f"t{number}" for number in range(order)]
    assert (made.free, made.ahead) == ((1 << made.size) - 1, 0)


def test_bundles_are_longer_on_many_ranks_and_get_shorter_as_the_queue_does():
    made = schedule(BUNDLES_A_SECOND // 4, *(Item(f"t{k}", k, "a", 1, seconds=0.05) for k in range(110_000)))
    lengths = [len(bundle.task_ids) for bundle in made.next_launches()]
    assert lengths == [5] * made.size  # a quarter of a second each
    while made.waiting:
        oldest, (bundle, _) = next(iter(made.running.items()))
        while oldest is not None and made.running[oldest][0] is bundle:
            made.finish(oldest)
            oldest = next(iter(made.running), None)
        lengths += [len(bundle.task_ids) for bundle in made.next_launches()]
    assert sum(lengths) == 110_000
    assert lengths[-made.size // 2 :] == [1] * (made.size // 2)


def test_what_is_timed_from_its_launch_waits_behind_nobody_on_its_rank():
    made = schedule(1, *(Item(f"t{k}", k, "a", 1, seconds=1e-6, is_timed=True) for k in range(10)))
    assert [bundle.task_ids for bundle in made.next_launches()] == [("t0",)]


def test_a_pinned_task_waits_for_its_ranks():
    made = schedule(4, wide(0, 1))
    made.next_launches()
    made.add(wide(1, 2, pinned=(0, 1)))
    made.add(wide(2, 1))
    made.add(wide(3, 1))
    made.add(wide(4, 1))
    assert started(made.next_launches()) == [("t2", (2,)), ("t3", (3,))]  # rank 1 is held
    made.finish("t0")
    assert started(made.next_launches()) == [("t1", (0, 1))]


def test_claimed_ranks_are_for_their_holder():
    made = schedule(4)
    claim = made.claim("r", "b", 2, expires=10.0)
    assert claim.ranks.bit_count() == 2
    for order in range(4):
        made.add(wide(order, 1, client="a"))
    made.add(wide(4, 2, client="b"))
    got = dict(started(made.next_launches()))
    assert set(got) == {"t0", "t1", "t4"}
    assert sum(1 << rank for rank in got["t4"]) == claim.ranks
    assert made.expire(9.9) == []
    assert made.expire(10.0) == ["r"]
    made.finish("t4")
    assert len(made.next_launches()) == 2


def test_who_waits_for_claimed_ranks_stops_nobody():
    made = schedule(4)
    made.claim("r", "b", 1, expires=10.0)
    made.add(wide(0, 4, client="a"))
    made.add(wide(1, 1, client="a"))
    assert [task_id for task_id, _ in started(made.next_launches())] == ["t1"]
    made.release("r")
    made.finish("t1")
    assert [task_id for task_id, _ in started(made.next_launches())] == ["t0"]


def test_claims_are_bounded():
    made = schedule(4)
    made.claim("r", "a", 3, expires=1.0)
    for ranks in (2, 0, -1):
        with pytest.raises(OutOfRangeError):
            made.claim("s", "b", ranks, expires=1.0)
    made.claim("s", "b", 1, expires=1.0)
    assert not made.claims["r"].ranks & made.claims["s"].ranks
    with pytest.raises(NotFoundError):
        made.release("unknown")
    with pytest.raises(NotFoundError):
        made.renew("unknown", 2.0)
    assert made.renew("r", 2.0).expires == 2.0


def test_nothing_starts_without_an_instance():
    made = schedule(0, wide(0, 1))
    assert made.next_launches() == []
    made.restart(1)
    assert len(made.next_launches()) == 1


def test_a_long_queue_costs_little_per_task():
    """As much as in a short one; how little: ``python -m benchmarks overheads``."""

    def calls(queued: int) -> int:
        made = long_queue(queued)
        return calls_of(lambda: run_some(made, 2000))

    assert calls(100_000) < 2000 * 80  # 67 a task
    assert calls(100_000) < 1.01 * calls(4000)


@pytest.mark.parametrize("seconds", [1e-3, 0.05])
def test_a_look_costs_the_same_on_a_thousand_busy_ranks(seconds):
    def calls(size: int) -> int:
        made = looking_ahead(size, *(small(order, seconds) for order in range(40 * size)))
        made.next_launches()
        assert made.next_launches() == []
        return calls_of(made.next_launches)

    assert calls(1000) == calls(2) < 20
