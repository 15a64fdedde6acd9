"""Import of the literature's coloured MNIST (Kim et al., CVPR 2019), checked against MNIST itself.

Its files are pickled dicts of arrays; they are read without running what pickle could run.
"""

import re
from pathlib import Path

import numpy as np
from torch import Tensor

from ..data.layout import SPLIT, split_path
from ..system.errors import UserError
from ..system.lock import NAME as LOCK
from ..system.lock import Lock
from ..system.paths import clear_errors, sha256
from ..system.tables import write_table
from ..system.writing import write_atomically
from .pickled import read_arrays
from .tables import write_set

NAME = re.compile(r"mnist_10color_jitter_var_(0\.\d+)\.npy")
SIZES = {"train": 60000, "test": 10000}
TABLES = ("manifest.csv", "files.csv", "problems.csv", "metadata.json")
FILES = ("gray.npy", "color.npy", *TABLES)
OURS = {"README.md", LOCK, "splits", *FILES, *(f"{name}.tmp" for name in FILES)}


def import_archive(
    flags, dataset: str, mnist: dict[str, tuple[Tensor, Tensor]], validation: int
) -> None:
    """Make a prepared set from the archive's file in flags.raw and from MNIST's gray digits.

    mnist: {part: (digits (N, 28, 28), labels (N,))}. Image i has to be the same digit in both.
    """
    source = _find(flags.raw, flags.variance)
    content = read_arrays(source)
    digits = {part: images.numpy() for part, (images, _) in mnist.items()}
    labels = {part: values.numpy() for part, (_, values) in mnist.items()}
    doubts = []
    for part in SIZES:
        _check_shapes(source, content, part)
        _check_order(source, content, part, digits[part], labels[part])
    if not np.array_equal(content.get("test_gray"), digits["test"]):
        detail = "the archive's test_gray is not MNIST; gray is taken from MNIST"
        row = {"id": "test-00000", "modality": "gray", "action": "kept", "reason": "test_gray"}
        doubts.append(row | {"detail": detail})

    colors = np.concatenate([content[f"{part}_image"] for part in SIZES]).transpose(0, 3, 1, 2)
    arrays = {
        "gray": np.concatenate([digits[part] for part in SIZES])[:, None],
        "color": np.ascontiguousarray(colors),
    }
    classes = np.concatenate([labels[part] for part in SIZES])
    ids = [f"{part}-{i:05d}" for part, size in SIZES.items() for i in range(size)]
    train = SIZES["train"]
    parts = ["train"] * (train - validation) + ["val"] * validation + ["test"] * SIZES["test"]
    largest = arrays["color"][:train].max((2, 3)) / 255
    palette = [largest[classes[:train] == k].mean(0).round(3).tolist() for k in range(10)]

    metadata = {
        "dataset": dataset,
        "classes": [str(digit) for digit in range(10)],
        "modalities": {
            name: {"kind": "image", "shape": list(values.shape[1:]), "scale": 255}
            for name, values in arrays.items()
        },
        "recipe": {
            "source": source.name,
            "sha256": sha256(source),
            "gray": "MNIST",
            "palette": palette,  # of every digit in training: mean of its images' largest values
            "split": f"last {validation} of train",
        },
        "splits": ["official"],
        "counts": {"clips": len(ids)},
    }
    manifest = (
        {"id": id, "label": label, "group": ""} | {name: f"{name}.npy#{row}" for name in arrays}
        for row, (id, label) in enumerate(zip(ids, classes, strict=True))
    )
    rows = [{"id": id, "split": part} for id, part in zip(ids, parts, strict=True)]

    out: Path = flags.out
    with clear_errors(f"--out {out}"):
        foreign = [p.name for p in out.iterdir() if p.name not in OURS] if out.exists() else []
        if foreign:
            raise UserError(f"--out {out}: it holds other things ({foreign[0]}): give a new folder")
        (out / "splits").mkdir(parents=True, exist_ok=True)
        with Lock(out):
            (out / "metadata.json").unlink(missing_ok=True)
            paths = {name: out / f"{name}.npy" for name in arrays}
            for name, path in paths.items():
                write_atomically(path, lambda file, values=arrays[name]: np.save(file, values))
            files = [
                {"path": p.name, "bytes": p.stat().st_size, "sha256": sha256(p)}
                for p in paths.values()
            ]
            write_table(split_path(out, "official"), SPLIT, rows)
            write_set(out, metadata, manifest, files, doubts)


def _find(raw: Path, variance: str | None) -> Path:
    found = {m[1]: path for path in sorted(raw.rglob("*.npy")) if (m := NAME.fullmatch(path.name))}
    if not found:
        raise UserError(
            f"--raw {raw}: no mnist_10color_jitter_var_*.npy in it: data/cgmnist/README.md says "
            "where it is, and how to make cgmnist without it"
        )
    if variance is None and len(found) > 1:
        raise UserError(f"--raw {raw}: give --variance, one of {', '.join(found)}")
    if variance is not None and variance not in found:
        raise UserError(f"--variance {variance}: {raw} has {', '.join(found)}")
    return found[variance] if variance else next(iter(found.values()))


def _check_shapes(path: Path, content: dict, part: str) -> None:
    for key, shape in (
        (f"{part}_image", (SIZES[part], 28, 28, 3)),
        (f"{part}_label", (SIZES[part],)),
    ):
        found = getattr(content.get(key), "shape", "nothing")
        if found != shape:
            raise UserError(f"{path}: {key}: {found} found, shape {shape} expected")
    if content[f"{part}_image"].dtype != np.uint8:
        raise UserError(
            f"{path}: {part}_image: {content[f'{part}_image'].dtype} found, uint8 expected"
        )


def _check_order(
    path: Path, content: dict, part: str, digits: np.ndarray, labels: np.ndarray
) -> None:
    """UserError unless image i is MNIST's image i: its label, and colour only where ink is."""
    differing = np.flatnonzero(content[f"{part}_label"] != labels)
    if len(differing):
        i = differing[0]
        raise UserError(
            f"{path}: {part}_label: {len(differing)} differ from MNIST's, first index {i} "
            f"({content[f'{part}_label'][i]}, MNIST has {labels[i]}): the modalities would not "
            "belong together"
        )
    colored = content[f"{part}_image"].max(3) > 16
    black = float((colored.sum((1, 2)) == 0).mean())
    if black > 0.5:
        raise UserError(f"{path}: {part}_image: {black:.0%} of the pictures are black")
    beside = colored & (digits == 0)
    wrong = np.flatnonzero(beside.sum((1, 2)) > 0.1 * colored.sum((1, 2)))
    if len(wrong):
        raise UserError(
            f"{path}: {part}_image: {len(wrong)} pictures have a tenth of their colour where "
            f"MNIST's digit has no ink, first index {wrong[0]}: they show other digits, or are in "
            "another order"
        )
