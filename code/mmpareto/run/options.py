"""The command line of training: general flags here, a part's own flags with the part."""

import argparse
import os
from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path

from ..data.layout import read_metadata
from ..datasets import DATASETS
from ..methods import METHODS
from ..models.encoders import ENCODERS
from ..models.fusions import FUSIONS
from ..system.errors import UserError
from ..system.flags import Parser, fraction, non_negative, positive, seed
from ..system.paths import REPOSITORY

WITH_FLAGS = (METHODS, FUSIONS, DATASETS)  # whose parts may have flags of their own
REGISTRIES = (*WITH_FLAGS, ENCODERS)

# A flag given on the command line comes first, then the optimizer's default, the dataset's
# `defaults`, and last these, which are the released scripts'.
DEFAULTS = {
    "epochs": 50,
    "batch_size": 64,
    "learning_rate": 0.002,
    "weight_decay": 1e-4,
    "lr_decay_ratio": 0.1,
    "workers": 0,
}
OPTIMIZER_DEFAULTS = {
    "sgd": {"momentum": 0.9},
    "adam": {"learning_rate": 1e-3, "weight_decay": 0.0},
    "adamw": {"learning_rate": 1e-3, "weight_decay": 0.01},
}

# Flags of the original scripts that have no meaning here.
REPLACED = {
    "--train": "training is what train.py does; code/evaluate.py evaluates a checkpoint",
    "--model": "choose --method, --fusion and --encoder",
    "--n_classes": "the number of classes comes from the dataset",
}

# Flags that may differ when a run is resumed: they do not change what it computes.
FREE_ON_RESUME = {
    "resume", "epochs", "device", "gpu_ids", "workers", "max_skipped", "data_root", "out",
    "use_tensorboard", "tensorboard_path", "observe",
}  # fmt: skip


class TrainParser(Parser):
    """Whose help also shows the flags of every part."""

    def format_help(self) -> str:
        return "\n".join([super().format_help(), *filter(None, _parts_help().values())])


class PartHelp(argparse.ArgumentDefaultsHelpFormatter):
    """With every flag's default, unless its help says that in words."""

    def _get_help_string(self, action: Action) -> str | None:
        is_said = "(default: " in (action.help or "")
        return action.help if is_said else super()._get_help_string(action)


def parse(arguments: list[str]) -> Namespace:
    """All flags with their values; UserError for anything that cannot be trained."""
    for flag in arguments:
        if (name := flag.split("=")[0]) in REPLACED:
            raise UserError(f"{name} is a flag of the original scripts: {REPLACED[name]}")
    flags, rest = _parser().parse_known_args(arguments)
    _find_dataset(flags)
    flags.method = METHODS.find(flags.method)
    flags.fusion = _find_fusion(flags)

    own = Parser(add_help=False, allow_abbrev=False)
    for registry in WITH_FLAGS:
        registry[getattr(flags, registry.kind)].add_flags(own)
    flags, unknown = own.parse_known_args(rest, flags)
    if unknown:
        raise UserError(_explain_unknown(unknown[0].split("=")[0]))

    _check_pairs(flags)
    _fill_defaults(flags)
    check_data_root(flags.dataset, flags.data_root)
    flags.data_root = (flags.data_root or REPOSITORY / "data" / flags.dataset).absolute()
    if flags.out is None:
        name = f"{data_name(flags)}-{flags.method}-s{flags.random_seed}"
        flags.out = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S-%f}"
    return flags


def _find_dataset(flags: Namespace) -> None:
    """--dataset is a registered name, or the folder of a prepared set."""
    folder = Path(flags.dataset)
    if flags.dataset not in DATASETS and folder.is_dir():
        if flags.data_root:
            raise UserError(f"--data_root: --dataset {folder} is a folder already: drop one")
        flags.dataset, flags.data_root = read_metadata(folder).dataset, folder
    elif flags.dataset not in DATASETS and len(folder.parts) > 1:
        raise UserError(f"--dataset {folder}: no such folder: give a prepared set, or a name")
    flags.dataset = DATASETS.find(flags.dataset)


def check_data_root(dataset: str, data_root: Path | None) -> None:
    if data_root and DATASETS[dataset].built_in:
        raise UserError(f"--data_root: {dataset} is built in and reads no files: choose --dataset")


def data_name(flags: Namespace) -> str:
    """What runs are called after: the dataset, or the folder where one name stands for many."""
    return flags.data_root.name if DATASETS[flags.dataset].one_of_many else flags.dataset


def data_flags(flags: Namespace) -> dict:
    """The dataset's own flags, which may make other data of the same files."""
    parser = Parser(add_help=False)
    DATASETS[flags.dataset].add_flags(parser)
    own = vars(parser.parse_args([]))
    return {name: value for name, value in as_config(flags).items() if name in own}


def as_config(flags: Namespace) -> dict:
    """The flags as plain values, for files."""
    return {k: str(v) if isinstance(v, os.PathLike) else v for k, v in vars(flags).items()}


def from_config(config: dict, source: Path) -> Namespace:
    """The flags of `as_config`, as far as model and data need them; UserError if they are none.

    They are read as a command line is, so that every value is one that could have been given.
    """
    words, flags = [], Namespace(data_root=None)
    try:
        for name, value in config.items():
            if isinstance(value, list):
                words += [f"--{name}", *map(str, value)] if value else []
            elif value is not None and value is not False:
                words.append(f"--{name}" if value is True else f"--{name}={value}")
        parser = _parser(add_help=False)  # --help would end the process
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
    """Flags in which two configs would compute different runs, as "name was this, is that"."""
    rows, free = [], FREE_ON_RESUME - METHODS[new["method"]].fixed_on_resume
    free -= {"data_root"} if DATASETS[new["dataset"]].one_of_many else set()
    either = ("best-val", "last")  # every run holds both results
    for name in sorted((old.keys() | new.keys()) - free):
        was, now = old.get(name), new.get(name)
        if was != now and not (name == "select" and was in either and now in either):
            rows.append(f"{name} was {was}, is {now}")
    return rows


def _parser(*, add_help: bool = True) -> Parser:
    parser = TrainParser(
        prog="train.py",
        description="Train a multimodal classifier and print its accuracies.",
        allow_abbrev=False,
        add_help=add_help,
    )
    # fmt: off
    add = parser.add_argument_group("what to train").add_argument
    add("--dataset", default="cgdigits", metavar="NAME or DIR",
        help=f"{', '.join(DATASETS)}, or the folder of a prepared set (default: %(default)s)")
    add("--data_root", type=Path, metavar="DIR",
        help="the prepared data; for cgmnist torchvision's root (default: data/DATASET)")
    add("--train_size", type=positive(int), metavar="N",
        help="train on a stratified subset of N samples, at least one per class, drawn by the seed "
             "(default: all)")
    add("--method", default="mmpareto", metavar="NAME",
        help=f"{', '.join(METHODS)} (default: %(default)s)")
    add("--fusion", metavar="NAME",
        help=f"{', '.join(FUSIONS)} (default: the method's, mostly concat)")
    add("--encoder", nargs="+", action="extend", default=[], metavar="[MODALITY=]NAME",
        help=f"{', '.join(ENCODERS)}, for one modality or for all (default: resnet18; "
             "of arrays mlp, of tokens transformer, or the dataset's or the fusion's)")
    add("--pretrained", nargs="?", const="imagenet", metavar="FILE",
        help="start resnet18 from a state dict; without FILE from ImageNet's, downloaded")

    add = parser.add_argument_group("how to train").add_argument
    add("--epochs", type=positive(int),
        help=f"passes over the data, >= 1 (default: {DEFAULTS['epochs']}, or the dataset's)")
    add("--batch_size", type=positive(int),
        help="samples per batch, of all processes together, >= 1; the last incomplete one is "
             "dropped (default: 64)")
    add("--accumulate", type=positive(int), default=1, metavar="N",
        help="batches per optimizer step, >= 1 (default: %(default)s)")
    add("--optimizer", choices=OPTIMIZER_DEFAULTS, default="sgd", help="(default: %(default)s)")
    add("--learning_rate", type=positive(float),
        help=f"> 0 (default: {DEFAULTS['learning_rate']}, or the dataset's; adam and adamw 0.001)")
    add("--momentum", type=fraction, help="of sgd, in [0, 1) (default: 0.9)")
    add("--weight_decay", type=non_negative(float),
        help=">= 0 (default: sgd 1e-4, adam 0, adamw 0.01)")
    add("--lr_decay_step", type=positive(int), metavar="EPOCHS",
        help="multiply the learning rate by --lr_decay_ratio every so many epochs, >= 1 "
             "(default: never)")
    add("--lr_decay_ratio", type=positive(float), metavar="RATIO",
        help="> 0 (default: 0.1, with --lr_decay_step)")
    add("--clip_grad", nargs="?", type=positive(float), const=1.0, metavar="NORM",
        help="clip the gradient's L2 norm to NORM, > 0; without NORM to 1.0 (default: no clipping)")
    add("--random_seed", type=seed, default=0, metavar="SEED",
        help="of initialisation, order and subset, 0 to 4294967295 (default: %(default)s)")

    group = parser.add_argument_group("where to run")
    add_device_flags(group)
    add = group.add_argument
    add("--precision", choices=("fp32", "bf16"), default="fp32",
        help="bf16: forward passes under autocast (default: %(default)s)")
    add("--compile", action="store_true", help="compile the model with torch.compile")
    add("--workers", type=non_negative(int), metavar="N",
        help="processes that load data, >= 0, for each that trains; any number gives the same "
             "samples (default: 0, or the dataset's)")
    add("--sync_bn", action="store_true",
        help="in several processes: BatchNorm's statistics over the whole batch; CUDA only")
    add("--deterministic", action="store_true",
        help="only deterministic algorithms; slower on a GPU")

    add = parser.add_argument_group("what a run writes").add_argument
    add("--out", "--ckpt_path", type=Path, metavar="DIR",
        help="the run's folder (default: runs/DATASET-METHOD-sSEED-TIME)")
    add("--resume", action="store_true", help="go on after the last whole epoch in --out")
    add("--select", choices=("best-val", "last", "best-test"), default="best-val",
        help="epoch whose test accuracy is the run's result; best-test picks it on the test split, "
             "as the original did (default: %(default)s)")
    add("--limit_batches", type=positive(int), metavar="N",
        help="use only the first N batches, >= 1, in training and in evaluation (default: all)")
    add("--max_skipped", type=non_negative(int), default=10, metavar="N",
        help="stop after more than N non-finite steps in a row, >= 0 (default: %(default)s)")
    add("--use_tensorboard", action="store_true", help="write TensorBoard's event files")
    add("--tensorboard_path", type=Path, metavar="DIR",
        help="(default: tensorboard in the run's folder)")
    # fmt: on
    return parser


def add_device_flags(parser) -> None:
    # fmt: off
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto",
        help="(default: %(default)s, a GPU if there is a usable one)")
    parser.add_argument("--gpu_ids", metavar="ID",
        help="which GPU, from 0 (default: the current one)")
    # fmt: on


def _check_pairs(flags: Namespace) -> None:
    if flags.momentum is not None and "momentum" not in OPTIMIZER_DEFAULTS[flags.optimizer]:
        raise UserError(f"--momentum acts only with --optimizer sgd, not {flags.optimizer}")
    needs = {"lr_decay_ratio": "lr_decay_step", "tensorboard_path": "use_tensorboard"}
    for name, other in needs.items():
        if getattr(flags, name) and not getattr(flags, other):
            raise UserError(f"--{name} acts only with --{other}: give both")
    if flags.resume and flags.out is None:
        raise UserError("--resume goes on in a run's folder: give it, too, with --out DIR")
    if flags.limit_batches and flags.limit_batches < flags.accumulate:
        raise UserError(
            f"--limit_batches {flags.limit_batches}: one step needs --accumulate "
            f"{flags.accumulate} batches"
        )


def _fill_defaults(flags: Namespace) -> None:
    chosen = OPTIMIZER_DEFAULTS[flags.optimizer]
    for defaults in (chosen, DATASETS[flags.dataset].defaults, DEFAULTS):
        for name, value in defaults.items():
            if getattr(flags, name) is None:
                setattr(flags, name, value)


def _find_fusion(flags: Namespace) -> str:
    """--fusion, else the method's default if it goes with the dataset, else the first that does."""
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


def _parts_help() -> dict[str, str]:
    """{"--method NAME" and the like: the help of its own flags, empty without any}."""
    found = {}
    for registry in WITH_FLAGS:
        for name, part in registry.items():
            parser = ArgumentParser(usage=SUPPRESS, add_help=False, formatter_class=PartHelp)
            chosen = getattr(part, "defaults", {})  # a dataset's
            defaults = " ".join(f"--{flag} {value}" for flag, value in chosen.items())
            title = f"--{registry.kind} {name}"
            part.add_flags(parser.add_argument_group(f"with {title}", defaults or None))
            found[title] = parser.format_help()
    return found


def _explain_unknown(flag: str) -> str:
    if owners := [part for part, text in _parts_help().items() if flag in text.split()]:
        return f"{flag} acts only with {' or '.join(owners)}"
    if not flag.startswith("-"):
        return (
            f"{flag!r} belongs to no flag: give --FLAG before it, or, in a list of names, a comma "
            "instead of the space (--help lists all flags)"
        )
    known = sorted(word for word in _parser().format_help().split() if word.startswith("--"))
    close = get_close_matches(flag, known, n=1)
    hint = f": did you mean {close[0]}?" if close else ""
    return f"unknown flag {flag}{hint} (--help lists all flags)"
