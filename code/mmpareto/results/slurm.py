"""A job array for SLURM that trains the runs of a comparison."""

import re
import shlex
from pathlib import Path

from ..system.errors import UserError
from ..system.paths import clear_errors, expect_regular
from ..system.writing import write_text

MOST = 1000  # tasks: SLURM's own limit, unless a cluster has another
SET_HERE = re.compile(r"#SBATCH\s+(--array\b|-a\b)")
BODY = """\
: "${{SLURM_ARRAY_TASK_ID:?submit this file with sbatch}}"

# A finished run ends at once. An interrupted one goes on after its last whole epoch.
run() {{
  case "$1" in
{cases}
  esac
}}

status=0
for ((number = SLURM_ARRAY_TASK_ID; number <= {runs}; number += {tasks})); do
  run "$number" || status=$?
done
exit $status
"""


def write_array(path: Path, commands: list[list[str]], logs: Path, header: Path | None) -> int:
    """Write a script for sbatch, and return its number of tasks: one a command, at most MOST.

    header: a file of #SBATCH lines, and of shell commands that each task begins with. Output of
    task N goes to slurm-JOB_N.log in the folder logs. An earlier script of that folder is lost.
    """
    with clear_errors(f"--sbatch_header {header}"):
        if header:
            expect_regular(header)
        own = header.read_text(encoding="utf-8").rstrip() if header else ""
    if found := next(filter(SET_HERE.match, own.splitlines()), None):
        raise UserError(f"--sbatch_header {header}: compare.py sets the array itself: drop {found}")
    tasks = min(len(commands), MOST)
    output = str(logs.absolute()).replace("%", "%%") + "/slurm-%A_%a.log"
    output = f'#SBATCH --output="{output}"'
    with clear_errors(f"--sbatch {path}"):
        if path.exists() and output not in path.read_text(encoding="utf-8", errors="replace"):
            raise UserError(
                f"--sbatch {path}: there is a file that is no job array of {logs}: give another "
                "name"
            )
        logs.mkdir(parents=True, exist_ok=True)
    cases = "\n".join(f"    {n}) {shlex.join(words)} ;;" for n, words in enumerate(commands, 1))
    body = BODY.format(cases=cases, runs=len(commands), tasks=tasks)
    lines = [
        "#!/bin/bash", f'#SBATCH --job-name="{logs.name}"', f"#SBATCH --array=1-{tasks}", output,
        *filter(None, [own]), body,
    ]  # fmt: skip
    write_text(path, "\n".join(lines))
    return tasks
