"""CMU-MOSI and CMU-MOSEI: sentiment from the words, voice and face of a speaker, as features."""

import re
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..data.clips import Clip, Problem, Raw, Source, check_media, files_below
from ..data.samples import Data
from ..system import pickled
from ..system.errors import UserError, reason
from .shared.prepared import Prepared

PARTS = {"train": "train", "valid": "val", "test": "test"}  # as the pickles call them, as we do
MODALITIES = ("text", "audio", "vision")
# name: its classes, and the number of the class of a score in [-3, 3], or None: no sample
LABELS: dict[str, tuple[tuple[str, ...], Callable[[float], int | None]]] = {
    "nonnegative": (("negative", "nonnegative"), lambda score: int(score >= 0)),
    "positive": (("nonpositive", "positive"), lambda score: int(score > 0)),
    "nonzero": (("negative", "positive"), lambda score: int(score > 0) if score else None),
    "seven": (("-3", "-2", "-1", "0", "1", "2", "3"), lambda score: round(score) + 3),
}
# How the pickles mark an utterance of a video: VIDEO[3] and VIDEO$_$3
UTTERANCE = re.compile(r"(.+?)(?:\[(\w+)\]|\$_\$(\w+))")


class Sentiment(Prepared):
    """A pickle {train, valid, test: {text, audio, vision, labels, id}} of features."""

    recipes = {}
    stills = None
    samples: ClassVar[int]  # published

    @classmethod
    def add_prepare_flags(cls, parser: ArgumentParser) -> None:
        super().add_prepare_flags(parser)
        # fmt: off
        parser.add_argument("--labels", choices=LABELS, default="nonnegative",
            help="classes of the scores from -3 to 3: score >= 0 or not, score > 0 or not, score "
                 "> 0 or < 0 without samples of score 0, or the score rounded to one of seven "
                 "(default: %(default)s)")
        # fmt: on

    @classmethod
    def collect(cls, flags: Namespace) -> Raw:
        path = _find(flags.raw, cls.hint)
        check_media([path], cls.hint)
        parts = _parts(path, pickled.read(path))
        ids, groups = _ids(parts)
        if len(ids) > cls.samples:
            raise UserError(
                f"{path}: {len(ids)} samples found, {cls.name} has at most {cls.samples}: is it "
                "the file of another set?"
            )
        scores = [score for part in parts for score in _scores(path, part, parts[part])]
        owners = [part for part in parts for _ in range(len(parts[part]["text"]))]
        classes, choose = LABELS[flags.labels]
        notes = [
            f"{len(ids)} samples of {cls.samples} published, {len({*groups} - {''})} videos",
            f"labels: {flags.labels}, {_counts(scores)}",
        ]
        left_out, sources, doubts = {}, {}, {id: [] for id in ids}
        for name in MODALITIES:
            values, steps, replaced, told = _modality(path, name, parts)
            notes.append(f"{name}: {told}")
            sources[name] = values
            for id, length, count in zip(ids, steps, replaced, strict=True):
                if not length:
                    left_out.setdefault(id, Problem(name, "empty", "all its numbers are 0"))
                if count:
                    found = f"{count} numbers NaN or infinite, replaced by training means"
                    doubts[id].append(Problem(name, "not_finite", found))
        lengths = {name: len(values[0]) for name, values in sources.items() if values.ndim == 3}
        clips, listed = [], {}
        for row, (id, group, score) in enumerate(zip(ids, groups, scores, strict=True)):
            number = choose(score) if np.isfinite(score) else None
            if number is None:
                left_out.setdefault(id, Problem("", "no_class", f"score {score:g}"))
            if id in left_out:
                continue
            listed[id] = PARTS[owners[row]], classes[number]
            found = {
                name: Source("array", path, row, lengths.get(name), values=values)
                for name, values in sources.items()
            }
            clips.append(Clip(id, classes[number], group, found, tuple(doubts[id])))
        if left_out:
            reasons = Counter(f"{p.modality} {p.reason}".strip() for p in left_out.values())
            told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            notes.append(f"left out: {told}; see problems.csv")
        return Raw(
            cls.name, cls.hint, list(classes), dict.fromkeys(MODALITIES, "array"), clips, left_out,
            {"published": listed}, notes=notes, lengths=lengths,
            recipe={"labels": flags.labels}, is_whole=True,
        )  # fmt: skip

    @classmethod
    def load(cls, flags: Namespace) -> Data:
        data = super().load(flags)
        labels = f"Labels   {data.recipe['labels']}: {', '.join(data.classes)}"
        return data._replace(notes=(labels, *data.notes))


class MOSI(Sentiment):
    """2,199 utterances of 93 videos of opinions, with the published parts."""

    name = "mosi"
    hint = "data/mosi/README.md says where the features are"
    samples = 2199


class MOSEI(Sentiment):
    """About 22,800 utterances of videos of opinions, with the published parts."""

    name = "mosei"
    hint = "data/mosei/README.md says where the features are"
    samples = 23453


def _find(raw: Path, hint: str) -> Path:
    """Return the pickle that is raw, or that lies in it."""
    if raw.is_dir():
        found = list(files_below(raw, ".pkl", ".pickle"))
        if len(found) != 1:
            names = ", ".join(str(path.relative_to(raw)) for path in found[:5]) or "none"
            raise UserError(
                f"--raw {raw}: {len(found)} pickles found in it ({names}), one expected: give "
                f"--raw FILE.pkl; {hint}"
            )
        return found[0]
    if not raw.is_file():
        raise UserError(f"--raw {raw}: no such file or folder: {hint}")
    return raw


def _parts(path: Path, content: Any) -> dict[str, dict[str, Any]]:
    """Return {part: {text, audio, vision: numbers (n, ...), ...}}; UserError for another layout."""
    keys = list(content) if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or not content.keys() >= PARTS.keys():
        raise UserError(f"{path}: {_short(keys)} found, a dict of {', '.join(PARTS)} expected")
    parts = {part: content.pop(part) for part in PARTS}
    for part, fields in parts.items():
        keys = list(fields) if isinstance(fields, dict) else type(fields).__name__
        if not isinstance(fields, dict) or not fields.keys() >= {*MODALITIES}:
            wanted = ", ".join(MODALITIES)
            raise UserError(f"{path}: {part}: {_short(keys)} found, a dict of {wanted} expected")
        for name in MODALITIES:
            values = _array(path, f"{part}, {name}", fields[name])
            if values.ndim not in (2, 3) or not values.size:
                raise UserError(
                    f"{path}: {part}, {name}: shape {values.shape} found, (samples, time, "
                    "features) or (samples, features) expected"
                )
            fields[name] = values
        counts = {name: len(fields[name]) for name in MODALITIES}
        if len(set(counts.values())) > 1:
            raise UserError(f"{path}: {part}: {counts} samples found, the same number expected")
    return parts


def _short(keys: Any) -> str:
    return str(keys)[:100]


def _array(path: Path, where: str, values: Any) -> np.ndarray:
    try:
        found = np.asarray(values)
        if found.dtype.kind not in "fiub":
            found = found.astype(np.float64)  # an array of arrays
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {where}: no array of numbers ({reason(error)})") from None
    return found


def _scores(path: Path, part: str, fields: dict[str, Any]) -> list[float]:
    """Return the sentiment of each sample of a part, in [-3, 3]."""
    key = next((key for key in ("regression_labels", "labels") if key in fields), None)
    if key is None:
        raise UserError(f"{path}: {part}: {_short(list(fields))} found, labels expected")
    found, count = _array(path, f"{part}, {key}", fields[key]), len(fields["text"])
    if found.size != count or np.abs(found[np.isfinite(found)]).max(initial=0) > 3:
        raise UserError(
            f"{path}: {part}, {key}: shape {found.shape} found, from {found.min():g} to "
            f"{found.max():g}: one score from -3 to 3 expected for each of {count} samples"
        )
    return found.reshape(-1).tolist()


def _counts(scores: list[float]) -> str:
    signs = Counter(np.sign(scores).tolist())
    return f"{signs[-1]} scores below 0, {signs[0]} of 0, {signs[1]} above"


def _ids(parts: dict[str, dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Return an id for each sample, and its video: "" if the file does not tell it.

    The field id has a row of text for each sample: VIDEO[K], VIDEO$_$K, or VIDEO, start, end.
    """
    ids, groups = [], []
    for part, fields in parts.items():
        count = len(fields["text"])
        found = fields.get("id", [])
        for number, row in enumerate(found if len(found) == count else [()] * count):
            words = np.ravel(row).tolist() if not isinstance(row, (str, bytes)) else [row]
            texts = [w.decode("latin1") if isinstance(w, bytes) else str(w) for w in words]
            match = UTTERANCE.fullmatch(texts[0]) if texts else None
            video = match[1] if match else texts[0] if texts else ""
            name = "_".join([video, *filter(None, match.groups()[1:])] if match else texts)
            ids.append(re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:100] or f"{part}_{number}")
            groups.append(video)
    twice = {id for id, count in Counter(id.lower() for id in ids).items() if count > 1}
    return [f"{id}.{i}" if id.lower() in twice else id for i, id in enumerate(ids)], groups


def _modality(
    path: Path, name: str, parts: dict[str, dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Take one modality out of all parts.

    Returns numbers (samples, time, features), or (samples, features), with each sample's steps
    first and NaN behind them; how many steps each sample has; how many of its numbers were not
    finite, and are the mean of training now; and a note.
    """
    arrays = [parts[part][name] for part in parts]
    shape = arrays[0].shape[1:]
    if any(len(a.shape[1:]) != len(shape) or a.shape[-1] != shape[-1] for a in arrays):
        found = ", ".join(f"{part} {a.shape}" for part, a in zip(parts, arrays, strict=True))
        raise UserError(f"{path}: {name}: shapes {found} found, as many features in all expected")
    is_vector = len(shape) == 1
    steps = 1 if is_vector else max(a.shape[1] for a in arrays)
    values = np.full((sum(map(len, arrays)), steps, shape[-1]), np.nan, np.float32)
    lengths, sides, start = [], set(), 0
    for fields, array in zip(parts.values(), arrays, strict=True):
        array = array[:, None] if is_vector else array
        known, is_front = _lengths(array, _told(name, fields, array))
        sides.add("front" if is_front else "back")
        for row, length, target in zip(array, known, values[start:], strict=False):
            target[:length] = row[len(row) - length :] if is_front else row[:length]
        lengths += known.tolist()
        start += len(array)
        fields[name] = array[:, :0]  # the memory is free from here on
    found = np.array(lengths)
    replaced = _fill(values, found, len(arrays[0]))
    told = f"{shape[-1]} features"
    if not is_vector and found.min() < steps:
        told += f", {found.min()} to {found.max()} of {steps} steps"
        told += f", padded at the {' and '.join(sorted(sides))}"
    if replaced.any():
        told += f"; {replaced.sum()} numbers in {np.count_nonzero(replaced)} samples not finite"
    return values[:, 0] if is_vector else values, found, replaced, told


def _told(name: str, fields: dict[str, Any], values: np.ndarray) -> np.ndarray | None:
    """Return the lengths that the file tells, or None: of the words, those of BERT's mask."""
    told = fields.get(f"{name}_lengths")
    if told is None and name == "text" and np.ndim(bert := fields.get("text_bert")) == 3:
        told = np.asarray(bert)[:, 1].sum(1)
    if told is None or len(told) != len(values):
        return None
    return np.clip(np.asarray(told).reshape(-1).astype(np.int64), 0, values.shape[1])


def _lengths(values: np.ndarray, told: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """Return the number of steps of each sample (n,), and whether padding comes before them.

    Padding is a run of steps that are all 0, at the end that is 0 in more samples; lengths that
    the file tells go first.
    """
    filled, steps = values.any(2), values.shape[1]
    is_front = bool((~filled[:, 0]).sum() > (~filled[:, -1]).sum())
    seen = filled if is_front else filled[:, ::-1]
    found = np.where(filled.any(1), steps - seen.argmax(1), 0)
    return (found if told is None else np.where(filled.any(1), told, 0)), is_front


def _fill(values: np.ndarray, lengths: np.ndarray, train: int) -> np.ndarray:
    """Put a feature's mean over training in the place of what is not finite; return counts (n,)."""
    sums, counts = np.zeros((2, values.shape[2]))
    for row, length in zip(values[:train], lengths, strict=False):
        is_good = np.isfinite(row[:length])
        sums += np.where(is_good, row[:length], 0).sum(0, dtype=np.float64)
        counts += is_good.sum(0)
    means = sums / np.maximum(counts, 1)
    replaced = np.zeros(len(values), np.int64)
    for number, length in enumerate(lengths):
        row = values[number, :length]
        is_bad = ~np.isfinite(row)
        replaced[number] = is_bad.sum()
        row[is_bad] = np.broadcast_to(means, row.shape)[is_bad]
    return replaced
