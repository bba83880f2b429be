"""The oracle, and a stand-in for a GPU that is put away after each test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "oracle"))

from qsimenv import arrays
from tests.gpu.stand_in import StandIn


@pytest.fixture(autouse=True)
def own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests say themselves which device they want, whatever --device says."""
    monkeypatch.delenv("QSIMENV_DEVICE", raising=False)


@pytest.fixture
def stand_in() -> Iterator[Callable[..., StandIn]]:
    """Makes a stand-in and gives it to this process."""

    def make(*arguments: object, **options: object) -> StandIn:
        made = StandIn(*arguments, **options)  # type: ignore[arg-type]
        arrays.set_gpu(made)
        return made

    before = arrays._gpu
    yield make
    arrays._gpu = before
