"""Qiskit's view of the house: a backend for ``transpile`` and ``run``, and its jobs.

>>> from qsimenv.qiskit import QSimBackend
>>> counts = QSimBackend().run(circuit, shots=1000).result().get_counts()     # doctest: +SKIP

Importing this package loads nothing; the first use of a name brings in Qiskit.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qsimenv.qiskit.backend import QSimBackend
    from qsimenv.qiskit.job import QSimJob

__all__ = ["QSimBackend", "QSimJob"]

_HOME = {"QSimBackend": "qsimenv.qiskit.backend", "QSimJob": "qsimenv.qiskit.job"}


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'qsimenv.qiskit' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
