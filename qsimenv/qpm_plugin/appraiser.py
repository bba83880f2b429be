"""The appraiser: a process beside the controller that looks into circuits which are too long to be opened there.

``Appraiser`` is the controller's side: it starts the process with the first question, asks one question after the other
through pipes, and starts another where it has died. ``main`` is the process: an ``Admission`` of its own, which opens,
checks and estimates just as the controller's does, and puts the circuits of tasks into files. It ends with the
controller, because its pipe does. Frames are msgpack behind their length in eight bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from qsimenv.errors import QSimEnvError
from qsimenv.qpm_plugin import circuit_files
from qsimenv.qpm_plugin import messages as m
from qsimenv.qpm_plugin.admission import Admission, Appraise, Appraised, Finding
from qsimenv.qpm_plugin.sealed import OPENED_BYTES
from qsimenv.wire import decode_hook, encode_hook

_log = logging.getLogger("qsimenv.controller")
COMMAND = (sys.executable, "-m", "qsimenv.qpm_plugin.appraiser")
_ATTEMPTS = 2
_LENGTH_BYTES = 8
_KEPT_BYTES = 64 << 20
"""Of circuits; opened ones take ten times as much."""
_ENCODER = msgspec.msgpack.Encoder(enc_hook=encode_hook)
_QUESTION = msgspec.msgpack.Decoder(Appraise, dec_hook=decode_hook)
_FINDING: msgspec.msgpack.Decoder[Finding] = msgspec.msgpack.Decoder(Finding, dec_hook=decode_hook)


class Appraiser:
    """Asks the process. ``ask`` never waits; the answer comes to ``done``, which must not raise."""

    def __init__(self) -> None:
        self._questions: deque[tuple[Appraise, Callable[[Finding], None]]] = deque()
        self._asking: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    def ask(self, question: Appraise, done: Callable[[Finding], None]) -> None:
        self._questions.append((question, done))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask_all())

    async def close(self) -> None:
        """End the process; what it was asked is not answered."""
        self._questions.clear()
        if self._asking is not None:
            self._asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._asking
        await self._end()

    async def _ask_all(self) -> None:
        while self._questions:
            question, done = self._questions.popleft()
            finding = await self._finding(question)
            try:
                done(finding)
            except Exception:  # noqa: BLE001 - the controller lives on, whatever a request does
                _log.exception("a request with a long circuit failed in a way nobody foresaw")

    async def _finding(self, question: Appraise) -> Finding:
        for _ in range(_ATTEMPTS):
            try:
                return _FINDING.decode(await self._answer(_ENCODER.encode(question)))
            except (OSError, EOFError, msgspec.MsgspecError) as error:
                await self._end()
                text = f"submit: the process that looks into long circuits has died {_ATTEMPTS} times ({error})"
        return m.Failed(QSimEnvError.code, f"{text}; is there enough memory?")

    async def _answer(self, frame: bytes) -> bytes:
        if self._process is None:
            pipe = asyncio.subprocess.PIPE
            self._process = await asyncio.create_subprocess_exec(*COMMAND, stdin=pipe, stdout=pipe)
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101 - it was asked for
        assert stdout is not None  # noqa: S101 - it was asked for
        stdin.write(len(frame).to_bytes(_LENGTH_BYTES, "big"))
        stdin.write(frame)
        await stdin.drain()
        length = int.from_bytes(await stdout.readexactly(_LENGTH_BYTES), "big")
        return await stdout.readexactly(length)

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def appraise(admission: Admission, question: Appraise) -> Finding:
    """What the process finds. ``admission`` keeps what it has seen."""
    machine = question.max_ranks, question.free_bytes
    if machine != (admission.max_ranks, admission.free_bytes):
        admission.resize(*machine)
    try:
        unknown = admission.unknown(question.jobs, question.circuits)
        if unknown:
            return m.NeedCircuits(unknown)
        admission.learn(question.circuits)
        found = Appraised(question.max_ranks, tuple(admission.estimates(question.jobs)))
        _keep(question)
    except QSimEnvError as error:
        return m.Failed(error.code, error.message)
    return found


def _keep(question: Appraise) -> None:
    """Put the long circuits, whose names are known to be right now, where the journal will look for them."""
    for name, data in question.circuits.items() if question.folder else ():
        try:
            if len(data) > OPENED_BYTES:
                circuit_files.write(Path(question.folder), name, data, question.durable)
        except OSError as error:
            raise QSimEnvError(
                f"submit: journal: {question.folder} cannot be written ({error.strerror}); "
                "make room on the disk, it goes on by itself then"
            ) from None


def serve(questions: BinaryIO, findings: BinaryIO) -> None:
    """Answer until nothing more comes."""
    admission = Admission(_KEPT_BYTES)
    while True:
        length = int.from_bytes(questions.read(_LENGTH_BYTES), "big")
        data = questions.read(length)
        if not length or len(data) < length:
            return
        frame = _ENCODER.encode(appraise(admission, _QUESTION.decode(data)))
        findings.write(len(frame).to_bytes(_LENGTH_BYTES, "big") + frame)
        findings.flush()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer)
