"""What a modality is worth to a model: its share of the joint accuracy, and its features."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from functools import reduce
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.batches import Loader
from ..data.samples import Split
from ..models import predict
from ..models.fusions.base import Fusion
from ..models.shapley import Coalition, coalitions, shapley
from ..system.errors import UserError
from ..system.writing import write_atomically
from .corruption import Changed, zeros
from .scores import JOINT, evaluate

TOGETHER = "all together"  # no modality can have this name
C, ITERATIONS = 1.0, 1000  # of a probe: the inverse strength of its L2 penalty, steps of L-BFGS


class Contribution(NamedTuple):
    """Accuracies of the joint prediction, in [0, 1]; of several tasks, their means."""

    accuracy: dict[Coalition, float]  # with these modalities alone
    added: dict[str, float]  # Shapley values: what each modality adds, from -1 to 1

    @property
    def imbalance(self) -> float:
        return max(self.added.values()) - min(self.added.values())


def contribution(
    model: Fusion,
    split: Split,
    modalities: Iterable[str],
    device: torch.device,
    load: Callable[[Split], Loader],
    masked: bool = False,
) -> Contribution:
    """Return what each of N modalities adds to the joint accuracy, after 2^N - 1 evaluations.

    Absent modalities are at zero as the model reads them. If masked, samples lack them instead, as
    in training on missing modalities. The empty coalition has the accuracy of the best guess
    without any input: the share of the commonest class. (A model whose inputs are all zero also
    says one class of every sample, but which one is chance.) If masked, samples that lack a whole
    coalition count by that guess, too. load makes batches of a split, as `loader` does.
    """
    names = list(modalities)
    accuracy = {frozenset(): best_guess(split.targets)}
    for present in tqdm(coalitions(names), "contribution", leave=False, disable=None):
        if masked:
            kept = [name in present for name in names]
            accuracy[present] = masked_accuracy(model, split, kept, device, load)
            continue
        absent = [name for name in names if name not in present]
        part = reduce(lambda part, name: Changed(part, name, zeros), absent, split)
        accuracy[present] = evaluate(model, load(part), device)[0][JOINT].Acc
    return Contribution(accuracy, shapley(names, accuracy))


def masked_accuracy(
    model: Fusion, split: Split, kept: list[bool], device: torch.device,
    load: Callable[[Split], Loader],
) -> float:  # fmt: skip
    """Return the accuracy of the joint prediction if samples have the kept modalities only.

    The guess for samples that have none of these is the split's commonest class; targets are (n,).
    """
    every = torch.ones(len(split), len(kept), dtype=torch.bool)
    table = (every if split.present is None else split.present) & torch.tensor(kept)
    rows = table.any(1)
    part = copy(split.subset(rows.nonzero().squeeze(1).tolist()))
    part.present = table[rows]
    right = [split.targets[~rows] == split.targets.bincount().argmax()]
    for output, targets in predict.outputs(model, load(part), device):
        right.append(output.logits[JOINT].argmax(1).cpu() == targets)
    return torch.cat(right).double().mean().item()


def best_guess(targets: Tensor) -> float:
    """Return the share of the commonest class; targets (n,), or (n, tasks) for their mean."""
    return fmean(np.bincount(c).max() / len(targets) for c in _columns(targets.numpy()))


class Features(NamedTuple):
    """What the encoders make of n samples."""

    of: dict[str, np.ndarray]  # {modality, or task: float32 (n, d)}
    targets: np.ndarray  # int64 (n,), or (n, tasks)


def features(model: Fusion, batches: Loader, device: torch.device) -> Features:
    """Return the features of all batches; UserError if they are not finite."""
    every, targets = predict.features(model, batches, device)
    found = {name: z.float().numpy() for name, z in every.items()}
    if bad := [name for name, values in found.items() if not np.isfinite(values).all()]:
        raise UserError(
            f"evaluation: features are not finite ({', '.join(bad)}): their inputs, or the "
            "model's weights, are NaN or too large: check the data (code/verify.py DIR --full)"
        )
    return Features(found, targets.numpy())


def write_features(
    path: Path, found: Features, ids: list[str], classes: list[str], tasks: Sequence[str],
    having: dict[str, list[bool]],
) -> None:  # fmt: skip
    """Write arrays that numpy.load reads without pickle.

    features_NAME float32 (n, d) of each modality or task, targets int64 (n,) or (n, tasks), ids
    (n,) and classes (C,) as text; of several tasks also tasks (tasks,), their names. having says
    which samples have a modality; the features of the others are NaN.
    """
    arrays: dict[str, Any] = {f"features_{name}": values for name, values in found.of.items()}
    for name, own in having.items():
        arrays[f"features_{name}"][~np.array(own)] = np.nan
    arrays |= {"targets": found.targets, "ids": np.array(ids), "classes": np.array(classes)}
    arrays |= {"tasks": np.array(tasks)} if tasks else {}
    write_atomically(path, lambda file: np.savez(file, **arrays))


class Probe(NamedTuple):
    """How well a linear classifier reads the class from features."""

    width: int  # of the features
    accuracy: list[float]  # in [0, 1], or of each task
    converged: bool  # within ITERATIONS


def linear_probes(fitted: Features, scored: Features) -> dict[str, Probe]:
    """Return the probe of each modality's features, and that of all of them joined.

    Features are standardised by the mean and deviation of the fitted samples. The probe is a
    logistic regression with an L2 penalty; nothing in it is drawn at random.
    """
    own = {name: (values, scored.of[name]) for name, values in fitted.of.items()}
    if len(own) > 1:
        ours, theirs = zip(*own.values(), strict=True)
        own[TOGETHER] = np.concatenate(ours, axis=1), np.concatenate(theirs, axis=1)
    return {
        name: _probe(x, fitted.targets, z, scored.targets)
        for name, (x, z) in tqdm(own.items(), "linear probes", leave=False, disable=None)
    }


def _probe(x: np.ndarray, targets: np.ndarray, z: np.ndarray, truth: np.ndarray) -> Probe:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scale = StandardScaler().fit(x.astype(np.float64))
    accuracy, converged = [], True
    for labels, right in zip(_columns(targets), _columns(truth), strict=True):
        classifier = LogisticRegression(C=C, max_iter=ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.fit(scale.transform(x.astype(np.float64)), labels)
        converged &= bool(classifier.n_iter_.max() < ITERATIONS)
        chosen = classifier.predict(scale.transform(z.astype(np.float64)))
        accuracy.append(float((chosen == right).mean()))
    return Probe(x.shape[1], accuracy, converged)


def check_probes(fitted: Tensor, scored: Tensor, classes: list[str], part: str) -> None:
    """Raise UserError if a probe cannot learn a class that it is asked for.

    fitted and scored are the targets of the training split and of part.
    """
    for labels, asked in zip(_columns(fitted.numpy()), _columns(scored.numpy()), strict=True):
        known = set(labels.tolist())
        if missing := sorted(set(asked.tolist()) - known):
            raise UserError(
                f"--linear_probe: {part} has class {classes[missing[0]]!r}, of which the training "
                "split has no sample: drop --linear_probe, or a --limit_batches that is too low"
            )
        if len(known) < 2:
            raise UserError(
                f"--linear_probe: all samples of the training split have class "
                f"{classes[known.pop()]!r}, two classes are needed: drop --linear_probe"
            )


def _columns(targets: np.ndarray) -> np.ndarray:
    """Return (tasks, n), or (1, n) of targets (n,)."""
    return targets.reshape(len(targets), -1).T
