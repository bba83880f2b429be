"""A GPU by way of CuPy: the only file that imports it. NVIDIA by CUDA, AMD by ROCm: CuPy hides which one it is.

``arrays.gpu`` makes one for each process. Each rank takes a device near its cores where its binding tells, else its
place among the ranks of the node, modulo the number of devices: several ranks may share one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qsimenv import memory
from qsimenv.errors import LibraryNotFoundError, NotSupportedError


class Source(NamedTuple):
    """CUDA C++ for a GPU, and the macros to compile it with."""

    text: str
    macros: tuple[tuple[str, str], ...]


_SHARED_BYTES_OF_ALL = 48 << 10
"""Shared memory that every kernel may have; more has to be asked for."""
_AWARE_VARIABLES = ("QSIMENV_GPU_AWARE_MPI", "MPICH_GPU_SUPPORT_ENABLED", "MV2_USE_CUDA", "I_MPI_OFFLOAD")
"""Any of them set to 0 or 1 says whether MPI takes device buffers; the first that is set counts."""


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise LibraryNotFoundError(
            f"device: CuPy cannot be imported ({str(error).splitlines()[0]}); "
            "install cupy-cuda13x (or cupy-rocm-7-0), or use device='cpu'"
        ) from None
    return cupy


def pick_device() -> int:
    """The number of the device that this process is to use. Raises like ``arrays.gpu``."""
    cupy = _cupy()
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise NotSupportedError(
            f"device: CuPy {cupy.__version__} sees no GPU ({error}); see nvidia-smi or rocm-smi, or use device='cpu'"
        ) from None
    if not count:
        raise NotSupportedError(f"device: CuPy {cupy.__version__} sees no GPU; use device='cpu'")
    cores = os.sched_getaffinity(0)
    near = [_cores_near(cupy.cuda.Device(number).pci_bus_id) for number in range(count)]
    return choose_device(memory.rank_on_this_node(), [cores & mine for mine in near], count)


def choose_device(rank_on_node: int, cores_near: Sequence[set[int]], count: int) -> int:
    """The device of a rank: among those with most of its cores next to them, by its place on the node. Pure.

    ``cores_near``: for each device those of the rank's cores that the system calls local to it; empty where it does not
    tell.
    """
    most = max((len(cores) for cores in cores_near), default=0)
    near = [number for number in range(count) if len(cores_near[number]) == most]
    return near[rank_on_node % len(near)]


def _cores_near(pci_bus_id: str) -> set[int]:
    """The cores next to a device, as Linux lists them; empty where it does not."""
    try:
        text = Path(f"/sys/bus/pci/devices/{pci_bus_id.lower()}/local_cpulist").read_text(encoding="ascii").strip()
    except OSError:
        return set()
    return parse_cores(text)


def parse_cores(text: str) -> set[int]:
    """``0-3,8`` as a set."""
    cores: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return cores


def takes_messages(environ: dict[str, str]) -> bool:
    """Whether the environment says that MPI takes buffers on the GPU. Open MPI built with CUDA says so itself."""
    for name in _AWARE_VARIABLES:
        if environ.get(name, "").strip() in ("0", "1"):
            return environ[name].strip() == "1"
    return _open_mpi_says_so()


def _open_mpi_says_so() -> bool:
    """By ``MPIX_Query_cuda_support``, where an Open MPI that has it is loaded in this process."""
    import ctypes

    for name in ("MPIX_Query_cuda_support", "MPIX_Query_rocm_support"):
        try:
            if ctypes.CDLL(None)[name]():
                return True
        except AttributeError:
            continue
    return False


def devices_on_node(visible: int, folder: Path = Path("/dev")) -> int:
    """How many devices the node has, of which this process may see but its own."""
    nvidia, others = folder.glob("nvidia[0-9]*"), folder.glob("dri/renderD*")
    return max(visible, len(list(nvidia)) or len(list(others)))


class CupyGPU:
    """See ``arrays.GPU``."""

    threads = 512

    def __init__(self, number: int) -> None:
        self._cupy = cupy = _cupy()
        self.number = number
        device = cupy.cuda.Device(number)
        device.use()
        found = device.attributes
        self.shared_bytes = found.get("MaxSharedMemoryPerBlockOptin") or found["MaxSharedMemoryPerBlock"]
        self.shared_bytes_per_processor = found.get("MaxSharedMemoryPerMultiprocessor") or self.shared_bytes
        self.processors = found["MultiProcessorCount"]
        name = cupy.cuda.runtime.getDeviceProperties(number)["name"]
        self.name = name.decode() if isinstance(name, bytes) else str(name)
        self._modules: dict[Source, Any] = {}
        self._functions: dict[tuple[Source, str], Any] = {}

    @cached_property
    def takes_messages(self) -> bool:
        return takes_messages(dict(os.environ))

    def empty(self, count: int, kind: Any) -> Any:
        try:
            return self._cupy.empty(count, dtype=kind)
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            raise MemoryError(str(error)) from None

    def upload(self, host: np.ndarray, into: Any = None) -> Any:
        array = self.empty(host.size, host.dtype) if into is None else into
        array.set(host.reshape(-1))
        return array

    def download(self, array: Any, into: np.ndarray | None = None) -> np.ndarray:
        host: np.ndarray = array.get(out=into)
        return host

    def pinned(self, count: int, kind: Any) -> np.ndarray:
        pinned = self._cupy.cuda.alloc_pinned_memory(max(1, count) * np.dtype(kind).itemsize)
        return np.frombuffer(pinned, dtype=kind, count=count)

    def copy(self, array: Any, into: Any) -> None:
        into[...] = array

    def launch(self, source: Source, kernel: str, blocks: int, arguments: Sequence[Any], shared_bytes: int = 0) -> None:
        function = self._function(source, kernel)
        if shared_bytes > _SHARED_BYTES_OF_ALL:
            function.max_dynamic_shared_size_bytes = shared_bytes
        function((blocks,), (self.threads,), tuple(arguments), shared_mem=shared_bytes)

    def _function(self, source: Source, kernel: str) -> Any:
        """A kernel, compiled when it is first asked for; CuPy keeps compiled modules on disk."""
        if (source, kernel) not in self._functions:
            if source not in self._modules:
                options = ("--std=c++14", *(f"-D{name}={value}" for name, value in source.macros))
                self._modules[source] = self._cupy.RawModule(code=source.text, options=options)
            self._functions[source, kernel] = self._modules[source].get_function(kernel)
        return self._functions[source, kernel]

    def synchronize(self) -> None:
        self._cupy.cuda.get_current_stream().synchronize()

    def free_bytes(self) -> int:
        free: int = self._cupy.cuda.runtime.memGetInfo()[0]
        kept: int = self._cupy.get_default_memory_pool().free_bytes()
        devices = devices_on_node(self._cupy.cuda.runtime.getDeviceCount())
        return free // max(1, -(-memory.ranks_on_this_node() // devices)) + kept
