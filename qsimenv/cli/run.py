"""``qsimenv run``: one circuit, in this process, on all ranks of an MPI launch, or on the running environment."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qsimenv.cli.options import json_option, make_task, name_option, task_options
from qsimenv.cli.progress import busy, sweeping
from qsimenv.errors import InvalidArgumentError, QSimEnvError
from qsimenv.task import SHARDED, WHOLE, Result, Task
from qsimenv.wording import plural

if TYPE_CHECKING:
    from qsimenv.checkpoints import Checkpointing

DEFAULT_EVERY = "10min"
STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


@click.command()
@click.argument("file")
@task_options
@click.option("--save", type=click.Path(path_type=Path), help="Write the statevector to this file: .npy, or .h5.")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write checkpoints there, and go on from the last one.",
)
@click.option(
    "--checkpoint-every",
    metavar="HOW_OFTEN",
    help=f"A time like 90s, 10min or 2h, or '500 sweeps'.  [default: {DEFAULT_EVERY}]",
)
@click.option("--keep-checkpoint", is_flag=True, help="Leave the checkpoints there when the run is done.")
@click.option("--environment", "-e", is_flag=True, help="Run on the running environment instead of here.")
@name_option
@click.option("--idle-ranks", is_flag=True, help="Under mpirun with, say, 3 ranks: use 2 of them and let 1 idle.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads a rank.  [default: its share of the host's cores]")
@click.option(
    "--explain", is_flag=True, help="Print the plan instead of running it: what moves, how long it should take."
)
@click.option(
    "--profile", is_flag=True, help="Run the plan and print what each exchange and sweep took, beside the bound."
)
@click.option("--verbose", is_flag=True, help="With --explain: every op of every sweep.")
@click.option("--metadata", is_flag=True, help="Also show engine, ranks, sweeps, bytes, seconds, all that is known.")
@json_option
def run(file: str, **options: Any) -> None:
    """Run the circuit in FILE (OpenQASM 2 or 3, or QPY).

    \b
    Examples:
        qsimenv run bell.qasm --shots 1000 --seed 7
        qsimenv run ansatz.qasm -p theta=pi/4 -o ZZ -o "0.5*XX-0.5*YY"
        mpirun -n 4 qsimenv run big.qasm --precision single --json
        qsimenv run big.qasm --explain
        mpirun -n 2 qsimenv run big.qasm --profile
        srun qsimenv run big.qasm --save state.h5 --checkpoint big.checkpoint

    Without --shots, --observable and --save it draws 1024 shots.

    A file that ends in .h5 takes the state from all ranks at once, as it is never held by one; `qs.load_state` and
    h5py read it. With --checkpoint, SIGUSR1 or SIGTERM makes the run write a checkpoint at the next occasion (some
    seconds) and end with exit code 75; the same command, on any number of ranks, goes on from there.
    """
    _check(options)
    if options["environment"]:
        _finish(_run_on_environment(file, options), options)
        return
    from qsimenv import comm

    if options["threads"]:
        os.environ["OMP_NUM_THREADS"] = str(options["threads"])
    team = comm.world()
    with _claimed(options, team):
        try:
            result = _run_here(file, options, team)
        except QSimEnvError:
            raise
        except BaseException as error:
            if team.size > 1:
                team.abort(f"qsimenv run: rank {team.rank} failed: {type(error).__name__}: {error}")
            raise
        if team.rank == 0 and result is not None:
            _finish(result, options)
            _discard_checkpoints(options)


def _claimed(options: dict[str, Any], team: Any) -> AbstractContextManager[None]:
    """The folder of checkpoints is this run's as long as it takes, and refused before it begins."""
    if options["checkpoint"] is None or options["explain"] or options["profile"]:
        return nullcontext()
    from qsimenv.checkpoints import claimed

    return claimed(options["checkpoint"], team, _tell)


def _discard_checkpoints(options: dict[str, Any]) -> None:
    if options["checkpoint"] is not None and not options["keep_checkpoint"]:
        from qsimenv.checkpoints import discard

        discard(options["checkpoint"])


def _tell(line: str) -> None:
    click.echo(f"qsimenv: {line}", err=True)


def _check(options: dict[str, Any]) -> None:
    """Refuse options that would have no effect."""
    for name in ("explain", "profile", "idle_ranks", "threads", "checkpoint"):
        if options["environment"] and options[name]:
            raise InvalidArgumentError(f"run: --{name.replace('_', '-')} is about a run here; leave --environment out")
    if options["verbose"] and not options["explain"]:
        raise InvalidArgumentError("run: --verbose is about the plan; add --explain, or leave it out")
    for name in ("checkpoint_every", "keep_checkpoint"):
        if options[name] and options["checkpoint"] is None:
            raise InvalidArgumentError(f"run: --{name.replace('_', '-')} is about checkpoints; add --checkpoint FOLDER")
    if options["name"] and not options["environment"]:
        raise InvalidArgumentError("run: --name is about a running environment; add --environment, or leave it out")


def _run_here(file: str, options: dict[str, Any], team: Any) -> Result | None:
    from qsimenv import engines
    from qsimenv.formats.together import load_together

    working = engines.power_of_two(team, allow_idle=options["idle_ranks"])
    if working is None:
        return None
    working.agree(_unwritable(options["save"]) if working.rank == 0 else None)
    circuit = load_together(file, working)
    task = make_task(circuit, options, _what_to_save(options["save"]))
    if options["explain"] or options["profile"]:
        _tell_plan(task, working, options)
        return None
    text = f"{plural(circuit.num_qubits, 'qubit')} on {plural(working.size, 'rank')}"
    unseen = options["as_json"] and not working.rank
    shown = nullcontext() if unseen else sweeping(text, quiet=working.rank > 0)
    with shown as tell, _checkpointing(options) as checkpointing:
        return engines.run(task, working, engines.Watch(tell, checkpointing))


@contextmanager
def _checkpointing(options: dict[str, Any]) -> Iterator[Checkpointing | None]:
    """What the run is told about checkpoints; meanwhile SIGUSR1 and SIGTERM ask it to stop."""
    if options["checkpoint"] is None:
        yield None
        return
    from qsimenv.checkpoints import Checkpointing, every

    asked: list[int] = []
    often = every(options["checkpoint_every"] or DEFAULT_EVERY)
    before = {number: signal.signal(number, lambda found, _: asked.append(found)) for number in STOP_SIGNALS}
    try:
        yield Checkpointing(options["checkpoint"], often, _tell, lambda: bool(asked))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_on_environment(file: str, options: dict[str, Any]) -> Result:
    from qsimenv.cli.environment import connection_file
    from qsimenv.formats import load
    from qsimenv.qpm_plugin.client import connect

    unwritable = _unwritable(options["save"])
    if unwritable is not None:
        raise unwritable
    task = make_task(load(file), options, _what_to_save(options["save"]))
    with connect(connection_file(options["name"])) as qpm, _busy("waiting for the environment", options, 0):
        return qpm.sync_run(task)


def _busy(text: str, options: dict[str, Any], rank: int) -> AbstractContextManager[None]:
    """A spinner where a person waits. Ranks but the first keep silent; with --json only long work has a word."""
    if options["as_json"] and not rank:
        return nullcontext()
    return busy(text, quiet=rank > 0)


def _finish(result: Result, options: dict[str, Any]) -> None:
    from qsimenv.cli import show

    path = options["save"]
    if path and result.statevector is not None:
        _save(result, path)
    if options["as_json"]:
        saved = {"saved": str(path)} if path else {}
        show.echo_json({**show.result_as_json(result, options["metadata"]), **saved})
        return
    show.show_result(result, options["observables"], options["metadata"])
    if path and result.statevector is not None:
        click.echo(f"{plural(result.statevector.size, 'amplitude')} written to {path}")
    elif path:
        click.echo(f"the state is written to {path} and {path}.shards")


def _what_to_save(path: Path | None) -> str | None:
    """A sharded file is written by the ranks, any other here from the whole statevector."""
    if path is None:
        return None
    return str(path) if path.suffix in SHARDED else WHOLE


def _unwritable(path: Path | None) -> InvalidArgumentError | None:
    """Why the file cannot be written, as far as that can be seen before the run."""
    if path is None:
        return None
    if path.is_dir():
        return _not_saved(path, "it is a folder")
    if not path.parent.is_dir():
        return _not_saved(path, "there is no such folder")
    if path.suffix not in ("", ".npy", *SHARDED):
        return _not_saved(path, f"it ends in {path.suffix}; .npy or .h5 is needed")
    return None if os.access(path if path.exists() else path.parent, os.W_OK) else _not_saved(path, "no permission")


def _save(result: Result, path: Path) -> None:
    import numpy as np

    assert result.statevector is not None  # noqa: S101 - the task asked for it
    try:
        with path.open("wb") as file:
            np.save(file, result.statevector)
    except OSError as error:
        raise _not_saved(path, error.strerror or str(error)) from None


def _not_saved(path: Path, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"save: {path} cannot be written ({reason}); give another path")


def _tell_plan(task: Task, team: Any, options: dict[str, Any]) -> None:
    """The plan, or the profile of a run of it, told by rank 0."""
    from qsimenv.cli import show
    from qsimenv.statevec import explain

    if options["profile"]:
        doing = f"{plural(task.circuit.num_qubits, 'qubit')} on {plural(team.size, 'rank')}, twice"
        with _busy(doing, options, team.rank):
            text = explain.profile(task, team)
    else:
        text = explain.explain(task, team.size, options["verbose"])
    if team.rank:
        return
    if options["as_json"]:
        show.echo_json({"profile" if options["profile"] else "plan": text})
    else:
        click.echo(text)
