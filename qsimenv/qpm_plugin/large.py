"""Large results: their arrays lie in a file, written by the worker and mapped by the client.

Where worker, controller and client share a host, only the name of the file travels; what is mapped comes from memory
or from the page cache, and no process copies it. Whoever finds the controller's mark in the folders may use it; all
others get the arrays inline, in one message. A file belongs to one task, survives the controller as the journal does,
and goes with the task; where the environment is durable, the disk has it before the task counts as ended. Files that
no task owns (a worker died while it wrote) are swept at the next restart of workers or controller. Where the files
lie is the matter of ``result_files``, and how a worker writes them that of its ``shelf``.
"""

from __future__ import annotations

import math
import mmap
from typing import Any

import msgspec
import numpy as np

from qsimenv.errors import InvalidArgumentError, NotFoundError, QSimEnvError
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin import result_files
from qsimenv.qpm_plugin.result_files import Folders, Part
from qsimenv.qpm_plugin.shelf import Shelf
from qsimenv.task import Result
from qsimenv.wire import DTYPES

LARGE_BYTES = 1 << 20
"""An array of so many bytes goes to a file."""
_FIELDS = ("statevector", "samples", "expectation_values")
_ALIGNMENT = 64


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


def write(shelf: Shelf, task_id: str, generation: int, result: Result) -> bytes | None:
    """Put the large arrays of a result into a file of the task's. Returns what travels instead.

    None, with nothing left behind, where no array is large, or there is no room. Cost: one copy, and what the shelf
    takes.
    """
    found = {name: array for name in _FIELDS if (array := getattr(result, name)) is not None}
    large = {name: array for name, array in found.items() if array.nbytes >= LARGE_BYTES}
    arrays: dict[str, Any] = {name: np.ascontiguousarray(array) for name, array in large.items()}
    if not arrays:
        return None
    name, places, parts, offset = f"{task_id}.{generation}", list[_Place](), list[Part](), 0
    for field, array in arrays.items():
        places.append(_Place(field, array.dtype.str, array.shape, offset))
        parts.append((offset, memoryview(array.reshape(-1).view(np.uint8))))
        offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    if not shelf.put(name, parts, size=offset):
        return None
    rest = msgspec.structs.replace(result, **dict.fromkeys(arrays))
    return _ENCODER.encode(Large(name, tuple(places), msgspec.Raw(m.encode_result(rest))))


def file_of(data: msgspec.Raw) -> str:
    """The file that a result lies in; "" where it is whole."""
    return _DECODER.decode(data).file if is_large(data) else ""


def read(folders: Folders | None, data: msgspec.Raw) -> Result | None:
    """The result, its large arrays mapped, read-only; they stay when the file is removed.

    NotFoundError where it is gone, InvalidArgumentError where it is not what was written.
    """
    if not is_large(data):
        return m.decode_result(data)
    try:
        large = _DECODER.decode(data)
        result = m.decode_result(large.rest)
        if folders is None or result is None or not result_files.is_name(large.file):
            raise InvalidArgumentError("result: it lies in a file that cannot be read here")
        with result_files.opened(folders, large.file) as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        for place in large.places:
            _attach(result, place, mapped)
    except OSError as error:
        raise NotFoundError(f"result: it was deleted while it was read ({error.strerror or error})") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidArgumentError(f"result: its file does not hold what was written ({error})") from None
    return result


def inline(folders: Folders | None, data: msgspec.Raw) -> msgspec.Raw:
    """The result whole, for who does not see the folders. Raises like ``read``."""
    result = read(folders, data) if is_large(data) else None
    return data if result is None else msgspec.Raw(m.encode_result(result))


def is_large(data: msgspec.Raw | bytes) -> bool:
    """Whether something stands for a result that lies in a file; the first byte tells."""
    return memoryview(data)[0] & 0xF0 == 0x90  # a short msgpack array


def _attach(result: Result, place: _Place, mapped: mmap.mmap) -> None:
    if place.field not in _FIELDS or place.dtype not in DTYPES:
        raise QSimEnvError(f"result: {place.field!r} of type {place.dtype!r} found")
    array = np.frombuffer(mapped, place.dtype, math.prod(place.shape), place.offset).reshape(place.shape)
    setattr(result, place.field, array)
