"""Versions, machine and command: a run's numbers may depend on these besides its flags."""

import platform
import shlex
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import version
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


@cache
def commit() -> str:
    """Return this repository's commit, with "+changes" if files differ; "unknown" without git."""
    if not shutil.which("git") or not (REPOSITORY / ".git").exists():
        return "unknown"
    ask = ["git", "-C", str(REPOSITORY), "describe", "--always", "--exclude=*", "--dirty=+changes"]
    return subprocess.run(ask, capture_output=True, text=True).stdout.strip() or "unknown"
