"""Raw files of the field's sets, small, with the published names and containers."""

import pickle
from pathlib import Path

import cv2
import numpy as np

FEATURES = {"text": (6, 5), "audio": (9, 4), "vision": (4, 3)}  # steps and numbers of each
PARTS = {"train": 24, "valid": 8, "test": 8}


def sentiment(*, front=True, seed=0, parts=PARTS):
    """The content of a pickle as MulT's, and the true steps of each modality, part after part.

    Scores lie in [-3, 3]; all numbers of a sample are near its score.
    """
    random, content, true = np.random.default_rng(seed), {}, {name: [] for name in FEATURES}
    for part, count in parts.items():
        scores = np.resize([-2.4, 0.0, 1.6, -0.4, 3.0], count)
        content[part] = fields = {"labels": scores.reshape(count, 1, 1).astype(np.float32)}
        fields["id"] = np.array([[f"{part}-{i // 3}[{i}]".encode()] for i in range(count)])
        for name, (steps, size) in FEATURES.items():
            fields[name] = np.zeros((count, steps, size))
            for row, score in zip(fields[name], scores, strict=True):
                length = random.integers(1, steps + 1)
                found = random.normal(score, 0.3, (length, size)).astype(np.float32)
                row[slice(steps - length, None) if front else slice(length)] = found
                true[name].append(found)
    return content, true


def write_sentiment(path: Path, content, protocol=4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol))
    return path


ACTIONS = ("ApplyLipstick", "HandstandPushups", "YoYo")
GROUPS = range(1, 26, 2)  # of 25


def write_ucf(root: Path, actions=ACTIONS, groups=GROUPS, frames=28) -> Path:
    """Frames of UCF-101 with its three lists; the action decides colour and movement."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    numbers = {name: number for number, name in enumerate(actions, 1)}
    (lists / "classInd.txt").write_text("".join(f"{n} {name}\r\n" for name, n in numbers.items()))
    rows = {f"{part}list0{k}.txt": [] for k in (1, 2, 3) for part in ("train", "test")}
    for name, number in numbers.items():
        levels = [20 + 200 * number // len(actions)] * 3
        pictures = {
            "jpegs_256": np.full((24, 32, 3), levels, np.uint8),
            "tvl1_flow/u": np.full((24, 32), 250 - levels[0], np.uint8),
            "tvl1_flow/v": np.full((24, 32), levels[0], np.uint8),
        }
        noise = np.random.default_rng(number).integers(0, 6, (24, 32))
        for group in groups:
            id = f"v_{name.replace('stand', 'Stand')}_g{group:02}_c01"
            for folder, picture in pictures.items():
                place = root / folder / id
                place.mkdir(parents=True)
                noisy = picture + (noise if picture.ndim == 2 else noise[:, :, None])
                jpeg = cv2.imencode(".jpg", noisy.astype(np.uint8))[1].tobytes()
                for k in range(frames):
                    (place / f"frame{k + 1:06}.jpg").write_bytes(jpeg)
            for k in (1, 2, 3):
                part = "test" if 7 * k - 6 <= group <= 7 * k else "train"
                rows[f"{part}list0{k}.txt"].append(
                    f"{name}/{id}.avi" + (f" {number}" if part == "train" else "")
                )
    for file, lines in rows.items():
        (lists / file).write_text("\r\n".join(lines) + "\r\n")
    return root
