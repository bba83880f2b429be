"""Large results: their arrays lie in a file beside the journal, written by the worker and mapped by the client.

Where worker, controller and client share a host, only the name of the file travels; what is mapped comes from the
page cache, and no process copies it. Whoever finds the controller's mark in the folder may use it; all others get the
arrays inline, in one message. A file belongs to one task, survives the controller as the journal does, and goes with
the task; where the environment is durable, the disk has it before the task counts as ended. Files that no task owns (a
worker died while it wrote) are swept at the next restart of workers or controller.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
import os
import re
import socket
from collections.abc import Container
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qsimenv.errors import InvalidArgumentError, NotFoundError, QSimEnvError
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.connection import Connection
from qsimenv.qpm_plugin.journal import results_folder
from qsimenv.task import Result
from qsimenv.wire import DTYPES

LARGE_BYTES = 1 << 20
"""An array of so many bytes goes to a file."""
_SPARE = 4
"""Only where the file system has so many times the room: it may be memory."""
_FIELDS = ("statevector", "samples", "expectation_values")
_ALIGNMENT = 64
_PIECE_BYTES = 1 << 20
"""Written at once: 16 MiB in one call took ext4 ten times as long as in such pieces (41 and 4 ms)."""
_NAME = re.compile(r"[0-9a-f]+-[0-9]+\.[0-9]+")


class _Place(msgspec.Struct, frozen=True, array_like=True):
    field: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


class Large(msgspec.Struct, frozen=True, array_like=True):
    """Stands where a result would: a msgpack array, where a result is a map. ``rest`` is the result without arrays."""

    file: str
    places: tuple[_Place, ...]
    rest: msgspec.Raw


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Large)


def open_folder(journal: Path, server_key: str) -> Path:
    """Make the folder, for its owner alone, with the mark of the controller that has ``server_key``, and no other."""
    folder = results_folder(journal)
    folder.mkdir(mode=0o700, exist_ok=True)
    for mark in folder.glob(".mark-*"):
        mark.unlink(missing_ok=True)
    (folder / _mark(server_key)).touch(0o600)
    return folder


def folder_here(connection: Connection) -> Path | None:
    """The controller's folder of large results where this process sees the very same one; else None."""
    if not connection.results or connection.host != socket.gethostname():
        return None
    folder = Path(connection.results)
    return folder if os.access(folder / _mark(connection.server_key), os.R_OK) else None


def _mark(server_key: str) -> str:
    return f".mark-{hashlib.sha256(server_key.encode()).hexdigest()[:16]}"


def write(folder: Path, task_id: str, generation: int, result: Result, durable: bool = False) -> bytes | None:
    """Put the large arrays of a result into a file of the task's. Returns what travels instead.

    None, with nothing left behind, where no array is large, or there is no room. Cost: one copy; ``durable`` waits for
    the disk.
    """
    found = {name: array for name in _FIELDS if (array := getattr(result, name)) is not None}
    large = {name: array for name, array in found.items() if array.nbytes >= LARGE_BYTES}
    arrays: dict[str, Any] = {name: np.ascontiguousarray(array) for name, array in large.items()}
    if not arrays:
        return None
    name, size = f"{task_id}.{generation}", sum(array.nbytes for array in arrays.values())
    if not _NAME.fullmatch(name):
        return None
    places, offset = [], 0
    try:
        about = os.statvfs(folder)
        if about.f_bavail * about.f_frsize < _SPARE * size:
            return None
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            for field, array in arrays.items():
                _write_at(descriptor, memoryview(array.reshape(-1).view(np.uint8)), offset)
                places.append(_Place(field, array.dtype.str, array.shape, offset))
                offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if durable:
            _sync_folder(folder)
    except OSError:
        remove(folder, name)
        return None
    rest = msgspec.structs.replace(result, **dict.fromkeys(arrays))
    return _ENCODER.encode(Large(name, tuple(places), msgspec.Raw(m.encode_result(rest))))


def file_of(data: msgspec.Raw) -> str:
    """The file that a result lies in; "" where it is whole."""
    return _DECODER.decode(data).file if _is_large(data) else ""


def read(folder: Path | None, data: msgspec.Raw) -> Result | None:
    """The result, its large arrays mapped, read-only; they stay when the file is removed.

    NotFoundError where it is gone, InvalidArgumentError where it is not what was written.
    """
    if not _is_large(data):
        return m.decode_result(data)
    try:
        large = _DECODER.decode(data)
        result = m.decode_result(large.rest)
        if folder is None or result is None or not _NAME.fullmatch(large.file):
            raise InvalidArgumentError("result: it lies in a file that cannot be read here")
        with (folder / large.file).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        for place in large.places:
            _attach(result, place, mapped)
    except OSError as error:
        raise NotFoundError(f"result: it was deleted while it was read ({error.strerror or error})") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidArgumentError(f"result: its file does not hold what was written ({error})") from None
    return result


def inline(folder: Path | None, data: msgspec.Raw) -> msgspec.Raw:
    """The result whole, for who does not see the folder. Raises like ``read``."""
    result = read(folder, data) if _is_large(data) else None
    return data if result is None else msgspec.Raw(m.encode_result(result))


def remove(folder: Path, name: str) -> None:
    """Remove a file; who has mapped it keeps what it mapped."""
    with contextlib.suppress(OSError):
        (folder / name).unlink(missing_ok=True)


def sweep(folder: Path, kept: Container[str]) -> None:
    """Remove all files but these."""
    for name in names(folder):
        if name not in kept:
            remove(folder, name)


def names(folder: Path) -> list[str]:
    """The files of the folder, whoever they belong to."""
    try:
        return [name for name in os.listdir(folder) if _NAME.fullmatch(name)]
    except OSError:
        return []


def _is_large(data: msgspec.Raw) -> bool:
    return memoryview(data)[0] & 0xF0 == 0x90  # a short msgpack array


def _attach(result: Result, place: _Place, mapped: mmap.mmap) -> None:
    if place.field not in _FIELDS or place.dtype not in DTYPES:
        raise QSimEnvError(f"result: {place.field!r} of type {place.dtype!r} found")
    array = np.frombuffer(mapped, place.dtype, math.prod(place.shape), place.offset).reshape(place.shape)
    setattr(result, place.field, array)


def _sync_folder(folder: Path) -> None:
    """Without this the disk may know the file but not its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data[:_PIECE_BYTES], offset)
        data, offset = data[written:], offset + written
