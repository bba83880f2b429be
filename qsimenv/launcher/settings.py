"""What an environment's processes tell each other: ``environment`` to ``keeper`` to ``serving``, and back."""

from __future__ import annotations

import msgspec

READY, FAILED, ALIVE, ENDING = "ready", "failed", "alive", "ending"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for. ``profile`` None: by the allocation; ``ranks_per_node`` None: by the profile.

    ``journal`` None: in the run folder. ``durable``: a commit of the journal waits for the disk. ``keep_results`` and
    ``max_queued`` None: as many as ``Capacity`` says.
    """

    name: str
    run_folder: str
    hosts: str | None = None
    ranks_per_node: int | None = None
    het_group: int | None = None
    profile: str | None = None
    timeout_s: float = 120.0
    journal: str | None = None
    durable: bool = False
    keep_results: int | None = None
    max_queued: int | None = None
    metrics_port: int | None = None


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line on a pipe: a phase that begins, the end of the start, or why it failed (code and message)."""

    phase: str
    code: int | None = None
    message: str = ""
