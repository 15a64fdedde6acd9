"""verify.py finds what is wrong with a prepared set, and training reads only what is right."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from sets import contents, rows, write_arrays

import train
import verify
from mmpareto.data.batches import ShuffledBatches, loader
from mmpareto.run import options
from mmpareto.run.setup import load_data
from mmpareto.system.errors import UserError


def findings(folder, capsys, **how):
    """The kinds of finding that verify.py prints."""
    with pytest.raises(UserError, match=r"findings of \d+ kinds") as caught:
        verify.check(folder, **how)
    assert "\n" not in str(caught.value)
    lines = capsys.readouterr().out.splitlines()
    return [line.removeprefix("FAILED").strip() for line in lines if line.startswith("FAILED")]


def overlap(folder):
    """Return the actors in both train and test, and the actors in test."""
    parts = {"train": set(), "test": set(), "val": set()}
    for id, part in rows(folder / "splits/random.csv"):
        parts[part].add(id[:4])
    return len(parts["train"] & parts["test"]), parts["test"]


def some(folder, pattern):
    return sorted(folder.glob(pattern))[3]


class TestVerify:
    def test_a_copy_elsewhere_is_whole(self, copy, capsys):
        before = contents(copy)
        verify.main([str(copy), "--full"])
        out = capsys.readouterr().out
        assert "OK       every file checked" in out and "24 in 6 classes" in out
        shared, tested = overlap(copy)
        assert 0 < shared <= len(tested)
        assert f"test 6; {shared} of {len(tested)} groups in test also in train" in out
        assert contents(copy) == before

    def test_hand_made_split(self, copy, capsys):
        """Without full, sizes of all files are compared, and contents of at least a hundred."""
        ids = [row[0] for row in rows(copy / "manifest.csv")]
        lines = [f"{id},{('train', 'test')[i % 2]}" for i, id in enumerate(ids)]
        (copy / "splits/mine.csv").write_text("id,split\n" + "\n".join(lines) + "\n")
        verify.check(copy)
        out, count = capsys.readouterr().out, len(rows(copy / "files.csv"))
        assert "Split    mine: train 12, test 12" in out
        assert count > 100 and re.search(rf"Files    {count}, .*; 100 of them read whole", out)

    @pytest.mark.parametrize(
        ("damage", "finding"),
        [
            (lambda s: some(s, "audio/*/*.npy").unlink(), "missing file: audio/"),
            (lambda s: cut(some(s, "visual/*/*/*.jpg")), "another size than when it was prepared"),
            (lambda s: flip(some(s, "audio/*/*.npy")), "damaged: another sha256"),
            (lambda s: pointer(some(s, "audio/*/*.npy")), "Git LFS pointer instead of the file"),
            (lambda s: (s / "audio/extra.npy").write_bytes(b"x"), "file that no table lists"),
            (lambda s: edit(s / "manifest.csv", ",ANG,", ",JOY,"), "label that is no class"),
            (lambda s: edit(s / "manifest.csv", ",group", ",actor"), "unreadable table"),
            (lambda s: edit(s / "splits/random.csv", "1001_", "2001_"), "clip of a split that is"),
            (lambda s: edit(s / "splits/random.csv", ",val", ",train"), "edited or damaged since"),
            (lambda s: edit(s / "splits/random.csv", ",train", ",training"), "unreadable split"),
            (lambda s: edit(s / "metadata.json", '"fps": 3', '"fps": 4'), "recipe is not what"),
            (lambda s: edit(s / "files.csv", "audio/", "audio/x"), "edited or damaged since"),
            (lambda s: (s / "problems.csv").unlink(), "unreadable table"),
        ],
    )
    def test_damage(self, copy, capsys, damage, finding):
        damage(copy)
        found = findings(copy, capsys, full=True)
        assert any(line.startswith(finding) for line in found), found

    def test_no_set(self, copy, tmp_path):
        (copy / "metadata.json").unlink()
        with pytest.raises(UserError, match="preparation has not finished"):
            verify.check(copy)
        with pytest.raises(UserError, match="is no prepared set"):
            verify.check(tmp_path)
        (copy / "metadata.json").write_text("{")
        with pytest.raises(UserError, match=r"metadata\.json: is no metadata"):
            verify.check(copy)

    @pytest.mark.parametrize(
        ("key", "value"),
        [("schema", 9), ("classes", None), ("classes", "ANG"), ("modalities", ["audio"]),
         ("modalities", {"audio": {"kind": "spectrogram"}}), ("modalities", {"audio": None}),
         ("splits", None), ("sha256", None), ("counts", None), ("recipe", 1)],
    )  # fmt: skip
    def test_metadata_of_another_form(self, one_set, tmp_path, key, value):
        metadata = json.loads((one_set / "metadata.json").read_text()) | {key: value}
        (tmp_path / "metadata.json").write_text(json.dumps(metadata))
        with pytest.raises(UserError, match="is no metadata of a prepared set"):
            verify.check(tmp_path)

    @pytest.mark.parametrize("size", ["", "abc", "1e3"])
    def test_sizes_that_are_no_numbers(self, copy, capsys, size):
        row = (copy / "files.csv").read_text().splitlines()[1]
        edit(copy / "files.csv", row, ",".join([row.split(",")[0], size, row.split(",")[2]]))
        assert any(line.startswith("another size") for line in findings(copy, capsys))


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\n")


def edit(path: Path, old: str, new: str):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


QUICK = ["--encoder", "cnn", "--epochs", "1", "--batch_size", "4", "--limit_batches", "2"]


class TestTraining:
    def data(self, folder, *flags):
        return load_data(options.parse(["--dataset", str(folder), "--batch_size", "4", *flags]))

    def test_shapes_and_header(self, one_set, tmp_path, capsys):
        data = self.data(one_set, "--num_frames", "3", "--image_size", "32")
        inputs, targets = data.splits["train"].read([0, 5], draw=1)
        assert inputs["visual"].shape == (2, 3, 3, 32, 32) and inputs["visual"].dtype == torch.uint8
        assert inputs["audio"].shape == (2, 1, 257, 188)
        assert targets.tolist() == data.splits["train"].targets[[0, 5]].tolist()
        words = ["--dataset", str(one_set), *QUICK, "--image_size", "32", "--split", "random"]
        train.main([*words, "--out", f"{tmp_path}/r"])
        out = capsys.readouterr().out
        recipe = json.loads((one_set / "metadata.json").read_text())["recipe_hash"]
        sizes = "train 12, val 6, test 6"
        assert re.search(rf"Data     cremad, recipe {recipe}, identity \w+: {sizes}", out)
        shared, tested = overlap(one_set)
        assert "Split    random" in out
        assert f"Groups   {shared} of {len(tested)} in test also in train" in out

    def test_workers_and_place_change_nothing(self, one_set, copy):
        """Samples follow from seed, epoch and clip: not from the process, nor from the folder."""
        batches = []
        for folder, workers in ((one_set, 0), (copy, 2)):
            split = self.data(folder, "--image_size", "32").splits["train"]
            order = ShuffledBatches(len(split), 4, seed=3)
            batches.append([inputs for inputs, *_ in loader(split, order, workers=workers)])
        for one, other in zip(*batches, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)

    def test_two_folders_are_two_datasets(self, tmp_path):
        """Runs carry the name of the set, and one set's run is not taken for the other's."""
        folders = [write_arrays(tmp_path / name, labels=(0, 1) * 3) for name in ("one", "two")]
        one, two = (options.parse(["--dataset", str(folder)]) for folder in folders)
        assert one.out.name.startswith("one-mmpareto-s0-")
        assert options.changes(options.as_config(one), options.as_config(two))[0].startswith(
            f"data_root was {tmp_path / 'one'}"
        )
        (tmp_path / "other").mkdir()
        moved = folders[0].rename(tmp_path / "other/one")  # it is the same set, elsewhere
        there = options.parse(["--dataset", str(moved), "--out", str(one.out)])
        assert not options.changes(options.as_config(one), options.as_config(there))
        shutil.copytree(moved, folders[0])  # both are there: they may differ
        assert options.changes(options.as_config(one), options.as_config(there))

    def test_excluded_clips_of_a_split_are_told(self, copy):
        """A clip that preparing left out may be in a list; one nobody knows may not."""
        with open(copy / "splits/random.csv", "a") as file:
            file.write("1091_WSI_SAD_XX,test\n")
        with pytest.raises(UserError, match="1 of its clips are not in the set"):
            self.data(copy, "--split", "random")
        with open(copy / "problems.csv", "a") as file:
            file.write("1091_WSI_SAD_XX,,excluded,known_bad,\n")
        data = self.data(copy, "--split", "random")
        assert data.notes[0] == "Split    random; 1 of its clips are excluded, see problems.csv"
        assert len(data.splits["test"]) == 6

    @pytest.mark.parametrize("workers", ["0", "2"])
    def test_missing_file_is_one_line(self, copy, tmp_path, workers):
        shutil.rmtree(copy / "visual")
        with pytest.raises(UserError, match=r"\.jpg: cannot be read .*code/verify\.py") as caught:
            train.main(
                ["--dataset", str(copy), *QUICK, "--workers", workers, "--out", f"{tmp_path}/r"]
            )
        assert "\n" not in str(caught.value)

    def test_no_number_of_stills(self, copy):
        row = (copy / "manifest.csv").read_text().splitlines()[1]
        edit(copy / "manifest.csv", row, row.rpartition(",")[0] + ",x")
        with pytest.raises(UserError, match="has no number of stills"):
            self.data(copy)

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--split", "nonsense"], "choose one of group, random"),
            (["--data_root", "x"], "is a folder, so --data_root has no use: drop --data_root"),
            (["--num_frames", "0"], "not a positive whole number"),
        ],
    )
    def test_refused_flags(self, one_set, flags, message):
        with pytest.raises(UserError, match=message):
            self.data(one_set, *flags)

    def test_other_names_of_datasets(self, one_set, tmp_path):
        assert options.parse(["--dataset", "CREMAD"]).dataset == "cremad"
        assert options.parse(["--dataset", "KineticSound"]).dataset == "kinetics_sounds"
        with pytest.raises(UserError, match="is no prepared set"):
            options.parse(["--dataset", str(tmp_path)])
        with pytest.raises(UserError, match="it holds cremad, not modelnet40: give --dataset"):
            load_data(options.parse(["--dataset", "modelnet40", "--data_root", str(one_set)]))
