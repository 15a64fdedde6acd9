"""CREMA-D: what is made of its clips and lists, and what is left out."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sets import contents, error_of, first, prepare_set, rows

from mmpareto.benchmarks import synthetic
from mmpareto.data import layout

ROOT = Path(__file__).resolve().parents[2]


class TestCremad:
    def test_tables(self, one_set):
        metadata = layout.read_metadata(one_set)
        assert metadata.classes == ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]
        assert metadata.as_json()["modalities"] == {
            "audio": {"kind": "spectrogram", "shape": [257, 188]}, "visual": {"kind": "frames"},
        }  # fmt: skip
        assert metadata.counts["per_class"] == dict.fromkeys(metadata.classes, 4)
        manifest = rows(one_set / "manifest.csv")
        assert len(manifest) == 24 and manifest == sorted(manifest)
        for id, label, group, audio, visual, stills in manifest:
            assert id.split("_")[::2][:1] == [group] and id.split("_")[2] == label
            assert np.load(one_set / audio).shape == (257, 188)
            assert len(list((one_set / visual).iterdir())) == int(stills) >= 4
        assert str(one_set.parent) not in (one_set / "metadata.json").read_text()

    @pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
    def test_any_number_of_workers_makes_the_same_files(
        self, raw_clips, one_set, tmp_path, workers
    ):
        prepare_set("cremad", raw_clips, tmp_path / "set", "--workers", workers)
        assert contents(tmp_path / "set") == contents(one_set)

    def test_again_changes_nothing(self, raw_clips, one_set):
        before = contents(one_set)
        times = {p: p.stat().st_mtime_ns for p in one_set.rglob("*.jpg")}
        prepare_set("cremad", raw_clips, one_set)
        assert contents(one_set) == before
        assert {p: p.stat().st_mtime_ns for p in one_set.rglob("*.jpg")} == times

    def test_some_of_the_clips(self, raw, tmp_path):
        """Without a list, what is there is taken; a clip with one of its files is reported."""
        gone = [first(raw, "AudioWAV").stem, sorted((raw / "VideoFlash").iterdir())[1].stem]
        (raw / "AudioWAV" / f"{gone[0]}.wav").unlink()
        (raw / "VideoFlash" / f"{gone[1]}.flv").unlink()
        (raw / "AudioWAV" / "notes.wav").write_text("not a clip")
        metadata = prepare_set("cremad", raw, tmp_path / "set")
        assert metadata["counts"]["clips"] == 22
        assert sorted(rows(tmp_path / "set/problems.csv")) == [
            [gone[0], "audio", "excluded", "missing", "no such raw file"],
            [gone[1], "visual", "excluded", "missing", "no such raw file"],
        ]

    def test_known_bad_and_misnamed(self, raw, tmp_path):
        for folder, ending in (("AudioWAV", "wav"), ("VideoFlash", "flv")):
            source = first(raw, folder)
            shutil.copy(source, source.with_name(f"1076_MTI_SAD_XX.{ending}"))
        shutil.copy(first(raw, "AudioWAV"), raw / "AudioWAV/1040_ITH_SAD_X.wav")  # as of 2022
        shutil.copy(first(raw, "VideoFlash"), raw / "VideoFlash/1040_ITH_SAD_XX.flv")
        prepare_set("cremad", raw, tmp_path / "set")
        ids = [row[0] for row in rows(tmp_path / "set/manifest.csv")]
        assert "1040_ITH_SAD_XX" in ids and "1076_MTI_SAD_XX" not in ids
        problems = rows(tmp_path / "set/problems.csv")
        assert [row[2:4] for row in problems if row[0] == "1076_MTI_SAD_XX"] == [
            ["excluded", "known_bad"]
        ]
        # the copy has another label than the clip whose sound it is
        assert [row[2:4] for row in problems if row[3] == "duplicate"] != []

    def test_sound_and_picture_of_different_length(self, raw, tmp_path):
        source = first(raw, "AudioWAV")
        samples = np.zeros(16000 * 8, np.float32) + 0.1
        synthetic.soundfile.write(source, samples, 16000)
        prepare_set("cremad", raw, tmp_path / "set")
        (row,) = rows(tmp_path / "set/problems.csv")
        assert row[0] == source.stem and row[2:4] == ["kept", "length_mismatch"]


class TestBadClips:
    @pytest.fixture
    def bad(self, raw):
        """Three bad clips: a cut FLV that still decodes, an empty file, a text as WAV."""
        videos, sounds = (sorted((raw / f).iterdir()) for f in ("VideoFlash", "AudioWAV"))
        videos[0].write_bytes(videos[0].read_bytes()[: videos[0].stat().st_size // 2])
        videos[1].write_bytes(b"")
        sounds[2].write_text("no sound")
        return [path.stem for path in (videos[0], videos[1], sounds[2])]

    def test_are_left_out_with_their_reason(self, raw, bad, tmp_path):
        metadata = prepare_set("cremad", raw, tmp_path / "set", "--max_bad", 0.2)
        found = {row[0]: row[1:4] for row in rows(tmp_path / "set/problems.csv")}
        assert found == {
            bad[0]: ["visual", "excluded", "truncated"],
            bad[1]: ["visual", "excluded", "empty"],
            bad[2]: ["audio", "excluded", "unreadable"],
        }
        assert metadata["counts"]["clips"] == 21

    def test_too_many_end_without_a_set_but_lose_nothing(self, raw, raw_clips, bad, tmp_path):
        message = error_of("cremad", raw, tmp_path / "set")
        assert "3 of 24 clips cannot be used" in message and "--max_bad" in message
        assert not (tmp_path / "set/metadata.json").exists()
        assert len(rows(tmp_path / "set/problems.csv")) == 3
        assert len(list((tmp_path / "set/audio").rglob("*.npy"))) == 21
        assert not (tmp_path / "set/.tmp").exists()

    def test_a_prepared_clip_whose_raw_file_goes_bad(self, raw, raw_clips, tmp_path):
        """Its prepared files leave the set, and the folder."""
        prepare_set("cremad", raw, tmp_path / "set")
        path = first(raw, "VideoFlash")
        path.write_bytes(b"")
        prepare_set("cremad", raw, tmp_path / "set", "--max_bad", 0.1)
        assert path.stem not in (tmp_path / "set/manifest.csv").read_text()
        assert not list((tmp_path / "set").rglob(f"{path.stem}*"))

    def test_mended_clips_are_taken_the_next_time(self, raw, raw_clips, one_set, bad, tmp_path):
        error_of("cremad", raw, tmp_path / "set")
        shutil.copytree(raw_clips, raw, dirs_exist_ok=True)
        prepare_set("cremad", raw, tmp_path / "set")
        assert contents(tmp_path / "set") == contents(one_set)

    @pytest.mark.slow
    def test_a_dying_worker_takes_one_clip_with_it(self, raw, tmp_path):
        """A clip kills the process that prepares it; the others are prepared all the same."""
        deadly = first(raw, "VideoFlash").stem
        code = f"""if True:
            import os, sys
            sys.path.insert(0, {str(ROOT / "code")!r})
            from mmpareto.preparation import worker
            original = worker.convert_clip
            def convert_clip(clip, recipe, out):
                if clip.id == {deadly!r}:
                    os.kill(os.getpid(), 9)
                return original(clip, recipe, out)
            worker.convert_clip = convert_clip
            if __name__ == "__main__":
                import prepare
                prepare.main(sys.argv[1:])
        """
        script = tmp_path / "deadly.py"
        script.write_text(code)
        done = subprocess.run(
            [sys.executable, script, "cremad", "--raw", raw, "--out", tmp_path / "set",
             "--max_bad", "0.1", "--workers", "2"],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (problem,) = rows(tmp_path / "set/problems.csv")
        assert problem[0] == deadly and problem[2:4] == ["excluded", "worker_died"]
        assert "SIGKILL" in problem[4]
        assert len(rows(tmp_path / "set/manifest.csv")) == 23


class TestLists:
    """Published splits, given by the user."""

    @pytest.fixture
    def lists(self, raw_clips, tmp_path):
        ids = sorted(path.stem for path in (raw_clips / "AudioWAV").iterdir())
        text = [f"{id},{id.split('_')[2]}" for id in ids]
        (tmp_path / "train.csv").write_text("\n".join(text[:18]) + "\n")
        (tmp_path / "test.csv").write_text("\n".join(text[18:]) + "\n")
        return tmp_path

    def test_other_lists_are_custom(self, raw_clips, lists, capsys):
        metadata = prepare_set("cremad", raw_clips, lists / "set", "--lists", lists)
        assert "none of the published ones" in capsys.readouterr().out
        assert metadata["splits"][:2] == ["custom", "custom-noval"]
        parts = dict(rows(lists / "set/splits/custom-noval.csv"))
        assert list(parts.values()).count("train") == 18 and "val" not in parts.values()
        with_val = dict(rows(lists / "set/splits/custom.csv"))
        moved = {id for id in parts if parts[id] != with_val[id]}
        assert moved and {with_val[id] for id in moved} == {"val"}
        assert {parts[id] for id in moved} == {"train"}

    def test_how_a_spreadsheet_saves_them(self, raw_clips, lists):
        prepare_set("cremad", raw_clips, lists / "plain", "--lists", lists)
        for name in ("train.csv", "test.csv"):
            text = (lists / name).read_text().replace("\n", "\r\n")
            (lists / name).write_bytes(b"\xef\xbb\xbfname,label\r\n" + text.encode() + b"\r\n")
        prepare_set("cremad", raw_clips, lists / "set", "--lists", lists)
        assert contents(lists / "set") == contents(lists / "plain")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("ANG,1001_IEO_ANG_XX", "expected the id first"),
            ("1001_IEO_ANG_XX\tANG", "separated by commas"),
            ("1001_IEO_ANG_XX,JOY", "expected one of ANG, DIS"),
            ("1001_IEO_ANG_XX,SAD", "expected ANG, the emotion in the id"),
            ("1001_IEO_ANG_XX,ANG,1", "expected id,EMOTION"),
            ("2001_IEO_ANG_XX,ANG", "expected an id as"),
        ],
    )
    def test_wrong_rows(self, raw_clips, lists, line, message):
        with open(lists / "test.csv", "a") as file:
            file.write(line + "\n")
        found = error_of("cremad", raw_clips, lists / "set", "--lists", lists)
        assert "test.csv, line 7" in found and message in found
        assert not (lists / "set").exists()

    def test_in_both_lists(self, raw_clips, lists):
        twice = (lists / "train.csv").read_text().splitlines()[2]
        with open(lists / "test.csv", "a") as file:
            file.write(twice + "\n")
        found = error_of("cremad", raw_clips, lists / "set", "--lists", lists)
        assert "test.csv, line 7" in found and "train.csv, line 3" in found

    def test_listed_but_not_there(self, raw, lists):
        gone = first(raw, "AudioWAV").stem
        with open(lists / "test.csv", "a") as file:
            file.write("1091_WSI_SAD_XX,SAD\n")
        found = error_of("cremad", raw, lists / "set", "--lists", lists)
        assert "1 of 25 listed clips (4.0%) have no raw files, first 1091_WSI_SAD_XX" in found
        assert not (lists / "set").exists()
        prepare_set("cremad", raw, lists / "set", "--lists", lists, "--allow_missing")
        (problem,) = rows(lists / "set/problems.csv")
        assert problem[0] == "1091_WSI_SAD_XX" and problem[3] == "missing" and gone

    def test_which_files(self, raw_clips, lists):
        found = error_of("cremad", raw_clips, lists / "set", "--lists", lists / "train.csv")
        assert "a train and a test file are needed" in found
        (lists / "my_train.csv").write_text("")
        found = error_of("cremad", raw_clips, lists / "set", "--lists", lists)
        assert "are both train" in found

    @pytest.mark.skipif(
        not (ROOT.parent / "shared/data/splits").exists(), reason="the published lists are not here"
    )
    def test_published_lists_are_recognised(self):
        from mmpareto.data.lists import read_lists
        from mmpareto.datasets import cremad, kinetics_sounds

        folder = ROOT.parent / "shared/data/splits"
        lists, _ = read_lists([folder / "cremad"], cremad._parse, [], cremad.PUBLISHED)
        assert len(lists["ogmge"]) == 7442
        part = kinetics_sounds
        lists, _ = read_lists([folder / "kinetics_sounds"], part._parse, [], part.PUBLISHED)
        clips = lists["ogmge"]
        assert len(clips) == 14799 + 2597
        assert clips["--4-0ihtnBU_000058_000068"] == ("train", "dribbling basketball")
        assert clips["-3Mwkq-7TV4_000002_000012"] == ("test", "shoveling snow")


class TestMadeSplits:
    def test_groups_stay_whole(self, tmp_path):
        raw = tmp_path / "raw"
        synthetic.write_cremad(raw, 72, size=(32, 24))
        metadata = prepare_set("cremad", raw, tmp_path / "set")
        assert metadata["splits"] == ["group", "random"]
        parts = dict(rows(tmp_path / "set/splits/group.csv"))
        actors = {part: {id[:4] for id in parts if parts[id] == part} for part in parts.values()}
        assert set(actors) == {"train", "val", "test"}
        assert not actors["train"] & actors["test"] and not actors["train"] & actors["val"]
        for part in actors:
            assert len({id.split("_")[2] for id in parts if parts[id] == part}) == 6
