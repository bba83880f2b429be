"""An exchange over a slow and long link between two hosts, against what the plan's bytes take at the link's rate.

    python -m benchmarks link [--qubits 26] [--mbit-per-s 1000] [--delay-ms 5] [--repeats 3]

The hosts are namespaces of this machine (as root), with two ranks each; what goes to a host comes at the given rate and
after the given delay. ``planned_s`` is what the plan's bytes between the hosts take at that rate, with the headers that
frames have. Beside it stands the exchange as it was measured, in the rank that waited least for others: the median of
the repeats. Counts must be those of one rank.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import qsimenv as qs
from benchmarks.circuits import qv
from benchmarks.machine import save
from benchmarks.prediction import Traffic, traffic
from qsimenv import comm
from qsimenv.circuit import Circuit, Measure
from qsimenv.statevec.simulate import prepare
from tests.cluster import cluster as mini

DEPTH, SHOTS, SEED = 24, 1000, 7
HOSTS, RANKS_PER_HOST = 2, 2
RANKS = HOSTS * RANKS_PER_HOST
AMPLITUDE_BYTES = 16
PAYLOAD = 1448 / 1514
"""What a frame on the link carries of the message: the rest are headers of Ethernet, IP and TCP."""


def measured_qv(num_qubits: int, depth: int = DEPTH) -> Circuit:
    made = qv(num_qubits, depth)
    measures = tuple(Measure(qubit, qubit) for qubit in range(num_qubits))
    return Circuit(num_qubits, num_qubits, (*made.instructions, *measures), name=made.name)


def planned(num_qubits: int) -> list[Traffic]:
    """What the plan for these ranks makes one of them send."""
    prepared = prepare(measured_qv(num_qubits), num_qubits - (RANKS.bit_length() - 1), "double")
    return traffic(prepared.plan(0, prepared.start()), AMPLITUDE_BYTES, node_bits=RANKS_PER_HOST.bit_length() - 1)


def planned_s(sent: list[Traffic], bits_per_s: float) -> float:
    """Seconds that those bytes take on the link of a host, which its ranks share."""
    return sum(each.between_bytes for each in sent) * RANKS_PER_HOST / (bits_per_s / 8 * PAYLOAD)


def on_rank(num_qubits: int) -> None:
    """What each rank does; rank 0 prints. Ranks that come late make others wait, so the shortest time is that of the
    exchange itself."""
    team = comm.world()
    qs.run(measured_qv(num_qubits, depth=1), shots=1)
    team.barrier()
    result = qs.run(measured_qv(num_qubits), shots=SHOTS, seed=SEED)
    exchange_s = team.minimum(result.metadata["seconds"]["exchange"])
    if team.rank == 0:
        seen = {"ranks": team.size, "exchange_s": exchange_s, "sent": result.metadata["bytes_exchanged"]}
        print(json.dumps({**seen, "counts": result.counts}))


def command(num_qubits: int, *where: object) -> list[str]:
    """Tokens that run `on_rank` on the hosts; ``where``: options of mpirun that say which."""
    spread = ("--map-by", f"ppr:{RANKS_PER_HOST}:node:OVERSUBSCRIBE", "--bind-to", "none")
    this = ("-m", "benchmarks", "link", "--on-rank", "--qubits", num_qubits)
    return [str(word) for word in ("mpirun", *where, *spread, sys.executable, *this)]


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qubits", type=int, default=26)
    parser.add_argument("--mbit-per-s", type=float, default=1000)
    parser.add_argument("--delay-ms", type=float, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--on-rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.on_rank:
        on_rank(options.qubits)
        return {}
    reason = mini.missing(slurm=False)
    if reason is not None:
        print(f"link: left out: {reason}")
        return {}
    if not (options.mbit_per_s > 0 and options.delay_ms >= 0 and options.repeats > 0):
        parser.error("a rate above 0, a delay of at least 0 and at least one repeat needed")
    bits_per_s, delay_s = 1e6 * options.mbit_per_s, 1e-3 * options.delay_ms
    runs = measure(options.qubits, bits_per_s, delay_s, options.repeats)
    least_s = planned_s(planned(options.qubits), bits_per_s)
    expected = qs.run(measured_qv(options.qubits), shots=SHOTS, seed=SEED).counts
    figures = {
        "qubits": options.qubits, "ranks": RANKS, "hosts": HOSTS,
        "mbit_per_s": options.mbit_per_s, "delay_ms": options.delay_ms,
        "planned_s": least_s,
        "exchange_s": sorted(run["exchange_s"] for run in runs),
        "exchange_over_planned": median(run["exchange_s"] for run in runs) / least_s,
        "counts_of_one_rank": all(run["counts"] == expected for run in runs),
    }  # fmt: skip
    print(json.dumps(figures, indent=2))
    save("link", figures)
    return figures


def measure(num_qubits: int, bits_per_s: float, delay_s: float, repeats: int) -> list[dict[str, Any]]:
    """What rank 0 said in each run."""
    with (
        TemporaryDirectory(prefix="qsimenv-bench-") as scratch,
        mini.running(HOSTS, slurm=False, shared=[], output=Path(scratch) / "output") as cluster,
    ):
        for host in cluster.hosts:
            cluster.slow(host, bits_per_s, delay_s)
        hosts = ",".join(f"{host}:{RANKS_PER_HOST}" for host in cluster.hosts)
        mca = (("plm_ssh_agent", mini.AGENT), ("prte_if_include", mini.NETWORK))
        where = ("--host", hosts, *(word for name, value in mca for word in ("--prtemca", name, value)))
        words = command(num_qubits, *where)
        return [json.loads(cluster.run(mini.LOGIN, *words, timeout_s=600)) for _ in range(repeats)]
