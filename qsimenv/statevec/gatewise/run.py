"""Running a narrow circuit without parameters gate by gate: no plan, no encoding, whatever it measures on the way.

What ``small`` does for a few static qubits, for those that are wider, or measure, reset and branch in the
middle: the state is ``simulate``'s, and so is all that is asked of it; only gates go another way.
"""

from __future__ import annotations

import time
from functools import lru_cache

import numpy as np

from qsimenv import interrupt
from qsimenv.circuit import Circuit
from qsimenv.comm import Team
from qsimenv.statevec.gatewise.applying import apply
from qsimenv.statevec.gatewise.lines_numba import LANES
from qsimenv.statevec.gatewise.listing import Listed, is_narrow, list_gates
from qsimenv.statevec.kernels.devices import DeviceName
from qsimenv.statevec.planning.layout import identity
from qsimenv.statevec.simulate import Branch, Run
from qsimenv.statevec.state import State


def suits(circuit: Circuit, team: Team, on: DeviceName) -> bool:
    """Whether a circuit is run gate by gate: a narrow one, by the processor of one rank."""
    return team.size == 1 and on == "cpu" and is_narrow(circuit)


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
        began, before, count = time.perf_counter(), work.sweeps, len(gates.codes)

        def go_on(done: int, total: int) -> None:
            interrupt.check(self._team)
            work.sweeps = before + done
            if work.after_sweep is not None:
                work.after_sweep()

        self._expect(count)
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
        if work.sweeps < before + count:
            go_on(count, count)


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
