"""The mpi-marked tests of this folder on 1, 2 and 4 ranks (the exchange on 8 too), for a plain ``pytest tests``."""

from __future__ import annotations

import importlib.util

import pytest
from launch import ROOT, environment, prterun_pytest, run_pytest

from qsimenv.launcher.commands import find_program
from tests.gpu.stand_in import needs_compiler

SECONDS = 600
EXCHANGE = "tests/mpi/test_exchange_mpi.py"


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed")
@pytest.mark.parametrize(("ranks", "files"), [(1, "tests/mpi"), (2, "tests/mpi"), (4, "tests/mpi"), (8, EXCHANGE)])
def test_on_ranks(ranks: int, files: str) -> None:
    status, tail = run_pytest(ranks, (files,), SECONDS)
    assert status == 0, f"{ranks} ranks ended with {status}:\n{tail}"
    assert f"size: {ranks}" in tail


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 60)
@needs_compiler
@pytest.mark.parametrize(
    ("ranks", "takes_messages", "files"),
    [(1, False, "tests/mpi"), (2, True, "tests/mpi"), (4, False, "tests/mpi/test_run_mpi.py")],
)
def test_on_ranks_with_a_gpu(ranks: int, takes_messages: bool, files: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on what stands in for a GPU, with messages from its memory and by way of the host's."""
    monkeypatch.setenv("QSIMENV_GPU_AWARE_MPI", str(int(takes_messages)))
    status, tail = run_pytest(ranks, (files, "--device", "stand-in"), SECONDS)
    assert status == 0, f"{ranks} ranks ended with {status}:\n{tail}"
    assert f"size: {ranks}" in tail


def test_a_failing_rank_is_seen(tmp_path) -> None:
    """The launch itself must be able to fail: one rank of two fails a test."""
    (tmp_path / "test_one_rank.py").write_text(
        "import pytest\nfrom qsimenv import comm\n\n@pytest.mark.mpi\ndef test():\n    assert comm.world().rank == 0\n"
    )
    status, tail = run_pytest(2, (str(tmp_path),), 60)
    assert status not in (0, 124), tail
    assert "assert 1 == 0" in tail


def test_a_launch_that_hangs_is_ended(tmp_path) -> None:
    (tmp_path / "test_hang.py").write_text(
        "import time, pytest\n\n@pytest.mark.mpi\ndef test():\n    time.sleep(100)\n"
    )
    status, _ = run_pytest(2, (str(tmp_path),), 4)
    assert status == 124


def test_the_command_line() -> None:
    prterun = find_program("prterun")
    tokens = prterun_pytest(prterun, 2, ("tests/mpi",))
    assert tokens[: tokens.index("-n") + 2] == [
        str(prterun), "--map-by", ":OVERSUBSCRIBE", "--bind-to", "none", "--output", "tag", "-n", "2",
    ]  # fmt: skip
    assert environment(prterun, 2)["NUMBA_NUM_THREADS"] == "1"
    assert (ROOT / "qsimenv").is_dir()
