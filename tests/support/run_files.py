"""What a run has written, read back and compared."""

from mmpareto.system import tensors

import json
import re

import torch

MEASURED = ("seconds", "waiting", "seconds_per_epoch", "peak_bytes")


def read(path):
    """What a JSON file holds, or each line of one of many."""
    text = path.read_text()
    return [json.loads(line) for line in (text.splitlines() if path.suffix == ".jsonl" else [text])]


def rows(folder):
    """The epochs' rows and results of a log, without times and the number of epochs."""
    lines = (folder / "train.log").read_text().splitlines()
    kept = [line for line in lines if line.startswith(("Epoch", "Result"))]
    return [re.sub(r"(/\d+)|(  waiting \d+%  [\d.]+s$)", "", line) for line in kept]


def weights(folder, file="last.pt"):
    return tensors.read(folder / file)["model"]


def bits(value):
    """With the bits of tensors in their place: NaN is equal to itself, and -0 not to 0."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return list(map(bits, value)) if isinstance(value, list | tuple) else value


def state(path):
    """A checkpoint, but for the run's flags and the sizes of its logs."""
    return {k: bits(v) for k, v in tensors.read(path).items() if k not in ("config", "logs")}


def untimed(path):
    return [{k: v for k, v in content.items() if k not in MEASURED} for content in read(path)]


def assert_same_run(one, other):
    """To the bit, but for times and memory."""
    for file in ("last.pt", "best.pt"):
        assert state(one / file) == state(other / file)
    assert rows(one) == rows(other)
    for file in ("steps.jsonl", "epochs.jsonl", "result.json"):
        assert untimed(one / file) == untimed(other / file)
