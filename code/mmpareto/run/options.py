"""The command line of training: parse and check flags, turn them into a config and back."""

import os
from argparse import Namespace
from datetime import datetime
from pathlib import Path

from ..data.layout import read_metadata
from ..datasets import DATASETS
from ..methods import METHODS
from ..models.fusions import FUSIONS
from ..system.errors import UserError
from ..system.flags import PUBLISHED, Parser, by_name
from ..system.paths import REPOSITORY
from .parsers import (
    BY_NAME,
    DEFAULTS,
    OPTIMIZER_DEFAULTS,
    WITH_FLAGS,
    explain_foreign,
    general_parser,
    help_text,
    part_parser,
)

# Flags of the original scripts that have no meaning here.
REPLACED = {
    "--train": "training is what train.py does; code/evaluate.py evaluates a checkpoint",
    "--model": "choose --method, --fusion and --encoder",
    "--n_classes": "the number of classes comes from the dataset",
}

# Flags that may differ when a run is resumed: they do not change what it computes.
FREE_ON_RESUME = {
    "resume", "epochs", "device", "gpu_ids", "workers", "max_skipped", "data_root", "out",
    "use_tensorboard", "tensorboard_path", "use_wandb", "observe",
}  # fmt: skip

# What a run of a version without the flag did to arrays, where that is not the flag's default.
FORMERLY = {"standardise": "none"}


def parse(arguments: list[str]) -> Namespace:
    """Return all flags with their values; UserError if they cannot be trained."""
    for flag in arguments:
        if (name := flag.split("=")[0]) in REPLACED:
            raise UserError(f"{name} is a flag of the original scripts: {REPLACED[name]}")
    flags, rest = general_parser().parse_known_args(arguments)
    asked = vars(flags).pop("help", None)
    if flags.pretrained == []:
        flags.pretrained = [PUBLISHED]
    _find_dataset(flags)
    flags.method = METHODS.find(flags.method)
    flags.fusion = _find_fusion(flags)
    if asked:
        print(help_text(None if asked == "all" else flags), end="")
        raise SystemExit

    own = Parser(add_help=False, allow_abbrev=False)
    for registry in WITH_FLAGS:
        registry[getattr(flags, registry.kind)].add_flags(own)
    flags, unknown = own.parse_known_args(rest, flags)
    if unknown:
        raise UserError(explain_foreign(unknown[0]))

    _check_pairs(flags)
    _fill_defaults(flags)
    _check_schedule(flags)
    _check_probes(flags)
    check_data_root(flags.dataset, flags.data_root)
    flags.data_root = (flags.data_root or REPOSITORY / "data" / flags.dataset).absolute()
    if flags.out is None:
        name = f"{data_name(flags)}-{flags.method}-s{flags.random_seed}"
        flags.out = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S-%f}"
    return flags


def _find_dataset(flags: Namespace) -> None:
    """Resolve --dataset: a registered name, or the folder of a prepared set."""
    folder = Path(flags.dataset)
    if flags.dataset not in DATASETS and folder.is_dir():
        if flags.data_root:
            raise UserError(
                f"--dataset {folder} is a folder, so --data_root has no use: drop --data_root"
            )
        flags.dataset, flags.data_root = read_metadata(folder).dataset, folder
    elif flags.dataset not in DATASETS and (len(folder.parts) > 1 or folder.exists()):
        found = "a file" if folder.exists() else "no such folder"
        raise UserError(f"--dataset {folder}: {found}: give a prepared set's folder, or a name")
    flags.dataset = DATASETS.find(flags.dataset)


def check_data_root(dataset: str, data_root: Path | None) -> None:
    if data_root and DATASETS[dataset].built_in:
        raise UserError(
            f"--data_root: {dataset} is built in and reads no files: drop --data_root, or train on "
            "another --dataset"
        )


def data_name(flags: Namespace) -> str:
    """Return the name for runs: the dataset, or its folder if several sets share the name."""
    return flags.data_root.name if DATASETS[flags.dataset].one_of_many else flags.dataset


def data_flags(flags: Namespace) -> dict:
    """Return the dataset's own flags, which can change the data made from the files."""
    parser = Parser(add_help=False)
    DATASETS[flags.dataset].add_flags(parser)
    own = vars(parser.parse_args([]))
    return {name: value for name, value in as_config(flags).items() if name in own}


def as_config(flags: Namespace) -> dict:
    """Return the flags as plain values, for files."""
    return {k: str(v) if isinstance(v, os.PathLike) else v for k, v in vars(flags).items()}


def from_config(config: dict, source: Path) -> Namespace:
    """Return the flags of `as_config` that model and data need; UserError if config is damaged.

    They are parsed like a command line, so every value is checked in the same way. None says where
    weights came from: a checkpoint holds them.
    """
    words, flags = [], Namespace(data_root=None)
    config = {**config, "pretrained": None}
    try:
        for name, value in config.items():
            if isinstance(value, list):
                words += [f"--{name}", *map(str, value)] if value else []
            elif value is not None and value is not False:
                words.append(f"--{name}" if value is True else f"--{name}={value}")
        parser = general_parser()
        for registry in (FUSIONS, DATASETS):
            registry[str(config.get(registry.kind))].add_flags(parser)
        flags, _ = parser.parse_known_args(words)
        METHODS.find(flags.method)
        found = as_config(flags)
        wrong = [name for name in found if found[name] != config.get(name, found[name])]
    except UserError as error:
        wrong = [str(error)]
    except RecursionError:
        wrong = ["nested too deeply"]
    if wrong or flags.data_root is None:
        raise UserError(
            f"checkpoint {source}: its config is damaged ({', '.join(wrong) or 'no data_root'}): "
            "restore it from a copy or train again"
        )
    _fill_defaults(flags)
    return flags


def changes(old: dict, new: dict) -> list[str]:
    """List the flags that make two configs different runs, as "name was this, is that".

    A flag may be younger than the old run: its default is what the run did, or `FORMERLY` says.
    """
    parts = [part_parser(registry, new[registry.kind]) for registry in WITH_FLAGS]
    known = [as_config(parser.parse_args([])) for parser in (general_parser(), *parts)]
    defaults = {name: value for own in known for name, value in own.items()}
    if DATASETS[new["dataset"]].has_arrays(Path(new["data_root"])):
        old = FORMERLY | old
    old = defaults | old
    rows, free = [], FREE_ON_RESUME - METHODS[new["method"]].fixed_on_resume
    free -= {"epochs"} if new["lr_schedule"] == "cosine" else set()  # its rates depend on them
    before, place = Path(str(old["data_root"])), Path(new["data_root"])
    is_moved = before.name == place.name and not before.exists()  # its identity is checked later
    free -= {"data_root"} if DATASETS[new["dataset"]].one_of_many and not is_moved else set()
    either = ("best-val", "last")  # every run holds both results
    for name in sorted((old.keys() | new.keys()) - free):
        was, now = old.get(name), new.get(name)
        if was != now and not (name == "select" and was in either and now in either):
            rows.append(f"{name} was {was}, is {now}")
    return rows


def _check_pairs(flags: Namespace) -> None:
    if flags.momentum is not None and "momentum" not in OPTIMIZER_DEFAULTS[flags.optimizer]:
        raise UserError(
            f"--momentum acts only with --optimizer sgd, not {flags.optimizer}: drop --momentum"
        )
    needs = {"lr_decay_ratio": "lr_decay_step", "tensorboard_path": "use_tensorboard"}
    for name, other in needs.items():
        if getattr(flags, name) and not getattr(flags, other):
            raise UserError(f"--{name} acts only with --{other}: give both flags")
    if flags.resume and flags.out is None:
        raise UserError("--resume continues the run in --out: give its folder with --out DIR")
    if flags.limit_batches and flags.limit_batches < flags.accumulate:
        raise UserError(
            f"--limit_batches {flags.limit_batches}: one step needs --accumulate "
            f"{flags.accumulate} batches"
        )


def _check_schedule(flags: Namespace) -> None:
    schedule = flags.lr_schedule
    if schedule == "step" and not flags.lr_decay_step:
        raise UserError("--lr_schedule step needs --lr_decay_step: give it, too")
    if flags.lr_decay_step and schedule in ("constant", "cosine"):
        raise UserError(
            f"--lr_decay_step acts only with --lr_schedule step, not {schedule}: drop one flag"
        )
    if flags.warmup >= flags.epochs:
        raise UserError(
            f"--warmup {flags.warmup}: no epoch of --epochs {flags.epochs} would have the whole "
            "learning rate: lower --warmup"
        )
    if flags.patience and flags.select == "best-test":
        raise UserError(
            "--patience stops by validation, --select best-test chooses by test: drop one flag"
        )


def _check_probes(flags: Namespace) -> None:
    """Raise UserError if --no_probes changes nothing, or leaves nothing to another flag."""
    if not getattr(flags, "no_probes", False):
        return
    fusion = FUSIONS[flags.fusion]
    if fusion.multitask or not fusion.own_heads:
        raise UserError(
            f"--no_probes: no head of --fusion {flags.fusion} is a probe: drop --no_probes"
        )
    untrained = "fusion" if METHODS[flags.method].single_loss == "unimodal" else "heads"
    for flag in BY_NAME:
        if untrained in by_name(getattr(flags, flag)):
            raise UserError(
                f"--{flag} {untrained}= acts only without --no_probes, since --method "
                f"{flags.method} does not train that part: drop one of the two"
            )


def _fill_defaults(flags: Namespace) -> None:
    chosen = OPTIMIZER_DEFAULTS[flags.optimizer]
    for defaults in (chosen, DATASETS[flags.dataset].defaults, DEFAULTS):
        for name, value in defaults.items():
            given = getattr(flags, name)
            if given is None:
                setattr(flags, name, value)
            elif name in BY_NAME and "" not in by_name(given):
                setattr(flags, name, f"{value} {given}")


def _find_fusion(flags: Namespace) -> str:
    """Return --fusion, else the method's default if that fits, else the first that fits."""
    is_multitask = DATASETS[flags.dataset].is_multitask
    fitting = {name: part for name, part in FUSIONS.items() if part.multitask == is_multitask}

    def valid(method: str) -> list[str]:
        return [name for name, part in fitting.items() if METHODS[method].runs_with(part)]

    choices = valid(flags.method)
    if not choices:
        others = ", ".join(filter(valid, METHODS))
        raise UserError(f"--method {flags.method} does not run on {flags.dataset}: choose {others}")
    if flags.fusion is None:
        default = METHODS[flags.method].default_fusion
        return default if default in choices else choices[0]
    fusion = FUSIONS.find(flags.fusion)
    if fusion not in choices:
        raise UserError(
            f"--method {flags.method} does not run with --fusion {fusion} on "
            f"{flags.dataset}: choose {', '.join(choices)}"
        )
    return fusion
