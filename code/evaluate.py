"""Score a checkpoint: the joint prediction, and that of every modality's own head.

python code/evaluate.py runs/RUN/best.pt
python code/evaluate.py runs/RUN/best.pt --part val --data_root DIR
python code/evaluate.py runs/RUN/best.pt --per_class --robustness --predictions FILE.csv
"""

from mmpareto.system import entry

import os
from argparse import Namespace
from functools import partial
from math import isnan
from pathlib import Path

from mmpareto.data.batches import loader
from mmpareto.data.samples import Data
from mmpareto.run import checkpoint, corruption, report, worth
from mmpareto.run import scores as evaluation
from mmpareto.run.parsers import add_device_flags
from mmpareto.run.scores import column
from mmpareto.system.errors import UserError
from mmpareto.system.flags import Parser, comma_separated, non_negative, positive, seed
from mmpareto.system.paths import clear_errors

WIDTH = 80  # of the console; a table with more columns is wider


def main(arguments: list[str]) -> None:
    flags = parser().parse_args(arguments)
    check(flags)
    found = checkpoint.load(flags.checkpoint, flags)
    data, own, size = found.data, found.flags, len(found.part(flags.part))
    batch_size = flags.batch_size or own.batch_size
    limit = flags.limit_batches and flags.limit_batches * batch_size
    split, train = (
        part.subset(range(limit)) if limit and limit < len(part) else part
        for part in (found.part(flags.part), found.part("train"))
    )
    if flags.linear_probe:
        if any(part.present is not None for part in (train, split)):
            raise UserError(
                f"--linear_probe: samples of {data.name} lack modalities, and a probe needs the "
                "features of all: drop --linear_probe"
            )
        worth.check_probes(train.targets, split.targets, data.classes, flags.part)
    load = partial(loader, batches=batch_size, workers=flags.workers)
    predicted = evaluation.predict(found.model, load(split), found.device)

    print(
        f"{data.name} {flags.part}, {len(split)} of {size} samples, identity {data.identity}; "
        f"{own.method}, seed {own.random_seed}, epoch {found.epoch}"
        f"{', which was chosen on this split' if found.chosen_on == flags.part else ''}"
    )
    show_summary(predicted, data)
    having = {}  # {modality: which samples have it}
    if split.present is not None:
        having = dict(zip(data.modalities, split.present.T.tolist(), strict=True))
        show_patterns(evaluation.by_pattern(predicted, having), list(having))
    if flags.per_class:
        show_classes(evaluation.per_class(*predicted[:2], len(data.classes)), data)
    if flags.predictions:
        evaluation.write_predictions(flags.predictions, split.ids, data.classes, predicted, having)
        print(f"\nPrediction of every sample: {flags.predictions}", flush=True)
    where = data.modalities, found.device, load
    if flags.robustness:
        severities, random_seed = flags.severities or corruption.SEVERITIES, flags.random_seed or 0
        rows = corruption.robustness(found.model, split, *where, severities, random_seed)
        show_robustness(rows, data, random_seed)
    if flags.contribution:
        masked = own.modality_dropout > 0 or found.part("train").present is not None
        shares = worth.contribution(found.model, split, *where, masked)
        show_contribution(shares, list(data.modalities), masked)
    if flags.features or flags.linear_probe:
        features = worth.features(found.model, load(split), found.device)
    if flags.features:
        known = split.ids, data.classes, data.tasks
        worth.write_features(flags.features, features, *known, having)
        print(f"\nFeatures of every sample: {flags.features}", flush=True)
    if flags.linear_probe:
        fitted = worth.features(found.model, load(train), found.device)
        show_probes(worth.linear_probes(fitted, features), data, len(train), flags.part)


def parser() -> Parser:
    parser = Parser(prog="evaluate.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    # fmt: off
    add = parser.add_argument
    add("checkpoint", type=Path, help="a run's best.pt or last.pt")
    checkpoint.add_part_flag(parser, " (default: test)")
    add("--data_root", type=Path, help="folder of the data (default: the run's)")
    add("--batch_size", type=positive(int), help="samples in a batch (default: the run's)")
    add("--workers", type=non_negative(int), default=0,
        help="processes that load data (default: 0)")
    add("--limit_batches", type=positive(int), help="use only the first N batches")
    add_device_flags(parser)
    add = parser.add_argument_group("what else to show").add_argument
    add("--per_class", action="store_true",
        help="recall of every prediction on each class, and precision and F1 of the joint one")
    add("--robustness", action="store_true",
        help="accuracies with each modality in turn missing (zeros, another sample's) or corrupted "
             "(Gaussian noise; other tokens)")
    add("--severities", type=comma_separated(positive(float)), metavar="S,S",
        help="standard deviations of --robustness's noise, as multiples of the modality's own in "
             "the split (default: 0.5,1,2)")
    add("--random_seed", type=seed, metavar="SEED",
        help="seed of --robustness's random draws, 0 to 4294967295 (default: 0)")
    add("--contribution", action="store_true",
        help="what each of N modalities adds to the joint accuracy: Shapley values, the absent "
             "modalities at zero, or masked if training had missing modalities; 2^N - 1 more "
             "evaluations")
    add("--linear_probe", action="store_true",
        help="accuracy of a linear classifier on each encoder's features, and on all of them; it "
             "is fitted to the training split, and the encoders stay as they are")
    add("--predictions", type=Path, metavar="FILE.csv",
        help="write id, label, and every prediction with its probability, a row for each sample")
    add("--features", type=Path, metavar="FILE.npz",
        help="write the features of every encoder, targets, ids and classes as numpy arrays")
    # fmt: on
    return parser


def check(flags: Namespace) -> None:
    """Raise UserError for flags that would fail, or have no effect, after a long evaluation."""
    for name in ("severities", "random_seed"):
        if getattr(flags, name) is not None and not flags.robustness:
            raise UserError(
                f"--{name} acts only with --robustness: add --robustness or drop --{name}"
            )
    for name in ("predictions", "features"):
        if path := getattr(flags, name):
            check_new(path, f"--{name} {path}")
    if flags.features and flags.features == flags.predictions:
        raise UserError(f"--features and --predictions {flags.features}: give two names")


def check_new(path: Path, what: str) -> None:
    """Raise UserError unless a file can be written to path without loss."""
    with clear_errors(what):
        if path.exists():
            raise UserError(f"{what}: it exists already: give another name, or delete it")
        if not path.parent.is_dir():
            raise UserError(f"{what}: there is no folder {path.parent}: make it first")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise UserError(f"{what}: {path.parent} is not writable: give another folder")


def show_summary(predicted: evaluation.Predicted, data: Data) -> None:
    scores, ranks = evaluation.score(*predicted[:2]), evaluation.ranking(predicted)
    width = max(12, *(len(shown(name, data)) + 1 for name in scores))
    print(f"{'':{width}}{'Acc':>8}{'macro-F1':>10}{'bal. Acc':>10}{'AUROC':>8}{'mAP':>8}")
    for name, score in scores.items():
        numbers = zip((8, 10, 10, 8, 8), (*score, *ranks[name]), strict=True)
        cells = (f"{'-' if isnan(x) else f'{x:.4f}':>{size}}" for size, x in numbers)
        print(f"{shown(name, data):{width}}{''.join(cells)}", flush=True)
    for name in data.tasks or [evaluation.JOINT]:
        found = len(set(predicted.targets[name]))
        if found < len(data.classes):
            of = f" of {name}" if data.tasks else ""
            print(
                f"bal. Acc, AUROC and mAP{of}: means over the {found} of {len(data.classes)} "
                "classes that have samples"
            )


def show_patterns(found: list[evaluation.Pattern], modalities: list[str]) -> None:
    names = [evaluation.JOINT, *modalities]
    rows = [
        [
            " + ".join(pattern.modalities) + " only" * (len(pattern.modalities) == 1),
            str(pattern.samples),
            *(f"{pattern.accuracy[k]:.4f}" if k in pattern.accuracy else "-" for k in names),
        ]
        for pattern in found
    ]
    print(
        "\nAccuracy by the modalities that a sample has; all scores of a modality's own head count "
        "only\nthe samples that have it",
        report.table(["present", "samples", *names], rows, WIDTH), sep="\n", flush=True,
    )  # fmt: skip


def show_classes(found: dict[str, evaluation.PerClass], data: Data) -> None:
    """Print one table, or one for each task if the data has several tasks."""
    classes = [name if name.isprintable() else ascii(name)[1:-1] for name in data.classes]
    for group in [[name] for name in found] if data.tasks else [list(found)]:
        first = found[group[0]]
        title, names = f"Each class of {group[0]}", ["recall"]
        if not data.tasks:
            title = "Each class: precision and F1 of the joint prediction, then the recall of all"
            names = group
        columns = [classes, map(str, first.samples), rates(first.precision), rates(first.f1)]
        columns += [rates(found[name].recall) for name in group]
        headings, rows = ["class", "samples", "prec.", "F1", *names], [*zip(*columns, strict=True)]
        print(f"\n{title}", report.table(headings, rows, WIDTH), sep="\n", flush=True)


def show_robustness(rows: list[dict], data: Data, seed: int) -> None:
    names = [evaluation.JOINT, *(data.tasks or data.modalities)]
    headings = ["modality", "its input", *(shown(name, data) for name in names)]
    kinds = {row["input"].split()[0] for row in rows}
    notes = [f"{k}: {what}" for k, what in corruption.EXPLAINED.items() if k.split()[0] in kinds]
    cells = [
        [row["modality"], row["input"], *(f"{row[column('Acc', name)]:.4f}" for name in names)]
        for row in rows
    ]
    title = "Accuracy with one modality missing or corrupted, the others as they are"
    table = report.table(headings, cells, WIDTH, texts=2)
    print(f"\n{title} (seed {seed})", table, *notes, sep="\n")


def show_contribution(found: worth.Contribution, modalities: list[str], masked: bool) -> None:
    def accuracy(*present: str) -> str:
        return f"{found.accuracy[frozenset(present)]:.4f}"

    rows = [[name, accuracy(name), f"{found.added[name]:+.4f}"] for name in modalities]
    absent = "masked as in training" if masked else "at zero"
    print(
        f"\nWhat each modality adds to the joint accuracy: Shapley values, absent ones {absent}",
        report.table(["modality", "alone", "adds"], rows, WIDTH),
        f"none {accuracy()} (the share of the commonest class) + what they add = all "
        f"{accuracy(*modalities)}",
        f"imbalance {found.imbalance:.4f} (the largest less the smallest)",
        sep="\n", flush=True,
    )  # fmt: skip


def show_probes(found: dict[str, worth.Probe], data: Data, samples: int, part: str) -> None:
    rows = [
        [name, str(probe.width), *(f"{accuracy:.4f}" for accuracy in probe.accuracy)]
        for name, probe in found.items()
    ]
    print(
        f"\nLinear probes: logistic regression (C {worth.C:g}) on standardised features, fitted to "
        f"{samples} samples of train",
        report.table(["features of", "width", *(data.tasks or ["Acc"])], rows, WIDTH),
        sep="\n",
    )
    if slow := [name for name, probe in found.items() if not probe.converged]:
        print(f"not converged in {worth.ITERATIONS} iterations: {', '.join(slow)}")
    if part == "train":
        print("WARNING: scored on the samples they were fitted to: give --part val or test")


def shown(name: str, data: Data) -> str:
    return "mean" if data.tasks and name == evaluation.JOINT else name


def rates(values) -> list[str]:
    return ["-" if isnan(value) else f"{value:.3f}" for value in values]


if __name__ == "__main__":
    entry.run(main)
