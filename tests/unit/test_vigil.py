"""A vigil is kept after waits that were short, given up after one that was long, and remembered by kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qsimenv.qpm_plugin.vigil import BUSY_S, LONGEST_S, Vigil


class Clock:
    """Time that passes when somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0
        self.looks = 0
        self.comes_at = float("inf")
        self.others_take = 0.0

    def look(self) -> bool:
        self.looks += 1
        self.now += LONGEST_S / 10
        return self.now >= self.comes_at

    def give_way(self) -> None:
        self.now += self.others_take


def wait(vigil: Vigil, clock: Clock, seconds: float, kind: str = "") -> bool:
    """One wait that ends so much later; whether it was a vigil that saw its end."""
    clock.comes_at = clock.now + seconds
    seen = vigil.keep(kind)
    clock.now = max(clock.now, clock.comes_at)
    vigil.end()
    return seen


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vigil(clock: Clock) -> Vigil:
    time: Callable[[], float] = lambda: clock.now  # noqa: E731 - a clock is a callable
    return Vigil(clock.look, time, clock.give_way)


def test_who_waits_long_never_looks(vigil: Vigil, clock: Clock) -> None:
    assert not any(wait(vigil, clock, 2 * LONGEST_S) for _ in range(10))
    assert clock.looks == 0


def test_after_short_waits_the_next_one_is_a_vigil(vigil: Vigil, clock: Clock) -> None:
    seen = [wait(vigil, clock, LONGEST_S / 2) for _ in range(5)]
    assert seen == [False, False, True, True, True]


def test_one_long_wait_ends_it_and_costs_no_more_than_longest(vigil: Vigil, clock: Clock) -> None:
    for _ in range(3):
        wait(vigil, clock, LONGEST_S / 2)
    before = clock.looks
    assert not wait(vigil, clock, 1.0)
    assert clock.looks - before <= 11
    assert not wait(vigil, clock, LONGEST_S / 2)


def test_kinds_do_not_hide_each_other(vigil: Vigil, clock: Clock) -> None:
    """A client that thinks for long between its tasks is answered without sleep all the same."""
    for _ in range(3):
        wait(vigil, clock, LONGEST_S / 2, "ranks")
        wait(vigil, clock, 1.0, "clients")
    assert wait(vigil, clock, LONGEST_S / 2, "ranks")
    assert not wait(vigil, clock, LONGEST_S / 2, "clients")


def test_where_others_want_the_core_it_sleeps_and_tries_again_much_later(vigil: Vigil, clock: Clock) -> None:
    for _ in range(3):
        wait(vigil, clock, LONGEST_S / 2)
    clock.others_take = 2 * BUSY_S
    before = clock.looks
    assert not any(wait(vigil, clock, LONGEST_S / 2) for _ in range(10))
    assert clock.looks == before + 1
    clock.others_take = 0.0
    assert wait(vigil, clock, 1.0) is False  # a long wait in between does not end the doubt
    seen = [wait(vigil, clock, LONGEST_S / 2) for _ in range(30)]
    assert not any(seen[:10])
    assert all(seen[-5:])


def test_an_end_without_a_wait_changes_nothing(vigil: Vigil, clock: Clock) -> None:
    vigil.end()
    assert [wait(vigil, clock, LONGEST_S / 2) for _ in range(3)] == [False, False, True]
