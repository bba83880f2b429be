"""Stored states: what the manifest of a set of shards says of a state, and whole states to and from such sets.

``qs.load_state`` and ``qs.save_state`` live here: they need no compiler. Whoever has the State of a run uses
``checkpoint``.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from qsimenv import __version__, shards
from qsimenv.comm import Team
from qsimenv.errors import BadStateError, InvalidArgumentError
from qsimenv.shards import Manifest
from qsimenv.statevec.planning.layout import Layout, by_qubits, identity
from qsimenv.task import Precision

PLANES = ("re", "im")
_DTYPES: dict[Precision, str] = {"double": "<f8", "single": "<f4"}


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What the manifest says of a state: an amplitude is ``scale`` times what is stored; see Layout for the bits."""

    qsimenv: str
    num_qubits: int
    precision: Precision
    bits: tuple[int, ...]
    flips: int
    scale: tuple[float, float]


def describe(layout: Layout, precision: Precision, scale: complex) -> Stored:
    """What the manifest is to say of a state."""
    scale = complex(scale)
    return Stored(
        qsimenv=__version__, num_qubits=len(layout.bits), precision=precision, bits=layout.bits, flips=layout.flips,
        scale=(scale.real, scale.imag),
    )  # fmt: skip


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
    stored = describe(identity(num_qubits, num_qubits), "single" if whole.dtype == np.complex64 else "double", 1.0)
    shards.write(
        Path(path), Team(), PLANES, whole.real.dtype, whole.size,
        lambda start, stop: (whole.real[start:stop].copy(), whole.imag[start:stop].copy()), msgspec.to_builtins(stored),
    )  # fmt: skip


def load_state(path: str | Path) -> npt.NDArray[np.complexfloating]:
    """All amplitudes in a set of shards, in the order of the qubits. *Local*; takes up to three times the state.

    Raises NotFoundError, or BadStateError for what is damaged.
    """
    path = Path(path)
    manifest = shards.read_manifest(path)
    stored = stored_in(path, manifest)
    planes = [np.empty(manifest.length, dtype=manifest.dtype) for _ in PLANES]
    shards.read(path, manifest, 0, planes)
    whole = np.empty(manifest.length, dtype=np.complex128 if stored.precision == "double" else np.complex64)
    whole.real, whole.imag = planes
    if stored.scale != (1.0, 0.0):
        np.multiply(whole, complex(*stored.scale), out=whole)
    return by_qubits(whole, Layout(stored.bits, stored.num_qubits, stored.flips))


def stored_in(path: Path, manifest: Manifest) -> Stored:
    """What the manifest says of the state. Raises BadStateError where the shards hold something else."""
    try:
        stored = msgspec.convert(manifest.about, Stored)
    except msgspec.ValidationError as error:
        raise BadStateError(f"{path}: it does not hold a state ({error})") from None
    if manifest.names != PLANES or manifest.dtype != _DTYPES[stored.precision]:
        raise BadStateError(f"{path}: it does not hold the planes of a state in {stored.precision} precision")
    if sorted(stored.bits) != list(range(stored.num_qubits)) or manifest.length != 1 << stored.num_qubits:
        raise BadStateError(f"{path}: its layout is not one of {stored.num_qubits} qubits")
    return stored
