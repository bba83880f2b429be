"""Exchange: trade local bits for rank bits between the ranks of a team, in pieces of bounded size.

With s pairs of bits, a rank trades with 2**s - 1 partners. What it sends to one partner and what it gets from it
belong into the very same slots, so the trade is in place: pack a piece, swap it, unpack it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qsimenv.comm import Team
from qsimenv.statevec import kernels_numba as kernels

PIECE_BYTES = 8 << 20
"""One message; two buffers of this size are all the memory an exchange takes."""


def trade_bits(planes: Sequence[np.ndarray], num_local: int, pairs: Sequence[tuple[int, int]], team: Team) -> int:
    """Trade each (local bit, rank bit) of ``pairs`` in place. *Collective.* Returns the bytes that this rank sent."""
    positions = np.array(sorted(local for local, _ in pairs), dtype=np.int64)
    count = len(planes[0]) >> len(pairs)
    size = max(1, min(count, PIECE_BYTES // planes[0].itemsize))
    outgoing, incoming = np.empty(size, dtype=planes[0].dtype), np.empty(size, dtype=planes[0].dtype)
    for pattern in range(1, 1 << len(pairs)):
        partner = team.rank ^ sum((pattern >> k & 1) << (bit - num_local) for k, (_, bit) in enumerate(pairs))
        slot = sum((partner >> (bit - num_local) & 1) << local for local, bit in pairs)
        for plane in planes:
            for start in range(0, count, size):
                kernels.pack(plane, positions, slot, start, outgoing)
                team.exchange(partner, outgoing, incoming)
                kernels.unpack(plane, positions, slot, start, incoming)
    return len(planes) * count * ((1 << len(pairs)) - 1) * planes[0].itemsize
