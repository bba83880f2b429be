"""The plan of a task as text, for people: ``qsimenv run --explain`` and ``--profile``.

``explain`` makes plans and touches no state: stages, sweeps and ops, what each moves and computes, how long it should
take (``cost``) and must take at least. ``profile`` also runs them and puts the seconds that it took beside.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from qsimenv import memory
from qsimenv.comm import Team
from qsimenv.errors import NotSupportedError
from qsimenv.statevec.costs import rates
from qsimenv.statevec.costs.cost import Machine, PlanCost, SweepCost, cost_of, exchange_s
from qsimenv.statevec.costs.demand import usable_ranks
from qsimenv.statevec.planning.layout import Layout
from qsimenv.statevec.planning.plan import Plan, Sweep, ranges_text
from qsimenv.statevec.simulate import Prepared, Run, prepare
from qsimenv.statevec.state import Work
from qsimenv.statevec.threads import default_threads, set_threads
from qsimenv.task import AMPLITUDE_BYTES, Task
from qsimenv.wording import plural, readable

_MOST_OPS = 12
"""Ops of a sweep that are shown one by one; a long list hides the plan."""


def explain(task: Task, max_ranks: int, all_ops: bool = False) -> str:
    """Stages, sweeps and ops of every segment on the ranks that could share the state. Every op with ``all_ops``."""
    circuit = task.circuit
    ranks = usable_ranks(circuit, 1 << (max_ranks.bit_length() - 1))
    prepared = prepare(circuit, circuit.num_qubits - (ranks.bit_length() - 1), task.precision)
    machine = Machine(rates.load(), default_threads(), min(ranks, memory.ranks_on_this_node()))
    layout, values = prepared.start(), _first_values(task)
    lines = [_title(prepared, ranks), f"rates: {machine.rates.source}"]
    for number in range(len(prepared.program.segments)):
        plan, cost = _planned(prepared, number, layout, values)
        layout = plan.end
        if len(prepared.program.segments) > 1:
            lines.append(f"segment {number}:")
        lines += _segment(plan, cost, machine, None, len(plan.gates) if all_ops else _MOST_OPS)
    return "\n".join(lines)


def profile(task: Task, team: Team) -> str:
    """The same with the seconds that each exchange and sweep took on this rank. *Collective*; runs the task twice.

    Raises NotSupportedError for a circuit that measures in the middle.
    """
    ranks = usable_ranks(task.circuit, team.size)
    if team.rank >= ranks:
        return ""
    team = team.subteam(range(ranks))
    threads = set_threads(team)
    prepared = prepare(task.circuit, task.circuit.num_qubits - (ranks.bit_length() - 1), task.precision)
    if not prepared.program.is_static:
        raise NotSupportedError(
            "profile: this circuit measures, resets or branches in the middle, so that its sweeps hang on outcomes; "
            "use --explain, or --metadata with a run"
        )
    values = _first_values(task)
    Run(prepared, team, values, 0, 0, 0, 0, Work()).final_state()  # compiles, and touches memory
    work = Work(trace=[])
    Run(prepared, team, values, 0, 0, 0, 0, work).final_state()
    machine = Machine(rates.load(), threads, memory.ranks_on_this_node())
    layout, lines = prepared.start(), [_title(prepared, ranks), f"rates: {machine.rates.source}"]
    took = iter(work.trace or ())
    for number in range(len(prepared.program.segments)):
        plan, cost = _planned(prepared, number, layout, values)
        layout = plan.end
        lines += _segment(plan, cost, machine, took, 0)
    lines.append("phases: " + ", ".join(f"{phase} {_text(seconds)}" for phase, seconds in work.seconds.items()))
    return "\n".join(lines)


def _planned(
    prepared: Prepared, segment: int, layout: Layout, values: npt.NDArray[np.float64]
) -> tuple[Plan, PlanCost]:
    plan, from_zero = prepared.plan(segment, layout), segment == 0
    encoded = prepared.encoding(segment, layout, values, from_zero)
    return plan, cost_of(plan, encoded, prepared.precision, from_zero)


def _first_values(task: Task) -> npt.NDArray[np.float64]:
    return np.zeros(0) if task.parameters is None else np.atleast_2d(task.parameters)[0]


def _title(prepared: Prepared, ranks: int) -> str:
    circuit, program = prepared.circuit, prepared.program
    local = readable(AMPLITUDE_BYTES[prepared.precision] << prepared.num_local)
    return (
        f"{circuit.num_qubits} qubits in {prepared.precision} precision on {plural(ranks, 'rank')}, {local} each; "
        f"{plural(len(program.final_measures), 'measurement')} drawn at the end"
    )


def _segment(
    plan: Plan, cost: PlanCost, machine: Machine, took: Iterator[float] | None, most_ops: int
) -> Iterator[str]:
    """The lines of one plan; ``took`` gives the seconds of its exchanges and sweeps, in order."""
    yield (
        f"{plural(len(plan.gates), 'gate')} in {plural(plan.num_exchanges, 'exchange')} and "
        f"{plural(len(cost.sweeps), 'sweep')}; "
        f"{readable(sum(cost.sent))} sent and {readable(sum(sweep.bytes for sweep in cost.sweeps))} moved by each rank"
    )
    for number, (stage, sweeps) in enumerate(zip(plan.stages, cost.stages, strict=True)):
        sent, line = cost.sent[number], f"stage {number}"
        if stage.exchange:
            line += f": exchange of bits {', '.join(f'{local}<->{rank}' for local, rank in stage.exchange)}"
            bound = sent / machine.rates.exchange_bytes_per_s
            line += f", {readable(sent)}: {_times(exchange_s(sent, machine), bound, took)}"
        yield line
        for sweep, each in zip(stage.sweeps, sweeps, strict=True):
            yield f"  sweep over bits {ranges_text(sweep.block)}: {_sweep(sweep, each, plan, cost, machine, took)}"
            yield from (f"    {plan.describe(op)}" for op in sweep.ops[:most_ops])
            if most_ops and len(sweep.ops) > most_ops:
                yield f"    ... and {len(sweep.ops) - most_ops} more, with --verbose"
    yield "all " + _times(cost.predicted_s(machine), cost.bound_s(machine), None)


def _sweep(
    sweep: Sweep, each: SweepCost, plan: Plan, cost: PlanCost, machine: Machine, took: Iterator[float] | None
) -> str:
    if not each:
        return f"{plural(len(sweep.ops), 'op')} that other sweeps take over"
    passes = ", ".join(f"{part / 2.0**plan.start.num_local:.2g} {kind}" for kind, part in each.passes.items())
    predicted, bound = each.predicted_s(machine, cost.precision), each.bound_s(machine, cost.precision)
    return f"{plural(len(sweep.ops), 'op')} in passes ({passes or 'none'}), {_times(predicted, bound, took)}"


def _times(predicted_s: float, bound_s: float, took: Iterator[float] | None) -> str:
    text = f"predicted {_text(predicted_s)}, at least {_text(bound_s)}"
    if took is None:
        return text
    seconds = next(took, 0.0)
    return f"took {_text(seconds)}, {text}" + (f" ({seconds / bound_s:.1f} x)" if bound_s else "")


def _text(seconds: float) -> str:
    """Three digits in milliseconds."""
    return f"{seconds * 1e3:.3g} ms"
