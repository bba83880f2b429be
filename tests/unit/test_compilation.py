"""One process compiles, the others wait and load, whatever becomes of the one; and where compiled code is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qsimenv import compilation
from qsimenv.statevec import kernel_cache

WORKER = """
import sys, time
from pathlib import Path
from qsimenv.compilation import Lock, find_or_lock
made, lock = Path(sys.argv[1]), Lock(Path(sys.argv[2]))
found = find_or_lock(lambda: made.exists() or None, lock, lambda: None)
if found is None:
    print("makes", flush=True)
    time.sleep(float(sys.argv[3]))
    made.touch()
    lock.release()
else:
    print("finds", flush=True)
"""


def start(folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(folder / "made"), str(folder / "lock"), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_one_of_many_processes_works(tmp_path: Path) -> None:
    processes = [start(tmp_path, 0.5) for _ in range(4)]
    words = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert sorted(words) == ["finds", "finds", "finds", "makes"]


def test_a_process_that_is_killed_at_work_is_followed_by_another(tmp_path: Path) -> None:
    first = start(tmp_path, 600)
    assert first.stdout is not None
    assert first.stdout.readline().strip() == "makes"
    second = start(tmp_path, 0)
    time.sleep(0.2)
    assert second.poll() is None, "it waits for the first"
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.communicate(timeout=60)[0].strip() == "makes"
    assert (tmp_path / "made").exists()


def test_a_lock_file_that_was_left_behind_locks_nothing(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("of a process that is long gone")
    lock = compilation.Lock(tmp_path / "lock")
    assert lock.try_acquire()
    assert not compilation.Lock(tmp_path / "lock").try_acquire()
    lock.release()
    assert compilation.Lock(tmp_path / "lock").try_acquire()


def test_a_file_system_without_locks_has_one_lock_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, wanted = compilation.fcntl.flock, (tmp_path / "far" / "lock")
    wanted.parent.mkdir()

    def flock(handle: int, operation: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").startswith(str(wanted.parent)):
            raise OSError(38, "Function not implemented")
        real(handle, operation)

    monkeypatch.setattr(compilation.fcntl, "flock", flock)
    monkeypatch.setattr(compilation.tempfile, "gettempdir", lambda: str(tmp_path))
    lock = compilation.Lock(wanted)
    assert lock.try_acquire()
    assert not compilation.Lock(wanted).try_acquire()
    lock.release()
    assert len(list(tmp_path.glob("qsimenv-*.lock"))) == 1


def test_nowhere_to_lock_means_everyone_for_himself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation.tempfile, "gettempdir", lambda: str(tmp_path / "nor here"))
    assert compilation.Lock(tmp_path / "not here" / "lock").try_acquire()
    assert compilation.Lock(tmp_path / "not here" / "lock").try_acquire()


def test_reports_go_where_they_are_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    words: list[str] = []
    with compilation.reporting(words.append):
        compilation.report("one")
    compilation.report("two")
    assert words == ["one"]
    assert capsys.readouterr().err == "qsimenv: two\n"


# --- where compiled code is kept ---


def test_roots() -> None:
    beside = Path(kernel_cache.__file__).parent / "__pycache__"
    assert kernel_cache.roots({"XDG_CACHE_HOME": "/x"}) == [beside, Path("/x/qsimenv")]
    assert kernel_cache.roots({"NUMBA_CACHE_DIR": "/n", "XDG_CACHE_HOME": "/x"}) == [Path("/n"), Path("/x/qsimenv")]


def test_folders_that_cannot_be_made_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    blocked, free, later = tmp_path / "file", tmp_path / "free", tmp_path / "later"
    assert kernel_cache.choose_folder([blocked, free, later], "kernels-1") == free / "kernels-1"
    assert not later.exists()
    assert kernel_cache.choose_folder([blocked], "kernels-1") is None


def test_a_folder_with_kernels_comes_before_an_empty_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    (second / "kernels-1").mkdir(parents=True)
    (second / "kernels-1" / "sweep.nbi").touch()
    assert kernel_cache.choose_folder([first, second], "kernels-1") == second / "kernels-1"
    assert kernel_cache.choose_folder([first, second], "kernels-2") == first / "kernels-2"


def test_a_folder_that_was_named_is_filled_though_there_are_kernels_elsewhere(tmp_path: Path) -> None:
    kept, named = tmp_path / "x" / "qsimenv" / "kernels-1", tmp_path / "n" / "kernels-1"
    kept.mkdir(parents=True)
    (kept / "sweep.nbi").touch()
    environ = {"XDG_CACHE_HOME": str(tmp_path / "x")}
    assert kernel_cache.place_for(environ, "kernels-1") == kept
    assert kernel_cache.place_for(environ | {"NUMBA_CACHE_DIR": str(tmp_path / "n")}, "kernels-1") == named
    (tmp_path / "file").touch()
    assert kernel_cache.place_for(environ | {"NUMBA_CACHE_DIR": str(tmp_path / "file")}, "kernels-1") == kept


def test_old_versions_are_removed_but_a_few(tmp_path: Path) -> None:
    for age in range(8):
        (tmp_path / f"kernels-{age}").mkdir()
        os.utime(tmp_path / f"kernels-{age}", (1e9 - age, 1e9 - age))
    kernel_cache.choose_folder([tmp_path], "kernels-new")
    assert {path.name for path in tmp_path.iterdir()} == {"kernels-new", "kernels-0", "kernels-1", "kernels-2"}


def test_constants_that_kernels_import_belong_to_their_version() -> None:
    source = b"""
from numpy import pi
from qsimenv.statevec.encoding.encode import encode
from qsimenv.statevec.encoding.rows import FLIP
from qsimenv.statevec.kernel_cache import njit
from qsimenv.statevec.kernels.copies_numba import copy_line
"""
    from qsimenv.statevec.encoding.rows import FLIP

    constants, modules = kernel_cache.imported(source)
    assert constants == [("qsimenv.statevec.encoding.rows.FLIP", FLIP)]
    assert modules == {"qsimenv.statevec.kernels.copies_numba"}


def test_each_module_has_a_version_of_its_own() -> None:
    folders = {kernel_cache.folder(name) for name in kernel_cache.kernel_modules()}
    assert len(folders) == len(kernel_cache.kernel_modules())


def test_every_kernel_of_every_module_is_kept_or_a_part() -> None:
    import importlib

    names = kernel_cache.kernel_modules()
    assert "qsimenv.statevec.kernels.sweep_numba" in names
    for name in names:
        for value in vars(importlib.import_module(name)).values():
            if hasattr(value, "py_func") and value.py_func.__module__ == name:
                known = any(value is each for each in (*kernel_cache.kernels, *kernel_cache.parts))
                assert known, f"{name}.{value.py_func.__name__}: take njit or part from qsimenv.statevec.kernel_cache"
