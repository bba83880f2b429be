"""What stderr shows while the command works: a spinner or a bar on a terminal, else lines about what takes long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qsimenv import compilation

_INTERVAL_S = 0.1
"""Between two movements of a bar: a sweep may take microseconds."""


@contextmanager
def busy(text: str, quiet: bool = False) -> Iterator[None]:
    """While inside, a spinner with ``text`` and, if any, what is being compiled. ``quiet``: nothing."""
    if quiet:
        with compilation.reporting(_ignore):
            yield
    elif not sys.stderr.isatty():
        yield
    else:
        from rich.console import Console

        status = Console(stderr=True, markup=False).status(text)
        with status, compilation.reporting(lambda now: status.update(f"{text}: {now}")):
            yield


@contextmanager
def sweeping(text: str, quiet: bool = False) -> Iterator[Callable[[int, int | None], None] | None]:
    """As ``busy``, with a bar that the function it yields moves on: sweeps done, and in all where that is known."""
    if quiet or not sys.stderr.isatty():
        with busy(text, quiet):
            yield None
        return
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        progress.SpinnerColumn(), progress.TextColumn("{task.description}", markup=False), progress.BarColumn(),
        progress.TextColumn("{task.completed} of {task.fields[of]} sweeps"), progress.TimeElapsedColumn(),
        progress.TextColumn("left:"), progress.TimeRemainingColumn(), console=Console(stderr=True), transient=True,
    )  # fmt: skip
    task, next_s = bar.add_task(text, total=None, of="?"), 0.0

    def tell(done: int, total: int | None) -> None:
        nonlocal next_s
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + _INTERVAL_S
            bar.update(task, completed=done, total=total, of="?" if total is None else total)

    with bar, compilation.reporting(lambda now: bar.update(task, description=f"{text}: {now}")):
        yield tell


def _ignore(text: str) -> None:
    """For the ranks that do not speak."""
