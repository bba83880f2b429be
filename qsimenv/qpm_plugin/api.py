"""The Quantum Platform Manager contract: what a provider of a quantum device implements.

The calls fall into three groups, as the paper divides them: resource management, runtime, and what is specific to
the device. States and error codes are QDMI's, names follow QFw where it has one. ``client.Client`` offers this very
contract over the network; a provider for another device implements it and registers under ``qsimenv.qpm``.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from qsimenv.circuit import Circuit
from qsimenv.task import Estimate, Result, Task


class TaskState(enum.IntEnum):
    """QDMI's job states. DONE, CANCELED and FAILED are final."""

    CREATED = 0
    SUBMITTED = 1
    QUEUED = 2
    RUNNING = 3
    DONE = 4
    CANCELED = 5
    FAILED = 6

    @property
    def is_final(self) -> bool:
        return self >= TaskState.DONE


class DeviceState(enum.IntEnum):
    """QDMI's device states."""

    OFFLINE = 0
    IDLE = 1
    BUSY = 2
    ERROR = 3
    MAINTENANCE = 4
    CALIBRATION = 5


class ErrorInfo(msgspec.Struct, frozen=True):
    """Why a task failed: QDMI's code and one line of text."""

    code: int
    message: str


class Times(msgspec.Struct, kw_only=True):
    """The six times of a task, in seconds since the epoch; None where it has not happened."""

    creation_time: float | None = None
    launch_time: float | None = None
    exec_time: float | None = None
    completion_time: float | None = None
    cq_enqueue_time: float | None = None
    cq_dequeue_time: float | None = None


class TaskRecord(msgspec.Struct, kw_only=True):
    """One task as the provider sees it. ``result`` is set in DONE, ``error`` in FAILED.

    creation: accepted; launch: sent to its ranks; exec: the ranks began; completion: they ended.
    ``ranks`` numbers the ranks of the instance that ran it; ``attempts`` how often it was started, ``interruption`` why
    the last of them but one came to nothing.
    """

    task_id: str
    state: TaskState
    name: str = ""
    times: Times = msgspec.field(default_factory=Times)
    ranks: tuple[int, ...] = ()
    engine: str = ""
    attempts: int = 0
    interruption: str = ""
    application: str = ""
    error: ErrorInfo | None = None
    result: Result | None = None

    @property
    def queue_s(self) -> float | None:
        """Seconds from acceptance to launch."""
        return _difference(self.times.launch_time, self.times.creation_time)

    @property
    def execution_s(self) -> float | None:
        """Seconds that the ranks worked."""
        return _difference(self.times.completion_time, self.times.exec_time)


def _difference(later: float | None, earlier: float | None) -> float | None:
    return None if later is None or earlier is None else later - earlier


class Reservation(msgspec.Struct, frozen=True):
    """``ranks`` ranks kept free for the holder until ``expires`` (seconds since the epoch)."""

    reservation_id: str
    ranks: int
    expires: float


class EventKind(enum.StrEnum):
    """What an event tells of, and the keys of its details.

    instance-up: the ranks are ready (generation, ranks, lost); instance-down: they are gone (generation, reason);
    task: a task has changed its state (task_id, state, name); drain and stop: the end was asked for, with and without
    finishing what waits; shutdown: it is here. lost: this listener missed events because it read too slowly (number);
    disconnected: the listener's own end has found the device gone, nothing follows.
    """

    INSTANCE_UP = "instance-up"
    INSTANCE_DOWN = "instance-down"
    TASK = "task"
    DRAIN = "drain"
    STOP = "stop"
    SHUTDOWN = "shutdown"
    LOST = "lost"
    DISCONNECTED = "disconnected"


class Event(msgspec.Struct, frozen=True):
    """Something that happened to the device (see ``EventKind``), at ``time`` seconds since the epoch."""

    kind: str
    time: float
    details: dict[str, Any] = {}


class QPM(ABC):
    """The contract. Every call raises a class of ``qsimenv.errors`` where it cannot do what it says."""

    # --- resource management ---

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Name, version, state, number of qubits at each precision, ranks, nodes, engines, gates, limits."""

    @abstractmethod
    def evaluate(self, task: Task) -> Estimate:
        """What the task would need, before it is queued. OutOfMemoryError or NotSupportedError where it cannot run."""

    @abstractmethod
    def reserve(self, ranks: int, duration_s: float) -> Reservation:
        """Keep ranks for this client. OutOfRangeError where there are not so many."""

    @abstractmethod
    def renew(self, reservation_id: str, duration_s: float) -> Reservation:
        """Move the end of a reservation to ``duration_s`` from now. NotFoundError where it has ended."""

    @abstractmethod
    def release(self, reservation_id: str) -> None:
        """End a reservation."""

    @abstractmethod
    def list_reservations(self) -> list[Reservation]:
        """The reservations in force."""

    # --- runtime ---

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether tasks would be started now."""

    @abstractmethod
    def create_circuit(self, circuit: Circuit) -> str:
        """Make a circuit known; returns its content hash. Tasks do this by themselves."""

    @abstractmethod
    def delete_circuit(self, circuit_hash: str) -> None:
        """Forget a circuit. NotFoundError where it is not known."""

    @abstractmethod
    def sync_run(self, task: Task, timeout_s: float | None = None) -> Result:
        """Run one task and wait. Raises what made it fail, TimedOutError where it takes longer than ``timeout_s``."""

    @abstractmethod
    def async_run(self, tasks: Task | Sequence[Task]) -> list[str]:
        """Submit tasks in one request; all are accepted or none is. Returns their ids in the order given."""

    @abstractmethod
    def read_cq(
        self, count: int | None = None, timeout_s: float | None = None, task_ids: Sequence[str] | None = None
    ) -> list[TaskRecord]:
        """Finished tasks of this client, in the order in which they were submitted, taken off the completion queue.

        Waits until ``count`` of them (or all of ``task_ids``, in that order) are there. Without ``count`` and ids: all
        that were submitted and not yet read. TimedOutError after ``timeout_s`` seconds; what had finished stays.
        """

    @abstractmethod
    def peek_cq(self) -> list[TaskRecord]:
        """Finished tasks that nobody has read yet, without their results, in order of submission. Takes nothing off."""

    @abstractmethod
    def status(self, task_ids: Sequence[str] | None = None) -> list[TaskRecord]:
        """Records without results; of all tasks of the environment where no ids are given.

        Raises NotFoundError for an unknown id.
        """

    @abstractmethod
    def cancel(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """Cancel what is queued at once, and what is running when its ranks come to it; final states stay."""

    @abstractmethod
    def register_event_notification(
        self, callback: Callable[[Event], None], kinds: Sequence[str] = ()
    ) -> Callable[[], None]:
        """Call ``callback`` (on a thread of the client's) for events, of the given kinds (``EventKind``) or of all.

        Events that a slow callback has no room for are dropped; ``events.EventQueue`` makes a queue of it.
        Returns the way to stop.
        """

    @abstractmethod
    def telemetry(self) -> dict[str, Any]:
        """Counters and gauges: tasks by state, ranks by state, seconds of work, messages, memory of the controller."""

    @abstractmethod
    def test(self) -> dict[str, Any]:
        """Run a known circuit on every rank and on all of them together; returns what was measured.

        Raises QSimEnvError where an outcome is wrong.
        """

    @abstractmethod
    def shutdown(self, drain: bool = False) -> int:
        """End the environment; ``drain`` finishes what was accepted first and accepts nothing more.

        Returns how many accepted tasks had not ended and are kept for the next environment.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection; the environment goes on."""
