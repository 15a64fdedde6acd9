"""Raw sets for tests, and prepare.py called on them."""

import csv
import json
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import soundfile
from damage import told

import prepare
from mmpareto.benchmarks import synthetic
from mmpareto.data.layout import PARTS, SPLIT, Spec, split_path
from mmpareto.preparation.journal import File, Stored, Tried
from mmpareto.preparation.tables import write_set
from mmpareto.system.paths import sha256
from mmpareto.system.tables import write_table

SMALL = (160, 120)  # pixels of a video that need not be looked at


def prepare_set(dataset, raw, out, *flags):
    """Prepare in this process; returns the set's metadata."""
    prepare.main(
        [dataset, "--raw", str(raw), "--out", str(out), "--workers", "1", *map(str, flags)]
    )
    return json.loads((out / "metadata.json").read_text())


def error_of(dataset, raw, out, *flags):
    """The one line that a call ends with."""
    return told(prepare_set, dataset, raw, out, *flags)


def contents(root):
    """{relative path: bytes} of everything below root."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def rows(path):
    """The rows of a CSV file as lists, without its header."""
    with open(path, newline="") as file:
        return list(csv.reader(file))[1:]


def first(raw, folder):
    return sorted((raw / folder).iterdir())[0]


def journal_lines(out):
    path = out / "journal.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def write_folder(root: Path, count: int, classes=("cat", "dog", "owl"), *, seconds=1.5) -> Path:
    """A user's data: video, sound file, array; clips.csv without kinds in its header."""
    root.mkdir(parents=True)
    lines = ["id,label,group,film,voice,pose"]
    for i in range(count):
        label = i % len(classes)
        random = synthetic.Random(i)
        frames = synthetic.pictures(label, len(classes), round(seconds * 12), SMALL, random)
        synthetic.write_video(
            root / f"{i}.mp4", frames, "libx264", None, rate=synthetic.Fraction(12)
        )
        sound = synthetic.tone(2 * label, seconds, 16000, random)
        soundfile.write(root / f"{i}.wav", sound, 16000)
        noise = np.random.default_rng(i).normal(0, 1, 10)
        np.save(root / f"{i}.npy", noise + 3 * (np.arange(10) % len(classes) == label))
        lines.append(f"clip-{i},{classes[label]},{i // 3},{i}.mp4,{i}.wav,{i}.npy")
    (root / "clips.csv").write_text("\n".join(lines) + "\n")
    return root


def write_films(raw: Path, dataset: str) -> Path:
    """AVE's or VGGSound's own files: 24 clips of two classes, a quarter of them for test."""
    (raw / "AVE").mkdir(parents=True)
    lines: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for i in range(24):
        video, kind = f"{'-_aZ'[i % 4]}{i:06d}_x-Q", ("Bark", "Frying (food)")[i % 2]
        part = "test" if i // 2 % 4 == 3 else "val" if i in (4, 5) else "train"
        name, line = f"AVE/{video}.mp4", f"{kind}&{video}&good&0&10"
        if dataset == "vggsound":
            part = part.replace("val", "train")
            name, line = f"{video}_{7 * i:06d}.mp4", f'{video},{7 * i},"{kind}",{part}'
        (raw / name).write_bytes(synthetic.film(video, i % 2, 2, 2.0))
        lines[part].append(line)
    if dataset == "ave":
        for part, texts in lines.items():
            (raw / f"{part}Set.txt").write_text("\n".join(texts))
    else:
        listed = [*lines["train"], *lines["test"], "-gone------,0,Bark,train"]
        (raw / "vggsound.csv").write_text("\n".join(listed))
    return raw


def write_recordings(root: Path) -> None:
    """Spoken digits of three speakers, with the names of the Free Spoken Digit Dataset."""
    (root / "recordings").mkdir(parents=True)
    for digit, speaker, number in product(range(10), ("ann", "bob", "cid"), (0, 5, 10, 49)):
        name = f"{digit}_{speaker}_{number}.wav"
        sound = synthetic.tone(2 * digit, 0.2, 8000, synthetic.Random(name))
        soundfile.write(root / "recordings" / name, sound, 8000, subtype="PCM_16")


def write_food101(raw: Path, count: int, layout: str = "csv") -> Path:
    """Food-101's own files: two or more classes in turn, the last third for test."""
    classes = ("apple_pie", "baklava", "ramen", "tacos")[: max(2, count // 24)]
    parts: dict[str, list[dict]] = {"train": [], "test": []}
    for i in range(count):
        label, part = i % len(classes), "train" if i < 2 * count // 3 else "test"
        name = f"{classes[label]}_{i}.jpg"
        path = raw / "images" / part / classes[label] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (picture,) = synthetic.pictures(label, len(classes), 1, SMALL, synthetic.Random(name))
        cv2.imwrite(str(path), picture)
        known = classes[label] if i % 5 else "food"  # not every title tells
        row = {"id": f"{classes[label]}_{name}", "label": classes[label]}
        row["text"] = f'best "{known.replace("_", " ")}", {i}\u2028ever'
        parts[part].append(row | {"img": path.relative_to(raw).as_posix()})
    for part, found in parts.items():
        if layout == "csv":
            (raw / "texts").mkdir(exist_ok=True)
            with open(raw / f"texts/{part}_titles.csv", "w", newline="") as file:
                cells = ([Path(r["img"]).name, r["text"], r["label"]] for r in found)
                csv.writer(file, lineterminator="\n").writerows(cells)
        else:
            lines = [json.dumps(row, ensure_ascii=False) for row in found]
            (raw / f"{part}.jsonl").write_text("\n".join([*lines, ""]))
    return raw


def write_mixed(root: Path, count: int) -> Path:
    """As write_folder, with a picture and tokens besides: clips of every kind but optical flow."""
    write_folder(root, count, ("cat", "dog"), seconds=0.5)
    header, *lines = (root / "clips.csv").read_text().splitlines()
    for i in range(count):
        random = np.random.default_rng(i)
        picture = random.integers(0, 255, (20, 20, 3), np.uint8)
        cv2.imwrite(str(root / f"{i}.png"), picture)
        np.save(root / f"{i}-text.npy", random.integers(1, 9, 5))
        lines[i] += f",{i}.png,{i}-text.npy"
    (root / "clips.csv").write_text("\n".join([f"{header},photo,text:tokens", *lines]) + "\n")
    return root


def write_arrays(root: Path, labels=(0, 1) * 18, values=None, classes=("one", "two"), recipe=()):
    """A prepared set of an array x for each label, without prepare.py, which takes seconds.

    values: what each array is full of, or all of ones.
    """
    (root / "x").mkdir(parents=True, exist_ok=True)
    (root / "splits").mkdir(exist_ok=True)
    clips, parts = [], []
    for i, (label, value) in enumerate(zip(labels, values or [1] * len(labels), strict=True)):
        path = f"x/clip-{i}.npy"
        np.save(root / path, np.full((8, 8), value, np.float32))
        file = File(path, (root / path).stat().st_size, sha256(root / path))
        stored = {"x": Stored(path, None, [8, 8], [file])}
        clips.append(Tried(f"clip-{i}", classes[label], "", {}, stored))
        parts.append({"id": f"clip-{i}", "split": PARTS[i % 3]})
    write_table(split_path(root, "given"), SPLIT, parts)
    metadata = {"dataset": "folder", "classes": list(classes), "recipe": dict(recipe),
                "modalities": {"x": Spec("array", shape=[8, 8])}, "splits": ["given"]}  # fmt: skip
    write_set(root, metadata, clips, [])
    return root
