"""How many threads a rank may use: its share of the cores that it is bound to, never more than it was told."""

from __future__ import annotations

import os
import subprocess
import sys

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


_ASK = """
import os
from qsimenv.circuit import gate
from qsimenv.statevec.planning.planner import plan_from_zero
from qsimenv.statevec.encoding.encode import encode
from qsimenv.statevec.state import State
from qsimenv.statevec.threads import set_threads
from qsimenv.comm import Team
set_threads()
plan = plan_from_zero([gate("h", qubit) for qubit in range(18)], 18, 18, 15)
for _ in range(3):
    State.zero(plan.start, Team(), "single").run(plan, encode(plan, (), "single"))
others = [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task") if int(task) != os.getpid()]
print(len(os.sched_getaffinity(0)), sorted(min(cores) for cores in others if len(cores) == 1))
"""


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="this system binds no thread to a core (sched_setaffinity)"
)
@pytest.mark.parametrize(
    ("environment", "are_pinned"), [({}, True), ({"OMP_PROC_BIND": "false"}, False), ({"OMP_NUM_THREADS": "1"}, False)]
)
def test_helpers_are_pinned_where_each_has_a_core(environment: dict[str, str], are_pinned: bool) -> None:
    """The thread that a program calls us from stays free, and so does what it starts."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        pytest.skip("a single core has no helpers")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    told = subprocess.run(
        [sys.executable, "-c", _ASK], env=clean | environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.split(maxsplit=1) == [str(len(cores)), f"{cores[1:] if are_pinned else []}\n"]
