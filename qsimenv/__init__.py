"""qsimenv: a simulation environment for quantum circuits on HPC machines.

>>> import qsimenv as qs
>>> result = qs.run(qs.load("bell.qasm"), shots=1000, seed=7)      # doctest: +SKIP
>>> result.counts                                                  # doctest: +SKIP
{'00': 503, '11': 497}

Importing this package loads no compiler, no MPI and no Qiskit; each comes with the first call that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qsimenv.circuit import Circuit
    from qsimenv.formats import load
    from qsimenv.run import run
    from qsimenv.task import Result
    from qsimenv.task import task as Task  # noqa: N812 - the public constructor of a Task

__version__ = "0.1.0"
__all__ = ["Circuit", "Result", "Task", "load", "run"]

_HOME = {
    "Circuit": ("qsimenv.circuit", "Circuit"),
    "Result": ("qsimenv.task", "Result"),
    "Task": ("qsimenv.task", "task"),
    "load": ("qsimenv.formats", "load"),
    "run": ("qsimenv.run", "run"),
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'qsimenv' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _HOME[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value
