"""State: the amplitudes of one rank as two real planes, the layout that says what they mean, and what can be done.

Methods marked *collective* must be called by every rank of the team. Nothing here needs a second copy of the state
but ``copy`` and ``amplitudes``, which say so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from qsimenv import interrupt
from qsimenv.comm import Team
from qsimenv.errors import OutOfMemoryError, QSimEnvError
from qsimenv.statevec.encoding.rows import MOST_RUN_BITS, REAL_TYPE, EncodedSweep
from qsimenv.statevec.exchange import FixedBits, keep_own_part, trade_bits
from qsimenv.statevec.kernels.devices import Device, DeviceName, device, device_of
from qsimenv.statevec.planning.layout import Layout, by_qubits
from qsimenv.statevec.planning.plan import Plan
from qsimenv.task import AMPLITUDE_BYTES, Precision

_SMALLEST_SCALE: dict[Precision, float] = {"double": 2.0**-300, "single": 2.0**-60}
"""A scale below this is multiplied in, for a pass: the squares of what is stored add up to its inverse squared."""
_CHECKED_BITS = 18
"""Above so many local bits a sweep takes long enough to ask before each one whether it is still wanted."""
_AMPLITUDES_AT_ONCE = 1 << 14
"""So many are put together in cache, so that memory is walked over once."""


@dataclass
class Work:
    """What was done, for the metadata of a result."""

    stages: int = 0
    sweeps: int = 0
    exchanges: int = 0
    bytes_exchanged: int = 0
    sweeps_expected: int | None = None
    """How many there will be in all, where that is known."""
    seconds: dict[str, float] = field(default_factory=dict)
    trace: list[float] | None = None
    """Where somebody wants them: the seconds of each exchange and sweep, in the order in which they ran."""
    after_sweep: Callable[[], None] | None = None
    """Called on every rank after each sweep: to tell progress, or to break off by raising on all ranks alike."""

    def add_seconds(self, phase: str, since: float) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - since

    def note(self, since: float) -> None:
        """Add an exchange or a sweep to the trace."""
        if self.trace is not None:
            self.trace.append(time.perf_counter() - since)


class State:
    """2**n amplitudes over the ranks of ``team``; ``re`` and ``im`` are this rank's ``2**num_local`` reals.

    An amplitude is ``scale`` times the number stored: gates leave common factors there instead of multiplying them in.
    The planes are NumPy's, or arrays of ``arrays.gpu()``: all work on them is done by the kernels of ``device``.
    """

    def __init__(self, re: Any, im: Any, layout: Layout, team: Team, work: Work | None = None) -> None:
        self._re, self._im, self.layout, self.team = re, im, layout, team
        self.device: Device = device_of(re)
        self.work = work or Work()
        self.scale: complex = 1.0
        self.precision: Precision = "double" if re.dtype == np.float64 else "single"
        self._start: int | None = None
        """The stored index of the one amplitude of |0…0>, while it is untouched."""
        self._unset = 0

    @classmethod
    def zero(
        cls, layout: Layout, team: Team, precision: Precision, work: Work | None = None, on: DeviceName = "cpu"
    ) -> State:
        """|0…0> in ``layout``. *Collective.* Raises OutOfMemoryError on every rank where one has no room."""
        error: QSimEnvError | None = None
        try:
            re, im = (device(on).empty(1 << layout.num_local, REAL_TYPE[precision]) for _ in range(2))
        except MemoryError:
            bytes_needed = AMPLITUDE_BYTES[precision] << layout.num_local
            error = OutOfMemoryError(
                f"allocate: {len(layout.bits)} qubits need {bytes_needed >> 20} MiB on each of {team.size} ranks, "
                "the system refused them; use more ranks or precision='single'"
            )
        team.agree(error)
        state = cls(re, im, layout, team, work)
        state._start = start = layout.place(range(len(layout.bits)), 0)
        local = start & (len(re) - 1)
        state._unset = (len(re) - 1) & ~local & ~((1 << MOST_RUN_BITS) - 1)
        for plane in (re, im):
            state.device.slots.put(plane, state._unset, 0, 0)
        if start >> layout.num_local == team.rank:
            state._put_one(local)
        return state

    def _put_one(self, place: int) -> None:
        """Put a one at the (local) index ``place``. *Local.*"""
        self.device.from_host(np.ones(1, dtype=self._re.dtype), self._re[place : place + 1])

    @property
    def re(self) -> Any:
        """Real parts, shape (2**num_local,)."""
        self.fill()
        return self._re

    @property
    def im(self) -> Any:
        """Imaginary parts."""
        self.fill()
        return self._im

    def fill(self) -> None:
        """Write the zeros that no sweep has written yet: where the index has a bit of ``_unset``."""
        while self._unset:
            top = 1 << (self._unset.bit_length() - 1)
            self._unset ^= top
            for plane in (self._re, self._im):
                self.device.slots.put(plane, self._unset | top, top, 0)

    @property
    def is_untouched(self) -> bool:
        """Whether it is |0…0> still, as it was made."""
        return self._start is not None

    def was_written(self) -> None:
        """Say that somebody else has changed the planes."""
        self._start = None

    @property
    def rank_index(self) -> int:
        """This rank's part of every index."""
        return self.team.rank << self.layout.num_local

    def copy(self) -> State:
        """A second state; doubles the memory."""
        re, im = (self.device.empty(len(plane), REAL_TYPE[self.precision]) for plane in (self.re, self.im))
        self.device.copy(self._re, re)
        self.device.copy(self._im, im)
        other = State(re, im, self.layout, self.team, self.work)
        other.scale, other._start = self.scale, self._start
        return other

    def run(self, plan: Plan, encoded: Sequence[Sequence[EncodedSweep]]) -> None:
        """Run a plan made for this layout. *Collective.* Raises what ``interrupt.check`` raises, between two sweeps.

        From |0…0> on, a rank bit that was not traded yet has one value wherever the state is not zero. All ranks work
        on that part as if it were theirs, and the first trade of such a bit is a matter of what each of them keeps.
        """
        between_checks = 1 << max(0, _CHECKED_BITS - self.layout.num_local)
        fixed = self._fix_rank_bits(plan)
        for stage, sweeps in zip(plan.stages, encoded, strict=True):
            if stage.exchange:
                fixed = self._exchange(stage.exchange, fixed)
            began = time.perf_counter()
            for sweep in sweeps:
                if self.work.sweeps % between_checks == 0:
                    interrupt.check(self.team)
                started = time.perf_counter()
                self._sweep(sweep, fixed)
                self.work.note(started)
            self.work.add_seconds("sweeps", began)
        if not fixed.holds(self.rank_index):
            self._keep(63, 1, 1.0)
        self.work.stages += len(plan.stages)
        self.layout = plan.end

    def _fix_rank_bits(self, plan: Plan) -> FixedBits:
        """Which rank bits have one value wherever the state is not zero; there every rank takes part from now on."""
        start, self._start = self._start, None
        if start is None or not plan.num_exchanges:
            return FixedBits(0, 0)
        self._put_one(start & (len(self._re) - 1))
        num_local = self.layout.num_local
        return FixedBits(self.team.size - 1 << num_local, start >> num_local << num_local)

    def _exchange(self, pairs: Sequence[tuple[int, int]], fixed: FixedBits) -> FixedBits:
        """Trade bits; those that are fixed without a message. Returns what is fixed from then on."""
        began = time.perf_counter()
        num_local = self.layout.num_local
        free = [(local, bit) for local, bit in pairs if not fixed.mask >> bit & 1]
        silent = [(local, bit) for local, bit in pairs if fixed.mask >> bit & 1]
        if silent:
            self._keep_own_part(silent, fixed.value)
        if free:
            self.work.bytes_exchanged += trade_bits((self.re, self.im), num_local, free, self.team)
        self.work.exchanges += 1
        self.work.add_seconds("exchange", began)
        self.work.note(began)
        return fixed.without(bit for _, bit in silent)

    def _keep_own_part(self, pairs: Sequence[tuple[int, int]], value: int) -> None:
        """The trade of fixed rank bits: local bits are fixed now, and what they rule out is left unset if it can be."""
        if self._unset & sum(1 << local for local, _ in pairs):
            self.fill()
        unset = sum(1 << local for local, bit in pairs if local >= MOST_RUN_BITS and not value >> bit & 1)
        keep_own_part((self._re, self._im), pairs, self.rank_index, value, unset, self._unset)
        self._unset |= unset

    def _sweep(self, sweep: EncodedSweep, fixed: FixedBits) -> None:
        before, after = self._unset, self._unset & ~sweep.mixes
        self._pass_over(sweep, fixed.apply(self.rank_index), before, after)
        self._unset = after
        self.work.sweeps += 1
        self.scale *= sweep.scale
        if abs(self.scale) < _SMALLEST_SCALE[self.precision]:
            self._keep(63, 0, abs(self.scale))
            self.scale /= abs(self.scale)
        if self.work.after_sweep is not None:
            self.work.after_sweep()

    def _pass_over(self, sweep: EncodedSweep, rank_index: int, before: int, after: int) -> None:
        outer = sweep.outer[before >> sweep.outer & 1 == 0] if before else sweep.outer
        self.device.sweeps.sweep(
            self._re, self._im, sweep.block_bits, sweep.low_bits, sweep.offsets, outer, sweep.ops,
            sweep.coefficients, sweep.tables, rank_index, before, after,
        )  # fmt: skip

    def _keep(self, bit: int, value: int, factor: float) -> None:
        """Multiply what has ``value`` at ``bit`` (0 for all above the index) by a factor, clear the rest. *Local.*"""
        self._start = None
        self.device.sweeps.collapse(self.re, self.im, bit, value, factor)

    def weights(self, qubit: int) -> tuple[float, float]:
        """The weights of the parts with 0 and with 1 at ``qubit``; together the squared norm. *Collective.*"""
        bit = self.layout.bits[qubit]
        if self.layout.is_local(qubit):
            zero, one = self.device.sweeps.weights(self.re, self.im, bit)
        else:
            norm = self.device.sweeps.weights(self.re, self.im, 63)[0]
            zero, one = (0.0, norm) if self.rank_index >> bit & 1 else (norm, 0.0)
        zero, one = self.team.sum(np.array([zero, one])) * abs(self.scale) ** 2
        return (float(one), float(zero)) if self.layout.flips >> bit & 1 else (float(zero), float(one))

    def collapse(self, qubit: int, value: int, weight: float) -> None:
        """Project on ``value`` at ``qubit``, whose part has ``weight``, and make the norm one. *Local.*"""
        bit = self.layout.bits[qubit]
        stored = value ^ (self.layout.flips >> bit & 1)
        factor = abs(self.scale) / np.sqrt(weight)
        self.scale /= abs(self.scale)
        if self.layout.is_local(qubit):
            self._keep(bit, stored, factor)
        else:
            self._keep(63, 0, factor if self.rank_index >> bit & 1 == stored else 0.0)

    def amplitudes(self) -> npt.NDArray[np.complexfloating]:
        """All 2**n amplitudes in the order of the qubits, on every rank. *Collective*; takes three times the state."""
        full = np.empty(1 << len(self.layout.bits), dtype=np.complex128 if self.precision == "double" else np.complex64)
        re, im = (self.team.gather(self.device.to_host(plane)).reshape(-1) for plane in (self.re, self.im))
        for start in range(0, len(full), _AMPLITUDES_AT_ONCE):
            part = slice(start, start + _AMPLITUDES_AT_ONCE)
            full[part].real, full[part].imag = re[part], im[part]
            np.multiply(full[part], self.scale, out=full[part])
        return by_qubits(full, self.layout)
