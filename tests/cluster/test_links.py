"""A slow link between hosts: runs end right, and an exchange takes what the plan's bytes take at the link's rate."""

from __future__ import annotations

import json

import pytest

import qsimenv as qs
from benchmarks.circuits import qv
from benchmarks.prediction import traffic
from qsimenv.circuit import Circuit, Measure
from qsimenv.statevec.simulate import prepare
from tests.cluster.cluster import LOGIN, Cluster

pytestmark = [pytest.mark.environment, pytest.mark.slow, pytest.mark.timeout(300)]

QUBITS, DEPTH, RANKS_PER_HOST, HOSTS = 22, 24, 2, 2
AGREE = 0.3
PAYLOAD = 1448 / 1514
"""What a frame on the link carries of the message: the rest are headers of Ethernet, IP and TCP."""
RUN = f"""
import json
import qsimenv as qs
from qsimenv import comm
from tests.cluster.test_links import measured_qv
team = comm.world()
qs.run(measured_qv({QUBITS}, 1), shots=1)
team.barrier()
result = qs.run(measured_qv({QUBITS}, {DEPTH}), shots=1000, seed=7)
exchange_s = team.minimum(result.metadata["seconds"]["exchange"])
if team.rank == 0:
    print(json.dumps(dict(
        counts=result.counts, exchange_s=exchange_s, sent=result.metadata["bytes_exchanged"], ranks=team.size
    )))
"""
"""Ranks that come late make others wait, so that the shortest time is that of the exchange itself."""


def measured_qv(num_qubits: int, depth: int) -> Circuit:
    made = qv(num_qubits, depth)
    measures = tuple(Measure(qubit, qubit) for qubit in range(num_qubits))
    return Circuit(num_qubits, num_qubits, (*made.instructions, *measures), name=made.name)


def run_on_two_hosts(cluster: Cluster) -> dict:  # type: ignore[type-arg]
    allocation = ("salloc", "--quiet", "--partition=quantum", f"--nodes={HOSTS}", "--exclusive")
    launch = ("mpirun", "--map-by", f"ppr:{RANKS_PER_HOST}:node:OVERSUBSCRIBE", "--bind-to", "none")
    out = cluster.run(LOGIN, *allocation, *launch, "python", "-c", RUN, timeout_s=240)
    found: dict = json.loads(out)  # type: ignore[type-arg]
    return found


@pytest.mark.parametrize(("rate", "bytes_per_s"), [("1gbit", 1e9 / 8), ("100mbit", 1e8 / 8)])
def test_an_exchange_takes_what_its_bytes_take_at_the_rate_of_the_link(
    rate: str, bytes_per_s: float, cluster: Cluster, compiled: None
) -> None:
    """At 1 Gbit/s two busy cores may be slower than the link, at a tenth of that the link decides."""
    circuit, ranks = measured_qv(QUBITS, DEPTH), RANKS_PER_HOST * HOSTS
    prepared = prepare(circuit, QUBITS - (ranks.bit_length() - 1), "double")
    sent = traffic(prepared.plan(0, prepared.start()), 16, node_bits=RANKS_PER_HOST.bit_length() - 1)
    for host in cluster.quantum:
        cluster.slow(host, rate)
    try:
        seen = run_on_two_hosts(cluster)
    finally:
        for host in cluster.quantum:
            cluster.unslow(host)
    assert seen["ranks"] == ranks
    assert seen["sent"] == ranks * sum(each.bytes for each in sent)
    planned_s = sum(each.between_bytes for each in sent) * RANKS_PER_HOST / (bytes_per_s * PAYLOAD)
    assert seen["exchange_s"] > 0.9 * planned_s, "no faster than the link"
    if rate == "100mbit":
        assert seen["exchange_s"] == pytest.approx(planned_s, rel=AGREE)
    assert seen["counts"] == qs.run(circuit, shots=1000, seed=7).counts
