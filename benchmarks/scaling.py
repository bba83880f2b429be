"""Strong and weak scaling over the ranks of this machine, one thread each: time, share of the exchange, bytes.

    python -m benchmarks scaling [--ranks 1 2 4] [--strong-qubits 24] [--weak-qubits 22] [--family hea ...]

Strong: one circuit, ever more ranks. Weak: one qubit more each time the ranks double, so that each holds as much as
before. Every figure is the fastest of a few runs in double precision; beside it stands what the planner predicts
(``prediction``) from the rates of this machine (`mpirun -n 2 qsimenv doctor --measure`) for all but the planning, and
beside the bytes that a rank sent those that its plan foresees. More ranks than cores share them, which the result says.
The plot needs matplotlib: pip install '.[bench]'.
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
from benchmarks.prediction import predict, site_here
from qsimenv import comm
from qsimenv.task import Precision

PRECISION: Precision = "double"


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
            row = {
                "family": family, "kind": kind, "qubits": num_qubits, "ranks": team.size, "seconds": seconds,
                "plan_s": work.seconds["plan"], "exchange_s": work.seconds.get("exchange", 0.0),
                "exchanges": work.exchanges, "sweeps": work.sweeps,
                "bytes_sent_a_rank": work.bytes_exchanged,
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


def with_prediction(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Beside each row what the planner predicts for it."""
    for row in rows:
        made = predict(FAMILIES[row["family"]](row["qubits"]), site_here(row["ranks"], threads=1), 1, PRECISION)
        row["predicted_s"] = made.seconds
        row["predicted_exchange_s"] = made.exchange_s
        row["planned_bytes_a_rank"] = sum(stage.traffic.bytes for stage in made.stages)
    return rows


def plot(rows: list[dict[str, Any]], cores: int) -> None:
    """``results/scaling.png``: time beside its prediction and efficiency of both kinds, the share of the exchange, and
    the bytes that a rank sends for each qubit."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    figure, axes = plt.subplots(2, 3, figsize=(14, 8), constrained_layout=True)
    ranks = sorted({row["ranks"] for row in rows})
    for (time, efficiency, _), kind in zip(axes, ("strong", "weak"), strict=True):
        _lines(time, rows, kind, "seconds", "o-", scale=1e3)
        predicted = [{**row, "with_planning_s": row["predicted_s"] + row["plan_s"]} for row in rows]
        _lines(time, predicted, kind, "with_planning_s", "x:", scale=1e3)
        time.set(title=f"{kind} scaling: time (dotted: predicted)", ylabel="ms", yscale="log")
        time.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        time.yaxis.set_minor_locator(ticker.NullLocator())
        time.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        _lines(efficiency, rows, kind, "efficiency", "o-")
        efficiency.set(title=f"{kind} scaling: efficiency", ylabel="of the ideal", ylim=(0, None))
        efficiency.axhline(1, color="0.5", linestyle="--", linewidth=1)
        for each in (time, efficiency):
            _axis_of_ranks(each, ranks, cores)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
    share = [{**row, "share": 100 * row["exchange_s"] / row["seconds"]} for row in rows]
    _bars(axes[0][2], share, "strong", "share")
    axes[0][2].set(title="strong scaling: share of the exchange", xlabel="ranks", ylabel="% of the time")
    sent = [{**row, "mib": row["bytes_sent_a_rank"] / row["qubits"] / 2**20} for row in rows]
    _bars(axes[1][2], sent, "weak", "mib")
    axes[1][2].set(title="weak scaling: bytes per qubit", xlabel="ranks", ylabel="MiB sent by a rank / qubits")
    figure.savefig(RESULTS / "scaling.png", dpi=110)


def _of(rows: list[dict[str, Any]], kind: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of a kind by family, by ranks."""
    chosen = sorted((row for row in rows if row["kind"] == kind), key=lambda row: row["ranks"])
    return {
        family: [row for row in chosen if row["family"] == family]
        for family in dict.fromkeys(row["family"] for row in rows)
    }


def _lines(axes: Any, rows: list[dict[str, Any]], kind: str, what: str, style: str, scale: float = 1) -> None:
    for number, (family, mine) in enumerate(_of(rows, kind).items()):
        ranks, heights = [row["ranks"] for row in mine], [scale * row[what] for row in mine]
        label = family if style == "o-" else None
        axes.plot(ranks, heights, style, color=f"C{number}", markersize=5, label=label)


def _bars(axes: Any, rows: list[dict[str, Any]], kind: str, what: str) -> None:
    """From two ranks on, each bar with its figure, so that one sees which circuits send nothing."""
    families = _of([row for row in rows if row["ranks"] > 1], kind)
    width = 0.8 / len(families)
    for number, (family, mine) in enumerate(families.items()):
        places = [place + width * (number + 0.5) - 0.4 for place in range(len(mine))]
        drawn = axes.bar(places, [row[what] for row in mine], width=0.9 * width, color=f"C{number}", label=family)
        axes.bar_label(drawn, fmt="{:.1f}", fontsize="x-small", padding=1)
    ranks = [str(row["ranks"]) for row in next(iter(families.values()))]
    axes.set_xticks(range(len(ranks)), ranks)
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])


def _axis_of_ranks(axes: Any, ranks: list[int], cores: int) -> None:
    """Doublings side by side; grey where ranks share cores."""
    from matplotlib import ticker

    axes.set(xlabel="ranks, one thread each", xscale="log")
    axes.set_xticks(ranks, [str(count) for count in ranks])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.axvspan(cores * 1.19, max(*ranks, cores) * 1.19, color="0.93", zorder=0, label="more ranks than cores")
    axes.set_xlim(ranks[0] / 1.19, ranks[-1] * 1.19)


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
    for row in with_prediction(with_efficiency(rows)):
        share, sent, planned = row["exchange_s"] / row["seconds"], row["bytes_sent_a_rank"], row["planned_bytes_a_rank"]
        print(
            f"{row['family']:5} {row['kind']:6} {row['ranks']} rank(s), {row['qubits']} qubits: "
            f"{row['seconds']:.3f} s (planning {row['plan_s']:.3f}, all else predicted {row['predicted_s']:.3f}), "
            f"efficiency {row['efficiency']:.2f}, "
            f"exchange {100 * share:.0f} %, "
            f"sent {sent >> 20} MiB a rank (planned {planned >> 20})"
        )
    cores = len(os.sched_getaffinity(0))
    source = site_here(1).rates.source
    figures = {"precision": PRECISION, "threads_a_rank": 1, "cores": cores, "rates": source, "rows": rows}
    save("scaling", figures)
    if util.find_spec("matplotlib"):
        plot(rows, cores)
    else:
        print("no plot: pip install '.[bench]'")
    return figures
