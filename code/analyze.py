"""Look into a run or a comparison: Figure 1 of the paper, numbers beside it, and one page of all.

    python code/analyze.py runs/RUN
    python code/analyze.py runs/compare-cgdigits --checkpoints EARLY/last.pt LATE/last.pt
    python code/analyze.py runs/compare-one runs/compare-two

Everything is written into the folder analysis of DIR; report.html there needs no other file.
Several comparisons stand on one page, beside each other.
"""

from mmpareto.system import entry

from argparse import Namespace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from mmpareto.results.analysis import beside, page, sections
from mmpareto.results.analysis.subject import find
from mmpareto.run import checkpoint, report
from mmpareto.run.parsers import add_device_flags
from mmpareto.system.errors import UserError, printable
from mmpareto.system.flags import Parser, non_negative, positive
from mmpareto.system.lock import Lock
from mmpareto.system.paths import clear_errors

WIDTH = 80  # of the console


def main(arguments: list[str]) -> None:
    flags = parser().parse_args(arguments)
    for package in ("matplotlib", "jinja2"):
        if not find_spec(package):
            raise UserError(f"pictures and page need a package: run pip install {package}")
    check_used(flags)
    if len(flags.dir) == 1:
        subject = find(flags.dir[0])
        title, name = subject.title, "analysis"
        make = partial(sections.make, subject, flags=flags)
    else:
        sides = beside.find_sides(flags.dir)
        title = " beside ".join(side.name for side in sides)
        name = "-".join(["analysis", *(folder.resolve().name for folder in flags.dir)])
        make = partial(beside.make, sides)
    folder = flags.out or flags.dir[0] / name
    with clear_errors(f"--out {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder, "wait for it, or give another --out")
    with lock:
        parts = make(folder)
        print(printable(title))
        for table in (table for part in parts if part.on_console for table in part.tables):
            columns, rows = list(table.rows[0]), [list(row.values()) for row in table.rows]
            print(f"\n{printable(table.caption)}", report.table(columns, rows, WIDTH), sep="\n")
        path = folder / "report.html"
        page.write(path, title, parts)
    print(f"\n{path}, and beside it its figures (.png, .svg) and numbers (.csv)")


def check_used(flags: Namespace) -> None:
    """Raise UserError for a flag that has no effect on several comparisons, or with --logs_only."""
    if len(flags.dir) > 1:
        used, where, instead = ["dir", "out"], "with one DIR", "give one DIR"
    elif flags.logs_only:
        used = ["dir", "out", "window", "logs_only"]
        where, instead = "without --logs_only", "drop --logs_only"
    else:
        return
    own = parser()
    for name, value in vars(flags).items():
        if name not in used and value != own.get_default(name):
            raise UserError(f"--{name} acts only {where}: drop --{name}, or {instead}")


def parser() -> Parser:
    parser = Parser(prog="analyze.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    # fmt: off
    add = parser.add_argument
    add("dir", type=Path, nargs="+", metavar="DIR",
        help="a run's folder, or a comparison's; several comparisons go on one page")
    add("--out", type=Path, metavar="DIR",
        help="where to write (default: analysis in DIR; of several: analysis-NAME-NAME in the "
             "first)")
    add("--checkpoints", type=Path, nargs="+", metavar="FILE",
        help="checkpoints of any runs; gradient magnitudes are measured with their encoders fixed "
             "(default: a run's own last.pt; for a comparison none)")
    add("--window", type=positive(int), default=20, metavar="N",
        help="steps over which a conflict rate is taken, >= 1 (default: %(default)s)")
    checkpoint.add_part_flag(parser, ": confusion matrices are made of it (default: %(default)s)")
    add("--logs_only", action="store_true",
        help="load no model and no data: no gradient magnitudes, no confusion matrices")
    add("--data_root", type=Path, metavar="DIR", help="folder of the data (default: the run's)")
    add("--workers", type=non_negative(int), default=0, metavar="N",
        help="processes that load data, >= 0 (default: %(default)s)")
    add("--limit_batches", type=positive(int), metavar="N",
        help="look at the first N batches only, >= 1 (default: all)")
    add_device_flags(parser)
    # fmt: on
    return parser


if __name__ == "__main__":
    entry.run(main)
