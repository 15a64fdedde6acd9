"""Train several methods with several seeds, and print one table of their test scores.

    python code/compare.py --methods joint,uniform,mmpareto --seeds 0,1,2
    python code/compare.py --methods pareto,pareto:scale=2,mmpareto:granularity=tensor --jobs 2
    python code/compare.py --tune learning_rate=0.05,0.01,0.002 --gpu_ids 0,1,2,3

Any flag of train.py may follow. A run that is finished is not computed again, so the same command
goes on where an interrupted one stopped.
"""

from mmpareto.system import entry

import json
import shlex
import signal
import sys
from argparse import Namespace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

from tqdm import tqdm

from mmpareto.datasets import DATASETS
from mmpareto.methods import METHODS
from mmpareto.results import figures, jobs
from mmpareto.results import table as comparison
from mmpareto.results.table import Comparison, Plan
from mmpareto.run import devices, options, report, setup
from mmpareto.run.folder import check_flags
from mmpareto.run.records import read_config
from mmpareto.system.errors import UserError
from mmpareto.system.flags import Parser, positive
from mmpareto.system.lock import Lock
from mmpareto.system.paths import blocker_of, clear_errors

TRAIN = Path(__file__).absolute().with_name("train.py")

SET_HERE = {
    "method": "give --methods",
    "random_seed": "give --seeds",
    "resume": "drop it",
    "out": "give one for all runs",
    "ckpt_path": "give one for all runs",
    "gpu_ids": "give them for all runs",
    "tensorboard_path": "drop it, every run has its own",
}
# Without these in common, numbers of two runs have no place in one table.
IN_COMMON = ("dataset", "data_root", "split", "select")
PATHS = ("--data_root", "--pretrained")


def main(arguments: list[str]) -> None:
    flags, rest = parser().parse_known_args(arguments)
    slots = find_slots(flags)
    compared = plan_comparison(flags, rest)
    if flags.print_commands:
        for plan in ready_plans(compared):
            print(shlex.join(command(plan)))
        return
    if not find_spec("tabulate"):
        raise UserError("the table needs a package: run pip install tabulate")

    if flags.collect:
        plans = comparison.asked_plans(compared)
        if missing := show(compared, plans):
            print(f"Not finished, {len(missing)} of {len(plans)} runs: {'; '.join(missing)}")
        return
    check_before_training(compared, slots)
    with clear_errors(f"--out {compared.folder}"):
        blocker_of(compared.folder)
        compared.folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(
            compared.folder,
            "wait for it, look at what is done with --collect, or give another --out",
        )
    with lock:
        try:
            failed = train(compared, comparison.first_plans(compared), slots)
            failed |= train(compared, comparison.plans_of_choice(compared), slots)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; the same command goes on from here") from None
        plans = comparison.asked_plans(compared)
        show(compared, plans)
    for run, reason in failed.items():
        print(f"Failed: {run} ({reason})")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(plans)} runs failed: {'; '.join(failed)}: mend what "
            "is said above, and run the same command again"
        )


def parser() -> Parser:
    parser = Parser(
        prog="compare.py",
        description=__doc__.splitlines()[0] + " Any flag of train.py may follow.",
        allow_abbrev=False,
    )
    # fmt: off
    add = parser.add_argument_group("what to compare").add_argument
    add("--methods", default="joint,unimodal,uniform,pareto,mmpareto", metavar="NAMES",
        help="comma-separated; a method's own flags after colons, as in pareto:scale=2 "
             "(default: %(default)s)")
    add("--seeds", default="0,1,2", help="comma-separated (default: %(default)s)")
    add("--tune", nargs="+", action="extend", default=[], metavar="FLAG=VALUES",
        help="train every method with each of the comma-separated values, as in "
             "learning_rate=0.01,0.002; validation chooses each method's own")
    add("--tune_seeds", metavar="SEEDS",
        help="choose by runs with these seeds, none of --seeds; then --seeds are trained with the "
             "chosen setting only (default: every setting is trained with --seeds)")
    add("--baseline", metavar="NAME",
        help="the one of --methods from which the others' Acc is subtracted, seed by seed "
             "(default: uniform, if it is among them)")

    group = parser.add_argument_group("how to run")
    add = group.add_argument
    add("--jobs", type=positive(int), metavar="N",
        help="runs side by side, each with an equal share of the cores (default: 1, or the number "
             "of --gpu_ids)")
    add("--gpu_ids", metavar="IDS", help="comma-separated; every GPU takes one run at a time")
    add = group.add_mutually_exclusive_group().add_argument
    add("--print_commands", action="store_true",
        help="train nothing; print the commands of the runs that are left, one a line")
    add("--collect", action="store_true", help="train nothing; make the table of what is finished")
    add = parser.add_argument_group("what is written").add_argument
    add("--out", "--ckpt_path", type=Path, metavar="DIR",
        help="the folder of all runs, of runs.csv and of table.csv, .md, .tex, .png and .svg "
             "(default: runs/compare-DATASET)")
    # fmt: on
    return parser


def find_slots(flags: Namespace) -> list[str | None]:
    """For every run that may go on at once its GPU; None leaves the device to train.py."""
    if flags.gpu_ids is None:
        return [None] * (flags.jobs or 1)
    if flags.print_commands:
        raise UserError("--gpu_ids: --print_commands leaves the GPUs to who runs them: drop one")
    ids = [id.strip() for id in flags.gpu_ids.split(",")]
    if len(set(ids)) < len(ids):
        raise UserError(f"--gpu_ids {flags.gpu_ids}: one is given twice")
    if flags.jobs and flags.jobs > len(ids):
        raise UserError(
            f"--jobs {flags.jobs}: a GPU takes one run at a time, and --gpu_ids {flags.gpu_ids} "
            f"are {len(ids)}: lower it, or give more of them"
        )
    return ids[: flags.jobs]


def plan_comparison(flags: Namespace, rest: list[str]) -> Comparison:
    """All that is asked for; every run's flags, and those found in its folder, are checked."""
    given = _flags_in(rest)
    _refuse_set_here(given)
    names = [find_name(name) for name in _split(flags.methods)]
    settings = find_settings(flags.tune)

    def plans_with(seeds: str) -> list[Plan]:
        return [
            plan_run(flags.out, rest, name, setting, seed)
            for seed in _split(seeds)
            for name in names
            for setting in settings
        ]

    final = plans_with(flags.seeds)
    tuning = plans_with(flags.tune_seeds) if flags.tune_seeds else []
    seeds, tune_seeds = (list(dict.fromkeys(p.seed for p in part)) for part in (final, tuning))
    check_tune_seeds(flags, seeds, tune_seeds)
    plans = [*tuning, *final]
    check_distinct(plans)
    for plan in plans:
        check_folder(plan)
    select = plans[0].flags.select
    if flags.tune and select == "best-test":
        raise UserError("--tune: validation chooses, --select best-test has none: drop one")
    baseline = find_name(flags.baseline) if flags.baseline else "uniform"
    if flags.baseline and baseline not in names:
        raise UserError(f"--baseline {flags.baseline}: choose one of --methods {flags.methods}")
    return Comparison(
        folder=flags.out or plans[0].folder.parent,
        select=select,
        names=names,
        seeds=seeds,
        tune_seeds=tune_seeds or seeds,
        settings=settings,
        baseline=baseline if baseline in names and len(names) > 1 else None,
        plans=plans,
    )


def find_name(name: str) -> str:
    """METHOD:FLAG=VALUE:FLAG... in its registered spelling; what its flags are is checked later."""
    method, *own = name.split(":")
    if not all(own):
        raise UserError(f"--methods {name}: a flag is empty: give METHOD:FLAG=VALUE")
    _check_own(own, f"--methods {name}")
    return ":".join([METHODS.find(method), *own])


def find_settings(words: list[str]) -> list[dict[str, str]]:
    """Every combination of --tune's values, the first flag's changing last."""
    tuned: dict[str, list[str]] = {}
    for word in words:
        flag, _, values = word.partition("=")
        if not flag or not all(_split(values)):
            raise UserError(f"--tune {word}: give FLAG=VALUE,VALUE, as in learning_rate=0.01,0.002")
        if flag in tuned:
            raise UserError(f"--tune {flag}: given twice: give all its values at once")
        tuned[flag] = _split(values)
    _check_own(tuned, "--tune")
    return [dict(zip(tuned, values, strict=True)) for values in product(*tuned.values())]


def _check_own(words, where: str) -> None:
    """Whether flags may differ from run to run."""
    flags = {word.split("=")[0] for word in words}
    _refuse_set_here(flags)
    if common := flags & set(IN_COMMON):
        raise UserError(f"{where}: --{min(common)} has to be the same for all: give it as a flag")


def _refuse_set_here(flags: set[str]) -> None:
    if found := flags & SET_HERE.keys():
        raise UserError(f"--{min(found)}: compare.py sets it itself: {SET_HERE[min(found)]}")


def plan_run(
    out: Path | None, rest: list[str], name: str, setting: dict[str, str], seed: str
) -> Plan:
    method, *own = name.split(":")
    words = [*rest, "--method", method, *(f"--{word}" for word in own), "--random_seed", seed]
    if both := _flags_in(words) & setting.keys():
        raise UserError(f"--tune {min(both)}: it is given with a single value, too: drop one")
    words = from_anywhere(words)
    trained = options.parse(words)
    words = from_anywhere([*words, *(f"--{flag}={value}" for flag, value in setting.items())])
    try:
        options.parse(words)
    except UserError as error:
        raise UserError(f"--tune with {comparison.label(name, setting)}: {error}") from None
    out = out or Path("runs") / f"compare-{options.data_name(trained)}"
    folder = out / comparison.folder_name(name, setting, seed)
    words += ["--resume", "--out", str(folder.absolute())]
    flags = options.parse(words)
    return Plan(name, setting, flags.random_seed, words, flags)


def from_anywhere(words: list[str]) -> list[str]:
    """The words of a command, the paths in them absolute."""
    moved: list[str] = []
    for word in words:
        joined = word.startswith("--") and "=" in word
        flag, value = word.split("=", 1) if joined else (moved[-1] if moved else "", word)
        is_path = flag in PATHS or (flag == "--dataset" and value not in DATASETS)
        if is_path and Path(value).exists():
            value = str(Path(value).absolute())
        moved.append(f"{flag}={value}" if joined else value)
    return moved


def check_tune_seeds(flags: Namespace, seeds: list[int], tune_seeds: list[int]) -> None:
    if tune_seeds and not flags.tune:
        raise UserError("--tune_seeds acts only with --tune: give both")
    if both := set(seeds) & set(tune_seeds):
        raise UserError(
            f"--tune_seeds {flags.tune_seeds}: {min(both)} is one of --seeds, too, whose scores "
            "have to be of runs that did not choose: give others"
        )


def check_distinct(plans: list[Plan]) -> None:
    """UserError where two plans would compute the same run, or share a folder."""
    labels: dict[str, str] = {}
    free = options.FREE_ON_RESUME - {"epochs"}
    for plan in plans:
        config = options.as_config(plan.flags)
        run = json.dumps({flag: config[flag] for flag in config.keys() - free}, sort_keys=True)
        for key in (run, str(plan.folder)):
            if key in labels:
                raise UserError(f"{labels[key]} and {plan.label}: one run is given twice: drop one")
            labels[key] = plan.label


def check_folder(plan: Plan) -> None:
    """UserError where its folder holds a run of other flags, finished or not."""
    with clear_errors(f"--out {plan.folder}"):
        if (plan.folder / "config.json").exists():
            found = read_config(plan.folder).flags
            check_flags(plan.folder, found, options.as_config(plan.flags))
        plan.result()


def check_before_training(compared: Comparison, slots: list[str | None]) -> None:
    """What needs this machine's GPUs and data."""
    for gpu in slots:
        if gpu is not None:
            devices.pick_device(compared.plans[0].flags.device, gpu)
    known = [(plan, plan.data()) for plan in compared.plans]
    left = [plan for plan in compared.plans if plan.result() is None]
    may_differ = left and any(identity for _, identity in known)
    if not (may_differ or compared.settings[0]):
        return
    plan = left[0] if left else compared.plans[0]
    data = setup.load_data(plan.flags)
    if may_differ:
        comparison.check_data([*known, (plan, data.identity)])
    if compared.settings[0] and "val" not in data.splits:
        raise UserError(
            f"--tune: {data.name} has no validation split to choose by: drop --tune, or choose "
            "another --split"
        )


def command(plan: Plan, gpu: str | None = None) -> list[str]:
    device = [] if gpu is None else ["--gpu_ids", gpu]
    return [sys.executable, str(TRAIN), *plan.arguments, *device]


def ready_plans(compared: Comparison) -> list[Plan]:
    """The unfinished ones that can run now: a method's choice waits for all that choose."""
    first = [plan for plan in comparison.first_plans(compared) if plan.result() is None]
    waiting = {plan.name for plan in first}
    chosen = [plan for plan in comparison.plans_of_choice(compared) if plan.name not in waiting]
    return first + [plan for plan in chosen if plan.result() is None]


def train(compared: Comparison, plans: list[Plan], slots: list[str | None]) -> dict[str, str]:
    """Run those not finished, len(slots) at a time; returns {run: why} of those that failed.

    A single job has the console. Of several, each prints to a file beside its folder.
    """
    several, environment = len(slots) > 1, jobs.share_of_cores(len(slots))
    failed: dict[str, str] = {}
    left = [plan for plan in plans if plan.result() is None]
    for plan in plans:
        if plan not in left:
            print(f"== {plan.label}: finished already", flush=True)

    def start(plan: Plan, gpu: str | None) -> jobs.Child:
        if not several:
            print(f"== {plan.label}", flush=True)
        log = plan.folder.with_name(f"{plan.folder.name}.log") if several else None
        return jobs.Child(command(plan, gpu), environment, log)

    def ended(plan: Plan, child: jobs.Child) -> None:
        code = child.poll()
        if code in (130, -signal.SIGINT):
            raise KeyboardInterrupt
        if code:
            failed[plan.label] = f"{jobs.how(code)}: {child.last_line() or 'no message'}"
        if several:
            bar.update()
            tqdm.write(f"== {plan.label}: {failed.get(plan.label) or outcome(plan)}")
            sys.stdout.flush()

    total, done = len(plans), len(plans) - len(left)
    hidden = None if several else True
    with tqdm(desc="runs", total=total, initial=done, leave=False, disable=hidden) as bar:
        jobs.run(left, slots, start, ended)
    return failed


def outcome(plan: Plan) -> str:
    """The Result line of a finished run."""
    result = plan.result()
    rule = result.selected
    return report.result_lines({rule: result.results[rule]})[0]


def show(compared: Comparison, plans: list[Plan]) -> list[str]:
    """Print the table of what is finished, and write it; returns the runs that are not."""
    comparison.check_data((plan, plan.data()) for plan in plans)
    found = {plan.label: comparison.read(plan) for plan in plans}
    rows = [row for rows in found.values() for row in rows]
    if rows:
        with comparison.table_lock(compared.folder):
            show_rows(compared, rows)
    return [run for run, rows in found.items() if not rows]


def show_rows(compared: Comparison, rows: list[dict]) -> None:
    path = comparison.write_runs(compared, rows)
    chosen, notes = comparison.of_rule(rows, compared.select), []
    if compared.settings[0]:
        chosen, notes = comparison.pick_settings(compared, chosen)
    if chosen:
        show_table(compared, chosen, notes)
    else:
        print(*notes, sep="\n")
    print(f"\nEvery run, seed and rule: {path}")


def show_table(compared: Comparison, rows: list[dict], notes: list[str]) -> None:
    summary = comparison.summarise(compared, rows)
    table = comparison.cells(compared, summary)
    print(f"\n{comparison.title(rows)}", comparison.as_text(table, "simple"), *notes, sep="\n")
    comparison.write_table_files(compared, rows, summary, notes)
    pictures = [compared.folder / f"table.{form}" for form in ("png", "svg")]
    if find_spec("matplotlib"):
        figures.write(pictures, figures.table, comparison.points(compared, rows), rows[0]["rule"])
    else:
        print("No picture of the table: it needs a package, run pip install matplotlib")


def _flags_in(words: list[str]) -> set[str]:
    return {word.split("=")[0][2:] for word in words if word.startswith("--")}


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


if __name__ == "__main__":
    entry.run(main)
