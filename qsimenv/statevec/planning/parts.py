"""Parts: a run of gates cut into pieces that can be planned and run one after the other. Pure.

Between two parts the state is that of a known set of gates, whatever the ranks or the planner: the place for a
checkpoint. The cuts follow the sweeps of a plan for the whole, so that a part takes as many sweeps as were asked for
and all of them together about as many as the whole would.
"""

from __future__ import annotations

from collections.abc import Sequence

from qsimenv.circuit import Gate
from qsimenv.statevec.planning.plan import Plan
from qsimenv.statevec.planning.steps import unmixed_targets


class Parts:
    """The gates of ``plan`` that are still to be run; numbers are places in ``plan.gates``."""

    def __init__(self, plan: Plan) -> None:
        self._footprints = [_footprint(gate) for gate in plan.gates]
        self._sweeps = [frozenset(op.gate for op in sweep.ops) for stage in plan.stages for sweep in stage.sweeps]
        self._free = frozenset(range(len(plan.gates))).difference(*self._sweeps)
        """Gates that no sweep does: SWAP, X, and what the planner found to cancel."""
        self._left = list(range(len(plan.gates)))
        self.sweeps_taken = 0

    def __bool__(self) -> bool:
        return bool(self._left)

    @property
    def sweeps_left(self) -> int:
        return max(0, len(self._sweeps) - self.sweeps_taken)

    def take(self, num_sweeps: int) -> tuple[int, ...]:
        """The gates of the next sweeps of the plan and all that must come before them, in order."""
        wanted = frozenset[int]().union(*self._sweeps[self.sweeps_taken : self.sweeps_taken + num_sweeps])
        self.sweeps_taken += num_sweeps
        whole = self.sweeps_taken >= len(self._sweeps)
        chosen = frozenset(self._left) if whole else self._with_free_ones(self._with_ancestors(wanted))
        taken = tuple(gate for gate in self._left if gate in chosen)
        self._left = [gate for gate in self._left if gate not in chosen]
        return taken

    def _with_ancestors(self, wanted: frozenset[int]) -> set[int]:
        """Those of the gates left that are wanted, or do not commute with a later one that is taken."""
        taken = set[int]()
        used_later = mixed_later = 0
        for gate in reversed(self._left):
            used, mixed = self._footprints[gate]
            if gate in wanted or mixed & used_later or used & mixed_later:
                taken.add(gate)
                used_later |= used
                mixed_later |= mixed
        return taken

    def _with_free_ones(self, taken: set[int]) -> set[int]:
        """Take those free gates too that need not wait for a gate that is left, so that what cancels stays together."""
        used_before = mixed_before = 0
        for gate in self._left:
            used, mixed = self._footprints[gate]
            if gate in self._free and not (mixed & used_before or used & mixed_before):
                taken.add(gate)
            elif gate not in taken:
                used_before |= used
                mixed_before |= mixed
        return taken


def _footprint(gate: Gate) -> tuple[int, int]:
    """Masks of the qubits that the gate uses, and of those that it mixes."""
    still = unmixed_targets(gate)
    targets = gate.qubits[gate.num_controls :]
    return _mask(gate.qubits), _mask([qubit for k, qubit in enumerate(targets) if k not in still])


def _mask(qubits: Sequence[int]) -> int:
    return sum(1 << qubit for qubit in qubits)
