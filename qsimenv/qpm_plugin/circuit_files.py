"""Long circuits of a journal: a file each, in a folder beside it, named by the circuit's hash.

The ``appraiser`` writes them, which has them in hand, before their tasks are accepted: to put megabytes into a database
takes tens of milliseconds, in which the controller would hear nobody. The ``journal`` names those it needs, reads them
when it is opened again, and forgets the others. A file is whole or not there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container
from pathlib import Path

_UNFINISHED = ".unfinished"


def write(folder: Path, name: str, data: bytes, durable: bool = False) -> None:
    """Keep a circuit, unless it is kept; ``durable`` waits for the disk. Raises OSError, with nothing left behind."""
    path = folder / name
    if path.exists():
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    unfinished = path.with_suffix(_UNFINISHED)
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)
    if durable:
        for changed in (folder, folder.parent):
            sync_folder(changed)


def sync_folder(folder: Path) -> None:
    """Without this the disk may know a file but not its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_only(folder: Path, names: Container[str]) -> None:
    """Forget all circuits but these, where the disk allows."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name not in names:
                path.unlink()
