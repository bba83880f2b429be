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

from qsimenv import shards
from qsimenv.comm import Team
from qsimenv.shards import Manifest
from qsimenv.statevec.encoding.rows import deposit
from qsimenv.statevec.kernels.devices import DeviceName
from qsimenv.statevec.planning.layout import Layout, identity
from qsimenv.statevec.planning.plan import Plan, Stage
from qsimenv.statevec.state import State, Work
from qsimenv.statevec.storing.stored import PLANES, describe, stored_in


def write_state(
    path: Path, state: State, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
) -> None:
    """Write the state as it is stored, with what the caller wants to be told again. *Collective.*

    Costs writing the bytes and reading them from memory once. Raises BadStateError on every rank.
    """
    planes = state.re, state.im

    def piece(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return state.device.to_host(planes[0][start:stop]), state.device.to_host(planes[1][start:stop])

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
    layout, scale, planes, one = state.layout, state.scale, (state.re, state.im), state.re.dtype.type
    local = layout.bits[: layout.num_local]
    table = deposit(np.arange(shards.piece_length(len(state.re), state.re.dtype)), local)
    flips = layout.flips & (len(state.re) - 1)

    def piece(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        where = table[: stop - start] ^ (sum((start >> k & 1) << bit for k, bit in enumerate(local)) ^ flips)
        re, im = (state.device.slots.take(plane, where) for plane in planes)
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
    stored = msgspec.to_builtins(describe(layout, state.precision, scale))
    shards.write(
        path, state.team, PLANES, state.re.dtype, 1 << len(layout.bits), source, {**stored, **about}, arrays, number
    )


def _move_highest_to_ranks(state: State) -> None:
    """Exchange bits so that the highest qubits live on the rank bits, in whatever order."""
    layout, num_local = state.layout, state.layout.num_local
    inside = [layout.bits[q] for q in range(num_local, len(layout.bits)) if layout.is_local(q)]
    outside = [layout.bits[q] for q in range(num_local) if not layout.is_local(q)]
    pairs = tuple(zip(inside, outside, strict=True))
    if pairs:
        state.run(Plan((), layout, layout.exchanged(pairs), (Stage(pairs, ()),)), ((),))


def read_state(path: Path, manifest: Manifest, team: Team, work: Work | None = None, on: DeviceName = "cpu") -> State:
    """The state in a set of shards, spread over ``team`` (of any size), every byte checked. *Collective.*

    A state for a GPU goes by way of as much host memory.

    Raises OutOfMemoryError on every rank, BadStateError on the ranks that find damage: to be agreed on by the caller.
    """
    stored = stored_in(path, manifest)
    num_local = stored.num_qubits - (team.size.bit_length() - 1)
    state = State.zero(Layout(stored.bits, num_local), team, stored.precision, work, on)
    state = State(state.re, state.im, Layout(stored.bits, num_local, stored.flips), team, work)
    planes = [state.re, state.im]
    if on == "cpu":
        shards.read(path, manifest, team.rank << num_local, planes)
    else:
        numbers = [np.empty(len(plane), dtype=plane.dtype) for plane in planes]
        shards.read(path, manifest, team.rank << num_local, numbers)
        for each, plane in zip(numbers, planes, strict=True):
            state.device.from_host(each, plane)
    state.scale = complex(*stored.scale)
    return state
