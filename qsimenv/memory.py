"""How much memory this process may take: the machine's, or what its control group and its neighbours leave of it."""

from __future__ import annotations

import math
import resource
import time
from pathlib import Path

import psutil

_ranks_here = 1
_rank_here = 0
RECENT_S = 0.01
_peak_bytes, _peak_seen = 0, -math.inf


def free_bytes() -> int:
    """Bytes that this node (or the control group around us) can still hand out, swap not counted."""
    return min(int(psutil.virtual_memory().available), _free_in_control_group())


def free_bytes_per_process() -> int:
    """This process's share of ``free_bytes`` where several ranks of its MPI job live on the node."""
    return free_bytes() // ranks_on_this_node()


def ranks_on_this_node() -> int:
    """How many ranks of our MPI job live on this node; 1 until ``comm`` has found out."""
    return _ranks_here


def rank_on_this_node() -> int:
    """This process's place among them; 0 until ``comm`` has found out."""
    return _rank_here


def set_ranks_on_this_node(ranks: int, rank: int = 0) -> None:
    """Told by ``comm`` when it joins an MPI job."""
    global _ranks_here, _rank_here
    _ranks_here, _rank_here = ranks, rank


def peak_bytes() -> int:
    """The most memory that this process has held at once (its resident set)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def recent_peak_bytes() -> int:
    """``peak_bytes``, seen at most RECENT_S ago: to look costs as much as a small circuit takes."""
    global _peak_bytes, _peak_seen
    now = time.monotonic()
    if now - _peak_seen > RECENT_S:
        _peak_bytes, _peak_seen = peak_bytes(), now
    return _peak_bytes


def _free_in_control_group() -> int:
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().rpartition("::")[2].splitlines()[0]
        folder = Path("/sys/fs/cgroup") / group.lstrip("/")
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = (folder / "memory.current").read_text(encoding="ascii").strip()
    except (OSError, IndexError):
        return 1 << 62
    return 1 << 62 if limit == "max" else max(0, int(limit) - int(used))
