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
    from qsimenv.statevec.storing.stored import load_state, save_state
    from qsimenv.task import Result
    from qsimenv.task import task as Task  # noqa: N812 - the public constructor of a Task

__version__ = "0.1.0"
__all__ = ["Circuit", "Result", "Task", "gradient", "load", "load_state", "run", "save_state"]

_HOME = {
    "Circuit": ("qsimenv.circuit", "Circuit"),
    "Result": ("qsimenv.task", "Result"),
    "Task": ("qsimenv.task", "task"),
    "load": ("qsimenv.formats", "load"),
    "load_state": ("qsimenv.statevec.storing.stored", "load_state"),
    "save_state": ("qsimenv.statevec.storing.stored", "save_state"),
}


def run(circuit: Any, *, checkpoint: Any = None, checkpoint_every: str = "10min", **options: Any) -> Result:
    """Run a circuit in this process, or on all ranks of MPI_COMM_WORLD where a launcher started several.

    ``circuit`` is anything ``load`` takes. ``options`` are those of ``Task``: ``shots`` (number of outcomes to draw),
    ``observables`` (exact expectation values where no shots are given), ``parameters`` of shape (P,) or (B, P),
    ``save="statevector"`` or ``save="state.h5"``, ``seed``, ``precision`` ("double" or "single"), ``engine`` ("auto"),
    ``device`` ("auto": a GPU where every rank has one and the state fits; "cpu", "gpu").
    *Collective* under MPI; every rank returns the same Result. ``checkpoint`` names a folder for checkpoints, from
    which the same call goes on, and which is removed in the end; what there is to tell of them is logged.

    Raises InvalidArgumentError for bad input, OutOfMemoryError for what cannot fit, NotSupportedError for what the
    engine cannot do: on every rank the same.
    """
    from qsimenv import comm, engines
    from qsimenv.formats.together import load_together
    from qsimenv.task import task

    team = comm.world()
    made = task(load_together(circuit, team), **options)
    if checkpoint is None:
        return engines.run(made, team)
    from qsimenv import checkpoints

    with checkpoints.logged(checkpoint, checkpoint_every, team) as checkpointing:
        return engines.run(made, team, engines.Watch(checkpointing=checkpointing))


def gradient(circuit: Any, observable: Any, parameters: Any, *, precision: str = "double", device: str = "auto") -> Any:
    """The derivatives of an expectation value by the circuit's free parameters, exactly (adjoint method).

    ``observable`` is a Pauli string, ``{string: coefficient}`` or anything else that ``Task`` takes for one;
    ``parameters`` are values of shape (P,) or (B, P) or a mapping of names. Returns float64 of the same shape.
    *Collective* under MPI; every rank returns the same. Takes two states of memory and the time of a few runs, whatever
    the number of parameters.

    Raises NotSupportedError where the circuit measures, resets or branches in the middle, InvalidArgumentError for bad
    input, OutOfMemoryError for what cannot fit: on every rank the same.
    """
    from qsimenv import comm
    from qsimenv.errors import InvalidArgumentError
    from qsimenv.formats.together import load_together
    from qsimenv.statevec import engine
    from qsimenv.task import task

    team = comm.world()
    made = task(
        load_together(circuit, team), observables=observable, parameters=parameters, precision=precision, device=device
    )  # fmt: skip
    if len(made.observables) != 1:
        raise InvalidArgumentError(f"gradient: {len(made.observables)} observables found, one is needed")
    return engine.gradient(made, team)


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'qsimenv' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _HOME[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value
