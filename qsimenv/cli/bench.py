"""``qsimenv bench``: runs the benchmarks of the source tree that this program is installed from.

They are no part of the package that users install: they bring other simulators, big states and an hour of work.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from qsimenv.cli.show import console, fields
from qsimenv.errors import InvalidArgumentError, NotFoundError

ROOT = Path(__file__).parents[2]
_PROGRAM = "qsimenv bench"


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the figures there, too, with the machine they come from.")  # fmt: skip
@click.argument("name", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(json_path: Path | None, name: str | None, arguments: tuple[str, ...]) -> None:
    """Measure this machine and this program: run the benchmark NAME. Without a name, list them.

    Figures are printed with what is wanted beside them where something is (in a pipe: tab-separated), and kept in
    benchmarks/results/NAME.json with processor, versions and commit. ARGUMENTS are the benchmark's own:
    `qsimenv bench NAME --help` tells them, and what is measured how. Options of `bench` itself go before NAME.

    Benchmarks want the machine for themselves; most run for seconds, peers and scaling for many minutes.

    \b
    Examples:
        qsimenv bench                                   what there is
        qsimenv bench service                           round trips and rates of the service on two ranks
        qsimenv bench schedule --ranks 10000            three applications on simulated ranks
        qsimenv bench --json /tmp/queue.json queue      100,000 queued tasks, the figures in a file
    """
    benchmarks = _package()
    titles: dict[str, str] = benchmarks.titles()
    if name is None:
        if sys.stdout.isatty():
            fields(console(), titles.items())
        else:
            click.echo("\n".join(map("\t".join, titles.items())))
        return
    if name not in titles:
        raise InvalidArgumentError(f"bench: {name!r} found, one of {', '.join(titles)} needed")
    figures = benchmarks.run(name, list(arguments), _PROGRAM)
    if json_path is not None:
        _write(json_path, {"benchmark": name, "machine": _machine(), "figures": figures})


def _package() -> ModuleType:
    """The package ``benchmarks`` beside this one. NotFoundError where there is none."""
    if not (ROOT / "benchmarks" / "__main__.py").is_file():
        raise NotFoundError(
            f"bench: no benchmarks beside {ROOT / 'qsimenv'}; they come with the source tree: run it from a clone "
            "(make .venv/.ready, then .venv/bin/qsimenv bench)"
        )
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))  # for ranks
    return import_module("benchmarks")


def _machine() -> dict[str, Any]:
    described: dict[str, Any] = import_module("benchmarks.machine").describe()
    return described


def _write(path: Path, found: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidArgumentError(f"bench: {path} cannot be written ({error.strerror}); give another path") from None
