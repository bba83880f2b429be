"""What a user needs to launch, looked at without starting a DVM: `qsimenv doctor` prints these findings.

Each check takes less than a second, never raises, and says what to do when something is missing.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from qsimenv.errors import QSimEnvError
from qsimenv.launcher.bindings import find_pmix_module, unrelated_pmix
from qsimenv.launcher.commands import find_program, python_environment, tool_environment
from qsimenv.launcher.dvm import program_version

_LOAD = "import sys; from pathlib import Path; from qsimenv.launcher.bindings import load_pmix; \
m = load_pmix(Path(sys.argv[1])); print(m.PMIxTool().get_version().decode())"
_BINDINGS_ADVICE = (
    "instances are launched with prterun instead (less detail); install Debian's python3-pmix, or build PMIx "
    "--enable-python-bindings and set QSIMENV_PMIX_MODULE to the module's file"
)


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was looked at, whether it will do, what was found, what to do if anything."""

    name: str
    ok: bool
    found: str
    advice: str = ""


def check_all(environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Every finding of this module, in the order to print."""
    checks = (check_prte, check_prterun, check_mpi, check_pmix, check_pmix_package, check_pmix_prefix, check_munge)
    return [*(check(environ) for check in checks), check_host_name(), check_shared_memory()]


def check_prte(environ: Mapping[str, str] = os.environ) -> Finding:
    """Is there a prte, and does it run?"""
    return _check_program("prte", environ)


def check_prterun(environ: Mapping[str, str] = os.environ) -> Finding:
    """Is there a prterun (used where the PMIx bindings are missing), and does it run?"""
    return _check_program("prterun", environ)


def check_mpi(environ: Mapping[str, str] = os.environ) -> Finding:
    """Is there an mpirun (for `mpirun -n 4 qsimenv run …`), of the same place as prte?"""
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun", path=environ.get("PATH"))
    if found is None:
        return Finding("mpirun", False, "not found", "install it with `pip install 'qsimenv[mpi]'` or load an MPI")
    return Finding("mpirun", True, found)


def check_pmix(environ: Mapping[str, str] = os.environ) -> Finding:
    """Are there PMIx Python bindings for this interpreter, and do they load (in a process of their own)?"""
    try:
        path = find_pmix_module(environ)
    except QSimEnvError as error:
        return Finding("PMIx bindings", False, error.message, _BINDINGS_ADVICE)
    if path is None:
        version = f"Python {sys.version_info.major}.{sys.version_info.minor}"
        return Finding("PMIx bindings", False, f"none for {version}", _BINDINGS_ADVICE)
    command = [sys.executable, "-W", "ignore", "-c", _LOAD, str(path)]
    env = python_environment(tool_environment(environ, Path(os.devnull).parent))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, env=env, check=False)
    except subprocess.TimeoutExpired:
        return Finding("PMIx bindings", False, f"{path} does not load in 5 s", _BINDINGS_ADVICE)
    if done.returncode != 0:
        words = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return Finding("PMIx bindings", False, f"{path} does not load: {words}", _BINDINGS_ADVICE)
    return Finding("PMIx bindings", True, f"{path} ({done.stdout.strip()})")


def check_pmix_package(_environ: Mapping[str, str] = os.environ) -> Finding:
    """Is the unrelated package `pmix` of PyPI installed?"""
    origin = unrelated_pmix()
    if origin is None:
        return Finding("package pmix", True, "no unrelated package of that name")
    return Finding("package pmix", False, origin, "this is not PMIx but a survey tool: `pip uninstall pmix`")


def check_pmix_prefix(environ: Mapping[str, str] = os.environ) -> Finding:
    """Is PMIX_PREFIX set? qsimenv removes it for the bindings, other programs with another libpmix may fail by it."""
    value = environ.get("PMIX_PREFIX")
    if value is None:
        return Finding("PMIX_PREFIX", True, "not set")
    advice = "qsimenv copes; but unset it if other PMIx programs fail: each libpmix needs its own prefix"
    return Finding("PMIX_PREFIX", True, value, advice)


def check_munge(_environ: Mapping[str, str] = os.environ) -> Finding:
    """Does munged run? Its handshake crashes prte when only one of two PMIx versions knows it; we ask for `native`."""
    names = {process.info["name"] for process in psutil.process_iter(["name"])}
    if "munged" not in names:
        return Finding("munge", True, "munged does not run")
    advice = "qsimenv sets PMIX_MCA_psec=native for its tool; set it for other PMIx tools that you run"
    return Finding("munge", True, "munged runs", advice)


def check_host_name(timeout_s: float = 0.8) -> Finding:
    """Does this machine's own name resolve? PRTE needs it as soon as there are several nodes."""
    name, addresses = socket.gethostname(), list[str]()

    def resolve() -> None:
        try:
            addresses.append(socket.gethostbyname(name))
        except OSError:
            return

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if addresses:
        return Finding("host name", True, f"{name} is {addresses[0]}")
    return Finding("host name", False, f"{name} does not resolve", f"add {name} to /etc/hosts or to the name server")


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Finding:  # noqa: S108  that is where MPI keeps it
    """Is there shared memory for the exchange between ranks of a node?"""
    try:
        free_mib = shutil.disk_usage(folder).free >> 20
    except OSError as error:
        return Finding("shared memory", False, f"{folder}: {error.strerror}", f"mount a tmpfs on {folder}")
    advice = "ranks of a node exchange through it: give the container more (docker run --shm-size=1g)"
    return Finding("shared memory", free_mib >= 64, f"{folder}: {free_mib} MiB free", "" if free_mib >= 64 else advice)


def _check_program(name: str, environ: Mapping[str, str]) -> Finding:
    try:
        program = find_program(name, environ)
    except QSimEnvError as error:
        return Finding(name, False, "not found", error.message)
    version = program_version(program, environ)
    if version == "unknown":
        advice = "it does not run here; try it by hand with --version, or load the site's PRTE"
        return Finding(name, False, f"{program}, version unknown", advice)
    return Finding(name, True, f"{program} {version}")
