"""``python -m benchmarks [NAME [options]]``: one benchmark, or all of them."""

from __future__ import annotations

import sys

from benchmarks import run, titles


def main() -> None:
    known = titles()
    names = sys.argv[1:2] or list(known)
    for name in names:
        if name not in known:
            sys.exit(f"benchmarks: {name!r} found, one of {', '.join(known)} needed")
        run(name, sys.argv[2:], "python -m benchmarks")


main()
