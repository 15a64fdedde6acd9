"""Train several methods with several seeds, and print one table of their test accuracies.

    python code/compare.py --methods joint,uniform,mmpareto --seeds 0,1,2
    python code/compare.py --methods pareto,pareto:scale=2,mmpareto:granularity=tensor --epochs 3

Any flag of train.py may follow. A run that is finished is not computed again, so the same command
goes on where an interrupted one stopped.
"""

import statistics
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

from mmpareto import errors, options
from mmpareto.errors import UserError
from mmpareto.layout import write_table
from mmpareto.runs import finished, read_json

TRAIN = Path(__file__).with_name("train.py")


def main(arguments: list[str]) -> None:
    parser = options.Parser(
        prog="compare.py",
        description=__doc__.splitlines()[0] + " Any flag of train.py may follow.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    # fmt: off
    add("--methods", default="joint,unimodal,uniform,pareto,mmpareto", metavar="NAMES",
        help="comma-separated; a method's own flags after colons, as in pareto:scale=2 "
             "(default: %(default)s)")
    add("--seeds", default="0,1,2", help="comma-separated (default: %(default)s)")
    add("--out", "--ckpt_path", type=Path, metavar="DIR",
        help="the folder of all runs and of comparison.csv (default: runs/compare-DATASET)")
    # fmt: on
    flags, rest = parser.parse_known_args(arguments)

    plans = plan_runs(flags, rest)
    failed = []
    for name, seed, argv, trained in plans:
        if finished(trained.out, options.as_config(trained)):
            print(f"== {name}, seed {seed}: finished already", flush=True)
            continue
        print(f"== {name}, seed {seed}", flush=True)
        code = subprocess.run([sys.executable, str(TRAIN), *argv], check=False).returncode
        if code == 130:
            raise KeyboardInterrupt("interrupted; the same command goes on from here")
        if code:
            failed.append(f"{name} seed {seed} (exit {code})")

    rows = [row for plan in plans for row in read(plan)]
    if rows:
        path = plans[0].flags.out.parent / "comparison.csv"
        write_csv(path, rows)
        print_table(rows, plans[0].flags.select)
        print(f"\nEvery run, seed and rule: {path}")
    if failed:
        raise UserError(f"{len(failed)} of {len(plans)} runs failed: {', '.join(failed)}")


class Plan(NamedTuple):
    """One run to be made."""

    name: str  # the method with its flags, as given
    seed: int
    arguments: list[str]  # of train.py
    flags: Namespace


def plan_runs(flags: Namespace, rest: list[str]) -> list[Plan]:
    """Every run; its flags, and those of a finished run in its folder, are checked here."""
    for flag in ("--method", "--random_seed", "--resume"):
        if any(word.split("=")[0] == flag for word in rest):
            raise UserError(f"{flag}: compare.py sets it itself, give --methods and --seeds")
    names = [name.strip() for name in flags.methods.split(",")]
    seeds = [seed.strip() for seed in flags.seeds.split(",")]
    if len(set(names)) < len(names) or len(set(seeds)) < len(seeds):
        raise UserError(f"--methods {flags.methods} --seeds {flags.seeds}: one is given twice")
    plans = []
    for seed in seeds:
        for name in names:
            method, *own = name.split(":")
            words = [f"--{setting}" for setting in own]
            argv = [*rest, "--method", method, *words, "--random_seed", seed, "--resume"]
            out = flags.out or Path("runs") / f"compare-{options.data_name(options.parse(argv))}"
            argv += ["--out", str(out / f"{name.replace(':', '-')}-s{seed}")]
            trained = options.parse(argv)
            finished(trained.out, options.as_config(trained))
            plans.append(Plan(name, trained.random_seed, argv, trained))
    return plans


def read(plan: Plan) -> list[dict]:
    """A finished run as rows, one for each rule that chose an epoch."""
    result = finished(plan.flags.out, options.as_config(plan.flags))
    if result is None:
        return []
    config = read_json(plan.flags.out / "config.json")
    kept = {key: result[key] for key in ("conflict", "seconds_per_epoch")}
    kept |= {"commit": config["commit"], "threads": config["threads"], **config["versions"]}
    return [
        {"method": plan.name, "seed": plan.seed, "rule": rule, **scores, **kept}
        for rule, scores in result["results"].items()
    ]


def write_csv(path: Path, rows: list[dict]) -> None:
    short = [{k: f"{v:.6g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows]
    write_table(path, list(rows[0]), short)


def print_table(rows: list[dict], rule: str) -> None:
    """Mean and standard deviation over seeds of the test accuracies (%), for one rule."""
    rows = [row for row in rows if row["rule"] == rule] or [r for r in rows if r["rule"] == "last"]
    if not rows:
        return
    accuracies = [column for column in rows[0] if column.split("_")[0] == "Acc"]
    width = max(len(row["method"]) for row in rows) + 2
    print(f"\nTest accuracy (%), {rows[0]['rule']} epoch, mean and standard deviation over seeds")
    print(
        f"{'method':{width}}seeds" + "".join(f"{c:>15}" for c in accuracies) + "  conflict  s/epoch"
    )
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        cells = [spread([100 * row[column] for row in mine]) for column in accuracies]
        conflict = [row["conflict"] for row in mine if row["conflict"] is not None]
        share = f"{statistics.mean(conflict):.1%}" if conflict else "-"
        seconds = statistics.mean(row["seconds_per_epoch"] for row in mine)
        print(
            f"{method:{width}}{len(mine):5}" + "".join(f"{cell:>15}" for cell in cells)
            + f"{share:>10}{seconds:9.1f}"
        )  # fmt: skip


def spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} +- {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    errors.run(main)
