"""Runs with checkpoints that are really killed, told to stop by a signal, or left without room on the disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import qsimenv as qs
from qsimenv.checkpoints import FILE_NAME
from tests.support import COMMAND, QASM3, ROOT, long_program, run_and_end, told, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROGRAM = Path(__file__).with_name("checkpointed.py")


def run(ranks: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """``checkpointed.py`` on so many ranks."""
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    if ranks > 1:
        program = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        if program is None:
            pytest.skip("no mpirun")
        command = [program, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), *command]
    return run_and_end(command, 240, {"OMPI_MCA_mpi_yield_when_idle": "1", "PYTHONPATH": str(ROOT)})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, int]:
    """The state, and how many sweeps it takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(1, folder / "checkpoint", folder / "state.h5")
    assert done.returncode == 0, done
    return qs.load_state(folder / "state.h5"), int(done.stdout.split()[-2])


def test_killed_after_two_thirds_and_resumed_on_twice_and_on_half_the_ranks(
    tmp_path: Path, undisturbed: tuple[np.ndarray, int]
) -> None:
    state, sweeps = undisturbed
    assert sweeps >= 30
    killed = run(2, tmp_path / "checkpoint", tmp_path / "state.h5", "sweep", 2 * sweeps // 3)
    assert killed.returncode != 0
    assert not (tmp_path / "state.h5").exists()
    for ranks in (4, 1):
        shutil.copytree(tmp_path / "checkpoint", tmp_path / f"for {ranks}")
        done = run(ranks, tmp_path / f"for {ranks}", tmp_path / f"{ranks}.h5")
        assert done.returncode == 0, done
        found = re.search(r"going on after (\d+) sweeps", done.stdout)
        assert found is not None, done.stdout
        assert int(found[1]) > sweeps // 3
        assert np.abs(qs.load_state(tmp_path / f"{ranks}.h5") - state).max() < 1e-12


@pytest.mark.parametrize("sync", [3, 5, 7])
def test_killed_in_the_midst_of_writing(tmp_path: Path, undisturbed: tuple[np.ndarray, int], sync: int) -> None:
    """A checkpoint syncs the shard, the shards' folder, the manifest and its folder: killed at the first manifest, the
    second shard, the second manifest. Whatever is whole is taken, and what is not is told."""
    killed = run(1, tmp_path / "checkpoint", tmp_path / "state.h5", "sync", sync)
    assert killed.returncode == -signal.SIGKILL
    generations = sorted((tmp_path / "checkpoint").iterdir())
    whole = [each for each in generations if (each / FILE_NAME).exists()]
    assert len(generations) == (1 if sync <= 4 else 2)
    assert len(whole) == sync // 4
    done = run(1, tmp_path / "checkpoint", tmp_path / "state.h5")
    assert done.returncode == 0, done
    never = [line for line in done.stdout.splitlines() if "was never finished" in line]
    assert len(never) == len(generations) - len(whole)
    assert ("going on after" in done.stdout) == bool(whole)
    assert np.abs(qs.load_state(tmp_path / "state.h5") - undisturbed[0]).max() < 1e-12


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one checkpoint of 2**20 amplitudes and a half."""
    if os.geteuid():
        pytest.skip("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=25m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_leaves_the_older_checkpoint(
    tmp_path: Path, small_disk: Path, undisturbed: tuple[np.ndarray, int]
) -> None:
    state, sweeps = undisturbed
    killed = run(1, small_disk / "checkpoint", tmp_path / "state.h5", "sweep", sweeps - 2)
    words = [line for line in killed.stdout.splitlines() if "No space left on device" in line]
    assert words, killed
    assert re.search(r"cannot be written .*make room.*the run goes on; the checkpoint before this one stays", words[0])
    assert len(words) == len(killed.stdout.splitlines())
    (left,) = (small_disk / "checkpoint").iterdir()
    assert left.name == "checkpoint-000001"
    done = run(1, small_disk / "checkpoint", tmp_path / "state.h5")
    assert done.returncode == 0, done
    assert "going on after 9 sweeps" in done.stdout
    assert np.abs(qs.load_state(tmp_path / "state.h5") - state).max() < 1e-12


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str]:
    """A long run as the words of a command, and what it prints when nobody disturbs it."""
    program = tmp_path_factory.mktemp("quiet") / "long.qasm"
    program.write_text(long_program(19, 150))
    words = ["run", str(program), "--shots", "50", "--seed", "3", "--json"]
    return words, run_and_end([*COMMAND, *words], 200).stdout


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_and_the_same_command_goes_on(
    tmp_path: Path, number: signal.Signals, quiet: tuple[list[str], str]
) -> None:
    (words, wanted), folder = quiet, tmp_path / "checkpoint"
    process = subprocess.Popen(
        [*COMMAND, *words, "--checkpoint", str(folder), "--checkpoint-every", "1 sweeps"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_until((folder / "checkpoint-000002" / FILE_NAME).exists, 240, "no second checkpoint was written")
        process.send_signal(signal.SIGSTOP)  # it is there as long as the second one asks
        second = run_and_end([*COMMAND, *words, "--checkpoint", str(folder)], 240)
        process.send_signal(signal.SIGCONT)
        assert (second.returncode, second.stdout) == (2, "")
        in_use = rf"qsimenv: checkpoint: {folder} is in use by process {process.pid} on .*; wait for its end, or .*"
        assert [bool(re.fullmatch(in_use, line)) for line in second.stderr.splitlines()] == [True]
        process.send_signal(number)
        out, error = process.communicate(timeout=240)
    finally:
        process.kill()
    assert (process.returncode, out) == (os.EX_TEMPFAIL, ""), error
    written = r"qsimenv: checkpoint: written to .* after \d+ sweeps, as asked for by a signal; run the same command .*"
    assert [bool(re.fullmatch(written, line)) for line in told(error).splitlines()] == [True]
    done = run_and_end([*COMMAND, *words, "--checkpoint", str(folder)], 240)
    assert (done.returncode, done.stdout) == (0, wanted)
    going_on = r"qsimenv: checkpoint .*: going on after \d+ sweeps"
    assert [bool(re.fullmatch(going_on, line)) for line in done.stderr.splitlines()] == [True]
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ["run", str(tmp_path / "no-such.qasm"), "--checkpoint", str(tmp_path / "file" / "c")]
    done = run_and_end([*COMMAND, *words], 240)
    wanted = f"qsimenv: checkpoint: {tmp_path}/file/c cannot be written (Not a directory); give another folder"
    assert (done.returncode, done.stdout, done.stderr.splitlines()) == (2, "", [wanted])


def test_a_checkpoint_of_another_circuit_is_refused(tmp_path: Path) -> None:
    for name, angle in (("one", 0.1), ("other", 0.2)):
        text = f"{QASM3}qubit[17] q;\nrx({angle}) q;\nry({angle}) q;\n"
        (tmp_path / name).write_text(text)
    options = ["-o", "Z" * 17, "--checkpoint", str(tmp_path / "c"), "--checkpoint-every", "1 sweeps", "--json"]
    done = run_and_end([*COMMAND, "run", str(tmp_path / "one"), *options, "--keep-checkpoint"], 240)
    assert done.returncode == 0, done
    refused = run_and_end([*COMMAND, "run", str(tmp_path / "other"), *options], 240)
    assert (refused.returncode, refused.stdout) == (2, "")
    refusal = (
        r"qsimenv: checkpoint: .* holds a run of circuit 'one' .* this one is of 'other' .*; give another folder.*"
    )
    assert [bool(re.fullmatch(refusal, line)) for line in refused.stderr.splitlines()] == [True]
    again = run_and_end([*COMMAND, "run", str(tmp_path / "one"), *options], 240)
    assert json.loads(again.stdout) == json.loads(done.stdout)
    assert not (tmp_path / "c").exists()
