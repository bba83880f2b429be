"""Figures with their promises beside them: ``python -m benchmarks NAME``, or ``qsimenv bench NAME``.

A benchmark is a module of this package with a ``main(arguments)`` that prints what it finds, saves it in ``results/``
and returns it. Its docstring's first line is its title. Nothing else names it: a new file is found by itself.
"""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def titles() -> dict[str, str]:
    """Every benchmark's title by its name, in order. Reads the files and imports none of them."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(step, ast.FunctionDef) and step.name == "main" and step.args.args for step in module.body):
            found[path.stem] = (ast.get_docstring(module) or "").partition("\n")[0].rstrip(".")
    return found


def run(name: str, arguments: list[str], program: str) -> dict[str, Any]:
    """Run one of ``titles()``; what it found. ``program`` is what its ``--help`` calls itself. Ends the process where
    the arguments make no sense, as argparse does."""
    sys.argv[0] = f"{program} {name}"
    figures: dict[str, Any] = import_module(f"benchmarks.{name}").main(arguments)
    return figures
