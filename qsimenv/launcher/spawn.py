"""Chooses the way to launch: PMIx spawn into a DVM, a `prterun` for each instance, or `srun` with the site's MPI.

`launcher/serving.py` joins what it gets with the controller.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from qsimenv.errors import InvalidArgumentError, LibraryNotFoundError
from qsimenv.launcher.allocation import Allocation
from qsimenv.launcher.bindings import find_pmix_module
from qsimenv.launcher.commands import PLAIN, InstanceSpec, LaunchOptions
from qsimenv.launcher.instance import Instance, InstanceEnd, Launcher
from qsimenv.launcher.pmix_launcher import PMIxLauncher
from qsimenv.launcher.process_launchers import PrterunLauncher, SrunLauncher

__all__ = [
    "Instance",
    "InstanceEnd",
    "InstanceSpec",
    "Launcher",
    "PMIxLauncher",
    "PrterunLauncher",
    "SrunLauncher",
    "choose_launcher",
]


def choose_launcher(
    allocation: Allocation,
    run_folder: Path,
    options: LaunchOptions = PLAIN,
    environ: Mapping[str, str] = os.environ,
) -> Launcher:
    """The launcher of the options' world: SrunLauncher, or PMIxLauncher where the bindings are, else PrterunLauncher.

    ``QSIMENV_LAUNCHER`` (pmix, prterun, srun) decides instead, where it is set. Raises InvalidArgumentError for another
    value, LibraryNotFoundError when pmix is demanded and missing.
    """
    wanted = environ.get("QSIMENV_LAUNCHER") or ("srun" if options.world == "srun" else "auto")
    kinds: dict[str, Callable[..., Launcher]] = {"pmix": PMIxLauncher, "prterun": PrterunLauncher, "srun": SrunLauncher}
    if wanted == "auto":
        wanted = "prterun" if find_pmix_module(environ) is None else "pmix"
    if wanted not in kinds:
        raise InvalidArgumentError(f"QSIMENV_LAUNCHER is {wanted!r}; use {', '.join(kinds)}, or unset it")
    if wanted == "pmix" and find_pmix_module(environ) is None:
        raise LibraryNotFoundError("QSIMENV_LAUNCHER=pmix, but no PMIx Python bindings were found; see qsimenv doctor")
    return kinds[wanted](allocation, run_folder, options, environ)
