"""How many threads a rank may use: its share of the cores that it is bound to, never more than it was told."""

from __future__ import annotations

import numpy as np
import pytest

from qsimenv import comm
from qsimenv.statevec import threads as statevec_threads


@pytest.mark.parametrize(
    ("bindings", "shares"),
    [
        (["11"], [2]),
        (["11", "11"], [1, 1]),
        (["1111", "1111"], [2, 2]),
        (["1111"] * 3, [1, 1, 1]),
        (["11", "11", "11", "11"], [1, 1, 1, 1]),
        (["1100", "0011"], [2, 2]),
        (["1100", "1100", "0011"], [1, 1, 2]),
        (["1110", "0111"], [2, 2]),
        (["111111", "111000", "111000"], [4, 1, 1]),
        (["1" * 64] * 8, [8] * 8),
    ],
)
def test_cores_are_shared_among_those_bound_to_them(bindings: list[str], shares: list[int]) -> None:
    bound = np.array([[int(core) for core in binding] for binding in bindings], dtype=np.uint8)
    assert [comm.share_of_cores(mine, bound) for mine in bound] == shares


@pytest.mark.parametrize(("text", "threads"), [("3", 3), ("4,2", 4), ("0", 1), ("", 1 << 30), ("all", 1 << 30)])
def test_the_wish_of_the_environment(text: str, threads: int) -> None:
    assert statevec_threads.wished_threads({"OMP_NUM_THREADS": text}) == threads
    assert statevec_threads.wished_threads({}) == 1 << 30


def test_threads_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert statevec_threads.set_threads() == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert 1 <= statevec_threads.set_threads() <= comm.cores()
