"""Thousands of damaged files: each ends in one clear line, or changes nothing about the result.

No damage hangs, ends the interpreter, leaves a clip out in silence, or shows a stack trace.
"""

from mmpareto.system import tensors

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutations import bytes_of, fields_of, json_of, lines_of, table_of
from sets import prepare_set, write_mixed

import compare
import evaluate
import train
import verify
from mmpareto.benchmarks import synthetic
from mmpareto.data import recipes
from mmpareto.data.clips import Clip, Source
from mmpareto.data.layout import read_metadata, split_names
from mmpareto.data.lists import read_lists
from mmpareto.datasets import cremad, kinetics_sounds
from mmpareto.datasets.folder import Folder
from mmpareto.preparation import engine
from mmpareto.preparation.journal import Journal
from mmpareto.preparation.tables import manifest_row, twins
from mmpareto.preparation.worker import begin, convert_clip
from mmpareto.results import figures
from mmpareto.run import options
from mmpareto.run.setup import load_data
from mmpareto.system.errors import UserError, printable
from mmpareto.system.tables import read_csv

CLIPS = 12


def sizes(few: int, many: int):
    """How many damaged inputs: some on every call, many of them among the slow tests."""
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])


def attack(examples: int, check) -> None:
    """Call check(draw) so often, with choices that are the same every time."""

    count = 0

    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    @given(st.data())
    def tried(data):
        nonlocal count
        count += 1
        check(data.draw)

    tried()
    assert count >= examples


def attack_files(examples: int, paths, damage, use) -> None:
    """Put damage(draw, path) in the place of one file, call use(path), and put it back."""

    def check(draw):
        path = draw(st.sampled_from(paths))
        content = path.read_bytes()
        path.write_bytes(damage(draw, path))
        try:
            use(path)
        finally:
            path.write_bytes(content)

    attack(examples, check)


def refused(call, *arguments) -> str | None:
    """The line that a call ends with; None where it does its work."""
    try:
        call(*arguments)
    except UserError as error:
        assert str(error).strip() and len(printable(str(error))) < 20_000
        return str(error)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_mixed(tmp_path_factory.mktemp("bad") / "raw", CLIPS)


@pytest.fixture(scope="module")
def whole(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("bad") / "set"
    prepare_set("folder", raw, out, "--vocabulary", "text=10")
    return out


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "set")


def load(folder: Path):
    flags = ["--dataset", folder, "--batch_size", "1", "--image_size", "8"]
    return load_data(options.parse(list(map(str, flags))))


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


TABLES = ["manifest.csv", "manifest.csv", "metadata.json", "metadata.json", "files.csv",
          "problems.csv", "splits/random.csv"]  # fmt: skip


@sizes(30, 700)
def test_tables_of_a_set(copy, examples, capsys):
    def check(draw):
        path = copy / draw(st.sampled_from(TABLES))
        content = path.read_bytes()
        damage = json_of if path.suffix == ".json" else table_of
        damage = draw(st.sampled_from([damage, damage, damage, None]))
        damaged = damage(draw, content.decode()) if damage else bytes_of(draw, content)
        path.write_bytes(damaged)
        try:
            refused(look_at, copy)
            refused(verify.check, copy)
        finally:
            path.write_bytes(content)

    attack(examples, check)
    look_at(copy)


@sizes(10, 250)
def test_files_of_a_set(copy, examples, capsys):
    """Read by the loader, they may have another value in them; verify.py knows of every change."""
    paths = sorted(p for p in copy.rglob("*") if p.suffix in (".jpg", ".npy"))

    def check(draw):
        path = draw(st.sampled_from(paths))
        content = path.read_bytes()
        damaged = bytes_of(draw, content)
        path.write_bytes(damaged)
        try:
            refused(look_at, copy)
            assert damaged == content or refused(verify.check, copy)
        finally:
            path.write_bytes(content)

    attack(examples, check)


@sizes(60, 400)
def test_own_table(raw, examples, tmp_path):
    text = (raw / "clips.csv").read_text()
    path = tmp_path / "mine.csv"
    flags = Namespace(raw=raw, csv=path, length=[], vocabulary=["text=10"])

    def collect():
        found = Folder.collect(flags)
        rows = read_csv(path)
        assert len(found.clips) == len(rows) - 1 == len({clip.id for clip in found.clips})
        for source in (source for clip in found.clips for source in clip.sources.values()):
            assert source.path.resolve().is_relative_to(raw.resolve())

    def check(draw):
        damage = draw(st.sampled_from([table_of, table_of, table_of, None]))
        path.write_bytes(damage(draw, text) if damage else bytes_of(draw, text.encode()))
        refused(collect)

    attack(examples, check)


@sizes(20, 150)
@pytest.mark.parametrize("part", [cremad, kinetics_sounds])
def test_published_lists(part, examples, tmp_path):
    if part is cremad:
        rows = [f"{id},{id.split('_')[2]}" for id in synthetic.cremad_ids(12)]
    else:
        rows = [f"{'-_aZ'[i % 4]}{i:06d}_x-Q_{7 * i:06d},10,{i}" for i in range(12)]
    texts = {"train": "\n".join(rows[:8]) + "\n", "test": "\n".join(rows[8:]) + "\n"}
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(text)

    def check(draw):
        name = draw(st.sampled_from(["train", "test"]))
        damage = draw(st.sampled_from([table_of, table_of, table_of, None]))
        text = texts[name]
        (tmp_path / f"{name}.csv").write_bytes(
            damage(draw, text) if damage else bytes_of(draw, text.encode())
        )
        refused(read_lists, [tmp_path], part._parse, [("id", "label")], {})
        (tmp_path / f"{name}.csv").write_text(text)

    attack(examples, check)


@pytest.fixture(scope="module")
def pool():
    """One process for decoders written in C, as prepare.py has several."""
    import multiprocessing

    from pebble import ProcessPool

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(engine.HEAVY)
    with ProcessPool(1, context=context, initializer=begin) as pool:
        yield pool
        pool.stop()


@sizes(40, 600)
def test_raw_media(raw, pool, examples, tmp_path):
    """Whatever a decoder does, the clip gets a record: what was made of it, or why nothing was."""
    flv = tmp_path / "x.flv"
    frames = synthetic.pictures(0, 2, 15, (64, 48), synthetic.Random(0))
    synthetic.write_video(flv, frames, "flv1", None)
    kinds = {".mp4": "frames", ".flv": "frames", ".wav": "audio", ".png": "image", ".npy": "array"}
    contents = {ending: (raw / f"0{ending}").read_bytes() for ending in kinds if ending != ".flv"}
    contents[".flv"] = flv.read_bytes()
    contents[".jpg"] = _jpeg(raw / "0.png")
    contents["-text.npy"] = (raw / "0-text.npy").read_bytes()
    contents["-sound.mp4"] = synthetic.kinetics_clip("x", kinetics_sounds.CLASSES[0], 0.5)
    kinds |= {".jpg": "image", "-text.npy": "tokens", "-sound.mp4": "audio"}
    recipe = recipes.named(
        {"frames": "3fps", "audio": "stft", "images": "jpeg256"},
        {kind: kind for kind in kinds.values()}, {}, {"text": 10},
    )  # fmt: skip
    out = tmp_path / "out"
    (out / ".tmp").mkdir(parents=True)

    def check(draw):
        ending = draw(st.sampled_from(sorted(contents)))
        path = tmp_path / f"damaged{ending}"
        path.write_bytes(bytes_of(draw, contents[ending]))
        source = Source(kinds[ending], path, vocabulary=10)
        clip = Clip("clip", "cat", "", {"it": source})
        record = engine._result(pool.schedule(convert_clip, [clip, recipe, out], timeout=60), clip)
        assert bool(record.problem) != bool(record.modalities)
        if record.problem:
            _, word, detail = record.problem
            assert word and detail and word != "timeout"
        else:
            assert record.modalities["it"].files

    attack(examples, check)


def _jpeg(path: Path) -> bytes:
    import cv2

    return cv2.imencode(".jpg", cv2.imread(str(path)))[1].tobytes()


@sizes(40, 200)
def test_journal(whole, raw, examples, tmp_path):
    """A damaged line is one of a clip that was not made; the others keep what they say."""
    text = (whole / "journal.jsonl").read_text()
    head = json.loads(text.splitlines()[0])
    copy = shutil.copytree(whole, tmp_path / "set")
    flags = Namespace(raw=raw, csv=None, length=[], vocabulary=["text=10"])
    clips = Folder.collect(flags).clips

    def go_on():
        journal = Journal(copy, head["dataset"], head["recipe"])
        for clip in clips:
            if journal.has(clip):
                journal.relabel(clip)
            else:
                journal.forget(clip.id)
        for record in journal.good():
            manifest_row(record)
        list(twins(journal.good()))

    def check(draw):
        damage = draw(st.sampled_from([lines_of, lines_of, None]))
        damaged = damage(draw, text) if damage else bytes_of(draw, text.encode())
        (copy / "journal.jsonl").write_bytes(damaged)
        refused(go_on)

    attack(examples, check)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on cgdigits, as small as it gets."""
    folder = tmp_path_factory.mktemp("runs") / "compared"
    flags = ["--dataset", "cgdigits", "--encoder", "cnn", "--batch_size", "16", "--limit_batches",
             "2", "--epochs", "2", "--train_size", "40"]  # fmt: skip
    name = "uniform-s0"
    train.main(["--method", "uniform", *flags, "--out", str(folder / name)])
    return folder, name, flags


@sizes(12, 200)
def test_checkpoints(run, examples, tmp_path, capsys):
    folder, name, flags = run
    copy = shutil.copytree(folder / name, tmp_path / "run")
    (copy / "result.json").unlink()
    content = (copy / "last.pt").read_bytes()
    state = tensors.read(copy / "last.pt")
    logs = {log: (copy / log).read_bytes() for log in state["logs"]}
    again = ["--method", "uniform", *flags, "--out", str(copy), "--resume", "--epochs", "3"]

    evaluate.main([str(copy / "last.pt"), "--limit_batches", "1"])

    def damaged_state(draw):
        """Fields changed, tensors among them."""
        changed = {key: _copied(value) for key, value in state.items()}
        how = draw(st.sampled_from(["fields", "fields", "tensor"]))
        if how == "fields":
            return fields_of(draw, changed, changes=1)
        place = changed[draw(st.sampled_from(["model", "optimizer", "rng"]))]
        while not isinstance(place, torch.Tensor):
            parent, keys = place, list(place) if isinstance(place, dict) else range(len(place))
            if not keys:
                return changed
            key = draw(st.sampled_from(list(keys)))
            place = place[key]
            if not isinstance(place, dict | list | torch.Tensor):
                return changed
        parent[key] = draw(st.sampled_from([
            place.flatten()[:0], place.double(), place[None], torch.zeros(()), place.flatten()[:1],
            place.expand(2, *place.shape), place.to_sparse(), place.bool(), 3, None, "x",
        ]))  # fmt: skip
        return changed

    def check(draw):
        if draw(st.booleans()):
            (copy / "last.pt").write_bytes(bytes_of(draw, content))
        else:
            torch.save(damaged_state(draw), copy / "last.pt")
        refused(evaluate.main, [str(copy / "last.pt"), "--limit_batches", "1"])
        refused(train.main, again)
        for log, text in logs.items():
            (copy / log).write_bytes(text)
        (copy / "last.pt").write_bytes(content)
        (copy / "result.json").unlink(missing_ok=True)
        shutil.copy(folder / name / "config.json", copy / "config.json")

    attack(examples, check)


def _copied(value):
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


@sizes(15, 300)
def test_files_of_a_run(run, examples, capsys, monkeypatch):
    """compare.py makes its table of them, and --resume goes by them."""
    monkeypatch.setattr(figures, "write", lambda *arguments: None)  # it takes the time
    folder, name, flags = run
    names = ["config.json", "result.json", "epochs.jsonl"]
    collect = ["--methods", "uniform", "--seeds", "0", "--collect", "--out", str(folder), *flags]
    again = ["--method", "uniform", *flags, "--out", str(folder / name), "--resume"]
    compare.main(collect)

    def damaged(draw, path):
        damage = lines_of if path.suffix == ".jsonl" else json_of
        return damage(draw, path.read_text())

    def use(path):
        refused(compare.main, collect)
        if path.name != "epochs.jsonl":
            refused(train.main, again)

    attack_files(examples, [folder / name / file for file in names], damaged, use)
