"""Thousands of damaged files: each ends in one clear line, or changes nothing about the result.

No damage hangs, ends the interpreter, leaves a clip out in silence, or shows a stack trace.
"""

import json
import multiprocessing
import shutil
from argparse import Namespace
from contextlib import suppress
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from damage import WORDS, attack, load, refused, tables
from hypothesis import strategies as st
from pebble import ProcessPool
from test_claim import toy_part  # noqa: F401 - a fixture

import verify
from mmpareto.benchmarks import synthetic
from mmpareto.data import recipes
from mmpareto.data.clips import Bad, Clip, Source
from mmpareto.data.layout import ID, read_metadata, split_names
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


def look_at(folder: Path) -> None:
    """Read every sample; nothing may be missing that problems.csv does not name."""
    data = load(folder)
    ids = []
    for split in data.splits.values():
        inputs, targets = split.read(list(range(len(split))))
        assert len(targets) == len(split) and 0 <= targets.min() <= targets.max()
        assert targets.max() < len(data.classes)
        for name, spec in data.modalities.items():
            assert inputs[name].shape == (len(split), *spec.shape)
        ids += split.ids
    name = split_names(folder, read_metadata(folder))[0]
    listed = {row[0] for _, row in read_csv(folder / f"splits/{name}.csv")[1:]}
    explained = {row[0] for _, row in read_csv(folder / "problems.csv")[1:]}
    assert len(set(ids)) == len(ids) and listed - explained <= set(ids) <= listed


def use_set(work, _):
    return [refused(look_at, work), refused(verify.check, work)]


def tables_of_a_set(fixture, work):
    shutil.copytree(fixture("whole"), work)
    names = ["manifest.csv", "manifest.csv", "metadata.json", "metadata.json", "files.csv",
             "problems.csv", "splits/random.csv"]  # fmt: skip
    return [work / name for name in names], partial(use_set, work)


def files_of_a_set(fixture, work):
    """Read by the loader, they may have another value in them; verify.py knows of every change."""
    whole = fixture("whole")
    shutil.copytree(whole, work)

    def use(path):
        lines = use_set(work, path)
        is_same = path.read_bytes() == (whole / path.relative_to(work)).read_bytes()
        assert is_same or lines[1]
        return lines

    return sorted(p for p in work.rglob("*") if p.suffix in (".jpg", ".npy")), use


def own_table(fixture, work):
    raw = fixture("raw")
    path = work / "mine.csv"
    work.mkdir()
    shutil.copy(raw / "clips.csv", path)

    def collect():
        found = Folder.collect(Namespace(raw=raw, csv=path, length=[], vocabulary=["text=10"]))
        assert len(found.clips) == len(read_csv(path)) - 1 == len({clip.id for clip in found.clips})
        for source in (source for clip in found.clips for source in clip.sources.values()):
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
    """One process for decoders written in C, as prepare.py has several."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(engine.HEAVY)
    with ProcessPool(1, context=context, initializer=begin) as pool:
        yield pool
        pool.stop()


def raw_media(fixture, work):
    """Whatever a decoder does, the clip gets a record: what was made of it, or why nothing was."""
    raw, pool, out = fixture("raw"), fixture("pool"), fixture("tmp_path") / "out"
    (out / ".tmp").mkdir(parents=True)
    work.mkdir()
    kinds = {"0.mp4": "frames", "x.flv": "frames", "0.wav": "audio", "x.mp4": "audio",
             "0.png": "image", "0.jpg": "image", "0.npy": "array",
             "0-text.npy": "tokens"}  # fmt: skip
    for name in kinds:
        if (raw / name).exists():
            shutil.copy(raw / name, work)
    frames = synthetic.pictures(0, 2, 15, (64, 48), synthetic.Random(0))
    synthetic.write_video(work / "x.flv", frames, "flv1", None)
    cv2.imwrite(str(work / "0.jpg"), cv2.imread(str(raw / "0.png")))
    sound = synthetic.kinetics_clip("x", kinetics_sounds.CLASSES[0], 0.5)
    (work / "x.mp4").write_bytes(sound)
    recipe = recipes.named(
        {"frames": "3fps", "audio": "stft", "images": "jpeg256"},
        {kind: kind for kind in kinds.values()}, {}, {"text": 10},
    )  # fmt: skip

    def use(path):
        clip = Clip("clip", "cat", "", {"it": Source(kinds[path.name], path, vocabulary=10)})
        record = engine._result(pool.schedule(convert_clip, [clip, recipe, out], timeout=60), clip)
        assert bool(record.problem) != bool(record.modalities)
        if record.modalities:
            assert record.modalities["it"].files
            return []
        _, word, detail = record.problem
        assert word and detail and word != "timeout"
        return [detail]

    return sorted(work.iterdir()), use


def journal(fixture, work):
    """A damaged line is one of a clip that was not made; the others keep what they say."""
    shutil.copytree(fixture("whole"), work)
    head = json.loads((work / "journal.jsonl").read_text().splitlines()[0])
    flags = Namespace(raw=fixture("raw"), csv=None, length=[], vocabulary=["text=10"])
    clips = Folder.collect(flags).clips

    def go_on():
        journal = Journal(work, head["dataset"], head["recipe"])
        for clip in clips:
            if journal.has(clip):
                journal.relabel(clip)
            else:
                journal.forget(clip.id)
        for record in journal.good.values():
            manifest_row(record)
        list(twins(list(journal.good.values())))

    return [work / "journal.jsonl"], lambda _: [refused(go_on)]


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
    recipe = recipes.named({"images": "jpeg256"}, {"photo": "image"}, {}, {})

    def damage(draw, path):
        others = draw(st.lists(st.sampled_from(paths), max_size=3))
        for path in (path, *others):  # noqa: B020
            how = draw(st.sampled_from(["delete", "name", "folder", "link", "loop", "part"]))
            if how == "part" and path.parent.exists():
                shutil.rmtree(path.parent)
            if not path.is_file():
                continue
            if how == "name":
                word = draw(st.sampled_from(WORDS) | st.text(max_size=8))
                word = "".join(c for c in word if c not in "/\0" and not "\ud800" <= c <= "\udfff")
                number = draw(st.sampled_from(["001", "013", "000", "\u0661\u0661\u0661", "1"]))
                path.rename(path.with_name(f"{word[:150]}_0001.obj.shaded_v{number}.png"))
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
                    convert(source, recipe)

    return paths, lambda _: [refused(collect)], damage


@tables(
    (tables_of_a_set, 30, 700),
    (files_of_a_set, 10, 250),
    (own_table, 60, 400),
    (partial(published_lists, cremad), 20, 150),
    (partial(published_lists, kinetics_sounds), 20, 150),
    (raw_media, 40, 600),
    (journal, 40, 200),
    (digits, 150, 3000),
    (views, 60, 600),
)
def test_damaged_data(case, examples, request, tmp_path, capsys):
    attack(examples, tmp_path / "work", *case(request.getfixturevalue, tmp_path / "work"))
