"""How far an environment still is in service: what it takes in, starts and keeps.

One value that the parts of the ``Service`` share: ``submissions`` asks whether anything is accepted, ``execution``
whether anything is started and what becomes of what was stopped. Only the service changes it, and never back.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class Mode:
    """As it starts: everything is open."""

    draining: bool = False
    """Nothing more is accepted; when the last task has ended, the environment ends."""
    holding: bool = False
    """What waits is left waiting."""
    keeping: bool = False
    """The environment is closed, and what has not ended is left to the next one."""
    broken: str = ""
    """Why no instance can be kept alive, where that is so."""
