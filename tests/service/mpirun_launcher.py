"""Instances by plain ``mpirun`` on this machine, and a controller process around them: what the service tests start.

``python mpirun_launcher.py CONNECTION RANKS`` serves until it is shut down; "ready" on stdout: the workers are there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
from pathlib import Path

from qsimenv.qpm_plugin.controller import Capacity, Limits, serve
from qsimenv.qpm_plugin.journal import FILE_NAME, Journal


class MpirunHandle:
    """One ``mpirun`` in a process group of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.ended: asyncio.Future[str] = asyncio.ensure_future(self._wait())

    async def _wait(self) -> str:
        return f"mpirun ended with status {await self._process.wait()}"

    async def kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.ended), 5)
                return
            os.killpg(self._process.pid, signal.SIGKILL)

    async def close(self) -> None:
        await self.ended


class MpirunLauncher:
    """``mpirun -n RANKS python -m qsimenv.qpm_plugin.worker``; as often as QSIMENV_TEST_LAUNCHES says, if it is set.

    From the second time on with no more ranks than QSIMENV_TEST_RANKS says.
    """

    def __init__(self) -> None:
        self._left = int(os.environ.get("QSIMENV_TEST_LAUNCHES", "1000"))
        self._most, self._most_later = 1000, int(os.environ.get("QSIMENV_TEST_RANKS", "1000"))

    async def launch(self, ranks: int, environ: dict[str, str]) -> MpirunHandle:
        self._left -= 1
        if self._left < 0:
            raise OSError("no more launches")
        ranks, self._most = min(ranks, self._most), self._most_later
        mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "mpirun"
        options = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
        command = [mpirun, *options, sys.executable, "-m", "qsimenv.qpm_plugin.worker"]
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, "NUMBA_NUM_THREADS": "1", **environ}, start_new_session=True
        )
        return MpirunHandle(process)

    def describe(self) -> dict[str, str]:
        return {"kind": "mpirun"}


async def main(connection: Path, ranks: int) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    limits = Limits(start_s=240, backoff_s=0.1)
    with contextlib.suppress(asyncio.CancelledError):
        await serve(
            connection,
            "test",
            MpirunLauncher(),
            ranks,
            lambda: print("ready", flush=True),
            limits=limits,
            journal=Journal(connection.with_name(FILE_NAME)),
            capacity=Capacity(queued_tasks=int(os.environ.get("QSIMENV_TEST_QUEUED", "100000"))),
        )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
