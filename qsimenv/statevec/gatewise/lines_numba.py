"""Explicit vector code for ``gates_numba``: a matrix on lines, that is on eight amplitudes side by side.

The index of an amplitude in its line is its *lane*: qubits 0 to 2. A gate there takes from other lanes of the same
line, by shuffles; one on a higher qubit from the same lane of another line. Factors differ from lane to lane, so
that controls among the lanes cost nothing. Numba's vectoriser would do runs of a few amplitudes one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from qsimenv.statevec.kernels.llvm_numba import INDEX, data_of, fma, kind_of, load_at, shuffled, store_at

LANE_BITS = 3
LANES = 1 << LANE_BITS


_MASKS = ((0,), (0, 1), (0, 2), (0, 4), (0, 1, 2, 3), (0, 1, 4, 5), (0, 2, 4, 6))
FORMS = tuple((bits, masks) for masks in _MASKS for bits in range(3 - len(masks) // 2))
"""How many lines take from each other (two to that power), and by which masks lanes take from other lanes."""
MOST_FACTORS = 2 * LANES * 16


@intrinsic  # type: ignore[untyped-decorator]
def mix(typing: Any, re: Any, im: Any, start: Any, offsets: Any, factors: Any, bits: Any, mask: Any) -> Any:
    """Multiply a matrix with ``2**bits`` lines, the form of ``FORMS`` with so many bits whose last mask is ``mask``.

    Line k of them is at ``start + offsets[k]``. ``factors`` has for each line, each line that it takes from and each of
    the form's masks (lane l takes from lane ``l ^ mask``) the real and the imaginary parts of the lanes' factors.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        kind = kind_of(signature.args[0])
        re, im, offsets, factors = (
            data_of(context, builder, signature.args[k], arguments[k]) for k in (0, 1, 3, 4)
        )  # fmt: skip
        wanted = builder.or_(builder.shl(arguments[5], ir.Constant(INDEX, LANE_BITS)), arguments[6])
        after = builder.append_basic_block("mixed")
        choice = builder.switch(wanted, after)
        for num_bits, masks in FORMS:
            block = builder.append_basic_block("form")
            choice.add_case(ir.Constant(INDEX, num_bits << LANE_BITS | masks[-1]), block)
            builder.position_at_end(block)
            _mix_lines(builder, kind, (re, im), (arguments[2], offsets), factors, num_bits, masks)
            builder.branch(after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    return types.void(re, im, start, offsets, factors, bits, mask), generate


def _mix_lines(
    builder: ir.IRBuilder,
    kind: ir.VectorType,
    planes: Sequence[Any],
    at: tuple[Any, Any],
    factors: Any,
    num_bits: int,
    masks: Sequence[int],
) -> None:
    lines, (start, offsets) = range(1 << num_bits), at
    places = [builder.add(start, builder.load(builder.gep(offsets, [ir.Constant(INDEX, k)]))) for k in lines]
    loaded = [[load_at(builder, kind, plane, place) for plane in planes] for place in places]
    taken = [[shuffled(builder, x, mask) for x in line] for line in loaded for mask in masks]
    zero = ir.Constant(kind, [0.0] * kind.count)
    for line in lines:
        total = [zero, zero]
        for number, (x, y) in enumerate(taken):
            first = 2 * (line * len(taken) + number) * kind.count
            a, b = (load_at(builder, kind, factors, ir.Constant(INDEX, first + part)) for part in (0, kind.count))
            total = [fma(builder, a, x, total[0]), fma(builder, a, y, total[1])]
            total = [fma(builder, builder.fneg(b), y, total[0]), fma(builder, b, x, total[1])]
        for x, plane in zip(total, planes, strict=True):
            store_at(builder, x, plane, places[line])
