"""The connection file: where the controller is, and the keys without which nobody gets an answer.

The controller writes it, workers and clients read it. It holds secrets, so it is made with mode 0600 under another
name and then renamed: a reader sees a whole file or none, and a file that others can read is refused. Keys are CURVE
keys (25519) in Z85 text; the server's secret key never leaves the controller.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Annotated

import msgspec
import zmq

from qsimenv.errors import InvalidArgumentError, NotFoundError, PermissionDeniedError

CONNECTION_VARIABLE = "QSIMENV_CONNECTION"
GENERATION_VARIABLE = "QSIMENV_GENERATION"
"""By this a worker knows which instance it belongs to."""
RUN_FOLDER_VARIABLE = "QSIMENV_RUN_FOLDER"
FILE_NAME = "connection.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
Address = Annotated[str, msgspec.Meta(pattern=r"^tcp://\S+:[0-9]{1,5}$")]
Key = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}$")]
"""A CURVE key in Z85; ZeroMQ itself would only say "Invalid argument" of another text."""


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses ("tcp://host:port"), keys, and the process that serves; ``started`` in seconds since the epoch.

    ``results`` is the folder of large results on ``host``, ``memory`` that where they lie before ("": none);
    ``durable``: they survive a power failure.
    ``keeper_pid`` (0: none) is the process on ``host`` that starts the controller again, with a new file, when it dies.
    """

    name: str
    address: Address
    worker_address: Address
    server_key: Key
    client_key: Key
    client_secret: Key
    worker_key: Key
    worker_secret: Key
    pid: int
    host: str
    started: float
    keeper_pid: int = 0
    results: str = ""
    memory: str = ""
    durable: bool = False

    def __repr__(self) -> str:
        return f"Connection(name={self.name!r}, address={self.address!r}, pid={self.pid}, host={self.host!r})"

    def write(self, path: Path) -> None:
        """Put the file at ``path`` in one step, readable by its owner alone; makes the folder where it is missing."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(self)))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)

    @classmethod
    def read(cls, path: Path) -> Connection:
        """What ``path`` holds. NotFoundError, InvalidArgumentError; PermissionDeniedError where others can read it."""
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                data = file.read()
        except FileNotFoundError:
            raise NotFoundError(f"connect: there is no connection file {path}; start an environment first") from None
        except PermissionError:
            raise PermissionDeniedError(f"connect: {path} belongs to somebody else") from None
        except OSError as error:
            raise InvalidArgumentError(f"connect: {path} cannot be read ({error.strerror})") from None
        if mode & 0o077:
            raise PermissionDeniedError(
                f"connect: {path} has mode {mode:04o}, so others can read its keys; 0600 is needed: "
                "start the environment anew"
            )
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InvalidArgumentError(f"connect: {path} is not a connection file ({error})") from None


def new_keys() -> tuple[str, str]:
    """A fresh CURVE key pair: (public, secret)."""
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def default_run_folder(name: str = "default") -> Path:
    """Where the environment ``name`` keeps its files: ``$QSIMENV_RUN_FOLDER``, else ``~/.qsimenv/run/<name>``.

    Raises InvalidArgumentError for a name that could lead to another folder.
    """
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"name: {name!r} cannot name an environment; use letters, digits, '.', '-' and '_', 64 at most"
        )
    folder = os.environ.get(RUN_FOLDER_VARIABLE)
    return Path(folder) if folder else Path.home() / ".qsimenv" / "run" / name


def find_connection() -> Path | None:
    """The connection file of the running environment: ``$QSIMENV_CONNECTION``, else that in the default run folder."""
    named = os.environ.get(CONNECTION_VARIABLE)
    if named:
        return Path(named)
    path = default_run_folder() / FILE_NAME
    return path if path.exists() else None
