"""What is kept: large results (mapped here, inline elsewhere), shards, reservations; nothing stays behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from environments import wait_until

import qsimenv as qs
from qsimenv.circuit import Circuit, gate
from qsimenv.errors import InvalidArgumentError, NotFoundError, OutOfRangeError
from qsimenv.launcher import environment
from qsimenv.launcher.dvm import memory_mark
from qsimenv.launcher.folder import LOCK_NAME
from qsimenv.qpm_plugin import large, result_files
from qsimenv.qpm_plugin.client import Client, connect
from qsimenv.qpm_plugin.connection import FILE_NAME, Connection
from qsimenv.qpm_plugin.journal import FILE_NAME as JOURNAL_NAME
from qsimenv.qpm_plugin.journal import circuits_folder, memory_folder, results_folder
from qsimenv.qpm_plugin.result_files import Folders
from qsimenv.qpm_plugin.sealed import OPENED_BYTES
from qsimenv.qpm_plugin.shelf import Shelf
from qsimenv.task import Result, Task

NAME, SOON = "large", 120.0


def spread(num_qubits: int, angle: float = 0.3) -> Task:
    gates = [gate("ry", qubit, params=[angle * (qubit + 1)]) for qubit in range(num_qubits)]
    return Task(circuit=Circuit(num_qubits, 0, tuple(gates)), save="statevector")


def wanted(task: Task) -> np.ndarray:
    return qs.run(task.circuit, save="statevector").statevector


def pids_of(client: Client) -> set[int]:
    return {worker["pid"] for worker in client.describe()["workers"]}


def files(folder: Path) -> set[str]:
    return result_files.names(result_files.folders_of(folder / JOURNAL_NAME))


# --- the file by itself: see tests/service/test_shelf.py for the way from memory to the disk ---


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    state, samples = np.arange(1 << 17) * 1j, np.arange(1 << 21, dtype=np.uint8).reshape(-1, 2)
    result = Result(statevector=state, samples=samples, expectation_values=np.ones(3), metadata={"seed": 1})
    folders = Folders(tmp_path)
    named = msgspec.Raw(large.write(Shelf(folders), "ab12-7", 1, result))
    assert large.file_of(named) == "ab12-7.1"
    assert (tmp_path / "ab12-7.1").stat().st_mode & 0o777 == 0o600
    back, inline = large.read(folders, named), large.read(None, large.inline(folders, named))
    result_files.remove(folders, "ab12-7.1")
    for found in (back, inline):
        assert np.array_equal(found.statevector, state)
        assert np.array_equal(found.samples, samples)
        assert found.expectation_values.tolist() == [1, 1, 1]
        assert found.metadata == {"seed": 1}
    assert not back.statevector.flags.writeable


def test_small_results_and_full_disks_make_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(Folders(tmp_path))
    assert large.write(shelf, "ab12-7", 1, Result(statevector=np.ones(8, complex))) is None
    big = Result(statevector=np.ones(1 << 17, complex))
    assert large.write(Shelf(Folders(tmp_path / "missing")), "ab12-7", 1, big) is None
    assert large.write(shelf, "../ab12-7", 1, big) is None
    monkeypatch.setattr(result_files, "_ROOM", 1 << 60)
    assert large.write(shelf, "ab12-7", 1, big) is None
    assert list(tmp_path.iterdir()) == []


def test_who_has_to_survive_a_power_failure_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    big, folders = Result(statevector=np.ones(1 << 17, complex)), Folders(tmp_path / "disk", tmp_path / "memory")
    for folder in folders:
        folder.mkdir()
    assert large.write(Shelf(Folders(folders.disk)), "ab12-7", 1, big) is not None
    assert synced == []
    assert large.write(Shelf(folders, durable=True), "ab12-8", 1, big) is not None
    assert synced == [str(folders.disk / "ab12-8.1"), str(folders.disk)]


def test_a_file_that_is_gone_or_cut_is_told(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    named = msgspec.Raw(large.write(Shelf(folders), "ab12-7", 1, Result(statevector=np.ones(1 << 17, complex))))
    os.truncate(tmp_path / "ab12-7.1", 4096)
    with pytest.raises(InvalidArgumentError, match="what was written"):
        large.read(folders, named)
    result_files.remove(folders, "ab12-7.1")
    with pytest.raises(NotFoundError, match="deleted"):
        large.read(folders, named)


# --- through the service ---


@pytest.fixture
def running(folder: Path) -> Iterator[Client]:
    environment.start(NAME, run_folder=folder, ranks_per_node=2)
    try:
        with connect(folder / FILE_NAME) as client:
            yield client
    finally:
        environment.stop(NAME, run_folder=folder)
    assert not list(Path("/dev/shm").glob(f"{memory_mark(folder.absolute())}*"))  # noqa: S108 - where it lives
    assert not memory_folder(folder / JOURNAL_NAME).exists()
    assert not folder.exists()


@pytest.mark.environment
@pytest.mark.slow
def test_a_state_is_mapped_and_its_file_goes_with_its_task(running: Client, folder: Path) -> None:
    task = spread(17)
    assert np.allclose(running.sync_run(task).statevector, wanted(task))
    assert len(files(folder)) == 1
    [record] = running.read_cq(task_ids=running.async_run(task), timeout_s=SOON)
    running.delete([each.task_id for each in running.status()])
    wait_until(lambda: not files(folder), SOON, "the files of deleted tasks are still there")
    assert np.allclose(record.result.statevector, wanted(task))


@pytest.mark.environment
@pytest.mark.slow
def test_who_does_not_see_the_folder_gets_it_inline(running: Client, folder: Path, tmp_path: Path) -> None:
    seen = Connection.read(folder / FILE_NAME)
    elsewhere = tmp_path / FILE_NAME
    msgspec.structs.replace(seen, results=str(tmp_path)).write(elsewhere)
    task = spread(17)
    with connect(elsewhere) as stranger:
        assert np.allclose(stranger.sync_run(task).statevector, wanted(task))
    assert len(files(folder)) == 1


@pytest.mark.environment
@pytest.mark.slow
def test_large_results_survive_worker_and_controller(running: Client, folder: Path) -> None:
    tasks = [spread(17, angle) for angle in (0.1, 0.2, 0.3)]
    ids = running.async_run(tasks)
    running.read_cq(task_ids=ids[:1], timeout_s=SOON)
    orphan = results_folder(folder / JOURNAL_NAME) / "ab12-7.1"
    orphan.write_bytes(b"half of a result, whose writer died")
    psutil.Process(running.describe()["workers"][0]["pid"]).kill()
    records = running.read_cq(task_ids=ids, timeout_s=SOON)
    wait_until(lambda: not orphan.exists(), SOON, "the orphan was not swept")
    psutil.Process(running.describe()["controller"]["pid"]).kill()
    again = running.read_cq(task_ids=ids, timeout_s=SOON)
    for task, first, second in zip(tasks, records, again, strict=True):
        assert np.allclose(first.result.statevector, wanted(task))
        assert np.array_equal(first.result.statevector, second.result.statevector)
    assert len(files(folder)) == 3
    del records, again
    gc.collect()


@pytest.mark.environment
@pytest.mark.slow
def test_results_in_memory_survive_worker_and_controller(running: Client, folder: Path) -> None:
    """The disk takes nothing until all who knew of them are dead."""
    disk, memory = result_files.folders_of(folder / JOURNAL_NAME)
    running.sync_run(spread(17, 0.0))
    wait_until(lambda: result_files.names(Folders(disk)), SOON, "the first one is not moved")
    away = disk.rename(disk.with_name("away"))
    tasks = [spread(17, angle) for angle in (0.1, 0.2, 0.3)]
    ids = running.async_run(tasks)
    records = running.read_cq(task_ids=ids, timeout_s=SOON)
    assert len(result_files.names(Folders(memory))) == 3
    running.delete(ids[2:])
    pid = running.describe()["workers"][0]["pid"]
    psutil.Process(pid).kill()
    wait_until(lambda: running.is_ready() and pid not in pids_of(running), SOON, "no other instance comes")
    away.rename(disk)
    psutil.Process(running.describe()["controller"]["pid"]).kill()
    again = running.read_cq(task_ids=ids[:2], timeout_s=SOON)
    wait_until(lambda: len(result_files.names(Folders(disk))) == 3, SOON, "they are not moved")
    wait_until(lambda: not result_files.names(Folders(memory)), SOON, "they are not gone from memory")
    late = running.read_cq(task_ids=ids[:2], timeout_s=SOON)
    for task, *found in zip(tasks, records, again, late, strict=False):
        for record in found:
            assert np.allclose(record.result.statevector, wanted(task))


@pytest.mark.environment
@pytest.mark.slow
@pytest.mark.parametrize("end", ["stopped", "killed", "lost"])
def test_large_results_are_there_for_the_next_environment(folder: Path, end: str) -> None:
    """After ``stop --keep``, and after all of it was killed; those that went with their node are computed again. Then
    nothing is left in memory."""
    tasks = [spread(17, angle) for angle in (0.1, 0.2, 0.3)]
    disk, memory = result_files.folders_of(folder / JOURNAL_NAME)
    environment.start(NAME, run_folder=folder, ranks_per_node=2)
    with connect(folder / FILE_NAME) as client:
        ids = client.async_run(tasks)
        client.read_cq(task_ids=ids, timeout_s=SOON)
        keeper = psutil.Process(int((folder / LOCK_NAME).read_text(encoding="ascii")))
        family = [keeper, *keeper.children(recursive=True)]
        if end != "stopped":
            keeper.kill()
    if end == "stopped":
        environment.stop(NAME, run_folder=folder, keep=True)
        assert len(result_files.names(Folders(disk))) == 3
        assert not memory.exists()
    assert not psutil.wait_procs(family, timeout=SOON)[1]
    if end == "lost":
        result_files.remove(Folders(disk, memory), min(files(folder)))
        assert len(files(folder)) == 2
    began = time.time()
    environment.start(NAME, run_folder=folder, ranks_per_node=2)
    try:
        with connect(folder / FILE_NAME) as client:
            records = client.read_cq(task_ids=ids, timeout_s=SOON)
            for task, record in zip(tasks, records, strict=True):
                assert np.allclose(record.result.statevector, wanted(task))
            assert sum(record.times.launch_time > began for record in records) == (end == "lost")
    finally:
        environment.stop(NAME, run_folder=folder)
    assert not memory.exists()


_CLIENT = """
import sys
from test_kept import spread
from qsimenv.qpm_plugin.client import connect
client = connect(sys.argv[1], client_id="gone")
ids = client.async_run([spread(17, angle) for angle in (0.1, 0.2, 0.3)])
[mapped] = client.read_cq(task_ids=ids[:1])
print("mapped", flush=True)
while True:
    client.sync_run(spread(17, 0.4))
    print("ran", flush=True)
"""


@pytest.mark.environment
@pytest.mark.slow
@pytest.mark.parametrize("runs", [0, 2])
def test_a_killed_client_leaves_its_large_results_to_its_successor(running: Client, folder: Path, runs: int) -> None:
    """Killed with one result mapped, two unread and a run under way: none is lost, and none stays when deleted."""
    command = [sys.executable, "-c", _CLIENT, str(folder / FILE_NAME)]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        for _ in range(1 + runs):
            assert client.stdout.readline()
        client.kill()
    wait_until(lambda: all(each.state.is_final for each in running.status()), SOON, "its tasks do not end")
    ids = [each.task_id for each in running.status()]
    with connect(folder / FILE_NAME, client_id="gone") as successor:
        records = successor.read_cq(task_ids=ids, timeout_s=SOON)
    for record, angle in zip(records, (0.1, 0.2, 0.3, *[0.4] * len(ids)), strict=False):
        assert np.allclose(record.result.statevector, wanted(spread(17, angle)))
    assert len(records) >= 3 + runs
    wait_until(lambda: len(files(folder)) == len(running.status()), SOON, "there is not one file for each task")

    def forget_all() -> bool:
        running.delete([each.task_id for each in running.status() if each.state.is_final])
        return not running.status() and not files(folder)

    wait_until(forget_all, SOON, "files of deleted tasks are still there")


@pytest.mark.environment
@pytest.mark.slow
def test_long_circuits_survive_the_controller(running: Client, folder: Path) -> None:
    """In files of their own, which are the journal's as long as a task needs them."""
    claim = running.reserve(2, 3600.0)
    circuit = Circuit(2, 0, tuple(gate("rx", k % 2, params=[0.1 + k]) for k in range(3000)))
    assert len(circuit.bytes) > OPENED_BYTES
    with connect(folder / FILE_NAME) as other:
        ids = other.async_run([Task(circuit=circuit, save="statevector"), spread(2)])
        file = circuits_folder(folder / JOURNAL_NAME) / circuit.hash
        assert file.read_bytes() == circuit.bytes
        assert file.stat().st_mode & 0o777 == 0o600
        psutil.Process(running.describe()["controller"]["pid"]).kill()
        wait_until(lambda: running.list_reservations() == [claim], SOON, "the controller does not come back")
        running.release(claim.reservation_id)
        long, _ = other.read_cq(task_ids=ids, timeout_s=SOON)
    assert np.allclose(long.result.statevector, qs.run(circuit, save="statevector").statevector)
    assert file.exists()
    psutil.Process(running.describe()["controller"]["pid"]).kill()
    wait_until(lambda: not file.exists(), SOON, "nobody needs the circuit any more")


@pytest.mark.environment
@pytest.mark.slow
def test_reservations_survive_the_controller(running: Client, folder: Path) -> None:
    mine = running.reserve(1, 3600.0)
    released, over = running.reserve(1, 3600.0), None
    running.release(released.reservation_id)
    over = running.reserve(1, 0.01)
    mine = running.renew(mine.reservation_id, 7200.0)
    psutil.Process(running.describe()["controller"]["pid"]).kill()
    with connect(folder / FILE_NAME) as other:
        wait_until(lambda: other.list_reservations() == [mine], SOON, f"{mine} is lost, or {over} came back")
        with pytest.raises(OutOfRangeError):
            other.reserve(2, 60.0)
        running.release(mine.reservation_id)
        assert other.list_reservations() == []


@pytest.mark.environment
@pytest.mark.slow
@pytest.mark.parametrize("num_qubits", [10, 23])
def test_shards_are_written_by_the_ranks(running: Client, tmp_path: Path, num_qubits: int) -> None:
    """A state of more than the service carries, on both ranks, to a file of shards."""
    task = msgspec.structs.replace(spread(num_qubits), save=str(tmp_path / "state.h5"))
    ids = running._submit([task], [(0, 1)])
    [record] = running.read_cq(task_ids=ids, timeout_s=SOON)
    assert record.error is None
    assert record.ranks == (0, 1)
    assert record.result.statevector is None
    assert record.result.metadata["saved"] == task.save
    assert np.allclose(qs.load_state(tmp_path / "state.h5"), wanted(task))
