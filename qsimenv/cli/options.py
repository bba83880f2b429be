"""Options that several commands share, and how they become a Task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from qsimenv.circuit import Circuit
from qsimenv.errors import InvalidArgumentError
from qsimenv.task import Task, task

_Command = TypeVar("_Command", bound=Callable[..., Any])

DEFAULT_SHOTS = 1024


def task_options(command: _Command) -> _Command:
    """--shots, --seed, --observable, --parameter, --precision, --engine."""
    for option in reversed(
        (
            click.option("--shots", type=int, help=f"Number of outcomes to draw.  [default: {DEFAULT_SHOTS}]"),
            click.option("--seed", type=int, help="Makes the outcomes reproducible, on any number of ranks."),
            click.option(
                "--observable", "-o", "observables", multiple=True, metavar="PAULIS",
                help="Expectation value of a Pauli sum, e.g. ZZI or 0.5*XX-ZI; exact. The rightmost letter is qubit 0.",
            ),
            click.option(
                "--parameter", "-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A free parameter."
            ),
            click.option("--precision", default="double", show_default=True, help="double or single."),
            click.option("--engine", default="auto", show_default=True, help="auto, or the name of an engine."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")


def make_task(circuit: Circuit, options: dict[str, Any], save: str | None = None) -> Task:
    """The Task of the shared options. Shots default to a number only where nothing exact is asked for."""
    shots = options["shots"]
    if shots is None and not options["observables"] and save is None:
        shots = DEFAULT_SHOTS
    return task(
        circuit,
        shots=shots,
        seed=options["seed"],
        observables=[pauli_sum(text) for text in options["observables"]],
        parameters=_parameters(options["parameters"]) or None,
        precision=options["precision"],
        engine=options["engine"],
        save=save,
    )


def pauli_sum(text: str) -> list[tuple[str, float]]:
    """``0.5*XX-ZI`` as pairs. Raises InvalidArgumentError."""
    import re

    compact = text.replace(" ", "")
    terms = re.findall(r"([+-]?)(?:((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\*)?([IXYZixyz]+)", compact)
    if not terms or "".join(sign + (number and number + "*") + pauli for sign, number, pauli in terms) != compact:
        raise InvalidArgumentError(f"observable: {text!r} is not a Pauli sum like ZZI or 0.5*XX-ZI")
    return [(pauli.upper(), float(f"{sign}{number or 1}")) for sign, number, pauli in terms]


def _parameters(pairs: tuple[str, ...]) -> dict[str, float]:
    values = {}
    for pair in pairs:
        name, found, text = pair.rpartition("=")
        try:
            values[name] = float(text)
        except ValueError:
            found = ""
        if not found or not name:
            raise InvalidArgumentError(f"parameter: {pair!r} found, NAME=VALUE with a number needed")
    return values
