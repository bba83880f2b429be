"""One tree of errors; each class carries the QDMI status code that the QPM API reports.

Everything in the house raises these and nothing else on purpose: the command line turns one into
one line on stderr, the service sends its code and message, and a client raises the same class again.
A message names the operation, what was found, what is needed and what to do.
"""

from __future__ import annotations


class QSimEnvError(Exception):
    """Root of the tree; raised itself only for a failure nobody foresaw (QDMI FATAL)."""

    code = -1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class OutOfMemoryError(QSimEnvError):
    """The work does not fit; the message says with how many ranks or which precision it would."""

    code = -2


class NotImplementedByProviderError(QSimEnvError):
    """The call is in the QPM contract, but this provider does not offer it."""

    code = -3


class LibraryNotFoundError(QSimEnvError):
    """A library or program that the operation needs is not installed."""

    code = -4


class NotFoundError(QSimEnvError):
    """A named thing (file, task, circuit, environment, reservation) does not exist."""

    code = -5


class OutOfRangeError(QSimEnvError):
    """An index is outside of what it indexes."""

    code = -6


class InvalidArgumentError(QSimEnvError):
    """An argument is not one the operation accepts."""

    code = -7


class ParseError(InvalidArgumentError):
    """A program text is broken; the message begins with ``source:line:column`` where they are known."""


class PermissionDeniedError(QSimEnvError):
    """The caller lacks the key or the right."""

    code = -8


class NotSupportedError(QSimEnvError):
    """The request is meaningful, but this engine or machine cannot do it."""

    code = -9


class BadStateError(QSimEnvError):
    """The object is not in a state in which the operation makes sense."""

    code = -10


class SuspendedError(BadStateError):
    """The run wrote a checkpoint and ended because it was asked to; it can be gone on with."""


class TimedOutError(QSimEnvError):
    """The operation did not end in the time given."""

    code = -11


def from_code(code: int, message: str) -> QSimEnvError:
    """The error that a peer reported as ``code`` and ``message``; an unknown code gives the root class."""
    return _BY_CODE.get(code, QSimEnvError)(message)


_BY_CODE: dict[int, type[QSimEnvError]] = {cls.code: cls for cls in QSimEnvError.__subclasses__()}
