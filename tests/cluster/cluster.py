"""The mini-cluster: imitated hosts on this machine, with a real Slurm; for tests, and by hand (`make cluster`).

A host is a set of namespaces: its own name, address, /tmp and /dev/shm; files elsewhere are shared, as on a cluster.
Everything lives below one process in a namespace of processes (`boot`), so that killing it leaves nothing, and below
the test that started it, so that its death leaves nothing either. Needs root, iproute2 and, for Slurm, Debian's
slurm-wlm and munge.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil

from tests.processes import family_of, kill_all, words_of

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NETWORK = "10.77.0.0/24"
LOGIN = "login"
AGENT = HERE / "agent"
START_S = 120.0
_FINISHED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "PREEMPTED"}
_NAMESPACES = ("unshare", "--pid", "--fork", "--kill-child", "--mount", "--net", "--uts", "--mount-proc")


def missing(slurm: bool = True) -> str | None:
    """Why there can be no mini-cluster here, or None."""
    if os.getuid() != 0:
        return "the mini-cluster needs root: it makes network namespaces"
    programs = ["ip", "unshare", "nsenter", *(["slurmctld", "slurmd", "munged"] if slurm else [])]
    absent = [name for name in programs if shutil.which(name) is None]
    if absent:
        return f"the mini-cluster needs {', '.join(absent)} (Debian: iproute2, slurm-wlm, munge)"
    tried = subprocess.run(
        [*_NAMESPACES, "ip", "link", "add", "switch", "type", "bridge"], capture_output=True, check=False
    )
    return None if tried.returncode == 0 else f"no namespaces or bridges here: {tried.stderr.decode().strip()}"


@dataclass
class Job:
    """A finished or running Slurm job: its number, its state, its exit code ("0:0" is well), its reason."""

    number: int
    state: str
    exit_code: str
    text: str


@dataclass
class Cluster:
    """A mini-cluster that is up; ``process`` is the `unshare` above everything in it."""

    process: psutil.Process
    number_of_hosts: int
    environ: Mapping[str, str] = field(default_factory=dict)
    _baseline: frozenset[int] = frozenset()

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of the hosts, without the login node."""
        return tuple(f"node{k + 1}" for k in range(self.number_of_hosts))

    @property
    def compute(self) -> tuple[str, ...]:
        """The hosts of the partition `compute`."""
        return self.hosts[: (self.number_of_hosts + 2) // 3]

    @property
    def quantum(self) -> tuple[str, ...]:
        """The hosts of the partition `quantum`, each with one QC."""
        return self.hosts[len(self.compute) :]

    @property
    def boot(self) -> psutil.Process:
        """The first process of the cluster's own namespaces."""
        return self.process.children()[0]

    def file(self, name: str) -> Path:
        """A file of the cluster's own folder (logs, slurm.conf), as seen from outside."""
        return Path(f"/proc/{self.boot.pid}/root/run/cluster/{name}")

    def enter(self, host: str, *argv: object) -> list[str]:
        """Tokens that run a command on a host, or on the login node."""
        pid = self.boot.pid if host == LOGIN else self._first_process(host)
        spaces = ("--mount", "--uts", "--net", "--pid")
        return ["nsenter", "--target", str(pid), *spaces, f"--wdns={ROOT}", "--", *map(str, argv)]

    def popen(self, host: str, *argv: object, **environ: str) -> subprocess.Popen[str]:
        """Start a command on a host; its output comes through pipes."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.enter(host, *argv),
            stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, env={**self.environ, **environ},
        )  # fmt: skip

    def run(self, host: str, *argv: object, timeout_s: float = 60, **environ: str) -> str:
        """Run a command on a host to its good end and return its output. AssertionError with all it said otherwise."""
        process = self.popen(host, *argv, **environ)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            family = family_of(process.pid)
            process.kill()
            kill_all(family)
            out, err = process.communicate()
            raise AssertionError(f"{host}: not done after {timeout_s} s: {argv}\n{out}\n{err}") from None
        assert process.returncode == 0, f"{host}: status {process.returncode}: {argv}\n{out}\n{err}"
        return out

    def submit(self, *arguments: object, **environ: str) -> int:
        """`sbatch` with these arguments on the login node; the job's number."""
        return int(self.run(LOGIN, "sbatch", "--parsable", *arguments, **environ).split(";")[0])

    def job(self, number: int) -> Job:
        """What Slurm says of a job (of a heterogeneous one or an array: of its first part)."""
        text = self.run(LOGIN, "scontrol", "show", "job", "--oneliner", number)
        return Job(number, _value(text, "JobState"), _value(text, "ExitCode"), text)

    def states(self, number: int) -> list[str]:
        """The states of all parts of a heterogeneous job or an array."""
        text = self.run(LOGIN, "scontrol", "show", "job", "--oneliner", number)
        return [_value(line, "JobState") for line in text.splitlines() if line.startswith("JobId=")]

    def wait(self, number: int, timeout_s: float = 240) -> list[str]:
        """Wait until all parts of a job have ended and have left their nodes; their states."""
        wait_until(
            lambda: set(self.states(number)) <= _FINISHED, timeout_s, lambda: f"job {number}: {self._report(number)}"
        )
        return self.states(number)

    def cancel_all(self, timeout_s: float = 60) -> None:
        """End every job, and wait until Slurm has nothing left to do."""
        self.run(LOGIN, "scancel", "--user=root")
        wait_until(
            lambda: not self.run(LOGIN, "squeue", "--noheader").strip(),
            timeout_s,
            lambda: f"{self.run(LOGIN, 'squeue')}\n{self.remains()}",
        )
        wait_until(lambda: _idle(self) == self.number_of_hosts, timeout_s, lambda: self.run(LOGIN, "sinfo", "--long"))

    def pids(self, host: str) -> set[int]:
        """All processes on a host, numbered as seen from outside."""
        network = _network_of(self._first_process(host))
        return {pid for pid in psutil.pids() if _network_of(pid) == network}

    def remains(self) -> list[str]:
        """Every process and file that the hosts did not have when they came up."""
        processes = [
            f"{host}: process {pid} {' '.join(words_of(pid))[:200]}"
            for host in self.hosts
            for pid in self.pids(host) - self._baseline
        ]
        return processes + [f"{host}: file {path}" for host in self.hosts for path in self._files(host)]

    def assert_clean(self, timeout_s: float = 60) -> None:
        """Nothing of a job is left on any host; the last processes have a moment to vanish.

        What is left is removed when it has been told: it is not the next test's fault.
        """
        try:
            wait_until(lambda: not self.remains(), timeout_s, lambda: f"left behind: {self.remains()}")
        except AssertionError:
            for host in self.hosts:
                kill_all(self.pids(host) - self._baseline)
                self.run(host, "rm", "-rf", "--", *self._files(host))
            raise

    def cut(self, host: str) -> None:
        """Pull the host's cable."""
        self._port(host, "ip", "link", "set", "PORT", "down")

    def mend(self, host: str) -> None:
        """Put the host's cable back."""
        self._port(host, "ip", "link", "set", "PORT", "up")

    def slow(self, host: str, bits_per_s: float, delay_s: float = 0.0) -> None:
        """Slow what goes to the host. A delay is netem's, or, where the kernel has none, that of a wire (`wire.py`).

        Raises ValueError for a rate that is not above 0, or a delay below 0.
        """
        if not (bits_per_s > 0 and delay_s >= 0):
            raise ValueError(f"slow: {bits_per_s:g} bit/s and {delay_s:g} s found, more than 0 and at least 0 needed")
        rate, delay = f"{bits_per_s:.0f}bit", f"{1e6 * delay_s:.0f}us"
        queue = ("tc", "qdisc", "replace", "dev", "PORT", "root")
        if not delay_s:
            self._port(host, *queue, "tbf", "rate", rate, "burst", "256kb", "latency", "100ms")
        elif _has_netem():
            self._port(host, *queue, "netem", "rate", rate, "delay", delay, "limit", "10000")
        else:
            self._port(host, sys.executable, str(HERE / "wire.py"), host, _address(host), str(bits_per_s), str(delay_s))

    def unslow(self, host: str) -> None:
        """The full speed again."""
        if f"long-{host}@" in self.run(LOGIN, "ip", "-brief", "link"):
            self.run(LOGIN, "ip", "link", "delete", f"long-{host}")
        else:
            self._port(host, "tc", "qdisc", "delete", "dev", "PORT", "root")

    def _port(self, host: str, *argv: str) -> None:
        self.run(LOGIN, *(host.replace("node", "port") if word == "PORT" else word for word in argv))

    def _first_process(self, host: str) -> int:
        for process in self.boot.children():
            if words_of(process)[-2:] == [str(HERE / "host"), host]:
                return int(process.pid)
        raise AssertionError(f"{host} is not one of the cluster's hosts, or it is down")

    def _files(self, host: str) -> list[str]:
        root = Path(f"/proc/{self._first_process(host)}/root")
        folders = [path for path in map(Path, self.file("shared").read_text().split()) if path.is_relative_to("/tmp")]
        shared = {Path("/tmp") / path.parts[2] for path in folders}
        found = {f"/{path.relative_to(root)}" for name in ("tmp", "dev/shm") for path in (root / name).iterdir()}
        return sorted(found - set(map(str, shared)))

    def _report(self, number: int) -> str:
        return self.job(number).text + "\n" + self.run(LOGIN, "sinfo", "--long", "--Node")

    def remember(self) -> None:
        """Take what runs now for what belongs on the hosts."""
        self._baseline = frozenset().union(*(self.pids(host) for host in self.hosts))


def spawn(
    hosts: int, *, slurm: bool, shared: list[Path], output: Path, detached: bool = False, lock: int | None = None
) -> subprocess.Popen[bytes]:
    """Start the cluster's processes; they end with this thread unless ``detached``, and keep ``lock`` open."""
    seen = [str(path) for path in (ROOT, Path(sys.prefix), Path(sys.base_prefix), *shared)]
    tie = [] if detached else ["setpriv", "--pdeathsig", "KILL"]
    command = [*tie, *_NAMESPACES, HERE / "boot", str(hosts), str(int(slurm)), *seen]
    with output.open("wb") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            pass_fds=[] if lock is None else [lock],
        )  # fmt: skip


def environment() -> dict[str, str]:
    """What commands on the cluster get: ours, with this Python's programs first on PATH, and nothing of Slurm's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "PYTEST_", "QSIMENV_", "TMPDIR"))
    }
    root = {f"{name}_ALLOW_RUN_AS_ROOT{end}": "1" for name in ("OMPI", "PRTE") for end in ("", "_CONFIRM")}
    polite = {"OMPI_MCA_mpi_yield_when_idle": "1"}  # the hosts share a few cores, and waiting ranks spin
    return {
        **kept,
        **root,
        **polite,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
    }


def wait_until_up(cluster: Cluster, *, slurm: bool, output: Path, timeout_s: float = START_S) -> None:
    """Wait until every host is there, and idle in Slurm's eyes."""

    def is_up() -> bool:
        assert cluster.process.status() != psutil.STATUS_ZOMBIE, output.read_text()
        try:
            return cluster.file("up").exists() and all(cluster.file(f"{host}.pid").exists() for host in cluster.hosts)
        except (IndexError, psutil.NoSuchProcess):
            return False

    wait_until(is_up, timeout_s, output.read_text)
    if slurm:
        wait_until(
            lambda: _idle(cluster) == cluster.number_of_hosts,
            timeout_s,
            lambda: f"{output.read_text()}\n{_logs(cluster)}",
        )
    cluster.remember()


@contextmanager
def running(hosts: int, *, slurm: bool = True, shared: list[Path], output: Path) -> Iterator[Cluster]:
    """A mini-cluster for the block; it is gone afterwards, whatever happened."""
    process = spawn(hosts, slurm=slurm, shared=shared, output=output)
    try:
        made = Cluster(psutil.Process(process.pid), hosts, environment())
        wait_until_up(made, slurm=slurm, output=output)
        yield made
    finally:
        end(psutil.Process(process.pid))
        process.wait()


def end(process: psutil.Process) -> None:
    """Kill the cluster's processes and wait until none is left."""
    family = family_of(process)
    kill_all([process])
    _, left = psutil.wait_procs(family, timeout=60)
    assert not left, f"left of the cluster: {left}"


def wait_until(condition: Callable[[], object], timeout_s: float, what: Callable[[], str]) -> None:
    """Wait for a condition; AssertionError with what ``what`` says then after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"after {timeout_s} s: {what()}"
        time.sleep(0.1)


@cache
def _has_netem() -> bool:
    """Whether this kernel can delay what a device sends."""
    tried = [*_NAMESPACES, "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


def _address(host: str) -> str:
    """The address on the switch that `boot` gives a host."""
    return f"02:77:00:00:00:{int(host.removeprefix('node')):02x}"


def _idle(cluster: Cluster) -> int:
    process = cluster.popen(LOGIN, "sinfo", "--noheader", "--Node", "--states=idle", "--format=%N")
    return len(set(process.communicate(timeout=60)[0].split()))


def _logs(cluster: Cluster) -> str:
    names = ["slurmctld.log", "slurmctld.out", "munged.log", *(f"{host}.log" for host in cluster.hosts)]
    return "\n".join(cluster.file(name).read_text()[-2000:] for name in names if cluster.file(name).exists())


def _value(text: str, key: str) -> str:
    match = re.search(rf"\b{key}=(\S+)", text)
    assert match is not None, f"{key} is not in {text}"
    return match[1]


def _network_of(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return 0
