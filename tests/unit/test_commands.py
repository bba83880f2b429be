"""Command lines token by token, and environments: what PRTE gets to see. The shell text of a rank is really run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qsimenv.errors import InvalidArgumentError, LibraryNotFoundError
from qsimenv.launcher.allocation import Allocation, Node
from qsimenv.launcher.commands import (
    RANK_SETUP,
    RANK_SHELL,
    InstanceSpec,
    LaunchOptions,
    device_choice,
    find_program,
    map_by,
    prte_command,
    prte_environment,
    prterun_command,
    python_environment,
    rank_environment,
    rank_setup,
    srun_command,
    tool_environment,
)
from qsimenv.launcher.pmix_tool import describe_end, job_end_event

MACHINE = Allocation("machine", (Node("here", 8),))
HOSTS = Allocation("hosts", (Node("a", 2), Node("b", 4)))
SLURM = Allocation("slurm", (Node("n1", 2), Node("n2", 2)))
HET = Allocation("slurm", (Node("n1", 2), Node("n2", 2)), het_group=1)
BESIDE = Path(sys.executable).parent / "prte"
FAR = Path("/opt/prte/bin/prte")
PLAIN = LaunchOptions()
HEAD = ["/x/prte", "--report-uri", "/r/uri", "--report-pid", "/r/pid", "--prtemca", "prte_local_tmpdir_base", "/r/s"]
HEAD += ["--prtemca", "odls_base_max_threads", "0"]


def dvm(allocation: Allocation, options: LaunchOptions = PLAIN) -> list[str]:
    return prte_command(
        Path("/x/prte"),
        allocation,
        uri_file=Path("/r/uri"),
        pid_file=Path("/r/pid"),
        session_folder=Path("/r/s"),
        options=options,
    )


def test_prte_on_this_machine() -> None:
    assert dvm(MACHINE) == [*HEAD, "--host", "localhost:8"]


def test_prte_on_hosts() -> None:
    assert dvm(HOSTS) == [*HEAD, "--host", "a:2,b:4"]


def test_prte_in_slurm_reads_the_allocation_itself() -> None:
    assert dvm(SLURM) == [*HEAD, "--prtemca", "plm_slurm_args", "--overlap"], "beside what a lost node has not ended"


CHOSEN = ["--prtemca", "ras", "^slurm", "--prtemca", "plm", "slurm", "--prtemca", "plm_slurm_args"]


def test_prte_in_one_het_group() -> None:
    assert dvm(HET) == [*HEAD, *CHOSEN, "--overlap --het-group 1", "--host", "n1:2,n2:2"]


def test_prte_in_what_is_left_of_a_slurm_job() -> None:
    """PRTE's srun has to be told which nodes those are."""
    left = "--overlap --nodes=1 --nodelist=n2"
    assert dvm(SLURM.only({"n2"})) == [*HEAD, *CHOSEN, left, "--host", "n2:2"]
    left = "--overlap --het-group 1 --nodes=1 --nodelist=n1"
    assert dvm(HET.only({"n1"})) == [*HEAD, *CHOSEN, left, "--host", "n1:2"]


def test_prte_with_a_sites_options() -> None:
    options = LaunchOptions(ssh_agent="/s/enter", network="10.77.0.0/24", prte_mca=(("oob_base_verbose", "5"),))
    assert dvm(HOSTS, options) == [
        *HEAD,
        *("--prtemca", "plm_ssh_agent", "/s/enter"),
        *("--prtemca", "prte_if_include", "10.77.0.0/24"),
        *("--prtemca", "oob_base_verbose", "5"),
        *("--host", "a:2,b:4"),
    ]


def instance(ranks: int, ranks_per_node: int | None, *argv: str) -> InstanceSpec:
    return InstanceSpec(ranks, ranks_per_node, argv, {}, None, Path("/r/log"))


def test_prterun() -> None:
    tokens = prterun_command(Path("/x/prterun"), HOSTS, instance(4, 2, "python", "-m", "w"), Path("/r/s"))
    assert tokens == [
        *("/x/prterun", "--prtemca", "prte_local_tmpdir_base", "/r/s"),
        *("--prtemca", "odls_base_max_threads", "0", "--host", "a:2,b:4"),
        *("--map-by", "ppr:2:node:OVERSUBSCRIBE", "--bind-to", "none", "-x", "QSIMENV_RANK_SETUP", "-n", "4"),
        *("/bin/sh", "-c", 'eval "$QSIMENV_RANK_SETUP"', "qsimenv-rank", "python", "-m", "w"),
    ]


def test_map_by() -> None:
    assert map_by(HOSTS, 3, 2) == "ppr:2:node:OVERSUBSCRIBE"
    assert map_by(HOSTS, 9, None) == "slot:OVERSUBSCRIBE"
    assert map_by(HOSTS, 4, 2, 3) == "ppr:2:node:pe=3:OVERSUBSCRIBE"
    for ranks, ranks_per_node in ((5, 2), (0, 2), (2, 0)):
        with pytest.raises(InvalidArgumentError):
            map_by(HOSTS, ranks, ranks_per_node)


def test_prterun_binds_ranks_to_their_cores() -> None:
    options = LaunchOptions(cores_per_rank=7)
    tokens = prterun_command(Path("/x/prterun"), SLURM, instance(4, 2, "w"), Path("/r/s"), options)
    assert tokens[-13:-4] == [
        *("--map-by", "ppr:2:node:pe=7:OVERSUBSCRIBE", "--bind-to", "core"),
        *("-x", "QSIMENV_RANK_SETUP", "-n", "4", "/bin/sh"),
    ]


def srun(allocation: Allocation, ranks: int, ranks_per_node: int | None, options: LaunchOptions = PLAIN) -> list[str]:
    command = srun_command(Path("/x/srun"), allocation, instance(ranks, ranks_per_node, "w"), options)
    assert command[-5:] == ["/bin/sh", "-c", 'eval "$QSIMENV_RANK_SETUP"', "qsimenv-rank", "w"]
    return command[:-5]


SRUN_ALWAYS = ["--overlap", "--export=ALL", "--kill-on-bad-exit=1", "--unbuffered", "--input=none"]


def test_srun() -> None:
    shared = ["--overcommit", "--cpu-bind=none"]
    head = ["/x/srun", "--nodes=2", "--ntasks=4", "--ntasks-per-node=2"]
    assert srun(SLURM, 4, 2) == [*head, *shared, *SRUN_ALWAYS]
    assert srun(SLURM, 4, None) == [*head, *shared, *SRUN_ALWAYS]
    assert srun(SLURM, 1, 2)[1:4] == ["--nodes=1", "--ntasks=1", "--ntasks-per-node=2"]


def test_srun_on_what_is_left_of_the_job() -> None:
    nodes = ["/x/srun", "--nodelist=n2", "--nodes=1", "--ntasks=2", "--ntasks-per-node=2"]
    assert srun(SLURM.only({"n2"}), 2, 2)[:5] == nodes


def test_srun_on_frontiers_devices_in_one_het_group() -> None:
    options = LaunchOptions(world="srun", cores_per_rank=7, srun_options=("--gpus-per-task=1", "--gpu-bind=closest"))
    assert srun(HET, 16, 8, options) == [
        *("/x/srun", "--het-group=1", "--nodes=2", "--ntasks=16", "--ntasks-per-node=8", "--cpus-per-task=7"),
        *SRUN_ALWAYS,
        *("--gpus-per-task=1", "--gpu-bind=closest"),
    ]


def test_srun_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="salloc"):
        srun(HOSTS, 2, 1)
    with pytest.raises(InvalidArgumentError, match="do not fit"):
        srun(SLURM, 5, 2)


def test_each_rank_takes_its_device(tmp_path: Path) -> None:
    options = LaunchOptions(devices=(4, 5, 2), device_variable="QSIMENV_TEST_DEVICE")
    setup = rank_setup(
        {}, cwd=None, log_path=tmp_path / "no" / "log", log_per_host=False, memory_folder=tmp_path,
        device_choice=device_choice(options, 3),
    )  # fmt: skip
    seen = [run_rank(setup, "sh", "-c", "echo $QSIMENV_TEST_DEVICE", PMIX_RANK=str(rank)).stdout for rank in range(6)]
    assert seen == ["4\n", "5\n", "2\n"] * 2
    assert device_choice(LaunchOptions(world="srun", devices=(0,), device_variable="X"), 1) == ""
    assert device_choice(PLAIN, 2) == ""


def test_prte_environment_of_a_wheel() -> None:
    base = {"PATH": "/bin", "PMIX_RANK": "0", "PMIX_PREFIX": "/other", "PRTE_MCA_x": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    prefix = str(BESIDE.parent.parent)
    prefixes = {"OPAL_PREFIX": prefix, "PRTE_PREFIX": prefix, "PMIX_PREFIX": prefix}
    assert prte_environment(base, BESIDE, uid=1000) == {"PATH": "/bin", **prefixes}


def test_prte_environment_of_a_site() -> None:
    base = {"PATH": "/bin", "PMIX_PREFIX": "/opt/pmix", "PMIX_NAMESPACE": "x"}
    assert prte_environment(base, FAR, uid=1000) == {"PATH": "/bin", "PMIX_PREFIX": "/opt/pmix"}


def test_root_may_run() -> None:
    names = {f"{tool}_ALLOW_RUN_AS_ROOT{end}" for tool in ("PRTE", "OMPI") for end in ("", "_CONFIRM")}
    assert prte_environment({}, FAR, uid=0) == dict.fromkeys(names, "1")
    assert not names & set(prte_environment({}, FAR, uid=1000))


def test_tool_environment() -> None:
    base = {"PATH": "/bin", "PMIX_PREFIX": "/v", "OPAL_PREFIX": "/v", "PMIX_SERVER_URI4": "x", "PMIX_MCA_psec": "munge"}
    environ = tool_environment(base, Path("/r/s"))
    assert environ.pop("PYTHONPATH")
    assert environ == {"PATH": "/bin", "PMIX_MCA_psec": "native", "TMPDIR": "/r/s"}


def test_python_environment_finds_this_package(tmp_path: Path) -> None:
    environ = python_environment({"PYTHONPATH": "/mine"})
    assert environ["PYTHONPATH"].endswith(os.pathsep + "/mine")
    command = [sys.executable, "-c", "import qsimenv.errors"]
    assert subprocess.run(command, env=environ, cwd=tmp_path, check=False).returncode == 0


def test_rank_environment_leaves_out_what_belongs_to_one_node() -> None:
    base = {"PATH": "/bin", "HOSTNAME": "a", "SLURM_NODEID": "0", "PMIX_RANK": "0", "OMP_NUM_THREADS": "4", "PWD": "/"}
    assert rank_environment(base, {"A": "1", "PATH": "/mine"}, FAR) == {
        "PATH": "/mine",
        "OMP_NUM_THREADS": "4",
        "A": "1",
    }
    assert rank_environment({}, {}, BESIDE)["PMIX_PREFIX"] == str(BESIDE.parent.parent)


def run_rank(setup: str, *argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], RANK_SETUP: setup, **environ}
    return subprocess.run([*RANK_SHELL, *argv], env=env, capture_output=True, text=True, check=False)


def test_rank_setup_when_run(tmp_path: Path) -> None:
    value, memory = "ä 'b'\n\"$HOME\" `c` \\", tmp_path / "memory"
    memory.mkdir()
    names = "('A', 'OMPI_MCA_btl_sm_backing_directory', 'QSIMENV_RANK_SETUP')"
    code = f"import os, sys; print([os.environ.get(n) for n in {names}], os.getcwd(), sys.argv[1:])"
    setup = rank_setup(
        {"A": value, "bad-name": "x"},
        cwd=str(memory),
        log_path=tmp_path / "a log",
        log_per_host=False,
        memory_folder=memory,
    )
    for _ in range(2):
        done = run_rank(setup, sys.executable, "-c", code, "two words")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "a log").read_text() == f"{[value, str(memory), None]} {memory} ['two words']\n" * 2


def test_rank_setup_per_host_and_without_a_log(tmp_path: Path) -> None:
    setup = rank_setup({}, cwd=None, log_path=tmp_path / "log", log_per_host=True, memory_folder=tmp_path / "none")
    assert run_rank(setup, "echo", "x", PMIX_HOSTNAME="n7").stdout == ""
    assert (tmp_path / "log.n7").read_text() == "x\n"
    nowhere = tmp_path / "none" / "log"
    setup = rank_setup({}, cwd=None, log_path=nowhere, log_per_host=False, memory_folder=tmp_path / "none")
    assert run_rank(setup, "echo", "x").stdout == "x\n", "without the folder the output stays with PRTE"


def test_rank_setup_failures(tmp_path: Path) -> None:
    log_path = tmp_path / "log"
    setup = rank_setup({}, cwd="/no/such/folder", log_path=log_path, log_per_host=False, memory_folder=tmp_path)
    assert run_rank(setup, "echo").returncode == 72
    assert "/no/such/folder" in log_path.read_text()
    with pytest.raises(InvalidArgumentError, match="environment"):
        rank_setup({"A": "x" * 140_000}, cwd=None, log_path=log_path, log_per_host=False, memory_folder=tmp_path)


def test_missing_program_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LibraryNotFoundError, match=r"pip install 'qsimenv\[mpi\]'"):
        find_program("no-such-prte", {"PATH": str(tmp_path)})
    program = tmp_path / "no-such-prte"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_program("no-such-prte", {"PATH": str(tmp_path)}) == program


@pytest.mark.parametrize(
    ("status", "rank", "message", "reason"),
    [
        (0, None, "", "all ranks ended"),
        (137, 1, "", "rank 1 killed by signal 9"),
        (139, None, "", "a rank killed by signal 11"),
        (3, 1, "exited with non-zero status", "rank 1 exited with status 3"),
        (5, 0, 'process rank 0 calling\n"abort"', "rank 0 called MPI_Abort(5)"),
        (-43, None, "", "the job failed: PRTE status -43"),
        (None, None, "", "the job ended in an unknown way"),
    ],
)
def test_describe_end(status: int | None, rank: int | None, message: str, reason: str) -> None:
    assert describe_end(status, rank, message) == reason


def test_job_end_event() -> None:
    infos = [
        {"key": "pmix.job.term.status", "value": 137},
        {"key": "pmix.evproc", "value": {"nspace": "prte-x@2", "rank": 1}},
    ]
    assert job_end_event({"nspace": "prte-x@2", "rank": 0}, infos) == {
        "event": "job_failed",
        "namespace": "prte-x@2",
        "status": 137,
        "reason": "rank 1 killed by signal 9",
    }
    wildcard = {"nspace": "prte-x@2", "rank": 4294967294}
    infos = [{"key": "pmix.job.term.status", "value": 0}, {"key": "pmix.evproc", "value": wildcard}]
    assert job_end_event({}, infos)["event"] == "job_end"
