"""Messages: round trips, bounds, and garbage."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest

from qsimenv.circuit import Circuit, Measure, gate
from qsimenv.errors import InvalidArgumentError
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.api import ErrorInfo, Event, Reservation, TaskRecord, TaskState, Times
from qsimenv.qpm_plugin.recent import Recent
from qsimenv.qpm_plugin.records import Filter
from qsimenv.task import Estimate, Observable, Result, Task

BELL = Circuit(2, 2, (gate("h", 0), gate("cx", 0, 1), Measure(0, 0), Measure(1, 1)), name="bell")
TASK = Task(circuit=BELL, shots=10, seed=3, observables=(Observable((("ZZ", 1.0),)),), name="one")
RECORD = TaskRecord(task_id="a-1", state=TaskState.DONE, times=Times(creation_time=1.5), ranks=(0, 1), engine="mps")
DECODERS = (m.decode_request, m.decode_reply, m.decode_to_worker, m.decode_from_worker)

REQUESTS = [
    m.Describe(),
    m.Evaluate(m.Job.of(TASK), {BELL.hash: BELL.bytes}),
    m.Submit((m.Job.of(TASK),) * 3, {BELL.hash: BELL.bytes}, ((0,), (1,), (0, 1)), wait=True, timeout_s=2.0),
    m.Read(3, 1.0, ("a", "b")),
    m.Peek(),
    m.Status(None),
    m.Log(7, Filter((TaskState.DONE, TaskState.FAILED), "vqe", 5.0), ("a",)),
    m.CancelTasks(("a",)),
    m.DeleteTasks(("a",)),
    m.CreateCircuit(BELL.hash, BELL.bytes),
    m.DeleteCircuit("x"),
    m.Reserve(2, 5.0),
    m.Renew("r", 5.0),
    m.Release("r"),
    m.ListReservations(),
    m.Telemetry(),
    m.Subscribe(("task",)),
    m.Abandon(3),
    m.Shutdown(drain=True),
]
REPLIES = [
    m.Failed(-5, "not here"),
    m.NeedCircuits(("x",)),
    m.Accepted(("a", "b")),
    m.Full(0.5, "full"),
    m.Records((RECORD,), (m.NO_RESULT,), more=True),
    m.Page((RECORD,), 5),
    m.Estimated(Estimate("mps", 2, 100, 0.5)),
    m.Reservations((Reservation("r", 2, 5.0),)),
    m.Facts({"ranks": 2, "nodes": ["a"]}),
    m.Done(),
    m.Ended(3),
    m.Notice(Event("task", 1.0, {"state": "DONE"})),
]
TO_WORKER = [
    m.Launch((0, 1), ("a",), (m.Job.of(TASK),), {BELL.hash: BELL.bytes}),
    m.Cancel(("a",)),
    m.Ping(),
    m.Stop(),
]
ANSWER = m.Answer("a", 1.0, 2.0, "mps", ErrorInfo(-1, "bad"))
FROM_WORKER = [
    m.Hello(1, 0, 2, 77, "node", 1 << 40, {"numpy": "2"}),
    m.Answers(1, 0, (ANSWER, m.Answer("b", 1.0, 1.0, canceled=True))),
    m.Broken(1, 0, ANSWER),
    m.Pong(1, 0, 5),
]


@pytest.mark.parametrize("body", REQUESTS, ids=lambda body: type(body).__name__)
def test_requests_come_back(body):
    request = m.Request("client", 7, body)
    assert m.decode_request(m.encode(request)) == request


@pytest.mark.parametrize("body", REPLIES, ids=lambda body: type(body).__name__)
def test_replies_come_back(body):
    assert m.decode_reply(m.encode(m.Reply(7, body))).body == body


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda message: type(message).__name__)
def test_messages_to_workers_come_back(message):
    assert m.decode_to_worker(m.encode(message)) == message


@pytest.mark.parametrize("message", FROM_WORKER, ids=lambda message: type(message).__name__)
def test_messages_from_workers_come_back(message):
    assert m.decode_from_worker(m.encode(message)) == message


def test_every_kind_of_message_is_tested():
    tested = {type(body) for body in (*REQUESTS, *REPLIES, *TO_WORKER, *FROM_WORKER)}
    known = {kind for union in (m.RequestBody, m.ReplyBody, m.ToWorker, m.FromWorker) for kind in union.__args__}
    assert tested == known


def test_a_job_names_its_circuit_and_gets_it_back():
    job = m.Job.of(TASK)
    assert job.circuit == BELL.hash
    assert len(m.encode(m.Launch((0,), ("a",), (job,)))) < 400
    assert job.with_circuit(BELL) == TASK


def test_parameter_arrays_travel_in_their_type():
    task = msgspec.structs.replace(TASK, parameters=np.arange(6.0).reshape(2, 3))
    back = m.decode_to_worker(m.encode(m.Launch((0,), ("a",), (m.Job.of(task),))))
    assert isinstance(back, m.Launch)
    np.testing.assert_array_equal(back.jobs[0].task.parameters, task.parameters)


def test_results_travel_unread_and_keep_their_arrays():
    result = Result(num_clbits=2, shots=3, samples=np.array([[0], [3], [3]], np.uint8), metadata={"engine": "x"})
    raw = msgspec.Raw(m.encode_result(result))
    message = m.decode_from_worker(m.encode(m.Answers(1, 0, (m.Answer("a", 1.0, 2.0, result=raw),))))
    assert isinstance(message, m.Answers)
    reply = m.decode_reply(m.encode(m.Reply(1, m.Records((RECORD,), (message.answers[0].result,)))))
    assert isinstance(reply.body, m.Records)
    back = m.decode_result(reply.body.results[0])
    assert back is not None
    assert back.counts == {"00": 1, "11": 2}
    assert m.decode_result(m.NO_RESULT) is None


def test_a_frame_over_the_limit_is_refused_both_ways(monkeypatch):
    monkeypatch.setattr(m, "MAX_FRAME_BYTES", 1 << 20)
    with pytest.raises(InvalidArgumentError, match="limit"):
        m.encode(m.Request("c", 1, m.CreateCircuit("x", bytes(2 << 20))))
    for decode in DECODERS:
        with pytest.raises(InvalidArgumentError, match="limit"):
            decode(bytes(2 << 20))


@pytest.mark.parametrize("decode", DECODERS)
def test_garbage_is_refused_with_one_line(decode):
    rng = random.Random(1)  # noqa: S311 - a test
    good = [m.encode(m.Request("c", 1, body)) for body in REQUESTS] + [m.encode(message) for message in TO_WORKER]
    frames = [b"", b"\xc1", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", "ü".encode()]
    frames += [rng.randbytes(rng.randrange(1, 200)) for _ in range(500)]
    for frame in good:
        frames += [frame[: rng.randrange(len(frame))], frame + b"\x00"]
        damaged = bytearray(frame)
        damaged[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
        frames.append(bytes(damaged))
    refused = 0
    for frame in frames:
        try:
            decode(frame)
        except InvalidArgumentError as error:
            refused += 1
            assert "\n" not in error.message  # noqa: PT017 - most frames raise, a few damaged ones are still messages
    assert refused > 500


def test_recent_keeps_what_was_used_last():
    recent: Recent[str] = Recent(10)
    for name in "abc":
        recent.put(name, name.upper(), 4)
    assert recent.get("a") is None
    assert recent.get("b") == "B"
    recent.put("d", "D", 4)
    assert recent.get("c") is None
    assert recent.get("b") == "B"
    recent.put("e", "E", 100)
    assert (len(recent), recent.size_bytes) == (1, 100)
    assert recent.drop("e")
    assert not recent.drop("e")
    assert recent.size_bytes == 0
