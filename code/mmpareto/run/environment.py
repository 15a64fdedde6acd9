"""Versions, machine and command: a run's numbers may depend on these besides its flags."""

import platform
import shlex
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..core import distributed
from ..system.paths import REPOSITORY


def environment() -> dict[str, Any]:
    versions = {"mmpareto": __version__, "python": platform.python_version()}
    versions["torch"] = torch.__version__  # names its build, too
    versions |= {name: version(name) for name in ("torchvision", "numpy", "scikit-learn")}
    return {
        "versions": versions,
        "commit": commit(),
        "threads": torch.get_num_threads(),
        "processes": distributed.size(),
        "machine": platform.machine(),
        "command": shlex.join(["python", *sys.argv]),
    }


def next_command(script: str, *words: object) -> str:
    """Return a command of code/ that can be pasted here: it has this Python, and short paths."""
    is_active = shutil.which("python") == sys.executable
    python = "python" if is_active else from_here(Path(sys.executable))
    return shlex.join([python, from_here(REPOSITORY / "code" / script), *map(str, words)])


def from_here(path: Path) -> str:
    """Return path relative to the current folder if it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


@cache
def commit() -> str:
    """Return this repository's commit, with "+changes" if files differ; "unknown" without git."""
    if not shutil.which("git") or not (REPOSITORY / ".git").exists():
        return "unknown"
    ask = ["git", "-C", str(REPOSITORY), "describe", "--always", "--exclude=*", "--dirty=+changes"]
    return subprocess.run(ask, capture_output=True, text=True).stdout.strip() or "unknown"
