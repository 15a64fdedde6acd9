"""Turn words of the GRID corpus into short sequences, which train from memory in seconds an epoch.

python studies/grid_letters.py --raw DIR --out DIR
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from mmpareto.system import entry

import csv

import cv2
import numpy as np
import soundfile
import torch
import torchaudio
from tqdm import tqdm

from mmpareto.system.errors import UserError, reason
from mmpareto.system.flags import Parser

WIDTH, HEIGHT, BINS = 24, 16, 40


def lips(folder: Path) -> np.ndarray:
    """Return grey pictures (T, 384) in [0, 1] of the frames in a folder, 25 a second."""
    pictures = [
        cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(folder.glob("*.jpg"))
    ]
    if not pictures or any(picture is None for picture in pictures):
        raise UserError(f"{folder}: readable .jpg files expected, {len(pictures)} found")
    small = [cv2.resize(x, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for x in pictures]
    return np.stack(small).reshape(len(small), -1).astype(np.float32) / 255


def voice(file: Path) -> np.ndarray:
    """Return the logarithms of mel energies (T, 40) of a WAV file, 100 rows a second."""
    samples, rate = soundfile.read(file, dtype="float32")
    wave = torch.from_numpy(samples)[None]
    return torchaudio.compliance.kaldi.fbank(
        wave, sample_frequency=rate, num_mel_bins=BINS, dither=0.0
    ).numpy()


def main(arguments: list[str]) -> None:
    parser = Parser(prog="grid_letters.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    # fmt: off
    add("--raw", type=Path, required=True, metavar="DIR",
        help="folder with clips.csv, whose columns are id, label, lips:frames and voice:audio")
    add("--out", type=Path, required=True, metavar="DIR",
        help="new folder for the sequences and their clips.csv, which prepare.py folder reads")
    # fmt: on
    flags = parser.parse_args(arguments)
    columns = ("id", "label", "lips:frames", "voice:audio")
    try:
        with open(flags.raw / "clips.csv", newline="") as file:
            rows = [[row[name] for name in columns] for row in csv.DictReader(file)]
    except (OSError, KeyError) as error:
        raise UserError(
            f"--raw {flags.raw}: clips.csv with its columns expected ({reason(error)})"
        ) from None
    if flags.out.exists():
        raise UserError(f"--out {flags.out}: it exists: give another folder, or delete it")
    # Read all words before the first file is written: a damaged one leaves nothing behind.
    words = [
        (id, {"lips": lips(flags.raw / frames), "voice": voice(flags.raw / sound)})
        for id, _, frames, sound in tqdm(rows, unit="word")
    ]
    for id, sequences in words:
        for name, sequence in sequences.items():
            (flags.out / name).mkdir(parents=True, exist_ok=True)
            np.save(flags.out / name / f"{id}.npy", sequence)
    with open(flags.out / "clips.csv", "w", newline="") as file:  # last: without it no set
        table = csv.writer(file)
        table.writerow(["id", "label", "lips", "voice"])
        table.writerows([id, label, f"lips/{id}.npy", f"voice/{id}.npy"] for id, label, *_ in rows)


if __name__ == "__main__":
    entry.run(main)
