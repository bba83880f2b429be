"""``python -m benchmarks [NAME [options]]``: one benchmark, or all of them."""

from __future__ import annotations

import sys
from importlib import import_module

ALL = (
    "memory",
    "plan",
    "passes",
    "small",
    "measure",
    "gradient",
    "ranks",
    "scaling",
    "checkpoint",
    "service",
    "hostile",
    "schedule",
    "startup",
    "peers",
)


def main() -> None:
    names = sys.argv[1:2] or list(ALL)
    for name in names:
        if name not in ALL:
            sys.exit(f"benchmarks: {name!r} found, one of {', '.join(ALL)} needed")
        import_module(f"benchmarks.{name}").main(sys.argv[2:])


main()
