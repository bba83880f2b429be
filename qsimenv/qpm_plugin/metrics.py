"""The state of an environment as OpenMetrics text, and the door on loopback through which a collector reads it.

``text`` is pure, of what ``QPM.telemetry`` tells: ``qsimenv status --metrics`` prints it, ``serve`` answers HTTP GET
requests with it. Counters and names of applications, no circuits and no results: every user of the machine can read
them. Relies on ``prometheus_client`` for the format.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from qsimenv.errors import InvalidArgumentError

HOST = "127.0.0.1"
_REQUEST_BYTES = 8 << 10
_REQUEST_S = 5.0
_FINAL = ("DONE", "CANCELED", "FAILED")


def text(telemetry: dict[str, Any]) -> str:
    """One exposition of everything that ``telemetry`` tells, with its ``# EOF``."""
    collectors = CollectorRegistry()
    collectors.register(_Telemetry(telemetry))
    exposition: bytes = generate_latest(collectors)  # type: ignore[no-untyped-call] # it has no types
    return exposition.decode()


@asynccontextmanager
async def serve(port: int | None, read: Callable[[], dict[str, Any]]) -> AsyncIterator[None]:
    """Answer ``GET /metrics`` at http://127.0.0.1:``port`` (None: not at all) with what ``read`` tells just then.

    InvalidArgumentError where the port cannot be had.
    """
    if port is None:
        yield
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _REQUEST_S)
            writer.write(_response(head, read))
            await asyncio.wait_for(writer.drain(), _REQUEST_S)
        writer.close()

    try:
        server = await asyncio.start_server(answer, HOST, port, limit=_REQUEST_BYTES)
    except OSError as error:
        raise InvalidArgumentError(
            f"start: port {port} cannot be used for metrics ({error.strerror}); choose another --metrics-port"
        ) from None
    try:
        yield
    finally:
        server.close()  # without waiting for those who still read


def _response(head: bytes, read: Callable[[], dict[str, Any]]) -> bytes:
    match head.partition(b"\r\n")[0].split(b" "):
        case [b"GET", b"/metrics" | b"/", _]:
            return _http("200 OK", CONTENT_TYPE_LATEST, text(read()))
        case [b"GET", _, _]:
            return _http("404 Not Found", "text/plain", "only /metrics is here\n")
        case [_, _, _]:
            return _http("405 Method Not Allowed", "text/plain", "only GET is answered\n")
        case _:
            return _http("400 Bad Request", "text/plain", "this is not HTTP\n")


def _http(status: str, kind: str, body: str) -> bytes:
    data = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    return head.encode() + data


class _Telemetry(Collector):
    def __init__(self, telemetry: dict[str, Any]) -> None:
        self._told = telemetry

    def collect(self) -> Iterator[Metric]:
        told = self._told
        tasks, traffic = told["tasks"], told["bytes"]
        now = {state: float(number) for state, number in tasks.items() if state not in _FINAL}
        ended = {state: float(number) for state, number in tasks.items() if state in _FINAL}
        waiting = {name: float(numbers["waiting"]) for name, numbers in told["applications"].items()}
        running = {name: float(numbers["running"]) for name, numbers in told["applications"].items()}
        ranks = {state: float(told["ranks"][state]) for state in ("busy", "free")}
        yield _single(GaugeMetricFamily, "uptime_seconds", "Since the controller began.", told["uptime_s"])
        yield _labelled(GaugeMetricFamily, "tasks", "Tasks that have not ended.", "state", now)
        yield _labelled(GaugeMetricFamily, "tasks_kept", "Tasks that have ended and are kept.", "state", ended)
        yield _single(CounterMetricFamily, "tasks_accepted", "Tasks accepted.", told["tasks_accepted"])
        yield _single(GaugeMetricFamily, "queue_length", "Tasks that wait for ranks.", told["queue_length"])
        yield _labelled(GaugeMetricFamily, "tasks_waiting", "Tasks that wait for ranks.", "application", waiting)
        yield _labelled(GaugeMetricFamily, "tasks_running", "Tasks on ranks.", "application", running)
        yield _labelled(GaugeMetricFamily, "ranks", "Ranks of the instance.", "state", ranks)
        yield _single(CounterMetricFamily, "work_rank_seconds", "Time that ranks worked.", told["work_rank_seconds"])
        yield _single(GaugeMetricFamily, "reservations", "Reservations in force.", told["reservations"])
        yield _single(CounterMetricFamily, "instances", "Instances of workers started.", told["instances"])
        yield _single(CounterMetricFamily, "requests", "Requests of clients.", told["requests"])
        yield _single(CounterMetricFamily, "worker_messages", "Messages of workers.", told["worker_messages"])
        yield _single(CounterMetricFamily, "refused", "Requests and messages refused.", told["refused"])
        yield _labelled(CounterMetricFamily, "bytes", "Bytes of messages.", "direction", traffic)
        yield _single(
            GaugeMetricFamily, "controller_peak_bytes", "Most memory of the controller.", told["controller_peak_bytes"]
        )


def _single(kind: type[GaugeMetricFamily | CounterMetricFamily], name: str, help_text: str, value: float) -> Metric:
    return kind(f"qsimenv_{name}", help_text, value=value)


def _labelled(
    kind: type[GaugeMetricFamily | CounterMetricFamily],
    name: str,
    help_text: str,
    label: str,
    values: dict[str, float],
) -> Metric:
    family = kind(f"qsimenv_{name}", help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key.lower() if label == "state" else key], value)
    return family
