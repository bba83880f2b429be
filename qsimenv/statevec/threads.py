"""The threads of a rank: how many it should have, and giving them to the kernels.

``engine`` does that before each run; ``explain`` and estimates ask for the number alone. Numba is imported by
``set_threads`` only: a process that estimates needs no compiler.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from qsimenv import comm
from qsimenv.comm import Team


def default_threads() -> int:
    """This rank's share of the cores, or fewer where OMP_NUM_THREADS says so."""
    return min(comm.cores(), wished_threads(os.environ))


def set_threads(team: Team | None = None) -> int:
    """Give this rank its threads. Returns their number.

    *Collective* with a ``team``: all ranks get as many, because a plan hangs on it, and plans must be equal.
    """
    import numba

    threads: int = min(default_threads(), numba.config.NUMBA_NUM_THREADS)
    if team is not None:
        threads = int(team.minimum(threads))
    numba.set_num_threads(threads)
    return threads


def wished_threads(environ: Mapping[str, str]) -> int:
    """OMP_NUM_THREADS, of which the first number counts; without one as many as there are."""
    wished = environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(1, int(wished)) if wished.isdecimal() else 1 << 30
