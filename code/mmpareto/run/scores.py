"""What a model predicts, and how good that is: the joint prediction and every modality's own.

Predictions, targets and probabilities are {name: one value for each sample}; the joint one's name
is "", a modality's or a task's "_NAME".
"""

from collections.abc import Callable, Iterable
from functools import partial
from math import isnan
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from ..data.samples import own_targets
from ..models.fusions.base import Fusion, Output
from ..models.predict import joined, outputs
from ..system.errors import UserError
from ..system.tables import quote_formula, write_table


def evaluate(
    model: Fusion,
    forward: Callable[[dict], Output],
    batches: Iterable,
    device: torch.device,
    limit: int | None = None,
) -> dict[str, float]:
    """Scores in [0, 1] over all batches (the first limit ones): Acc, Acc_MODALITY, F1, F1_MODALITY.

    F1 is macro-averaged over the classes that occur, in truth or in prediction. Of a multi-task
    model Acc and F1 are means over the tasks.
    """
    return score(*predict(model, forward, batches, device, limit))


def score(predictions: dict[str, list], targets: dict[str, list]) -> dict[str, float]:
    """The scores of `evaluate` from what `predict` returns."""
    pairs = [(suffix, targets[suffix], p) for suffix, p in predictions.items()]
    scores = {}
    for kind, rate in (("Acc", accuracy_score), ("F1", partial(f1_score, average="macro"))):
        own = {f"{kind}{suffix}": float(rate(truth, p)) for suffix, truth, p in pairs}
        scores |= {kind: sum(own.values()) / len(own), **own}
    return scores


class PerClass(NamedTuple):
    """One number for each class, arrays (C,); NaN where there is none to be had."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    samples: np.ndarray  # of the class, in truth


def per_class(
    predictions: dict[str, list], targets: dict[str, list], classes: int
) -> dict[str, PerClass]:
    """How good each prediction is on each class, those without samples among them."""
    every = {"labels": range(classes), "zero_division": np.nan}
    return {
        name: PerClass(*precision_recall_fscore_support(targets[name], p, **every))
        for name, p in predictions.items()
    }


def confusion(
    predictions: dict[str, list], targets: dict[str, list], classes: int
) -> dict[str, np.ndarray]:
    """{name: counts (C, C)}, a row for each true class and a column for each predicted one."""
    return {
        name: confusion_matrix(targets[name], p, labels=range(classes))
        for name, p in predictions.items()
    }


def predict(model, forward, batches, device, limit=None) -> tuple[dict[str, list], ...]:
    """Predicted classes of the joint head ("") and of each modality or task ("_NAME"); targets."""
    return predict_with_probabilities(model, forward, batches, device, limit)[:2]


def predict_with_probabilities(
    model, forward, batches, device, limit=None
) -> tuple[dict[str, list], ...]:
    """What `predict` returns, and the softmax probabilities of the predicted classes.

    UserError where a prediction is not finite: the largest of NaN is no class.
    """
    predictions, truths, probabilities = [], [], []
    for output, targets in outputs(model, forward, batches, device, limit):
        logits = {} if output.joint is None else {"": output.joint}
        logits |= {f"_{name}": u for name, u in output.unimodal.items()}
        highest = {name: u.softmax(1).max(1).values for name, u in logits.items()}
        predictions.append({name: u.argmax(1) for name, u in logits.items()})
        truths.append(own_targets(targets, logits))
        probabilities.append(highest)
    found = tuple(joined(rows) for rows in (predictions, truths, probabilities))
    check_finite(found[-1])
    return found


def check_finite(probabilities: dict[str, list[float]]) -> None:
    counts = {name: sum(map(isnan, values)) for name, values in probabilities.items()}
    if bad := {name[1:] or "joint": count for name, count in counts.items() if count}:
        total = len(next(iter(probabilities.values())))
        raise UserError(
            f"evaluation: predictions are not finite ({', '.join(bad)}; up to {max(bad.values())} "
            f"of {total} samples): their inputs, or the model's weights, are NaN or too large: "
            "check the data (code/verify.py DIR --full), or lower --learning_rate"
        )


def write_predictions(
    path: Path,
    ids: list[str],
    classes: list[str],
    predictions: dict[str, list],
    targets: dict[str, list],
    probabilities: dict[str, list],
) -> None:
    """One row for each sample: id, label, prediction and probability, of all predictions.

    Of a multi-task model every task has its label. Text is as `tables.quote_formula` puts it.
    """
    labels = {name: targets[name] for name in ([""] if "" in predictions else predictions)}
    columns = {"id": [quote_formula(id) for id in ids]}
    names = [quote_formula(name) for name in classes]
    columns |= {f"label{name}": [names[i] for i in values] for name, values in labels.items()}
    for name, values in predictions.items():
        columns[f"prediction{name}"] = [names[i] for i in values]
        columns[f"probability{name}"] = [f"{p:.6f}" for p in probabilities[name]]
    rows = zip(*columns.values(), strict=True)
    write_table(path, list(columns), (dict(zip(columns, row, strict=True)) for row in rows))
