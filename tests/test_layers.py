"""Holds the house together: a file imports only from layers below its own, and a few libraries have one door each."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "qsimenv"

# The first entry that fits the start of a name gives its layer. Files of one package and layer may import each other.
LAYERS = (
    ("qsimenv.errors", 0.0),
    ("qsimenv.wording", 0.0),
    ("qsimenv.wire", 0.0),
    ("qsimenv.formula", 0.1),
    ("qsimenv.gates", 0.2),
    ("qsimenv.circuit", 0.3),
    ("qsimenv.task", 0.4),
    ("qsimenv.memory", 0.5),
    ("qsimenv.compilation", 0.5),
    ("qsimenv.comm", 1),
    ("qsimenv.arrays_cupy", 1.05),
    ("qsimenv.arrays", 1.1),
    ("qsimenv.interrupt", 1.1),
    ("qsimenv.shards", 1.1),
    ("qsimenv.checkpoints", 1.2),
    ("qsimenv.formats", 1.5),
    ("qsimenv.toolchain", 2),
    ("qsimenv.statevec.engine", 5.5),  # the door of the package: registers with the layer above
    ("qsimenv.statevec.running", 5.4),
    ("qsimenv.statevec.explain", 5.6),
    ("qsimenv.statevec.rehearsal", 5.6),
    ("qsimenv.statevec.kernel_cache", 4.0),
    ("qsimenv.statevec.threads", 4.0),
    ("qsimenv.statevec.planning", 4.1),
    ("qsimenv.statevec.encoding", 4.2),
    ("qsimenv.statevec.kernels", 4.3),
    ("qsimenv.statevec.exchange", 4.4),
    ("qsimenv.statevec.state", 4.5),
    ("qsimenv.statevec.measuring", 4.6),
    ("qsimenv.statevec.simulate", 4.7),
    ("qsimenv.statevec.batches", 4.8),
    ("qsimenv.statevec.gatewise", 4.85),
    ("qsimenv.statevec.gradients", 4.8),
    ("qsimenv.statevec.storing", 4.8),
    ("qsimenv.statevec.costs", 4.9),
    ("qsimenv.statevec", 4),
    ("qsimenv.tensornet", 4),
    ("qsimenv.engines", 5),
    ("qsimenv.launcher.environment", 6.6),
    ("qsimenv.launcher.serving", 6.5),  # where launcher and service meet
    ("qsimenv.launcher.keeper", 6.4),
    ("qsimenv.launcher.folder", 6.3),
    ("qsimenv.launcher", 6),
    ("qsimenv.qpm_plugin", 6),
    ("qsimenv.qpi", 7),
    ("qsimenv.qiskit", 7),
    ("qsimenv.pennylane", 7),
    ("qsimenv.cli", 8),
)

# Library -> the only files that may import it; a star stands for part of a name.
DOORS = {
    "mpi4py": {"qsimenv.comm"},
    "cupy": {"qsimenv.arrays_cupy"},
    "numba": {
        "qsimenv.statevec.*_numba",
        "qsimenv.statevec.kernel_cache",
        "qsimenv.statevec.kernel_parts",
        "qsimenv.statevec.threads",
    },
    "llvmlite": {"qsimenv.statevec.kernel_cache", "qsimenv.statevec.*_numba"},
    "h5py": {"qsimenv.shards"},
    "xxhash": {"qsimenv.shards"},
    "qiskit": {"qsimenv.formats", "qsimenv.qiskit"},
    "zmq": {"qsimenv.qpm_plugin"},
    "click": {"qsimenv.cli"},
    "rich": {"qsimenv.cli"},
    "matplotlib": {"qsimenv.cli.plots"},
    "prometheus_client": {"qsimenv.qpm_plugin.metrics"},
    "pmix": {"qsimenv.launcher"},
    "pickle": set(),
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every absolute import, wherever in the file it stands. Each file is read once."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(module: str) -> float | None:
    return next((level for name, level in LAYERS if module == name or module.startswith(name + ".")), None)


MODULES = dict(modules())


@pytest.mark.parametrize("module", [name for name in MODULES if name != "qsimenv"])
def test_imports_point_downwards(module: str) -> None:
    mine = layer(module)
    assert mine is not None, f"{module} has no layer: give it one in LAYERS"
    package = module.split(".")[1] if module.count(".") > 1 or MODULES[module].name == "__init__.py" else None
    for target in imports(MODULES[module]):
        if target not in MODULES or target == "qsimenv":
            continue  # another library, or a name inside a module that is itself yielded
        theirs = layer(target)
        same_package = package is not None and target.split(".")[1] == package
        assert theirs is not None, f"{module} imports {target}, which has no layer"
        below = theirs < mine or (theirs == mine and same_package)
        assert below, f"{module} (layer {mine}) imports {target} (layer {theirs})"


def _inside(module: str, names: set[str]) -> bool:
    return any(fnmatch(module, name) or module.startswith(name + ".") for name in names)


@pytest.mark.parametrize("library", DOORS)
def test_libraries_have_one_door(library: str) -> None:
    users = {
        module
        for module, path in MODULES.items()
        if any(target == library or target.startswith(library + ".") for target in imports(path))
    }
    strangers = {module for module in users if not _inside(module, DOORS[library])}
    assert not strangers, f"{library} is imported by {sorted(strangers)}, only {sorted(DOORS[library])} may"


def test_statevec_and_tensornet_are_strangers() -> None:
    for module, path in MODULES.items():
        for mine, other in (("statevec", "tensornet"), ("tensornet", "statevec")):
            if module.startswith(f"qsimenv.{mine}"):
                assert not any(target.startswith(f"qsimenv.{other}") for target in imports(path))


def loaded_after(code: str) -> set[str]:
    probe = f"{code}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


def test_importing_qsimenv_is_light() -> None:
    assert not loaded_after("import qsimenv") & {"qiskit", "numba", "mpi4py", "zmq", "click", "rich", "scipy", "h5py"}


def test_the_command_line_is_light() -> None:
    loaded = loaded_after("import qsimenv.cli.main")
    assert not loaded & {"qiskit", "numba", "mpi4py", "zmq", "rich", "numpy"}


def test_a_worker_needs_no_qiskit() -> None:
    loaded = loaded_after("import qsimenv.qpm_plugin.worker, qsimenv.statevec.engine, qsimenv.statevec.simulate")
    assert not loaded & {"qiskit", "rich", "click", "h5py"}


def test_a_controller_needs_no_compiler_and_no_mpi() -> None:
    assert not loaded_after("import qsimenv.qpm_plugin.controller, qsimenv.statevec.engine") & {
        "numba",
        "mpi4py",
        "qiskit",
    }
