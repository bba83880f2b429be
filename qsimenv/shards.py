"""Shards: arrays spread over ranks, kept as one HDF5 file a rank and one that joins them, with checksums.

``NAME`` holds a virtual dataset for each array over the shards in ``NAME.shards/`` (relative names: the two move
together), so that h5py alone reads the whole, and the manifest: what the arrays are, and a checksum a shard. A shard
holds the checksums of its pieces. Shards are written first and the manifest last, each under another name, synced and
renamed: a set without a manifest was never finished. Virtual datasets give fill values (NaN) where a shard is missing
and say nothing, therefore ``read`` goes to the shards and checks every piece. Knows ranks, and nothing of what the
arrays mean.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import xxhash

from qsimenv import memory
from qsimenv.comm import Team
from qsimenv.errors import BadStateError, NotFoundError, QSimEnvError

FORMAT = "qsimenv shards 1"
PIECE_BYTES = 8 << 20
"""The largest part of an array that is written, read and checked at once; a thread works on one."""
_DIGEST_BYTES = 16

Source = Callable[[int, int], Sequence[np.ndarray]]
"""Gives elements ``start … stop`` of each of a rank's arrays, contiguous; called by several threads at once."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a set of shards holds. ``about`` is the caller's; ``digests`` has the checksum of each shard's checksums."""

    format: str
    names: tuple[str, ...]
    dtype: str
    length: int
    piece: int
    shards: tuple[str, ...]
    digests: tuple[str, ...]
    arrays: dict[str, str]
    about: dict[str, Any]

    @property
    def shard_length(self) -> int:
        return self.length // len(self.shards)


def shard_folder(path: Path) -> Path:
    """Where the shards of ``path`` lie."""
    return path.with_name(f"{path.name}.shards")


def piece_length(count: int, dtype: np.dtype[Any]) -> int:
    """How many elements of a rank's ``count`` make a piece."""
    return min(count, PIECE_BYTES // dtype.itemsize)


# --- writing ---


def write(
    path: Path,
    team: Team,
    names: Sequence[str],
    dtype: np.dtype[Any],
    length: int,
    source: Source,
    about: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray] | None = None,
    shard_number: int | None = None,
) -> None:
    """Write arrays of ``length`` elements, an equal part from each rank, and small ``arrays`` that rank 0 has.

    *Collective.* ``shard_number``: which part this rank's is; its rank where it is left out. A set that was at ``path``
    before is whole until the new one is. Raises BadStateError on every rank, with nothing left behind, where the system
    refuses a write. Takes one piece a thread of memory beside what ``source`` takes.
    """
    number = team.rank if shard_number is None else shard_number
    token = team.broadcast(secrets.token_hex(4).encode()).decode()
    folder = shard_folder(path)
    shards = [f"{token}-{k:05d}.h5" for k in range(team.size)]
    piece = piece_length(length // team.size, dtype)
    try:
        team.agree(_attempt(path, lambda: folder.mkdir(exist_ok=True)) if team.rank == 0 else None)
        digest = bytearray(_DIGEST_BYTES)
        team.agree(
            _attempt(
                path,
                lambda: _write_shard(folder / shards[number], names, dtype, length // team.size, piece, source, digest),
            )
        )
        table = team.gather(np.frombuffer(bytes([*number.to_bytes(8, "little"), *digest]), dtype=np.uint8))
        digests = {int.from_bytes(row[:8].tobytes(), "little"): row[8:].tobytes().hex() for row in table}
        manifest = Manifest(
            format=FORMAT, names=tuple(names), dtype=dtype.str, length=length, piece=piece, shards=tuple(shards),
            digests=tuple(digests[k] for k in range(team.size)), about=dict(about),
            arrays={name: _digest(array) for name, array in (arrays or {}).items()},
        )  # fmt: skip
        team.agree(_attempt(path, lambda: _join(path, manifest, arrays or {})) if team.rank == 0 else None)
    except QSimEnvError:
        _remove_others(path, token, others=False)
        raise
    if team.rank == 0:
        _remove_others(path, token)


def remove(path: Path) -> None:
    """Remove a set of shards, whole or not. *Local*: one rank does it."""
    path.unlink(missing_ok=True)
    _tmp(path).unlink(missing_ok=True)
    _remove_others(path, "")


def _attempt(path: Path, act: Callable[[], object]) -> QSimEnvError | None:
    try:
        act()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else _first_line(error)
        return BadStateError(f"save: {path} cannot be written ({reason}); make room, or give another place")
    return None


def _write_shard(
    file: Path, names: Sequence[str], dtype: np.dtype[Any], count: int, piece: int, source: Source, digest: bytearray
) -> None:
    """Write one shard and leave the checksum of its checksums in ``digest``.

    HDF5 lays the file out; the numbers are written past it, by several threads, so that a full disk is told as such.
    """
    starts = range(0, count, piece)
    offsets = _lay_out(_tmp(file), names, dtype, count, len(starts))
    descriptor = os.open(_tmp(file), os.O_RDWR)
    try:

        def put(start: int) -> bytes:
            checksums = b""
            for name, part in zip(names, source(start, min(start + piece, count)), strict=True):
                data = part.view(np.uint8).data
                checksums += xxhash.xxh3_128_digest(data)
                _write_at(descriptor, data, offsets[name] + start * dtype.itemsize)
            return checksums

        with ThreadPoolExecutor(_threads()) as pool:
            table = b"".join(pool.map(put, starts))
        _write_at(descriptor, memoryview(table), offsets["checksums"])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _tmp(file).rename(file)
    digest[:] = xxhash.xxh3_128_digest(table)


def _lay_out(file: Path, names: Sequence[str], dtype: np.dtype[Any], count: int, pieces: int) -> dict[str, int]:
    """Make an HDF5 file with room for the arrays and their checksums. Returns where each begins in the file."""
    shapes = dict.fromkeys(names, ((count,), dtype))
    shapes["checksums"] = ((pieces, len(names), _DIGEST_BYTES), np.dtype(np.uint8))  # type: ignore[assignment]
    with h5py.File(file, "w", libver="latest") as shard:
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        return {
            name: int(
                h5py.h5d.create(
                    shard.id, name.encode(), h5py.h5t.py_create(kind), h5py.h5s.create_simple(shape), early
                ).get_offset()
            )
            for name, (shape, kind) in shapes.items()
        }


def _join(path: Path, manifest: Manifest, arrays: Mapping[str, np.ndarray]) -> None:
    """The file that joins the shards: written last, by one rank."""
    _sync(shard_folder(path))
    text, part = msgspec.json.encode(manifest), manifest.shard_length
    with h5py.File(_tmp(path), "w", libver="latest") as whole:
        for name in manifest.names:
            layout = h5py.VirtualLayout((manifest.length,), np.dtype(manifest.dtype))
            for k, shard in enumerate(manifest.shards):
                relative = f"{shard_folder(path).name}/{shard}".replace("%", "%%")  # HDF5 reads % as a pattern
                layout[k * part : (k + 1) * part] = h5py.VirtualSource(relative, name, (part,))
            whole.create_virtual_dataset(name, layout, fillvalue=np.nan)
        whole.create_dataset("manifest", data=np.frombuffer(text, dtype=np.uint8))
        whole["manifest"].attrs["checksum"] = xxhash.xxh3_128_hexdigest(text)
        for name, array in arrays.items():
            whole.create_dataset(f"arrays/{name}", data=array)
    _sync(_tmp(path))
    _tmp(path).rename(path)
    _sync(path.parent)


def _remove_others(path: Path, token: str, *, others: bool = True) -> None:
    """Remove the shards that do not (or, where ``others`` is false, that do) begin with ``token``; best effort."""
    folder = shard_folder(path)
    try:
        for shard in [*folder.glob("*.h5"), *folder.glob("*.h5.tmp")]:
            if shard.name.startswith(f"{token}-") is not others:
                shard.unlink(missing_ok=True)
        folder.rmdir()
    except OSError:
        return  # still in use by the set that is left, or gone already


def _tmp(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


# --- reading ---


def read_manifest(path: Path) -> Manifest:
    """The manifest at ``path``. *Local.* Raises NotFoundError where there is none, BadStateError for a damaged one."""
    if not path.is_file():
        raise NotFoundError(f"{path}: there is no such file")
    try:
        with h5py.File(path, "r") as whole:
            text, checksum = whole["manifest"][:].tobytes(), whole["manifest"].attrs["checksum"]
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise BadStateError(
            f"{path}: it cannot be read ({_first_line(error)}); it is damaged, or another format"
        ) from None
    if xxhash.xxh3_128_hexdigest(text) != checksum:
        raise BadStateError(f"{path}: its manifest does not agree with its checksum; it is damaged")
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BadStateError(f"{path}: its manifest is of another format ({error})") from None
    if manifest.format != FORMAT:
        raise BadStateError(f"{path}: format {manifest.format!r} found, {FORMAT!r} needed; read it with what wrote it")
    return manifest


def read_array(path: Path, manifest: Manifest, name: str) -> np.ndarray:
    """One of the small arrays. *Local.* Raises BadStateError where it is damaged."""
    try:
        with h5py.File(path, "r") as whole:
            array = np.asarray(whole[f"arrays/{name}"][()])
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise BadStateError(f"{path}: array {name!r} cannot be read ({_first_line(error)}); it is damaged") from None
    if _digest(array) != manifest.arrays.get(name):
        raise BadStateError(f"{path}: array {name!r} does not agree with its checksum; it is damaged")
    return array


def read(path: Path, manifest: Manifest, start: int, out: Sequence[np.ndarray]) -> None:
    """Fill ``out`` with the elements of each array from ``start`` on, every piece checked. *Local.*

    Raises BadStateError that names the first shard that is missing, cut short or otherwise not what was written. Takes
    a piece a thread of memory where ``out`` cuts through a piece.
    """
    count = len(out[0])
    first, last = start // manifest.shard_length, (start + count - 1) // manifest.shard_length
    for number in range(first, last + 1):
        shard_start = number * manifest.shard_length
        begin, end = max(start, shard_start), min(start + count, shard_start + manifest.shard_length)
        _read_shard(path, manifest, number, begin - shard_start, [each[begin - start : end - start] for each in out])


def _read_shard(path: Path, manifest: Manifest, number: int, start: int, out: Sequence[np.ndarray]) -> None:
    """Fill ``out`` with the elements of one shard from ``start`` on."""
    file, piece, stop = shard_folder(path) / manifest.shards[number], manifest.piece, start + len(out[0])
    offsets, table = _open_shard(file, manifest, number)
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError as error:
        raise _damaged(file, os.strerror(error.errno or 0)) from None
    try:

        def get(index: int) -> None:
            begin, end = index * piece, min((index + 1) * piece, manifest.shard_length)
            whole = start <= begin and end <= stop
            for k, (name, array) in enumerate(zip(manifest.names, out, strict=True)):
                part = array[begin - start : end - start] if whole else np.empty(end - begin, dtype=array.dtype)
                data = part.view(np.uint8).data
                _read_at(descriptor, data, offsets[name] + begin * array.itemsize, file)
                if xxhash.xxh3_128_digest(data) != table[index, k].tobytes():
                    raise _damaged(file, f"piece {index} of {name!r} does not agree with its checksum")
                if not whole:
                    low, high = max(start, begin), min(stop, end)
                    array[low - start : high - start] = part[low - begin : high - begin]

        with ThreadPoolExecutor(_threads()) as pool:
            list(pool.map(get, range(start // piece, -(-stop // piece))))
    finally:
        os.close(descriptor)


def _open_shard(file: Path, manifest: Manifest, number: int) -> tuple[dict[str, int], np.ndarray]:
    """Where the arrays begin in a shard, and its checksums."""
    if not file.is_file():
        raise BadStateError(f"{file}: this shard is missing")
    try:
        with h5py.File(file, "r") as shard:
            offsets = {name: int(shard[name].id.get_offset() or 0) for name in manifest.names}
            lengths = {len(shard[name]) for name in manifest.names}
            table = shard["checksums"][:]
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise _damaged(file, f"it cannot be read: {_first_line(error)}") from None
    if lengths != {manifest.shard_length} or xxhash.xxh3_128_hexdigest(table.tobytes()) != manifest.digests[number]:
        raise _damaged(file, "its checksums are not those of the manifest")
    return offsets, table


def _read_at(descriptor: int, data: memoryview, offset: int, file: Path) -> None:
    while data:
        try:
            count = os.preadv(descriptor, [data], offset)
        except OSError as error:
            raise _damaged(file, os.strerror(error.errno or 0)) from None
        if not count:
            raise _damaged(file, "it is cut short")
        data, offset = data[count:], offset + count


def _damaged(file: Path, reason: str) -> BadStateError:
    return BadStateError(f"{file}: this shard is damaged ({reason})")


def _digest(array: np.ndarray) -> str:
    """Over type, shape and content."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return str(xxhash.xxh3_128_hexdigest(head + np.ascontiguousarray(array).tobytes()))


def _first_line(error: BaseException) -> str:
    return str(error).strip("'\"").split("\n")[0] or type(error).__name__


def _threads() -> int:
    return max(1, len(os.sched_getaffinity(0)) // memory.ranks_on_this_node())
