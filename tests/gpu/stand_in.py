"""A GPU for tests where there is none: the very CUDA source, compiled by g++ and run on the CPU.

``StandIn`` is what ``arrays.GPU`` asks for. Its arrays cannot be read or written by NumPy without ``download`` and
``upload``, as those on a GPU cannot. Threads of a block take turns between barriers (``cuda_on_cpu.h``).
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qsimenv import memory
from qsimenv.arrays_cupy import Source

_HEADER = Path(__file__).with_name("cuda_on_cpu.h")
_KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(')


needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and "g++" not in os.environ.get("QSIMENV_REQUIRE", ""),
    reason="no g++ to run CUDA sources with",
)
"""Where there is no g++, unless QSIMENV_REQUIRE says that there must be one."""


class DeviceArray:
    """Numbers that only the stand-in reaches."""

    __array_ufunc__ = None

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers
        self.dtype, self.size, self.nbytes, self.itemsize = (
            numbers.dtype, numbers.size, numbers.nbytes, numbers.itemsize,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, part: slice) -> DeviceArray:
        assert isinstance(part, slice), "only slices of arrays on a GPU are used: numbers are downloaded"
        return DeviceArray(self.numbers[part])

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("an array on the GPU is not NumPy's: download it")

    def __dlpack__(self, **options: Any) -> Any:
        """By which MPI reaches it, where it takes device buffers."""
        return self.numbers.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[Any, int]:
        return self.numbers.__dlpack_device__()


class StandIn:
    """See ``arrays.GPU``. ``backwards``: blocks and threads run in the opposite order."""

    name = "a stand-in"
    processors = 2

    def __init__(
        self, threads: int = 1, *, shared_bytes: int = 160 << 10, backwards: bool = False, takes_messages: bool = False
    ) -> None:
        self.threads, self.backwards, self.takes_messages = threads, backwards, takes_messages
        self.shared_bytes = self.shared_bytes_per_processor = shared_bytes
        self.launches: list[str] = []

    def empty(self, count: int, kind: Any) -> DeviceArray:
        return DeviceArray(np.full(count, np.nan if np.dtype(kind).kind == "f" else -1, dtype=kind))

    def upload(self, host: np.ndarray, into: Any = None) -> DeviceArray:
        array = self.empty(host.size, host.dtype) if into is None else into
        assert array.dtype == host.dtype
        array.numbers[:] = host.reshape(-1)
        return array

    def download(self, array: DeviceArray, into: np.ndarray | None = None) -> np.ndarray:
        if into is None:
            return array.numbers.copy()
        into[:] = array.numbers
        return into

    def pinned(self, count: int, kind: Any) -> np.ndarray:
        return np.empty(count, dtype=kind)

    def copy(self, array: DeviceArray, into: DeviceArray) -> None:
        into.numbers[:] = array.numbers

    def launch(self, source: Source, kernel: str, blocks: int, arguments: Sequence[Any], shared_bytes: int = 0) -> None:
        self.launches.append(kernel)
        assert shared_bytes <= self.shared_bytes
        assert 0 < blocks < 1 << 31
        values = [np.array(each.numbers.ctypes.data if isinstance(each, DeviceArray) else each) for each in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        status = _compiled(source)[f"start_{kernel}"](len(values), pointers, blocks, shared_bytes, self.backwards)
        assert status == 0, f"{kernel} does not take {len(values)} arguments"

    def synchronize(self) -> None:
        pass

    def free_bytes(self) -> int:
        """Its memory is the host's."""
        return memory.free_bytes_per_process()


@lru_cache(maxsize=64)
def _compiled(source: Source) -> ctypes.CDLL:
    """The source as a library; kept in a folder of this user, so that each is compiled once."""
    starts = "".join(
        f'extern "C" int start_{name}(int count, void** arguments, int blocks, int bytes, bool backwards)\n'
        f"{{ return stand_in::launch({name}, count, arguments, blocks, bytes, backwards); }}\n"
        for name in _KERNEL.findall(source.text)
    )
    # The system's own headers come before the macros, whose names are short.
    macros = "".join(f"#define {name} {value}\n" for name, value in source.macros)
    threads = dict(source.macros)["THREADS"]
    header = _HEADER.read_text(encoding="utf-8").replace("THREADS", threads)
    text = f"{header}\n{macros}\n{source.text}\n{starts}"
    folder = Path(tempfile.gettempdir()) / f"qsimenv-stand-in-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ranks and test processes that need the same wait for one of them
        if not library.exists():
            _compile(text, library)
    return ctypes.CDLL(str(library))


def _compile(text: str, library: Path) -> None:
    command = ["g++", "-std=c++17", "-O2", "-fno-strict-aliasing", "-w", "-shared", "-fPIC", "-o", "module.so"]
    with tempfile.TemporaryDirectory(dir=library.parent) as here:
        (Path(here) / "module.cpp").write_text(text, encoding="utf-8")
        command += ["module.cpp"]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr[:4000]
        (Path(here) / "module.so").replace(library)
