"""Raw files of the field's sets, small, with the published names and containers."""

import pickle
from pathlib import Path

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
