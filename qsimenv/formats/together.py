"""Loading under MPI: one rank reads and parses, the others get the circuit, so that Qiskit is imported once."""

from __future__ import annotations

from typing import Any

from qsimenv.circuit import Circuit
from qsimenv.comm import Team
from qsimenv.errors import QSimEnvError
from qsimenv.formats import load


def load_together(source: Any, team: Team) -> Circuit:
    """What ``load(source)`` gives on rank 0, on every rank. *Collective.* Raises what it raises there."""
    if team.size == 1 or isinstance(source, Circuit):
        return load(source)
    circuit: Circuit | None = None
    error: QSimEnvError | None = None
    if team.rank == 0:
        try:
            circuit = load(source)
        except QSimEnvError as raised:
            error = raised
    team.agree(error)
    name = team.broadcast(circuit.name.encode() if circuit else b"").decode()
    return Circuit.from_bytes(team.broadcast(circuit.bytes if circuit else b""), name)
