"""`qsimenv setup-job`: what the answers do to the scripts, and what it refuses."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from qsimenv.cli.job import _KINDS, FOLDER, job_script, setup_job
from qsimenv.errors import InvalidArgumentError, NotFoundError
from qsimenv.launcher.profiles import names, read_named


def options(text: str) -> list[str]:
    return [line.split(" #")[0].rstrip() for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_every_script_is_a_kind_and_every_kind_a_script() -> None:
    assert set(_KINDS) == {path.stem for path in FOLDER.glob("*.sh")}
    for kind in _KINDS:
        assert job_script(kind) == (FOLDER / f"{kind}.sh").read_text()
        assert f"        {kind} " in str(setup_job.help), "the help names it"


def test_answers_take_the_place_of_what_stands_there() -> None:
    before = options(job_script("big-circuit"))
    after = options(job_script("big-circuit", nodes=8, time_limit="2:00:00", account="abc", partition="batch"))
    assert set(before) - set(after) == {"#SBATCH --nodes=2", "#SBATCH --time=00:30:00"}
    added = {"#SBATCH --nodes=8", "#SBATCH --time=2:00:00", "#SBATCH --account=abc", "#SBATCH --partition=batch"}
    assert set(after) - set(before) == added


def test_a_heterogeneous_job_asks_for_the_simulation() -> None:
    lines = options(job_script("heterogeneous", nodes=64, account="abc", partition="gpu", time_limit="60"))
    application, simulation = lines[: lines.index("#SBATCH hetjob")], lines[lines.index("#SBATCH hetjob") :]
    assert {"#SBATCH --nodes=1", "#SBATCH --partition=compute", "#SBATCH --account=abc"} <= set(application)
    assert {"#SBATCH --nodes=64", "#SBATCH --partition=gpu", "#SBATCH --account=abc"} <= set(simulation)
    assert application.count("#SBATCH --time=60") == simulation.count("#SBATCH --time=60") == 1


def test_the_script_for_frontier_says_what_its_profile_says() -> None:
    """Modules, variables, a rank a GCD with its cores, GPU-aware MPI; compiled kernels from the nodes' own memory."""
    text, site = job_script("frontier"), read_named("frontier")
    asked = {option.partition("=")[0] for option in site.job.sbatch}
    given = {line.removeprefix("#SBATCH ").partition("=")[0] for line in options(text)}
    assert asked - given == {"--account"}, "which is the user's to name"
    assert "#SBATCH --gpus-per-node=8" in options(text)
    assert f"\nmodule load {' '.join(site.job.modules)}\n" in text
    exports = dict(re.findall(r"^export (\w+)=(\S+)", text, re.MULTILINE))
    assert site.environment.items() <= exports.items()
    assert "\nexport NUMBA_CACHE_DIR=/dev/shm/numba-$SLURM_JOB_ID\n" in text

    (command,) = re.findall(r"^srun (.*?)\\\n\s+qsimenv run", text, re.MULTILINE)
    words = command.split()
    ranks, cores = len(site.devices), site.cores_per_node
    assert cores is not None
    assert ranks == 8
    assert {f"--ntasks-per-node={ranks}", f"--cpus-per-task={cores // ranks}", *site.srun_options} <= set(words)
    steps = re.findall(r"^srun (--\S+) (cp|rm) ", text, re.MULTILINE)
    assert steps == [("--ntasks-per-node=1", "cp"), ("--ntasks-per-node=1", "rm")], "the cache comes, and goes again"


def test_a_profile_brings_options_and_modules() -> None:
    text = job_script("many-circuits", profile="frontier", account="abc")
    assert {"#SBATCH --account=abc", "#SBATCH --gpus-per-node=8", "#SBATCH --partition=batch"} <= set(options(text))
    assert "\nmodule load PrgEnv-amd rocm cray-python cray-pmi\nexport PATH=" in text
    assert "run qsimenv start --profile frontier --journal " in text


@pytest.mark.parametrize("profile", [None, *names()])
@pytest.mark.parametrize("kind", _KINDS)
def test_what_is_written_is_a_clean_script(kind: str, profile: str | None, tmp_path: Path) -> None:
    path = tmp_path / "job.sh"
    text = job_script(kind, 4, "1:00:00", "abc", "batch", profile, ("my circuit.qasm", "b.qasm"))
    path.write_text(text)
    assert "(($#)) || set -- 'my circuit.qasm' b.qasm\n" in text
    assert text.index("(($#)) || set --") < text.index("PATH")
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "answers", [{"time_limit": "soon"}, {"time_limit": "1:2"}, {"account": "a b"}, {"partition": "x\n#SBATCH --y"}]
)
def test_answers_that_cannot_be(answers: dict[str, str]) -> None:
    with pytest.raises(InvalidArgumentError, match="setup-job"):
        job_script("big-circuit", **answers)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="generic-slurm"):
        job_script("big-circuit", profile="nowhere")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(setup_job, ["--kind", "scaling", "--nodes", "16"], catch_exceptions=False)
    assert "sbatch scaling.sh" in done.output
    assert "#SBATCH --nodes=16" in (tmp_path / "scaling.sh").read_text()
    assert (tmp_path / "scaling.sh").stat().st_mode & 0o111
    for arguments, message in ((["--kind", "scaling"], "exists already"), ([], "no --kind found")):
        error = CliRunner().invoke(setup_job, arguments).exception
        assert isinstance(error, InvalidArgumentError)
        assert message in error.message
