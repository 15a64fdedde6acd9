"""Predictions of a model and their scores: the joint prediction and every modality's own.

A name is "joint", a modality's or a task's.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import compress
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import distributed
from ..data.batches import Loader
from ..models.fusions.base import Fusion, own_targets
from ..models.predict import joined, outputs
from ..system.errors import Diverged, UserError
from ..system.tables import quote_formula, write_table

JOINT = "joint"
Named = dict[str, list]  # {name: one prediction, target or loss for each sample}


class Score(NamedTuple):
    """Scores of one prediction, in [0, 1]; F1 is the mean over classes that occur anywhere."""

    Acc: float
    F1: float


# {"joint": ..., modality or task: ...}; for several tasks, "joint" is the mean over the tasks.
Scores = dict[str, Score]


class Predicted(NamedTuple):
    """What a model says of n samples, those that have the modality; C classes."""

    predictions: Named  # class numbers
    targets: Named
    logits: dict[str, np.ndarray]  # float32 (n, C), all finite but for some -inf
    losses: Named  # cross-entropies

    @property
    def probabilities(self) -> dict[str, np.ndarray]:
        """Return {name: (n, C)}, in float64: in float32 those near 1 would be equal."""
        return {
            name: torch.tensor(u).double().softmax(1).numpy() for name, u in self.logits.items()
        }


def column(kind: str, name: str) -> str:
    """Return the column name of a score: Acc for the joint prediction, else Acc_NAME."""
    return kind if name == JOINT else f"{kind}_{name}"


def columns(scores: Scores) -> dict[str, float]:
    """Return {column: score}, all accuracies first."""
    return {
        column(kind, name): getattr(score, kind)
        for kind in Score._fields
        for name, score in scores.items()
    }


def evaluate(
    model: Fusion, batches: Loader, device: torch.device, limit: int | None = None
) -> tuple[Scores, float]:
    """Return the scores, and the joint loss, over all batches or over the first limit ones."""
    predictions, targets, _, losses = predict(model, batches, device, limit)
    joint = [losses[JOINT]] if JOINT in losses else losses.values()  # as the accuracy: a mean
    return score(predictions, targets), fmean(map(fmean, joint))


def score(predictions: Named, targets: Named) -> Scores:
    """Return the scores of `evaluate` from what `predict` returns."""
    own = {}
    for name, p in predictions.items():
        truth, found = np.array(targets[name]), np.array(p)
        is_right = truth == found
        seen = np.bincount(np.concatenate([truth, found]))  # in truth and predictions together
        right = np.bincount(truth[is_right], minlength=len(seen))
        f1 = 2 * right[seen > 0] / seen[seen > 0]
        own[name] = Score(float(is_right.mean()), float(f1.mean()))
    return _with_joint(own, Score)


class Ranking(NamedTuple):
    """Scores of one prediction's probabilities: means over the classes that have samples.

    NaN if undefined: where all samples are of one class, no order of samples is better.
    """

    balanced: float  # balanced accuracy: the mean recall
    AUROC: float  # of each class against the rest
    mAP: float  # mean average precision, of each class against the rest


def ranking(predicted: Predicted) -> dict[str, Ranking]:
    """Return the scores of each prediction, named as `score` names them."""
    from sklearn import metrics

    own = {}
    for name, chances in predicted.probabilities.items():
        truth = np.array(predicted.targets[name])
        classes = np.unique(truth)
        chosen = predicted.predictions[name]
        recall = metrics.recall_score(truth, chosen, labels=classes, average="macro")
        area, precision = np.nan, np.nan
        if len(classes) > 1:
            is_of, own_chances = truth[:, None] == classes, chances[:, classes]
            area = metrics.roc_auc_score(is_of, own_chances, average="macro")
            precision = metrics.average_precision_score(is_of, own_chances, average="macro")
        own[name] = Ranking(*map(float, (recall, area, precision)))
    return _with_joint(own, Ranking)


def _with_joint(own: dict[str, Any], kind: type) -> dict[str, Any]:
    """Return own, begun by the joint prediction's scores; of several tasks, by their means."""
    means = (sum(values) / len(own) for values in zip(*own.values(), strict=True))
    return {JOINT: kind(*means), **own}


class PerClass(NamedTuple):
    """One number for each class, arrays (C,); NaN if undefined."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    samples: np.ndarray  # of the class, in truth


def per_class(predictions: Named, targets: Named, classes: int) -> dict[str, PerClass]:
    """Return the scores of each prediction on each class, also on classes without samples."""
    from sklearn import metrics  # here: training does without, and it takes a second

    every: dict[str, Any] = {"labels": range(classes), "zero_division": np.nan}
    return {
        name: PerClass(
            *map(np.asarray, metrics.precision_recall_fscore_support(targets[name], p, **every))
        )
        for name, p in predictions.items()
    }


def confusion(predictions: Named, targets: Named, classes: int) -> dict[str, np.ndarray]:
    """Return {name: counts (C, C)}: a row for each true class, a column for each predicted one."""
    from sklearn import metrics

    return {
        name: metrics.confusion_matrix(targets[name], p, labels=range(classes))
        for name, p in predictions.items()
    }


def predict(
    model: Fusion, batches: Loader, device: torch.device, limit: int | None = None
) -> Predicted:
    """Return predictions, targets, logits and losses of all batches, or of the first limit ones.

    Diverged if a prediction is not finite: NaN has no largest class.
    """
    predictions, truths, every, losses = [], [], [], []
    for output, targets in outputs(model, batches, device, limit):
        every.append({name: output.having(name, u) for name, u in output.logits.items()})
        truth = own_targets(targets.to(device), output.logits)
        truths.append({name: output.having(name, y) for name, y in truth.items()})
        predictions.append({name: u.argmax(1) for name, u in every[-1].items()})
        losses.append({
            name: F.cross_entropy(u.float(), truths[-1][name], reduction="none")
            for name, u in every[-1].items()
        })  # fmt: skip
    found = Predicted(joined(predictions), joined(truths), stacked(every), joined(losses))
    if empty := [name for name, own in found.predictions.items() if not own]:
        raise UserError(
            f"evaluation: not one of these samples has {' or '.join(empty)}: take more samples, "
            "with a higher --limit_batches"
        )
    is_bad = {name: ~np.isfinite(u.max(1)) for name, u in found.logits.items()}
    if bad := {name: int(marks.sum()) for name, marks in is_bad.items() if marks.any()}:
        total = len(is_bad[min(bad)])
        raise Diverged(
            f"evaluation: predictions are not finite ({', '.join(bad)}; up to {max(bad.values())} "
            f"of {total} samples): their inputs, or the model's weights, are NaN or too large: "
            "check the data (code/verify.py DIR --full), or lower --learning_rate"
        )
    return found


class Pattern(NamedTuple):
    """The samples that have the same modalities."""

    modalities: list[str]
    samples: int
    accuracy: dict[str, float]  # of the joint prediction and of these modalities' own heads


def by_pattern(predicted: Predicted, having: dict[str, list[bool]]) -> list[Pattern]:
    """Return the patterns of modalities that samples have, the commonest first.

    having: {modality: which of n samples have it}.
    """
    rows = [*zip(*having.values(), strict=True)]
    found = []
    for pattern, samples in Counter(rows).most_common():
        is_own = np.array([row == pattern for row in rows])
        modalities, accuracy = [*compress(having, pattern)], {}
        for name in (JOINT, *modalities):
            right = np.equal(predicted.predictions[name], predicted.targets[name])
            accuracy[name] = float(right[is_own[having.get(name, slice(None))]].mean())
        found.append(Pattern(modalities, samples, accuracy))
    return found


def stacked(rows: list[dict[str, Tensor]]) -> dict[str, np.ndarray]:
    """Join rows of matrices (B, C) into one (n, C) for each name, in the order of `joined`."""
    own = [{name: u.float().cpu().numpy() for name, u in row.items()} for row in rows]
    every = distributed.joined_lists(own)
    return {name: np.concatenate([row[name] for row in every]) for name in every[0]}


def write_predictions(
    path: Path, ids: list[str], classes: list[str], predicted: Predicted,
    having: dict[str, list[bool]],
) -> None:  # fmt: skip
    """Write one row for each sample: id, label, and each prediction with its probability.

    In a multi-task model every task has its own label. Text passes `tables.quote_formula`. having
    says which samples have a modality; the cells of the others are empty.
    """

    def every(name: str, cells: Iterable[str]) -> list[str]:
        own = iter(cells)
        return [next(own) if there else "" for there in having.get(name, [True] * len(ids))]

    (predictions, targets), probabilities = predicted[:2], predicted.probabilities
    names = [quote_formula(name) for name in classes]
    columns = {"id": [quote_formula(id) for id in ids]}
    for name in [JOINT] if JOINT in predictions else predictions:
        columns[column("label", name)] = [names[i] for i in targets[name]]
    for name, values in predictions.items():
        columns[column("prediction", name)] = every(name, (names[i] for i in values))
        highest = probabilities[name].max(1)
        columns[column("probability", name)] = every(name, (f"{p:.6f}" for p in highest))
    rows = zip(*columns.values(), strict=True)
    write_table(path, list(columns), (dict(zip(columns, row, strict=True)) for row in rows))
