"""Train several methods with several seeds, and print one table of their test scores.

    python code/compare.py --methods joint uniform mmpareto --seeds 0-4
    python code/compare.py --methods pareto,pareto:scale=2,mmpareto:granularity=tensor --jobs 2
    python code/compare.py --tune learning_rate=0.05,0.01,0.002 --gpu_ids 0,1,2,3

Any flag of train.py may follow. Finished runs are not computed again, so the same command
continues an interrupted comparison.
"""

from mmpareto.system import entry

import shlex
import signal
import sys
from argparse import Namespace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

from mmpareto.results import figures, jobs, saved, server, slurm, table
from mmpareto.results.choice import asked_plans, failures, first_plans, plans_of_choice, table_rows
from mmpareto.results.plans import (
    Comparison,
    Plan,
    check_before_training,
    check_data,
    plan_comparison,
)
from mmpareto.run import report
from mmpareto.run.environment import from_here, next_command
from mmpareto.system.errors import UserError
from mmpareto.system.flags import Parser, positive
from mmpareto.system.lock import Lock
from mmpareto.system.paths import blocker_of, clear_errors

TRAIN = Path(__file__).absolute().with_name("train.py")
NAMED = 6  # runs in a line about many


def main(arguments: list[str]) -> None:
    flags, rest = parser().parse_known_args(arguments)
    slots = find_slots(flags)
    compared = plan_comparison(flags, rest)
    if flags.print_commands:
        return print_commands(compared, flags, arguments)
    if not find_spec("tabulate"):
        raise UserError("the table needs a package: run pip install tabulate")

    if flags.collect:
        plans = asked_plans(compared)
        if missing := show(compared, plans):
            print(f"Not finished, {len(missing)} of {len(plans)} runs: {some(missing)}")
        tell(failures(compared))
        return
    check_before_training(compared, slots)
    with clear_errors(f"--out {compared.folder}"):
        blocker_of(compared.folder)
        if (compared.folder / "config.json").exists():
            raise UserError(f"--out {compared.folder}: it holds one run: give another --out")
        compared.folder.mkdir(parents=True, exist_ok=True)
        hint = "wait for it, look at what is done with --collect, or give another --out"
        lock = Lock(compared.folder, hint)
    with lock:
        try:
            failed = train(compared, first_plans(compared), slots)
            failed |= train(compared, plans_of_choice(compared), slots)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; run the same command to go on") from None
        plans = asked_plans(compared)
        show(compared, plans)
        failed |= failures(compared)
    tell(failed)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(plans)} runs failed: {some(list(failed))}: fix the "
            "errors above, then run the same command again; it trains a diverged run only if "
            "you have deleted the run's folder"
        )


def tell(failed: dict[str, str]) -> None:
    for run, reason in failed.items():
        print(f"Failed: {run} ({reason})")


def some(runs: list[str]) -> str:
    """Name the first runs, and say how many more there are."""
    more = f"; and {len(runs) - NAMED} more" if len(runs) > NAMED else ""
    return "; ".join(runs[:NAMED]) + more


def parser() -> Parser:
    about = f"{__doc__.splitlines()[0]} Any flag of train.py may follow."
    parser = Parser(prog="compare.py", description=about, allow_abbrev=False)
    # fmt: off
    add = parser.add_argument_group("what to compare").add_argument
    add("--methods", nargs="+", metavar="NAMES",
        default=["joint", "unimodal", "uniform", "pareto", "mmpareto"],
        help="separated by spaces or commas; a method's own flags after colons, as in "
             "pareto:scale=2 (default: joint unimodal uniform pareto mmpareto)")
    add("--seeds", nargs="+", default=["0-2"],
        help="separated by spaces or commas; 0-4 names five (default: 0-2)")
    add("--folds", type=positive(int), metavar="K",
        help="train every method and seed on each of K stratified folds of all clips of a prepared "
             "set; groups stay whole (default: on one split)")
    add("--tune", nargs="+", action="extend", default=[], metavar="FLAG=VALUES",
        help="train every method with each of the comma-separated values, as in "
             "learning_rate=0.01,0.002; validation chooses one value for each method")
    add("--tune_seeds", nargs="+", metavar="SEEDS",
        help="with --tune: choose by runs with these seeds, none of which may be in --seeds; then "
             "train only the chosen setting with --seeds (default: train every setting with "
             "--seeds)")
    add("--baseline", metavar="NAME",
        help="the one of --methods whose Acc is subtracted from the others', seed by seed "
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
    add = group.add_argument
    add("--sbatch", type=Path, metavar="FILE",
        help="with --print_commands: write them as a SLURM job array instead, for sbatch FILE")
    add("--sbatch_header", type=Path, metavar="FILE",
        help="with --sbatch: #SBATCH lines (partition, time), and shell commands that every task "
             "begins with")
    add = parser.add_argument_group("what is written").add_argument
    add("--out", "--ckpt_path", type=Path, metavar="DIR",
        help="the folder of all runs, of runs.csv and of table.csv, .md, .tex, .png and .svg "
             "(default: runs/compare-DATASET)")
    # fmt: on
    return parser


def find_slots(flags: Namespace) -> list[str | None]:
    """One entry for each run that may go on at once: its GPU, or None where train.py chooses."""
    for name, other in (("sbatch", "print_commands"), ("sbatch_header", "sbatch")):
        if getattr(flags, name) and not getattr(flags, other):
            raise UserError(f"--{name} acts only with --{other}: give both flags")
    if flags.gpu_ids and flags.print_commands:
        raise UserError(
            "--gpu_ids has no effect with --print_commands: drop one of these two flags"
        )
    given = [f"--{name}" for name in ("jobs", "gpu_ids") if getattr(flags, name)]
    if given and (flags.print_commands or flags.collect):
        print(f"Not used, since nothing is trained: {', '.join(given)}", file=sys.stderr)
    if flags.gpu_ids is None:
        return [None] * (flags.jobs or 1)
    ids = [id.strip() for id in flags.gpu_ids.split(",")]
    if len(set(ids)) < len(ids):
        raise UserError(f"--gpu_ids {flags.gpu_ids}: a GPU is given twice: give each once")
    if flags.jobs and flags.jobs > len(ids):
        raise UserError(
            f"--jobs {flags.jobs}: a GPU takes one run at a time, --gpu_ids {flags.gpu_ids} names "
            f"{len(ids)}: lower --jobs, or give more --gpu_ids"
        )
    return ids[: flags.jobs]


def command(plan: Plan, gpu: str | None = None) -> list[str]:
    device = [] if gpu is None else ["--gpu_ids", gpu]
    return [sys.executable, str(TRAIN), *plan.arguments, *device]


def print_commands(compared: Comparison, flags: Namespace, arguments: list[str]) -> None:
    """Print the commands of unfinished runs that can start now, or write them with --sbatch.

    arguments: of this command.
    """
    first = first_plans(compared)
    waiting = {plan.name for plan in first if not plan.is_over}
    ready = [plan for plan in plans_of_choice(compared) if plan.name not in waiting]
    commands = [command(plan) for plan in (*first, *ready) if not plan.is_over]
    if not flags.sbatch:
        for words in commands:
            print(shlex.join(words))
        return
    if commands:
        folder = compared.folder
        tasks = slurm.write_array(flags.sbatch, commands, folder, flags.sbatch_header)
        print(f"{len(commands)} runs in {tasks} tasks; their logs go to {folder}. Submit them:")
        print(f"  {shlex.join(['sbatch', str(flags.sbatch)])}")
        if waiting and compared.seeds != compared.tune_seeds:
            print("Then repeat this command: it writes the runs of the settings that they choose.")
    else:
        print("No run is left, nothing is written.")
    print("When all runs have finished, make the table:")
    print(f"  {next_command('compare.py', *collecting(arguments))}")


def collecting(arguments: list[str]) -> list[str]:
    """Return the words of the command that makes the table of the runs that were printed."""
    words, is_value, with_value = [], False, ("--sbatch", "--sbatch_header", "--jobs")
    for word in arguments:
        flag, joined, _ = word.partition("=")
        if not is_value and flag not in ("--print_commands", *with_value):
            words.append(word)
        is_value = flag in with_value and not joined
    return [*words, "--collect"]


def train(compared: Comparison, plans: list[Plan], slots: list[str | None]) -> dict[str, str]:
    """Run unfinished plans, len(slots) at a time; return {run: reason} of failed runs.

    A diverged run is not among them: see `choice.failures`. A single job prints to the console.
    Each of several prints to a file beside its folder.
    """
    several, environment = len(slots) > 1, jobs.share_of_cores(len(slots))
    failed: dict[str, str] = {}
    left = [plan for plan in plans if not plan.is_over]
    forked = bool(left) and slots[0] is None and server.suits(left[0].flags)
    if forked:
        server.start(left[0].arguments, environment)
        if find_spec("matplotlib"):
            import_module("matplotlib.figure")  # for the table; now this process only waits
    for plan in plans:
        if plan.is_over:
            outcome = "finished" if plan.run else "diverged"
            print(f"== {plan.label}: {outcome} already", flush=True)

    def start(plan: Plan, gpu: str | None) -> jobs.Child:
        if several:
            log = plan.folder.with_name(f"{plan.folder.name}.log")
            return jobs.Child(command(plan, gpu), environment, log, forked)
        print(f"== {plan.label}", flush=True)
        return jobs.Child(command(plan, gpu), environment, forked=forked)

    def ended(plan: Plan, child: jobs.Child) -> None:
        code = child.poll()
        if code in (130, -signal.SIGINT):
            raise KeyboardInterrupt
        plan.look()
        if code and not plan.divergence:
            failed[plan.label] = f"{jobs.how(code)}: {child.last_line() or 'no message'}"
        if several:
            outcome = plan.divergence or failed.get(plan.label, "not finished")
            if plan.run and not code:
                done = plan.run.result
                chosen = {done.selected: done.results[done.selected]}
                (outcome,) = report.result_lines(chosen, done.stopped)
            bar.update()
            tqdm.write(f"== {plan.label}: {outcome}")
            sys.stdout.flush()

    done, hidden = len(plans) - len(left), None if several else True
    with tqdm(desc="runs", total=len(plans), initial=done, leave=False, disable=hidden) as bar:
        jobs.run(left, slots, start, ended)
    return failed


def show(compared: Comparison, plans: list[Plan]) -> list[str]:
    """Print and write the table of finished runs; return the unfinished runs."""
    check_data((plan, plan.identity) for plan in plans)
    if rows := [row for plan in plans for row in plan.rows]:
        with saved.table_lock(compared.folder):
            show_table(compared, rows)
    return [plan.label for plan in plans if not plan.is_over]


def show_table(compared: Comparison, rows: list[dict]) -> None:
    path = saved.write_runs(compared, rows)
    chosen, notes = table_rows(compared, rows)
    if not chosen:
        print(*notes, sep="\n")
    else:
        summary = table.summarise(compared, chosen)
        cells = table.as_text(table.cells(compared, summary), "simple")
        print(f"\n{table.title(compared, chosen)}", cells, *notes, sep="\n")
        table.write_table_files(compared, chosen, summary, notes)
        pictures = [compared.folder / f"table.{form}" for form in ("png", "svg")]
        if find_spec("matplotlib"):
            drawn = table.percents(compared, chosen), chosen[0]["rule"], compared.units
            figures.write(pictures, figures.table, *drawn)
        else:
            print("No picture of the table: it needs a package, run pip install matplotlib")
    print(f"\nEvery run, seed and rule: {path}")
    print(f"Look into it: {next_command('analyze.py', from_here(compared.folder))}")


if __name__ == "__main__":
    entry.run(main)
