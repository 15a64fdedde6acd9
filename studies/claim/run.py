"""Which part of MMPareto does the work: train its parts alone, and compare them seed by seed.

    python studies/claim/run.py --jobs 2
    python studies/claim/run.py --parts base,sum --collect

Flags of compare.py that say how to run may follow (--jobs, --gpu_ids, --print_commands, --collect,
--device). A second call goes on where the first stopped. docs/claim.md is its report.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "code"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmpareto.system import entry

from argparse import Namespace

import compare
from claim import pictures, rows
from claim.design import FIXED, MAIN, PARTS, Part
from claim.tables import tables
from mmpareto.results.choice import asked_plans
from mmpareto.results.plans import plan_comparison
from mmpareto.results.saved import table_lock
from mmpareto.system.errors import UserError
from mmpareto.system.flags import Parser
from mmpareto.system.writing import write_text


def main(arguments: list[str]) -> None:
    flags, rest = parser().parse_known_args(arguments)
    commands = {
        # What "base" and "fixed" both need is trained once.
        name: command(PARTS[name], flags.out / (MAIN if name == FIXED else name), root + rest)
        for name, root in find_parts(flags).items()
    }
    for words in commands.values():
        compare.main(words)
    if "--print_commands" not in rest:
        report(flags.out, commands)


def parser() -> Parser:
    about = f"{__doc__.splitlines()[0]} Flags of compare.py that say how to run may follow."
    parser = Parser(prog="run.py", description=about, allow_abbrev=False)
    # fmt: off
    parser.add_argument("--parts", metavar="NAMES",
        help=f"comma-separated, of {', '.join(PARTS)} (default: all; cgmnist with --data_root)")
    parser.add_argument("--data_root", type=Path, metavar="DIR",
        help="torchvision's root of MNIST, for cgmnist")
    parser.add_argument("--out", type=Path, default=Path("runs/claim"), metavar="DIR",
        help="the folder of all runs, of runs.csv, epochs.csv, tables.md and figures "
             "(default: %(default)s)")
    # fmt: on
    return parser


def find_parts(flags: Namespace) -> dict[str, list[str]]:
    """Return {part: flags that say where its files are}."""
    root = ["--data_root", str(flags.data_root)] if flags.data_root else []
    if flags.parts is None:
        names = [name for name, part in PARTS.items() if root or not part.has_files]
    else:
        names = [name.strip() for name in flags.parts.split(",")]
    if unknown := [name for name in names if name not in PARTS]:
        raise UserError(f"--parts: there is no {unknown[0]!r}: choose {', '.join(PARTS)}")
    return {name: root if PARTS[name].has_files else [] for name in names}


def command(part: Part, out: Path, rest: list[str]) -> list[str]:
    """The flags of compare.py for one part."""
    return [
        *part.flags.split(),
        "--methods", ",".join(part.arms.values()),
        "--tune", f"learning_rate={part.rates}",
        *(["--tune_seeds", part.tune_seeds] if part.tune_seeds else []),
        "--seeds", part.seeds,
        "--out", str(out), *rest,
    ]  # fmt: skip


def report(out: Path, commands: dict[str, list[str]]) -> None:
    """Write and print what the finished runs say."""
    trained, epochs = [], []
    for name, words in commands.items():
        compared = plan_comparison(*compare.parser().parse_known_args(words))
        plans = asked_plans(compared)
        trained += rows.read_runs(name, PARTS[name], compared, plans)
        epochs += rows.read_epochs(name, PARTS[name], compared, plans)
    if not trained:
        return
    with table_lock(out):
        trained = rows.kept(out / "runs.csv", trained)
        epochs = rows.kept(out / "epochs.csv", epochs)
        found = tables(trained, epochs).items()
        text = "\n\n".join(f"## {name}\n\n{table}" for name, table in found)
        write_text(out / "tables.md", f"{text}\n")
        pictures.write(out, trained, epochs)
    print(text, f"\nRuns, epochs, tables and figures: {out}", sep="\n")


if __name__ == "__main__":
    entry.run(main)
