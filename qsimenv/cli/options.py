"""Options that several commands share, and how they become a Task."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click
import numpy as np

from qsimenv import formula
from qsimenv.circuit import Circuit
from qsimenv.errors import InvalidArgumentError, QSimEnvError
from qsimenv.task import Task, task

_Command = TypeVar("_Command", bound=Callable[..., Any])

DEFAULT_SHOTS = 1024


def task_options(command: _Command) -> _Command:
    """--shots, --seed, --observable, --parameter, --precision, --engine, --device."""
    for option in reversed(
        (
            click.option("--shots", type=int, help=f"Number of outcomes to draw.  [default: {DEFAULT_SHOTS}]"),
            click.option("--seed", type=int, help="Makes the outcomes reproducible, on any number of ranks."),
            click.option(
                "--observable", "-o", "observables", multiple=True, metavar="PAULIS",
                help="Expectation value of a Pauli sum, e.g. ZZI or 0.5*XX-ZI; exact. The rightmost letter is qubit 0.",
            ),
            click.option(
                "--parameter", "-p", "parameters", multiple=True, metavar="NAME=VALUE",
                help="Value of a free parameter, e.g. theta=0.3 or theta=pi/4.",
            ),
            click.option("--precision", default="double", show_default=True, help="double, or single: half the bytes."),
            click.option("--engine", default="auto", show_default=True, help="auto, or the name of an engine."),
            click.option("--device", default="auto", show_default=True, help="auto, cpu or gpu: where amplitudes are."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


seconds = click.FloatRange(min=0, clamp=False)
name_option = click.option("--name", help="Which environment, where several run.  [default: default]")
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
        device=options["device"],
        save=save,
        application=options.get("application", ""),
        priority=options.get("priority", 0),
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
    """``theta=pi/4`` as a name and a number. Raises InvalidArgumentError."""
    values: dict[str, float] = {}
    for pair in pairs:
        name, _, text = (part.strip() for part in pair.partition("="))
        if name in values:
            raise InvalidArgumentError(f"parameter: {name!r} is given twice; give each one value")
        values[name] = _number(text)
        if not name or not math.isfinite(values[name]):
            raise InvalidArgumentError(f"parameter: {pair!r} found, NAME=VALUE with a number like 0.3 or pi/4 needed")
    return values


def _number(text: str) -> float:
    """A number or a formula of numbers; NaN for anything else."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        with np.errstate(all="ignore"):
            return float(formula.substitute(text, ()))
    except (QSimEnvError, IndexError):  # an index: it reads a parameter
        return math.nan
