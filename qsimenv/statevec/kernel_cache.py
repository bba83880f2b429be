"""Compiled kernels on disk: where, and who compiles. The modules of kernels (``*_numba.py``) take ``njit`` here.

A kernel that is called is loaded from the folder. If it is not there, the first process that wants it compiles it, with
all that it calls; others that want it in that precision wait, and load it. Each module has a folder, named after its
sources and those it calls, so that code of another version is never loaded. Relies on the inner parts of Numba's cache.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib
import os
import pkgutil
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import caching

import qsimenv.statevec
from qsimenv import compilation
from qsimenv.statevec.kernel_parts import PartCompiler, keep_from_python

_PACKAGE = Path(qsimenv.__file__).parent
_KEPT_FOLDERS = 4
_WORTH_TELLING_S = 2.0
_RARELY = 50_000, 20, 100
"""A compiler makes objects by the million and drops few: to look for garbage as often as Python does takes a tenth of
its time."""

kernels: list[Any] = []
"""All kernels of the modules that were imported."""
parts: list[Any] = []
"""And all that only these call."""


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` with our folders for compiled code, and one process at a time that compiles into them."""

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(no_cfunc_wrapper=True, **options)(function)  # nobody calls it from C
        kernels.append(dispatcher)
        if folder(function.__module__) is not None:
            dispatcher._cache = _KernelCache(function)
            dispatcher.compile = _Compile(dispatcher.compile)
        return dispatcher

    return compiled


def part(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """For what only kernels call, and Python never: no code of its own is made or kept. See ``kernel_parts``."""

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(
            no_cfunc_wrapper=True, no_cpython_wrapper=True, pipeline_class=PartCompiler, **options
        )(function)  # fmt: skip
        keep_from_python(dispatcher)
        parts.append(dispatcher)
        return dispatcher

    return compiled


def kernel_modules() -> tuple[str, ...]:
    """The names of the modules that hold kernels, known by the end of their names."""
    found = pkgutil.walk_packages(qsimenv.statevec.__path__, "qsimenv.statevec.")
    return tuple(sorted(module.name for module in found if module.name.endswith("_numba")))


def address_of(kernel: Any, signature: tuple[Any, ...]) -> int:
    """Where the code of a kernel is for arguments of these types; it is loaded, or compiled."""
    kernel.compile(signature)
    compiled = kernel.overloads[signature]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


def is_kept(kernel: Any) -> bool:
    """Whether a kernel was compiled, here or before. One that is always inlined has no code of its own."""
    if kernel.targetoptions.get("inline") == "always" or kernel.overloads:
        return True
    return isinstance(kernel._cache, _KernelCache) and Path(kernel._cache._cache_file._index_path).exists()


# --- one process compiles ---


class _Building:
    """What this process compiles just now. A kernel brings those that it calls along, all under one lock."""

    depth = 0
    lock: compilation.Lock | None = None
    since = 0.0
    thresholds = gc.get_threshold()
    """Of Python's garbage collector, from before."""

    def begin(self, lock: compilation.Lock) -> None:
        self.lock, self.since = lock, time.perf_counter()
        self.thresholds = gc.get_threshold()
        gc.set_threshold(*_RARELY)

    def leave(self) -> None:
        self.depth -= 1
        if self.depth == 0 and self.lock is not None:
            gc.set_threshold(*self.thresholds)
            self.lock.release()
            self.lock = None
            seconds = time.perf_counter() - self.since
            if seconds > _WORTH_TELLING_S:
                compilation.report(f"compiled in {seconds:.0f} s")


_building = _Building()


class _Compile:
    """A dispatcher's ``compile``; it loads or compiles."""

    def __init__(self, compile_: Callable[..., Any]) -> None:
        self._compile = compile_

    def __call__(self, signature: Any) -> Any:
        _building.depth += 1
        try:
            return self._compile(signature)
        finally:
            _building.leave()


class _Locator:
    """Tells Numba's cache where the code of a function is. That the folder's name changes takes the place of dates."""

    def __init__(self, function: Callable[..., Any], source: str) -> None:
        self._py_file, self._lineno = source, function.__code__.co_firstlineno
        self._module = function.__module__

    def get_cache_path(self) -> str:
        return str(folder(self._module))

    def ensure_cache_path(self) -> None:
        Path(self.get_cache_path()).mkdir(parents=True, exist_ok=True)

    def get_source_stamp(self) -> str:
        return ""

    def get_disambiguator(self) -> str:
        return str(self._lineno)

    @classmethod
    def from_function(cls, function: Callable[..., Any], source: str) -> _Locator:
        return cls(function, source)


class _CacheImpl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _KernelCache(caching.FunctionCache):  # type: ignore[misc]
    _impl_class = _CacheImpl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Compiled code, or None: then this process is to compile it, and holds the lock until it has."""

        def find() -> Any:
            return super(_KernelCache, self).load_overload(sig, target_context)

        if _building.lock is not None:
            return find()
        precision = "single" if "float32" in str(sig) else "double"
        lock = compilation.Lock(Path(self.cache_path) / f"{self._py_func.__name__}-{precision}.lock")
        found = compilation.find_or_lock(find, lock, self._say_that_we_wait)
        if found is None:
            _building.begin(lock)
            compilation.report(f"compiling {self._py_func.__name__.strip('_')} for this processor, the first time only")
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Under a lock of its own: two that save at once, each another precision, would take the same file name."""
        lock = compilation.Lock(Path(self.cache_path) / "saving.lock")
        try:
            lock.acquire()
            super().save_overload(sig, data)
        except OSError:
            return  # a full disk, or a folder that can only be read: the code is in memory, and that will do
        finally:
            lock.release()

    def _say_that_we_wait(self) -> None:
        if os.environ.get("PMIX_RANK", "0") != "0":
            return  # one line is enough for a job
        compilation.report(f"another process compiles {self._py_func.__name__.strip('_')}; waiting for it")


# --- where they are kept ---


@lru_cache
def folder(module: str) -> Path | None:
    """Where a module's compiled kernels are."""
    return place_for(os.environ, f"{module.rpartition('.')[2]}-{_key(module)}")


def place_for(environ: Mapping[str, str], name: str) -> Path | None:
    """In NUMBA_CACHE_DIR if that can be written, as somebody may want a copy; else ``choose_folder`` chooses."""
    places = roots(environ)
    named = choose_folder(places[:1], name) if environ.get("NUMBA_CACHE_DIR") else None
    return named or choose_folder(places, name)


def roots(environ: Mapping[str, str]) -> list[Path]:
    """Where to look, in this order: NUMBA_CACHE_DIR, or beside the package; the user's cache folder."""
    given = environ.get("NUMBA_CACHE_DIR")
    own = Path(environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return [Path(given) if given else Path(__file__).parent / "__pycache__", own / "qsimenv"]


def choose_folder(places: list[Path], name: str) -> Path | None:
    """The first place that has kernels under ``name`` already, else the first where the folder can be made."""
    for root in places:
        if next((root / name).glob("*.nbi"), None) is not None:
            return root / name
    for root in places:
        try:
            (root / name).mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(root / name, os.W_OK):
            _tidy(root / name)
            return root / name
    return None


def _key(module: str) -> str:
    """A name for this version of a module's kernels: all that is compiled into them, and the compiler."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {sys.version_info[:2]}".encode())
    waiting, seen = [module], {module}
    while waiting:
        source = (_PACKAGE.parent / f"{waiting.pop().replace('.', '/')}.py").read_bytes()
        digest.update(source)
        constants, others = imported(source)
        digest.update(repr(sorted(constants)).encode())
        waiting += sorted(others - seen)
        seen |= others
    return digest.hexdigest()[:12]


def imported(source: bytes) -> tuple[list[tuple[str, Any]], set[str]]:
    """What a kernel module imports and Numba compiles in: constants (with their values), and other kernel modules."""
    constants, others = list[tuple[str, Any]](), set[str]()
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("qsimenv."):
            continue
        name = str(node.module)
        if name.endswith("_numba"):
            others.add(name)
        elif name != __name__:
            values = vars(importlib.import_module(name))
            found = [(f"{name}.{alias.name}", values.get(alias.name)) for alias in node.names]
            constants += [(key, value) for key, value in found if isinstance(value, int | float | str | tuple)]
    return constants, others


def _tidy(place: Path) -> None:
    """Remove the folders of a module's other versions, but for the newest few."""
    dated = []
    for path in place.parent.glob(f"{place.name.rpartition('-')[0]}-*"):
        with suppress(OSError):  # another process tidies as well
            dated.append((path.stat().st_mtime, path))
    for _, old in sorted(dated, reverse=True)[_KEPT_FOLDERS:]:
        if old != place:
            shutil.rmtree(old, ignore_errors=True)
