"""The records of a service: log, report, top and metrics of a real environment, and the log of one that was killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from qsimenv.qpm_plugin.connection import FILE_NAME, Connection
from tests.processes import family_of
from tests.support import BELL, COMMAND, EXAMPLES, qsimenv, refused, run_folder, skip_without_prte, wait_until

pytestmark = [pytest.mark.environment, pytest.mark.slow, pytest.mark.timeout(400)]
TASKS = 6
"""Submitted by the fixture: three of each of two applications."""


class Running:
    """An environment that the commands started; ``port`` serves its metrics."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port

    def __call__(self, *arguments: object) -> str:
        done = qsimenv(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def tasks(self, *arguments: object) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self("log", "--json", *arguments))["tasks"]
        return found


def free_port() -> int:
    """One that the system does not hand out: whoever asks for any port until ours is bound gets another."""
    handed_out = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(handed_out // 2, handed_out), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no port below {handed_out} is free")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    skip_without_prte()
    with run_folder(tmp_path_factory.mktemp("environment")) as folder:
        port = free_port()
        done = qsimenv("start", "--ranks-per-node", 2, "--metrics-port", port, timeout_s=200)
        assert done.returncode == 0, done.stderr
        try:
            assert f"http://127.0.0.1:{port}/metrics" in done.stdout
            for application in ("vqe", "qaoa"):
                files = [BELL, EXAMPLES / "ghz.qasm", EXAMPLES / "adder.qasm"]
                done = qsimenv("submit", *files, "--wait", "--application", application)
                assert done.returncode == 0, done.stderr
            yield Running(folder, port)
        finally:
            qsimenv("stop", timeout_s=120)


def test_log_filters_and_sorts(running: Running) -> None:
    tasks = running.tasks()
    assert [task["application"] for task in tasks] == ["vqe"] * 3 + ["qaoa"] * 3
    assert {task["state"] for task in tasks} == {"DONE"}
    assert all(task["queue_s"] >= 0 and task["execution_s"] > 0 and task["ranks"] for task in tasks)
    assert [task["task_id"] for task in running.tasks("--limit", 2)] == [task["task_id"] for task in tasks[-2:]]
    assert running.tasks("--application", "vqe", "--state", "done") == tasks[:3]
    assert running.tasks("--state", "failed") == []
    assert running.tasks("--since", "1d") == tasks
    assert running.tasks("--since", "2100-01-01") == []
    longest = running.tasks("--sort", "run", "--limit", 1)
    assert longest[0]["execution_s"] == max(task["execution_s"] for task in tasks)
    lines = running("log").splitlines()
    assert lines[0].split()[:4] == ["id", "name", "application", "state"]
    assert [line.split()[0] for line in lines[1:]] == [task["task_id"] for task in tasks]
    refused(qsimenv("log", "--since", "yesterday"), "since: 'yesterday' found")


def test_follow_tells_each_end_once(running: Running, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("wb") as file:
        process = subprocess.Popen([*COMMAND, "log", "--follow", "--json", "--application", "late"], stdout=file)
        try:
            # It has no way to say that it listens, so tasks come until one is told.
            submitted: list[str] = []

            def told() -> list[str]:
                return [json.loads(line)["task_id"] for line in out.read_text().splitlines()]

            def one_is_told() -> bool:
                submitted.extend(running("submit", BELL, "--application", "late").split())
                return bool(told())

            wait_until(one_is_told, 90, "no line for a task that ended")
            running("results", *submitted)
            wait_until(lambda: set(told()) >= set(submitted), 60, "a task that ended is missing")
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    final = [json.loads(line) for line in out.read_text().splitlines() if json.loads(line)["state"] == "DONE"]
    assert sorted(task["task_id"] for task in final) == sorted(submitted)


def test_metrics_over_http_and_on_the_command_line(running: Running) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        served = answer.read().decode()
    for text in (served, running("status", "--metrics")):
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert samples["qsimenv_tasks_accepted_total",] >= TASKS
        assert samples["qsimenv_tasks_kept", "done"] >= TASKS
        assert samples["qsimenv_ranks", "busy"] + samples["qsimenv_ranks", "free"] == 2
        assert samples["qsimenv_instances_total",] == 1
        assert samples["qsimenv_bytes_total", "received"] > 0
        assert samples["qsimenv_uptime_seconds",] > 0
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{running.port}/other", timeout=30)


def test_a_port_in_use_is_refused(tmp_path: Path, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSIMENV_RUN_FOLDER", str(tmp_path / "run"))
    done = qsimenv("start", "--ranks-per-node", 1, "--metrics-port", running.port, timeout_s=120)
    assert done.returncode == 2
    assert f"port {running.port} cannot be used for metrics" in done.stderr


def test_top_once(running: Running) -> None:
    shown = running("top", "--once")
    assert all(word in shown for word in ("default is ", "of 2 busy", "vqe", "qaoa", "tasks/s accepted"))


def test_report(running: Running, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert "report.html: " in running("report", "-o", page)
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") >= 4
    assert all(word in text for word in ("vqe", "qaoa", "</html>"))
    assert 'src="http' not in text
    assert "<script" not in text


def test_the_log_of_a_killed_environment(tmp_path: Path) -> None:
    skip_without_prte()
    with run_folder(tmp_path) as folder:
        assert qsimenv("start", "--ranks-per-node", 1, timeout_s=200).returncode == 0
        try:
            ids = qsimenv("submit", BELL, BELL, "--application", "night").stdout.split()
            assert qsimenv("results", *ids).returncode == 0
            connection = Connection.read(folder / FILE_NAME)
            family = family_of(connection.keeper_pid)
            os.kill(connection.keeper_pid, signal.SIGKILL)
            _, left = psutil.wait_procs(family, timeout=90)
            assert not left
            before = (folder / "journal.sqlite").read_bytes()
            for _ in range(2):  # reading changes nothing
                tasks = json.loads(qsimenv("log", "--json").stdout)["tasks"]
                assert [(task["task_id"], task["state"]) for task in tasks] == [(name, "DONE") for name in ids]
                assert {task["application"] for task in tasks} == {"night"}
            assert (folder / "journal.sqlite").read_bytes() == before
        finally:
            assert qsimenv("stop", timeout_s=120).returncode == 0
    refused(qsimenv("log", QSIMENV_RUN_FOLDER=str(folder)), "no environment is running and none has left a journal")


def test_events_on_the_command_line(running: Running, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("wb") as file:
        process = subprocess.Popen([*COMMAND, "events", "--kind", "task", "--count", "2", "--json"], stdout=file)
        try:

            def has_ended() -> bool:
                running("submit", BELL, "--wait")  # it has no way to say that it listens
                return process.poll() is not None

            wait_until(has_ended, 120, "two events were not told")
        finally:
            process.kill()
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert process.returncode == 0
    assert len(told) == 2
    assert all(event["kind"] == "task" and event["state"] in ("RUNNING", "DONE") for event in told)
    refused(qsimenv("events", "--kind", "nothing"), "nothing")
