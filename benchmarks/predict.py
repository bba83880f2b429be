"""What a circuit should take on machines that are not at hand: from the planner's plan, and rates of the machine.

    python -m benchmarks predict --machine frontier --qubits 40 --nodes 1024 [--circuit qft] [--precision single]
    python -m benchmarks predict --machine here --ranks-per-node 2 --qubits 24 --run

`--machine` names a file in benchmarks/machines, or the path of another one; `here` takes what `qsimenv doctor
--measure` has found (under mpirun it also measures the rate between ranks). `--circuit` is a family of the benchmarks
or a program's file. With `--run` the circuits run here on so many ranks, and what they took stands beside.
Without options: Frontier, then the six families here, run.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.circuits import FAMILIES
from benchmarks.machine import save
from benchmarks.on_ranks import final_state, launch
from benchmarks.prediction import (
    HERE,
    Prediction,
    Site,
    StageTimes,
    efficiency,
    fewest_nodes,
    machines,
    predict,
    read_site,
    site_here,
)
from qsimenv import comm, formats
from qsimenv.circuit import Circuit
from qsimenv.wording import readable

_REPEATS = 5


def circuit_of(name: str, num_qubits: int) -> Circuit:
    return FAMILIES[name](num_qubits) if name in FAMILIES else formats.load(name)


def tell(made: Prediction, base: Prediction, site: Site) -> None:
    """The prediction in lines: what it is of, a line for each stage, and the sum."""
    print(
        f"{made.circuit}, {made.num_qubits} qubits, {made.precision} precision on {made.nodes} node(s) x "
        f"{site.ranks_per_node} ranks of {site.name}: {readable(made.state_bytes)} a rank "
        f"of {readable(site.rank_bytes)}"
    )
    print("  stage  bits traded  inside a node  between nodes  exchange     sweeps  moved        sweeping")
    for number, stage in enumerate(made.stages):
        print(f"  {number:<5}  {_stage(stage)}")
    print(
        f"  {_time(made.seconds)}: {_time(made.sweep_s)} in sweeps, {_time(made.exchange_s)} in exchanges; "
        f"efficiency {efficiency(made, base):.2f} against {base.nodes} node(s)"
        + (", the fewest that hold it" if base.nodes < made.nodes else "")
    )


def _stage(stage: StageTimes) -> str:
    traffic = stage.traffic
    return (
        f"{stage.pairs:<11}  {readable(traffic.inside_bytes):<13}  {readable(traffic.between_bytes):<13}  "
        f"{_time(stage.exchange_s):<11}  {stage.sweeps:<6}  {readable(stage.sweep_bytes):<11}  {_time(stage.sweep_s)}"
    )


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def predicted(site: Site, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Predictions for all circuits, told and as figures."""
    found = []
    for name in options.circuit:
        circuit = circuit_of(name, options.qubits)
        least = fewest_nodes(circuit, site, options.precision)
        if least > options.nodes:
            print(f"{circuit.name}: {options.nodes} node(s) of {site.name} do not hold it, {least} are needed")
            continue
        made = predict(circuit, site, options.nodes, options.precision)
        base = predict(circuit, site, least, options.precision)
        tell(made, base, site)
        totals = {"seconds": made.seconds, "sweep_s": made.sweep_s, "exchange_s": made.exchange_s}
        found.append({**asdict(made), **totals, "efficiency": efficiency(made, base), "least_nodes": least})
    print(f"  rates: {site.rates.source}")
    for text in site.assumptions:
        print(f"  assumed: {text}")
    return found


# --- beside a real run ---


def on_rank(options: argparse.Namespace) -> None:
    """What each rank does; rank 0 prints a line of JSON for each circuit: of the fastest run."""
    import numba

    team = comm.world()
    numba.set_num_threads(max(1, len(os.sched_getaffinity(0)) // team.size))
    for name in options.circuit:
        circuit = circuit_of(name, options.qubits)
        runs = [final_state(circuit, team, options.precision) for _ in range(_REPEATS + 1)][1:]
        seconds, work = min(runs, key=lambda run: run[0])
        row = {
            "circuit": circuit.name, "seconds": seconds, "sweep_s": work.seconds.get("sweeps", 0.0),
            "exchange_s": work.seconds.get("exchange", 0.0), "sweeps": work.sweeps, "bytes_sent": work.bytes_exchanged,
        }  # fmt: skip
        if team.rank == 0:
            print(json.dumps(row), flush=True)


def beside(made: Sequence[dict[str, Any]], achieved: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One table of what was predicted and what it took, in milliseconds."""
    rows = []
    print("circuit   sweeps  predicted  took    ratio   exchanged  planned    predicted  took    ratio")
    for guess, real in zip(made, achieved, strict=True):
        sweeps = sum(stage["sweeps"] for stage in guess["stages"])
        traffic = [stage["traffic"] for stage in guess["stages"]]
        sent = sum(each["inside_bytes"] + each["between_bytes"] for each in traffic)
        ratios = [real[key] / guess[key] if guess[key] else None for key in ("sweep_s", "exchange_s")]
        first, second = (f"{ratio:<6.2f}" if ratio else "-     " for ratio in ratios)
        print(
            f"{real['circuit']:<8}  {sweeps:<6}  {guess['sweep_s'] * 1e3:<9.1f}  {real['sweep_s'] * 1e3:<6.1f}  "
            f"{first}  {readable(real['bytes_sent']):<9}  {readable(sent):<9}  {guess['exchange_s'] * 1e3:<9.1f}  "
            f"{real['exchange_s'] * 1e3:<6.1f}  {second}"
        )
        rows.append(
            {"circuit": real["circuit"], "predicted": {key: guess[key] for key in ("sweep_s", "exchange_s")},
             "achieved": real, "sweeps_predicted": sweeps, "bytes_predicted": sent}
        )  # fmt: skip
    return rows


def run_here(made: Sequence[dict[str, Any]], options: argparse.Namespace, ranks: int) -> list[dict[str, Any]]:
    words = ["--qubits", str(options.qubits), "--precision", options.precision, "--circuit", *options.circuit]
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    return beside(made, launch("benchmarks", ranks, ["predict", *words, "--on-rank"], threads))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", default="frontier", help=f"here, {', '.join(machines())}, or a file")
    parser.add_argument("--qubits", type=int, default=40)
    parser.add_argument("--nodes", type=int, default=1, help="a power of two")
    parser.add_argument("--ranks-per-node", type=int, default=2, help="of this machine; a file names its own")
    parser.add_argument("--circuit", nargs="+", default=list(FAMILIES), metavar="NAME|FILE")
    parser.add_argument("--precision", choices=("single", "double"), default="double")
    parser.add_argument("--run", action="store_true", help="run it here, too")
    parser.add_argument("--on-rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run and options.machine != HERE:
        parser.error("--run is about this machine; add --machine here")
    if options.machine == HERE and options.nodes > 1:
        parser.error("this machine is one node; give --ranks-per-node")
    return options


def main(arguments: list[str]) -> dict[str, Any]:
    if not arguments:
        far = main(["--qubits", "40", "--nodes", "1024"])
        return save_both(far, main(["--machine", HERE, "--qubits", "24", "--run"]))
    options = parse(arguments)
    if options.on_rank:
        on_rank(options)
        return {}
    site = site_here(options.ranks_per_node) if options.machine == HERE else read_site(options.machine)
    made = predicted(site, options)
    figures: dict[str, Any] = {"machine": site.name, "source": site.rates.source, "predictions": made}
    if options.run:
        figures["beside"] = run_here(made, options, options.ranks_per_node)
    return figures


def save_both(far: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    figures = {"far": far, "here": here}
    save("predict", figures)
    return figures
