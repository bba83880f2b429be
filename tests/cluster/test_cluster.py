"""The mini-cluster itself: hosts that differ, a network that can be slowed and cut, Slurm, and nothing left behind."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cluster import cluster as mini
from tests.cluster.cluster import LOGIN, Cluster, wait_until
from tests.cluster.conftest import require
from tests.cluster.wire import bytes_on_the_cable
from tests.processes import family_of, words_of

pytestmark = [pytest.mark.environment, pytest.mark.slow, pytest.mark.timeout(400)]

OWNER = """
import sys
from pathlib import Path
from tests.cluster.cluster import running
with running(2, slurm=False, shared=[], output=Path(sys.argv[1])):
    print("up", flush=True)
    sys.stdin.read()
"""


def test_hosts_have_names_addresses_and_a_tmp_of_their_own(cluster: Cluster, tmp_path: Path) -> None:
    for k, host in enumerate(cluster.hosts):
        assert cluster.run(host, "hostname").strip() == host
        assert cluster.run(host, "getent", "hosts", host).split() == [f"10.77.0.{k + 1}", host]
        cluster.run(host, "sh", "-c", "echo $(hostname) >/tmp/mark; echo $(hostname) >/dev/shm/mark")
    (tmp_path / "shared").write_text("seen")
    for host in cluster.hosts:
        assert cluster.run(host, "cat", "/tmp/mark", "/dev/shm/mark").split() == [host, host]
        assert cluster.run(host, "cat", tmp_path / "shared") == "seen"
    left = cluster.remains()
    assert left == [f"{host}: file {folder}/mark" for host in cluster.hosts for folder in ("/dev/shm", "/tmp")], left
    for host in cluster.hosts:
        cluster.run(host, "rm", "/tmp/mark", "/dev/shm/mark")


def test_a_process_that_stays_is_found(cluster: Cluster) -> None:
    process = cluster.popen("node2", "sleep", "333")
    wait_until(lambda: any("sleep 333" in line for line in cluster.remains()), 60, lambda: str(cluster.remains()))
    assert all(line.startswith("node2: process") for line in cluster.remains())
    for pid in cluster.pids("node2"):
        if "333" in words_of(pid):
            os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)


def test_slurm_runs_on_both_partitions(cluster: Cluster) -> None:
    assert cluster.run(LOGIN, "srun", "--partition=compute", "hostname").split() == ["node1"]
    both = cluster.run(LOGIN, "srun", "--partition=quantum", "--nodes=2", "--gres=qc:1", "hostname")
    assert sorted(both.split()) == ["node2", "node3"]


def test_heterogeneous_job_of_slurm(cluster: Cluster) -> None:
    groups = ("--partition=compute", ":", "--partition=quantum", "--gres=qc:1")
    out = cluster.run(LOGIN, "salloc", "--quiet", *groups, "srun", "--het-group=0,1", "hostname", timeout_s=90)
    assert sorted(out.split()) == ["node1", "node2"]


KNOCK = "import socket, sys; socket.create_connection((sys.argv[1], 6818), timeout=2)"
"""At slurmd's door."""


def can_reach(cluster: Cluster, there: str, here: str = "node2") -> bool:
    process = cluster.popen(here, "python", "-c", KNOCK, there)
    process.communicate(timeout=60)
    return process.returncode == 0


def test_a_cable_can_be_pulled(cluster: Cluster) -> None:
    assert can_reach(cluster, "node3")
    cluster.cut("node3")
    try:
        assert not can_reach(cluster, "node3")
        assert can_reach(cluster, "node1")
    finally:
        cluster.mend("node3")
    wait_until(lambda: can_reach(cluster, "node3"), 60, lambda: "the cable is back, but nothing comes through")


SEND = """
import socket, sys, time
with socket.create_connection(("node2", 9999), timeout=60) as connection:
    began = time.perf_counter()
    connection.sendall(bytes(4 << 20))
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)
    print(time.perf_counter() - began)
"""
TAKE = """
import socket
with socket.create_server(("node2", 9999)) as server:
    print("ready", flush=True)
    connection = server.accept()[0]
    while connection.recv(1 << 20):
        pass
    connection.sendall(b"x")
"""


def seconds_for_4_mib(cluster: Cluster) -> float:
    server = cluster.popen("node2", "python", "-c", TAKE)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    seconds = float(cluster.run("node3", "python", "-c", SEND, timeout_s=90))
    server.communicate(timeout=60)
    return seconds


PING = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 9998), timeout=60) as connection:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(10):
        began = time.perf_counter()
        connection.sendall(b"x")
        connection.recv(1)
        print(time.perf_counter() - began)
"""
PONG = """
import socket
with socket.create_server(("", 9998)) as server:
    print("ready", flush=True)
    connection = server.accept()[0]
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := connection.recv(1):
        connection.sendall(data)
"""


def round_trips_s(cluster: Cluster, here: str, there: str) -> list[float]:
    server = cluster.popen(there, "python", "-c", PONG)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    seconds = [float(line) for line in cluster.run(here, "python", "-c", PING, there, timeout_s=90).split()]
    server.communicate(timeout=60)
    return seconds


def test_a_link_can_be_slowed(cluster: Cluster) -> None:
    """4 MiB at 20 Mbit/s take 1.7 s at the least, whatever else the machine does."""
    cluster.slow("node2", 20e6)
    try:
        assert seconds_for_4_mib(cluster) > 1.5
    finally:
        cluster.unslow("node2")


def test_a_link_can_be_slowed_and_delayed(cluster: Cluster) -> None:
    """What goes to node2 is late, and slow; what comes back is neither."""
    cluster.slow("node2", 20e6, delay_s=0.1)
    try:
        assert len(wires(cluster)) <= 1, "none where the kernel has netem"
        assert min(round_trips_s(cluster, "node3", "node2")) > 0.1
        assert seconds_for_4_mib(cluster) > 1.5 + 0.1
        assert min(round_trips_s(cluster, "node3", "node1")) < 0.1
    finally:
        cluster.unslow("node2")
    assert min(round_trips_s(cluster, "node3", "node2")) < 0.1
    assert "long-" not in cluster.run(LOGIN, "ip", "link")
    wait_until(lambda: not wires(cluster), 60, lambda: f"still there: {wires(cluster)}")


@pytest.mark.parametrize(("bits_per_s", "delay_s"), [(0, 0), (-1, 0.1), (1e9, -0.1), (float("nan"), 0)])
def test_a_link_of_no_rate_is_refused(bits_per_s: float, delay_s: float, cluster: Cluster) -> None:
    with pytest.raises(ValueError, match="more than 0 and at least 0 needed"):
        cluster.slow("node2", bits_per_s, delay_s)


def test_a_slow_link_can_be_cut_and_comes_back_slow(cluster: Cluster) -> None:
    cluster.slow("node2", 20e6, delay_s=0.1)
    try:
        cluster.cut("node2")
        try:
            assert not can_reach(cluster, "node2", here="node3")
        finally:
            cluster.mend("node2")
        wait_until(lambda: can_reach(cluster, "node2", here="node3"), 60, lambda: "nothing comes through")
        assert min(round_trips_s(cluster, "node3", "node2")) > 0.1
    finally:
        cluster.unslow("node2")


def wires(cluster: Cluster) -> list[int]:
    """The processes that pass frames on."""
    return [process.pid for process in cluster.boot.children() if str(mini.HERE / "wire.py") in words_of(process)]


def test_a_frame_takes_the_time_of_what_it_is_on_a_cable() -> None:
    """Ten times 1448 bytes and a rest of one, each with 66 bytes of headers; a frame that nobody cuts is what it is."""
    large = struct.pack("=BBHHHH", 1, 1, 66, 1448, 34, 16) + bytes(66 + 10 * 1448 + 1)
    assert bytes_on_the_cable(large) == 10 * 1514 + 67
    assert bytes_on_the_cable(struct.pack("=BBHHHH", 0, 0, 0, 0, 0, 0) + bytes(1514)) == 1514


@pytest.mark.parametrize("when", ["at once", "when it is up"])
def test_a_killed_owner_takes_its_cluster_along(when: str, tmp_path: Path) -> None:
    require(mini.missing(slurm=False))
    command = [sys.executable, "-c", OWNER, str(tmp_path / "output")]
    owner = subprocess.Popen(command, cwd=mini.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    try:
        if when == "when it is up":
            assert owner.stdout.readline() == b"up\n"
        else:
            wait_until(lambda: family_of(owner.pid), 60, lambda: "it has not begun")
            time.sleep(0.1)
        family = family_of(owner.pid)
    finally:
        owner.kill()
        owner.communicate()
    assert not psutil.wait_procs(family, timeout=60)[1]
