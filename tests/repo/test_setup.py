"""script/setup.sh, with its own requirements, in a copy whose path has a space."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "a copy"
    shutil.copytree(ROOT / "script", folder / "script")
    (folder / "requirements.txt").write_text("")
    return folder


def run(copy, *words, script="setup", **environment):
    """Run setup.sh, or another script, as on a machine without an active environment."""
    kept = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    return subprocess.run(
        ["sh", str(copy / f"script/{script}.sh"), *words], capture_output=True, text=True,
        cwd="/", env={**kept, "PYTHON": "", **environment},
    )  # fmt: skip


def test_second_time_is_nothing(copy):
    first = run(copy)
    assert first.returncode == 0 and "setting up" in first.stderr
    began = time.perf_counter()
    second = run(copy)
    assert second.returncode == 0 and second.stderr == ""
    assert time.perf_counter() - began < 2
    assert not (copy / ".venv.lock").is_symlink()


@pytest.mark.parametrize("script", ["mmpareto", "figure1", "distributed", "claim", "test"])
def test_help_makes_no_environment(copy, tmp_path, script):
    """Any Python with torch shows it; without one, a line says what set-up would do."""
    path = f"{tmp_path}:/usr/bin:/bin"
    for name in ("python", "python3"):
        (tmp_path / name).write_text('#!/bin/sh\n[ "$1" != - ] || exit $LACKS\necho "$*"\n')
        (tmp_path / name).chmod(0o755)
    done = run(copy, "--help", script=script, PATH=path, LACKS="0")
    assert done.returncode == 0 and done.stdout.rstrip().endswith("--help")
    assert done.stdout.count("\n") == 1 and done.stderr == ""
    done = run(copy, "-h", script=script, PATH=path, LACKS="1")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "makes .venv with them (2 minutes, 6 GB)" in done.stderr
    assert not list(copy.glob(".venv*"))


def test_help_of_itself(copy):
    done = run(copy, "--help")
    assert done.stdout.startswith("Find or make the Python") and "#" not in done.stdout
    assert not list(copy.glob(".venv*"))


def test_two_at_once(copy):
    command = ["sh", str(copy / "script/setup.sh")]
    alone = {**os.environ, "PYTHON": "", "VIRTUAL_ENV": "", "CONDA_PREFIX": ""}
    quiet = {"stderr": subprocess.PIPE, "text": True, "env": alone}
    both = [subprocess.Popen(command, **quiet) for _ in range(2)]
    messages = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("setting up" in message for message in messages) == 1


def test_lock_of_a_killed_process(copy):
    (copy / ".venv.lock").symlink_to("999999999")
    assert run(copy).returncode == 0


def test_lock_with_its_own_number(copy):
    """The lock holds the caller's own number, as in a container that follows a killed one."""
    command = "ln -s $$ .venv.lock && exec sh script/setup.sh"
    alone = {**os.environ, "PYTHON": "", "VIRTUAL_ENV": "", "CONDA_PREFIX": ""}
    done = subprocess.run(["sh", "-c", command], cwd=copy, env=alone, timeout=60)
    assert done.returncode == 0


def test_cdpath(copy):
    done = run(copy, CDPATH=".", PYTHON="sh")
    assert done.returncode == 0 and done.stdout == ""


def test_failing_pip_is_one_line_and_is_tried_again(copy):
    (copy / "requirements.txt").write_text("no-such-package-of-this-name==9\n")
    environment = {"PIP_NO_INDEX": "1"}
    for _ in range(2):
        done = run(copy, **environment)
        assert done.returncode == 2
        assert "error: pip could not install requirements.txt" in done.stderr
        assert not (copy / ".venv.lock").is_symlink()


def test_active_environment_that_lacks_something(copy, tmp_path):
    (copy / "requirements.txt").write_text("pytest<1\n")
    environment = {
        "VIRTUAL_ENV": str(Path(sys.executable).parents[1]),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
    }
    done = run(copy, **environment)
    assert "the active environment lacks pytest<1 (found " in done.stderr
    (copy / "requirements.txt").write_text("pytest>1\n")
    done = run(copy, **environment)
    assert done.returncode == 0 and done.stderr == ""


def test_python_that_is_not_there(copy):
    done = run(copy, PYTHON="python-of-nobody")
    assert done.returncode == 2
    assert done.stderr == "error: PYTHON=python-of-nobody: no such program\n"
