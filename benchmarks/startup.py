"""How long `start` takes on 1, 4, 16, 64 hosts: imitated ones on this machine, as root. PRTE's share and all of it.

    python -m benchmarks startup [--hosts 1 4 16 64]

Every host is a network namespace with its own daemon and one worker, but all share the cores of this machine, so what
grows here with the hosts grows far slower on hosts of their own. The DVM's figure is the time until every host has
answered a first trivial job; the workers then import Python's packages and load compiled kernels, all on these cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.machine import save
from tests.cluster import cluster as mini

_START = """
import json, sys, time
from pathlib import Path
from qsimenv.launcher import environment
began, phases = time.perf_counter(), {}
def on_phase(phase):
    phases[phase.partition(" ")[2].partition(" ")[0]] = time.perf_counter() - began
folder = Path(sys.argv[1])
try:
    environment.start("startup", run_folder=folder, hosts=sys.argv[2], ranks_per_node=1, profile=sys.argv[3],
                      timeout_s=300, on_phase=on_phase)
    ready = time.perf_counter() - began
finally:
    began = time.perf_counter()
    environment.stop("startup", run_folder=folder)
print(json.dumps({"dvm_s": list(phases.values())[1], "ready_s": ready, "stop_s": time.perf_counter() - began}))
"""


def measure(hosts: int) -> dict[str, float]:
    """Seconds until the DVM has answered on all hosts, until all workers have answered, and for the stop."""
    with TemporaryDirectory(prefix="qsimenv-bench-") as name:
        scratch = Path(name)
        profile = scratch / "site.toml"
        profile.write_text(f'description = ""\nnetwork = "{mini.NETWORK}"\nssh_agent = "{mini.AGENT}"\n')
        with mini.running(hosts, slurm=False, shared=[scratch], output=scratch / "output") as cluster:
            began = time.perf_counter()
            names = ",".join(f"{host}:1" for host in cluster.hosts)
            arguments = (sys.executable, "-c", _START, scratch / "run", names, profile)
            figures: dict[str, float] = json.loads(cluster.run(mini.LOGIN, *arguments, timeout_s=900))
            print(f"  ({time.perf_counter() - began:.1f} s in all)", file=sys.stderr)
            cluster.assert_clean(60)
    return {name: round(seconds, 2) for name, seconds in figures.items()}


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 4, 16, 64])
    options = parser.parse_args(arguments)
    reason = mini.missing(slurm=False)
    if reason is not None:
        print(f"startup: left out: {reason}")
        return {}
    figures: dict[str, Any] = {}
    measure(1)  # compiles kernels that are not there, and reads all files once
    for hosts in options.hosts:
        figures[str(hosts)] = found = measure(hosts)
        print(
            f"{hosts:3} hosts: DVM {found['dvm_s']} s, ready {found['ready_s']} s, stop {found['stop_s']} s", flush=True
        )
    save("startup", figures)
    return figures
