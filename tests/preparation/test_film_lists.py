"""AVE and VGGSound: which clips their lists name, and which splits follow.

Their films are prepared as those of Kinetics-Sounds; the pages' commands do it.
"""

import shutil

import pytest
from damage import told as told_by
from sets import error_of, prepare_set, rows

import verify
from mmpareto.benchmarks import synthetic
from mmpareto.datasets.ave import AVE
from mmpareto.datasets.vggsound import VGGSound
from mmpareto.system.flags import Parser

AVE_LISTS = {  # no newline at an end, as in the published ones
    "trainSet": "Bark&-aaaaaaaaa0&good&0&10\nBark&-aaaaaaaaa0&good&2&4\n"
    "Male speech, man speaking&_aaaaaaaa-1&good&0&2\nBark&test_aaaaa0&good&0&1\nBark&x3&good&0&10",
    "valSet": "Frying (food)&aaaaaaaaaa2&good&0&10\nBark&aaaaaaaaaa2&good&5&10",
    "testSet": "Bark&test_aaaaa0&good&0&10",
    "Annotations": "Category&VideoID&Quality&StartTime&EndTime\nBark&aaaaaaaaaa9&good&0&10",
}
VGG = """---g-f_I2yQ,1,"people marching",test
_aaaaaaaaa1,30,"dog barking, growling",train
-aaaaaaaaa2,120,zebra,train
aaaaaaaaaa3,7,zebra,test
"""


def collected(dataset, raw, *words):
    """What a dataset finds in raw files; no file of media is opened."""
    parser = Parser()
    parser.add_argument("--raw", type=type(raw))
    dataset.add_prepare_flags(parser)
    return dataset.collect(parser.parse_args(["--raw", str(raw), *map(str, words)]))


@pytest.fixture
def ave(tmp_path):
    (tmp_path / "AVE").mkdir()
    for name, text in AVE_LISTS.items():
        (tmp_path / f"{name}.txt").write_text(text.replace("&x3&", "&aaaaaaaaaa3&"))
    for id in ("-aaaaaaaaa0", "_aaaaaaaa-1", "aaaaaaaaaa2", "aaaaaaaaaa3", "test_aaaaa0", "other"):
        (tmp_path / f"AVE/{id}.mp4").touch()
    return tmp_path


@pytest.fixture
def vggsound(tmp_path):
    (tmp_path / "vggsound.csv").write_text(VGG)
    names = ("---g-f_I2yQ_1", "_aaaaaaaaa1_000030", "-aaaaaaaaa2_120_130", "aaaaaaaaaa3_7000_17000")
    for name in (*names, "aaaaaaaaaa3_000008", "aaaaaaaaaa3_7_18", "notes"):
        (tmp_path / f"{name}.mp4").touch()
    return tmp_path


class TestAVE:
    def test_lists(self, ave):
        """Events of one video are one clip, in test rather than in train; two labels are two."""
        raw = collected(AVE, ave)
        assert raw.classes == ["Bark", "Frying (food)", "Male speech, man speaking"]
        assert raw.lists["official"] == {
            "test_aaaaa0": ("test", "Bark"),
            "aaaaaaaaaa2": ("val", "Frying (food)"), "aaaaaaaaaa2-1": ("val", "Bark"),
            "-aaaaaaaaa0": ("train", "Bark"), "aaaaaaaaaa3": ("train", "Bark"),
            "_aaaaaaaa-1": ("train", "Male speech, man speaking"),
        }  # fmt: skip
        assert {clip.id: clip.label for clip in raw.clips} == {
            id: label for id, (_, label) in raw.lists["official"].items()
        }
        groups = {clip.id: clip.group for clip in raw.clips}
        assert groups["aaaaaaaaaa2-1"] == "aaaaaaaaaa2"
        assert raw.notes == [
            "lists: 3 classes, train 5, val 2, test 1; 2 lines name a clip once more",
            "WARNING: the published lists have train 3339, val 402, test 402 lines",
            "5 clips, 1 other MP4 files, 0 archives",
        ]

    @pytest.mark.parametrize(
        ("damage", "told"),
        [
            (lambda raw: (raw / "testSet.txt").unlink(), "a train and a test file are needed"),
            (lambda raw: (raw / "testSet.txt").write_text("Bark,x,good,0,10"),
             "testSet.txt, line 1: 'Bark,x,good,0,10' found, CLASS&YOUTUBEID"),
            (lambda raw: (raw / "AVE/aaaaaaaaaa2.mp4").unlink(),
             "2 of 6 listed clips (33.3%) have no raw files, first aaaaaaaaaa2, aaaaaaaaaa2-1"),
            (lambda raw: shutil.rmtree(raw / "AVE"), "no clip found in it; data/ave/README.md"),
            (lambda raw: [p.rename(p.with_stem(f"x{p.stem}")) for p in raw.glob("AVE/*.mp4")],
             "6 MP4 files, first x-aaaaaaaaa0.mp4, none named YOUTUBEID.mp4 and in --lists"),
            (shutil.rmtree, "no such folder"),
        ],
    )  # fmt: skip
    def test_bad_input(self, ave, damage, told):
        damage(ave)
        assert told in error_of("ave", ave, ave / "set")
        assert not (ave / "set").exists()


class TestVGGSound:
    def test_names_and_labels(self, vggsound):
        """Labels with commas, ids with dashes, and four ways to write a clip's name."""
        raw = collected(VGGSound, vggsound)
        assert raw.classes == ["dog barking, growling", "people marching", "zebra"]
        assert {clip.id: (clip.label, clip.group) for clip in raw.clips} == {
            "---g-f_I2yQ_000001": ("people marching", "---g-f_I2yQ"),
            "_aaaaaaaaa1_000030": ("dog barking, growling", "_aaaaaaaaa1"),
            "-aaaaaaaaa2_000120": ("zebra", "-aaaaaaaaa2"),
            "aaaaaaaaaa3_000007": ("zebra", "aaaaaaaaaa3"),
        }
        assert raw.notes == [
            "lists: 3 classes, test 2, train 2", "4 clips, 3 other MP4 files, 0 archives",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("old", "new", "told"),
        [
            ('"dog barking, growling"', "dog barking, growling", "line 2: '_aaaaaaaaa1,30,dog bar"),
            ('"dog barking, growling"', "dog barking, growling", "put a label with commas into"),
            (",30,", ",0:30,", "line 2: '_aaaaaaaaa1,0:30,dog barking, growling,train' found, an"),
            ("zebra,train", "zebra,dev", "line 3: '-aaaaaaaaa2,120,zebra,dev' found, train"),
            ("aaaaaaaaaa3,7,", "-aaaaaaaaa2,120,", "zebra,test' found: this clip is listed"),
            (",30,", ",31,", "1 of 4 listed clips (25.0%) have no raw files, first _aaaaaaaaa1_0"),
        ],
    )
    def test_bad_lists(self, vggsound, old, new, told):
        (vggsound / "vggsound.csv").write_text(VGG.replace(old, new, 1))
        assert told in error_of("vggsound", vggsound, vggsound / "set")
        assert not (vggsound / "set").exists()

    def test_no_lists(self, vggsound):
        (vggsound / "vggsound.csv").unlink()
        assert "vggsound.csv: no such file" in error_of("vggsound", vggsound, vggsound / "set")

    @pytest.mark.slow
    def test_a_list_for_others(self, vggsound, tmp_path, capsys):
        """Missing clips are counted loudly; present.csv names the rest, and makes the same set."""
        for path in vggsound.glob("*.mp4"):
            path.write_bytes(synthetic.film("x", 1, 3, 1.0))
        (vggsound / "_aaaaaaaaa1_000030.mp4").unlink()
        out, again = tmp_path / "set", tmp_path / "again"
        prepare_set("vggsound", vggsound, out, "--allow_missing")
        told = capsys.readouterr().out
        assert "WARNING: 1 of 4 listed clips (25.0%) have no raw files, first _aaaaaaaaa1_0" in told
        assert "1 excluded (1 missing)" in told
        present = (out / "present.csv").read_text()
        assert present == VGG.replace('_aaaaaaaaa1,30,"dog barking, growling",train\n', "").replace(
            "zebra", '"zebra"'
        )
        prepare_set("vggsound", vggsound, again, "--lists", out / "present.csv")
        assert rows(again / "manifest.csv") == rows(out / "manifest.csv")
        (out / "present.csv").write_text(present[:-1])
        assert "1 findings" in told_by(verify.main, [str(out)])
