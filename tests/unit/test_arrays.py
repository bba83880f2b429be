"""Large arrays: aligned, kept for the next of their size and let go for any other."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from qsimenv import arrays

MIB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    gc.collect()
    arrays._kept.clear()


def test_arrays_are_aligned() -> None:
    for kind in (np.float32, np.float64):
        array = arrays.empty(2 * MIB, kind)
        assert array.dtype == kind
        assert len(array) == 2 * MIB
        assert array.ctypes.data % (2 * MIB) == 0
    assert arrays.scratch(1000).ctypes.data % (2 * MIB) == 0
    assert len(arrays.scratch(1000)) == 1000


def test_memory_is_used_again() -> None:
    array = arrays.empty(2 * MIB, np.float64)
    array[:] = 7
    view = array[5:]
    address = array.ctypes.data
    del array
    assert arrays.kept_bytes() == 0, "a view still needs it"
    del view
    assert arrays.kept_bytes() >= 16 * MIB
    arrays.scratch(MIB)  # lets nothing go
    again = arrays.empty(2 * MIB, np.float64)
    assert again.ctypes.data == address
    assert arrays.kept_bytes() == 0


def test_another_size_lets_go_of_what_is_kept() -> None:
    del (array := [arrays.empty(2 * MIB, np.float64) for _ in range(3)])[:]
    assert array == []
    assert 32 * MIB <= arrays.kept_bytes() < 48 * MIB, "two are kept, not three"
    other = arrays.empty(4 * MIB, np.float64)
    assert arrays.kept_bytes() == 0
    assert len(other) == 4 * MIB


def test_too_much_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        arrays.empty(1 << 58, np.float64)
