"""The controller's search for garbage: young objects always, old ones when there is time."""

from __future__ import annotations

import gc

from qsimenv.qpm_plugin.garbage import AT_LEAST_EVERY_S, IDLE_S, Garbage, old_objects_left_alone


def test_python_searches_old_objects_no_more_and_then_as_before() -> None:
    before = gc.get_threshold()
    with old_objects_left_alone():
        gc.collect()
        searched = gc.get_stats()[2]["collections"]
        kept = [[number] for number in range(200_000)]
        assert gc.get_stats()[2]["collections"] == searched
        assert gc.get_stats()[0]["collections"] > 0
    assert len(kept) == 200_000
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_the_search_waits_for_an_idle_minute_but_not_for_ever() -> None:
    now, searches = [0.0], list[float]()
    garbage = Garbage(lambda: searches.append(now[0]), lambda: now[0])
    for now[0], is_idle, news in (
        (IDLE_S - 1, True, 1),
        (IDLE_S + 1, False, 1),
        (AT_LEAST_EVERY_S + 1, False, 1),
        (AT_LEAST_EVERY_S + 2, True, 2),
        (AT_LEAST_EVERY_S + 2 + IDLE_S, True, 2),
        (3 * AT_LEAST_EVERY_S, True, 2),
    ):
        garbage.look(is_idle, news)
    assert searches == [AT_LEAST_EVERY_S + 1, AT_LEAST_EVERY_S + 2 + IDLE_S]
