"""A mini-cluster by hand: ``python -m tests.cluster up|enter|slow|down`` (as root); ``make cluster`` too.

One at a time: it holds a lock as long as its processes live, so what remains of one that was killed is no obstacle.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from pathlib import Path

import psutil

from tests.cluster.cluster import LOGIN, ROOT, Cluster, end, environment, missing, spawn, wait_until, wait_until_up

LOCK = Path("/run/qsimenv-cluster.lock")
LOG = Path("/run/qsimenv-cluster.log")


def up(hosts: int, slurm: bool) -> None:
    reason = missing(slurm)
    if reason:
        sys.exit(reason)
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("a mini-cluster is up already: `make cluster-enter`, or `make cluster-down` first")
    process = spawn(hosts, slurm=slurm, shared=[], output=LOG, detached=True, lock=descriptor)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{process.pid} {hosts}\n".encode())
    made = Cluster(psutil.Process(process.pid), hosts, environment())
    try:
        wait_until_up(made, slurm=slurm, output=LOG)
    except BaseException:
        end(made.process)
        raise
    print(f"up: {LOGIN} and {', '.join(made.hosts)}")
    if slurm:
        print(made.run(LOGIN, "sinfo"), end="")
    print("make cluster-enter    a shell on the login node\nmake cluster-down     the end of it")


def find() -> Cluster:
    """The cluster that is up. Exits where there is none."""
    try:
        descriptor = os.open(LOCK, os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid, hosts = map(int, LOCK.read_text(encoding="ascii").split())
        return Cluster(psutil.Process(pid), hosts, environment())
    except FileNotFoundError:
        pass
    LOCK.unlink(missing_ok=True)
    LOG.unlink(missing_ok=True)
    sys.exit("no mini-cluster is up; `make cluster` brings one up")


def enter(host: str, command: list[str]) -> None:
    """Become the command, or a shell, on a host."""
    words = find().enter(host, *(command or ["bash", "--norc"]))
    os.chdir(ROOT)
    os.execvpe(words[0], words, {**environment(), "PS1": f"{host}:\\w# "})  # noqa: S606  a token list


def slow(host: str, mbit_per_s: float | None, delay_ms: float) -> None:
    """Slow what goes to a host, or give it the full speed again."""
    cluster = find()
    if mbit_per_s is None:
        cluster.unslow(host)
    else:
        try:
            cluster.slow(host, 1e6 * mbit_per_s, 1e-3 * delay_ms)
        except ValueError as error:
            raise SystemExit(str(error)) from None


def down() -> None:
    cluster = find()
    end(cluster.process)
    wait_until(lambda: not cluster.process.is_running(), 60, lambda: "the cluster's process does not end")
    LOCK.unlink()
    LOG.unlink(missing_ok=True)
    print("the mini-cluster is gone")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    bring_up = actions.add_parser("up", help="bring it up")
    bring_up.add_argument("--hosts", type=int, default=3)
    bring_up.add_argument("--no-slurm", action="store_true", help="the hosts alone")
    go = actions.add_parser("enter", help="a shell, or a command, on a host")
    go.add_argument("--host", default=LOGIN)
    go.add_argument("command", nargs="*")
    link = actions.add_parser("slow", help="slow what goes to a host; without a rate: the full speed again")
    link.add_argument("host")
    link.add_argument("--mbit-per-s", type=float)
    link.add_argument("--delay-ms", type=float, default=0)
    actions.add_parser("down", help="take it down")
    options = parser.parse_args()
    if options.action == "up":
        up(options.hosts, not options.no_slurm)
    elif options.action == "enter":
        enter(options.host, options.command)
    elif options.action == "slow":
        slow(options.host, options.mbit_per_s, options.delay_ms)
    else:
        down()


main()
