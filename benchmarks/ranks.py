"""Two ranks with one thread each against one rank with two threads: the same circuits, side by side in one MPI job.

    python -m benchmarks ranks [--qubits 24] [--rounds 5] [--family hea ...]

A round runs a circuit both ways, each after a run that warms its memory up; while rank 0 works alone, rank 1 sleeps.
The figure is the median over the rounds of the ratio of the two times. The promise: at most 1.25 for each family.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np

from benchmarks.circuits import FAMILIES
from benchmarks.machine import save
from benchmarks.on_ranks import final_state, launch
from qsimenv import comm
from qsimenv.circuit import Circuit
from qsimenv.task import Precision

PROMISE = 1.25
PRECISIONS: tuple[Precision, ...] = ("single", "double")
_PAUSE_S = 0.3
"""Before each measurement: the threads of the one before spin for a while, in the hope of more work."""


def alone(circuit: Circuit, precision: Precision, team: comm.Team) -> float:
    """Rank 0 with two threads; seconds, on rank 0. Rank 1 looks now and then whether it is over."""
    import numba

    seconds = 0.0
    if team.rank == 0:
        numba.set_num_threads(2)
        seconds = _best_of_two(circuit, precision, comm.Team())
    _wait_asleep(team)
    return seconds


def together(circuit: Circuit, precision: Precision, team: comm.Team) -> float:
    """Both ranks with one thread each."""
    import numba

    numba.set_num_threads(1)
    return _best_of_two(circuit, precision, team)


def _wait_asleep(team: comm.Team) -> None:
    """A barrier in which nobody spins. *Collective.*"""
    token = [np.zeros(1), np.zeros(1)]
    transfer = team.begin_exchange(1 - team.rank, *token)
    while not transfer.is_done():
        time.sleep(0.002)


def _best_of_two(circuit: Circuit, precision: Precision, team: comm.Team) -> float:
    final_state(circuit, team, precision)
    time.sleep(_PAUSE_S)
    return min(final_state(circuit, team, precision)[0] for _ in range(2))


def on_rank(options: argparse.Namespace) -> None:
    """What each of the two ranks does; rank 0 prints a line of JSON for each family and precision."""
    team = comm.world()
    for precision in PRECISIONS:
        for family in options.family or FAMILIES:
            circuit = FAMILIES[family](options.qubits)
            pairs = [
                (together(circuit, precision, team), alone(circuit, precision, team)) for _ in range(options.rounds)
            ]
            final_state(circuit, team, precision)
            seconds, work = final_state(circuit, team, precision)
            if team.rank:
                continue
            row = {
                "family": family,
                "precision": precision,
                "two_ranks_s": statistics.median(two for two, _ in pairs),
                "two_threads_s": statistics.median(one for _, one in pairs),
                "ratio": round(statistics.median(two / one for two, one in pairs), 3),
                "exchanges": work.exchanges,
                "bytes_sent_a_rank": work.bytes_exchanged,
                "exchange_share": round(work.seconds.get("exchange", 0) / seconds, 3),
            }
            print(json.dumps(row), flush=True)


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qubits", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--family", choices=list(FAMILIES), action="append")
    parser.add_argument("--on-rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.on_rank:
        on_rank(options)
        return {}
    rows = launch("benchmarks", 2, ["ranks", *arguments, "--on-rank"], threads=2)
    for row in rows:
        kept = "kept" if row["ratio"] <= PROMISE else "BROKEN"
        print(
            f"{row['family']:5} {row['precision']:6}: 2 ranks {row['two_ranks_s']:.3f} s, "
            f"2 threads {row['two_threads_s']:.3f} s, ratio {row['ratio']:.2f} (promise {PROMISE}: {kept}), "
            f"{row['exchanges']} exchange(s), {100 * row['exchange_share']:.0f} % of the time"
        )
    figures = {"qubits": options.qubits, "promise": PROMISE, "rows": rows}
    save("ranks", figures)
    return figures
