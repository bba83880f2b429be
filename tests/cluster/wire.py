"""A long wire: what goes to a host of the mini-cluster passes it on at a rate and after a delay, in user space.

``wire.py HOST ADDRESS BITS_PER_S DELAY_S`` on the login node (cluster.py starts it where the kernel has no sch_netem):
the switch sends what is meant for the host's ADDRESS into a pair of devices, ``long-HOST``, from whose end it is taken
and put on the host's port. It returns when the wire is there; to take that away, delete the device. Frames stay as
large as the kernel makes them (virtio headers tell it how to cut them), so that a few thousand a second fill 1 Gbit/s;
each takes the time of all the frames that it would be on a cable.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections import deque

_SOL_PACKET, _PACKET_VNET_HDR, _ETH_P_ALL = 263, 15, 3
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE, _SO_TIMESTAMPNS = 33, 32, 35
_HEADER = struct.Struct("=BBHHHH")
"""virtio_net_hdr: flags, kind of segments, length of the headers of each, payload of each, two of the checksum."""
_LARGEST = 1 << 17
_BUFFER_BYTES = 64 << 20
_LONGEST_QUEUE_S = 0.1
"""What would wait for longer than this for the cable is dropped, as a switch does."""


def bytes_on_the_cable(frame: bytes) -> int:
    """The length of a frame with its virtio header, once it is cut into segments that each have headers."""
    _, _, header_bytes, segment_bytes, _, _ = _HEADER.unpack_from(frame)
    length = len(frame) - _HEADER.size
    if not segment_bytes:
        return length
    segments = -(-(length - header_bytes) // segment_bytes)
    return length + (segments - 1) * header_bytes


def open_device(name: str, receive: bool) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE if receive else _SO_SNDBUFFORCE, _BUFFER_BYTES)
    if receive:
        opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    opened.bind((name, _ETH_P_ALL if receive else 0))
    return opened


def carry(source: socket.socket, target: socket.socket, bits_per_s: float, delay_s: float) -> None:
    """Until the source is gone. A frame's time counts from its arrival, however late this process is to see it."""
    under_way: deque[tuple[float, bytes]] = deque()
    free_at = 0.0
    while True:
        wait_s = max(0.0, under_way[0][0] - time.time()) if under_way else None
        if select.select([source], [], [], wait_s)[0]:
            frame, ancillary, _, _ = source.recvmsg(_LARGEST, 64)
            seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2])
            arrival = seconds + 1e-9 * nanoseconds
            if free_at - arrival < _LONGEST_QUEUE_S:
                free_at = max(free_at, arrival) + 8 * bytes_on_the_cable(frame) / bits_per_s
                under_way.append((free_at + delay_s, frame))
        while under_way and under_way[0][0] <= time.time():
            frame = under_way.popleft()[1]
            with contextlib.suppress(OSError):  # the host's cable is pulled
                target.send(frame)


def put_between(host: str, address: str) -> tuple[socket.socket, socket.socket]:
    """Divert what goes to the host; where it comes out of the pair of devices, and where it has to go."""
    long, end, port = f"long-{host}", f"end-{host}", host.replace("node", "port")
    for command in (
        f"ip link add {long} type veth peer name {end}",
        f"ip link set {end} up",
        f"ip link set {long} master switch up",
        f"bridge link set dev {long} learning off flood off mcast_flood off bcast_flood off",
    ):
        subprocess.run(command.split(), check=True)
    devices = open_device(end, receive=True), open_device(port, receive=False)
    subprocess.run(f"bridge fdb replace {address} dev {long} master static sticky".split(), check=True)
    return devices


def main() -> None:
    host, address, bits_per_s, delay_s = sys.argv[1:]
    source, target = put_between(host, address)
    if os.fork():
        return
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(silence, stream)
    with contextlib.suppress(PermissionError):  # a cable does not wait for a core
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    with contextlib.suppress(OSError):
        carry(source, target, float(bits_per_s), float(delay_s))


if __name__ == "__main__":
    main()
