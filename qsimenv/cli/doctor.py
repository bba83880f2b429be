"""``qsimenv doctor``: what this machine offers, and what to do about what is missing."""

from __future__ import annotations

import os
import sys
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qsimenv.cli.options import json_option
from qsimenv.wording import plural

if TYPE_CHECKING:
    from qsimenv.launcher.doctor import Finding
    from qsimenv.statevec.costs.rates import PassRates


@click.command()
@click.option("--measure", is_flag=True, help="Measure how fast this machine moves and computes, and keep the figures.")
@click.option("--compile", "compile_", is_flag=True, help="Compile all kernels now, so that no run has to.")
@json_option
def doctor(as_json: bool, measure: bool, compile_: bool) -> None:
    """Check MPI, PRTE, the PMIx bindings and their traps, the compiler cache, memory and GPU.

    \b
    Examples:
        qsimenv doctor
        qsimenv doctor --compile
        qsimenv doctor --measure
        mpirun -n 2 qsimenv doctor --measure
        qsimenv doctor --json | jq '.findings[] | select(.ok | not)'

    Every line that is not fine says what to do about it. Exit code 0 as long as circuits can be run here at all.

    What --measure finds (some ten seconds; under mpirun with the rate between ranks) is what --explain, estimates and
    the choice of ranks go by from then on. QSIMENV_RATES names a file with the rates of another machine.
    """
    if compile_:
        _compile(as_json)
    if measure:
        _measure(as_json)
    if measure or compile_:
        return
    import msgspec

    from qsimenv.cli import show

    findings = _findings()
    if as_json:
        show.echo_json({"findings": [msgspec.to_builtins(finding) for finding in findings]})
    else:
        _print(findings)
    if not findings[0].ok:
        click.get_current_context().exit(1)


def _measure(as_json: bool) -> None:
    """Measure the rates on all ranks; rank 0 keeps and shows them."""
    import msgspec

    from qsimenv import comm
    from qsimenv.cli import show
    from qsimenv.statevec.costs import calibrate, rates
    from qsimenv.statevec.threads import set_threads

    team = comm.world()
    found = calibrate.measure(team, set_threads())
    if team.rank:
        return
    path = rates.save(found)
    if as_json:
        show.echo_json({"file": str(path), "rates": msgspec.to_builtins(found)})
        return
    rows = [
        ("source", found.source),
        (
            "memory",
            f"{found.memory_bytes_per_s / 1e9:.1f} GB/s read and written by a sweep, "
            f"{found.store_bytes_per_s / 1e9:.1f} GB/s where it only writes",
        ),
        ("exchange", f"{found.exchange_bytes_per_s / 1e9:.1f} GB/s sent by a rank while it receives as much"),
        *((name, _pass_rates(found.of(name))) for name in ("single", "double")),
        ("kept in", str(path)),
    ]
    show.fields(show.console(), rows)


def _pass_rates(found: PassRates) -> str:
    from qsimenv.statevec.costs.rates import PASS_KINDS

    passes = ", ".join(f"{kind} {found.seconds(kind) * 1e9:.2f}" for kind in PASS_KINDS)
    return f"{found.flops_per_s / 1e9:.0f} Gflop/s a thread; ns an amplitude: {passes}"


def _print(findings: list[Finding]) -> None:
    from rich.text import Text

    from qsimenv.cli import show

    out = show.console()
    rows: list[tuple[str | Text, str | Text]] = []
    for finding in findings:
        mark = ("ok    ", "green") if finding.ok else ("look  ", "yellow")
        rows.append((Text.assemble(mark, finding.name), finding.found))
        if finding.advice and not finding.ok:
            rows.append(("", Text(f"-> {finding.advice}", style="dim")))
    show.fields(out, rows)
    bad = sum(not finding.ok for finding in findings)
    out.print("all is well" if not bad else f"{plural(bad, 'thing')} to look at")


def _findings() -> list[Finding]:
    from qsimenv.launcher import doctor as launching

    return [
        _packages(),
        *launching.check_all(),
        _mpi4py(),
        _compiler_cache(),
        _memory(),
        _cores(),
        _rates(),
        _gpu(),
        _environment(),
    ]


def _packages() -> Finding:
    from qsimenv.launcher.doctor import Finding

    names = ("qsimenv", "numpy", "numba", "mpi4py", "pyzmq", "msgspec", "qiskit")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            return Finding("packages", False, f"{name} is not installed", f"pip install {name}")
    return Finding("packages", True, f"Python {sys.version.split()[0]}, {', '.join(versions)}")


def _mpi4py() -> Finding:
    """Whether mpi4py finds an MPI library; tried in another process, because a missing one may end it."""
    import subprocess

    from qsimenv.launcher.doctor import Finding

    probe = "from qsimenv import comm; print(comm.library_version())"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 0:
        return Finding("mpi4py", True, done.stdout.strip(" \n\0"))
    words = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    advice = "pip install 'qsimenv[mpi]', or load your site's MPI module (circuits run in one process without it)"
    return Finding("mpi4py", False, words, advice)


def _compiler_cache() -> Finding:
    """Whether compiled kernels can be kept, and whether they are there already."""
    from qsimenv.launcher.doctor import Finding
    from qsimenv.statevec import kernel_cache

    folders = [kernel_cache.folder(module) for module in kernel_cache.kernel_modules()]
    if None in folders:
        found = f"neither {' nor '.join(map(str, kernel_cache.roots(os.environ)))} can be written"
        advice = "set NUMBA_CACHE_DIR to a folder that you can write to and all nodes share, else each start compiles"
        return Finding("compiler cache", False, found, advice)
    kept = sum(len(list(folder.glob("*.nbc"))) for folder in folders if folder)
    state = f"{kept} kernels kept" if kept else "empty: the first run compiles; `qsimenv doctor --compile` does it now"
    return Finding("compiler cache", True, f"{_cache_root()}: {state}")


def _cache_root() -> Path | None:
    """Where the folders of compiled kernels are."""
    from qsimenv.statevec import kernel_cache

    folder = kernel_cache.folder(kernel_cache.kernel_modules()[0])
    return folder.parent if folder else None


def _compile(as_json: bool) -> None:
    """Compile all kernels, each precision in a process of its own, and tell how it goes."""
    import subprocess
    import time

    from qsimenv.cli import show
    from qsimenv.cli.progress import busy
    from qsimenv.statevec.rehearsal import rehearse

    began = time.perf_counter()
    other = [sys.executable, "-c", "from qsimenv.statevec.rehearsal import rehearse; rehearse(['single'])"]
    with busy("compiling"), subprocess.Popen(other, stderr=subprocess.DEVNULL) as single:
        rehearse(["double"])
        single.wait()
        rehearse(["single"])  # loads, and compiles what the other process could not
    seconds = time.perf_counter() - began
    if as_json:
        show.echo_json({"folder": str(_cache_root()), "seconds": round(seconds, 1)})
    else:
        click.echo(f"all kernels are compiled ({seconds:.0f} s), in {_cache_root()}")


def _memory() -> Finding:
    from qsimenv import memory
    from qsimenv.launcher.doctor import Finding
    from qsimenv.wording import readable

    free = memory.free_bytes()
    qubits = (free * 8 // 9 // 16).bit_length() - 1
    return Finding("memory", free > 1 << 30, f"{readable(free)} free: up to {qubits} qubits in double precision here")


def _cores() -> Finding:
    from qsimenv.launcher.allocation import default_ranks_per_node, find_allocation
    from qsimenv.launcher.doctor import Finding

    allocation = find_allocation()
    ranks = default_ranks_per_node(allocation)
    nodes = len(allocation.nodes)
    found = f"{allocation.source}: {plural(nodes, 'node')}, {plural(allocation.nodes[0].cores, 'core')} each"
    return Finding("allocation", True, f"{found}; start would use {plural(ranks, 'worker')} a node")


def _rates() -> Finding:
    """Whether estimates go by measured rates."""
    from qsimenv.errors import QSimEnvError
    from qsimenv.launcher.doctor import Finding
    from qsimenv.statevec.costs import rates

    try:
        return Finding("rates", True, rates.load().source)
    except QSimEnvError as error:
        return Finding("rates", False, error.message, "`qsimenv doctor --measure` measures them anew")


def _gpu() -> Finding:
    from qsimenv.launcher.doctor import Finding

    devices = sorted(Path("/dev").glob("nvidia[0-9]*")) + sorted(Path("/dev/dri").glob("renderD*"))
    cupy = util.find_spec("cupy") is not None
    if not devices:
        return Finding("GPU", True, "none seen; state vectors run on the CPU")
    if not cupy:
        return Finding(
            "GPU", False, f"{len(devices)} device(s), but no CuPy", "pip install cupy-cuda13x (or cupy-rocm-7-0)"
        )
    from qsimenv import arrays
    from qsimenv.errors import QSimEnvError

    try:
        gpu = arrays.gpu()
    except QSimEnvError as error:
        return Finding("GPU", False, error.message, "see nvidia-smi or rocm-smi, and which CuPy fits the driver")
    way = "GPU buffers" if gpu.takes_messages else "host memory"
    return Finding("GPU", True, f"{gpu.name}, {len(devices)} device(s); ranks trade amplitudes through {way}")


def _environment() -> Finding:
    """Whether an environment runs, and answers."""
    from qsimenv.errors import QSimEnvError
    from qsimenv.launcher.doctor import Finding
    from qsimenv.qpm_plugin.client import connect, find_connection

    path = find_connection()
    if path is None:
        return Finding("environment", True, "none is running; `qsimenv start` starts one")
    try:
        with connect(path, timeout_s=3.0) as qpm:
            facts = qpm.describe()
    except QSimEnvError as error:
        return Finding("environment", False, error.message, "`qsimenv stop` cleans up, `qsimenv start` starts one")
    return Finding("environment", True, f"{facts['name']} with {facts['ranks']} workers, {path}")
