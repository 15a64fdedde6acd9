"""What a run has written, read back and compared."""

from mmpareto.system import tensors

import json
import re

import torch


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows(folder):
    """The epochs' rows and results of a log, without times and the number of epochs."""
    lines = (folder / "train.log").read_text().splitlines()
    kept = [line for line in lines if line.startswith(("Epoch", "Result"))]
    return [re.sub(r"(/\d+)|(  waiting \d+%  [\d.]+s$)", "", line) for line in kept]


def weights(folder, file="last.pt"):
    return tensors.read(folder / file)["model"]


def assert_same_run(one, other):
    for file in ("last.pt", "best.pt"):
        a, b = weights(one, file), weights(other, file)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    a, b = (tensors.read(folder / "last.pt")["method"] for folder in (one, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k].nan_to_num(-1.0), b[k].nan_to_num(-1.0)) for k in a)
    assert rows(one) == rows(other)
    for log in ("steps.jsonl", "epochs.jsonl"):
        drop = {"seconds": None, "waiting": None}
        assert [x | drop for x in read(one / log)] == [x | drop for x in read(other / log)]
