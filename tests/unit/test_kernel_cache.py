"""Processes that start at once on an empty folder compile each kernel once between them; later ones compile nothing.
What calls a kernel at its address does not compile it again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba import types
from numba.core.errors import TypingError

from qsimenv.statevec.kernel_cache import address_of
from qsimenv.statevec.kernels.llvm_numba import caller_of

PROGRAM = """
import gc, json
from numba.core import event

compiled, thresholds = [], set()
gc.set_threshold(701, 11, 12)

class Listener(event.Listener):
    def on_start(self, happening):
        function = happening.data["dispatcher"].py_func
        if function.__module__.startswith("qsimenv."):  # what Numba brings along is in each process's code
            compiled.append(function.__qualname__ + str(happening.data["args"]))
            thresholds.add(gc.get_threshold()[0] > 701)

    def on_end(self, happening):
        pass

event.register("numba:compile", Listener())
from qsimenv.statevec.rehearsal import rehearse
unreached = rehearse(["double"])
thresholds = {"while_compiling": sorted(thresholds), "afterwards": gc.get_threshold()}
print(json.dumps({"compiled": compiled, "unreached": unreached, "thresholds": thresholds}))
"""


def start(folder: Path) -> subprocess.Popen[str]:
    environ = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, words = process.communicate()
    assert process.returncode == 0, words
    return {"words": words, **json.loads(output)}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_kernel_is_compiled_once(tmp_path: Path) -> None:
    found = [finish(process) for process in [start(tmp_path), start(tmp_path)]]
    one, other = (each["compiled"] for each in found)
    assert len(one) + len(other) > 20
    assert not set(one) & set(other), "both compiled these"
    assert all("qsimenv: compiling" in each["words"] for each in found if each["compiled"])
    assert all(True in each["thresholds"]["while_compiling"] for each in found if each["compiled"])
    assert all(each["thresholds"]["afterwards"] == [701, 11, 12] for each in found)
    later = finish(start(tmp_path))
    assert later["compiled"] == []
    assert later["unreached"] == [], "give these kernels a task in qsimenv.statevec.rehearsal"


def _types(real: Any) -> tuple[Any, ...]:
    return real[::1], types.int64, types.boolean


_call = caller_of(_types)


@numba.njit  # type: ignore[untyped-decorator]
def _fill(plane: Any, number: int, twice: bool) -> None:
    if number < 0:
        raise ValueError("negative")
    plane[:] = 2 * number if twice else number


@numba.njit(parallel=True)  # type: ignore[untyped-decorator]
def _fill_rows(address: int, rows: Any) -> None:
    for k in numba.prange(rows.shape[0]):
        _call(address, (rows[k], np.int64(k), k == 1))


@numba.njit  # type: ignore[untyped-decorator]
def _fill_one(address: int, row: Any, number: Any) -> None:
    _call(address, (row, number, False))


def test_a_kernel_is_called_at_its_address() -> None:
    rows = np.zeros((3, 4), dtype=np.float32)
    address = address_of(_fill, _types(types.float32))
    _fill_rows(address, rows)
    assert rows.tolist() == [[0] * 4, [2] * 4, [2] * 4]
    with pytest.raises(ValueError, match="negative"):
        _fill_one(address, rows[0], -1)


def test_a_call_with_other_types_than_the_kernel_is_compiled_for_does_not_compile() -> None:
    address = address_of(_fill, _types(types.float32))
    with pytest.raises(TypingError, match="compiled for"):
        _fill_one(address, np.zeros(4, dtype=np.float32), 1.0)
