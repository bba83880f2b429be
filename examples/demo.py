"""The main job, start to end: an environment comes up under PRTE, every example runs through it, it goes down again.

    python examples/demo.py        (this is what `make demo` calls)

Ends with exit code 1 where anything is not as it must be.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

import qsimenv as qs
from qsimenv.qpm_plugin import QPM, TaskRecord, TaskState
from qsimenv.qpm_plugin.client import connect
from qsimenv.qpm_plugin.connection import FILE_NAME, default_run_folder

EXAMPLES = Path(__file__).parent
NAME = "demo"
SHOTS = 1000
out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def qsimenv(*arguments: str) -> None:
    """A command as a user would type it."""
    out.print(f"\n[bold]$ qsimenv {' '.join(arguments)}[/bold]")
    subprocess.run([sys.executable, "-m", "qsimenv.cli", *arguments], check=True)


def run_examples(qpm: QPM) -> bool:
    """All OpenQASM examples in one request; results come back in the order asked for."""
    files = sorted(EXAMPLES.glob("*.qasm"))
    circuits = [qs.load(file) for file in files]
    out.print(f"\n[bold]{len(files)} circuits through the QPM plugin, {SHOTS} shots each[/bold]")
    ids = qpm.async_run([qs.Task(circuit, shots=SHOTS, seed=7) for circuit in circuits])
    records = qpm.read_cq(task_ids=ids, timeout_s=120)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("circuit", "qubits", "state", "ranks", "queued", "ran", "most frequent outcomes"):
        table.add_column(column, justify="right" if column in ("qubits", "queued", "ran") else "left")
    for file, circuit, record in zip(files, circuits, records, strict=True):
        table.add_row(
            file.stem, str(circuit.num_qubits), record.state.name, ", ".join(map(str, record.ranks)),
            milliseconds(record.queue_s), milliseconds(record.execution_s), outcomes(record),
        )  # fmt: skip
    out.print(table)
    counts = {file.stem: record.result.counts for file, record in zip(files, records, strict=True) if record.result}
    return all(record.state == TaskState.DONE for record in records) and check(counts)


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.1f} ms"


def outcomes(record: TaskRecord) -> str:
    if record.result is None:
        return record.error.message if record.error else "-"
    ranked = sorted(record.result.counts.items(), key=lambda item: -item[1])
    return "  ".join(f"{outcome}: {count}" for outcome, count in ranked[:3]) + ("  …" if len(ranked) > 3 else "")


def check(counts: dict[str, dict[str, int]]) -> bool:
    """What must come out, whatever the random numbers."""
    sums = {int(outcome, 2) for outcome in counts["adder"]}
    fine = {
        f"the adder says 11 + 6 = {', '.join(map(str, sorted(sums)))}": sums == {17},
        "the inverse Fourier transform reads 11": set(counts["qft"]) == {"01011"},
        "teleportation delivers the state for every pair of bits": all(key[0] == "0" for key in counts["teleport"]),
        "GHZ gives all zeros or all ones": set(counts["ghz"]) == {"0" * 12, "1" * 12},
    }
    for statement, holds in fine.items():
        out.print(f"{'[green]ok[/green]   ' if holds else '[red]WRONG[/red]'} {statement}")
    return all(fine.values())


def run_programs(connection: Path) -> None:
    """The Python examples, as applications that find the environment by its connection file."""
    for program in ("qpm_client.py", "qiskit_application.py"):
        out.print(f"\n[bold]$ python examples/{program}[/bold]")
        environ = os.environ | {"QSIMENV_CONNECTION": str(connection)}
        subprocess.run([sys.executable, str(EXAMPLES / program)], check=True, env=environ)


def processes_of(qpm: QPM) -> list[psutil.Process]:
    """The controller and everything below it: DVM, workers."""
    controller = psutil.Process(qpm.describe()["controller"]["pid"])
    return [controller, *controller.children(recursive=True)]


def main() -> int:
    began = time.perf_counter()
    folder = default_run_folder(NAME)
    qsimenv("start", "--name", NAME)
    processes: list[psutil.Process] = []
    try:
        with connect(folder / FILE_NAME) as qpm:
            processes = processes_of(qpm)
            fine = run_examples(qpm)
        run_programs(folder / FILE_NAME)
        qsimenv("status", "--name", NAME)
    finally:
        qsimenv("stop", "--name", NAME)
    left = [process for process in psutil.wait_procs(processes, timeout=10)[1] if process.is_running()]
    gone = not left and not folder.exists()
    out.print(f"{'[green]ok[/green]   ' if gone else '[red]WRONG[/red]'} no process and no file is left")
    out.print(f"\ndone in {time.perf_counter() - began:.1f} s")
    return 0 if fine and gone else 1


if __name__ == "__main__":
    sys.exit(main())
