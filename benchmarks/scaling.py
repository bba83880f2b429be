"""Strong and weak scaling over the ranks of this machine, one thread each: time, share of the exchange, bytes.

    python -m benchmarks scaling [--ranks 1 2 4] [--strong-qubits 24] [--weak-qubits 22] [--family hea ...]

Strong: one circuit, ever more ranks. Weak: one qubit more each time the ranks double, so that each holds as much as
before. Every figure is the fastest of a few runs in double precision; the bytes that a rank sent stand beside those
that its plan foresees. More ranks than cores share them, which the result says. The plot needs matplotlib:
pip install '.[bench]'.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib import util
from typing import Any

from benchmarks.circuits import FAMILIES
from benchmarks.machine import RESULTS, save
from benchmarks.on_ranks import final_state, launch
from qsimenv import comm
from qsimenv.statevec.simulate import prepare
from qsimenv.task import AMPLITUDE_BYTES

PRECISION = "double"


def on_rank(options: argparse.Namespace) -> None:
    """What each rank does; rank 0 prints a line of JSON for each family."""
    import numba

    team = comm.world()
    numba.set_num_threads(1)
    doublings = team.size.bit_length() - 1
    for family in options.family or FAMILIES:
        for kind, num_qubits in (("strong", options.strong_qubits), ("weak", options.weak_qubits + doublings)):
            circuit = FAMILIES[family](num_qubits)
            final_state(circuit, team, PRECISION)
            seconds, work = min((final_state(circuit, team, PRECISION) for _ in range(3)), key=lambda run: run[0])
            prepared = prepare(circuit, num_qubits - doublings, PRECISION)
            plan = prepared.plan(0, prepared.start())
            row = {
                "family": family, "kind": kind, "qubits": num_qubits, "ranks": team.size, "seconds": seconds,
                "exchange_s": work.seconds.get("exchange", 0.0), "exchanges": work.exchanges, "sweeps": work.sweeps,
                "bytes_sent_a_rank": work.bytes_exchanged,
                "planned_bytes_a_rank": plan.bytes_exchanged(AMPLITUDE_BYTES[PRECISION], from_zero=True),
            }  # fmt: skip
            if team.rank == 0:
                print(json.dumps(row), flush=True)


def with_efficiency(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Beside each row the efficiency against the smallest number of ranks: 1 is ideal."""
    first = {(row["family"], row["kind"]): row for row in sorted(rows, key=lambda row: -row["ranks"])}
    for row in rows:
        base = first[row["family"], row["kind"]]
        work = row["ranks"] / base["ranks"] if row["kind"] == "strong" else 1.0
        row["efficiency"] = round(base["seconds"] / row["seconds"] / work, 3)
    return rows


def plot(rows: list[dict[str, Any]], cores: int) -> None:
    """``results/scaling.png``: time over ranks for both kinds, and the share of the exchange."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    figure, (strong, weak, share) = plt.subplots(1, 3, figsize=(13, 4), constrained_layout=True)
    ranks = sorted({row["ranks"] for row in rows})
    families = list(dict.fromkeys(row["family"] for row in rows))
    for number, family in enumerate(families):
        for axes, kind in ((strong, "strong"), (weak, "weak")):
            mine = sorted(
                (row for row in rows if (row["family"], row["kind"]) == (family, kind)), key=lambda row: row["ranks"]
            )
            axes.plot([row["ranks"] for row in mine], [row["seconds"] for row in mine], "o-", label=family)
            if kind == "strong":
                shares = [100 * row["exchange_s"] / row["seconds"] for row in mine]
                places = [place + 0.13 * number for place in range(len(mine))]
                share.bar(places, shares, width=0.12, label=family)
    for axes, title in ((strong, "strong scaling"), (weak, "weak scaling")):
        axes.set(title=title, xlabel="ranks, one thread each", ylabel="seconds", xscale="log", yscale="log")
        axes.set_xticks(ranks, [str(count) for count in ranks])
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_minor_formatter(ticker.LogFormatter(minor_thresholds=(2, 1)))
        axes.axvspan(cores * 1.19, max(*ranks, cores) * 1.19, color="0.93", zorder=0, label="more ranks than cores")
        axes.set_xlim(ranks[0] / 1.19, ranks[-1] * 1.19)
    fastest = min(row["seconds"] for row in rows if row["kind"] == "strong" and row["ranks"] == ranks[0])
    strong.plot(ranks, [fastest * ranks[0] / count for count in ranks], "k:", label="ideal")
    strong.legend(fontsize="small")
    share.set(title="share of the exchange (strong)", xlabel="ranks", ylabel="% of the time")
    share.set_xticks(
        [place + 0.065 * (len(families) - 1) for place in range(len(ranks))], [str(count) for count in ranks]
    )
    figure.savefig(RESULTS / "scaling.png", dpi=110)


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--strong-qubits", type=int, default=24)
    parser.add_argument("--weak-qubits", type=int, default=22, help="on one rank")
    parser.add_argument("--family", choices=list(FAMILIES), action="append")
    parser.add_argument("--on-rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.on_rank:
        on_rank(options)
        return {}
    rows: list[dict[str, Any]] = []
    for ranks in options.ranks:
        rows += launch("benchmarks", ranks, ["scaling", *arguments, "--on-rank"])
    for row in with_efficiency(rows):
        share, sent, planned = row["exchange_s"] / row["seconds"], row["bytes_sent_a_rank"], row["planned_bytes_a_rank"]
        print(
            f"{row['family']:5} {row['kind']:6} {row['ranks']} rank(s), {row['qubits']} qubits: "
            f"{row['seconds']:.3f} s, efficiency {row['efficiency']:.2f}, exchange {100 * share:.0f} %, "
            f"sent {sent >> 20} MiB a rank (planned {planned >> 20})"
        )
    cores = len(os.sched_getaffinity(0))
    figures = {"precision": PRECISION, "threads_a_rank": 1, "cores": cores, "rows": rows}
    save("scaling", figures)
    if util.find_spec("matplotlib"):
        plot(rows, cores)
    else:
        print("no plot: pip install '.[bench]'")
    return figures
