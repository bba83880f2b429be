"""The CUDA sources through NVIDIA's own compiler, which needs no GPU: ``pip install nvidia-cuda-nvrtc-cu12``."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from qsimenv.statevec.kernels import slots_cupy, sweep_cupy
from qsimenv.statevec.kernels.source_cupy import source
from qsimenv.statevec.measuring import pauli_cupy
from tests.gpu import nvrtc
from tests.gpu.stand_in import StandIn

pytestmark = pytest.mark.skipif(nvrtc.library() is None, reason="nvidia-cuda-nvrtc is not installed")

THREADS = 512
REGISTERS = 1 << 16
"""Of a multiprocessor; two thread blocks of sweeps are to share them."""


@pytest.mark.parametrize("real", [np.float64, np.float32])
@pytest.mark.parametrize(("architecture", "shared"), [("sm_80", 164), ("sm_90", 228)])
def test_they_compile(
    architecture: str, shared: int, real: type[np.floating], stand_in: Callable[..., StandIn]
) -> None:
    gpu = stand_in(THREADS)
    gpu.shared_bytes_per_processor, gpu.shared_bytes = shared << 10, (shared - 1) << 10
    kind = np.dtype(real)
    others = [source(path, kind, THREADS) for path in (slots_cupy._FILE, sweep_cupy._SUMS, pauli_cupy._FILE)]
    for text in (sweep_cupy.module(kind), *others):
        compiled, log = nvrtc.compile_for(text, architecture)
        assert compiled, log
        most = max(map(int, re.findall(r"Used (\d+) registers", log)))
        assert 2 * THREADS * most <= REGISTERS, log
