"""What the numbers of a run may depend on besides its flags."""

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
    """This repository's commit, "+changes" where files differ from it; "unknown" without git."""
    git = shutil.which("git")
    if not git or not (REPOSITORY / ".git").exists():
        return "unknown"

    def ask(*words: str) -> str:
        command = [git, "-C", str(REPOSITORY), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changes = ask("status", "--porcelain", "--untracked-files=no")
    return (ask("rev-parse", "--short", "HEAD") or "unknown") + ("+changes" if changes else "")
