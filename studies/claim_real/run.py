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
from collections.abc import Callable, Collection

import compare
from claim import rows
from claim.design import Part
from claim.run import command
from claim_real import looks, pictures, sets
from claim_real.design import (
    EARLY,
    LOOKED_AT,
    SAME,
    SETS,
    SETTINGS,
    part_name,
    part_of,
    parts,
    rates_of,
    wider,
)
from claim_real.tables import Found, Own, differences, tables
from mmpareto.results.choice import asked_plans, of_rule, plans_of_choice
from mmpareto.results.plans import Plan, plan_comparison
from mmpareto.results.saved import FILE, table_lock, write_numbers
from mmpareto.run.records import read_config
from mmpareto.system.errors import UserError
from mmpareto.system.flags import Parser, comma_separated
from mmpareto.system.writing import write_text

CHANGES = SAME, EARLY, *SETTINGS


class Trained:
    """The runs of one part, as far as they are there."""

    def __init__(self, name: str, changed: str, part: Part, out: Path):
        words = command(part, *places(name, changed, out))
        compared = plan_comparison(*compare.parser().parse_known_args(words))
        self.set, self.name, self.part = name, part_name(name, changed), part
        self.plans = asked_plans(compared)
        self.scored = plans_of_choice(compared) if part.tune_seeds else self.plans
        self.runs = rows.read_runs(self.name, part, compared, self.plans)
        self.runs += [self.guess(plan) for plan in self.scored if plan.divergence]
        self.compared = compared

    def guess(self, plan: Plan) -> rows.Run:
        """Return what a scored run that diverged counts as."""
        chance, rate = 1 / SETS[self.set].classes, float(plan.setting["learning_rate"])
        arm, commit = self.part.arm_of[plan.name], read_config(plan.folder).commit
        return rows.Run(self.name, arm, rate, plan.seed, False, 0, chance, chance, None, commit)

    def rate(self, arm: str) -> str | None:
        """Return the rate that validation chose for an arm; None as long as it has not."""
        mine = [p.setting["learning_rate"] for p in self.scored if p.name == self.part.arms[arm]]
        return mine[0] if mine else None

    def epochs(self) -> list[rows.Epoch]:
        return rows.read_epochs(self.name, self.part, self.compared, self.plans)

    def own(self) -> list[Own]:
        """Return the accuracies of every modality's head, of the scored runs."""
        arm_of = self.part.arm_of
        return [
            Own(self.set, arm_of[plan.name], key.removeprefix("Acc_"), plan.seed, row[key])
            for plan in self.scored
            for row in of_rule(plan.rows, "best-val")
            for key in row
            if key.startswith("Acc_")
        ]

    def checkpoint(self, arm: str, seed: int, file: str) -> Path | None:
        """Return the checkpoint of a run; None before it has finished."""
        wanted = self.part.arms[arm], seed
        found = [p.folder / file for p in self.scored if (p.name, p.seed) == wanted and p.run]
        return found[0] if found else None


def main(arguments: list[str]) -> None:
    flags, rest = parser().parse_known_args(arguments)
    failed = [] if flags.collect else train_all(flags, rest)
    if "--print_commands" not in rest:
        report(flags.out)
    if failed:
        print(*failed, sep="\n")
        raise UserError(
            f"parts that failed: {len(failed)}: mend what is said above, then run the same command "
            "again"
        )


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
    add("--collect", action="store_true", help="train nothing; make tables of what is finished")
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


def train_all(flags: Namespace, rest: list[str]) -> list[str]:
    """Train each set's parts, the main part first; return what has failed."""
    wanted = {
        name: [part for part in parts(name) if not part or part in flags.settings]
        for name in flags.sets
    }
    for name, changes in wanted.items():
        for changed in changes:
            sets.make(name, changed, flags.raw, flags.out)
    failed = []
    for name, changes in wanted.items():
        chosen = 0.0  # A's rate, which two parts need
        for changed in changes:
            if not chosen and changed in (SAME, EARLY):
                continue
            try:
                part = part_of(name, changed, chosen)
                if part.tune_seeds and not (part := choose(name, changed, part, flags.out, rest)):
                    continue
                if not changed:
                    chosen = float(Trained(name, changed, part, flags.out).rate("A") or 0)
                train(name, changed, part, flags.out, rest)
            except UserError as error:
                failed.append(f"Failed: {part_name(name, changed)}: {error}")
    return failed


def choose(name: str, changed: str, part: Part, out: Path, rest: list[str]) -> Part | None:
    """Train the runs that choose rates; return the part with all rates that were tried.

    It gets more rates as long as A, B or E chooses the lowest or the highest. None: some runs are
    missing, as with --print_commands.
    """
    while True:
        train(name, changed, part._replace(tune_seeds="", seeds=part.tune_seeds), out, rest)
        found = Trained(name, changed, part, out)
        if not all(plan.is_over for plan in found.plans if plan not in found.scored):
            return None
        rates = wider(part.rates, {found.rate(arm) for arm in "ABE"}, changed)
        if rates == part.rates:
            return part
        part = part._replace(rates=rates)


def train(name: str, changed: str, part: Part, out: Path, rest: list[str]) -> None:
    folder, dataset = places(name, changed, out)
    compare.main(command(part, folder, dataset + rest))


def find(out: Path) -> dict[str, Trained]:
    """Return {name: part} of all parts that have runs, with all rates that may have been tried."""
    found = {}
    for name in SETS:
        chosen = 0.0
        for changed in parts(name):
            is_there = (places(name, changed, out)[0] / FILE).exists()
            if not is_there or (not chosen and changed in (SAME, EARLY)):
                continue
            part = part_of(name, changed, chosen)
            if part.tune_seeds:
                part = part._replace(rates=rates_of(changed)[1])
            mine = found[part_name(name, changed)] = Trained(name, changed, part, out)
            if not changed:
                chosen = float(mine.rate("A") or 0)
    return found


def places(name: str, changed: str, out: Path) -> tuple[Path, list[str]]:
    """Return the folder of a part's runs, and the flags of its data."""
    # What the main part and "same-rate" both need is trained once.
    folder = name if changed == SAME else part_name(name, changed).replace("/", "-")
    return out / folder, ["--dataset", str(sets.place(name, changed, out))]


def report(out: Path) -> None:
    """Write and print what the finished runs of all sets say."""
    every = find(out)
    main_parts = {name: part for name, part in every.items() if name in SETS}
    found = Found(
        runs=[run for part in every.values() for run in part.runs],
        epochs=[epoch for part in main_parts.values() for epoch in part.epochs()],
        own=[own for part in main_parts.values() for own in part.own()],
        gradients=[
            row
            for name, part in main_parts.items()
            for seed in LOOKED_AT
            for trained in (every.get(part_name(name, EARLY)), part)
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
        compared = differences(found)
        write_numbers(out / "differences.csv", [row.flat() for row in compared])
        made = tables(found, compared).items()
        text = "\n\n".join(f"## {name}\n\n{table}" for name, table in made)
        write_text(out / "tables.md", f"{text}\n")
        pictures.write(out, found.runs)
    print(text, f"\n{len(main_parts)} of {len(SETS)} sets are in these tables.", sep="\n")
    print(f"The tables, their figures, and every number as CSV: {out}")


if __name__ == "__main__":
    entry.run(main)
