"""A run folder of its own for every test, and both ways to launch."""

from tests.support import folder, kind

__all__ = ["folder", "kind"]
