"""The runs that compare.py trains, planned from its flags and the folders found."""

import json
import re
import statistics
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.folds import fold_name
from ..data.samples import Data
from ..run import devices, options, setup
from ..run.folder import Finished, check_flags, finished
from ..run.records import (
    MEASURES,
    Config,
    Result,
    read_config,
    read_divergence,
    read_epochs,
    rule_of,
)
from ..system import records
from ..system.errors import UserError
from ..system.paths import clear_errors
from .words import (
    check_own,
    find_name,
    find_seeds,
    find_settings,
    flags_in,
    from_anywhere,
    listed,
)

MANY_FOLDS = 100  # each is a run of every method and seed
MAY_MEND = ("epochs", "max_skipped", "device")  # change whether a resumed run diverges
MEASURED = ("conflict", "seconds_per_epoch")  # of a run besides its scores


@dataclass(eq=False)
class Plan:
    """One run to be made."""

    name: str  # the method with its flags, as given
    setting: dict[str, str]  # {flag: value} that --tune tries
    fold: str  # the --split that --folds gives it, as fold2of5; "" without --folds
    seed: int
    arguments: list[str]  # of train.py
    flags: Namespace
    run: Finished | None = None  # as `look` found it; None where it is not finished
    rows: list[dict[str, Any]] = field(default_factory=list)  # of it, one for each rule
    divergence: str | None = None  # why its training has ended early
    identity: str | None = None  # of the data of the run that is over; None if unknown

    @property
    def folder(self) -> Path:
        return self.flags.out

    @property
    def label(self) -> str:
        fold = f", {self.fold}" if self.fold else ""
        return f"{label(self.name, self.setting)}{fold}, seed {self.seed}"

    @property
    def is_over(self) -> bool:
        return bool(self.run or self.divergence)

    def look(self) -> None:
        """Read the folder; UserError if it holds a run with other flags, finished or not."""
        config, found = options.as_config(self.flags), None
        with clear_errors(f"--out {self.folder}"):
            if (self.folder / "result.json").exists():
                self.run = finished(self.folder, config)
                found = self.run and self.run.config
            elif (self.folder / "config.json").exists():
                before = read_config(self.folder)
                check_flags(self.folder, before.flags, config)
                if all(before.flags.get(flag) == config[flag] for flag in MAY_MEND):
                    self.divergence = read_divergence(self.folder)
                    found = before if self.divergence else None
        self.identity = found and found.identity
        self.rows = self._read_rows(*self.run) if self.run else []

    def _read_rows(self, config: Config, result: Result) -> list[dict[str, Any]]:
        validation = {e.epoch: e for e in read_epochs(self.folder) if e.split == "val"}
        fold = {"fold": self.fold} if self.fold else {}
        mine = {"method": self.name, **self.setting, **fold, "seed": self.seed}
        rest = {name: getattr(result, name) for name in MEASURED}
        known = "test_samples", "parameters", "peak_bytes"
        rest |= {name: getattr(result, name) for name in known} | {"data": config.data_name}
        rest |= {"identity": config.identity, "commit": config.commit}
        rest |= {"threads": config.threads, **config.versions}
        rows = []
        for rule, scores in result.results.items():
            epoch = int(scores["epoch"])
            found = validation.get(epoch)
            chosen = {"rule": rule, "epoch": epoch, "val_Acc": found and found.Acc}
            chosen["val_F1"] = found and found.F1
            chosen["val_loss"] = found and found.split_loss
            rows.append({**mine, **chosen, **scores, **rest})
        return rows


@dataclass(frozen=True)
class Asked:
    """What is compared, as comparison.json keeps it."""

    select: str
    names: list[str]
    seeds: list[int]  # of the table
    tune_seeds: list[int]  # that choose among settings: the table's, or --tune_seeds
    settings: list[dict[str, str]]  # that --tune tries; a single empty one without it
    baseline: str | None
    # Earlier versions knew no other:
    select_by: str = "accuracy"
    folds: int = 0  # 0: none

    def __post_init__(self) -> None:
        records.check(
            names=bool(self.names),
            seeds=all(map(records.is_count, self.seeds)),
            tune_seeds=all(map(records.is_count, self.tune_seeds)),
            settings=len({tuple(sorted(setting)) for setting in self.settings}) == 1,
            select_by=self.select_by in MEASURES,
            folds=0 <= self.folds <= MANY_FOLDS and self.folds != 1,
        )

    @property
    def splits(self) -> list[str]:
        """The names of all folds; a single empty one without folds."""
        return [fold_name(n + 1, self.folds) for n in range(self.folds)] or [""]

    @property
    def units(self) -> str:
        """What means and deviations are taken over."""
        return "folds" if self.folds else "seeds"

    @property
    def rule(self) -> str:
        """The rule that chooses the epoch of the table's scores, if the runs have validation."""
        return rule_of(self.select, self.select_by)

    @property
    def measure(self) -> str:
        """The column of the joint score that chooses, and that differences are taken of."""
        return MEASURES[self.select_by]


@dataclass(frozen=True, kw_only=True)
class Comparison(Asked):
    folder: Path  # of all runs and of the table
    plans: list[Plan]  # of all settings with all seeds

    def by_method(self, rows: list[dict]) -> dict[str, list[dict]]:
        """{method: its rows}, methods as asked for; those without rows are left out."""
        found = {name: [row for row in rows if row["method"] == name] for name in self.names}
        return {name: mine for name, mine in found.items() if mine}

    def setting_of(self, *rows: dict) -> dict[str, str]:
        """Return the setting of rows; folds may have chosen several, which slashes separate."""
        return {flag: "/".join(dict.fromkeys(r[flag] for r in rows)) for flag in self.settings[0]}

    def run_of(self, row: dict) -> Any:
        """Return what pairs a run of one method with that of another: its fold and seed."""
        return (row["fold"], row["seed"]) if self.folds else row["seed"]

    def by_unit(self, rows: list[dict], column: str) -> list[float]:
        """Return a known number of each seed; with folds, of each fold the mean over its seeds."""
        if not self.folds:
            return [row[column] for row in rows if row[column] is not None]
        found: dict[str, list[float]] = {}
        for row in rows:
            if row[column] is not None:
                found.setdefault(row["fold"], []).append(row[column])
        return [statistics.fmean(values) for values in found.values()]


def label(name: str, setting: dict[str, str]) -> str:
    return " ".join([name, *(f"{flag}={value}" for flag, value in setting.items())])


def folder_name(name: str, setting: dict[str, str], seed: str | int, fold: str = "") -> str:
    tried = [f"{flag}={value}" for flag, value in setting.items()]
    parts = [*name.split(":"), *tried, *filter(None, [fold]), f"s{seed}"]
    return re.sub(r"[^\w.,=+-]", "-", "-".join(parts))


def plan_comparison(flags: Namespace, rest: list[str]) -> Comparison:
    """Plan all runs; check each run's flags, and those found in its folder."""
    check_own(flags_in(rest), "")
    names = [find_name(name) for name in listed("--methods", flags.methods)]
    settings, folds = find_settings(flags.tune), find_folds(flags.folds, rest)

    def plans_with(seeds: list[str]) -> list[Plan]:
        return [
            plan_run(flags.out, rest, name, setting, fold, seed)
            for fold in folds or [""]
            for seed in seeds
            for name in names
            for setting in settings
        ]

    final = plans_with(find_seeds("--seeds", flags.seeds))
    tuning = plans_with(find_seeds("--tune_seeds", flags.tune_seeds)) if flags.tune_seeds else []
    seeds, tune_seeds = (list(dict.fromkeys(p.seed for p in part)) for part in (final, tuning))
    if tune_seeds and not flags.tune:
        raise UserError("--tune_seeds acts only with --tune: give both")
    if both := set(seeds) & set(tune_seeds):
        raise UserError(
            f"--tune_seeds {' '.join(flags.tune_seeds)}: seed {min(both)} is also in --seeds: "
            "the two lists must not overlap: give other --tune_seeds"
        )
    plans = [*tuning, *final]
    check_distinct(plans)
    for plan in plans:
        plan.look()
    select, select_by = plans[0].flags.select, plans[0].flags.select_by
    if flags.tune and select == "best-test":
        raise UserError(
            "--tune chooses by validation, --select best-test by test: drop one of these two flags"
        )
    baseline = find_name(flags.baseline) if flags.baseline else "uniform"
    if flags.baseline and baseline not in names:
        raise UserError(f"--baseline {flags.baseline}: choose one of --methods {', '.join(names)}")
    baseline = baseline if baseline in names and len(names) > 1 else None
    folder = flags.out or plans[0].folder.parent
    choosing = tune_seeds or seeds
    asked = select, names, seeds, choosing, settings, baseline, select_by, len(folds)
    return Comparison(*asked, folder=folder, plans=plans)


def find_folds(count: int | None, rest: list[str]) -> list[str]:
    """Return the names of all folds, none without --folds; rest: the flags of train.py."""
    if count is None:
        return []
    if not 2 <= count <= MANY_FOLDS:
        raise UserError(f"--folds {count}: give a number from 2 to {MANY_FOLDS}")
    if "split" in flags_in(rest):
        raise UserError("--folds divides the data itself: drop --split, or drop --folds")
    return [fold_name(number + 1, count) for number in range(count)]


def plan_run(
    out: Path | None, rest: list[str], name: str, setting: dict[str, str], fold: str, seed: str
) -> Plan:
    method, *own = name.split(":")
    words = [*rest, "--method", method, *(f"--{word}" for word in own), "--random_seed", seed]
    if both := flags_in(words) & setting.keys():
        raise UserError(f"--tune {min(both)}: --{min(both)} is given, too: drop one of the two")
    words = from_anywhere([*words, *(f"--{flag}={value}" for flag, value in setting.items())])
    try:
        flags = options.parse(words)
    except UserError as error:
        options.parse(words[: len(words) - len(setting)])  # wrong without --tune, too
        raise UserError(f"--tune with {label(name, setting)}: {error}") from None
    if fold:
        if not hasattr(flags, "split"):
            raise UserError(
                f"--folds: {flags.dataset} has one fixed division of its data: drop --folds, or "
                "choose a set that code/prepare.py has made"
            )
        words += ["--split", fold]
        flags.split = fold
    out = out or Path("runs") / f"compare-{options.data_name(flags)}"
    flags.out, flags.resume = (out / folder_name(name, setting, seed, fold)).absolute(), True
    words += ["--resume", "--out", str(flags.out)]
    return Plan(name, setting, fold, flags.random_seed, words, flags)


def check_distinct(plans: list[Plan]) -> None:
    """Raise UserError if two plans would compute the same run or share a folder."""
    labels: dict[str, str] = {}
    free = options.FREE_ON_RESUME - {"epochs"}
    for plan in plans:
        config = options.as_config(plan.flags)
        run = json.dumps({flag: config[flag] for flag in config.keys() - free}, sort_keys=True)
        for key in (run, str(plan.folder)):
            if key in labels:
                raise UserError(
                    f"{labels[key]} and {plan.label}: both name the same run: drop one "
                    "from --methods, --seeds or --tune"
                )
            labels[key] = plan.label


def check_data(trained_on: Iterable[tuple[Plan, str | None]]) -> None:
    """Raise UserError if runs with equal dataset flags have seen different data.

    trained_on: runs, each with the identity of its data; None if unknown.
    """
    first: dict[str, tuple[Plan, str]] = {}
    for plan, found in trained_on:
        if found is None:
            continue
        group = json.dumps(options.data_flags(plan.flags), sort_keys=True)
        other, before = first.setdefault(group, (plan, found))
        if found != before:
            raise UserError(
                f"{other.label} and {plan.label}: the data has changed between them (identity "
                f"{before}, then {found}), one table cannot hold both: restore the data, or give "
                "another --out"
            )


def check_before_training(compared: Comparison, slots: list[str | None]) -> None:
    """Check what depends on this machine: GPUs, the data, and what the methods make of it."""
    for gpu in slots:
        if gpu is not None:
            devices.pick_device(compared.plans[0].flags.device, gpu)
    loaded: dict[str, Data] = {}  # {the dataset's flags: its samples}
    known = [(plan, plan.identity) for plan in compared.plans if plan.is_over]
    for plan in compared.plans:
        if not plan.is_over:
            group = json.dumps(options.data_flags(plan.flags), sort_keys=True)
            if group not in loaded:
                loaded[group] = setup.load_data(plan.flags, {})
                known.append((plan, loaded[group].identity))
            setup.check_masks(plan.flags, loaded[group])
    check_data(known)
    for data in loaded.values():
        if compared.settings[0] and "val" not in data.splits:
            raise UserError(
                f"--tune: {data.name} has no validation split to choose by: drop --tune, or choose "
                "another --split"
            )
