"""Lanes: frames between the controller and processes of its host, over real sockets."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator

import pytest

from qsimenv.qpm_plugin import lanes
from qsimenv.qpm_plugin.lanes import Lane, Lanes, open_lane

PATIENCE_S = 60
SECRET = "the key"  # noqa: S105


@pytest.fixture
def key() -> str:
    """A server key of its own: lanes of two tests never meet."""
    return uuid.uuid4().hex


@pytest.fixture
def door(key: str) -> Iterator[Lanes]:
    door = Lanes(key, "door", SECRET)
    yield door
    door.close(0)


def lane_to(key: str, identity: bytes = b"me", secret: str = SECRET) -> Lane:
    lane = open_lane(key, "door", secret, identity)
    assert lane is not None
    return lane


def taken(door: Lanes, count: int) -> list[tuple[bytes, bytes]]:
    """The next frames that come, so many of them."""
    found: list[tuple[bytes, bytes]] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} frames came"
        select.select([door.fileno()], [], [], 0.0 if found else 1.0)
        door.look()
        while len(found) < count and (frame := door.take()) is not None:
            found.append(frame)
    return found


def is_shut(lane: Lane, door: Lanes) -> bool:
    """Whether the controller closes a lane without a word."""
    deadline = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < deadline:
            door.look()
            assert door.take() is None
            assert lane.recv(10) is None
    except ConnectionResetError:
        return True
    return False


def test_frames_arrive_whole_and_in_order_both_ways(key, door):
    lane = lane_to(key)
    frames = [b"", b"a", os.urandom(5 << 20), b"b" * 70_000, b"last"]
    threading.Thread(target=lambda: [lane.send(frame) for frame in frames]).start()
    assert taken(door, len(frames)) == [(b"me", frame) for frame in frames]
    assert all(door.send(b"me", frame) for frame in frames)
    found: list[bytes] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < len(frames):
        assert time.monotonic() < deadline
        door.look()
        found.extend([frame] if (frame := lane.recv(1)) is not None else [])
    assert found == frames
    lane.close()


def test_lanes_are_read_in_turn(key, door):
    loud, quiet = lane_to(key, b"loud"), lane_to(key, b"quiet")
    for number in range(100):
        loud.send(b"%d" % number)
    quiet.send(b"here")
    while len(door._ready) < 2:
        door.look()
    assert {door.take()[0], door.take()[0]} == {b"loud", b"quiet"}
    loud.close()
    quiet.close()


@pytest.mark.parametrize("secret", ["another key", ""])
def test_who_does_not_know_the_key_is_shut_out(key, door, secret):
    lane = lane_to(key, secret=secret)
    lane.send(b"let me in")
    assert is_shut(lane, door)
    assert door.send(b"me", b"frame") is None
    lane.close()


@pytest.mark.parametrize("greeting", [b"\xff\xff\xff\x7f" + b"x" * 100, b"\x00\x10\x00\x00" + b"x" * 5000, b"\0\0\0\0"])
def test_a_greeting_of_no_sense_is_shut_out(key, door, greeting):
    lane = Lane(raw := socket.socket(socket.AF_UNIX))
    raw.connect(lanes._name(key, "door"))
    raw.setblocking(False)
    raw.send(greeting)
    assert is_shut(lane, door)
    raw.close()


def test_a_frame_that_would_be_too_large_ends_the_lane(key, door):
    lane = lane_to(key)
    lane.send(b"whole")
    lane._end.send(b"\xff\xff\xff\xff and so on")
    assert taken(door, 1) == [(b"me", b"whole")]
    assert is_shut(lane, door)
    lane.close()


def test_what_came_whole_before_the_end_is_taken(key, door):
    lane = lane_to(key)
    lane.send(b"one")
    lane.send(b"two")
    lane._end.send(b"\x10\x00\x00\x00half")
    lane.close()
    assert taken(door, 2) == [(b"me", b"one"), (b"me", b"two")]
    while door.has_news:
        door.look()
        assert door.take() is None
    assert door.send(b"me", b"frame") is None


def test_of_frames_that_nobody_reads_only_so_many_are_kept(key, door, monkeypatch):
    monkeypatch.setattr(lanes, "_UNREAD_FRAMES", 20)
    lane = lane_to(key)
    lane.send(b"hello")
    taken(door, 1)
    frame = b"x" * 60_000
    kept = 0
    while door.send(b"me", frame):
        kept += 1
        assert kept < 1000
    assert kept >= 20
    for _ in range(kept):
        door.look()
        assert lane.recv(1000 * PATIENCE_S) == frame
    assert door.send(b"me", b"there is room again")
    lane.close()


def test_closing_sends_what_waits(key):
    door = Lanes(key, "door", SECRET)
    lane = lane_to(key)
    lane.send(b"hello")
    taken(door, 1)
    last = os.urandom(3 << 20)
    assert door.send(b"me", last)
    closing = threading.Thread(target=door.close, args=(PATIENCE_S,))
    closing.start()
    assert lane.recv(1000 * PATIENCE_S) == last
    with pytest.raises(ConnectionResetError):
        lane.recv(1000 * PATIENCE_S)
    closing.join()
    lane.close()


def test_a_later_lane_takes_the_place_of_the_first(key, door):
    first, second = lane_to(key), lane_to(key)
    second.send(b"here")
    assert taken(door, 1) == [(b"me", b"here")]
    assert is_shut(first, door)
    assert door.send(b"me", b"frame")
    assert second.recv(1000 * PATIENCE_S) == b"frame"
    first.close()
    second.close()


def test_nobody_there_is_no_lane(key, monkeypatch):
    assert open_lane(key, "door", SECRET, b"me") is None
    monkeypatch.setattr(lanes, "_MOST_LANES", 1)
    door = Lanes(key, "door", SECRET)
    first, second = lane_to(key, b"first"), lane_to(key, b"second")
    first.send(b"here")
    assert taken(door, 1) == [(b"first", b"here")]
    assert is_shut(second, door)
    for lane in (first, second):
        lane.close()
    door.close(0)


def test_a_controller_that_takes_nothing_is_given_up(key, door, monkeypatch):
    monkeypatch.setattr(lanes, "STALLED_MS", 50)
    lane = lane_to(key)
    with pytest.raises(TimeoutError):
        lane.send(b"x" * (8 << 20))
    lane.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_has_no_lane(key, door):
    """Neither to us, with the key, nor from us to one who listens under our name."""
    code = f"""
import os
from qsimenv.qpm_plugin.lanes import open_lane
os.setuid(65534)
print(open_lane({key!r}, "door", {SECRET!r}, b"me"))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert found.stdout.strip() == "None"
    raw = subprocess.run(
        [sys.executable, "-c", f"""
import os, socket; os.setuid(65534)
raw = socket.socket(socket.AF_UNIX); raw.connect({lanes._name(key, "door")!r}); raw.send(b"x")
"""], capture_output=True, timeout=PATIENCE_S, check=True)  # fmt: skip
    assert not raw.stderr
    door.look()
    assert not door._ends
