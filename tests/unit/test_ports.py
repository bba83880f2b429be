"""The controller's doors: a flood of what makes no sense is taken in small portions."""

from __future__ import annotations

import asyncio

import pytest
import zmq

from qsimenv.qpm_plugin.connection import new_keys
from qsimenv.qpm_plugin.ports import Guard, Keys, Port

FRAMES = 250
PATIENCE_S = 60


async def portions(makes_sense: bool) -> list[int]:
    """How many frames are taken in each turn, where they make sense, or none of them does."""
    server, client = new_keys(), new_keys()
    turns, taken, all_there = [0], 0, asyncio.Event()

    def receive(_sender: bytes, _frame: bytes) -> bool:
        nonlocal taken
        turns[-1] += 1
        taken += 1
        if taken == FRAMES:
            all_there.set()
        return makes_sense

    with zmq.Context() as context, context.socket(zmq.DEALER) as door:
        guard = Guard(context, {"door": client[0]})
        port = Port(context, "127.0.0.1", "door", Keys(*server, client[1]), receive, lambda: turns.append(0))
        door.curve_serverkey = server[0].encode()
        door.curve_publickey, door.curve_secretkey = (key.encode() for key in client)
        door.linger = 0
        door.connect(port.address)
        for _ in range(FRAMES):
            door.send(b"frame")
        await asyncio.wait_for(all_there.wait(), PATIENCE_S)
        port.close(linger_ms=0)
        guard.close()
    return turns


@pytest.mark.parametrize(("makes_sense", "most"), [(True, 100), (False, 10)])
def test_a_turn_is_bounded(makes_sense: bool, most: int) -> None:
    turns = asyncio.run(portions(makes_sense))
    assert sum(turns) == FRAMES
    assert max(turns) <= most
