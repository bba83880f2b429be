"""A run folder of its own for every test, and both ways to launch."""

from tests.support import folder, hold, kind

__all__ = ["folder", "hold", "kind"]
