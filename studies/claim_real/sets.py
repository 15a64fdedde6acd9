"""Prepared sets from the raw files that docs/claim_real_protocol.md describes."""

import csv
import shutil
import tempfile
from pathlib import Path

import numpy as np
import soundfile

import grid_letters
import prepare
from mmpareto.system.errors import UserError

from .design import NOISE, SETS

SEVERITY = 1.0  # standard deviations of noise
DIGITS, LETTERS, SENTIMENT = "digits", "grid_letters", "mosi"
FOLDERS = {DIGITS: "fsdd"}  # whose raw folder has another name than the set


def place(name: str, changed: str, out: Path) -> Path:
    """Return the folder of the prepared set that a setting is trained on."""
    return out / "sets" / (f"{name}-{NOISE}" if changed == NOISE else name)


def make(name: str, changed: str, raw: Path, out: Path) -> None:
    """Prepare a set for a setting if it is not there."""
    folder, is_noisy = place(name, changed, out), changed == NOISE
    if (folder / "metadata.json").exists():
        return
    source = raw / FOLDERS.get(name, name)
    for needed in (source, *([raw / "MNIST"] if name == DIGITS else [])):
        if not needed.is_dir():
            raise UserError(
                f"--raw {raw}: the folder {needed.name} is missing: docs/claim_real_protocol.md "
                "says what it holds; --sets leaves sets out"
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        if name == LETTERS:
            grid_letters.main(["--raw", str(source), "--out", f"{scratch}/words"])
            source = Path(scratch, "words")
        if name == SENTIMENT or is_noisy:
            source = Path(shutil.copytree(source, Path(scratch, "copy")))
        if name == SENTIMENT:
            divide(source / "clips.csv")
        if is_noisy:
            add_noise = to_recordings if name == DIGITS else to_arrays
            add_noise(source, SETS[name].strong, np.random.default_rng(0))
        words = ["--raw", str(source), "--out", str(folder)]
        if name == DIGITS:
            prepare.main(["avmnist_clean", *words, "--mnist", str(raw)])
        else:
            lengths = SETS[name].lengths.split()
            prepare.main(["folder", *words, *(["--length", *lengths] if lengths else [])])


def divide(table: Path) -> None:
    """Make a third of the test part's groups the validation part; all else trains.

    A part drawn from the training part does not validate: the features of MOSI were fitted to it.
    """
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    groups = sorted({row["group"] for row in rows if row["split"] == "test"})
    chosen = {*np.random.default_rng(0).permutation(groups)[: len(groups) // 3]}
    for row in rows:
        row["split"] = "val" if row["group"] in chosen else row["split"]
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def to_arrays(raw: Path, modality: str, random: np.random.Generator) -> None:
    """Add noise to each column of the arrays: SEVERITY times its standard deviation over all."""
    with open(raw / "clips.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    column = next(name for name in rows[0] if name.split(":")[0] == modality)
    files = sorted({row[column].partition("#")[0] for row in rows})
    arrays = [np.load(raw / name) for name in files]
    deviation = np.concatenate(arrays).std(axis=0)
    for name, values in zip(files, arrays, strict=True):
        noise = random.standard_normal(values.shape) * deviation * SEVERITY
        np.save(raw / name, (values + noise).astype(values.dtype))


def to_recordings(raw: Path, modality: str, random: np.random.Generator) -> None:
    """Add white noise to each WAV file: SEVERITY times the standard deviation of its samples."""
    for path in sorted((raw / "recordings").glob("*.wav")):
        samples, rate = soundfile.read(path)
        noise = random.standard_normal(samples.shape) * samples.std() * SEVERITY
        soundfile.write(path, np.clip(samples + noise, -1, 1), rate)
