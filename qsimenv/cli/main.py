"""Entry point of the ``qsimenv`` command: the group, the way errors are told, and nothing else.

Every error of ``qsimenv.errors`` becomes one line on stderr and exit code 2. Commands live in files of their own and
are imported when they are called, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

from qsimenv import __version__
from qsimenv.errors import QSimEnvError, SuspendedError

_COMMANDS = {
    "run": ("run", "Run a circuit here (also under mpirun), or on the running environment."),
    "start": ("environment", "Start an environment on this machine, on hosts, or in a Slurm allocation."),
    "status": ("environment", "Show the running environment: its DVM, workers and tasks."),
    "top": ("top", "Watch the running environment: its ranks, queues and rates."),
    "stop": ("environment", "Stop the running environment; leaves no process and no file behind."),
    "submit": ("tasks", "Submit circuits to the running environment."),
    "results": ("tasks", "Fetch the results of submitted circuits."),
    "log": ("log", "Show what became of tasks, one line each, also after the environment has ended."),
    "events": ("events", "Tell what happens to the running environment as it happens."),
    "report": ("report", "Write a page with plots: utilisation, waiting times, throughput, failures."),
    "bench": ("bench", "Measure this machine and this program, with what is wanted beside each figure."),
    "setup-job": ("job", "Write a batch script for Slurm from a few answers."),
    "doctor": ("doctor", "Check what this machine offers and say what to do about what is missing."),
}

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
_HEAD_START_S = 1.0


class _Group(click.Group):
    """Lists all commands; imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"qsimenv.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(
    cls=_Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="`qsimenv COMMAND --help` explains a command, with examples.",
)
@click.version_option(__version__, "--version", message="qsimenv %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A simulation environment for quantum circuits on HPC machines.

    \b
    In one process, or on many ranks:
        qsimenv run examples/bell.qasm --shots 1000
        mpirun -n 4 qsimenv run examples/adder.qasm --shots 1000 --seed 7 --json

    \b
    As an environment that serves many applications:
        qsimenv start
        qsimenv submit examples/*.qasm --wait
        qsimenv status
        qsimenv stop
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 done, 1 where what was asked for failed (a task, a check of ``doctor``),
    2 for whatever the user can mend, 75 where a run can be gone on with, 130 where the user broke it off."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show ends no run
    try:
        code = cli.main(arguments, prog_name="qsimenv", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "qsimenv"
        _fail(f"{where}: {error.format_message().rstrip('.')}; `{where} --help` tells what it takes")
    except click.ClickException as error:
        _fail(error.format_message())
    except SuspendedError as error:
        _leave(error.message, os.EX_TEMPFAIL)
    except QSimEnvError as error:
        _fail(error.message)
    except (KeyboardInterrupt, click.Abort):
        _leave("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        _close_stdout()
        sys.exit(1)  # as click itself does
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        _close_stdout()
        _fail(f"output: it cannot be written ({error.strerror}); make room, or send it elsewhere")
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _close_stdout() -> None:
    """Nobody takes what is still in its buffer; Python would complain about that at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> None:
    _leave(" ".join(message.split()), EXIT_ERROR)


def _leave(message: str, code: int) -> Any:
    """One line on stderr, from the first rank only: all ranks of an MPI job fail alike.

    The others leave after it, because a launcher kills all ranks as soon as one has ended with an error.
    """
    if launched_rank() == 0:
        click.echo(f"qsimenv: {message}" if not message.startswith("qsimenv") else message, err=True)
    else:
        time.sleep(_HEAD_START_S)
    sys.exit(code)


def launched_rank() -> int:
    """Our rank as the launcher's environment tells it; 0 where nothing launched us."""
    for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0
