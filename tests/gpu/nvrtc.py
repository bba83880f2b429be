"""NVIDIA's run-time compiler, where its wheel (nvidia-cuda-nvrtc) is installed: it needs no GPU to compile for one."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib import util
from pathlib import Path

from qsimenv.arrays_cupy import Source


@cache
def library() -> ctypes.CDLL | None:
    """The compiler of any CUDA version, or None."""
    for package in ("nvidia.cuda_nvrtc", "nvidia.cu13"):
        try:
            found = util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for folder in found.submodule_search_locations or () if found else ():
            for path in sorted(Path(folder).glob("lib/libnvrtc.so.*")):
                return ctypes.CDLL(str(path))
    return None


def compile_for(source: Source, architecture: str) -> tuple[bool, str]:
    """Whether the source compiles for ``sm_80``, say, and what the compiler and the assembler said."""
    nvrtc = library()
    assert nvrtc is not None
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.text.encode(), b"module.cu", 0, None, None)
    options = [f"--gpu-architecture={architecture}", "--std=c++14", "--ptxas-options=-v"]
    options += [f"-D{name}={value}" for name, value in source.macros]
    status = nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    )
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return status == 0, log.value.decode()
