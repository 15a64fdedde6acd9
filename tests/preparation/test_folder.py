"""The user's own data, described by one CSV file."""

import json
import pickle
import shutil
from argparse import ArgumentParser, Namespace

import numpy as np
import pytest
from sets import SMALL, contents, error_of, prepare_set, rows, write_folder

from mmpareto.benchmarks import synthetic
from mmpareto.data.clips import Bad, Source
from mmpareto.data.layout import read_metadata
from mmpareto.datasets.folder import Folder
from mmpareto.preparation.arrays import load_array
from mmpareto.run import options


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("own") / "raw", 12, seconds=0.5)


@pytest.fixture(scope="module")
def own_set(own, tmp_path_factory):
    out = tmp_path_factory.mktemp("own") / "set"
    prepare_set("folder", own, out)
    return out


class TestFolder:
    @pytest.fixture
    def raw(self, own, tmp_path):
        return shutil.copytree(own, tmp_path / "raw")

    @pytest.fixture
    def out(self, own_set, tmp_path):
        return shutil.copytree(own_set, tmp_path / "set")

    def edit(self, raw, change):
        path = raw / "clips.csv"
        path.write_text(change(path.read_text()))

    def test_kinds_from_names(self, own_set):
        metadata = json.loads((own_set / "metadata.json").read_text())
        assert metadata["modalities"] == {
            "film": {"kind": "frames"}, "voice": {"kind": "spectrogram", "shape": [257, 188]},
            "pose": {"kind": "array", "shape": [10]},
        }  # fmt: skip
        assert metadata["classes"] == ["cat", "dog", "owl"]

    def test_given_split_and_kinds(self, raw, tmp_path):
        """A sound track out of a video, rows of one packed array, and the user's own split."""
        np.save(raw / "all.npy", np.arange(36, dtype=np.int16).reshape(12, 3))
        frames = synthetic.pictures(0, 3, 12, SMALL, synthetic.Random(0))
        sound = synthetic.tone(0, 1.0, 44100, synthetic.Random(1))
        synthetic.write_video(raw / "it.mp4", frames, "libx264", sound)
        lines = ["id,split,label,film,sound:audio,row:array"]
        for i in range(12):
            part = ("train", "train", "val", "test")[i % 4]
            lines.append(f"clip-{i},{part},{'ab'[i % 2]},it.mp4,it.mp4,all.npy#{i}")
        (raw / "clips.csv").write_text("\r\n".join(lines))
        metadata = prepare_set("folder", raw, tmp_path / "set")
        assert metadata["splits"][0] == "given"
        assert dict(rows(tmp_path / "set/splits/given.csv"))["clip-2"] == "val"
        row = next(r for r in rows(tmp_path / "set/manifest.csv") if r[0] == "clip-5")
        file, _, number = row[-1].partition("#")
        assert np.load(tmp_path / "set" / file)[int(number)].tolist() == [15, 16, 17]

    @pytest.mark.parametrize(
        ("group_of", "whole"),
        [(lambda i: i // 3, True), (lambda i: i % 5, False), (lambda i: i, False), (None, False)],
        ids=["kept apart", "in both parts", "single clips", "none"],
    )
    def test_validation_keeps_groups_as_the_list_does(self, tmp_path, group_of, whole):
        np.save(tmp_path / "x.npy", np.zeros((90, 2)))
        lines = ["id,label,split,group,x:array"]
        for i in range(90):
            group = group_of(i) if group_of else ""
            part = "train" if i < 60 else "test"
            lines.append(f"clip-{i},{'ab'[i // 6 % 2]},{part},{group},x.npy#{i}")
        (tmp_path / "clips.csv").write_text("\n".join(lines))
        Folder.add_prepare_flags(parser := ArgumentParser())
        flags = parser.parse_args([])
        flags.raw = tmp_path
        drawn = {int(id.split("-")[1]) for id in Folder.collect(flags).held_out["given"]}
        assert bool(drawn) == whole
        if whole:
            assert drawn == {i for i in range(60) if i // 3 in {j // 3 for j in drawn}}
            assert len(drawn) == 6 and {i // 6 % 2 for i in drawn} == {0, 1}

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("id,label", "name,label", "column id not found"),
            ("film,voice", "film,film", "share a name: rename one"),
            ("film,voice", "2d,voice", "'2d' cannot be a modality's name"),
            ("film,voice", "film:movie,voice", "audio, text, array, flow, tokens expected"),
            ("clip-3,", "clip-2,", "line 5: id clip-2 is also in line 4"),
            ("clip-3,", "clip/3,", "line 5: id 'clip/3'"),
            (",3.mp4", ",/etc/3.mp4", "line 5: film '/etc/3.mp4': a path below --raw"),
            (",3.mp4", ",../3.mp4", "line 5: film '../3.mp4': a path below --raw"),
            (",3.mp4", ",30.mp4", "line 5: film '30.mp4': not found in"),
            (",3.mp4", "", "line 5: 5 values found, 6 expected"),
            ("clip-3,cat", "clip-3,", "line 5: column label is empty"),
            (",3.npy", ",3.npy#x", "a row number expected after #"),
            (",3.npy", ",3.pkl", "3.pkl' is a Python pickle, array expects .npy: write the"),
            (",0.npy", ",0.TXT", "0.TXT' is a text file, array expects .npy"),
            (",3.mp4", ",3.jpg", "3.jpg' is one picture, frames are a video or a folder"),
            ("label,group", "label,split", "split '0', one of train, val, test"),
            *(
                ("pose", name, "cannot be a modality's name")
                for name in ("training", "items", "heads", "fusion", "splits", "_x")
            ),
        ],
    )
    def test_wrong_tables(self, own, tmp_path, old, new, message):
        text = (own / "clips.csv").read_text()
        assert old in text
        (tmp_path / "clips.csv").write_text(text.replace(old, new, 1))
        flags = ("--csv", tmp_path / "clips.csv")
        assert message in error_of("folder", own, tmp_path / "set", *flags)
        assert not (tmp_path / "set").exists()

    def test_tables_of_spreadsheets_and_of_macos(self, raw, tmp_path):
        """Semicolons, tabs, and accented letters as one character or two name the same clips."""

        def clips():
            flags = {"raw": raw, "csv": None, "length": [], "vocabulary": []}
            return Folder.collect(Namespace(**flags)).clips

        table = raw / "clips.csv"
        text, before = table.read_text(), clips()
        for delimiter in ";\t":
            table.write_text(text.replace(",", delimiter))
            assert clips() == before
        long, short = "e\u0301", "\u00e9"
        for name, file in (long, short), (short, long):
            (raw / "3.npy").rename(raw / f"{file}.npy")
            table.write_text(text.replace("3.npy", f"{name}.npy").replace("cat", "chat" + name, 2))
            found = clips()
            assert found[3].sources["pose"].path == raw / f"{file}.npy"
            assert {clip.label for clip in found} == {"chat" + short, "cat", "dog", "owl"}
            (raw / f"{file}.npy").rename(raw / "3.npy")

    def test_flags_about_kinds_that_are_not_there(self, own, own_set, tmp_path):
        for flag, kinds in (("--tokenizer=hf:x", "text"), ("--images=original", "image")):
            message = error_of("folder", own, tmp_path / "set", flag)
            assert f": it acts on {kinds}, and no modality here is of that kind" in message
        flags = options.parse(["--dataset", str(own_set), "--crop", "none"])
        specs = read_metadata(own_set).modalities
        assert Folder._unused(specs, flags) == []
        del specs["film"]
        assert Folder._unused(specs, flags) == ["Unused   --crop: the set has no pictures"]

    def test_one_class(self, raw, tmp_path):
        self.edit(raw, lambda text: text.replace(",dog,", ",cat,").replace(",owl,", ",cat,"))
        assert "1 class found" in error_of("folder", raw, tmp_path / "set")

    def test_arrays_of_different_shapes(self, raw, tmp_path):
        np.save(raw / "4.npy", np.ones(7))
        message = error_of("folder", raw, tmp_path / "set")
        assert "clip-0 has shape (10,), clip-4 has (7,)" in message and "--length pose=N" in message
        metadata = prepare_set("folder", raw, tmp_path / "set", "--length", "pose=12")
        assert metadata["modalities"]["pose"]["shape"] == [12, 1]
        row = next(r for r in rows(tmp_path / "set/manifest.csv") if r[0] == "clip-4")
        stored = np.load(tmp_path / "set" / row[-1])[:, 0]
        assert stored[:7].tolist() == [1.0] * 7 and np.isnan(stored[7:]).all()

    def test_an_edited_table(self, raw, out, tmp_path):
        """After a changed label, a removed row and exchanged paths the set is as if made anew."""
        text = (raw / "clips.csv").read_text()
        text = text.replace("clip-1,dog", "clip-1,cat").replace("2.npy", "x.npy")
        text = text.replace("3.npy", "2.npy").replace("x.npy", "3.npy")
        text = "".join(s for s in text.splitlines(keepends=True) if not s.startswith("clip-5,"))
        (raw / "clips.csv").write_text(text)
        prepare_set("folder", raw, out)
        prepare_set("folder", raw, tmp_path / "anew")
        assert contents(out) == contents(tmp_path / "anew")
        assert not any(row[0] == "clip-5" for row in rows(out / "manifest.csv"))

    def test_a_set_survives_a_call_that_fails(self, raw, own_set, out):
        """Bad clips end the call; the set of the call before, and its table, stay as they are."""
        (raw / "4.wav").write_bytes(b"")
        message = error_of("folder", raw, out)
        assert "1 of 12 clips cannot be used" in message and "problems-of-last-call.csv" in message
        for name in ("metadata.json", "manifest.csv", "problems.csv"):
            assert (out / name).read_bytes() == (own_set / name).read_bytes()
        lines = (raw / "clips.csv").read_text().splitlines(keepends=True)
        (raw / "clips.csv").write_text("".join(s for s in lines if not s.startswith("clip-4,")))
        assert prepare_set("folder", raw, out)["counts"]["clips"] == 11
        assert not (out / "problems-of-last-call.csv").exists()

    def test_damaged_arrays(self, raw, out, tmp_path):
        """A header, another format, numbers that are not finite; a name that no file can have."""
        np.save(raw / "3.npy", np.full(10, np.nan))
        content = bytearray((raw / "4.npy").read_bytes())
        content[12] = 0xFF
        (raw / "4.npy").write_bytes(content)
        np.savez(raw / "5", a=np.ones(10))
        (raw / "5.npz").rename(raw / "5.npy")
        prepare_set("folder", raw, out, "--max_bad", 0.3)
        assert [row[:4] for row in rows(out / "problems.csv")] == [
            ["clip-3", "pose", "excluded", "not_finite"],
            ["clip-4", "pose", "excluded", "unreadable"],
            ["clip-5", "pose", "excluded", "unreadable"],
        ]
        self.edit(raw, lambda text: text.replace("3.npy", "3" * 300 + ".npy"))
        assert "File name too long" in error_of("folder", raw, tmp_path / "x")

    def test_the_default_split_stays(self, raw, out, own_set, capsys):
        """Neither a split added by hand, nor an empty cell, nor a new split group changes it."""
        shutil.copy(out / "splits/random.csv", out / "splits/mine.csv")
        for _ in range(2):
            assert prepare_set("folder", raw, out)["splits"] == ["group", "random", "mine"]
        assert "Split    group (default): train 6, val 3, test 3; 0 of 1" in capsys.readouterr().out
        self.edit(raw, lambda text: text.replace(",0,0.mp4", ",,0.mp4"))
        why, set_before = "1 of 12 clips have no group, first clip-0", contents(out)
        line = error_of("folder", raw, out)
        assert f"default split group cannot be made any more ({why}): mend" in line
        assert contents(out) == set_before
        (out / "splits/group.csv").unlink()
        assert prepare_set("folder", raw, out)["splits"] == ["random", "mine"]
        told = capsys.readouterr().out
        assert f"WARNING  there are groups, but no split group: {why}" in told
        assert "Split    random (default): " in told
        self.edit(raw, lambda text: text.replace(",,0.mp4", ",0,0.mp4"))
        assert prepare_set("folder", raw, out)["splits"] == ["random", "mine", "group"]

    def test_a_class_with_one_clip(self, raw, out):
        """All its clips train; the others are split."""
        self.edit(raw, lambda text: text.replace("clip-0,cat", "clip-0,yak"))
        metadata = prepare_set("folder", raw, out)
        assert metadata["splits"] == ["group", "random"]
        assert dict(rows(out / "splits/random.csv"))["clip-0"] == "train"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (pickle.dumps([1.0]), "a Python pickle"),
        (b"PK\3\4", "an archive of numpy.savez or torch.save"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"0.5,1.5\n", "a file that begins with b'0.5,1.'"),
    ],
)
def test_files_that_are_only_called_npy(tmp_path, content, what):
    """No message advises to unpickle one."""
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(Bad) as told:
        load_array(Source("array", tmp_path / "x.npy"))
    assert told.value.args[1] == f"x.npy: is {what}, no .npy file: write it with numpy.save"
