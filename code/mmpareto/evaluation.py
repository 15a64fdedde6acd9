"""Accuracy and macro-F1 of the joint prediction and of every modality's own."""

from collections.abc import Callable, Iterable
from itertools import islice

import torch
from sklearn.metrics import accuracy_score, f1_score
from tqdm import tqdm

from .data import to_device
from .fusions.base import Fusion, Output


def evaluate(
    model: Fusion,
    forward: Callable[[dict], Output],
    batches: Iterable,
    device: torch.device,
    limit: int | None = None,
) -> dict[str, float]:
    """Scores in [0, 1] over all batches (the first limit ones): Acc, Acc_MODALITY, F1, F1_MODALITY.

    F1 is macro-averaged over the classes that occur, in truth or in prediction.
    """
    predictions, targets = predict(model, forward, batches, device, limit)
    scores = {f"Acc{suffix}": accuracy_score(targets, p) for suffix, p in predictions.items()}
    scores |= {
        f"F1{suffix}": f1_score(targets, p, average="macro") for suffix, p in predictions.items()
    }
    return {name: float(score) for name, score in scores.items()}


def predict(model, forward, batches, device, limit=None) -> tuple[dict[str, list], list]:
    """Predicted classes of the joint head ("") and of each modality ("_NAME"), and the targets."""
    rows, total = [], min(len(batches), limit or len(batches))
    model.eval()
    with torch.inference_mode():
        bar = tqdm(batches, "evaluate", total, leave=False, disable=None)
        for inputs, targets in islice(bar, total):
            output = forward(to_device(inputs, device))
            logits = {"": output.joint} | {f"_{name}": u for name, u in output.unimodal.items()}
            rows.append({name: u.argmax(1) for name, u in logits.items()} | {"targets": targets})
    columns = {name: torch.cat([row[name] for row in rows]).tolist() for name in rows[0]}
    return columns, columns.pop("targets")
