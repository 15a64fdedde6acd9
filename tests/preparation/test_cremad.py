"""CREMA-D: which clips are prepared, which are left out, and which splits follow."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from sets import contents, error_of, first, journal_lines, prepare_set, rows

from mmpareto.benchmarks import synthetic
from mmpareto.data import layout
from mmpareto.datasets.cremad import CREMAD
from mmpareto.preparation import engine
from mmpareto.preparation.worker import convert_clip

ROOT = Path(__file__).resolve().parents[2]


DEADLY = synthetic.cremad_ids(1)[0]


def convert_or_die(clip, recipe, out, rows):
    if clip.id == DEADLY:
        os.kill(os.getpid(), 9)
    return convert_clip(clip, recipe, out, rows)


class TestCremad:
    def test_tables(self, one_set):
        metadata = layout.read_metadata(one_set)
        assert metadata.classes == ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]
        assert metadata.as_json()["modalities"] == {
            "audio": {"kind": "spectrogram", "shape": [257, 188]}, "visual": {"kind": "frames"},
        }  # fmt: skip
        assert metadata.splits == ["group", "random"] and not CREMAD.has_arrays(one_set)
        assert metadata.counts["per_class"] == dict.fromkeys(metadata.classes, 4)
        manifest = rows(one_set / "manifest.csv")
        assert len(manifest) == 24 and manifest == sorted(manifest)
        for id, label, group, audio, visual, stills in manifest:
            assert id.split("_")[::2][:1] == [group] and id.split("_")[2] == label
            assert np.load(one_set / audio).shape == (257, 188)
            assert len(list((one_set / visual).iterdir())) == int(stills) >= 4
        assert str(one_set.parent) not in (one_set / "metadata.json").read_text()

    def test_two_workers_make_the_same_files(self, raw_clips, one_set, tmp_path):
        prepare_set("cremad", raw_clips, tmp_path / "set", "--workers", 2)
        assert contents(tmp_path / "set") == contents(one_set)

    def test_again_changes_nothing(self, raw_clips, one_set):
        before = contents(one_set)
        times = {p: p.stat().st_mtime_ns for p in one_set.rglob("*.jpg")}
        prepare_set("cremad", raw_clips, one_set)
        assert contents(one_set) == before
        assert {p: p.stat().st_mtime_ns for p in one_set.rglob("*.jpg")} == times

    def test_odd_clips(self, raw, tmp_path, capsys):
        """One file is missing, known bad, misnamed, there twice, or longer than the picture.

        Without a list, what is there is taken; a clip with one of its files is reported.
        """
        sounds, videos = (sorted((raw / f).iterdir()) for f in ("AudioWAV", "VideoFlash"))
        sounds[0].unlink()
        videos[1].unlink()
        (raw / "AudioWAV/notes.wav").write_text("not a clip")
        shutil.copy(sounds[2], raw / "AudioWAV/1076_MTI_SAD_XX.wav")
        shutil.copy(videos[2], raw / "VideoFlash/1076_MTI_SAD_XX.flv")
        shutil.copy(sounds[2], raw / "AudioWAV/1040_ITH_SAD_X.wav")  # as of 2022
        shutil.copy(videos[2], raw / "VideoFlash/1040_ITH_SAD_XX.flv")
        synthetic.soundfile.write(sounds[3], np.full(16000 * 8, 0.1), 16000)
        for path in (*sounds[12:], *videos[12:]):
            path.unlink()
        prepare_set("cremad", raw, tmp_path / "set")
        counts = "3 excluded (1 known_bad, 2 missing), 4 remarks on kept ones (1 cut, 2 duplicate, "
        assert counts in capsys.readouterr().out
        ids = [row[0] for row in rows(tmp_path / "set/manifest.csv")]
        assert ids == [*(path.stem for path in sounds[2:12]), "1040_ITH_SAD_XX"]
        missing = ["excluded", "missing", "no such raw file"]
        found = sorted(rows(tmp_path / "set/problems.csv"))
        assert found[:2] == [
            [sounds[0].stem, "audio", *missing], [sounds[1].stem, "visual", *missing],
        ]  # fmt: skip
        assert found[3][4] == "8.00 s of sound, the recipe keeps the first 3 s"
        # the copy has another label than the clip whose sound it is
        assert [[row[0], *row[2:4]] for row in found[2:]] == [
            [sounds[3].stem, "kept", "length_mismatch"],
            [sounds[3].stem, "kept", "cut"],
            *[["1040_ITH_SAD_XX", "kept", "duplicate"]] * 2,
            ["1076_MTI_SAD_XX", "excluded", "known_bad"],
        ]


class TestBadClips:
    def test_until_they_are_mended(self, raw_clips, raw, one_set, copy):
        """Among six clips are an FLV cut off, an empty file and a text called .wav."""
        (copy / "metadata.json").unlink()
        lines = (copy / "journal.jsonl").read_text().splitlines(keepends=True)
        (copy / "journal.jsonl").write_text("".join(lines[0:1] + lines[7:]))
        videos, sounds = (sorted((raw / f).iterdir()) for f in ("VideoFlash", "AudioWAV"))
        videos[0].write_bytes(videos[0].read_bytes()[: videos[0].stat().st_size // 2])
        videos[1].write_bytes(b"")
        sounds[2].write_text("no sound")
        message = error_of("cremad", raw, copy)
        assert "3 of 24 clips cannot be used" in message and "--max_bad" in message
        assert not (copy / "metadata.json").exists() and not (copy / ".tmp").exists()
        assert len(rows(copy / "problems.csv")) == 3
        assert journal_lines(copy) == 25  # nothing is lost

        metadata = prepare_set("cremad", raw, copy, "--max_bad", 0.2)
        assert metadata["counts"]["clips"] == 21
        assert [row[:4] for row in rows(copy / "problems.csv")] == [
            [videos[0].stem, "visual", "excluded", "truncated"],
            [videos[1].stem, "visual", "excluded", "empty"],
            [sounds[2].stem, "audio", "excluded", "unreadable"],
        ]
        shutil.copytree(raw_clips, raw, dirs_exist_ok=True)
        prepare_set("cremad", raw, copy)
        assert contents(copy) == contents(one_set)

    def test_a_prepared_clip_whose_raw_file_goes_bad(self, raw, copy):
        """Its prepared files are removed from the tables and from the folder."""
        path = first(raw, "VideoFlash")
        path.write_bytes(b"")
        prepare_set("cremad", raw, copy, "--max_bad", 0.1)
        assert path.stem not in (copy / "manifest.csv").read_text()
        assert not list(copy.rglob(f"{path.stem}*"))

    def test_a_dying_worker_takes_one_clip_with_it(self, raw_clips, copy, monkeypatch):
        """A clip kills the process that prepares it; the others are prepared all the same."""
        monkeypatch.setattr(engine, "convert_clip", convert_or_die)
        lines = (copy / "journal.jsonl").read_text().splitlines(keepends=True)
        (copy / "journal.jsonl").write_text("".join(lines[:1] + lines[5:]))
        prepare_set("cremad", raw_clips, copy, "--max_bad", 0.1)
        (problem,) = rows(copy / "problems.csv")
        assert problem[0] == DEADLY and problem[2:4] == ["excluded", "worker_died"]
        assert "SIGKILL" in problem[4]
        assert len(rows(copy / "manifest.csv")) == 23


class TestLists:
    """Published splits, given by the user."""

    @pytest.fixture
    def lists(self, raw_clips, tmp_path):
        ids = sorted(path.stem for path in (raw_clips / "AudioWAV").iterdir())
        text = [f"{id},{id.split('_')[2]}" for id in ids]
        (tmp_path / "train.csv").write_text("\n".join(text[:18]) + "\n")
        (tmp_path / "test.csv").write_text("\n".join(text[18:]) + "\n")
        return tmp_path

    def test_other_lists_are_custom(self, raw_clips, lists, copy, capsys):
        metadata = prepare_set("cremad", raw_clips, copy, "--lists", lists)
        assert "differ from all published ones" in capsys.readouterr().out
        assert metadata["splits"][:2] == ["custom", "custom-noval"]
        parts = dict(rows(copy / "splits/custom-noval.csv"))
        assert list(parts.values()).count("train") == 18 and "val" not in parts.values()
        with_val = dict(rows(copy / "splits/custom.csv"))
        moved = {id for id in parts if parts[id] != with_val[id]}
        assert moved and {with_val[id] for id in moved} == {"val"}
        assert {parts[id] for id in moved} == {"train"}
        # as a spreadsheet saves them
        before = contents(copy)
        for name in ("train.csv", "test.csv"):
            text = (lists / name).read_text().replace("\n", "\r\n")
            (lists / name).write_bytes(b"\xef\xbb\xbfname,label\r\n" + text.encode() + b"\r\n")
        shutil.rmtree(copy / "splits")
        prepare_set("cremad", raw_clips, copy, "--lists", lists)
        assert contents(copy) == before

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("1001_IEO_FEA_XX,FEA", "train.csv, line 3"),  # is in it already
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

    def test_listed_but_not_there(self, raw_clips, lists, one_set):
        with open(lists / "test.csv", "a") as file:
            file.write("1091_WSI_SAD_XX,SAD\n")
        flags = ("cremad", raw_clips, lists / "set", "--lists", lists)
        found = error_of(*flags)
        assert "1 of 25 listed clips (4.0%) have no raw files, first 1091_WSI_SAD_XX" in found
        assert not (lists / "set").exists()
        shutil.copytree(one_set, lists / "set")
        prepare_set(*flags, "--allow_missing")
        (problem,) = rows(lists / "set/problems.csv")
        assert problem[0] == "1091_WSI_SAD_XX" and problem[3] == "missing"

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
