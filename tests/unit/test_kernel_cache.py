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
import json
from numba.core import event

compiled = []

class Listener(event.Listener):
    def on_start(self, happening):
        function = happening.data["dispatcher"].py_func
        if function.__module__.startswith("qsimenv."):  # what Numba brings along is in each process's code
            compiled.append(function.__qualname__ + str(happening.data["args"]))

    def on_end(self, happening):
        pass

event.register("numba:compile", Listener())
from qsimenv.statevec.rehearsal import rehearse
unreached = rehearse(["double"])
print(json.dumps({"compiled": compiled, "unreached": unreached}))
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
    later = finish(start(tmp_path))
    assert later["compiled"] == []
    assert later["unreached"] == [], "give these kernels a task in qsimenv.statevec.rehearsal"
