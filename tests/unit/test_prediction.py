"""Predictions of the benchmarks against counts made by hand, and against what the plan says of itself."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.circuits import FAMILIES, qv
from benchmarks.predict import main
from benchmarks.prediction import (
    MACHINES,
    Links,
    Site,
    Traffic,
    efficiency,
    fewest_nodes,
    machines,
    predict,
    read_site,
    site_here,
    traffic,
)
from qsimenv.circuit import Circuit, Measure, Reset, gate
from qsimenv.errors import InvalidArgumentError, NotFoundError
from qsimenv.launcher.profiles import read_named
from qsimenv.statevec.costs.rates import ASSUMED
from qsimenv.statevec.planning.layout import identity
from qsimenv.statevec.planning.plan import Plan, Stage
from qsimenv.statevec.simulate import prepare

SITE = Site("made up", ASSUMED, Links(1e9, 2e9, 1e-3), ranks_per_node=4, rank_bytes=1 << 30)


def plan_of(*exchanges: tuple[tuple[int, int], ...]) -> Plan:
    start = identity(14, 10)
    return Plan((), start, start, tuple(Stage(exchange, ()) for exchange in exchanges))


def test_the_first_trade_of_a_rank_bit_is_free_and_low_rank_bits_stay_inside_a_node():
    """Ten local bits, sixteen ranks, four to a node: rank bits 10 and 11 tell ranks of one node apart."""
    whole = 16 << 10
    free, inside, between, both = traffic(
        plan_of(((9, 10), (8, 12)), ((9, 10),), ((9, 12),), ((9, 10), (8, 12), (7, 13))), 16, node_bits=2
    )
    assert free == Traffic(0, 0, 0)
    assert inside == Traffic(whole // 2, 0, 1)
    assert between == Traffic(0, whole // 2, 1)
    assert both == Traffic(whole // 4, whole // 2, 3), "rank bit 13 is traded for the first time"


@pytest.mark.parametrize("name", FAMILIES)
def test_traffic_adds_up_to_what_the_plan_counts(name: str):
    circuit = FAMILIES[name](20)
    made = predict(circuit, SITE, nodes=2, precision="double")
    prepared = prepare(circuit, 17, "double")
    planned = prepared.plan(0, prepared.start()).bytes_exchanged(16, from_zero=True)
    assert sum(stage.traffic.bytes for stage in made.stages) == planned
    assert made.ranks == 8
    assert made.state_bytes == 16 << 17
    assert made.seconds == pytest.approx(sum(stage.sweep_s + stage.exchange_s for stage in made.stages))
    assert made.sweep_s > 0


def test_seconds_of_an_exchange_by_hand():
    """Four ranks of a node share 2 GB/s to others; what came is put in its place: read and written once."""
    found = Traffic(inside_bytes=3 << 20, between_bytes=5 << 20, partners=7)
    placed_s = 2 * (8 << 20) * 4 / ASSUMED.memory_bytes_per_s
    assert found.seconds(SITE) == pytest.approx((3 << 20) / 1e9 + (5 << 20) * 4 / 2e9 + 7e-3 + placed_s)


def test_a_slower_network_costs_what_its_bytes_take_longer():
    circuit = qv(20)
    fast, slow = (predict(circuit, replace(SITE, links=Links(1e9, rate, 0.0)), 4, "single") for rate in (2e9, 1e9))
    sent = sum(stage.traffic.between_bytes for stage in fast.stages)
    assert sent > 0
    assert slow.exchange_s - fast.exchange_s == pytest.approx(sent * 4 / 2e9)
    assert slow.sweep_s == fast.sweep_s


def test_efficiency_is_one_where_twice_the_nodes_take_half_the_time():
    base = predict(qv(20), SITE, 1, "double")
    half = replace(base, nodes=2, stages=base.stages[: len(base.stages) // 2])
    assert efficiency(base, base) == 1
    assert efficiency(half, base) == pytest.approx(base.seconds / half.seconds / 2)


def test_fewest_nodes_hold_the_state_and_its_buffers():
    """27 qubits in double precision take 2 GiB of the node's 4; 28 and their buffers more than all."""
    assert fewest_nodes(Circuit(27, 0, ()), SITE, "double") == 1
    assert fewest_nodes(Circuit(28, 0, ()), SITE, "double") == 2
    assert fewest_nodes(Circuit(28, 0, ()), SITE, "single") == 1


@pytest.mark.parametrize(("qubits", "nodes"), [(20, 3), (4, 4)])
def test_numbers_of_ranks_that_cannot_be_are_refused(qubits: int, nodes: int):
    with pytest.raises(InvalidArgumentError, match="a power of two of at most"):
        predict(FAMILIES["ghz"](qubits), SITE, nodes, "double")


def test_circuits_that_hang_on_outcomes_are_refused_and_measurements_at_the_end_are_not():
    h = gate("h", 0)
    predict(Circuit(14, 1, (h, Measure(0, 0))), SITE, 1, "double")
    with pytest.raises(InvalidArgumentError, match="measures or branches in the middle"):
        predict(Circuit(14, 1, (h, Measure(0, 0), Reset(0), h)), SITE, 1, "double")


@pytest.mark.parametrize("name", machines())
def test_machines_agree_with_their_profiles(name: str):
    site = read_site(name)
    profile = read_named(name)
    assert site.ranks_per_node == (len(profile.devices) or profile.ranks_per_node)
    assert site.assumptions
    assert "http" in site.rates.source


def test_forty_qubits_on_frontier():
    """2^40 amplitudes on 8192 ranks are 2 GiB each; a sweep over them takes 3.4 ms at 80 % of 1.6 TB/s."""
    made = predict(FAMILIES["hea"](40), read_site("frontier"), 1024, "double")
    assert made.state_bytes == 2 << 30
    assert made.stages[-1].sweep_bytes > 2 << 30, "at the end everything is written"
    for stage in made.stages:
        assert stage.sweep_s > stage.sweep_bytes / (0.8 * 1.6e12)


def test_what_the_command_tells(capsys: pytest.CaptureFixture[str]):
    figures = main(["--machine", "frontier", "--qubits", "42", "--nodes", "1024", "--circuit", "qv"])
    (made,) = figures["predictions"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "qv, 42 qubits, double precision on 1024 node(s) x 8 ranks of frontier: 8 GiB a rank of 59.6 GiB"
    assert len(made["stages"]) == sum(bool(re.match(r"  \d+ ", line)) for line in lines)
    assert made["exchange_s"] > made["sweep_s"] > 0
    assert 0 < made["efficiency"] < 1
    assert any("against 256 node(s), the fewest that hold it" in line for line in lines)
    assert sum(line.startswith("  assumed: ") for line in lines) == 3


def test_a_circuit_that_does_not_fit_says_on_how_many_nodes_it_would(capsys: pytest.CaptureFixture[str]):
    assert main(["--qubits", "42", "--nodes", "128", "--circuit", "ghz"])["predictions"] == []
    assert "ghz: 128 node(s) of frontier do not hold it, 256 are needed\n" in capsys.readouterr().out


def test_this_machine_shares_its_cores_among_its_ranks():
    assert site_here(64).threads < 1
    assert site_here(1, threads=1).threads == 1
    assert any("ranks share" in text for text in site_here(4096).assumptions)


def test_a_file_that_is_no_machine_is_refused(tmp_path: Path):
    with pytest.raises(NotFoundError, match="give a path or one of here, frontier"):
        read_site("nowhere")
    text = (MACHINES / "frontier.toml").read_text()
    (tmp_path / "one.toml").write_text(text.replace("block_bits", "blocks"))
    with pytest.raises(InvalidArgumentError, match="block"):
        read_site(str(tmp_path / "one.toml"))
