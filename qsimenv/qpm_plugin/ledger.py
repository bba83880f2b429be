"""Between the task table and the journal: what is written of a task, and how it is read back.

The service tells the ledger what happens; the ledger collects rows until the controller says ``commit``, which is
before a client hears of it. What was accepted since the last commit is undone where the journal cannot be written;
everything else stays in memory and is written when there is room again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from qsimenv.circuit import Circuit
from qsimenv.errors import InvalidArgumentError, QSimEnvError
from qsimenv.qpm_plugin import journal as j
from qsimenv.qpm_plugin import large, result_files, sealed
from qsimenv.qpm_plugin.api import TaskRecord, TaskState, Times
from qsimenv.qpm_plugin.messages import NO_RESULT, Job
from qsimenv.qpm_plugin.result_files import Folders
from qsimenv.qpm_plugin.scheduler import Claim
from qsimenv.qpm_plugin.sealed import Sealed
from qsimenv.qpm_plugin.tasks import Entry
from qsimenv.task import Estimate
from qsimenv.wire import decode_hook, encode_hook
from qsimenv.wording import plural

INLINE_BYTES = 64 << 10
"""A longer result is kept in the journal only, and fetched when it is asked for."""
_ON_ITS_WAY_S = 60.0
"""A file is moved to the disk within so long."""


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """What has to be known of a task to run it again. The estimate is that of the machine at its submission."""

    task_id: str
    job: Job
    estimate: Estimate
    pinned: tuple[int, ...]
    creation_time: float


_log = logging.getLogger("qsimenv.controller")
_ENCODER = msgspec.msgpack.Encoder(enc_hook=encode_hook)
_KEPT = msgspec.msgpack.Decoder(_Kept, dec_hook=decode_hook)
_RECORD = msgspec.msgpack.Decoder(TaskRecord, dec_hook=decode_hook)


class Ledger:
    """The journal as the service sees it."""

    def __init__(self, journal: j.Journal) -> None:
        self._journal = journal
        self._rows: list[j.Row] = []
        self._fresh: list[Entry] = []
        self._circuits: set[str] = set()
        self._folders = None if journal.path is None else result_files.folders_of(journal.path.absolute())
        self._mover = ThreadPoolExecutor(1, "large-results")
        self._ended: list[Entry] = []

    @property
    def is_durable(self) -> bool:
        """Whether what is committed survives a power failure."""
        return self._journal.durable

    @property
    def circuits(self) -> str:
        """The folder that long circuits are to be put into before their tasks are accepted; "": none."""
        return "" if self._journal.path is None else str(j.circuits_folder(self._journal.path.absolute()))

    @property
    def has_news(self) -> bool:
        return bool(self._rows)

    def accept(self, entries: Sequence[Entry]) -> None:
        """Tasks that are about to be accepted."""
        for entry in entries:
            self._write_task(entry)
            self._fresh.append(entry)

    def end(self, entry: Entry) -> None:
        """A task has ended: to be called while it still has its job. What was never accepted on paper is, now."""
        if not entry.written:
            self._write_task(entry)
        result = None if entry.result is None else bytes(entry.result)
        self._rows.append(j.EndRow(entry.order, _ENCODER.encode(entry.record), result))
        if result is not None and len(result) > INLINE_BYTES:
            self._ended.append(entry)

    def read(self, entries: Sequence[Entry], reader: bytes, now: float) -> None:
        """Tasks were taken off their completion queue; their results leave memory with the next commit."""
        self._ended.extend(entries)
        self._rows.extend(j.ReadRow(entry.order, reader, now) for entry in entries)

    def unread(self, entries: Sequence[Entry]) -> None:
        """They were put back."""
        self._rows.extend(j.UnreadRow(entry.order) for entry in entries)

    def death(self, entry: Entry) -> None:
        """Another instance died while the task ran."""
        self._rows.append(j.DeathRow(entry.order, entry.deaths))

    def drop(self, entries: Sequence[Entry]) -> None:
        """Forget tasks."""
        self._rows.extend(j.DropRow(entry.order) for entry in entries)

    def claim(self, name: str, claim: Claim) -> None:
        """A reservation, new or renewed."""
        self._rows.append(j.ClaimRow(name, claim.client, f"{claim.ranks:x}", claim.expires))

    def unclaim(self, names: Iterable[str]) -> None:
        """Reservations that have ended."""
        self._rows.extend(j.UnclaimRow(name) for name in names)

    def claims(self) -> dict[str, Claim]:
        """The reservations of the journal."""
        return {row.name: Claim(row.client, int(row.ranks, 16), row.expires) for row in self._journal.claims()}

    def result(self, entry: Entry, maps: bool = True) -> msgspec.Raw | None:
        """The result of a task that has ended, from memory or from the journal; for who ``maps`` large ones, or whole.

        None, too, where the file of a large result was taken away by somebody else.
        """
        found = entry.result
        if found is None and entry.record.state == TaskState.DONE:
            stored = self._journal.result(entry.order)
            found = None if stored is None else msgspec.Raw(stored)
        if maps or found is None:
            return found
        try:
            return large.inline(self._folders, found)
        except QSimEnvError as error:
            _log.error("task %s: %s", entry.task_id, error)
            return None

    def open_results(self, server_key: str) -> tuple[str, str]:
        """The folders of large results, beside the journal and in memory, ready for the workers and clients of the
        controller with that key; "": none."""
        if self._folders is None:
            return "", ""
        try:
            disk, memory = result_files.make(self._folders, server_key)
        except OSError as error:
            _log.warning("large results travel inline: %s (%s)", self._folders.disk, error.strerror)
            return "", ""
        return str(disk), "" if memory is None else str(memory)

    def discard(self, name: str, later: Callable[..., object]) -> None:
        """Remove the file of a large result that no task owns any more; ``later(seconds, …)`` once more, where it may
        have been on its way to the disk."""
        if self._folders is not None and name and result_files.remove(self._folders, name):
            later(_ON_ITS_WAY_S, result_files.remove, self._folders, name)

    def sweep(self, entries: Iterable[Entry]) -> None:
        """Remove the files that no task owns, move those that a worker has left in memory; nobody may be about to
        answer."""
        if self._folders is None or not result_files.names(self._folders):
            return
        left = result_files.sweep(self._folders, {entry.large for entry in entries})
        self._mover.submit(self._move, self._folders, left)

    @staticmethod
    def _move(folders: Folders, left: Sequence[str]) -> None:
        try:
            result_files.move(folders, left)
        except OSError as error:
            _log.warning("large results stay in memory: %s (%s)", folders.disk, error.strerror)

    def commit(self) -> list[Entry]:
        """Write what has been collected. Raises QSimEnvError where that cannot be; see ``undo``."""
        self._journal.write(self._rows)
        for entry in self._ended:
            entry.result = None
        written = self._fresh
        self._rows, self._fresh, self._ended = [], [], []
        return written

    def undo(self) -> list[Entry]:
        """After a ``commit`` that failed: forget, and return, the tasks that nobody may be told were accepted."""
        refused, self._fresh = self._fresh, []
        orders = {entry.order for entry in refused}
        self._rows = [row for row in self._rows if getattr(row, "order", None) not in orders]
        return refused

    def recover(self) -> Iterator[tuple[Entry, bytes | None]]:
        """Every task of the journal, in order of submission, with the request that has read it, if any.

        One whose result lay in a file that is gone (in the memory of a node that is no more) has not ended.
        InvalidArgumentError where a row cannot be understood.
        """
        kept = self._journal.circuits()
        circuits: dict[str, Circuit | Sealed] = {}
        names = result_files.names(self._folders) if self._folders is not None else set[str]()
        in_files = {order for order, byte in self._journal.first_bytes() if large.is_large(byte)}
        lost = 0
        for stored in self._journal.tasks():
            try:
                file = self._file_of(stored.order) if stored.order in in_files else ""
                again = stored
                if file and file not in names and _KEPT.decode(stored.data).job.circuit in kept:
                    again = stored._replace(end=None, reader=None, read_time=None)
                    self._rows.append(j.AgainRow(stored.order))
                    lost += 1
                entry = _entry(again, kept, circuits)
                entry.large = file if again is stored else ""
                yield entry, again.reader
            except (msgspec.MsgspecError, KeyError) as error:
                path = self._journal.path
                raise InvalidArgumentError(
                    f"journal: {path} is damaged at task {stored.order} ({error}); move it away, or restore it"
                ) from None
        if lost:
            _log.warning("the files with the results of %s are gone: they run again", plural(lost, "task"))
        self._circuits = set(circuits)
        self._journal.keep_circuits(self._circuits)

    def _file_of(self, order: int) -> str:
        """The file with the result of a task that has ended; "" where the journal has it whole."""
        return large.file_of(msgspec.Raw(self._journal.result(order) or NO_RESULT))

    def close(self, remove: bool) -> None:
        """Write what is left, if that can be, and let go of the journal; ``remove`` it, too."""
        with contextlib.suppress(QSimEnvError):
            self._journal.write(self._rows)
        self._mover.shutdown(cancel_futures=True)
        if self._folders is not None and not remove:
            self._leave_memory(self._folders)
        self._journal.close(remove)

    @staticmethod
    def _leave_memory(folders: Folders) -> None:
        try:
            result_files.leave_memory(folders)
        except OSError as error:
            _log.warning("large results stay in %s: %s (%s)", folders.memory, folders.disk, error.strerror)

    def _circuit_row(self, circuit: Circuit | Sealed) -> j.CircuitRow:
        has_file = isinstance(circuit, Sealed) and self._journal.has_file(circuit.hash)
        return j.CircuitRow(circuit.hash, b"" if has_file else circuit.bytes)

    def _write_task(self, entry: Entry) -> None:
        assert entry.job is not None  # noqa: S101 - a task has its job until it ends
        assert entry.circuit is not None  # noqa: S101 - the same
        if entry.circuit.hash not in self._circuits:
            self._circuits.add(entry.circuit.hash)
            self._rows.append(self._circuit_row(entry.circuit))
        created = entry.record.times.creation_time or 0.0
        kept = _Kept(entry.task_id, entry.job, entry.estimate, entry.pinned, created)
        data = _ENCODER.encode(kept)
        entry.written = True
        entry.size_bytes = len(data)
        self._rows.append(j.TaskRow(entry.order, entry.client, entry.key, data))


def read_records(path: Path) -> list[TaskRecord]:
    """The records in a journal that nobody has open, in order of submission; what has not ended is QUEUED.

    Raises what ``read_journal`` raises, and InvalidArgumentError where a row cannot be understood.
    """
    try:
        return [_record(stored, _KEPT.decode(stored.data)) for stored in j.read_journal(path)]
    except msgspec.MsgspecError as error:
        raise InvalidArgumentError(f"journal: {path} is damaged ({error}); restore it") from None


def _record(stored: j.Stored, kept: _Kept) -> TaskRecord:
    if stored.end is not None:
        record = _RECORD.decode(stored.end)
        record.times.cq_dequeue_time = stored.read_time
        return record
    return TaskRecord(
        task_id=kept.task_id,
        state=TaskState.QUEUED,
        name=kept.job.task.name,
        times=Times(creation_time=kept.creation_time),
        engine=kept.estimate.engine,
        attempts=stored.deaths,
        application=kept.job.task.application or stored.client,
    )


def _entry(stored: j.Stored, kept_circuits: dict[str, bytes], circuits: dict[str, Circuit | Sealed]) -> Entry:
    kept = _KEPT.decode(stored.data)
    entry = Entry(
        record=_record(stored, kept),
        order=stored.order,
        client=stored.client,
        job=None,
        circuit=None,
        estimate=kept.estimate,
        pinned=kept.pinned,
        key=stored.key,
        written=True,
        deaths=stored.deaths,
    )
    if stored.end is not None:
        return entry
    name = kept.job.circuit
    if name not in circuits:
        circuits[name] = sealed.kept(name, kept_circuits[name])
    entry.job, entry.circuit, entry.size_bytes = kept.job, circuits[name], len(stored.data)
    return entry
