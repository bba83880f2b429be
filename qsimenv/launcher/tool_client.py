"""The asyncio side of `pmix_tool.py`: starts that child, matches replies to requests, hands on its events."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qsimenv.errors import BadStateError, QSimEnvError, TimedOutError
from qsimenv.launcher.guarded import last_words

_LINE_LIMIT_BYTES = 1 << 20
_STOP_S = 2.0


class ToolClient:
    """A running pmix_tool. `ended` is set when the child is gone; `on_event` is called in the event loop."""

    def __init__(self, process: asyncio.subprocess.Process, on_event: Callable[[dict[str, Any]], None]) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._process, self._on_event = process, on_event
        self._connected: asyncio.Future[None] = loop.create_future()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls,
        uri_file: Path,
        environ: Mapping[str, str],
        *,
        log_path: Path,
        on_event: Callable[[dict[str, Any]], None],
        timeout_s: float,
    ) -> ToolClient:
        """Start the child and wait until it is connected; QSimEnvError says why it is not."""
        with log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "qsimenv.launcher.pmix_tool", str(uri_file)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=dict(environ),
                limit=_LINE_LIMIT_BYTES,
            )
        client = cls(process, on_event)
        await asyncio.wait({client._connected, client.ended}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not client._connected.done():
            said = last_words(log_path) if client.ended.done() else f"no answer in {timeout_s:g} s"
            await client.stop()
            raise QSimEnvError(f"connect to the DVM through PMIx: {said or 'the tool ended without a word'}")
        return client

    async def request(self, timeout_s: float, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its reply. Raises QSimEnvError with the tool's message, TimedOutError."""
        if self.ended.done() or self._process.stdin is None:
            raise BadStateError("the PMIx tool is gone; the environment has to be started anew")
        number = next(self._numbers)
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            self._process.stdin.write(json.dumps({"id": number, **request}).encode() + b"\n")
            await self._process.stdin.drain()
            answer = await asyncio.wait_for(reply, timeout_s)
        except TimeoutError:
            raise TimedOutError(f"PMIx {'/'.join(request)}: no answer in {timeout_s:g} s") from None
        except ConnectionError:
            raise BadStateError("the PMIx tool is gone; the environment has to be started anew") from None
        finally:
            self._waiting.pop(number, None)
        if "error" in answer:
            raise QSimEnvError(str(answer["error"]))
        return answer

    async def stop(self) -> None:
        """Close the child's stdin, by which it ends; kill it if it does not."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(asyncio.shield(self.ended), _STOP_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self.ended
        await self._reader

    async def _read(self) -> None:
        stdout = self._process.stdout
        while stdout is not None and (line := await stdout.readline()):
            with contextlib.suppress(json.JSONDecodeError):
                self._take(json.loads(line))
        await self._process.wait()
        self.ended.set_result(None)
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_result({"error": "the PMIx tool ended before it answered"})

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("event") == "connected":
            self._connected.set_result(None)
        elif "event" in message:
            self._on_event(message)
        elif (reply := self._waiting.get(message.get("id", 0))) is not None and not reply.done():
            reply.set_result(message)
