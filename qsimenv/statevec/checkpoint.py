"""A state as a set of shards: written as it is stored, for going on with it, or in the order of the qubits, for people.

Both are the same format, and the manifest says which index bit holds which qubit: going on with another number of ranks
is reading another range of the same index. A saved state has qubit q on bit q and a scale of one, so that ``re`` and
``im`` are the amplitudes themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from qsimenv import __version__, shards
from qsimenv.comm import Team
from qsimenv.errors import BadStateError, InvalidArgumentError
from qsimenv.shards import Manifest
from qsimenv.statevec.encode import REAL_TYPE, deposit
from qsimenv.statevec.layout import Layout, identity
from qsimenv.statevec.plan import Plan, Stage
from qsimenv.statevec.state import State, Work
from qsimenv.task import Precision

PLANES = ("re", "im")


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What the manifest says of a state: an amplitude is ``scale`` times what is stored; see Layout for the bits."""

    qsimenv: str
    num_qubits: int
    precision: Precision
    bits: tuple[int, ...]
    flips: int
    scale: tuple[float, float]


def write_state(
    path: Path, state: State, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
) -> None:
    """Write the state as it is stored, with what the caller wants to be told again. *Collective.*

    Costs writing the bytes and reading them from memory once. Raises BadStateError on every rank.
    """

    def piece(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return state.re[start:stop], state.im[start:stop]

    _write(path, state, state.layout, state.scale, state.team.rank, piece, about, arrays)


def save_in_order(path: Path, state: State, about: Mapping[str, Any]) -> None:
    """Write the amplitudes in the order of the qubits. *Collective.* Raises BadStateError on every rank.

    The highest qubits go on rank bits first, by one exchange at most; the rest is put in order piece by piece on the
    way to the file, so that no second copy is needed.
    """
    _move_highest_to_ranks(state)
    num_local, num_qubits = state.layout.num_local, len(state.layout.bits)
    number = _unplace(state.rank_index, state.layout) >> num_local
    _write(path, state, identity(num_qubits, num_local), 1.0, number, _in_order(state), about, None)


def _in_order(state: State) -> shards.Source:
    """The amplitudes of this rank by their qubits. An index and its place are linear over GF(2): one table does."""
    layout, scale, one = state.layout, state.scale, state.re.dtype.type
    local = layout.bits[: layout.num_local]
    table = deposit(np.arange(shards.piece_length(len(state.re), state.re.dtype)), local)
    flips = layout.flips & (len(state.re) - 1)

    def piece(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        where = table[: stop - start] ^ (sum((start >> k & 1) << bit for k, bit in enumerate(local)) ^ flips)
        re, im = state.re[where], state.im[where]
        if scale == 1:
            return re, im
        real, imag = one(scale.real), one(scale.imag)
        return re * real - im * imag, re * imag + im * real

    return piece


def _unplace(index: int, layout: Layout) -> int:
    """The number that the qubits spell where ``index`` is the stored one."""
    return sum(((index ^ layout.flips) >> bit & 1) << qubit for qubit, bit in enumerate(layout.bits))


def _write(
    path: Path,
    state: State,
    layout: Layout,
    scale: complex,
    number: int,
    source: shards.Source,
    about: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray] | None,
) -> None:
    stored = msgspec.to_builtins(_stored(layout, state.precision, scale))
    shards.write(
        path, state.team, PLANES, state.re.dtype, 1 << len(layout.bits), source, {**stored, **about}, arrays, number
    )


def _stored(layout: Layout, precision: Precision, scale: complex) -> Stored:
    scale = complex(scale)
    return Stored(
        qsimenv=__version__, num_qubits=len(layout.bits), precision=precision, bits=layout.bits, flips=layout.flips,
        scale=(scale.real, scale.imag),
    )  # fmt: skip


def _move_highest_to_ranks(state: State) -> None:
    """Exchange bits so that the highest qubits live on the rank bits, in whatever order."""
    layout, num_local = state.layout, state.layout.num_local
    inside = [layout.bits[q] for q in range(num_local, len(layout.bits)) if layout.is_local(q)]
    outside = [layout.bits[q] for q in range(num_local) if not layout.is_local(q)]
    pairs = tuple(zip(inside, outside, strict=True))
    if pairs:
        state.run(Plan((), layout, layout.exchanged(pairs), (Stage(pairs, ()),)), ((),))


def read_state(path: Path, manifest: Manifest, team: Team, work: Work | None = None) -> State:
    """The state in a set of shards, spread over ``team`` (of any size), every byte checked. *Collective.*

    Raises OutOfMemoryError on every rank, BadStateError on the ranks that find damage: to be agreed on by the caller.
    """
    stored = about(path, manifest)
    num_local = stored.num_qubits - (team.size.bit_length() - 1)
    state = State.zero(Layout(stored.bits, num_local), team, stored.precision, work)
    state = State(state.re, state.im, Layout(stored.bits, num_local, stored.flips), team, work)
    shards.read(path, manifest, team.rank << num_local, (state.re, state.im))
    state.scale = complex(*stored.scale)
    return state


def save_state(path: str | Path, statevector: npt.ArrayLike) -> None:
    """Save an array of 2**n amplitudes, qubit 0 the least significant bit of the index. *Local.*

    Writes ``path``, an HDF5 file with datasets ``re`` and ``im``, and ``path.shards/``, which holds their numbers.
    Raises InvalidArgumentError for another length, BadStateError where it cannot be written.
    """
    whole = np.asarray(statevector).reshape(-1)
    whole = whole if whole.dtype == np.complex64 else whole.astype(np.complex128, copy=False)
    num_qubits = max(0, whole.size.bit_length() - 1)
    if whole.size != 1 << num_qubits:
        raise InvalidArgumentError(f"save: {whole.size} amplitudes found, a power of two needed")
    stored = _stored(identity(num_qubits, num_qubits), "single" if whole.dtype == np.complex64 else "double", 1.0)
    shards.write(
        Path(path), Team(), PLANES, whole.real.dtype, whole.size,
        lambda start, stop: (whole.real[start:stop].copy(), whole.imag[start:stop].copy()), msgspec.to_builtins(stored),
    )  # fmt: skip


def load_state(path: str | Path) -> npt.NDArray[np.complexfloating]:
    """All amplitudes in a set of shards, in the order of the qubits. *Local*; takes up to three times the state.

    Raises NotFoundError, or BadStateError for what is damaged.
    """
    manifest = shards.read_manifest(Path(path))
    return read_state(Path(path), manifest, Team()).amplitudes()


def about(path: Path, manifest: Manifest) -> Stored:
    """What the manifest says of the state. Raises BadStateError where the shards hold something else."""
    try:
        stored = msgspec.convert(manifest.about, Stored)
    except msgspec.ValidationError as error:
        raise BadStateError(f"{path}: it does not hold a state ({error})") from None
    if manifest.names != PLANES or np.dtype(manifest.dtype) != REAL_TYPE[stored.precision]:
        raise BadStateError(f"{path}: it does not hold the planes of a state in {stored.precision} precision")
    if sorted(stored.bits) != list(range(stored.num_qubits)) or manifest.length != 1 << stored.num_qubits:
        raise BadStateError(f"{path}: its layout is not one of {stored.num_qubits} qubits")
    return stored
