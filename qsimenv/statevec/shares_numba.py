"""Work among threads: each has a share of its own, and who is done takes what the others have not begun.

A core that does something else as well, or is slower, then holds nobody up: with another busy process on one of two
cores, sweeps took 0.5 to 0.7 of the time that they took with shares alone. Shares are kept because what a thread works
on lies near its core. Not for sums: those are to be the same each time, so they need the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from qsimenv.statevec.kernel_cache import njit

_LINE = 8
"""Numbers in a line of the cache: threads would wait for each other where two shares are in one."""


def shares_of(count: int, threads: int) -> npt.NDArray[np.int64]:
    """For each thread the next number of its share and the end of it, out of ``count``; the first two columns. Cost: a
    microsecond for one thread, four for more."""
    if threads == 1:
        return np.array(((0, count),))
    shares = np.zeros((threads, _LINE), dtype=np.int64)
    bounds = np.arange(threads + 1) * count // threads
    shares[:, 0], shares[:, 1] = bounds[:-1], bounds[1:]
    return shares


@njit(inline="always", nogil=True)
def next_number(shares: npt.NDArray[np.int64], share: int, left: int) -> tuple[int, int, int]:
    """A number of a share that nobody has taken, or of the ``left - 1`` after it if there is none, or -1; and the share
    and how many are left to ask the next time. Who begins asks for its own share, and as many as there are.
    """
    while left > 0:
        number = _take(shares, share)
        if number < shares[share, 1]:
            return number, share, left
        share, left = (share + 1) % shares.shape[0], left - 1
    return -1, share, 0


@intrinsic  # type: ignore[untyped-decorator]
def _take(typing: Any, shares: Any, row: Any) -> Any:
    """``shares[row, 0]`` as it was before one was added to it, of which no two threads get the same."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.mul(arguments[1], builder.extract_value(array.shape, 1))
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", builder.gep(array.data, [place]), one, "monotonic")

    return types.int64(shares, row), generate
