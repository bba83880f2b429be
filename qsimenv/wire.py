"""Arrays on the wire: as raw bytes with type and shape, never as text, never as pickle.

Hooks for msgspec's encoders and decoders of whatever holds arrays: messages, records in the journal, and results that
one rank sends to the others.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np


class ArrayBytes(msgspec.Struct, frozen=True, array_like=True):
    """An array on the wire."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


_COPIED_BYTES = 4096
"""A smaller array is copied sooner than looked at."""
DTYPES = ("|u1", "<f8", "<c8", "<c16")


def encode_hook(value: Any) -> Any:
    """For msgspec encoders: arrays as ArrayBytes."""
    if isinstance(value, np.ndarray):
        if value.nbytes <= _COPIED_BYTES:
            return value.dtype.str, value.shape, value.tobytes()
        contiguous = np.ascontiguousarray(value)
        return contiguous.dtype.str, value.shape, contiguous.reshape(-1).view(np.uint8).data
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"{type(value).__name__} does not travel")


def decode_hook(kind: type, value: Any) -> Any:
    """For msgspec decoders: ArrayBytes as read-only arrays. Raises ValueError where sizes do not agree."""
    if kind is np.ndarray:
        array = msgspec.convert(value, ArrayBytes)
        if array.dtype not in DTYPES or min(array.shape, default=0) < 0:
            raise ValueError(f"an array of type {array.dtype!r} and shape {array.shape} does not travel")
        return np.frombuffer(array.data, dtype=array.dtype).reshape(array.shape)
    raise NotImplementedError(f"{kind.__name__} does not travel")
