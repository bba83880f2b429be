"""``qsimenv setup-job``: a batch script from a few answers, made from those in ``jobs/``."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from qsimenv.errors import InvalidArgumentError

FOLDER = Path(__file__).parents[1] / "jobs"
_KINDS = {
    "one-node": "a service on one node, and circuits that are run on it",
    "many-circuits": "many circuits on several nodes, through the service",
    "big-circuit": "one big circuit over several nodes, without a service",
    "heterogeneous": "an application on one node, the simulation on others",
    "parameter-scan": "a parameter scan as a job array",
    "scaling": "one circuit on 1, 2, 4, ... ranks",
    "frontier": "one big circuit on Frontier's GPUs",
}
_OF_EVERY_GROUP = ("account", "time")
_TIME = re.compile(r"(\d+-)?\d{1,3}(:\d{2}){1,2}|\d+")
_WORD = re.compile(r"[^\s#]+")


@click.command(name="setup-job")
@click.option("--kind", type=click.Choice(list(_KINDS)), help="What the job does; see below.")
@click.option("--nodes", type=click.IntRange(min=1), help="Nodes of the simulation.")
@click.option("--time", "time_limit", metavar="H:MM:SS", help="Time limit.")
@click.option("--account", help="Project to charge.")
@click.option("--partition", help="Partition of the simulation.")
@click.option("--profile", metavar="NAME|FILE", help="Site profile: options of sbatch, modules, how to launch.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="File to write.  [default: <kind>.sh]")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@click.argument("arguments", nargs=-1, metavar="[FILE...]")
def setup_job(output: Path | None, force: bool, arguments: tuple[str, ...], **options: Any) -> None:
    """Write a batch script for Slurm, commented, ready for sbatch. Asks for what is not given, on a terminal.

    FILE... are the circuits, or the application, that it runs where sbatch gives it none.

    \b
    Kinds:
        one-node         a service on one node, and circuits that are run on it
        many-circuits    many circuits on several nodes, through the service
        big-circuit      one big circuit over several nodes, without a service
        heterogeneous    an application on one node, the simulation on others
        parameter-scan   a parameter scan as a job array
        scaling          one circuit on 1, 2, 4, ... ranks
        frontier         one big circuit on Frontier's GPUs

    Profiles: workstation, generic-slurm, frontier, or a TOML file of your own.

    \b
    Examples:
        qsimenv setup-job                      asks
        qsimenv setup-job --kind big-circuit --nodes 8 --time 2:00:00 --account abc123 big.qasm
        sbatch big-circuit.sh
    """
    if sys.stdin.isatty():
        _ask(options)
    if options["kind"] is None:
        raise InvalidArgumentError(f"setup-job: no --kind found, one of {', '.join(_KINDS)} needed")
    path = output or Path(f"{options['kind']}.sh")
    if path.exists() and not force:
        raise InvalidArgumentError(f"setup-job: {path} exists already; give another --output, or --force")
    try:
        path.write_text(job_script(arguments=arguments, **options), encoding="utf-8")
        path.chmod(0o755)
    except OSError as error:
        raise InvalidArgumentError(
            f"setup-job: {path} cannot be written ({error.strerror}); give another path"
        ) from None
    click.echo(f"written: {path}; have a look at it, then: sbatch {shlex.quote(str(path))}")


def job_script(
    kind: str,
    nodes: int | None = None,
    time_limit: str | None = None,
    account: str | None = None,
    partition: str | None = None,
    profile: str | None = None,
    arguments: tuple[str, ...] = (),
) -> str:
    """The text of the script of that kind with these answers in it. Raises InvalidArgumentError for one that cannot be.

    In a heterogeneous job nodes and partition are those of the simulation, the last group.
    """
    from qsimenv.launcher.profiles import Job, read_named

    _check(time_limit, account, partition)
    text = (FOLDER / f"{kind}.sh").read_text(encoding="utf-8")
    site = Job() if profile is None else read_named(profile).job
    for option in site.sbatch:
        text = _with_option(text, *option.lstrip("-").partition("=")[::2])
    for name, value in (("time", time_limit), ("account", account), ("partition", partition), ("nodes", nodes)):
        if value is not None:
            text = _with_option(text, name, str(value))
    if site.modules and "\nmodule load" not in text:
        text = text.replace("\nexport PATH=", f"\nmodule load {' '.join(site.modules)}\nexport PATH=", 1)
    if profile is not None:
        text = text.replace("qsimenv start", f"qsimenv start --profile {shlex.quote(profile)}")
    if arguments:
        files = " ".join(map(shlex.quote, arguments))
        first = text.index("\n\n") + 2
        text = text[:first] + f"(($#)) || set -- {files}\n" + text[first:]
    return text


def _with_option(text: str, name: str, value: str) -> str:
    """The script with an option of sbatch set: in place of what stands there, else as a new line.

    Every group of a heterogeneous job gets its own account and time; anything else is for the last group.
    """
    lines = text.split("\n")
    new = f"#SBATCH --{name}={value}" if value else f"#SBATCH --{name}"
    there = [k for k, line in enumerate(lines) if re.match(rf"#SBATCH --{name}\b", line)]
    if not there:
        heads = [k for k, line in enumerate(lines) if line.startswith(("#SBATCH --job-name", "#SBATCH hetjob"))]
        for k in reversed(heads if name in _OF_EVERY_GROUP else heads[-1:]):
            lines.insert(k + 1, new)
    for k in there if name in _OF_EVERY_GROUP else there[-1:]:
        comment = re.search(r"\s+#.*", lines[k][1:])
        lines[k] = new + (comment[0] if comment else "")
    return "\n".join(lines)


def _check(time_limit: str | None, account: str | None, partition: str | None) -> None:
    if time_limit is not None and not _TIME.fullmatch(time_limit):
        raise InvalidArgumentError(f"setup-job: time {time_limit!r} found, minutes or H:MM:SS or D-HH:MM needed")
    for name, value in (("account", account), ("partition", partition)):
        if value is not None and not _WORD.fullmatch(value):
            raise InvalidArgumentError(f"setup-job: {name} {value!r} found, one word needed")


def _ask(options: dict[str, Any]) -> None:
    """Ask a person for what the command line left open; an empty answer leaves it as the script has it."""
    if options["kind"] is None:
        for kind, what in _KINDS.items():
            click.echo(f"  {kind:<16} {what}")
        options["kind"] = click.prompt("What shall it do?", type=click.Choice(list(_KINDS)))
    for name, question in (
        ("nodes", "How many nodes?"),
        ("time_limit", "Time limit (H:MM:SS)?"),
        ("account", "Account?"),
        ("partition", "Partition?"),
    ):
        if options[name] is None:
            answer = click.prompt(question, default="", show_default=False)
            options[name] = answer or None
    if options["nodes"] is not None:
        options["nodes"] = _positive(options["nodes"])


def _positive(answer: Any) -> int:
    if not str(answer).isdecimal() or int(answer) < 1:
        raise InvalidArgumentError(f"setup-job: {answer!r} nodes found, a positive number needed")
    return int(answer)
