"""Running a narrow circuit without parameters gate by gate: no plan, no encoding, whatever it measures on the way.

What ``small`` does for a few static qubits, for those that are wider, or measure, reset and branch in the
middle: the state is ``simulate``'s, and so is all that is asked of it; only gates go another way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import lru_cache
from itertools import count

import numpy as np

from qsimenv import interrupt
from qsimenv.circuit import Circuit, Gate, walk
from qsimenv.comm import Team
from qsimenv.statevec.batches.batch_plan import MAX_QUBITS
from qsimenv.statevec.gatewise.applying import apply
from qsimenv.statevec.gatewise.lines_numba import LANES
from qsimenv.statevec.gatewise.listing import Listed, is_narrow, list_gates
from qsimenv.statevec.kernels.devices import DeviceName
from qsimenv.statevec.planning.layout import identity
from qsimenv.statevec.simulate import Branch, Run
from qsimenv.statevec.state import State

_TIMES_WORTH_A_PLAN = 16
"""A plan takes as long as some runs, and saves a part of each that follows: the more, the more qubits."""


def suits(circuit: Circuit, team: Team, on: DeviceName) -> bool:
    """Whether a circuit is run gate by gate: a narrow one, by the processor of one rank."""
    return team.size == 1 and on == "cpu" and is_narrow(circuit)


def way_of(circuit: Circuit, team: Team, on: DeviceName) -> type[Run]:
    """GatewiseRun where that ``suits``, but for circuits of more than ``MAX_QUBITS`` that come time and again."""
    if not suits(circuit, team, on):
        return Run
    if circuit.num_qubits > MAX_QUBITS and next(_times(_shape(circuit))) >= _TIMES_WORTH_A_PLAN:
        return Run
    return GatewiseRun


def _shape(circuit: Circuit) -> int:
    """Alike for circuits that can share a plan: those that differ in angles alone. Cost: half a microsecond a gate."""
    gates = (each for each in walk(circuit.instructions) if isinstance(each, Gate))
    return hash(tuple([(g.name, g.qubits, g.controls, g.control_state, g.matrix) for g in gates]))


@lru_cache(maxsize=256)
def _times(shape: int) -> Iterator[int]:
    """How often it came before."""
    return count()


class GatewiseRun(Run):
    """A Run for which ``suits`` holds. Each gate counts as a sweep."""

    def _fresh_state(self) -> State:
        prepared = self._prepared
        layout = identity(prepared.num_local, prepared.num_local)
        return State.zero(layout, self._team, prepared.precision, self._work)

    def _listed(self, segment: int) -> Listed:
        kept = _lists(self._prepared.circuit)
        if segment not in kept:
            kept[segment] = list_gates(self._prepared.program.segments[segment])
        return kept[segment]

    def _apply(self, branch: Branch, segment: int) -> None:
        state, work = branch.state, self._work
        assert state is not None  # noqa: S101 - _follow has made it
        began = time.perf_counter()
        gates = self._listed(segment)
        work.add_seconds("plan", began)
        began, before, total = time.perf_counter(), work.sweeps, len(gates.codes)

        def go_on(done: int, _total: int) -> None:
            interrupt.check(self._team)
            work.sweeps = before + done
            if work.after_sweep is not None:
                work.after_sweep()

        self._expect(total)
        _write_flips(state)
        size = len(state.re)
        if state.precision == "double" and size >= LANES:
            apply(gates, state.re, state.im, go_on)
        else:
            re, im = np.zeros((2, max(LANES, size)))
            re[:size], im[:size] = state.re, state.im
            apply(gates, re, im, go_on)
            state.re[:], state.im[:] = re[:size], im[:size]
        state.was_written()
        work.add_seconds("sweeps", began)
        if work.sweeps < before + total:
            go_on(total, total)


@lru_cache(maxsize=256)
def _lists(circuit: Circuit) -> dict[int, Listed]:
    """The segments of a circuit that were listed so far."""
    return {}


def _write_flips(state: State) -> None:
    """Put into the planes what a reset has noted in the layout: the qubits that are flipped."""
    if state.layout.flips:
        partners = np.arange(len(state.re)) ^ state.layout.flips
        for plane in (state.re, state.im):
            plane[:] = plane[partners]
        state.layout = identity(state.layout.num_local, state.layout.num_local)
