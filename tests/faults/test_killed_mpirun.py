"""Ranks end with the ``mpirun`` that started them, although it had no time to tell them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import cpu_seconds_of, family_of, is_there, kill_all, words_of
from tests.support import COMMAND, ROOT, long_program, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SOON = 120.0
AT_WORK_S = 5.0


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_end_with_a_killed_mpirun(tmp_path: Path, ranks: int) -> None:
    program = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("no mpirun")
    (tmp_path / "long.qasm").write_text(long_program(26, 150))
    options = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
    command = [program, *options, *COMMAND, "run", str(tmp_path / "long.qasm"), "--json"]
    with (tmp_path / "out").open("wb") as out:
        mpirun = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
    family = []
    try:

        def all_work() -> bool:
            assert mpirun.poll() is None, (tmp_path / "out").read_text()
            family[:] = [process for process in family_of(mpirun.pid) if words_of(process)[1:3] == list(COMMAND[1:])]
            return len(family) == ranks and all(cpu_seconds_of(process) > AT_WORK_S for process in family)

        wait_until(all_work, SOON, "the ranks do not work")
        mpirun.kill()
        mpirun.wait()
        wait_until(lambda: not any(map(is_there, family)), SOON, "ranks go on without their mpirun")
        assert "counts" not in (tmp_path / "out").read_text(), "they were done"
    finally:
        mpirun.kill()
        kill_all(family)
