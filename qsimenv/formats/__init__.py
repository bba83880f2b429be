"""Formats: OpenQASM 2 and 3, QPY and Qiskit's circuits, in and out.

``load`` is what ``qs.load`` and the command line call; ``dumps`` is its opposite. Qiskit does the parsing, so the
modules beside this one import it, and this one imports them only when a call needs them: a process that is handed
finished circuits never pays for Qiskit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qsimenv.circuit import Circuit
from qsimenv.errors import InvalidArgumentError, NotFoundError, ParseError

__all__ = ["bind", "dumps", "load"]

_QPY_MAGIC = b"QISKIT"
_TEXT = re.compile(r"\s*(//[^\n]*\n\s*|/\*.*?\*/\s*)*OPENQASM\b", re.DOTALL)
_MAX_NAME = 200


def load(source: Any, *, inputs: Mapping[str, float] | None = None) -> Circuit:
    """The circuit in ``source``: a path, OpenQASM 2 or 3 text, QPY bytes, a ``qiskit.QuantumCircuit`` or a Circuit.

    ``inputs`` gives values to free parameters (``input float theta;`` in OpenQASM 3) by name; those it does not name
    stay free. Raises NotFoundError for a missing file, ParseError (``source:line:column: …``) for a broken program,
    NotSupportedError for an instruction nobody can say what it does, InvalidArgumentError for anything else.
    """
    circuit = _load(source)
    return bind(circuit, inputs) if inputs else circuit


def dumps(circuit: Circuit, format: str = "qasm3") -> str | bytes:
    """The circuit as OpenQASM text (``"qasm2"``, ``"qasm3"``) or as QPY bytes (``"qpy"``).

    Raises NotSupportedError where the format has no words for something in the circuit, as OpenQASM 2 has none for
    loops and free parameters; InvalidArgumentError for an unknown format.
    """
    from qsimenv.formats import openqasm

    writers: dict[str, Callable[[Circuit], str | bytes]] = {
        "qasm2": openqasm.dumps2,
        "qasm3": openqasm.dumps3,
        "qpy": openqasm.dumps_qpy,
    }
    if format not in writers:
        raise InvalidArgumentError(f"dumps: format {format!r} found, one of {', '.join(map(repr, writers))} needed")
    return writers[format](circuit)


def bind(circuit: Circuit, values: Mapping[str, float]) -> Circuit:
    """The circuit with some of its free parameters put in. Raises InvalidArgumentError for a name it does not have."""
    from qsimenv.formats.binding import bind as bound

    return bound(circuit, values)


def _load(source: Any) -> Circuit:
    if isinstance(source, Circuit):
        return source
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_bytes(bytes(source), "<bytes>", None)
    if isinstance(source, str) and ("\n" in source or _TEXT.match(source)):
        return _from_text(source, "<text>", None)
    if source == "":
        raise InvalidArgumentError("circuit: an empty text; give a path or OpenQASM text")
    if isinstance(source, str | Path):
        return _from_file(Path(source))
    if hasattr(source, "data") and hasattr(source, "qubits"):
        from qsimenv.formats.qiskit_in import from_qiskit

        return from_qiskit(source)
    raise InvalidArgumentError(
        f"circuit: {type(source).__name__} found; give a path, OpenQASM text, QPY bytes or a qiskit.QuantumCircuit"
    )


def _from_file(path: Path) -> Circuit:
    shown = str(path) if len(str(path)) <= _MAX_NAME else f"{str(path)[:_MAX_NAME]}…"
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"circuit: no file {shown!r}; give a path or OpenQASM text") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidArgumentError(f"circuit: {shown!r} cannot be read ({reason})") from None
    return _from_bytes(data, str(path), path.parent, path.stem)


def _from_bytes(data: bytes, source: str, folder: Path | None, name: str = "") -> Circuit:
    if data.startswith(_QPY_MAGIC):
        from qsimenv.formats.openqasm import loads_qpy

        return loads_qpy(data, source)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ParseError(f"{source}: neither QPY nor text in UTF-8; OpenQASM 2, OpenQASM 3 or QPY is needed") from None
    return _from_text(text, source, folder, name)


def _from_text(text: str, source: str, folder: Path | None, name: str = "") -> Circuit:
    from qsimenv.formats import openqasm

    return openqasm.loads(text, source, folder, name)
