"""What stderr shows while the command works: a spinner on a terminal, else plain lines about what takes long."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from qsimenv import compilation


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


def _ignore(text: str) -> None:
    """For the ranks that do not speak."""
