"""Clips that lack modalities, from the table to the accuracies."""

from mmpareto.system import tensors

import csv
import json
import re

import numpy as np
import pytest
import torch
from sets import contents, error_of, prepare_set

import evaluate
import train
import verify
from mmpareto.data import standard
from mmpareto.data.batches import loader
from mmpareto.datasets.folder import Folder
from mmpareto.datasets.shared import prepared
from mmpareto.datasets.shared.prepared import PreparedSplit
from mmpareto.run import corruption, options, setup
from mmpareto.system.errors import UserError

COUNT = 80
NAMES = "pose", "sound", "text"


def having(i):
    """Which of NAMES clip i has; the first has no pose, and the kind of pose is still found."""
    return [True, True, True] if i % 4 == 3 else [i % 4 != 0, i % 4 != 1, i % 4 != 2 and i % 8 != 0]


def write_raw(root):
    root.mkdir()
    random = np.random.default_rng(0)
    label = np.arange(COUNT) // 8 % 2
    pose = random.normal(size=(COUNT, 2, 3)) + 2 * label[:, None, None]
    np.save(root / "pose.npy", pose)
    np.save(root / "sound.npy", random.normal(size=(COUNT, 3)) + label[:, None])
    np.save(root / "text.npy", random.integers(1, 9, (COUNT, 4)))
    lines = ["id,label,split,pose,sound,text:tokens"]
    for i in range(COUNT):
        part = ("train", "train", "train", "val", "test")[i // 16]
        cells = [
            f"{name}.npy#{i}" if there else "" for name, there in zip(NAMES, having(i), strict=True)
        ]
        lines.append(f"c{i:02},{'ab'[label[i]]},{part},{','.join(cells)}")
    (root / "clips.csv").write_text("\n".join(lines))
    return root


FLAGS = "--vocabulary", "text=9", "--missing"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("missing") / "raw")


@pytest.fixture(scope="module")
def out(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("missing") / "set"
    prepare_set("folder", raw, out, *FLAGS)
    return out


def words(out, folder, *more, method="uniform"):
    return ["--dataset", str(out), "--method", method, "--batch_size", "8", "--epochs", "2",
            "--out", str(folder), *map(str, more)]  # fmt: skip


def splits(out):
    return Folder.load(options.parse(words(out, "x"))).splits


class TestTable:
    def test_the_set_says_what_is_missing(self, out, capsys):
        verify.check(out, full=True)
        assert "Missing  pose 20, sound 20, text 30 of 80 clips" in capsys.readouterr().out
        data = Folder.load(options.parse(words(out, "x")))
        note = "Missing  pose 20, sound 20, text 30 of 80; Acc_NAME counts the samples that have "
        assert note + "NAME" in data.notes
        assert data.modalities["pose"].kind == "array"

    def test_samples(self, raw, out, monkeypatch):
        """Held, streamed or in a subset: the rows that are there are those of the raw arrays."""
        for share in (1, 0):
            monkeypatch.setattr(prepared, "SHARE", share)
            split = splits(out)["val"]
            assert split.hold() == bool(share)
            part = split.subset([9, 0, 4])
            (batch,) = loader(part, 3)
            for k, name in enumerate(NAMES):
                values = np.load(raw / f"{name}.npy")
                rows = [place for place, i in enumerate((57, 48, 52)) if having(i)[k]]
                assert batch.present.rows[name].tolist() == rows
                for place, i in enumerate((57, 48, 52)):
                    found = batch.inputs[name][place]
                    expected = torch.tensor(values[i]).to(found)
                    if place in rows:
                        assert torch.equal(found, expected)
                    else:
                        assert found.isnan().all() or not found.any()

    def test_arrays_are_standardised_by_those_that_are_there(self, raw, out):
        plain = Folder.load(options.parse(words(out, "x")))
        assert Folder.has_arrays(out)
        values = np.load(raw / "pose.npy").astype(np.float32)
        rows = values[[i for i in range(48) if having(i)[0]]].reshape(-1, 3)  # axes: time, columns
        data = standard.standardised(plain, standard.measured(plain))
        mean, deviation = data.standard["pose"].numpy()
        np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-5)
        np.testing.assert_allclose(deviation, rows.std(0), rtol=1e-5)
        assert torch.equal(data.splits["val"].present, plain.splits["val"].present)

    def test_arrays_are_read_once(self, out, monkeypatch):
        """Those that are trained on; of --train_size 16 no more than 16 stay in memory."""
        seen, read = [], PreparedSplit._read

        def known(self, name, *rest):
            seen.append(name)
            return read(self, name, *rest)

        monkeypatch.setattr(PreparedSplit, "_read", known)
        for more, times in (([], 1), (["--train_size", 16], 2)):
            split = setup.load_data(options.parse(words(out, "x", *more))).splits["train"]
            loader(split, 8)
            assert seen.count("pose") == times and len(split.split.held["pose"][0]) <= len(split)
            seen.clear()

    @pytest.mark.parametrize(
        ("old", "new", "flags", "message"),
        [
            ("c01,", "c01,", FLAGS[:2], "line 2: pose is empty: give a path below --raw; if clips"),
            (",sound.npy#8,", ",,", FLAGS, "line 10: c08 has no modality: fill a cell, or delete"),
            (r"pose.npy#\d+", "", FLAGS, "every cell of pose is empty: give paths, or delete it"),
        ],
    )
    def test_wrong_tables(self, raw, tmp_path, old, new, flags, message):
        (tmp_path / "clips.csv").write_text(re.sub(old, new, (raw / "clips.csv").read_text()))
        given = *flags, "--csv", tmp_path / "clips.csv"
        assert message in error_of("folder", raw, tmp_path / "set", *given)
        assert not (tmp_path / "set").exists()

    @pytest.mark.slow
    def test_a_bad_file_is_not_missing(self, raw, tmp_path):
        """Its clip is left out, as ever."""
        text = (raw / "clips.csv").read_text()
        (tmp_path / "clips.csv").write_text(text.replace("sound.npy#3,", "sound.npy#99,"))
        given = *FLAGS, "--csv", tmp_path / "clips.csv", "--max_bad", 0.1
        found = prepare_set("folder", raw, tmp_path / "set", *given)
        assert found["counts"]["clips"] == COUNT - 1
        assert found["counts"]["lacking"] == {"pose": 20, "sound": 20, "text": 30}

    @pytest.mark.slow
    def test_emptied_and_filled_again(self, raw, tmp_path):
        """A repeated call makes the set that a first one makes."""
        text = (raw / "clips.csv").read_text()
        (tmp_path / "clips.csv").write_text(text)
        given = *FLAGS, "--csv", tmp_path / "clips.csv"
        prepare_set("folder", raw, tmp_path / "set", *given)
        before = contents(tmp_path / "set")
        (tmp_path / "clips.csv").write_text(text.replace("sound.npy#3,", ","))
        prepare_set("folder", raw, tmp_path / "set", *given)
        assert contents(tmp_path / "set")["manifest.csv"] != before["manifest.csv"]
        (tmp_path / "clips.csv").write_text(text)
        prepare_set("folder", raw, tmp_path / "set", *given)
        assert contents(tmp_path / "set") == before

    def test_an_edited_manifest(self, raw, out, tmp_path, capsys):
        """A cell that was emptied by hand is a finding, and no row may be empty."""
        copy = tmp_path / "set"
        prepare_set("folder", raw, copy, *FLAGS)
        manifest = (copy / "manifest.csv").read_text()
        line = next(s for s in manifest.splitlines() if s.startswith("c03,"))
        pose = line.split(",")[3]
        counts = "clips without sound: 21 found, metadata.json says 20"
        for cells, message in (
            ("c03,a,,,,", "clip without any modality: c03"), (f"c03,a,,{pose},,", counts),
        ):  # fmt: skip
            (copy / "manifest.csv").write_text(manifest.replace(line, cells))
            with pytest.raises(UserError):
                verify.check(copy)
            assert message in capsys.readouterr().out

    def test_a_part_without_a_modality(self, out, tmp_path):
        ids = [f"c{i:02}" for i in range(0, COUNT, 4)]
        parts = [f"{id},{'test' if n < 3 else 'train'}" for n, id in enumerate(ids)]
        (out / "splits/poor.csv").write_text("id,split\n" + "\n".join(parts))
        with pytest.raises(UserError, match="no clip of train has pose: choose another split"):
            train.main(words(out, tmp_path / "run", "--split", "poor"))
        (out / "splits/poor.csv").unlink()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--method ogm_ge", "--method ogm_ge: samples of set lack modalities, which it cannot"),
        ("--fusion film", "--fusion film: .*: choose one of concat, sum, cosine, mean"),
        ("--sync_bn", "--sync_bn: samples of set lack modalities, and a process may have none"),
    ],
)
def test_refused_before_training(out, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        train.main(words(out, tmp_path / "run", *flags.split()))
    assert not (tmp_path / "run").exists()


def test_donors_have_the_modality(out):
    split = splits(out)["train"]
    for k in range(3):
        own = split.present[:, k].nonzero().squeeze(1).tolist()
        donors = corruption.donors_of(split, k, 0)
        assert sorted(donors[i] for i in own) == own and all(donors[i] != i for i in own)


@pytest.fixture(scope="module")
def done(out, tmp_path_factory):
    folder = tmp_path_factory.mktemp("missing") / "run"
    train.main(words(out, folder))
    return folder


@pytest.mark.slow
class TestRun:
    def test_trains(self, out, tmp_path):
        more = ["--workers", 2, "--precision", "bf16", "--fusion", "mean", "--accumulate", 2]
        train.main(words(out, tmp_path / "run", *more, method="mmpareto"))
        steps = (tmp_path / "run/steps.jsonl").read_text().splitlines()
        assert steps and not any(json.loads(step)["skipped"] for step in steps)

    def test_resumed_and_streamed_runs_are_the_same(self, out, done, tmp_path, monkeypatch):
        folder = tmp_path / "run"
        train.main(words(out, folder, "--epochs", 1))
        monkeypatch.setattr(prepared, "SHARE", 0)
        train.main(words(out, folder, "--resume", "--workers", 1))
        found, wanted = (tensors.read(f / "last.pt")["model"] for f in (folder, done))
        assert all(torch.equal(x, found[name]) for name, x in wanted.items())

    def test_accuracy_by_pattern(self, out, done, tmp_path, capsys):
        """The table, the predictions and the features, against the samples one by one."""
        capsys.readouterr()
        files = tmp_path / "p.csv", tmp_path / "f.npz"
        more = ["--robustness", "--contribution", "--per_class"]
        evaluate.main([str(done / "last.pt"), "--predictions", str(files[0]),
                       "--features", str(files[1]), *more])  # fmt: skip
        said = capsys.readouterr().out
        with open(files[0]) as file:
            rows = list(csv.DictReader(file))
        there = {f"c{i:02}": having(i) for i in range(64, COUNT)}
        assert len(rows) == 16 and "absent ones masked as in training" in said
        patterns = {}
        for row in rows:
            patterns.setdefault(tuple(there[row["id"]]), []).append(row)
            for name, has in zip(NAMES, there[row["id"]], strict=True):
                assert bool(row[f"prediction_{name}"]) == bool(row[f"probability_{name}"]) == has
        for pattern, own in patterns.items():
            names = [name for name, has in zip(NAMES, pattern, strict=True) if has]
            cells = [" + ".join(names) + " only" * (len(names) == 1), str(len(own))]
            for kind in ["prediction", *(f"prediction_{name}" for name in NAMES)]:
                right = [row[kind] == row["label"] for row in own if row[kind]]
                cells.append(f"{sum(right) / len(right):.4f}" if right else "-")
            assert re.search(r"^" + r" +".join(map(re.escape, cells)) + "$", said, re.M), cells
        for name in NAMES:
            own = [row for row in rows if row[f"prediction_{name}"]]
            right = sum(row[f"prediction_{name}"] == row["label"] for row in own) / len(own)
            assert re.search(rf"^{name} +{right:.4f} ", said, re.M)
            features = np.load(files[1])[f"features_{name}"]
            assert np.isnan(features).all(1).tolist() == [
                not row[f"prediction_{name}"] for row in rows
            ]
        with pytest.raises(UserError, match="--linear_probe: samples of set lack modalities"):
            evaluate.main([str(done / "last.pt"), "--linear_probe"])
