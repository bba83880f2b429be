"""OpenQASM 2, OpenQASM 3 and QPY, by Qiskit's parsers and printers.

``formats.load`` and ``formats.dumps`` call it. What it adds to Qiskit: one line ``source:line:column: message`` for
whatever is wrong with a program (lines and columns count from 1), whichever parser found it and however it says so.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openqasm3
from openqasm3.parser import QASM3ParsingError
from qiskit import QuantumCircuit, qasm2, qasm3, qpy
from qiskit.exceptions import QiskitError
from qiskit_qasm3_import.converter import ConvertVisitor
from qiskit_qasm3_import.exceptions import ConversionError

from qsimenv.circuit import Circuit
from qsimenv.errors import NotSupportedError, ParseError, QSimEnvError
from qsimenv.formats.qiskit_in import from_qiskit
from qsimenv.formats.qiskit_out import to_qiskit

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_VERSION = re.compile(r"\s*OPENQASM\s+(\d+)")
_VERSION_2_ONLY = re.compile(r'\b(qreg|creg)\b|"qelib1\.inc"')
_DEFINED = re.compile(r"\b(?:gate|opaque)\s+(\w+)")
_QASM2_PLACE = re.compile(r"(.*?):(\d+),(\d+): (.*)", re.DOTALL)
_BEFORE_DEFINITION = re.compile(r"cannot use non-builtin custom instruction ('\w+') before definition")
_QASM3_PLACE = re.compile(r"(?:L(\d+):C(\d+)|(\d+),(\d+)): (.*)", re.DOTALL)


def loads(text: str, source: str = "<text>", folder: Path | None = None, name: str = "") -> Circuit:
    """The circuit that an OpenQASM program spells; ``folder`` is where its includes are looked for.

    Raises ParseError where the program is broken or uses words that Qiskit's parsers do not know, NotSupportedError
    for a gate that is declared but never defined.
    """
    bare = _COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    if not bare.strip():
        raise ParseError(f"{source}: the program is empty")
    version = _version(bare, source)
    parsed = _loads2(text, bare, source, folder) if version == 2 else _loads3(text, source)
    parsed.name = name
    try:
        return from_qiskit(parsed)
    except NotSupportedError as error:
        raise NotSupportedError(f"{source}: {error}") from None
    except QSimEnvError as error:
        raise ParseError(f"{source}: {error}") from None


def _version(bare: str, source: str) -> int:
    found = _VERSION.match(bare)
    if found is None:
        return 2 if _VERSION_2_ONLY.search(bare) else 3
    if int(found[1]) not in (2, 3):
        raise ParseError(f"{source}: OpenQASM {found[1]} found, 2 or 3 is supported")
    return int(found[1])


def loads_qpy(data: bytes, source: str = "<bytes>") -> Circuit:
    """The one circuit in QPY ``data``. Raises ParseError for broken data or another number of circuits."""
    try:
        circuits = qpy.load(io.BytesIO(data))
    except Exception as error:  # noqa: BLE001 - broken bytes end in whatever error Qiskit's reader stumbles over
        raise ParseError(f"{source}: not readable as QPY ({_one_line(error)})") from None
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
        raise NotSupportedError(f"dumps: {format} cannot hold this circuit ({_one_line(error)})") from None


def _loads2(text: str, bare: str, source: str, folder: Path | None) -> QuantumCircuit:
    # A gate that the program defines itself is what its body says, not what Qiskit calls by that name.
    own = set(_DEFINED.findall(bare))
    customs = [custom for custom in qasm2.LEGACY_CUSTOM_INSTRUCTIONS if custom.name not in own]
    try:
        return qasm2.loads(
            text,
            include_path=(*((str(folder),) if folder else ()), "."),
            custom_instructions=customs,
            custom_classical=qasm2.LEGACY_CUSTOM_CLASSICAL,
        )
    except QiskitError as error:
        message = _BEFORE_DEFINITION.sub(r"gate \1 is not defined; is its include missing?", _one_line(error))
        place = _QASM2_PLACE.fullmatch(message)
        if place is None:
            raise ParseError(f"{source}: {message}") from None
        where = source if place[1] == "<input>" else place[1]
        raise ParseError(f"{where}:{place[2]}:{int(place[3]) + 1}: {place[4]}") from None


def _loads3(text: str, source: str) -> QuantumCircuit:
    visitor = _Visitor()
    try:
        # The parser prints to stderr before it raises; the one line that we raise is enough.
        with contextlib.redirect_stderr(io.StringIO()):
            program = openqasm3.parse(text)
        return visitor.convert(program).circuit
    except QASM3ParsingError as error:
        raise ParseError(_syntax_error(error, source)) from None
    except ConversionError as error:
        place = _QASM3_PLACE.fullmatch(_one_line(error))
        line, column, message = (place[3], place[4], place[5]) if place else (None, None, _one_line(error))
        raise ParseError(_placed(source, line, column, message) if place else visitor.placed(source, message)) from None
    except RecursionError:
        raise ParseError(f"{source}: the program is nested too deeply") from None
    except Exception as error:  # noqa: BLE001 - the importer leaves its mistakes (IndexError, TypeError …) as they are
        raise ParseError(visitor.placed(source, visitor.explained(error))) from None


class _Visitor(ConvertVisitor):  # type: ignore[misc]
    """Qiskit's importer, which remembers the innermost statement that it was at when something went wrong."""

    def __init__(self) -> None:
        super().__init__()
        self._failed_at: Any = None

    def visit(self, node: Any, context: Any = None) -> Any:
        try:
            return super().visit(node, context)
        except Exception:
            if self._failed_at is None and getattr(node, "span", None) is not None:
                self._failed_at = node
            raise

    def placed(self, source: str, message: str) -> str:
        """``message`` with the place of that statement before it."""
        if self._failed_at is None:
            return f"{source}: {message}"
        return _placed(source, self._failed_at.span.start_line, self._failed_at.span.start_column, message)

    def explained(self, error: Exception) -> str:
        """What went wrong, in words for who wrote the program and not for who wrote the importer."""
        if isinstance(error, TypeError) and isinstance(self._failed_at, openqasm3.ast.QuantumGate):
            gate = self._failed_at
            return f"gate {gate.name.name!r} takes another number of angles than {len(gate.arguments)}"
        return _one_line(error)


def _syntax_error(error: QASM3ParsingError, source: str) -> str:
    place = _QASM3_PLACE.fullmatch(str(error))
    if place is not None:
        return _placed(source, place[1], place[2], place[5].replace("\n", " "))
    token = next((token for token in map(_offending_token, _causes(error)) if token is not None), None)
    if token is None:
        return f"{source}: {_one_line(error) or 'syntax error'}"
    found = "the end of the program" if token.text == "<EOF>" else repr(token.text)
    return _placed(source, token.line, token.column, f"{found} is not expected here")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        yield from (argument for argument in error.args if isinstance(argument, BaseException))
        error = error.__cause__ or error.__context__


def _offending_token(error: BaseException) -> Any:
    return getattr(error, "offendingToken", None)


def _placed(source: str, line: Any, column: Any, message: str) -> str:
    return f"{source}:{line}:{int(column) + 1}: {message}"


def _one_line(error: BaseException) -> str:
    text = str(getattr(error, "message", None) or error) or type(error).__name__
    return " ".join(text.partition("╺")[0].split()).rstrip(" :")
