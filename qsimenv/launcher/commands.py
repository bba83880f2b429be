"""Command lines and environments for PRTE and srun, as pure functions: they start nothing, tests compare the tokens.

`dvm.py` and `spawn.py` run what is built here. What a rank needs (variables, folder, log, its death with its
daemon) travels as one shell text in ONE variable, RANK_SETUP, because the bindings of PMIx 4.2.2 drop an app's
environment and PRTE 3.0 keeps only one of several PMIX_SET_ENVAR; so it never shows in a process list either.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qsimenv.errors import InvalidArgumentError, LibraryNotFoundError
from qsimenv.launcher.allocation import Allocation

RANK_SETUP = "QSIMENV_RANK_SETUP"
RANK_SHELL = ("/bin/sh", "-c", f'eval "${RANK_SETUP}"', "qsimenv-rank")

_INSTALL = "install it with `pip install 'qsimenv[mpi]'`, or load the site's PRTE (for example `module load prrte`)"
# A DVM of PRTE 3.0.14 starts ranks from 16 threads, and crashes now and then when jobs start while others end. Started
# from its main thread they also have a parent thread that lives as long as the daemon, on which setpriv relies.
_ONE_THREAD = ("odls_base_max_threads", "0")
_ROOT_SWITCHES = ("PRTE_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT")
_PREFIXES = ("OPAL_PREFIX", "PRTE_PREFIX", "PMIX_PREFIX")
# What belongs to the parent's own PMIx or MPI job, were it started in one; a new DVM must not see it.
_FOREIGN = ("PMIX_", "PRTE_", "OMPI_COMM_WORLD_", "OMPI_UNIVERSE_")
# Variables that differ from node to node or process to process: a rank keeps those of its own daemon.
_LOCAL_NAMES = ("HOSTNAME", "PWD", "OLDPWD", "SHLVL", "_", "DISPLAY", "TMPDIR", RANK_SETUP)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_VARIABLE = 128 * 1024 - len(RANK_SETUP) - 2  # Linux: MAX_ARG_STRLEN
_LOCAL_PREFIXES = (*_FOREIGN, "SLURM_", "SSH_", "XDG_", "BASH_FUNC_")


@dataclass(frozen=True)
class LaunchOptions:
    """What a site may need. ``world`` is who starts the ranks: PRTE, or srun with the site's MPI.

    ``cores_per_rank`` None leaves ranks unbound; local rank k sees device ``devices[k]`` through ``device_variable``;
    ``network`` is PRTE's (CIDR such as 10.0.0.0/24), ``ssh_agent`` its remote shell.
    """

    world: Literal["prte", "srun"] = "prte"
    cores_per_rank: int | None = None
    devices: tuple[int, ...] = ()
    device_variable: str | None = None
    ssh_agent: str | None = None
    network: str | None = None
    prte_mca: tuple[tuple[str, str], ...] = ()
    srun_options: tuple[str, ...] = ()

    @property
    def bind_to(self) -> str:
        """PRTE's word for it."""
        return "none" if self.cores_per_rank is None else "core"


PLAIN = LaunchOptions()
"""Nothing special: PRTE, and no binding."""


@dataclass(frozen=True)
class InstanceSpec:
    """What to launch: `ranks` ranks of `argv` (`argv[0]` is found on the ranks' PATH), as many a node as asked for
    (None: as many as cores), `environ` on top of ours, output added to `log_path` (on several nodes one file a node,
    with ``.host`` after the name)."""

    ranks: int
    ranks_per_node: int | None
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    cwd: str | None
    log_path: Path


def find_program(name: str, environ: Mapping[str, str] = os.environ) -> Path:
    """`name` next to this Python, else on PATH. Raises LibraryNotFoundError that says what to install."""
    beside = Path(sys.executable).parent / name
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which(name, path=environ.get("PATH"))
    if found is None:
        raise LibraryNotFoundError(f"{name} was found neither beside {sys.executable} nor on PATH; {_INSTALL}")
    return Path(found)


def prte_command(
    prte: Path,
    allocation: Allocation,
    *,
    uri_file: Path,
    pid_file: Path,
    session_folder: Path,
    options: LaunchOptions = PLAIN,
) -> list[str]:
    """Tokens that start the DVM on `allocation`; it reports to the two files and keeps its sessions in the folder."""
    return [
        str(prte),
        *("--report-uri", str(uri_file), "--report-pid", str(pid_file)),
        *_dvm_tokens(allocation, session_folder, options),
    ]


def prterun_command(
    prterun: Path,
    allocation: Allocation,
    spec: InstanceSpec,
    session_folder: Path,
    options: LaunchOptions = PLAIN,
) -> list[str]:
    """Tokens that run one instance in a DVM of its own."""
    return [
        str(prterun),
        *_dvm_tokens(allocation, session_folder, options),
        *("--map-by", map_by(allocation, spec.ranks, spec.ranks_per_node, options.cores_per_rank)),
        *("--bind-to", options.bind_to),
        *("-x", RANK_SETUP, "-n", str(spec.ranks)),
        *RANK_SHELL,
        *spec.argv,
    ]


def srun_command(srun: Path, allocation: Allocation, spec: InstanceSpec, options: LaunchOptions = PLAIN) -> list[str]:
    """Tokens that run one instance as a step of the Slurm job we are in, with the MPI that Slurm serves.

    Nodes come from the allocation by number, so that a few ranks use a few nodes; where some are left out, the others
    are named. Raises InvalidArgumentError outside of Slurm and for no room.
    """
    if allocation.source != "slurm":
        raise InvalidArgumentError("spawn: srun needs a Slurm allocation; use salloc or sbatch, or another profile")
    _check_room(allocation, spec.ranks, spec.ranks_per_node)
    per_node = spec.ranks_per_node or -(-spec.ranks // len(allocation.nodes))
    group = () if allocation.het_group is None else (f"--het-group={allocation.het_group}",)
    nodes = -(-spec.ranks // per_node)
    names = ",".join(node.name for node in allocation.nodes[:nodes])
    named = (f"--nodelist={names}",) if allocation.left_out else ()
    bound = () if options.cores_per_rank is None else (f"--cpus-per-task={options.cores_per_rank}",)
    return [
        str(srun),
        *group,
        *named,
        *(f"--nodes={nodes}", f"--ntasks={spec.ranks}", f"--ntasks-per-node={per_node}"),
        *(bound or ("--overcommit", "--cpu-bind=none")),
        *("--overlap", "--export=ALL", "--kill-on-bad-exit=1", "--unbuffered", "--input=none"),
        *options.srun_options,
        *RANK_SHELL,
        *spec.argv,
    ]


def map_by(allocation: Allocation, ranks: int, ranks_per_node: int | None, cores_per_rank: int | None = None) -> str:
    """PRTE's mapping text: node by node, more ranks than cores allowed. Raises InvalidArgumentError for no room."""
    _check_room(allocation, ranks, ranks_per_node)
    policy = "slot" if ranks_per_node is None else f"ppr:{ranks_per_node}:node"
    return policy + (f":pe={cores_per_rank}" if cores_per_rank else "") + ":OVERSUBSCRIBE"


def _check_room(allocation: Allocation, ranks: int, ranks_per_node: int | None) -> None:
    nodes = len(allocation.nodes)
    if ranks < 1 or (ranks_per_node is not None and ranks_per_node < 1):
        raise InvalidArgumentError(f"spawn: {ranks} ranks, {ranks_per_node} a node; both must be at least 1")
    if ranks_per_node is not None and ranks > ranks_per_node * nodes:
        raise InvalidArgumentError(
            f"spawn: {ranks} ranks do not fit {nodes} nodes with {ranks_per_node} ranks each; "
            f"ask for at most {ranks_per_node * nodes}"
        )


def device_choice(options: LaunchOptions, ranks_per_node: int | None) -> str:
    """Shell text by which a rank takes the device that is its own; empty where there is no choice, or srun makes it.

    Ranks are numbered node by node, so the number on the node follows from the rank: PRTE sets no local rank.
    """
    if options.world == "srun" or not options.devices or options.device_variable is None or ranks_per_node is None:
        return ""
    devices = [options.devices[k % len(options.devices)] for k in range(ranks_per_node)]
    cases = "".join(f" {k}) export {options.device_variable}={device};;" for k, device in enumerate(devices))
    return f"case $((${{PMIX_RANK:-0}} % {ranks_per_node})) in{cases} esac"


def prte_environment(base: Mapping[str, str], prte: Path, uid: int | None = None) -> dict[str, str]:
    """The environment of prte or prterun: `base` without a foreign PMIx job, with prefixes for a wheel's PRTE.

    A prte beside this Python was built for another place and has to be told its prefix; any other finds itself.
    """
    environ = {name: value for name, value in base.items() if not name.startswith(_FOREIGN)}
    if prte.parent == Path(sys.executable).parent:
        environ |= dict.fromkeys(_PREFIXES, str(prte.parent.parent))
    else:
        environ |= {name: base[name] for name in _PREFIXES if name in base}
    if (os.getuid() if uid is None else uid) == 0:
        environ |= {f"{name}{end}": "1" for name in _ROOT_SWITCHES for end in ("", "_CONFIRM")}
    return environ


def tool_environment(base: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The environment of pmix_tool: no PMIX_PREFIX (the bindings' libpmix is another one), native handshake only."""
    environ = {n: v for n, v in base.items() if not n.startswith(_FOREIGN) and n not in _PREFIXES}
    return python_environment(environ) | {"PMIX_MCA_psec": "native", "TMPDIR": str(scratch)}


def python_environment(base: Mapping[str, str]) -> dict[str, str]:
    """`base` with this package's parent folder first on PYTHONPATH, so that ``python -m qsimenv…`` finds it."""
    parts = [str(Path(__file__).parents[2]), base.get("PYTHONPATH", "")]
    return dict(base) | {"PYTHONPATH": os.pathsep.join(part for part in parts if part)}


def rank_environment(base: Mapping[str, str], extra: Mapping[str, str], prte: Path) -> dict[str, str]:
    """The variables to set in every rank on every node: those of `base` that hold everywhere, then `extra`."""
    general = {n: v for n, v in base.items() if n not in _LOCAL_NAMES and not n.startswith(_LOCAL_PREFIXES)}
    prefixes = dict.fromkeys(_PREFIXES, str(prte.parent.parent)) if prte.parent == Path(sys.executable).parent else {}
    return {**general, **prefixes, **extra}


def rank_setup(
    environ: Mapping[str, str],
    *,
    cwd: str | None,
    log_path: Path,
    log_per_host: bool,
    memory_folder: Path,
    device_choice: str = "",
) -> str:
    """The shell text that RANK_SHELL evaluates on the node before it becomes the rank's program ("$@").

    Output goes to `log_path` (with ``.host`` added when `log_per_host`, for O_APPEND is not atomic between nodes of a
    network file system); where that cannot be opened it stays with PRTE. Open MPI's shared memory goes to
    `memory_folder` where that exists, so that it can be removed whole. The rank dies with its daemon (setpriv).
    """
    log = shlex.quote(str(log_path)) + ('."${PMIX_HOSTNAME:-$(hostname)}"' if log_per_host else "")
    memory = shlex.quote(str(memory_folder))
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environ.items() if _NAME.fullmatch(name)]
    text = "\n".join(
        [
            f"unset {RANK_SETUP}",
            *exports,
            f"( : >>{log} ) 2>/dev/null && exec >>{log} 2>&1",
            f"[ -d {memory} ] && export OMPI_MCA_btl_sm_backing_directory={memory}",
            *([device_choice] if device_choice else []),
            *([f"cd {shlex.quote(cwd)} || exit 72"] if cwd else []),
            'setpriv --pdeathsig KILL true 2>/dev/null && exec setpriv --pdeathsig KILL "$@"',
            'exec "$@"',
        ]
    )
    if len(os.fsencode(text)) > _LONGEST_VARIABLE:
        raise InvalidArgumentError(
            f"spawn: the ranks' environment takes {len(text)} bytes, {_LONGEST_VARIABLE} are possible; "
            "unset large variables"
        )
    return text


def _dvm_tokens(allocation: Allocation, session_folder: Path, options: LaunchOptions) -> list[str]:
    mca = [("prte_local_tmpdir_base", str(session_folder)), _ONE_THREAD, *_slurm_mca(allocation)]
    if options.ssh_agent:
        mca.append(("plm_ssh_agent", options.ssh_agent))
    if options.network:
        mca.append(("prte_if_include", options.network))
    tokens = [token for name, value in (*mca, *options.prte_mca) for token in ("--prtemca", name, value)]
    return tokens + _host_tokens(allocation)


def _slurm_mca(allocation: Allocation) -> list[tuple[str, str]]:
    """How PRTE's own srun starts the daemons: beside the step of a DVM before it, which ends late on a lost node, and
    on the nodes that are meant, which PRTE 3.0 does not tell it: it would take the first ones of the job."""
    if allocation.source != "slurm":
        return []
    arguments = ["--overlap"]
    if allocation.het_group is not None:
        arguments.append(f"--het-group {allocation.het_group}")
    if allocation.left_out:
        names = ",".join(node.name for node in allocation.nodes)
        arguments.append(f"--nodes={len(allocation.nodes)} --nodelist={names}")
    chosen = [("ras", "^slurm"), ("plm", "slurm")] if _is_part_of_job(allocation) else []
    return [*chosen, ("plm_slurm_args", " ".join(arguments))]


def _is_part_of_job(allocation: Allocation) -> bool:
    """Whether PRTE must be told which nodes of the Slurm job are meant; otherwise it reads the allocation itself."""
    return allocation.source == "slurm" and (allocation.het_group is not None or bool(allocation.left_out))


def _host_tokens(allocation: Allocation) -> list[str]:
    if allocation.source == "machine":  # localhost: the machine's own name need not resolve
        return ["--host", f"localhost:{allocation.nodes[0].cores}"]
    if allocation.source == "slurm" and not _is_part_of_job(allocation):
        return []
    return ["--host", ",".join(f"{node.name}:{node.cores}" for node in allocation.nodes)]
