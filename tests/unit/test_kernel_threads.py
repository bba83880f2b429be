"""Kernels that run a part in several threads, and parts: which Python cannot call."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest
from numba.core.errors import TypingError

from qsimenv.statevec.kernel_cache import part
from qsimenv.statevec.threads_numba import in_threads, launcher, span


@part(nogil=True)
def _mark(thread: int, threads: int, rows: Any, step: float, all_of: tuple[Any, bool]) -> None:
    places, twice = all_of
    if step < 0:
        raise ValueError("negative")
    first, last = span(rows.shape[1], thread, threads)
    for place in range(first, last):
        rows[thread, place] += step * (2 if twice else 1)
        places[place] = thread


@part(nogil=True)
def _count(thread: int, threads: int, rows: Any) -> int:
    return rows.shape[0] * threads + thread


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def _mark_all(launch: int, threads: int, rows: Any, step: float, places: Any, twice: bool) -> None:
    in_threads(launch, threads, _mark, (rows, step, (places, twice)))


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def _count_all(launch: int, threads: int, rows: Any) -> None:
    in_threads(launch, threads, _count, (rows,))


def marked(threads: int, step: float, twice: bool) -> tuple[npt.NDArray[np.float32], list[int]]:
    rows, places = np.zeros((threads, 7), dtype=np.float32), np.full(7, -1)
    _mark_all(launcher(threads), threads, rows, step, places, twice)
    return rows, places.tolist()


@pytest.mark.parametrize(("threads", "places"), [(1, [0] * 7), (2, [0, 0, 0, 1, 1, 1, 1]), (3, [0, 0, 1, 1, 2, 2, 2])])
def test_each_thread_is_called_once_with_its_number(threads: int, places: list[int]) -> None:
    rows, found = marked(threads, 0.5, True)
    assert found == places
    assert rows.sum(axis=0).tolist() == [1.0] * 7
    assert [sorted(np.flatnonzero(row)) for row in rows] == [
        [place for place, owner in enumerate(places) if owner == thread] for thread in range(threads)
    ]


def test_one_thread_needs_no_others() -> None:
    assert launcher(1) == 0


def test_an_error_of_a_part_is_raised() -> None:
    with pytest.raises(ValueError, match="negative"):
        marked(1, -1.0, False)


def test_a_part_that_returns_something_does_not_run_in_threads() -> None:
    with pytest.raises(TypingError, match="returns nothing"):
        _count_all(0, 1, np.zeros((2, 2)))


def test_python_cannot_call_a_part() -> None:
    arguments = 0, 1, np.zeros((1, 7), dtype=np.float32), 1.0, (np.zeros(7, dtype=np.int64), False)
    for _ in range(2):  # not compiled, and compiled for these types
        with pytest.raises(TypeError, match="_mark is a part of kernels"):
            _mark(*arguments)
        marked(1, 1.0, False)
