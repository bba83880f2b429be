"""Running a program: one pass over the state where nothing is measured in the middle, a tree of branches where it is.

All shots travel together. At a measurement in the middle they split into those that get 0 and those that get 1; only
where both occur is the state copied, and where there is no memory for a copy the branch is run again from the start
with its outcomes prescribed. Ten thousand shots of a circuit with one measurement cost two runs, not ten thousand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qsimenv.circuit import Assign, Circuit, Gate, Measure, Reset, Variable
from qsimenv.comm import Team
from qsimenv.errors import TimedOutError
from qsimenv.statevec.encoding.angles import Angles, angles_of
from qsimenv.statevec.encoding.encode import encode, is_constant
from qsimenv.statevec.encoding.recipe import Recipes
from qsimenv.statevec.encoding.rows import EncodedSweep
from qsimenv.statevec.kernels.devices import DeviceName, device
from qsimenv.statevec.measuring.random_numbers import uniforms
from qsimenv.statevec.measuring.sampling import Draw, reordered, sample
from qsimenv.statevec.planning import program as code
from qsimenv.statevec.planning.layout import Layout, identity
from qsimenv.statevec.planning.plan import Plan
from qsimenv.statevec.planning.planner import forget_plans, make_plan, plan_from_zero
from qsimenv.statevec.planning.program import Program, evaluate
from qsimenv.statevec.state import State, Work
from qsimenv.task import Precision

CERTAIN = 1e-9
"""A probability closer to 0 or 1 than this is rounding; the other outcome never happens."""

Encoded = tuple[tuple[EncodedSweep, ...], ...]


class Prepared:
    """A circuit made ready for teams of one size: its program, and the plans of its segments as they are needed."""

    def __init__(
        self, circuit: Circuit, num_local: int, precision: Precision, threads: int, on: DeviceName = "cpu"
    ) -> None:
        self.circuit = circuit
        self.num_local = num_local
        self.precision = precision
        self.device = device(on)
        self._sizes = self.device.block_bits(num_local, precision, threads), self.device.low_bits(precision)
        self.program: Program = code.lower(circuit)
        self._start: Layout | None = None
        self._plans: dict[tuple[int, Layout], Plan] = {}
        self._encodings: dict[tuple[int, Layout, bool], Encoded] = {}
        self._angles: dict[int, Angles] = {}
        self._recipes: dict[tuple[int, Layout, bool], Recipes] = {}
        self._constant = [is_constant(segment) for segment in self.program.segments]

    def start(self) -> Layout:
        """The layout in which |0…0> is made."""
        first = next((s for s in self.program.code if isinstance(s, code.Apply)), None)
        if first is None:
            return identity(self.circuit.num_qubits, self.num_local)
        if self._start is None:
            segment = self.program.segments[first.segment]
            plan = plan_from_zero(segment, self.circuit.num_qubits, self.num_local, *self._sizes)
            self._start = plan.start
            self._plans[first.segment, plan.start] = plan
        return self._start

    def plan(self, segment: int, layout: Layout) -> Plan:
        """The plan of a segment from a layout; made once."""
        key = (segment, layout)
        if key not in self._plans:
            self._plans[key] = self.plan_of(self.program.segments[segment], layout)
        return self._plans[key]

    def plan_of(self, gates: Sequence[Gate], layout: Layout) -> Plan:
        """The plan of any gates from a layout; not kept."""
        return make_plan(gates, layout, *self._sizes)

    def encoding(
        self, segment: int, layout: Layout, values: npt.NDArray[np.float64], from_zero: bool = False
    ) -> Encoded:
        """The arrays of that plan for parameter values; kept where there are no parameters.

        ``from_zero``: for the state |0…0> and no other.
        """
        key = (segment, layout, from_zero)
        if key in self._encodings:
            return self._encodings[key]
        plan, is_constant = self.plan(segment, layout), self._constant[segment]
        if self.num_local == self.circuit.num_qubits:
            recipes: Recipes | None = plan.kept.setdefault("recipes", Recipes())
        else:  # several ranks have to scale the state in one way
            recipes = None if is_constant else self._recipes.setdefault(key, Recipes(alike=True))
        if recipes is None:
            encoded = self.encoded(plan, values, from_zero)
        else:
            angles = self._angles_of(segment)
            encoded = recipes.encode(plan, values, angles, self.precision, self.device.form, from_zero)
        if is_constant:
            self._encodings[key] = encoded
        return encoded

    def _angles_of(self, segment: int) -> Angles:
        """Those of the gates of a segment, one after the other."""
        if segment not in self._angles:
            self._angles[segment] = angles_of(self.program.segments[segment], len(self.circuit.parameters))
        return self._angles[segment]

    def encoded(self, plan: Plan, values: npt.NDArray[np.float64], from_zero: bool = False) -> Encoded:
        """The arrays of any plan; not kept."""
        return encode(plan, values, self.precision, self.device.form, from_zero)


def prepare(circuit: Circuit, num_local: int, precision: Precision, on: DeviceName = "cpu") -> Prepared:
    """A prepared circuit, for as many threads as this rank has now; kept for the next time it is asked for."""
    return _prepare(circuit, num_local, precision, device(on).sweeps.num_threads(), on)


def forget_prepared() -> None:
    """Prepare circuits anew from now on, plans included."""
    _prepare.cache_clear()
    forget_plans()


@lru_cache(maxsize=256)
def _prepare(circuit: Circuit, num_local: int, precision: Precision, threads: int, on: DeviceName) -> Prepared:
    return Prepared(circuit, num_local, precision, threads, on)


@dataclass
class Branch:
    """Some of the shots, with all they have in common: the state, the classical bits and the place in the program.

    ``history`` are the outcomes so far; a branch without a state is run again from the start along its history.
    """

    shots: npt.NDArray[np.int64]
    state: State | None = None
    place: int = 0
    clbits: int = 0
    variables: dict[str, int | float] = field(default_factory=dict)
    turns: dict[int, int] = field(default_factory=dict)
    history: tuple[int, ...] = ()
    replayed: int = 0

    def fork(self, shots: npt.NDArray[np.int64], state: State | None) -> Branch:
        return Branch(
            shots, state, self.place, self.clbits, dict(self.variables), dict(self.turns), self.history, self.replayed
        )


class Run:
    """One run of a prepared circuit for one row of parameter values. *Collective* throughout."""

    def __init__(
        self,
        prepared: Prepared,
        team: Team,
        values: npt.NDArray[np.float64],
        seed: int,
        number: int,
        shots: int,
        spare_states: int,
        work: Work,
    ) -> None:
        self._prepared, self._team, self._values = prepared, team, values
        self._seed, self._number, self._shots = seed, number, shots
        self._spare_states, self._work = spare_states, work
        self._pending: list[Branch] = []

    def final_state(self) -> State:
        """The state at the end of a static program."""
        branch = self._begin()[0].pop()
        self._follow(branch)
        assert branch.state is not None  # noqa: S101 - _follow has made it
        return branch.state

    def sample(self) -> npt.NDArray[np.uint8]:
        """All shots of the program: uint8 of shape (shots, bytes), classical bits as a big-endian number."""
        self._pending, samples = self._begin()
        while self._pending:
            branch = self._pending.pop()
            self._follow(branch)
            self._draw(branch, samples)
        return samples

    def draw(self, state: State, samples: npt.NDArray[np.uint8]) -> None:
        """Draw the final measurements of all shots from one state."""
        self._draw(Branch(np.arange(self._shots), state), samples)

    # --- the steps of a program ---

    def _begin(self) -> tuple[list[Branch], npt.NDArray[np.uint8]]:
        """The branches to follow, the last one first, and room for what the shots give."""
        num_bytes = max(1, (self._prepared.circuit.num_clbits + 7) // 8)
        return [Branch(np.arange(self._shots))], np.zeros((self._shots, num_bytes), dtype=np.uint8)

    def _follow(self, branch: Branch) -> None:
        """Run one branch to its end, putting aside the branches that split off."""
        if branch.state is None:
            branch.state = self._fresh_state()
            branch.place, branch.clbits, branch.replayed = 0, 0, 0
            branch.turns = {}
            branch.variables = dict.fromkeys(self._prepared.circuit.variables, 0)
        steps = self._prepared.program.code
        while branch.place < len(steps):
            step = steps[branch.place]
            branch.place += 1
            self._step(branch, step)

    def _step(self, branch: Branch, step: code.Code) -> None:
        match step:
            case code.Apply(segment=segment):
                self._apply(branch, segment)
            case Measure(qubit=qubit, clbit=clbit):
                outcome = self._measure(branch, qubit, lambda b, bit: _write_bit(b, clbit, bit))
                _write_bit(branch, clbit, outcome)
            case Reset(qubit=qubit):
                outcome = self._measure(branch, qubit, lambda b, bit: _clear(b, qubit, bit))
                _clear(branch, qubit, outcome)
            case Assign(target=target, value=value):
                _assign(branch, target, evaluate(value, branch.clbits, branch.variables))
            case code.Jump(target=place):
                branch.place = place
            case code.JumpUnless(condition=condition, target=place):
                if not evaluate(condition, branch.clbits, branch.variables):
                    branch.place = place
            case code.Choose(selector=selector, targets=targets, default=default):
                chosen = evaluate(selector, branch.clbits, branch.variables)
                branch.place = dict(targets).get(int(chosen), default)
            case code.StartLoop(loop=loop):
                branch.turns[loop] = 0
            case code.CountTurn(loop=loop, max_iterations=limit):
                _count_turn(branch, loop, limit)

    def _apply(self, branch: Branch, segment: int) -> None:
        state = branch.state
        assert state is not None  # noqa: S101 - tells mypy what _follow has seen to
        began = time.perf_counter()
        plan = self._prepared.plan(segment, state.layout)
        encoded = self._prepared.encoding(segment, state.layout, self._values, state.is_untouched)
        self._work.add_seconds("plan", began)
        self._expect(plan.num_sweeps)
        state.run(plan, encoded)

    def _expect(self, sweeps_left: int) -> None:
        """Note how many sweeps there will be in all, where the program cannot branch."""
        if self._prepared.program.is_static:
            self._work.sweeps_expected = self._work.sweeps + sweeps_left

    def _measure(self, branch: Branch, qubit: int, settle: Callable[[Branch, int], None]) -> int:
        """Measure a qubit; the shots that get the rarer outcome split off, settled, if both outcomes occur."""
        state = branch.state
        assert state is not None  # noqa: S101 - as above
        began = time.perf_counter()
        zero, one = state.weights(qubit)
        if branch.replayed < len(branch.history):
            outcome = branch.history[branch.replayed]
        else:
            outcome = self._split(branch, qubit, zero, one, settle)
            branch.history = (*branch.history, outcome)
        branch.replayed += 1
        state.collapse(qubit, outcome, one if outcome else zero)
        self._work.add_seconds("measure", began)
        return outcome

    def _split(self, branch: Branch, qubit: int, zero: float, one: float, settle: Callable[[Branch, int], None]) -> int:
        """The outcome that ``branch`` goes on with; a branch for the other one is put aside where shots take it."""
        probability = one / (zero + one)
        if probability < CERTAIN:
            return 0
        if probability > 1 - CERTAIN:
            return 1
        numbers = uniforms(self._seed, self._number, len(branch.history), branch.shots)
        ones = numbers < probability
        if ones.all() or not ones.any():
            return int(ones[0])
        self._put_aside(branch, branch.shots[ones], qubit, one, settle)
        branch.shots = branch.shots[~ones]
        return 0

    def _put_aside(
        self,
        branch: Branch,
        shots: npt.NDArray[np.int64],
        qubit: int,
        weight: float,
        settle: Callable[[Branch, int], None],
    ) -> None:
        """A branch for the shots that measured one."""
        assert branch.state is not None  # noqa: S101 - as above
        held = sum(other.state is not None for other in self._pending)
        other = branch.fork(shots, branch.state.copy() if held < self._spare_states else None)
        other.history = (*branch.history, 1)
        if other.state is not None:
            other.replayed += 1
            other.state.collapse(qubit, 1, weight)
            settle(other, 1)
        self._pending.append(other)

    def _fresh_state(self) -> State:
        prepared, began = self._prepared, time.perf_counter()
        start = prepared.start()
        self._work.add_seconds("plan", began)
        return State.zero(start, self._team, prepared.precision, self._work, prepared.device.name)

    def _draw(self, branch: Branch, samples: npt.NDArray[np.uint8]) -> None:
        """Write the classical bits of the branch's shots, those measured at the end included."""
        finals = self._prepared.program.final_measures
        qubits = sorted({measure.qubit for measure in finals})
        began = time.perf_counter()
        outcomes = np.zeros(len(branch.shots), dtype=np.int64)
        if qubits:
            assert branch.state is not None  # noqa: S101 - as above
            outcomes = sample(branch.state, qubits, Draw(self._seed, self._number, branch.shots))
        samples[branch.shots] = _classical_bytes(outcomes, qubits, finals, branch.clbits, samples.shape[1])
        self._work.add_seconds("sample", began)


def _classical_bytes(
    outcomes: npt.NDArray[np.int64], qubits: Sequence[int], finals: Sequence[Measure], known: int, num_bytes: int
) -> npt.NDArray[np.uint8]:
    """The classical bits of each shot, big-endian: those that ``finals`` write from the outcomes, the others known.

    Bit k of an outcome is that of ``qubits[k]``. Eight bytes at a time.
    """
    rows = np.empty((len(outcomes), num_bytes), dtype=np.uint8)
    for end in range(num_bytes, 0, -8):
        first_clbit, start = 8 * (num_bytes - end), max(0, end - 8)
        masks, written = [0] * len(qubits), 0
        for measure in finals:
            bit = 1 << (measure.clbit - first_clbit) if first_clbit <= measure.clbit < first_clbit + 64 else 0
            masks[qubits.index(measure.qubit)] |= bit
            written |= bit
        signed = [mask - (1 << 64) if mask >> 63 else mask for mask in masks]
        numbers = reordered(outcomes.copy(), signed).view(np.uint64)
        numbers |= np.uint64(known >> first_clbit & ((1 << 64) - 1) & ~written)
        rows[:, start:end] = numbers.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - (end - start) :]
    return rows


def _write_bit(branch: Branch, clbit: int, value: int) -> None:
    branch.clbits = branch.clbits & ~(1 << clbit) | value << clbit


def _clear(branch: Branch, qubit: int, outcome: int) -> None:
    """Flip a qubit that a reset found in 1: the layout remembers it."""
    if outcome and branch.state is not None:
        branch.state.layout = branch.state.layout.flipped(qubit)


def _assign(branch: Branch, target: object, value: int | float) -> None:
    if isinstance(target, Variable):
        branch.variables[target.name] = value
        return
    for k, clbit in enumerate(target.clbits):  # type: ignore[attr-defined]
        _write_bit(branch, clbit, int(value) >> k & 1)


def _count_turn(branch: Branch, loop: int, limit: int) -> None:
    branch.turns[loop] += 1
    if branch.turns[loop] > limit:
        raise TimedOutError(f"run: a while loop turned more than {limit} times in one shot; it may never end")


def phases(work: Work) -> Mapping[str, float]:
    """Seconds by phase, rounded for people."""
    return {phase: round(seconds, 6) for phase, seconds in work.seconds.items()}
