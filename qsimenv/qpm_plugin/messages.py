"""What travels between client, controller and worker: one Struct a message, msgpack, no I/O.

A client's ``Request`` gets one ``Reply`` with the same number (``Records`` may come in several parts); a link that asks
to be told of events gets ``Notice``s. The controller sends a worker ``Launch``, ``Cancel``, ``Ping`` and ``Stop``; a
worker sends ``Hello``, ``Answers``, ``Broken`` and ``Pong``. Circuits are named by their hash: their bytes travel once
from a client to the controller and once to each worker. Results pass through the controller unread.
"""

from __future__ import annotations

from typing import Any, TypeVar, Union

import msgspec

from qsimenv.circuit import Circuit
from qsimenv.errors import InvalidArgumentError
from qsimenv.qpm_plugin.api import ErrorInfo, Event, Reservation, TaskRecord
from qsimenv.qpm_plugin.records import ALL, Filter
from qsimenv.task import Estimate, Result, Task
from qsimenv.wire import decode_hook, encode_hook

MAX_FRAME_BYTES = 256 << 20
"""A longer frame is refused before it is looked at."""
MAX_RESULT_BYTES = 64 << 20
"""The largest result that the service carries; bigger ones are written where they were made."""
WORKER_CIRCUIT_BYTES = 256 << 20
"""What a worker keeps of circuits; the controller counts along (see ``recent``)."""

NO_RESULT = msgspec.Raw(msgspec.msgpack.encode(None))
"""Stands where a result would."""
_NO_CIRCUIT = Circuit(0, 0, ())


class Job(msgspec.Struct, frozen=True):
    """A task whose circuit is named instead of carried."""

    circuit: str
    task: Task

    @classmethod
    def of(cls, task: Task) -> Job:
        return cls(task.circuit.hash, msgspec.structs.replace(task, circuit=_NO_CIRCUIT))

    def with_circuit(self, circuit: Circuit) -> Task:
        return msgspec.structs.replace(self.task, circuit=circuit)


# --- client to controller ---


class Describe(msgspec.Struct, frozen=True, tag="describe"):
    pass


class Evaluate(msgspec.Struct, frozen=True, tag="evaluate"):
    job: Job
    circuits: dict[str, bytes] = {}


class Submit(msgspec.Struct, frozen=True, tag="submit", omit_defaults=True):
    """Accept all jobs or none. ``wait``: answer with the records when they end, instead of with the ids now.

    ``pinned`` may name the ranks of each job (a test of the machine wants that); with ``wait`` the jobs are canceled
    after ``timeout_s``. A request whose ``key`` came before is answered with what that one brought.
    """

    jobs: tuple[Job, ...]
    circuits: dict[str, bytes] = {}
    pinned: tuple[tuple[int, ...], ...] = ()
    wait: bool = False
    timeout_s: float | None = None
    key: str = ""


class Read(msgspec.Struct, frozen=True, tag="read"):
    count: int | None = None
    timeout_s: float | None = None
    task_ids: tuple[str, ...] | None = None


class Peek(msgspec.Struct, frozen=True, tag="peek"):
    pass


class Status(msgspec.Struct, frozen=True, tag="status"):
    task_ids: tuple[str, ...] | None = None


class Log(msgspec.Struct, frozen=True, tag="log", omit_defaults=True):
    """A page of the records of tasks, the newest first: of those submitted before ``before`` (None: of all), or of
    those among ``task_ids`` that are still known."""

    before: int | None = None
    wanted: Filter = ALL
    task_ids: tuple[str, ...] = ()


class CancelTasks(msgspec.Struct, frozen=True, tag="cancel"):
    task_ids: tuple[str, ...]


class DeleteTasks(msgspec.Struct, frozen=True, tag="delete"):
    """Forget tasks that have ended, with their results."""

    task_ids: tuple[str, ...]


class CreateCircuit(msgspec.Struct, frozen=True, tag="create-circuit"):
    hash: str
    data: bytes


class DeleteCircuit(msgspec.Struct, frozen=True, tag="delete-circuit"):
    hash: str


class Reserve(msgspec.Struct, frozen=True, tag="reserve"):
    ranks: int
    duration_s: float


class Renew(msgspec.Struct, frozen=True, tag="renew"):
    reservation_id: str
    duration_s: float


class Release(msgspec.Struct, frozen=True, tag="release"):
    reservation_id: str


class ListReservations(msgspec.Struct, frozen=True, tag="list-reservations"):
    pass


class Telemetry(msgspec.Struct, frozen=True, tag="telemetry"):
    pass


class Subscribe(msgspec.Struct, frozen=True, tag="subscribe"):
    """Send events of these kinds (none: of all) to this link from now on."""

    kinds: tuple[str, ...] = ()


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """``drain`` finishes what was accepted first; ``keep`` leaves the journal to the next environment.

    ``grace_s``: so long what runs may take to end; nothing starts meanwhile. ``within_s``: so long a drain may take;
    what has not ended then is left to the next environment.
    """

    drain: bool = False
    keep: bool = False
    grace_s: float = 0.0
    within_s: float | None = None


class Abandon(msgspec.Struct, frozen=True, tag="abandon"):
    """Nobody waits for the answer to the request of that number any more. It gets no answer itself."""

    number: int


RequestBody = Union[  # noqa: UP007 - msgspec resolves this name at run time
    Describe, Evaluate, Submit, Read, Peek, Status, Log, CancelTasks, DeleteTasks, CreateCircuit, DeleteCircuit,
    Reserve, Renew, Release, ListReservations, Telemetry, Subscribe, Abandon, Shutdown,
]  # fmt: skip


class Request(msgspec.Struct, frozen=True):
    """``client`` owns tasks and results; ``number`` grows on each link, and one sent twice is carried out once.

    ``maps``: who asks sees the controller's folders of large results.
    """

    client: str
    number: int
    body: RequestBody
    maps: bool = False


# --- controller to client ---


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The request could not be carried out; see ``errors.from_code``."""

    code: int
    message: str


class NeedCircuits(msgspec.Struct, frozen=True, tag="need-circuits"):
    """Send the request again, with the bytes of these circuits."""

    hashes: tuple[str, ...]


class Accepted(msgspec.Struct, frozen=True, tag="accepted"):
    task_ids: tuple[str, ...]


class Full(msgspec.Struct, frozen=True, tag="full"):
    """Not now (too much is queued already, say): send the request again after so many seconds."""

    retry_after_s: float
    message: str


class Records(msgspec.Struct, frozen=True, tag="records"):
    """Records in the order asked for, with as many ``results`` (NO_RESULT where there is none), or with none at all."""

    records: tuple[TaskRecord, ...]
    results: tuple[msgspec.Raw, ...] = ()
    more: bool = False


class Page(msgspec.Struct, frozen=True, tag="page"):
    """Records without results; ``before`` asks for the next page, None: this was the last one."""

    records: tuple[TaskRecord, ...]
    before: int | None = None


class Estimated(msgspec.Struct, frozen=True, tag="estimated"):
    estimate: Estimate


class Reservations(msgspec.Struct, frozen=True, tag="reservations"):
    reservations: tuple[Reservation, ...]


class Facts(msgspec.Struct, frozen=True, tag="facts"):
    facts: dict[str, Any]


class Done(msgspec.Struct, frozen=True, tag="done"):
    pass


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """The environment has ended; so many accepted tasks had not, and are kept for the next one."""

    left: int = 0


class Notice(msgspec.Struct, frozen=True, tag="notice"):
    event: Event


ReplyBody = Union[  # noqa: UP007
    Failed, NeedCircuits, Accepted, Full, Records, Page, Estimated, Reservations, Facts, Done, Ended, Notice
]  # fmt: skip


class Reply(msgspec.Struct, frozen=True):
    """The answer to the request of that number; 0 for what nobody asked for."""

    number: int
    body: ReplyBody


# --- controller to worker ---


class Launch(msgspec.Struct, frozen=True, tag="launch"):
    """Run these one after the other on the team ``ranks`` (all of them get this message); its first rank answers."""

    ranks: tuple[int, ...]
    task_ids: tuple[str, ...]
    jobs: tuple[Job, ...]
    circuits: dict[str, bytes] = {}


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Answer these without running them, or break them off at the next sweep."""

    task_ids: tuple[str, ...]


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    pass


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End, after what has begun."""


ToWorker = Union[Launch, Cancel, Ping, Stop]  # noqa: UP007


# --- worker to controller ---


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    generation: int
    rank: int
    size: int
    pid: int
    host: str
    free_bytes: int
    versions: dict[str, str] = {}


class Answer(msgspec.Struct, frozen=True):
    """What became of a task: a ``result``, an ``error``, or it was ``canceled``.

    Times are epoch seconds of the worker's clock.
    """

    task_id: str
    exec_time: float
    completion_time: float
    engine: str = ""
    error: ErrorInfo | None = None
    result: msgspec.Raw = NO_RESULT
    canceled: bool = False


class Answers(msgspec.Struct, frozen=True, tag="answers"):
    generation: int
    rank: int
    answers: tuple[Answer, ...]


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """A rank failed while others of its team may wait for it: the instance is being aborted."""

    generation: int
    rank: int
    answer: Answer


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    generation: int
    rank: int
    free_bytes: int


FromWorker = Union[Hello, Answers, Broken, Pong]  # noqa: UP007

_ENCODER = msgspec.msgpack.Encoder(enc_hook=encode_hook)
_REQUEST = msgspec.msgpack.Decoder(Request, dec_hook=decode_hook)
_REPLY = msgspec.msgpack.Decoder(Reply, dec_hook=decode_hook)
_TO_WORKER: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker, dec_hook=decode_hook)
_FROM_WORKER: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker, dec_hook=decode_hook)
_RESULT: msgspec.msgpack.Decoder[Result | None] = msgspec.msgpack.Decoder(Result | None, dec_hook=decode_hook)
T = TypeVar("T")


def encode(message: Request | Reply | ToWorker | FromWorker) -> bytes:
    """One frame. InvalidArgumentError where it would be longer than a frame may be."""
    data = _ENCODER.encode(message)
    if len(data) > MAX_FRAME_BYTES:
        raise InvalidArgumentError(
            f"message: {len(data) >> 20} MiB found, {MAX_FRAME_BYTES >> 20} MiB is the limit; submit in several calls"
        )
    return data


def encode_result(result: Result) -> bytes:
    """A result as it goes into ``Answer.result``."""
    return _ENCODER.encode(result)


def decode_request(frame: bytes) -> Request:
    """From a client. InvalidArgumentError for anything that is not one."""
    return _decode(_REQUEST, frame)


def decode_reply(frame: bytes) -> Reply:
    """From the controller, to a client. InvalidArgumentError for anything that is not one."""
    return _decode(_REPLY, frame)


def decode_to_worker(frame: bytes) -> ToWorker:
    """From the controller, to a worker. InvalidArgumentError for anything that is not one."""
    return _decode(_TO_WORKER, frame)


def decode_from_worker(frame: bytes) -> FromWorker:
    """From a worker. InvalidArgumentError for anything that is not one."""
    return _decode(_FROM_WORKER, frame)


def decode_result(data: msgspec.Raw | bytes) -> Result | None:
    """The result in ``Records.results``. InvalidArgumentError for anything that is not one."""
    return _decode(_RESULT, bytes(data))


def _decode(decoder: msgspec.msgpack.Decoder[T], frame: bytes) -> T:
    if len(frame) > MAX_FRAME_BYTES:
        raise InvalidArgumentError(f"message: {len(frame) >> 20} MiB found, {MAX_FRAME_BYTES >> 20} MiB is the limit")
    try:
        return decoder.decode(frame)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, OverflowError) as error:
        raise InvalidArgumentError(f"message: these {len(frame)} bytes are not a message ({error})") from None
