"""Numbers as people read them: ``3 ranks``, ``1.5 GiB``. For messages, plans and the command line."""

from __future__ import annotations


def plural(number: int, noun: str) -> str:
    """``1 rank``, ``2 ranks``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def readable(num_bytes: float) -> str:
    """``1.5 GiB``: three digits, four from 1000 on."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if num_bytes < 1024 or unit == "PiB":
            break
        num_bytes /= 1024
    return f"{num_bytes:.3g} {unit}" if num_bytes < 1000 else f"{num_bytes:.0f} {unit}"
