"""The child process that talks PMIx: ``python -m qsimenv.launcher.pmix_tool URI-FILE``; `spawn.py` starts it.

It keeps the bindings' libpmix (Debian's is 4.2.2) away from the rest, and speaks JSON lines: requests on stdin
(``{"id": 1, "spawn": {…}}``, ``{"id": 2, "kill": namespace}``, ``{"id": 3, "query": "namespaces"}``), replies and
events on stdout, PRTE's own chatter on stderr. It exits when stdin closes. A kill or a query runs in a further
process (``--kill``, ``--query``): those calls hold Python's lock while they wait, and would wait for ever if an event
came meanwhile. An event may come before the reply that names its job.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from qsimenv.errors import LibraryNotFoundError, QSimEnvError
from qsimenv.launcher.bindings import find_pmix_module, load_pmix
from qsimenv.launcher.guard import die_with_parent

_JOB_END, _LOST_CONNECTION = -145, -61
_ONE_SHOT_TIMEOUT_S = 15.0
_POLL_S = 0.02


class _SlowClock:
    """Stands in for `time` inside the bindings, whose event thread would otherwise wake up 1000 times a second."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    @staticmethod
    def sleep(_seconds: float) -> None:
        time.sleep(_POLL_S)


class Connection:
    """A PMIx tool connected to the DVM whose URI stands in a file. Raises QSimEnvError when it cannot connect."""

    def __init__(self, uri_file: Path) -> None:
        path = find_pmix_module()
        if path is None:
            raise LibraryNotFoundError("the PMIx Python bindings are missing; install Debian's python3-pmix")
        self.pmix: ModuleType = load_pmix(path)
        self.pmix.time = _SlowClock()  # type: ignore[attr-defined]
        self.tool = self.pmix.PMIxTool()
        uri = uri_file.read_text().split()[0]
        status, _ = self.tool.init([self.info("PMIX_SERVER_URI", uri)])
        self.check(status, "connect")

    def info(self, key: str, value: Any, kind: str = "PMIX_STRING") -> dict[str, Any]:
        """One pmix_info_t as the bindings want it (without explicit flags they are left uninitialised)."""
        return {"key": getattr(self.pmix, key), "value": value, "val_type": getattr(self.pmix, kind), "flags": 0}

    def check(self, status: int, operation: str) -> None:
        if status != 0:
            raise QSimEnvError(f"PMIx {operation}: {self.tool.error_string(status)} ({status})")

    def spawn(self, request: dict[str, Any]) -> str:
        """Start a job; its namespace. The setup text is the ONE variable that PRTE hands on (see `commands.py`)."""
        name, text = request["variable"], request["setup"]
        envar = {"envar": name, "value": os.fsencode(text), "separator": ":"}
        job = [
            self.info("PMIX_MAPBY", request["map_by"]),
            self.info("PMIX_BINDTO", request["bind_to"]),
            self.info("PMIX_NOTIFY_COMPLETION", True, "PMIX_BOOL"),
            self.info("PMIX_SET_ENVAR", envar, "PMIX_ENVAR"),
        ]
        argv = [os.fsencode(word) for word in request["argv"]]
        app = {"cmd": request["argv"][0], "argv": argv, "maxprocs": request["ranks"], "cwd": "/"}
        status, namespace = self.tool.spawn(job, [app])
        self.check(status, "spawn")
        return str(namespace).rstrip("\0")

    def kill(self, namespace: str) -> None:
        target = [{"nspace": namespace, "rank": self.pmix.PMIX_RANK_WILDCARD}]
        status, _ = self.tool.job_control(target, [self.info("PMIX_JOB_CTRL_KILL", True, "PMIX_BOOL")])
        self.check(status, "job control")

    def query(self, key: str) -> Any:
        names = {"namespaces": "PMIX_QUERY_NAMESPACES"}
        status, results = self.tool.query([{"keys": [getattr(self.pmix, names[key])], "qualifiers": []}])
        self.check(status, "query")
        return [result["value"] for result in results]


def describe_end(status: int | None, rank: int | None, message: str = "") -> str:
    """One line for people: how a job ended, from PRTE's status (128 + n: signal n), first rank and own message."""
    who = "a rank" if rank is None else f"rank {rank}"
    if status == 0:
        return "all ranks ended"
    if status is None:
        return "the job ended in an unknown way"
    if 'calling\n"abort"' in message or "MPI_ABORT" in message or "MPI_Abort" in message:
        return f"{who} called MPI_Abort({status})"
    if "could not\naccess" in message or "could not access" in message:
        return "the program could not be started: it was not found or is not executable"
    if 128 < status < 193:
        return f"{who} killed by signal {status - 128}"
    if status > 0:
        return f"{who} exited with status {status}"
    return f"the job failed: {' '.join(message.replace('-----', '').split()) or f'PRTE status {status}'}"


def job_end_event(source: dict[str, Any], infos: list[dict[str, Any]]) -> dict[str, Any]:
    """The JSON event for PMIX_EVENT_JOB_END."""
    values = {info["key"]: info["value"] for info in infos}
    status, affected = values.get("pmix.job.term.status"), values.get("pmix.evproc") or {}
    rank = affected.get("rank")
    first = rank if isinstance(rank, int) and 0 <= rank < 2**31 else None
    return {
        "event": "job_end" if status == 0 else "job_failed",
        "namespace": affected.get("nspace") or source.get("nspace"),
        "status": status,
        "reason": describe_end(status, first, str(values.get("pmix.evtext", ""))),
    }


class Service:
    """The loop over the requests of stdin; events are written by the bindings' own thread."""

    def __init__(self, uri_file: Path, out: int) -> None:
        self.uri_file, self.out, self.lock = uri_file, out, threading.Lock()
        self.connection = Connection(uri_file)
        for code in (_JOB_END, _LOST_CONNECTION):
            status, _ = self.connection.tool.register_event_handler([code], [], self.on_event)
            self.connection.check(status, "register event handler")

    def say(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        with self.lock:
            while line:
                line = line[os.write(self.out, line) :]

    def on_event(self, _id: int, status: int, source: Any, infos: Any, _results: Any) -> tuple[int, list[Any]]:
        if status == _LOST_CONNECTION:
            self.say({"event": "lost_connection", "namespace": None, "status": status, "reason": "the DVM is gone"})
        else:
            self.say(job_end_event(source, infos))
        return self.connection.pmix.PMIX_EVENT_ACTION_COMPLETE, []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "spawn" in request:
            return {"namespace": self.connection.spawn(request["spawn"])}
        if "kill" in request:
            return self.one_shot("--kill", request["kill"])
        if "query" in request:
            return self.one_shot("--query", request["query"])
        raise QSimEnvError(f"unknown request {sorted(request)}")

    def one_shot(self, option: str, value: str) -> dict[str, Any]:
        """Let a process of its own make a call that holds Python's lock while it waits."""
        command = [sys.executable, "-m", __spec__.name, str(self.uri_file), option, value]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_ONE_SHOT_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            raise QSimEnvError(f"PMIx {option[2:]}: no answer in {_ONE_SHOT_TIMEOUT_S:.0f} s") from None
        if done.returncode != 0:
            raise QSimEnvError(done.stderr.decode(errors="replace").strip() or f"PMIx {option[2:]} failed")
        return {"ok": True, "result": json.loads(done.stdout)}

    def handle(self, line: bytes) -> None:
        request = json.loads(line)
        try:
            self.say({"id": request["id"], **self.answer(request)})
        except (QSimEnvError, KeyError, ValueError, TypeError) as error:
            self.say({"id": request["id"], "error": str(error)})


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="qsimenv.launcher.pmix_tool")
    parser.add_argument("uri_file", type=Path)
    parser.add_argument("--kill", metavar="NAMESPACE")
    parser.add_argument("--query", choices=["namespaces"])
    options = parser.parse_args(arguments)
    die_with_parent(os.getppid())
    out = os.dup(1)
    os.dup2(2, 1)  # libpmix prints what it forwards to descriptor 1; that is for our JSON alone
    try:
        if options.kill or options.query:
            _one_shot(options, out)
        else:
            _serve(options.uri_file, out)
    except (QSimEnvError, OSError) as error:
        os.write(2, f"{error}\n".encode())
        os._exit(1)
    # No PMIx finalize: it could wait for an event handler for ever
    os._exit(0)


def _one_shot(options: argparse.Namespace, out: int) -> None:
    connection = Connection(options.uri_file)
    if options.kill:
        connection.kill(options.kill)
    result = connection.query(options.query) if options.query else None
    os.write(out, json.dumps(result, default=str).encode())


def _serve(uri_file: Path, out: int) -> None:
    service = Service(uri_file, out)
    service.say({"event": "connected"})
    for line in sys.stdin.buffer:
        threading.Thread(target=service.handle, args=(line,), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
