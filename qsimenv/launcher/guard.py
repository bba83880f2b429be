"""A small parent for prte or prterun that leaves nothing behind: ``python -m qsimenv.launcher.guard … -- command``.

PRTE puts every rank into a process group of its own, and ranks outlive a prte that was killed. The guard is their
reaper (PR_SET_CHILD_SUBREAPER), so whatever becomes an orphan becomes its child. It ends everything (SIGTERM, a few
seconds, SIGKILL) and removes the scratch folders when its standard input closes (its owner is gone, even by SIGKILL),
when it gets SIGTERM, or when the command ends. Its exit status is the command's, 128 + n for signal n.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None, use_errno=True)
_ORPHANS_GRACE_S = 0.5


def die_with_parent(parent: int, signum: int = signal.SIGTERM) -> None:
    """Get `signum` when the parent's thread that started us ends; exit at once if the parent is gone already."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def become_reaper() -> None:
    """Let whatever becomes an orphan below this process become its child."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(root: int) -> list[int]:
    """The ids of all living (not zombie) processes below `root`, read from /proc."""
    children: dict[int, list[int]] = {}
    zombies: set[int] = set()
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):
                state, parent = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()[:2]
                children.setdefault(int(parent), []).append(int(entry))
                if state in b"ZX":
                    zombies.add(int(entry))
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return [pid for pid in found if pid not in zombies]


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    die_with_parent(os.getppid() if options.parent is None else options.parent)
    become_reaper()
    for folder in options.scratch:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    wakeup = wakeup_pipe()
    try:
        child = _start(options.command)
        status = _watch(child, wakeup)
        if status is None:
            status = _end_command(child, wakeup, options.grace)
        _end_descendants(_ORPHANS_GRACE_S if status == -signal.SIGKILL else options.grace)
    finally:
        for folder in options.scratch:
            shutil.rmtree(folder, ignore_errors=True)
    return status if status >= 0 else 128 - status


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="qsimenv.launcher.guard")
    parser.add_argument("--scratch", type=Path, action="append", default=[], help="folder to make, removed at the end")
    parser.add_argument("--grace", type=float, default=5.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--parent", type=int, help="process id of the owner")
    parser.add_argument("command", nargs="+")
    return parser.parse_args(arguments)


def wakeup_pipe() -> int:
    """A descriptor that becomes readable when a signal has come."""
    read_end, write_end = os.pipe()
    for end in (read_end, write_end):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(write_end)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(signum, lambda *_: None)
    return read_end


def _start(command: list[str]) -> int:
    me = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            die_with_parent(me)
            signal.set_wakeup_fd(-1)
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(signum, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.execv(command[0], command)  # noqa: S606  a token list, no shell
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(127)
    return pid


def _watch(child: int, wakeup: int) -> int | None:
    """Wait for the command's end (its status) or for the order to end it (None)."""
    while True:
        ready, _, _ = select.select([0, wakeup], [], [])
        signals = os.read(wakeup, 64) if wakeup in ready else b""
        status = reap(child)
        if status is not None:
            return status
        if any(number != signal.SIGCHLD for number in signals) or (0 in ready and not os.read(0, 64)):
            return None


def _end_command(child: int, wakeup: int, grace_s: float) -> int:
    """SIGTERM, by which prte ends its jobs and daemons; twice more after half the grace, by which a stuck prte kills
    its ranks and removes its folder; SIGKILL after all of it."""
    for signals in ([signal.SIGTERM], [signal.SIGTERM] * 2):
        for signum in signals:
            kill(child, signum)
            time.sleep(0.05)  # signals of one kind that come at once are merged
        status = _wait_for(child, wakeup, grace_s / 2)
        if status is not None:
            return status
    kill(-child, signal.SIGKILL)
    while (status := reap(child)) is None:
        time.sleep(0.01)
    return status


def _wait_for(child: int, wakeup: int, timeout_s: float) -> int | None:
    deadline = time.monotonic() + timeout_s
    while (status := reap(child)) is None and (left_s := deadline - time.monotonic()) > 0:
        select.select([wakeup], [], [], min(left_s, 0.1))
        with contextlib.suppress(BlockingIOError):
            os.read(wakeup, 64)
    return status


def _end_descendants(grace_s: float) -> None:
    """Give orphans time to end by themselves, then SIGKILL them until none is left.

    A prte that was not killed has ended its ranks; what it leaves are its ways to other nodes (srun, ssh), which end
    when the daemons there have tidied up.
    """
    deadline = time.monotonic() + grace_s
    while left := descendants(os.getpid()):
        if time.monotonic() > deadline:
            for pid in left:
                kill(pid, signal.SIGKILL)
        reap()
        time.sleep(0.01)


def reap(child: int = -1) -> int | None:
    """Collect every ended child; the status of `child` (-n: signal n) if it is among them."""
    result = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                result = os.waitstatus_to_exitcode(ended[1])
    return result


def kill(pid: int, signum: int) -> None:
    """Send a signal to a process (or group, when negative) that may have ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
