"""Thousands of damaged files: each ends in one clear line, or changes nothing about the result.

No damage hangs, ends the interpreter, leaves a clip out in silence, or shows a stack trace.
"""

from mmpareto.system import tensors

import json
import shutil
from argparse import Namespace
from contextlib import suppress
from copy import deepcopy
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from damage import FLAGS, RECIPE, WORDS, attack, damaged, fields_of, look_at, refused, text_of
from pebble import ProcessPool

import analyze
import compare
import evaluate
import train
import verify
from claim import run as claim
from claim.design import THREE, Part
from mmpareto.benchmarks import synthetic
from mmpareto.data.clips import Bad, Clip, Source
from mmpareto.data.layout import ID
from mmpareto.data.lists import read_lists
from mmpareto.datasets import cremad, kinetics_sounds
from mmpareto.datasets.cgmnist import CGMNIST
from mmpareto.datasets.folder import Folder
from mmpareto.datasets.modelnet40 import ModelNet40
from mmpareto.preparation import engine
from mmpareto.preparation.journal import Journal
from mmpareto.preparation.media import convert
from mmpareto.preparation.tables import manifest_row, twins
from mmpareto.preparation.worker import begin, convert_clip
from mmpareto.system.tables import read_csv

# A case lays good files into the folder `work`. It returns those that are damaged; what uses them
# and returns the lines that it ended with; and the damage, where it is not `damaged`.


def copied(folder, work, *names):
    shutil.copytree(folder, work)
    return [work / name for name in names]


def use_set(work, _):
    return [refused(look_at, work), refused(verify.check, work)]


def tables_of_a_set(fixture, work):
    names = ("manifest.csv", "manifest.csv", "metadata.json", "metadata.json", "files.csv",
             "problems.csv", "splits/group.csv")  # fmt: skip
    return copied(fixture("whole"), work, *names), partial(use_set, work)


def files_of_a_set(fixture, work):
    """Read by the loader, they may have another value in them; verify.py knows of every change."""
    whole = fixture("whole")
    shutil.copytree(whole, work)

    def use(path):
        lines = use_set(work, path)
        assert lines[1] or path.read_bytes() == (whole / path.relative_to(work)).read_bytes()
        return lines

    return sorted(p for p in work.rglob("*") if p.suffix in (".jpg", ".npy")), use


def clips_of(raw, path):
    flags = Namespace(raw=raw, csv=path, length=[], vocabulary=["text=10"], missing=False)
    return Folder.collect(flags).clips


def own_table(fixture, work):
    raw, path = fixture("raw"), work / "mine.csv"
    work.mkdir()
    shutil.copy(raw / "clips.csv", path)

    def collect():
        clips = clips_of(raw, path)
        assert len(clips) == len(read_csv(path)) - 1 == len({clip.id for clip in clips})
        for source in (source for clip in clips for source in clip.sources.values()):
            assert source.path.resolve().is_relative_to(raw.resolve())

    return [path], lambda _: [refused(collect)]


def published_lists(part, fixture, work):
    if part is cremad:
        rows = [f"{id},{id.split('_')[2]}" for id in synthetic.cremad_ids(12)]
    else:
        rows = [f"{'-_aZ'[i % 4]}{i:06d}_x-Q_{7 * i:06d},10,{i}" for i in range(12)]
    work.mkdir()
    (work / "train.csv").write_text("\n".join(rows[:8]) + "\n")
    (work / "test.csv").write_text("\n".join(rows[8:]) + "\n")
    read = partial(refused, read_lists, [work], part._parse, [("id", "label")], {})
    return [work / "train.csv", work / "test.csv"], lambda _: [read()]


@pytest.fixture(scope="module")
def pool():
    """Start one process for decoders written in C, as prepare.py does."""
    with ProcessPool(1, context=engine.server(), initializer=begin) as pool:
        yield pool
        pool.stop()


def raw_media(fixture, work):
    """Whatever a decoder does, the clip gets a record: its files, or why there are none."""
    raw, pool, out = fixture("raw"), fixture("pool"), fixture("tmp_path") / "out"
    (out / ".tmp").mkdir(parents=True)
    work.mkdir()
    kinds = {"0.mp4": "frames", "x.flv": "frames", "0.wav": "audio", "x.mp4": "audio",
             "0.png": "image", "0.jpg": "image", "0.npy": "array",
             "0-text.npy": "tokens"}  # fmt: skip
    for name in kinds.keys() & {path.name for path in raw.iterdir()}:
        shutil.copy(raw / name, work)
    frames = synthetic.pictures(0, 2, 15, (64, 48), synthetic.Random(0))
    synthetic.write_video(work / "x.flv", frames, "flv1", None)
    cv2.imwrite(str(work / "0.jpg"), cv2.imread(str(raw / "0.png")))
    (work / "x.mp4").write_bytes(synthetic.kinetics_clip("x", kinetics_sounds.CLASSES[0], 0.5))

    def use(path):
        clip = Clip("clip", "cat", "", {"it": Source(kinds[path.name], path, vocabulary=10)})
        record = engine._result(
            pool.schedule(convert_clip, [clip, RECIPE, out, {}], timeout=60), clip
        )
        assert bool(record.problem) != bool(record.modalities)
        if record.modalities:
            assert record.modalities["it"].files
            return []
        _, word, detail = record.problem
        assert word and detail and word != "timeout"
        return [detail]

    return sorted(work.iterdir()), use


def journal(fixture, work):
    """A damaged line counts as a clip that was not made; the other lines stay valid."""
    (path,) = copied(fixture("whole"), work, "journal.jsonl")
    head = json.loads(path.read_text().splitlines()[0])
    clips = clips_of(fixture("raw"), None)

    def go_on():
        journal = Journal(work, head["dataset"], head["recipe"])
        for clip in clips:
            if journal.has(clip):
                journal.relabel(clip, {})
            else:
                journal.forget(clip.id)
        for record in journal.good.values():
            manifest_row(record)
        list(twins(list(journal.good.values())))

    return [path], lambda _: [refused(go_on)]


def digits(fixture, work):
    """Pixels may have other values afterwards: the files hold no sums to check them by."""
    shutil.copytree(fixture("mnist"), work)

    def read():
        data = CGMNIST.load(Namespace(data_root=work))
        assert [len(split) for split in data.splits.values()] == [40, 20, 10]
        for split in data.splits.values():
            inputs, targets = split.read(list(range(len(split))))
            assert inputs["gray"].shape == (len(split), 1, 28, 28)
            assert targets.min() >= 0 and targets.max() < 10

    return sorted((work / "MNIST/raw").iterdir()), lambda _: [refused(read)]


def views(fixture, work):
    """Names, folders and links that are not as published: every object is taken, or left out."""
    for label in ("airplane", "bathtub"):
        for part in ("train", "test"):
            (work / label / part).mkdir(parents=True)
            for number in range(1, 13):
                path = work / label / part / f"{label}_0001.obj.shaded_v{number:03d}.png"
                cv2.imwrite(str(path), np.full((8, 8, 3), 128, np.uint8))
    paths = sorted(work.rglob("*.png"))

    def damage(random, path):
        for path in (path, *random.choices(paths, k=random.randint(0, 3))):  # noqa: B020
            how = random.choice(["delete", "name", "folder", "link", "loop", "part"])
            if how == "part" and path.parent.exists():
                shutil.rmtree(path.parent)
            if not path.is_file():
                continue
            if how == "name":
                word = random.choice([random.choice(WORDS), text_of(random)])
                word = word.replace("/", "").replace("\0", "")[:150]
                number = random.choice(["001", "013", "000", "\u0661\u0661\u0661", "1"])
                path.rename(path.with_name(f"{word}_0001.obj.shaded_v{number}.png"))
                continue
            path.unlink()
            if how == "folder":
                path.mkdir()
            elif how != "delete":
                path.symlink_to(path if how == "loop" else "/etc/passwd")

    def collect():
        found = ModelNet40.collect(Namespace(raw=work))
        known = {clip.id for clip in found.clips} | found.left_out.keys()
        assert known == found.lists["official"].keys()
        for clip in found.clips:
            assert ID.fullmatch(clip.id)
            for source in clip.sources.values():
                with suppress(Bad):
                    convert(source, RECIPE)

    return paths, lambda _: [refused(collect)], damage


def collecting(work, *words):
    return ["--collect", "--out", str(work), *FLAGS, *words]


def resuming(run, method, *words):
    return ["--method", method, *FLAGS, "--out", str(run), "--resume", *words]


def pages(work, _):
    return [refused(analyze.main, [str(work), "--logs_only"])]


def checkpoints(fixture, work):
    path, result = copied(fixture("compared") / "uniform-s0", work, "last.pt", "result.json")
    result.unlink()
    state = tensors.read(path)

    def damage(random, path):
        """Change bytes or fields, tensors among them."""
        changed, how = deepcopy(state), random.choice(["bytes"] * 3 + ["fields"] * 2 + ["tensor"])
        if how == "bytes":
            return damaged(random, path)
        if how == "fields":
            return torch.save(fields_of(random, changed, changes=1), path)
        place = changed[random.choice(["model", "optimizer", "rng"])]
        while isinstance(place, dict | list) and place:
            parent, keys = place, list(place) if isinstance(place, dict) else range(len(place))
            key = random.choice(keys)
            place = place[key]
        if isinstance(place, torch.Tensor):
            parent[key] = random.choice([
                place.flatten()[:0], place.double(), place[None], torch.zeros(()), place.bool(),
                place.flatten()[:1], place.expand(2, *place.shape), place.to_sparse(), 3, None, "x",
            ])  # fmt: skip
        torch.save(changed, path)

    again = resuming(work, "uniform", "--epochs", "3")
    return [path], lambda _: [
        refused(evaluate.main, [str(path), "--limit_batches", "1"]), refused(train.main, again),
    ], damage  # fmt: skip


def files_of_a_run(fixture, work):
    """compare.py makes its table from these files, and --resume reads them."""
    names = ("config.json", "result.json", "epochs.jsonl")
    paths = copied(fixture("compared"), work, *(f"uniform-s0/{name}" for name in names))
    collect = collecting(work, "--methods", "uniform", "--seeds", "0")
    again = resuming(work / "uniform-s0", "uniform")
    return paths, lambda _: [refused(compare.main, collect), refused(train.main, again)]


LOGS = ("steps.jsonl", "steps.jsonl", "epochs.jsonl", "config.json", "result.json")


def page_of_a_run(fixture, work):
    return copied(fixture("compared") / "mmpareto-s0", work, *LOGS), partial(pages, work)


def page_of_a_comparison(fixture, work):
    """compare.py writes comparison.json and runs.csv anew, analyze.py believes them."""
    names = ("comparison.json", "comparison.json", "runs.csv", "mmpareto-s0/steps.jsonl",
             "uniform-s1/epochs.jsonl", "uniform-s0/config.json")  # fmt: skip
    paths = copied(fixture("compared"), work, *names)
    compare.main(collecting(work, "--methods", "mmpareto,uniform", "--seeds", "0,1"))
    return paths, partial(pages, work)


def table_of_tuned_runs(fixture, work):
    paths = copied(
        fixture("compared") / "mmpareto-s0",
        work / "mmpareto-learning_rate=0.01-s0",
        *LOGS[2:],
        LOGS[2],
    )
    tune = ["--methods", "mmpareto", "--seeds", "0", "--tune", "learning_rate=0.01"]
    return paths, lambda _: [refused(compare.main, collecting(work, *tune))]


def resumed_run(fixture, work):
    names = ("steps.jsonl", "epochs.jsonl", "config.json", "train.log", "result.json")
    *paths, result = copied(fixture("compared") / "mmpareto-s0", work, *names)
    result.unlink()
    again = resuming(work, "mmpareto", "--epochs", "3")
    return paths, lambda path: [refused(train.main, again), *pages(work, path)]


def tables_of_the_claim(fixture, work):
    fixture("calls")
    flags = "--dataset toy --encoder cnn --epochs 2 --limit_batches 2"
    part = Part(THREE, flags, "0.05", "100", "0,1")
    fixture("monkeypatch").setattr(claim, "PARTS", {"base": part})
    claim.main(["--out", str(work)])
    run = min((work / "base").glob("mmpareto*-s0"))
    paths = [run / name for name in LOGS]
    return paths, lambda _: [refused(claim.main, ["--out", str(work), "--collect"])]


@pytest.mark.parametrize("all_of_them", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("case", "few", "many"),
    [
        (tables_of_a_set, 20, 700),
        (files_of_a_set, 10, 250),
        (own_table, 60, 400),
        (partial(published_lists, cremad), 20, 150),
        (partial(published_lists, kinetics_sounds), 20, 150),
        (raw_media, 40, 600),
        (journal, 40, 200),
        (digits, 50, 1000),
        (views, 60, 600),
        (checkpoints, 8, 200),
        (files_of_a_run, 15, 300),
        (page_of_a_run, 8, 300),
        (page_of_a_comparison, 8, 300),
        (table_of_tuned_runs, 8, 300),
        (resumed_run, 6, 100),
        (tables_of_the_claim, 4, 100),
    ],
    ids=lambda x: getattr(getattr(x, "func", x), "__name__", None),
)
def test_damaged(case, few, many, all_of_them, request, tmp_path, quick_figures, capsys):
    made = case(request.getfixturevalue, tmp_path / "work")
    attack(many if all_of_them else few, tmp_path / "work", *made)
