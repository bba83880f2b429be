"""The operations of a tape (``later``), one after the other, compiled."""

from __future__ import annotations

import cmath
import math

import numpy as np

from qsimenv.statevec.encoding.later import (
    COSINE,
    JOINT_ANGLE,
    JOINT_COSINE,
    JOINT_LEAN,
    JOINT_SIZE,
    JOINT_SLOPE,
    JOINT_TANGENT,
    LENGTH,
    PRODUCT,
    RATIO,
    SINE,
    SIZE,
    SUM,
    TANGENT,
)
from qsimenv.statevec.kernel_cache import njit, part

_options = {"nogil": True, "error_model": "numpy"}


@njit(**_options)
def work_out(entries, starts, columns, factors, constants, inputs, results):
    """The rows ``results`` of a tape for some inputs; and the smallest size and the greatest slope on the way.

    ``entries`` has four columns: an operation and the rows it works on. Row k is ``constants[k]`` and the sum over
    ``starts[k] <= j < starts[k + 1]`` of ``factors[j]`` times entry ``columns[j]``; the inputs are the first entries.
    """
    values, smallest, steepest = np.empty(inputs.size + entries.shape[0]), 1.0, 0.0
    values[: inputs.size] = inputs
    for k in range(entries.shape[0]):
        operation = entries[k, 0]
        x = _row(entries[k, 1], starts, columns, factors, constants, values)
        y = _row(entries[k, 2], starts, columns, factors, constants, values)
        z = _row(entries[k, 3], starts, columns, factors, constants, values)
        number = _made(operation, x, y, z)
        if operation == SIZE:
            smallest = min(smallest, abs(number))
        elif operation in (TANGENT, JOINT_SLOPE, JOINT_TANGENT):
            steepest = max(steepest, abs(number))
        values[inputs.size + k] = number
    found = np.empty(results.size)
    for k, row in enumerate(results):
        found[k] = _row(row, starts, columns, factors, constants, values)
    return found, smallest, steepest


@part(**_options)
def _row(row, starts, columns, factors, constants, values):
    total = constants[row]
    for k in range(starts[row], starts[row + 1]):
        total += factors[k] * values[columns[k]]
    return total


@part(**_options)
def _made(operation, x, y, z):
    """What an operation makes of its numbers; of those it does not have it is given any."""
    if operation == SUM:
        return x
    if operation == TANGENT:
        return math.tan(x)
    if operation == COSINE:
        return math.cos(x)
    if operation == SINE:
        return math.sin(x)
    if operation == LENGTH:
        return math.hypot(1.0, x)
    if operation in (PRODUCT, SIZE):
        return x * y
    if operation == RATIO:
        return x / y
    if operation == JOINT_COSINE:
        return 1.0 - x * z
    if operation == JOINT_TANGENT:
        return (x + z) / (1.0 - x * z)
    turned = complex(math.cos(y), math.sin(y))
    kept, mixed = 1.0 - x * z * turned, x + z * turned
    if operation == JOINT_ANGLE:
        return cmath.phase(kept)
    if operation == JOINT_SIZE:
        return abs(kept)
    if operation == JOINT_SLOPE:
        return abs(mixed) / abs(kept)
    after = cmath.phase((turned - x * z) / kept)
    lean = cmath.phase(mixed / kept)
    return lean if operation == JOINT_LEAN else after - lean
