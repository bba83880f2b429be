"""Finds the PMIx Python bindings without loading them, and loads them where that is wanted.

`find_pmix_module` is cheap and safe everywhere (the launcher's choice, `qsimenv doctor`); `load_pmix` is for the
process of `pmix_tool.py` alone, because the bindings bring their own libpmix. The package `pmix` of PyPI is
something else: only a compiled extension module is taken for the bindings.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from collections.abc import Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

from qsimenv.errors import LibraryNotFoundError

SYSTEM_FOLDERS = (Path("/usr/lib/python3/dist-packages"), Path("/usr/lib64/python3/site-packages"))


def find_pmix_module(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The file of the PMIx bindings for this interpreter, or None; ``QSIMENV_PMIX_MODULE`` names it outright.

    Raises LibraryNotFoundError when that variable names a file that does not exist.
    """
    named = environ.get("QSIMENV_PMIX_MODULE")
    if named:
        if not Path(named).is_file():
            raise LibraryNotFoundError(f"QSIMENV_PMIX_MODULE names {named!r}, which is not a file; correct or unset it")
        return Path(named)
    return _importable_extension() or _system_extension()


def load_pmix(path: Path) -> ModuleType:
    """Load the bindings from `path`. Raises LibraryNotFoundError when they do not load or have no PMIxTool."""
    spec = importlib.util.spec_from_file_location("pmix", path)
    if spec is None or spec.loader is None:
        raise LibraryNotFoundError(f"{path} is not a Python extension module")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        raise LibraryNotFoundError(f"the PMIx bindings {path} do not load: {error}") from None
    if not hasattr(module, "PMIxTool"):
        raise LibraryNotFoundError(f"{path} is not the PMIx bindings: it has no PMIxTool")
    return module


def unrelated_pmix() -> str | None:
    """Where a package `pmix` that is not the PMIx bindings (PyPI has one) is installed, or None."""
    origin = _origin()
    return origin if origin and not _is_extension(origin) else None


def _importable_extension() -> Path | None:
    origin = _origin()
    return Path(origin) if origin and _is_extension(origin) else None


def _system_extension() -> Path | None:
    name = "pmix" + str(sysconfig.get_config_var("EXT_SUFFIX"))
    return next((folder / name for folder in SYSTEM_FOLDERS if (folder / name).is_file()), None)


def _origin() -> str | None:
    try:
        spec = importlib.util.find_spec("pmix")
    except (ImportError, ValueError):
        return None
    return spec.origin if spec else None


def _is_extension(origin: str) -> bool:
    return origin.endswith(tuple(EXTENSION_SUFFIXES))
