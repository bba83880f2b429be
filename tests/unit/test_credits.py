"""Credits: on values, and in simulations of three applications that share the ranks."""

from __future__ import annotations

import pytest

from benchmarks.schedule import Simulation
from qsimenv.qpm_plugin.credits import CREDIT_SECONDS, Credits
from qsimenv.qpm_plugin.scheduler import Item, Schedule


def schedule(size: int, *items: Item, seconds: float = CREDIT_SECONDS) -> Schedule:
    made = Schedule(credits=Credits(seconds))
    made.restart(size)
    for item in items:
        made.add(item)
    return made


def many(application: str, first: int, count: int, seconds: float = 1.0, **options: int) -> list[Item]:
    names = range(first, first + count)
    return [Item(f"t{k}", k, "one client", 1, seconds, application=application, **options) for k in names]


def started(made: Schedule) -> list[str]:
    return [task_id for placement in made.next_launches() for task_id in placement.task_ids]


def test_a_long_queue_does_not_keep_another_application_waiting():
    made = schedule(2, *many("a", 0, 10), *many("b", 10, 1))
    assert started(made) == ["t0", "t10"]
    made.finish("t0")
    assert started(made) == ["t1"]


def test_without_credits_what_was_submitted_first_starts_first():
    made = schedule(2, *many("a", 0, 10), *many("b", 10, 1), seconds=0.0)
    assert started(made) == ["t0", "t1"]


def test_no_rank_idles_because_of_credits():
    made = schedule(4, *many("a", 0, 10, seconds=100.0))
    assert started(made) == ["t0", "t1", "t2", "t3"]


def test_a_higher_priority_goes_first_even_where_its_credits_are_spent():
    made = schedule(1, *many("a", 0, 3, seconds=100.0, priority=1), *many("b", 10, 1))
    assert started(made) == ["t0"]
    made.finish("t0")
    assert started(made) == ["t1"]


def test_credits_come_back_when_tasks_end_and_when_an_instance_dies():
    made = schedule(2, *many("a", 0, 2, seconds=3.0))
    started(made)
    assert made.credits.rank("a", 2) == (True, 3.0)
    made.finish("t0")
    assert made.credits.rank("a", 2) == (True, 1.5)
    made.finish("t1")
    assert made.credits.in_use == {}
    made = schedule(2, *many("a", 0, 2, seconds=3.0))
    started(made)
    made.restart(2)
    assert made.credits.in_use == {}


def test_a_bundle_takes_and_gives_back_the_credits_of_each_of_its_tasks():
    made = schedule(1, *many("a", 0, 5, seconds=0.001))
    assert len(started(made)) == 5
    assert made.credits.in_use["a"] == pytest.approx(0.005)
    for k in range(5):
        made.finish(f"t{k}")
    assert made.credits.in_use == {}


def test_an_application_is_the_client_where_it_has_no_name():
    made = schedule(2, *(Item(f"t{k}", k, "a", 1, 1.0) for k in range(5)), Item("t9", 9, "b", 1, 1.0))
    assert started(made) == ["t0", "t9"]


@pytest.mark.parametrize("ranks", [6, 64, 500])
def test_three_applications_share_the_ranks_within_their_bounds(ranks: int):
    with_credits = Simulation(ranks, CREDIT_SECONDS).run(40.0)
    without = Simulation(ranks, 0.0).run(40.0)
    assert with_credits["utilisation"] >= (0.95 if ranks > 8 else 0.85)  # wide tasks leave gaps on few ranks
    for each in with_credits["applications"].values():
        assert each["tasks_started"] > 0
        assert each["next_task_wait_longest_s"] <= with_credits["bound_s"]
    waits = [found["applications"]["low quantum"]["next_task_wait_longest_s"] for found in (with_credits, without)]
    assert waits[0] < waits[1] / 2
