"""The parsers of train.py's flags. A part's own flags stand in the part's file."""

import argparse
from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from pathlib import Path

from ..datasets import DATASETS
from ..methods import METHODS
from ..models.encoders import ENCODERS
from ..models.fusions import FUSIONS
from ..system.flags import (
    ELSEWHERE,
    PUBLISHED,
    ByName,
    Parser,
    encoder,
    explain_unknown,
    fraction,
    non_negative,
    positive,
    seed,
    source,
    weights,
)
from ..system.registry import Registry
from .records import MEASURES

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
BY_NAME = {"learning_rate": "lr", "weight_decay": "weight_decay"}  # flag: name in torch.optim


class PartHelp(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows every flag's default, unless its text says it in words."""

    def _get_help_string(self, action: Action) -> str | None:
        is_said = "(default: " in (action.help or "")
        return action.help if is_said else super()._get_help_string(action)


def general_parser() -> Parser:
    parser = Parser(
        prog="train.py",
        usage="train.py [FLAG ...]",
        description="Train a multimodal classifier and print its accuracies. These are the general "
        "flags and those of the chosen method, fusion and dataset; --help all shows all flags.",
        allow_abbrev=False,
        add_help=False,  # ours waits until all parts are chosen
    )
    # fmt: off
    parser.add_argument("-h", "--help", nargs="?", const="chosen", choices=("chosen", "all"),
        default=SUPPRESS, metavar="all", help="show this help, with all for every part")
    add = parser.add_argument_group("what to train").add_argument
    add("--dataset", default="cgdigits", metavar="NAME or DIR",
        help=f"{', '.join(DATASETS)}, or the folder of a prepared set (default: %(default)s)")
    add("--data_root", type=Path, metavar="DIR",
        help="folder of the prepared data; for cgmnist and multimnist torchvision's root "
             "(default: data/DATASET)")
    add("--train_size", type=positive(int), metavar="N",
        help="train on a stratified subset of N samples, at least one per class, drawn by the seed "
             "(default: all)")
    add("--standardise", choices=("train", "none"), default="train",
        help="subtract the training split's mean from arrays and divide by its deviation, column "
             "by column; none leaves arrays as they are (default: %(default)s)")
    add("--method", default="mmpareto", metavar="NAME",
        help=f"one of {', '.join(METHODS)} (default: %(default)s)")
    add("--fusion", metavar="NAME",
        help=f"one of {', '.join(FUSIONS)} (default: the method's, mostly concat)")
    add("--encoder", nargs="+", action="extend", type=encoder, default=[],
        metavar="[MODALITY=]NAME",
        help=f"one of {', '.join(ENCODERS.names)}, for one modality or for all (default: resnet18; "
             "mlp for arrays, gru for sequences, transformer for tokens; some datasets and fusions "
             "have their own)")
    add("--pretrained", nargs="*", action="extend", type=weights, metavar="[MODALITY=]FILE",
        help=f"start encoders from these weights, see docs/models.md; {PUBLISHED}, or no FILE at "
             "all, takes the weights that the net was published with; they may be downloaded")
    add("--init_encoder", nargs="+", action="extend", type=source, default=[],
        metavar="[MODALITY=]FILE",
        help="start the encoder of a modality from the best.pt or last.pt of another run; without "
             "MODALITY, every encoder that the run has (default: from random weights)")
    add("--freeze", nargs="+", action="extend", default=[], metavar="MODALITY",
        help="keep the encoders of these modalities as they start: they take no gradient, and stay "
             "in evaluation mode (default: all learn)")

    add = parser.add_argument_group("how to train").add_argument
    add("--epochs", type=positive(int),
        help=f"passes over the data, >= 1 (default: {DEFAULTS['epochs']}, or the dataset's)")
    add("--batch_size", type=positive(int),
        help="samples per batch, over all processes, >= 1; an incomplete last batch is dropped "
             "(default: 64)")
    add("--accumulate", type=positive(int), default=1, metavar="N",
        help="add up the gradients of N batches for each step, >= 1 (default: %(default)s)")
    add("--optimizer", choices=OPTIMIZER_DEFAULTS, default="sgd",
        help="which optimizer (default: %(default)s)")
    add("--learning_rate", action=ByName, number=positive(float),
        help="the learning rate, > 0; NAME= gives a part of the model a rate of its own: NAME is a "
             "modality (its encoder), heads (the unimodal heads) or fusion (all the rest) "
             f"(default: {DEFAULTS['learning_rate']}, or the dataset's; adam and adamw 0.001)")
    add("--momentum", type=fraction, help="the momentum of sgd, in [0, 1) (default: 0.9)")
    add("--weight_decay", action=ByName, number=non_negative(float),
        help="the weight decay, >= 0; NAME= as in --learning_rate (default: sgd 1e-4, adam 0, "
             "adamw 0.01)")
    add("--lr_decay_step", type=positive(int), metavar="EPOCHS",
        help="multiply the learning rate by --lr_decay_ratio every so many epochs, >= 1 "
             "(default: never)")
    add("--lr_decay_ratio", type=positive(float), metavar="RATIO",
        help="the factor of --lr_decay_step, > 0 (default: 0.1)")
    add("--lr_schedule", choices=("constant", "step", "cosine"),
        help="the learning rate over the epochs; step is --lr_decay_step, cosine falls to zero "
             "(default: constant, or step with --lr_decay_step)")
    add("--warmup", type=non_negative(int), default=0, metavar="EPOCHS",
        help="the first epochs, >= 0, in which the learning rate grows in equal steps "
             "(default: %(default)s)")
    add("--patience", type=positive(int), metavar="EPOCHS",
        help="stop when the best epoch, by validation and --select_by, is so many epochs old, >= 1 "
             "(default: never)")
    add("--clip_grad", nargs="?", type=positive(float), const=1.0, metavar="NORM",
        help="clip the gradient's L2 norm to NORM, > 0; without NORM to 1.0 (default: no clipping)")
    add("--class_weights", choices=("balanced",),
        help="balanced: in the losses a sample of class c weighs n / (C n_c), for n training "
             "samples, n_c of them in class c, and C classes (default: every sample weighs 1)")
    add("--label_smoothing", type=fraction, default=0.0, metavar="S",
        help="share of a label that is spread over all classes, in [0, 1) (default: none)")
    add("--modality_dropout", type=fraction, default=0.0, metavar="P",
        help="in training each sample loses each modality with probability P, in [0, 1), and never "
             "all of them (default: none)")
    add("--spec_augment", nargs="?", type=fraction, const=0.2, default=0.0, metavar="SHARE",
        help="in training mask two bands of frequencies and two stretches of time in every "
             "spectrogram, each at most SHARE of its axis wide, in [0, 1); without SHARE 0.2 "
             "(default: none)")
    add("--random_seed", type=seed, default=0, metavar="SEED",
        help="seed of all that is drawn, such as initial weights, order of batches and crops, "
             "0 to 4294967295 (default: %(default)s)")

    group = parser.add_argument_group("where to run")
    add_device_flags(group)
    add = group.add_argument
    add("--precision", choices=("fp32", "bf16"), default="fp32",
        help="bf16 runs forward passes under autocast (default: %(default)s)")
    add("--compile", action="store_true", help="compile the model with torch.compile")
    add("--workers", type=non_negative(int), metavar="N",
        help="processes that load data, >= 0, beside each process that trains; the samples are the "
             "same with any number (default: 0, or the dataset's)")
    add("--sync_bn", action="store_true",
        help="with several processes, take BatchNorm's statistics over the whole batch; CUDA only")
    add("--deterministic", action="store_true",
        help="use deterministic algorithms only; slower on a GPU")

    add = parser.add_argument_group("what a run writes").add_argument
    add("--out", "--ckpt_path", type=Path, metavar="DIR",
        help="the run's folder (default: runs/DATASET-METHOD-sSEED-TIME)")
    add("--resume", action="store_true", help="go on after the last whole epoch in --out")
    add("--select", choices=("best-val", "last", "best-test"), default="best-val",
        help="which epoch's test accuracy is the result; best-test picks it on the test split, as "
             "the original did (default: %(default)s)")
    add("--select_by", choices=MEASURES, default="accuracy",
        help="the score of the joint prediction that decides which epoch is best, for best.pt and "
             "--select (default: %(default)s)")
    add("--limit_batches", type=positive(int), metavar="N",
        help="use only the first N batches, >= 1, in training and in evaluation (default: all)")
    add("--max_skipped", type=non_negative(int), default=10, metavar="N",
        help="stop after more than N non-finite steps in a row, >= 0 (default: %(default)s)")
    add("--use_tensorboard", action="store_true", help="write TensorBoard's event files")
    add("--use_wandb", action="store_true",
        help="send the same numbers to Weights & Biases; WANDB_MODE=offline only writes them")
    add("--tensorboard_path", type=Path, metavar="DIR",
        help="where to write them (default: tensorboard in the run's folder)")
    # fmt: on
    return parser


def add_device_flags(parser) -> None:
    # fmt: off
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto",
        help="where to compute (default: %(default)s, a GPU if there is a usable one)")
    parser.add_argument("--gpu_ids", metavar="ID",
        help="which GPU, from 0 (default: the current one)")
    # fmt: on


def help_text(chosen: Namespace | None = None) -> str:
    """Return the help of the general flags, then of the chosen parts, or of every part."""
    parts = [
        part_parser(registry, name).format_help()
        for registry in WITH_FLAGS
        for name in ([getattr(chosen, registry.kind)] if chosen else registry)
    ]
    return "\n".join([general_parser().format_help(), *filter(None, parts)])


def part_parser(registry: Registry, name: str) -> ArgumentParser:
    """Return a parser of one part's own flags; without flags its help is empty."""
    parser = ArgumentParser(usage=SUPPRESS, add_help=False, formatter_class=PartHelp)
    chosen = getattr(registry[name], "defaults", {})  # a dataset's
    defaults = "its defaults: " + " ".join(f"--{flag} {value}" for flag, value in chosen.items())
    title = f"with --{registry.kind} {name}"
    group = parser.add_argument_group(title, defaults if chosen else None)
    registry[name].add_flags(group)
    return parser


def explain_foreign(word: str) -> str:
    """Return the error about a word that is no flag of the chosen parts."""
    flag = word.split("=")[0]
    owners = [
        f"--{registry.kind} {name}"
        for registry in WITH_FLAGS
        for name in registry
        if flag.startswith("-") and flag in part_parser(registry, name).format_help().split()
    ]
    if owners and flag.lstrip("-") not in ELSEWHERE:
        return f"{flag} acts only with {' or '.join(owners)}: choose that, or drop {flag}"
    return explain_unknown(word, help_text())
