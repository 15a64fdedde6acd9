"""Put MMPareto on trial on real recordings: train its parts alone, and compare them seed by seed.

    python studies/claim_real/run.py --raw DIR --jobs 2
    python studies/claim_real/run.py --raw DIR --sets scene15,mosi --collect

Flags of compare.py that say how to run may follow (--jobs, --gpu_ids, --collect, --device). A
second call goes on where the first stopped. docs/claim_real.md is its report.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "code"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmpareto.system import entry

from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Collection, Iterator

import compare
from claim import rows
from claim.design import Part
from claim.rows import scored
from claim.run import command
from claim_real import looks, sets
from claim_real.design import (
    EARLY,
    LOOKED_AT,
    SAME,
    SETS,
    SETTINGS,
    part_name,
    part_of,
    parts,
)
from claim_real.tables import Found, Own, tables
from mmpareto.results.choice import asked_plans, of_rule
from mmpareto.results.plans import plan_comparison
from mmpareto.results.saved import table_lock
from mmpareto.system.flags import Parser, comma_separated
from mmpareto.system.writing import write_text

CHANGES = SAME, EARLY, *SETTINGS


class Trained:
    """The runs of one part, as far as they are there."""

    def __init__(self, name: str, part: Part, words: list[str]):
        compared = plan_comparison(*compare.parser().parse_known_args(words))
        self.name, self.part, self.plans = name, part, asked_plans(compared)
        self.runs = rows.read_runs(name, part, compared, self.plans)
        self.epochs = rows.read_epochs(name, part, compared, self.plans)

    def own(self) -> list[Own]:
        """Return the accuracies of every modality's head, of the scored runs."""
        scored = {(run.arm, run.seed) for run in self.runs if not run.is_choosing}
        arm_of = self.part.arm_of
        return [
            Own(self.name, arm_of[plan.name], key.removeprefix("Acc_"), plan.seed, row[key])
            for plan in self.plans
            if (arm_of[plan.name], plan.seed) in scored
            for row in of_rule(plan.rows, "best-val")
            for key in row
            if key.startswith("Acc_")
        ]

    def checkpoint(self, arm: str, seed: int, file: str) -> Path | None:
        """Return the checkpoint of a run; None before it has finished."""
        wanted = self.part.arms[arm], seed
        found = [p.folder / file for p in self.plans if (p.name, p.seed) == wanted and p.run]
        return found[0] if found else None


def main(arguments: list[str]) -> None:
    flags, rest = parser().parse_known_args(arguments)
    done = {part.name: part for name in flags.sets for part in train(name, flags, rest)}
    if "--print_commands" not in rest:
        report(flags.out, done)


def parser() -> Parser:
    about = f"{__doc__.splitlines()[0]} Flags of compare.py that say how to run may follow."
    parser = Parser(prog="run.py", description=about, allow_abbrev=False)
    # fmt: off
    add = parser.add_argument
    add("--raw", type=Path, required=True, metavar="DIR",
        help="the raw files of all sets, as docs/claim_real_protocol.md describes them")
    add("--sets", type=comma_separated(known(SETS)), default=list(SETS), metavar="NAMES",
        help=f"comma-separated, of {', '.join(SETS)} (default: all)")
    add("--settings", type=comma_separated(known(CHANGES)), default=CHANGES, metavar="NAMES",
        help="what is trained besides the main part, comma-separated, of "
             f"{', '.join(CHANGES)} (default: all)")
    add("--out", type=Path, default=Path("runs/claim_real"), metavar="DIR",
        help="the folder of prepared sets, of all runs, and of the tables (default: %(default)s)")
    # fmt: on
    return parser


def known(names: Collection[str]) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name not in names:
            raise ArgumentTypeError(f"there is no {name!r}: choose {', '.join(names)}")
        return name

    return check


def train(name: str, flags: Namespace, rest: list[str]) -> Iterator[Trained]:
    """Train one set's parts, the main part first: its choice gives the rates of others."""
    chosen = 0.0
    for changed in parts(name):
        if changed and changed not in flags.settings:
            continue
        folder = sets.make(name, changed, flags.raw, flags.out / "sets")
        part = part_of(name, changed, chosen)
        # What the main part and "same-rate" both need is trained once.
        out = flags.out / (name if changed == SAME else part_name(name, changed).replace("/", "-"))
        words = command(part, out, ["--dataset", str(folder), *rest])
        compare.main(words)
        done = Trained(part_name(name, changed), part, words)
        yield done
        if not changed:
            if not (mine := scored(done.runs, name, "A")):
                return  # the other parts need its choice
            chosen = mine[0].learning_rate


def report(out: Path, done: dict[str, Trained]) -> None:
    """Write and print what the finished runs say."""
    every = list(done.values())
    main_parts = {name: part for name, part in done.items() if name in SETS}
    found = Found(
        runs=[run for part in every for run in part.runs],
        epochs=[epoch for part in every for epoch in part.epochs],
        own=[own for part in main_parts.values() for own in part.own()],
        gradients=[
            row
            for name, part in main_parts.items()
            for seed in LOOKED_AT
            for trained in (done.get(part_name(name, EARLY)), part)
            if trained and (path := trained.checkpoint("A", seed, "last.pt"))
            for row in looks.gradients(name, path)
        ],
        parted=[
            looks.parted(name, "E-A", *paths)
            for name, part in main_parts.items()
            for seed in LOOKED_AT
            if all(paths := [part.checkpoint(arm, seed, "best.pt") for arm in "EA"])
        ],
    )
    with table_lock(out):
        found = Found(*(
            rows.kept(out / f"{kind}.csv", some) if some else some
            for kind, some in found._asdict().items()
        ))  # fmt: skip
        made = tables(found).items()
        text = "\n\n".join(f"## {name}\n\n{table}" for name, table in made)
        write_text(out / "tables.md", f"{text}\n")
    print(text, f"\nEvery number as CSV, and these tables: {out}", sep="\n")


if __name__ == "__main__":
    entry.run(main)
