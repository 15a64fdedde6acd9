"""avmnist_clean: AV-MNIST made anew from MNIST and spoken digits, with sound and label in step."""

import hashlib
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from random import Random

import numpy as np

from ..data.clips import Clip, Raw, Source, files_below
from ..data.layout import PARTS
from ..data.samples import Data
from ..system.errors import UserError
from ..system.flags import seed, share
from ..system.paths import sha256
from . import cgmnist
from .avmnist import LATE_FUSION, MODALITIES
from .shared.prepared import Prepared, PreparedSplit

NAME = re.compile(r"([0-9])_([A-Za-z]+)_([0-9]{1,2})\.wav")  # digit, speaker, number
ESC50 = re.compile(r"[0-9]+-[0-9]+-[A-Z]-([0-9]+)")  # fold, clip, take and class of a noise
TEST, VALIDATION = range(5), range(5, 10)  # numbers of recordings; FSDD's authors test on 0 to 4
NOISES = {"test": 0.2, "val": 0.1}  # share of the noise classes; the others train


class Digits:
    """Reads pictures (1, 28, 28) of a packed file; see `--kept_variance`."""

    shape, dtype, is_fixed = MODALITIES["image"].shape, np.float32, True

    def __init__(self, train: PreparedSplit, share: float):
        from ..data.reading import Array  # here: it needs OpenCV

        self.array, self.mean, self.components = Array(self.shape), np.float32(0), None
        if share < 1:
            pixels = train.values("image", range(len(train))).flatten(1).numpy() / 255
            self.mean = pixels.mean(0, np.float64).astype(np.float32)
            variances, directions = np.linalg.eigh(np.cov(pixels, rowvar=False))  # ascending
            shares = np.cumsum(variances[::-1]) / variances.sum()
            kept = np.count_nonzero(shares <= share)
            self.components = directions.T[::-1][:kept].astype(np.float32)

    def read(self, path: str, row: dict, random: Random | None, out: np.ndarray) -> None:
        out[...] = self.load(path)[0]

    def load(self, path: str, rows: list[int] | None = None) -> np.ndarray:
        """Return rows (n, 1, 28, 28): the mean picture is 0 unless pictures are whole."""
        digits = self.array.load(path, rows) / 255
        if self.components is None:
            return digits
        flat = digits.reshape(len(digits), -1) - self.mean
        return (flat @ self.components.T @ self.components).reshape(digits.shape)


class AVMNISTClean(Prepared):
    """70,000 pairs of a digit of MNIST and a recording of the same digit by one of six speakers."""

    name = "avmnist_clean"
    recipes = {"audio": "square112"}
    stills = None
    hint = "data/avmnist_clean/README.md says where the recordings are"
    encoder = "lenet_bn"
    defaults = Prepared.defaults | LATE_FUSION

    @classmethod
    def add_flags(cls, parser: ArgumentParser) -> None:
        super().add_flags(parser)
        parser.add_argument(
            "--kept_variance", type=share, default=0.25,
            help="share of the training pictures' variance that pictures keep at most, as sums of "
                 "principal components, in [0, 1]; 1 leaves pictures whole",
        )  # fmt: skip

    @classmethod
    def add_prepare_flags(cls, parser: ArgumentParser) -> None:
        super().add_prepare_flags(parser)
        # fmt: off
        parser.add_argument("--mnist", type=Path, metavar="DIR",
            help="the folder that holds MNIST/raw (default: --raw)")
        parser.add_argument("--random_seed", type=seed, default=0, metavar="N",
            help="decides which recordings meet which digits, and which noise (default: 0)")
        parser.add_argument("--noise", type=Path, metavar="DIR",
            help="add sounds below DIR to the recordings, other classes of them in test")
        parser.add_argument("--snr", type=int, default=0, metavar="DECIBELS",
            help="power of a recording above that of its noise (default: 0)")
        # fmt: on

    @classmethod
    def collect(cls, flags: Namespace) -> Raw:
        random, folder = Random(flags.random_seed), flags.raw / "recordings"
        recordings = _recordings(folder, cls.hint)
        noises = _noises(flags.noise, random) if flags.noise else {}
        sounds = {}
        for (part, digit), paths in recordings.items():
            random.shuffle(paths)
            sounds[part, digit] = cycle([
                Source("audio", path, noise=random.choice(noises[part]) if noises else None)
                for path in paths
            ])  # fmt: skip
        clips, listed = [], {}
        for number, (part, digit, image) in enumerate(_digits(flags.mnist or flags.raw)):
            sound = next(sounds[part, digit])
            id, speaker = f"{number:05}-{sound.path.stem}", sound.path.stem.split("_")[1]
            clips.append(Clip(id, digit, speaker, {"image": image, "audio": sound}))
            listed[id] = part, digit
        files = sorted(path for paths in noises.values() for path in paths)
        sums = " ".join(map(sha256, files))
        noise = {"snr": flags.snr, "files": hashlib.sha256(sums.encode()).hexdigest()}
        told = f"{sum(map(len, recordings.values()))} recordings, {len(files)} noises"
        return Raw(
            cls.name, cls.hint, list(map(str, range(10))), {"image": "array", "audio": "audio"},
            clips, lists={"official": listed}, is_whole=True,
            notes=[f"{len(clips)} digits, {told}"],
            recipe={"pairing": {"seed": flags.random_seed}, "noise": noise if noises else None},
        )  # fmt: skip

    @classmethod
    def load(cls, flags: Namespace) -> Data:
        data = super().load(flags)
        train = data.splits["train"]
        train.readers["image"] = Digits(train, flags.kept_variance)
        return data._replace(
            modalities=data.modalities | {"image": MODALITIES["image"]},
            recipe=data.recipe | {"kept_variance": flags.kept_variance},
        )


def _digits(mnist: Path) -> Iterator[tuple[str, str, Source]]:
    """Yield (part, digit, picture) of MNIST's training images, then of its test images."""
    for is_train, file in ((True, "train"), (False, "t10k")):
        _, labels = cgmnist.read_mnist(mnist, train=is_train, flag="--mnist")
        path = mnist / f"MNIST/raw/{file}-images-idx3-ubyte"
        for row, digit in enumerate(labels.tolist()):
            is_val = row >= len(labels) - cgmnist.VALIDATION
            part = ("val" if is_val else "train") if is_train else "test"
            yield part, str(digit), Source("array", path, row)


def _recordings(folder: Path, hint: str) -> dict[tuple[str, str], list[Path]]:
    """Return {(part, digit): files}; UserError for a strange name, or a digit without any."""
    if not folder.is_dir():
        raise UserError(f"--raw {folder.parent}: no folder recordings in it: {hint}")
    found = {(part, str(digit)): [] for part in PARTS for digit in range(10)}
    for path in files_below(folder, ".wav"):
        match = NAME.fullmatch(path.name)
        if not match:
            raise UserError(
                f"{path}: DIGIT_SPEAKER_NUMBER.wav expected, as 7_jackson_32.wav: rename it, or "
                "move it out of the folder"
            )
        number = int(match[3])
        part = "test" if number in TEST else "val" if number in VALIDATION else "train"
        found[part, match[1]].append(path)
    for (part, digit), paths in found.items():
        if not paths:
            raise UserError(
                f"{folder}: no recording of digit {digit} for {part}, expected are numbers 0 to 4 "
                f"for test, 5 to 9 for val and 10 to 49 for train: {hint}"
            )
    return found


def _noises(folder: Path, random: Random) -> dict[str, list[Path]]:
    """Return {part: files}, with no class of noises in two parts."""
    classes: dict[str, list[Path]] = {}
    for path in files_below(folder, ".wav", ".flac", ".ogg"):
        esc50 = ESC50.fullmatch(path.stem)
        name = path.stem if path.parent == folder else path.relative_to(folder).parts[0]
        classes.setdefault(esc50[1] if esc50 else name, []).append(path)
    if len(classes) < len(PARTS):
        raise UserError(
            f"--noise {folder}: {len(classes)} classes of sounds found, {len(PARTS)} or more "
            "needed: a class is a folder, the last number of a name as in ESC-50, or a single file"
        )
    names = sorted(classes)
    random.shuffle(names)
    test = max(1, round(NOISES["test"] * len(names)))
    val = max(1, round(NOISES["val"] * len(names)))
    parts = {"test": names[:test], "val": names[test : test + val], "train": names[test + val :]}
    return {part: [p for name in own for p in classes[name]] for part, own in parts.items()}
