"""Which part of MMPareto does the work: train its parts alone, and compare them seed by seed.

    python code/claim.py --jobs 2
    python code/claim.py --parts base,sum --collect

Any flag of compare.py that says how to run may follow (--jobs, --gpu_ids, --print_commands,
--collect, --device). A second call goes on where the first stopped. docs/claim.md is its report.
"""

from argparse import Namespace
from pathlib import Path

import compare
from mmpareto import claim, comparison, errors
from mmpareto.claim import ARMS, Part
from mmpareto.errors import UserError
from mmpareto.options import Parser

RATES = "0.16,0.32,0.64,1.28,2.56"
CNN = "--dataset cgdigits --encoder cnn"
THREE = ("A", "B", "E")
PARTS = {
    "base": Part(tuple(ARMS), f"{CNN} --epochs 10", RATES, tune_seeds=3, seeds=20),
    "noise": Part(THREE, f"{CNN} --epochs 10 --noise 0.5", RATES),
    "classes": Part(THREE, f"{CNN} --epochs 10 --num_classes 3", RATES),
    "sum": Part(THREE, f"{CNN} --epochs 10 --fusion sum", RATES),
    "adam": Part(THREE, f"{CNN} --epochs 10 --optimizer adam", "0.002,0.004,0.008,0.016,0.032"),
    "samples": Part(THREE, f"{CNN} --epochs 30 --train_size 200", RATES),
    "lenet": Part(
        THREE, "--dataset cgdigits --encoder lenet --epochs 10", "0.0125,0.025,0.05,0.1,0.2"
    ),
    "tasks": Part(THREE, "--dataset multidigits", "0.005,0.01,0.02,0.04,0.08"),
    "cgmnist": Part(
        THREE, "--dataset cgmnist --encoder cnn --epochs 6 --train_size 2000", RATES, has_files=True
    ),
}


def main(arguments: list[str]) -> None:
    flags, rest = parser().parse_known_args(arguments)
    names = find_parts(flags)
    out = flags.out or Path("runs/claim")
    words = {name: command(name, out, flags, rest) for name in names}
    for name in names:
        compare.main(words[name])
    if "--print_commands" in rest:
        return
    rows, steps = [], []
    for name in names:
        compared = compare.plan_comparison(*compare.parser().parse_known_args(words[name]))
        plans = [*comparison.first_plans(compared), *comparison.plans_of_choice(compared)]
        rows += claim.read_runs(name, compared, plans)
        steps += claim.read_steps(name, plans)
    claim.write(out, rows, steps)


def parser() -> Parser:
    parser = Parser(prog="claim.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    # fmt: off
    parser.add_argument("--parts", metavar="NAMES",
        help=f"comma-separated, of {', '.join(PARTS)} (default: all; cgmnist with --data_root)")
    parser.add_argument("--data_root", type=Path, metavar="DIR",
        help="torchvision's root of MNIST, for cgmnist")
    parser.add_argument("--out", type=Path, metavar="DIR",
        help="the folder of all runs, of tables.md, of CSV files and figures (default: runs/claim)")
    # fmt: on
    return parser


def find_parts(flags: Namespace) -> list[str]:
    if flags.parts is None:
        return [name for name, part in PARTS.items() if flags.data_root or not part.has_files]
    names = [name.strip() for name in flags.parts.split(",")]
    if unknown := [name for name in names if name not in PARTS]:
        raise UserError(f"--parts {flags.parts}: no part {unknown[0]!r}: give {', '.join(PARTS)}")
    return names


def command(name: str, out: Path, flags: Namespace, rest: list[str]) -> list[str]:
    """The flags of compare.py for one part."""
    part = PARTS[name]
    root = ["--data_root", str(flags.data_root)] if part.has_files and flags.data_root else []
    return [
        *part.flags.split(), *root,
        "--methods", ",".join(ARMS[arm] for arm in part.arms),
        "--tune", f"learning_rate={part.rates}",
        "--tune_seeds", ",".join(str(100 + seed) for seed in range(part.tune_seeds)),
        "--seeds", ",".join(str(seed) for seed in range(part.seeds)),
        "--out", str(out / name), *rest,
    ]  # fmt: skip


if __name__ == "__main__":
    errors.run(main)
