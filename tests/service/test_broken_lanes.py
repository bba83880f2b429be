"""A client that has no lane, or loses it, is served all the same: each task once, each answer once."""

from __future__ import annotations

import socket
import threading

import pytest
from environments import Environment, wait_until

from qsimenv.circuit import Circuit, Measure, gate
from qsimenv.qpm_plugin import link as links
from qsimenv.qpm_plugin.client import Client
from qsimenv.qpm_plugin.link import Link
from qsimenv.task import Task

pytestmark = pytest.mark.environment
SOON = 120.0


def coin(seed: int) -> Task:
    return Task(circuit=Circuit(1, 1, (gate("h", 0), Measure(0, 0))), shots=64, seed=seed)


def break_lane(link: Link) -> None:
    """As if the controller had closed it."""
    assert link._lane is not None, "this client has no lane"
    link._lane._end.shutdown(socket.SHUT_RDWR)


def test_between_two_requests(client: Client) -> None:
    wanted = client.sync_run(coin(1)).counts
    (link,) = client._idle
    break_lane(link)
    assert client.sync_run(coin(1)).counts == wanted
    assert client._idle == [link]
    assert link._lane is None


def test_while_an_answer_is_waited_for(shared: Environment, hold) -> None:
    with shared.connect() as client, shared.connect() as other:
        held = Task(circuit=Circuit(1, 0, ()), save="statevector", name=hold.name, engine="test")
        (task_id,) = client.async_run(held)
        found: list[str] = []
        reading = threading.Thread(
            target=lambda: found.extend(record.task_id for record in client.read_cq(timeout_s=SOON))
        )
        (link,) = client._idle
        reading.start()
        wait_until(lambda: not client._idle, SOON, "nobody reads")
        break_lane(link)
        wait_until(lambda: link._lane is None, SOON, "the link holds on to a lane that is broken")
        hold.let_go()
        reading.join(SOON)
        assert found == [task_id]
        assert other.status([task_id])[0].attempts == 1


def test_in_the_middle_of_a_stream(client: Client) -> None:
    with client.stream() as stream:
        for seed in range(300):
            if seed == 150:
                break_lane(stream._link)
            stream.submit(coin(seed))
    ids = stream.finish()
    assert len(set(ids)) == 300
    records = client.read_cq(task_ids=ids, timeout_s=SOON)
    assert [record.result.metadata["seed"] for record in records] == list(range(300))


def test_a_client_of_another_host_has_none(shared: Environment, client: Client, monkeypatch) -> None:
    wanted = client.sync_run(coin(2)).counts
    monkeypatch.setattr(links, "open_lane", lambda *_: None)
    with shared.connect() as far:
        assert far.sync_run(coin(2)).counts == wanted
        assert [link._lane for link in far._idle] == [None]
