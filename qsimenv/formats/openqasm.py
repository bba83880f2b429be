"""OpenQASM 2, OpenQASM 3 and QPY, by Qiskit's parsers and printers.

``formats.load`` and ``formats.dumps`` call it. What it adds to Qiskit: includes that lie beside the program, and one
line ``source:line:column: message`` for whatever is wrong with it (both count from 1), in whichever file it stands.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qiskit import qasm2, qasm3, qpy
from qiskit.exceptions import QiskitError

from qsimenv.circuit import Circuit
from qsimenv.errors import NotSupportedError, ParseError, QSimEnvError
from qsimenv.formats.openqasm_parsers import FlawError, one_line, parse2, parse3
from qsimenv.formats.qiskit_in import from_qiskit
from qsimenv.formats.qiskit_out import to_qiskit

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_VERSION = re.compile(r"\s*OPENQASM\s+(\d+)")
_VERSION_2_ONLY = re.compile(r'\b(qreg|creg)\b|"qelib1\.inc"')
_INCLUDE = re.compile(r'\binclude\s*"([^"]*)"\s*;')
_BUILT_IN = ("qelib1.inc", "stdgates.inc")
_MAX_DEPTH = 16

_Line = tuple[str, str, int]
"""A line of the program with the file and the line number that it comes from."""


def loads(text: str, source: str = "<text>", folder: Path | None = None, name: str = "") -> Circuit:
    """The circuit that an OpenQASM program spells; ``folder`` is where its includes are (else the working directory).

    Raises ParseError where the program is broken or uses words that Qiskit's parsers do not know, NotSupportedError
    for a gate that is declared but never defined.
    """
    lines = list(_expanded(text, source, folder or Path(), _MAX_DEPTH))
    whole = "\n".join(line for line, _, _ in lines)
    bare = _without_comments(whole)
    if not bare.strip():
        raise ParseError(f"{source}: the program is empty")
    try:
        parsed = parse2(whole, bare) if _version(bare, source) == 2 else parse3(whole)
    except FlawError as flaw:
        raise ParseError(_placed(flaw, lines, source)) from None
    parsed.name = name
    try:
        return from_qiskit(parsed)
    except NotSupportedError as error:
        raise NotSupportedError(f"{source}: {error}") from None
    except QSimEnvError as error:
        raise ParseError(f"{source}: {error}") from None


def loads_qpy(data: bytes, source: str = "<bytes>") -> Circuit:
    """The one circuit in QPY ``data``. Raises ParseError for broken data or another number of circuits."""
    try:
        circuits = qpy.load(io.BytesIO(data))
    except Exception as error:  # noqa: BLE001 - broken bytes end in whatever error Qiskit's reader stumbles over
        raise ParseError(f"{source}: not readable as QPY ({one_line(error)})") from None
    if len(circuits) != 1:
        raise ParseError(
            f"{source}: {len(circuits)} circuits found in the QPY data, 1 needed; load them one by one with qiskit.qpy"
        )
    return from_qiskit(circuits[0])


def dumps2(circuit: Circuit) -> str:
    """OpenQASM 2 text. Raises NotSupportedError for free parameters and classical control."""
    return str(_written("OpenQASM 2", lambda: qasm2.dumps(to_qiskit(circuit))))


def dumps3(circuit: Circuit) -> str:
    """OpenQASM 3 text. Raises NotSupportedError where Qiskit's printer has no words."""
    return str(_written("OpenQASM 3", lambda: qasm3.dumps(to_qiskit(circuit), allow_aliasing=True)))


def dumps_qpy(circuit: Circuit) -> bytes:
    """QPY bytes. Raises NotSupportedError where QPY has no words."""
    buffer = io.BytesIO()
    _written("QPY", lambda: qpy.dump(to_qiskit(circuit), buffer))
    return buffer.getvalue()


def _written(format: str, write: Callable[[], Any]) -> Any:
    try:
        return write()
    except QiskitError as error:
        raise NotSupportedError(f"dumps: {format} cannot hold this circuit ({one_line(error)})") from None


def _version(bare: str, source: str) -> int:
    found = _VERSION.match(bare)
    if found is None:
        return 2 if _VERSION_2_ONLY.search(bare) else 3
    if int(found[1]) not in (2, 3):
        raise ParseError(f"{source}: OpenQASM {found[1]} found, 2 or 3 is supported")
    return int(found[1])


def _without_comments(text: str) -> str:
    """The text with blanks for comments, so that every place stays the same."""
    return _COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def _expanded(text: str, source: str, folder: Path, depth: int) -> Iterator[_Line]:
    """The program with the files that it includes put in. (Qiskit reads OpenQASM 2 includes wrongly as soon as one
    defines a gate with parameters, and OpenQASM 3 ones not at all.) One that is not found is left to the parser."""
    bare = _without_comments(text).split("\n")
    for number, line in enumerate(text.split("\n"), start=1):
        found = _INCLUDE.search(bare[number - 1])
        path = folder / found[1] if found and found[1] not in _BUILT_IN else None
        if found is None or path is None or not path.is_file():
            yield line, source, number
            continue
        if depth == 0:
            raise ParseError(f"{source}:{number}:{found.start() + 1}: includes are nested more than {_MAX_DEPTH} deep")
        yield line[: found.start()], source, number
        yield from _expanded(_read(path), str(path), folder, depth - 1)
        yield " " * found.end() + line[found.end() :], source, number


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise ParseError(f"{path}: not readable as text in UTF-8") from None


def _placed(flaw: FlawError, lines: list[_Line], source: str) -> str:
    if flaw.line is None:
        return f"{source}: {flaw.message}"
    _, origin, number = lines[min(flaw.line, len(lines)) - 1]
    return f"{origin}:{number}:{flaw.column + 1}: {flaw.message}"
