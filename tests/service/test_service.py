"""The service end to end: a real controller process, two real MPI workers, real clients."""

from __future__ import annotations

import asyncio
import math
import signal
import subprocess
import sys
import threading

import msgspec
import psutil
import pytest
import zmq
from environments import environment, wait_until

from qsimenv.circuit import Circuit, Measure, gate
from qsimenv.errors import (
    BadStateError,
    InvalidArgumentError,
    NotFoundError,
    NotSupportedError,
    OutOfMemoryError,
    OutOfRangeError,
    PermissionDeniedError,
    QSimEnvError,
    TimedOutError,
)
from qsimenv.qpm_plugin.api import DeviceState, TaskState
from qsimenv.qpm_plugin.client import connect
from qsimenv.qpm_plugin.connection import Connection, new_keys
from qsimenv.qpm_plugin.controller import Limits, serve
from qsimenv.qpm_plugin.events import EventQueue
from qsimenv.qpm_plugin.messages import Failed, decode_reply
from qsimenv.task import Task
from qsimenv.task import task as make_task

pytestmark = pytest.mark.environment

BELL = Circuit(2, 2, (gate("h", 0), gate("cx", 0, 1), Measure(0, 0), Measure(1, 1)), name="bell")
SOON = 60.0
ENDLESS = 3600.0
"""Longer than a test may take: what ends has not waited for it."""


def play(name="", width=1, small=False):
    """A task for the test engine; see ``engines/qsimenv_test_engine.py``."""
    circuit = Circuit(width.bit_length(), 0, ())
    return Task(
        circuit=circuit, save="statevector", engine="test", precision="single" if small else "double", name=name
    )


# --- what is asked, is answered ---


def test_a_synchronous_run_gives_counts(client):
    result = client.sync_run(Task(circuit=BELL, shots=100, seed=1))
    assert set(result.counts) == {"00", "11"}
    assert sum(result.counts.values()) == 100


def test_of_many_values_of_one_circuit_only_a_wrong_one_fails(client):
    circuit = Circuit(1, 0, (gate("rx", 0, params=["1/p0"]),), parameters=("a",))
    values = [0.0 if number == 7 else 0.3 + number for number in range(40)]
    tasks = [make_task(circuit, parameters=[value], observables=["Z"]) for value in values]
    records = client.read_cq(task_ids=client.async_run(tasks), timeout_s=SOON)
    for value, record in zip(values, records, strict=True):
        if value:
            assert record.result.expectation_values == pytest.approx([math.cos(1 / value)], abs=1e-12)
            assert record.times.launch_time <= record.times.exec_time <= record.times.completion_time
        else:
            assert record.state == TaskState.FAILED
            assert "not a number" in record.error.message


def test_results_come_in_order_of_submission(client):
    naps = [0.3, 0.0, 0.1, 0.0, 0.05]
    ids = client.async_run([play(f"sleep {nap}") for nap in naps])
    assert [record.task_id for record in client.read_cq(count=2, timeout_s=SOON)] == ids[:2]
    assert [record.task_id for record in client.read_cq(timeout_s=SOON)] == ids[2:]
    assert client.read_cq(timeout_s=SOON) == []


def test_results_come_in_the_order_of_the_ids_given(client):
    ids = client.async_run([play("sleep 0.1"), play(), play()])
    asked = [ids[2], ids[0]]
    assert [record.task_id for record in client.read_cq(task_ids=asked, timeout_s=SOON)] == asked
    assert [record.task_id for record in client.read_cq(task_ids=asked[::-1], timeout_s=SOON)] == asked[::-1]
    with pytest.raises(NotFoundError):
        client.read_cq(task_ids=["nobody"])
    assert len(client.read_cq(timeout_s=SOON)) == 1


def test_a_read_that_times_out_leaves_everything(client, hold):
    ids = client.async_run([play(), play(hold.name)])
    wait_until(lambda: client.status(ids[:1])[0].state == TaskState.DONE, SOON, "the first task does not end")
    with pytest.raises(TimedOutError, match="1 of 2"):
        client.read_cq(timeout_s=0.2)
    assert [record.task_id for record in client.peek_cq()] == ids[:1]
    hold.let_go()
    assert [record.task_id for record in client.read_cq(timeout_s=SOON)] == ids
    assert client.peek_cq() == []


def test_a_record_tells_times_ranks_and_engine(client):
    [task_id] = client.async_run(play("sleep 0.05", width=2))
    [record] = client.read_cq(timeout_s=SOON)
    times = record.times
    order = [times.creation_time, times.launch_time, times.exec_time, times.completion_time, times.cq_enqueue_time]
    assert order == sorted(order)
    assert times.cq_dequeue_time >= times.cq_enqueue_time
    assert record.execution_s >= 0.05
    assert (record.task_id, record.ranks, record.engine, record.attempts) == (task_id, (0, 1), "test", 1)
    [again] = client.status([task_id])
    assert (again.state, again.result) == (TaskState.DONE, None)


def test_errors_are_those_of_the_engine(client):
    for width in (1, 2):
        with pytest.raises(NotSupportedError, match="refused as the task wanted"):
            client.sync_run(play("refuse", width))
    with pytest.raises(QSimEnvError, match="ValueError: as the task wanted"):
        client.sync_run(play("raise"))
    assert client.sync_run(play()).metadata["ranks"] == 1


def test_a_synchronous_run_has_a_time_limit(client, hold):
    with pytest.raises(TimedOutError, match="canceled"):
        client.sync_run(play(hold.name), timeout_s=0.1)
    hold.let_go()
    wait_until(lambda: client.telemetry()["ranks"]["free"] == 2, SOON, "the canceled task still runs")
    assert [record.state for record in client.read_cq(timeout_s=SOON)] == [TaskState.CANCELED]


def test_all_tasks_of_a_request_are_accepted_or_none(client):
    accepted = client.telemetry()["tasks_accepted"]
    with pytest.raises(OutOfMemoryError):
        client.async_run([play(), play(width=64)])
    with pytest.raises(InvalidArgumentError):
        client.async_run([play(), Task(circuit=BELL)])
    with pytest.raises(NotSupportedError, match="MiB"):
        client.async_run([Task(circuit=Circuit(24, 0, ()), save="statevector")])
    assert client.telemetry()["tasks_accepted"] == accepted
    assert client.async_run([]) == []


def test_an_estimate_comes_before_anything_is_queued(client):
    assert client.evaluate(play(width=2)).ranks == 2
    with pytest.raises(OutOfMemoryError):
        client.evaluate(play(width=64))


def test_circuits_can_be_made_known_and_forgotten(client):
    name = client.create_circuit(BELL)
    assert name == BELL.hash
    client.delete_circuit(name)
    with pytest.raises(NotFoundError):
        client.delete_circuit(name)
    assert client.sync_run(Task(circuit=BELL, shots=1)).shots == 1


def test_a_circuit_that_the_controller_forgot_is_sent_again(shared, client):
    assert client.sync_run(Task(circuit=BELL, shots=1)).shots == 1
    with shared.connect() as other:
        other.delete_circuit(BELL.hash)
    assert client.sync_run(Task(circuit=BELL, shots=2)).shots == 2


def test_the_device_describes_itself(client):
    facts = client.describe()
    assert facts["ranks"] == 2
    assert facts["state"] == DeviceState.IDLE
    assert {"statevector", "test"} <= set(facts["engines"])
    assert facts["num_qubits"]["single"] == facts["num_qubits"]["double"] + 1 > 20
    assert len(facts["workers"]) == 2
    assert client.is_ready()


def test_the_self_test_runs_on_each_rank_and_on_all(client):
    outcome = client.test()
    assert [team["ranks"] for team in outcome["teams"]] == [[0], [1], [0, 1]]


def test_queued_tasks_are_canceled_at_once_and_running_ones_at_their_end(client, hold):
    ids = client.async_run([play(hold.name, width=2), play(width=2)])
    wait_until(lambda: client.status(ids[:1])[0].state == TaskState.RUNNING, SOON, "the first task does not run")
    states = [record.state for record in client.cancel(ids)]
    assert states == [TaskState.RUNNING, TaskState.CANCELED]
    hold.let_go()
    assert [record.state for record in client.read_cq(timeout_s=SOON)] == [TaskState.CANCELED] * 2
    assert [record.state for record in client.cancel(ids)] == [TaskState.CANCELED] * 2


def test_a_wide_task_among_small_ones_is_not_starved(client):
    ids = client.async_run([play("sleep 0.02") for _ in range(20)] + [play(width=2)] + [play("sleep 0.02")] * 100)
    records = client.read_cq(timeout_s=SOON)
    assert [record.task_id for record in records] == ids
    wide = records[20]
    assert wide.ranks == (0, 1)
    later = [record for record in records[21:] if record.times.launch_time < wide.times.launch_time]
    assert len(later) <= 2


def test_a_thousand_small_tasks_travel_in_bundles(client):
    """Why they take well under two seconds; how long: ``python -m benchmarks service``, its row `many`."""
    before = client.telemetry()
    ids = client.async_run([play(str(k), small=True) for k in range(1000)])
    records = client.read_cq(timeout_s=SOON)
    after = client.telemetry()
    assert after["requests"] - before["requests"] <= 4  # two of them for the telemetry
    assert after["worker_messages"] - before["worker_messages"] < 400
    assert [record.task_id for record in records] == ids
    assert {record.ranks for record in records} == {(0,), (1,)}


def test_reservations_keep_ranks_for_their_holder(shared, client):
    with shared.connect() as other:
        mine = client.reserve(1, 60.0)
        assert client.list_reservations() == other.list_reservations() == [mine]
        with pytest.raises(OutOfRangeError):
            other.reserve(2, 60.0)
        ids = other.async_run([play("sleep 0.1"), play("sleep 0.1")])
        first, second = other.read_cq(task_ids=ids, timeout_s=SOON)
        assert first.ranks == second.ranks
        assert client.renew(mine.reservation_id, 120.0).expires > mine.expires
        [wide] = other.async_run(play(width=2))
        client.sync_run(play())
        assert other.status([wide])[0].state == TaskState.QUEUED
        client.release(mine.reservation_id)
        assert other.read_cq(timeout_s=SOON)[0].state == TaskState.DONE
    with pytest.raises(NotFoundError):
        client.release(mine.reservation_id)


def test_a_reservation_ends_by_itself(shared, client):
    client.reserve(2, 0.3)
    with shared.connect() as other:
        assert other.sync_run(play(), timeout_s=SOON).metadata["ranks"] == 1
    assert client.list_reservations() == []


def test_events_reach_who_asked_for_them(client):
    seen = []
    arrived = threading.Event()

    def callback(event):
        seen.append((event.kind, event.details["state"]))
        if event.details["state"] == "DONE":
            arrived.set()

    stop = client.register_event_notification(callback, ["task"])
    client.sync_run(play())
    assert arrived.wait(SOON)
    stop()
    stop()
    assert seen == [("task", "RUNNING"), ("task", "DONE")]


def test_another_thread_can_cancel_what_a_read_waits_for(client, hold):
    ids = client.async_run([play(hold.name, width=2), play(width=2)])
    records = []
    reader = threading.Thread(target=lambda: records.extend(client.read_cq(timeout_s=SOON)))
    reader.start()
    wait_until(lambda: client.status(ids[:1])[0].state == TaskState.RUNNING, SOON, "the first task does not run")
    client.cancel(ids)
    hold.let_go()
    reader.join(SOON)
    assert [record.state for record in records] == [TaskState.CANCELED] * 2


def test_who_comes_back_under_its_name_finds_its_results(shared):
    with shared.connect(client_id="somebody") as first:
        ids = first.async_run([play(), play()])
    with shared.connect(client_id="somebody") as second:
        assert [record.task_id for record in second.read_cq(timeout_s=SOON)] == ids


def test_an_interrupted_read_takes_nothing(client, hold):
    def interrupt(*_):
        raise KeyboardInterrupt

    def read():
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        client.read_cq()

    ids = client.async_run([play(hold.name)])
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            read()
    finally:
        signal.signal(signal.SIGALRM, before)
    hold.let_go()
    assert [record.task_id for record in client.read_cq(timeout_s=SOON)] == ids


READ_FOREVER = """
import sys
from qsimenv.qpm_plugin.client import connect
client = connect(sys.argv[1], client_id="victim")
print("waiting", flush=True)
client.read_cq(count=5)
"""


def test_what_a_killed_reader_waited_for_is_there_for_the_next_one(shared):
    with shared.connect(client_id="victim") as first:
        ids = first.async_run([play("sleep 0.3"), play()])
    reader = subprocess.Popen([sys.executable, "-c", READ_FOREVER, str(shared.connection)], stdout=subprocess.PIPE)
    assert reader.stdout.readline() == b"waiting\n"
    reader.kill()
    reader.wait()
    reader.stdout.close()
    with shared.connect(client_id="victim") as second:
        assert [record.task_id for record in second.read_cq(count=2, timeout_s=SOON)] == ids


# --- who may not ---


def test_a_wrong_key_is_told_at_once(shared, tmp_path):
    """By the handshake that fails, not by patience that ends; the seconds: ``python -m benchmarks overheads``."""
    right = Connection.read(shared.connection)
    public, secret = new_keys()
    strangers = {
        "client key": msgspec.structs.replace(right, client_key=public, client_secret=secret),
        "worker key": msgspec.structs.replace(right, client_key=right.worker_key, client_secret=right.worker_secret),
        "server key": msgspec.structs.replace(right, server_key=public),
    }
    for name, stranger in strangers.items():
        path = tmp_path / f"{name}.json"
        stranger.write(path)
        with pytest.raises(PermissionDeniedError, match="refuses the key"):
            connect(path, timeout_s=ENDLESS)


def test_garbage_from_who_has_the_key_gets_an_error_and_harms_nobody(shared, client):
    connection = Connection.read(shared.connection)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.curve_serverkey = connection.server_key.encode()
        socket.curve_publickey = connection.client_key.encode()
        socket.curve_secretkey = connection.client_secret.encode()
        socket.linger = 0
        socket.connect(connection.address)
        for frame in (b"", b"\xc1", b"\x91" * 10_000, bytes(100)):
            socket.send(frame)
            assert socket.poll(1000 * SOON)
            reply = decode_reply(socket.recv())
            assert isinstance(reply.body, Failed)
            assert reply.body.code == InvalidArgumentError.code
        socket.send_multipart([b"a", b"b", b"c"])
    assert client.sync_run(play()).metadata["ranks"] == 1


def test_nobody_there_is_told_soon(shared, tmp_path):
    """By the system that refuses to connect, not by patience that ends; the seconds are in the benchmark, too."""
    silent = msgspec.structs.replace(Connection.read(shared.connection), address="tcp://127.0.0.1:9")
    path = tmp_path / "connection.json"
    silent.write(path)
    with pytest.raises(TimedOutError, match="nobody answers"):
        connect(path, timeout_s=ENDLESS)
    with pytest.raises(NotFoundError):
        connect(tmp_path / "missing.json")
    path.chmod(0o640)
    with pytest.raises(PermissionDeniedError, match="0600"):
        connect(path)


def test_the_controller_is_light(shared):
    maps = psutil.Process(shared.process.pid).memory_maps()
    loaded = " ".join(entry.path for entry in maps)
    assert "llvmlite" not in loaded
    assert "mpi4py" not in loaded


def test_idle_workers_and_controller_sleep(shared, client):
    """What that leaves of a core: ``python -m benchmarks service``, its row `idle`."""
    client.sync_run(play())
    processes = [*shared.workers, psutil.Process(shared.process.pid)]
    assert len(processes) == 3
    looks = 0

    def all_slept() -> bool:
        """At 40 looks running, which are 0.4 s at the least: what spins is never seen asleep."""
        nonlocal looks
        looks = looks + 1 if all(process.status() == psutil.STATUS_SLEEPING for process in processes) else 0
        return looks == 40

    wait_until(all_slept, SOON, "somebody is awake")


# --- what breaks ---


def test_a_killed_worker_costs_a_restart_and_no_task(fresh, hold):
    kinds = []
    with fresh.connect() as client:
        stop = client.register_event_notification(
            lambda event: kinds.append(event.kind), ["instance-up", "instance-down"]
        )
        ids = client.async_run([play(hold.name), play(hold.name)] + [play("sleep 0.05") for _ in range(10)])
        wait_until(lambda: client.telemetry()["tasks"]["RUNNING"] == 2, SOON, "nothing runs")
        fresh.workers[0].kill()
        wait_until(lambda: client.describe()["generation"] == 2, SOON, "no new instance comes up")
        hold.let_go()
        records = client.read_cq(timeout_s=SOON)
        assert [record.task_id for record in records] == ids
        assert {record.state for record in records} == {TaskState.DONE}
        assert [record.attempts for record in records[:2]] == [2, 2]
        wait_until(lambda: kinds == ["instance-down", "instance-up"], SOON, f"the events are {kinds}")
        stop()


def test_a_task_that_kills_its_worker_fails_alone(fresh):
    with fresh.connect() as client:
        client.async_run([play("die", small=True)] + [play("sleep 0.01", small=True) for _ in range(20)])
        first, *others = client.read_cq(timeout_s=120)
        assert (first.state, first.attempts) == (TaskState.FAILED, 3)
        assert "3 instances ended" in first.error.message
        assert {record.state for record in others} == {TaskState.DONE}
        wait_until(client.is_ready, SOON, "no new instance is up")


def test_a_rank_that_fails_alone_ends_its_instance_and_leaves_a_record(fresh):
    with fresh.connect() as client:
        with pytest.raises(QSimEnvError, match="ValueError: as the task wanted"):
            client.sync_run(play("raise", width=2))
        assert client.sync_run(play(width=2), timeout_s=60).metadata["ranks"] == 2
        assert client.describe()["generation"] == 2


class StillbornLauncher:
    """Its instances end as soon as they are launched."""

    def __init__(self):
        self.launches = 0

    async def launch(self, ranks, environ):
        self.launches += 1
        return StillbornHandle()


class StillbornHandle:
    def __init__(self):
        self.ended = asyncio.get_running_loop().create_future()
        self.ended.set_result("no such program")

    async def kill(self):
        pass

    async def close(self):
        pass


def test_workers_that_never_come_up_end_the_start_with_the_reason(tmp_path):
    launcher = StillbornLauncher()
    limits = Limits(quick_deaths=3, backoff_s=0.01)
    with pytest.raises(BadStateError, match=r"3 instances in a row ended at once.*no such program"):
        asyncio.run(serve(tmp_path / "connection.json", "test", launcher, 2, limits=limits))
    assert launcher.launches == 3
    assert not (tmp_path / "connection.json").exists()


def test_when_no_instance_can_be_had_any_more_tasks_fail_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("QSIMENV_TEST_LAUNCHES", "1")
    with environment(tmp_path) as made, made.connect() as client:
        client.async_run([play(f"sleep {ENDLESS}"), play(f"sleep {ENDLESS}"), play()])
        wait_until(lambda: client.telemetry()["tasks"]["RUNNING"] == 2, SOON, "nothing runs")
        made.workers[0].kill()
        records = client.read_cq(timeout_s=60)
        assert {record.state for record in records} == {TaskState.FAILED}
        assert "no more launches" in records[0].error.message
        assert client.describe()["state"] == DeviceState.ERROR
        with pytest.raises(BadStateError, match="no more launches"):
            client.async_run(play())
        client.shutdown(drain=True)


def test_a_smaller_instance_takes_what_fits_and_refuses_the_rest_with_the_reason(tmp_path, monkeypatch, hold):
    monkeypatch.setenv("QSIMENV_TEST_RANKS", "1")
    with environment(tmp_path) as made, made.connect() as client:
        flexible = msgspec.structs.replace(play("sleep 0", width=2), circuit=Circuit(2, 1, ()))
        ids = client.async_run([play(hold.name), play("sleep 0", width=2), flexible])
        wait_until(lambda: client.telemetry()["tasks"]["RUNNING"] == 1, SOON, "nothing runs")
        made.workers[0].kill()
        wait_until(lambda: client.describe()["generation"] == 2, SOON, "no new instance comes up")
        hold.let_go()
        again, wide, narrowed = client.read_cq(task_ids=ids, timeout_s=60)
        assert (again.state, again.attempts) == (TaskState.DONE, 2)
        assert "status" in again.interruption
        assert wide.state == TaskState.FAILED
        assert wide.error.message == "run: 2 ranks are needed, there are 1"
        assert (narrowed.state, narrowed.ranks) == (TaskState.DONE, (0,))
        with pytest.raises(OutOfMemoryError, match="2 ranks are needed"):
            client.async_run(play(width=2))


@pytest.mark.slow
def test_a_stopped_worker_is_found_out_and_replaced(fresh):
    with fresh.connect() as client:
        [task_id] = client.async_run(play("sleep 1", width=2))
        wait_until(lambda: client.status([task_id])[0].state == TaskState.RUNNING, SOON, "nothing runs")
        fresh.workers[1].suspend()
        assert client.read_cq(timeout_s=90)[0].state == TaskState.DONE
        # mpirun wakes what it ends, which may have ended its task by then: the next instance may come a little later
        wait_until(lambda: client.describe()["generation"] == 2, SOON, "it is not replaced")


def test_draining_finishes_what_was_accepted(fresh, hold):
    with fresh.connect() as client, fresh.connect() as other:
        ids = client.async_run([play(hold.name) for _ in range(6)])
        workers = fresh.workers
        closer = threading.Thread(target=lambda: other.shutdown(drain=True))
        closer.start()
        wait_until(lambda: not client.is_ready(), SOON, "the environment does not drain")
        with pytest.raises(BadStateError, match="shutting down"):
            client.async_run(play())
        hold.let_go()
        records = client.read_cq(timeout_s=SOON)
        assert [(record.task_id, record.state) for record in records] == [(task_id, TaskState.DONE) for task_id in ids]
        closer.join(SOON)
        assert not closer.is_alive()
    assert fresh.process.wait(SOON) == 0
    assert not psutil.wait_procs(workers, timeout=SOON)[1]
    assert not fresh.connection.exists()


def test_a_drain_ends_at_its_limit_and_says_what_is_left(fresh):
    with fresh.connect() as client:
        ids = client.async_run([play(f"sleep {10 * SOON}"), play(f"sleep {10 * SOON}"), play(), play()])
        wait_until(lambda: client.status(ids[:1])[0].state == TaskState.RUNNING, SOON, "nothing runs")
        with pytest.raises(InvalidArgumentError, match="limit"):
            client.shutdown(drain=True, within_s=-1)
        assert client.shutdown(drain=True, within_s=0.1) == 4
    assert fresh.process.wait(SOON) == 0


def test_a_grace_lets_what_runs_end_and_starts_nothing(fresh, hold):
    with fresh.connect() as client, fresh.connect() as other:
        ids = client.async_run([play(hold.name, width=2), play()])
        wait_until(lambda: client.status(ids[:1])[0].state == TaskState.RUNNING, SOON, "nothing runs")
        with pytest.raises(InvalidArgumentError, match="grace"):
            other.shutdown(grace_s=-1)
        records = []
        reader = threading.Thread(target=lambda: records.extend(client.read_cq()))
        reader.start()
        closer = threading.Thread(target=lambda: other.shutdown(grace_s=ENDLESS))
        closer.start()
        wait_until(lambda: not client.is_ready(), SOON, "the environment does not stop")
        hold.let_go()
        closer.join(SOON)
        assert not closer.is_alive(), "it ends with the task, not with the grace"
        reader.join(SOON)
        assert [record.state for record in records] == [TaskState.DONE, TaskState.CANCELED]
    assert fresh.process.wait(SOON) == 0


def test_stopping_ends_what_waits_and_what_runs(fresh):
    with fresh.connect() as client, fresh.connect() as other:
        client.async_run([play(f"sleep {ENDLESS}", width=2), play()])
        records = []
        reader = threading.Thread(target=lambda: records.extend(client.read_cq()))
        reader.start()
        workers = fresh.workers
        other.shutdown()
        reader.join(SOON)
        assert [record.state for record in records] == [TaskState.CANCELED] * 2
    assert fresh.process.wait(SOON) == 0
    assert not psutil.wait_procs(workers, timeout=SOON)[1]


def test_workers_end_with_a_killed_controller(fresh):
    workers = fresh.workers
    with fresh.connect(timeout_s=2) as client:
        client.async_run(play(f"sleep {ENDLESS}"))
        fresh.process.kill()
        fresh.process.wait()
        _, alive = psutil.wait_procs(workers, timeout=SOON)
        assert not alive
        with pytest.raises(TimedOutError, match="broke"):
            client.read_cq()


def test_an_event_queue_tells_of_instances_and_tasks(fresh):
    with fresh.connect() as client, EventQueue(client, ["instance-down", "instance-up"]) as instances:
        with EventQueue(client, ["task"]) as tasks:
            [task_id] = client.async_run(play())
            told = [tasks.get(SOON) for _ in range(2)]
        assert [(event.details["task_id"], event.details["state"]) for event in told] == [
            (task_id, "RUNNING"),
            (task_id, "DONE"),
        ]
        fresh.workers[0].kill()
        assert [instances.get(2 * SOON).kind for _ in range(2)] == ["instance-down", "instance-up"]
        assert (instances.lost, tasks.lost) == (0, 0)


def test_who_does_not_read_its_events_slows_nobody_and_hears_what_it_missed(fresh):
    """The listener holds still until more has happened than ZeroMQ and the system keep for it."""
    go_on, missed, last = threading.Event(), [], threading.Event()

    def slow(event):
        go_on.wait(4 * SOON)
        if event.kind == "lost":
            missed.append(event.details["number"])
        elif event.details["name"] == "last":
            last.set()

    with fresh.connect() as client, fresh.connect() as other:
        client.register_event_notification(slow, ["task", "lost"])
        long_name = "x" * 20_000
        while not other.telemetry()["events_dropped"]:
            other.read_cq(task_ids=other.async_run([play(name=f"ok {long_name}", small=True)] * 100), timeout_s=SOON)
        go_on.set()

        def is_told():
            other.sync_run(play(name="last"))
            return last.wait(0.1)

        wait_until(is_told, 4 * SOON, "no event comes any more")
        assert sum(missed) >= 1
        assert sum(missed) <= other.telemetry()["events_dropped"]
