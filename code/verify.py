"""Check a prepared set: tables, labels and splits, and that all files are whole and readable.

python code/verify.py data/cremad
python code/verify.py data/cremad --full
"""

from mmpareto.system import entry

import os
from pathlib import Path

from mmpareto.system.errors import UserError
from mmpareto.system.flags import Parser, positive
from mmpareto.system.paths import clear_errors


def main(arguments: list[str]) -> None:
    parser = Parser(prog="verify.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="the prepared set")
    parser.add_argument(
        "--full", action="store_true", help="read every file (default: a twentieth of them)"
    )
    parser.add_argument("--workers", type=positive(int), default=os.cpu_count(), help="threads")
    flags = parser.parse_args(arguments)
    check(flags.folder, full=flags.full, workers=flags.workers)


def check(folder: Path, *, full: bool = False, workers: int = 1) -> None:
    """Print the report; UserError if anything is wrong with the set."""
    from mmpareto.preparation.verification import Verification

    with clear_errors(folder):
        found = Verification(folder, full=full, workers=workers)
    print(*found.lines(), sep="\n", flush=True)
    if found.findings:
        count = sum(map(len, found.findings.values()))
        raise UserError(
            f"{folder}: {count} findings of {len(found.findings)} kinds, see above: delete "
            "damaged files and repeat the set's prepare.py command, which makes missing ones; "
            "an empty part of a split needs more raw clips, or other lists"
        )
    print(f"OK       {'every file' if full else 'tables, sizes and a sample of files'} checked")


if __name__ == "__main__":
    entry.run(main)
