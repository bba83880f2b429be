"""Parts of kernels: functions that only kernels call. ``kernel_cache.part`` declares them.

Numba readies each function for Python: it is optimised and wrapped, and machine code is made of it. Then its code goes
into each function that calls it, where all that is done once more, so that a kernel four calls deep takes the compiler
several times. A part stays as it was generated until the kernel that calls it is optimised as a whole; measured, that
saves a third of the compiler's time. Relies on the inner parts of Numba's code generation.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.typed_passes import AnnotateTypes


class _PartLibrary(JITCodeLibrary):  # type: ignore[misc]
    """The code of a part, to be linked into others."""

    @property
    def codegen(self) -> Any:
        return _NoMemory()

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0


class _NoMemory:
    """In place of the memory of a process for who asks a part's library where its code is."""

    def set_env(self, name: str, environment: Any) -> None:
        """The Python objects that the code refers to: a kernel refers to none."""


@register_pass(mutates_CFG=False, analysis_only=True)
class _KeepAsGenerated(AnalysisPass):  # type: ignore[misc]
    """Has the code that follows generated into a library of our kind."""

    _name = "keep_as_generated"

    def __init__(self) -> None:
        AnalysisPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        return False


class PartCompiler(CompilerBase):  # type: ignore[misc]
    """Numba's passes for a part, for ``njit(pipeline_class=…)``."""

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_KeepAsGenerated, AnnotateTypes)
        passes.finalize()
        return [passes]


def keep_from_python(dispatcher: Any) -> None:
    """Let Python fail to call a part, for which there is no machine code, with a TypeError."""

    def refuse(*_: Any, **__: Any) -> None:
        raise TypeError(f"{dispatcher.py_func.__name__} is a part of kernels; declare it with njit to call it here")

    dispatcher._insert = lambda *_, **__: None
    dispatcher._compile_for_args = refuse
