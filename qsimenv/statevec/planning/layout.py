"""Layout: which qubit lives on which index bit of the state, and which bits are stored inverted.

Bits ``0 … num_local-1`` number an amplitude inside a rank's memory, the bits above them number the rank. A layout is
a value and holds no data: SWAP renames two qubits, X inverts a bit, an exchange trades local bits for rank bits, and
none of the first two touches memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Layout:
    """``bits[qubit]`` is the index bit of a qubit; where ``flips`` has a bit set, that bit is stored inverted."""

    bits: tuple[int, ...]
    num_local: int
    flips: int = 0

    @cached_property
    def qubits(self) -> tuple[int, ...]:
        """The inverse map: the qubit that lives on each bit."""
        order = [0] * len(self.bits)
        for qubit, bit in enumerate(self.bits):
            order[bit] = qubit
        return tuple(order)

    @property
    def local_qubits(self) -> frozenset[int]:
        """Qubits that can be mixed without an exchange."""
        return frozenset(self.qubits[: self.num_local])

    def is_local(self, qubit: int) -> bool:
        return self.bits[qubit] < self.num_local

    def flipped(self, qubit: int) -> Layout:
        """After X on ``qubit``."""
        return replace(self, flips=self.flips ^ (1 << self.bits[qubit]))

    def swapped(self, first: int, second: int) -> Layout:
        """After SWAP of two qubits."""
        bits = list(self.bits)
        bits[first], bits[second] = bits[second], bits[first]
        return replace(self, bits=tuple(bits))

    def exchanged(self, pairs: Sequence[tuple[int, int]]) -> Layout:
        """After the contents of each (local bit, rank bit) were traded. A flip moves with its qubit."""
        bits, flips = list(self.bits), self.flips
        for one, other in pairs:
            first, second = self.qubits[one], self.qubits[other]
            bits[first], bits[second] = other, one
            if (self.flips >> one ^ self.flips >> other) & 1:
                flips ^= 1 << one | 1 << other
        return replace(self, bits=tuple(bits), flips=flips)

    def mask(self, qubits: Sequence[int]) -> int:
        """The index bits of some qubits, as a mask."""
        return sum(1 << self.bits[qubit] for qubit in qubits)

    def place(self, qubits: Sequence[int], value: int) -> int:
        """Where ``value`` (bit k belongs to ``qubits[k]``) stands in a stored index, flips included."""
        index = sum((value >> k & 1) << self.bits[qubit] for k, qubit in enumerate(qubits))
        return index ^ (self.flips & self.mask(qubits))


def identity(num_qubits: int, num_local: int) -> Layout:
    """Qubit q on bit q."""
    return Layout(tuple(range(num_qubits)), num_local)


def by_qubits(whole: np.ndarray, layout: Layout) -> npt.NDArray[np.complexfloating]:
    """All amplitudes, given as they are stored, in the order of the qubits; the very same array where they are."""
    num_qubits = len(layout.bits)
    cube = whole.reshape((2,) * num_qubits)
    cube = np.flip(cube, axis=tuple(num_qubits - 1 - bit for bit in range(num_qubits) if layout.flips >> bit & 1))
    order = [num_qubits - 1 - layout.bits[qubit] for qubit in reversed(range(num_qubits))]
    return np.ascontiguousarray(cube.transpose(order)).reshape(-1)
