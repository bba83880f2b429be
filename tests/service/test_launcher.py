"""The launchers with a real PRTE: instances come up, their ends are told, nothing is left behind. No mocks.

Every test runs for PMIx spawn (skipped with the reason where the bindings are missing) and for prterun. Waiting is
on conditions with a deadline.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from qsimenv.errors import BadStateError, InvalidArgumentError, QSimEnvError
from qsimenv.launcher.allocation import Allocation, Node, find_allocation
from qsimenv.launcher.commands import find_program, python_environment
from qsimenv.launcher.dvm import DVM, memory_mark
from qsimenv.launcher.spawn import InstanceSpec, Launcher, PMIxLauncher, PrterunLauncher, choose_launcher
from tests.processes import family_of, is_there, name_of, processes_of

pytestmark = [pytest.mark.environment, pytest.mark.slow, pytest.mark.timeout(300)]

SOON_S = 60.0
RANK = """
import os, sys, time
from pathlib import Path
from mpi4py import MPI
comm = MPI.COMM_WORLD
os.write(1, b"out of rank %d\\n" % comm.rank)
os.write(2, b"err of rank %d\\n" % comm.rank)
part = Path(sys.argv[1]) / f".{comm.rank}"
memory = os.environ["OMPI_MCA_btl_sm_backing_directory"]
comm.Barrier()
part.write_text(f"{comm.size} {os.getpid()} {len(os.listdir(memory))} {os.environ.get('QSIMENV_TEST')}")
comm.Barrier()
part.rename(part.with_name(f"rank{comm.rank}"))
if sys.argv[2] == "stay":
    time.sleep(300)
elif sys.argv[2] == "fail":
    sys.exit(3 * comm.rank)
elif sys.argv[2] == "abort" and comm.rank == 1:
    comm.Abort(5)
"""
OWNER = """
import asyncio, sys
from pathlib import Path
from qsimenv.launcher.allocation import find_allocation
from qsimenv.launcher.spawn import InstanceSpec, choose_launcher
async def main(run, argv):
    launcher = choose_launcher(find_allocation(), Path(run))
    await launcher.start()
    instance = await launcher.spawn(InstanceSpec(2, 2, tuple(argv), {}, None, Path(run) / "rank.log"))
    await instance.ended
asyncio.run(main(sys.argv[1], sys.argv[2:]))
"""


@pytest.fixture(autouse=True)
def leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After each test: no process that names our folder, nothing in TMPDIR or /dev/shm, only logs in the run folder."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    yield
    wait_until(lambda: not processes_of(tmp_path), "all processes gone")
    run = tmp_path / "run"
    assert list(scratch.iterdir()) == []
    assert list(Path("/dev/shm").glob(f"{memory_mark(run)}*")) == []  # noqa: S108
    assert [path.name for path in run.iterdir() if path.suffix != ".log"] == [] if run.exists() else True


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = SOON_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def rank_argv(out: Path, mode: str) -> tuple[str, ...]:
    out.mkdir(exist_ok=True)
    return (sys.executable, "-c", RANK, str(out), mode)


def spec_of(tmp_path: Path, name: str, mode: str, ranks: int = 2) -> InstanceSpec:
    return InstanceSpec(
        ranks,
        ranks,
        rank_argv(tmp_path / name, mode),
        {"QSIMENV_TEST": "ä b=1\n$x 'q'"},
        None,
        tmp_path / f"{name}.txt",
    )


def launcher_of(tmp_path: Path) -> Launcher:
    return choose_launcher(find_allocation(), tmp_path / "run")


async def pids_of(out: Path, ranks: int = 2) -> list[int]:
    """The ranks' process ids by rank, once all have passed their barrier."""
    files = [out / f"rank{rank}" for rank in range(ranks)]
    deadline = time.monotonic() + SOON_S
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, f"ranks did not come up in {out}"
        await asyncio.sleep(0.02)
    return [int(file.read_text().split()[1]) for file in files]


def run_with(launcher: Launcher, body: Callable[[], object]) -> None:
    async def main() -> None:
        await launcher.start(timeout_s=SOON_S)
        try:
            await body()  # type: ignore[misc]
        finally:
            await launcher.stop()

    asyncio.run(main())


def test_two_instances_one_after_another(kind: str, tmp_path: Path) -> None:
    launcher = launcher_of(tmp_path)
    assert isinstance(launcher, PMIxLauncher if kind == "pmix" else PrterunLauncher)

    async def body() -> None:
        for name in ("first", "second"):
            instance = await launcher.spawn(spec_of(tmp_path, name, "end"))
            end = await asyncio.wait_for(instance.ended, SOON_S)
            assert (end.status, end.reason) == (0, "all ranks ended")
            for rank in range(2):
                size, _, segments, variable = (tmp_path / name / f"rank{rank}").read_text().split(" ", 3)
                assert (size, variable) == ("2", "ä b=1\n$x 'q'")
                assert int(segments) > 0, "shared memory is where we remove it"
            log = (tmp_path / f"{name}.txt").read_text()
            assert all(f"{stream} of rank {rank}\n" in log for stream in ("out", "err") for rank in range(2))
        described = launcher.describe()
        assert described["kind"] == kind
        assert described["prte"][0].isdecimal()
        if kind == "pmix":
            assert psutil.Process(described["pid"]).name() == "prte"

    run_with(launcher, body)
    assert not launcher.lost.done()


def test_two_instances_at_once(kind: str, tmp_path: Path) -> None:
    launcher = launcher_of(tmp_path)

    async def body() -> None:
        stays, ends = await asyncio.gather(*(launcher.spawn(spec_of(tmp_path, m, m)) for m in ("stay", "end")))
        assert (await asyncio.wait_for(ends.ended, SOON_S)).status == 0
        assert all(map(is_there, await pids_of(tmp_path / "stay")))
        assert not stays.ended.done()

    run_with(launcher, body)


def test_killed_rank_ends_its_instance_and_a_new_one_starts(kind: str, tmp_path: Path) -> None:
    launcher = launcher_of(tmp_path)

    async def body() -> None:
        instance = await launcher.spawn(spec_of(tmp_path, "first", "stay"))
        pids = await pids_of(tmp_path / "first")
        os.kill(pids[1], signal.SIGKILL)
        end = await asyncio.wait_for(instance.ended, SOON_S)
        assert (end.status, end.reason) == (137, "rank 1 killed by signal 9")
        wait_until(lambda: not any(map(is_there, pids)), "the other rank is gone")
        assert not launcher.lost.done()
        second = await launcher.spawn(spec_of(tmp_path, "second", "end"))
        assert (await asyncio.wait_for(second.ended, SOON_S)).status == 0

    run_with(launcher, body)


@pytest.mark.parametrize(
    ("mode", "status", "reason"),
    [("fail", 3, "(a rank|rank 1) exited with status 3"), ("abort", 5, r"rank 1 called MPI_Abort\(5\)")],
)
def test_reason_of_a_failure(kind: str, mode: str, status: int, reason: str, tmp_path: Path) -> None:
    launcher = launcher_of(tmp_path)

    async def body() -> None:
        instance = await launcher.spawn(spec_of(tmp_path, mode, mode))
        end = await asyncio.wait_for(instance.ended, SOON_S)
        assert end.status == status
        assert re.fullmatch(reason, end.reason), end.reason  # PRTE does not name the rank that fails last

    run_with(launcher, body)


def test_missing_program_is_told(kind: str, tmp_path: Path) -> None:
    launcher = launcher_of(tmp_path)

    async def body() -> None:
        log_path = tmp_path / "none.txt"
        instance = await launcher.spawn(InstanceSpec(2, 2, ("/no/such/program",), {}, None, log_path))
        end = await asyncio.wait_for(instance.ended, SOON_S)
        assert end.status == 127
        assert "/no/such/program" in log_path.read_text()

    run_with(launcher, body)


def test_kill(kind: str, tmp_path: Path) -> None:
    launcher = launcher_of(tmp_path)

    async def body() -> None:
        instance = await launcher.spawn(spec_of(tmp_path, "first", "stay"))
        pids = await pids_of(tmp_path / "first")
        await asyncio.wait_for(instance.kill(), SOON_S)
        assert instance.ended.result().reason == "killed on request"
        wait_until(lambda: not any(map(is_there, pids)), "both ranks are gone")
        await instance.kill()
        second = await launcher.spawn(spec_of(tmp_path, "second", "end"))
        assert (await asyncio.wait_for(second.ended, SOON_S)).status == 0

    run_with(launcher, body)


def test_stop_ends_instances_even_stubborn_ones(kind: str, tmp_path: Path) -> None:
    launcher = launcher_of(tmp_path)
    seen: list[int] = []

    async def main() -> None:
        await launcher.start(timeout_s=SOON_S)
        script = f"trap '' TERM INT HUP; echo $$ >{tmp_path}/stubborn; while :; do sleep 0.1; done"
        instance = await launcher.spawn(InstanceSpec(1, 1, ("/bin/sh", "-c", script), {}, None, tmp_path / "s.txt"))
        wait_until(lambda: (tmp_path / "stubborn").exists() and (tmp_path / "stubborn").read_text() != "", "rank is up")
        seen.append(int((tmp_path / "stubborn").read_text()))
        await launcher.stop()
        await launcher.stop()
        assert instance.ended.done()
        with pytest.raises(BadStateError):
            await launcher.spawn(spec_of(tmp_path, "late", "end"))

    asyncio.run(main())
    assert not is_there(seen[0])


def test_more_ranks_than_cores_and_no_room(kind: str, tmp_path: Path) -> None:
    launcher = launcher_of(tmp_path)

    async def body() -> None:
        ranks = 2 * len(os.sched_getaffinity(0))
        instance = await launcher.spawn(spec_of(tmp_path, "many", "end", ranks))
        assert (await asyncio.wait_for(instance.ended, 2 * SOON_S)).status == 0
        assert (tmp_path / "many" / "rank0").read_text().startswith(f"{ranks} ")
        with pytest.raises(InvalidArgumentError, match="3 ranks do not fit 1 nodes"):
            await launcher.spawn(InstanceSpec(3, 2, ("/bin/true",), {}, None, tmp_path / "none.txt"))

    run_with(launcher, body)


def test_start_fails_clearly_on_a_bogus_host(kind: str, tmp_path: Path) -> None:
    launcher = choose_launcher(Allocation("hosts", (Node("no-such-host.invalid", 2),)), tmp_path / "run")
    with pytest.raises(QSimEnvError) as caught:
        asyncio.run(launcher.start(timeout_s=SOON_S))
    assert "\n" not in caught.value.message
    assert "start" in caught.value.message
    assert len(caught.value.message) > 40, "prte's own words are part of the message"


def test_start_time_out_leaves_nothing(kind: str, tmp_path: Path) -> None:
    with pytest.raises(QSimEnvError):
        asyncio.run(launcher_of(tmp_path).start(timeout_s=0.001))


@pytest.mark.parametrize("victim", ["prte", "guard"])
def test_death_of_the_dvm_is_noticed(victim: str, kind: str, tmp_path: Path) -> None:
    if kind != "pmix":
        pytest.skip("prterun keeps no DVM")
    launcher = launcher_of(tmp_path)

    async def body() -> None:
        instance = await launcher.spawn(spec_of(tmp_path, "first", "stay"))
        pids = await pids_of(tmp_path / "first")
        prte = psutil.Process(launcher.describe()["pid"])
        (prte if victim == "prte" else prte.parent()).kill()
        reason = await asyncio.wait_for(launcher.lost, SOON_S)
        assert "DVM is gone" in reason
        assert instance.ended.result().reason == reason
        wait_until(lambda: not any(map(is_there, pids)), "ranks are gone")
        with pytest.raises(BadStateError):
            await launcher.spawn(spec_of(tmp_path, "late", "end"))

    run_with(launcher, body)


def test_killed_owner_takes_everything_along(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path / "run"), *rank_argv(tmp_path / "out", "stay")]
    owner = subprocess.Popen(command, env=python_environment(os.environ))
    try:
        pids = asyncio.run(pids_of(tmp_path / "out"))
        everyone = family_of(owner.pid)
        assert any(name_of(process) == ("prte" if kind == "pmix" else "prterun") for process in everyone)
    finally:
        owner.kill()
        owner.wait()
    wait_until(lambda: not any(map(is_there, pids)), "ranks are gone")
    wait_until(lambda: not any(map(is_there, everyone)), "prte, guard and tool are gone")
    wait_until(lambda: not processes_of(tmp_path), "nothing names the folder")


def test_dvm_by_itself_starts_and_stops(tmp_path: Path) -> None:
    try:
        find_program("prte")
    except QSimEnvError as error:
        pytest.skip(str(error))

    async def main() -> None:
        dvm = DVM(find_allocation(), tmp_path / "run")
        await dvm.start(timeout_s=SOON_S)
        assert dvm.pid is not None
        assert is_there(dvm.pid)
        pid = dvm.pid
        await dvm.stop()
        assert dvm.ended.done()
        assert not is_there(pid)

    asyncio.run(main())
