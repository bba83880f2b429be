"""The device that states live on in a test run: ``pytest --device gpu``, or ``--device stand-in`` without a GPU."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=("auto", "cpu", "gpu", "stand-in"),
        default="auto",
        help="where states live. auto: on a GPU if there is one. gpu: small circuits too. stand-in: the GPU's kernels, "
        "compiled by g++ and run on the CPU; for tests in this process and under mpirun.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Before any test file is imported."""
    from qsimenv import arrays

    device = config.getoption("--device")
    if device == "auto" and not arrays.has_gpu():
        return
    os.environ["QSIMENV_DEVICE"] = "cpu" if device == "cpu" else "gpu"
    if device == "stand-in":
        from tests.gpu.stand_in import StandIn

        arrays.set_gpu(StandIn(takes_messages=os.environ.get("QSIMENV_GPU_AWARE_MPI") == "1"))
