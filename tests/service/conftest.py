"""One environment for the tests that leave it as it was, and a fresh one for those that do not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from environments import Environment, environment

from qsimenv.qpm_plugin.client import Client
from tests.support import folder, hold, kind

__all__ = ["client", "folder", "fresh", "hold", "kind", "shared"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    with environment(tmp_path_factory.mktemp("environment")) as made:
        yield made


@pytest.fixture
def client(shared: Environment) -> Iterator[Client]:
    with shared.connect() as made:
        yield made


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Environment]:
    with environment(tmp_path) as made:
        yield made
