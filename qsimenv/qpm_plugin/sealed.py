"""Circuits as the controller keeps them: opened where that is a matter of milliseconds, else sealed: name and bytes.

To decode, check and count a circuit of 100,000 gates takes half a second, in which nobody else would be heard.
Whoever needs to look into a sealed one is the ``appraiser``, a process of its own, and the workers.
"""

from __future__ import annotations

from typing import NamedTuple

from qsimenv.circuit import Circuit

OPENED_BYTES = 1 << 15
"""So much the controller opens itself, of one request: some hundred gates, about 5 ms."""


class Sealed(NamedTuple):
    """A circuit that was looked at elsewhere; see ``Circuit`` for what its ``hash`` and ``bytes`` are."""

    hash: str
    bytes: bytes


def kept(name: str, data: bytes) -> Circuit | Sealed:
    """The circuit of that name, as it is to be kept; its bytes are known to be right."""
    return Circuit.from_bytes(data) if len(data) <= OPENED_BYTES else Sealed(name, data)


def opened(circuit: Circuit | Sealed) -> Circuit:
    """The circuit itself; half a second for 100,000 gates that are sealed."""
    return circuit if isinstance(circuit, Circuit) else Circuit.from_bytes(circuit.bytes)
