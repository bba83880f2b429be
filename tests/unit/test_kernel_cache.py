"""Processes that start at once on an empty folder compile each kernel once between them; later ones compile nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import gc, json
from numba.core import event
from qsimenv.statevec.kernel_cache import kernels

compiled, thresholds = [], set()
gc.set_threshold(701, 11, 12)

class Listener(event.Listener):
    def on_start(self, happening):
        dispatcher = happening.data["dispatcher"]
        if dispatcher in kernels:  # parts and what Numba brings along are in each kernel's code
            compiled.append(dispatcher.py_func.__qualname__ + str(happening.data["args"]))
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
