"""Sharing out the sets of parameters of a task over the ranks of a team: each runs some, all get the whole result."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from qsimenv.comm import Team
from qsimenv.errors import QSimEnvError
from qsimenv.task import Result

ARRAYS = ("samples", "expectation_values", "statevector")
"""The arrays of a result, which have an axis for the sets."""

Rows = npt.NDArray[np.float64]


def share_out(values: Rows, team: Team, run_rows: Callable[[Rows, int], Result]) -> Result:
    """``run_rows(values, 0)``, on all ranks together. *Collective*; an error of one rank is raised on all.

    ``run_rows(some, first)`` gives the arrays of some rows of ``values`` (at least one), of which the first has that
    number, with a leading axis for the rows. Cost beside the rows: one broadcast of each rank's part of the arrays.
    """
    share = -(-len(values) // team.size)
    first = min(team.rank * share, len(values) - 1)  # a rank for which none is left runs the last one again
    error: QSimEnvError | None = None
    own = Result()
    try:
        own = run_rows(values[first : first + share], first)
    except QSimEnvError as found:
        error = found
    team.agree(error)
    joined = Result(metadata=own.metadata)
    for name in ARRAYS:
        part = getattr(own, name)
        if part is not None:
            padded = np.zeros((share, *part.shape[1:]), dtype=part.dtype)
            padded[: len(part)] = part
            whole = team.gather(padded)
            setattr(joined, name, whole.reshape(-1, *part.shape[1:])[: len(values)])
    return joined
