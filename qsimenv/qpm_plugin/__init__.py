"""The QPM plugin: this environment as one more quantum device behind the Quantum Platform Manager API."""

from qsimenv.qpm_plugin.api import (
    QPM,
    DeviceState,
    Event,
    EventKind,
    Reservation,
    TaskRecord,
    TaskState,
)
from qsimenv.task import Estimate

__all__ = [
    "QPM",
    "DeviceState",
    "Estimate",
    "Event",
    "EventKind",
    "EventQueue",
    "Reservation",
    "TaskRecord",
    "TaskState",
    "connect",
]


def __getattr__(name: str) -> object:
    """``connect`` brings in ZeroMQ, so it is loaded on first use."""
    if name == "EventQueue":
        from qsimenv.qpm_plugin.events import EventQueue

        return EventQueue
    if name == "connect":
        from qsimenv.qpm_plugin.client import connect

        return connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
