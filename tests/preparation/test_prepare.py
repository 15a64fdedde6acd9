"""From raw files to prepared sets: what is made, what is refused, and what survives a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from sets import SMALL, contents, error_of, prepare_set, rows, write_folder

from mmpareto.benchmarks import synthetic
from mmpareto.data import layout
from mmpareto.datasets.kinetics_sounds import CLASSES as SOUNDS
from mmpareto.datasets.modelnet40 import CLASSES as OBJECTS
from mmpareto.system.lock import Lock

ROOT = Path(__file__).resolve().parents[2]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture(scope="module")
def raw_clips(tmp_path_factory):
    """24 clips with CREMA-D's names; tests copy what they change."""
    raw = tmp_path_factory.mktemp("cremad") / "raw"
    synthetic.write_cremad(raw, 24, size=SMALL)
    return raw


@pytest.fixture(scope="module")
def one_set(raw_clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("cremad") / "set"
    prepare_set("cremad", raw_clips, out, "--workers", 1)
    return out


@pytest.fixture
def raw(raw_clips, tmp_path):
    return shutil.copytree(raw_clips, tmp_path / "raw")


def first(raw, folder):
    return sorted((raw / folder).iterdir())[0]


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


def test_a_folder_with_other_things(raw, tmp_path):
    """Nothing is deleted, though a subfolder be called like a modality, or hold the raw files."""
    before = contents(raw)
    assert "the folder holds other things" in error_of("cremad", raw, raw)
    (tmp_path / "other/audio").mkdir(parents=True)
    (tmp_path / "other/audio/mine.txt").write_text("precious")
    assert "the folder holds other things" in error_of("cremad", raw, tmp_path / "other")
    assert contents(raw) == before and (tmp_path / "other/audio/mine.txt").exists()


class TestRefused:
    """One line, and nothing is written."""

    @pytest.fixture(autouse=True)
    def nothing_written(self, tmp_path):
        yield
        assert not (tmp_path / "set").exists()

    def test_all_files_are_pointers(self, raw, tmp_path):
        for path in raw.rglob("*.*"):
            path.write_text(POINTER)
        message = error_of("cremad", raw, tmp_path / "set")
        assert "is a Git LFS pointer" in message and "48 of 48" in message
        assert "git lfs pull" in message and "GitLab" in message

    def test_one_pointer(self, raw, tmp_path):
        first(raw, "VideoFlash").write_text(POINTER)
        assert "1 of 48 files are pointers" in error_of("cremad", raw, tmp_path / "set")

    def test_web_page_in_place_of_a_file(self, raw, tmp_path):
        first(raw, "AudioWAV").write_text("<!DOCTYPE html><title>Sign in</title>")
        message = error_of("cremad", raw, tmp_path / "set")
        assert "is a web page" in message and "DOCTYPE" in message

    def test_wrong_level(self, raw, tmp_path):
        message = error_of("cremad", raw.parent, tmp_path / "set")
        assert f"did you mean {raw}?" in message
        message = error_of("cremad", raw / "AudioWAV", tmp_path / "set")
        assert f"did you mean {raw}?" in message

    def test_nothing_there(self, tmp_path):
        assert "no such folder" in error_of("cremad", tmp_path / "x", tmp_path / "set")
        (tmp_path / "raw/AudioWAV").mkdir(parents=True)
        (tmp_path / "raw/VideoFlash").mkdir()
        assert "no clip found" in error_of("cremad", tmp_path / "raw", tmp_path / "set")

    def test_too_small_a_disk(self, raw_clips, tmp_path, monkeypatch):
        usage = shutil._ntuple_diskusage(10**9, 10**9, 1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        message = error_of("cremad", raw_clips, tmp_path / "set")
        assert "GB needed for 24 clips, 1e-06 GB free" in message

    def test_unknown_and_needless(self, tmp_path):
        assert "unknown dataset 'creamd'" in error_of("creamd", tmp_path, tmp_path / "set")
        assert "needs no preparation" in error_of("cgdigits", tmp_path, tmp_path / "set")


def test_another_recipe_in_the_same_folder(raw_clips, one_set):
    before = contents(one_set)
    message = error_of("cremad", raw_clips, one_set, "--frames", "1fps")
    assert "frames.fps was 3, is 1" in message and "give another folder" in message
    assert "it holds a set of dataset cremad" in error_of("folder", write_one(one_set), one_set)
    assert contents(one_set) == before


def write_one(one_set):
    folder = one_set.parent / "own"
    return folder if folder.exists() else write_folder(folder, 6)


class TestKilled:
    @pytest.mark.slow
    def test_then_again(self, raw_clips, one_set, tmp_path):
        """SIGKILL to all processes half-way; the same command makes the undisturbed set."""
        command = [sys.executable, str(ROOT / "code/prepare.py"), "cremad", "--raw",
                   str(raw_clips), "--out", str(tmp_path / "set"), "--workers", "2"]  # fmt: skip
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: journal_lines(tmp_path / "set") > 6)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "set/metadata.json").exists()
        prepare_set("cremad", raw_clips, tmp_path / "set")
        assert contents(tmp_path / "set") == contents(one_set)

    def test_half_a_line_and_leftovers(self, raw_clips, one_set, tmp_path):
        """A journal cut in a line, a clip without its line, and a half-written one."""
        out = shutil.copytree(one_set, tmp_path / "set")
        (out / "metadata.json").unlink()
        lines = (out / "journal.jsonl").read_text().splitlines(keepends=True)
        (out / "journal.jsonl").write_text("".join(lines[:9]) + lines[9][:50])
        (out / ".tmp").mkdir()
        (out / ".tmp/visual.x").write_text("half")
        prepare_set("cremad", raw_clips, out)
        assert contents(out) == contents(one_set)

    @pytest.mark.slow
    def test_interrupt(self, raw_clips, one_set, tmp_path):
        """Ctrl-C: exit 130 and one line; going on makes the same set."""
        command = [sys.executable, str(ROOT / "code/prepare.py"), "cremad", "--raw",
                   str(raw_clips), "--out", str(tmp_path / "set"), "--workers", "1"]  # fmt: skip
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        wait_for(lambda: journal_lines(tmp_path / "set") > 3)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate()
        assert process.returncode == 130
        assert "clips done; run the same command to go on" in stderr.splitlines()[-1]
        assert "Traceback" not in stderr
        assert not (tmp_path / "set/.tmp").exists()
        prepare_set("cremad", raw_clips, tmp_path / "set")
        assert contents(tmp_path / "set") == contents(one_set)

    @pytest.mark.slow
    @pytest.mark.parametrize("send", [os.kill, os.killpg])
    def test_interrupt_while_workers_start(self, send, raw_clips, tmp_path):
        """The process that they are forked from imports what they need, for seconds."""
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "code/prepare.py"), "cremad", "--raw", str(raw_clips),
             "--out", str(tmp_path / "set")], start_new_session=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        with process:
            wait_for(lambda: any(map(is_importing, children.read_text().split())), seconds=120)
            send(process.pid, signal.SIGINT)
            output, _ = process.communicate()  # also of processes that would outlive it
        assert process.returncode == 130
        assert output.splitlines()[-1].startswith("interrupted with 0 clips done")
        assert "Traceback" not in output

    def test_two_at_once(self, raw_clips, one_set):
        with Lock(one_set):
            message = error_of("cremad", raw_clips, one_set)
        assert "another command is writing to it" in message


def journal_lines(out):
    path = out / "journal.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def is_importing(pid):
    """Whether it is the process that workers are forked from, and has come to torch."""
    try:
        command, maps = (Path("/proc", pid, name).read_bytes() for name in ("cmdline", "maps"))
    except OSError:  # it has ended meanwhile
        return False
    return b"forkserver" in command and b"libtorch" in maps


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


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
        name, clips, _ = read_lists([folder / "cremad"], cremad._parse, [], cremad.PINNED)
        assert name == "ogmge" and len(clips) == 7442
        part = kinetics_sounds
        name, clips, _ = read_lists([folder / "kinetics_sounds"], part._parse, [], part.PINNED)
        assert name == "ogmge" and len(clips) == 14799 + 2597
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


@pytest.fixture(scope="module")
def ids():
    return synthetic.kinetics_ids(12)


@pytest.fixture(scope="module")
def kinetics_lists(ids, tmp_path_factory):
    """Train names with start and end, test names with the start alone, as published."""
    folder = tmp_path_factory.mktemp("lists")
    train, test = [], []
    for i, (id, label) in enumerate(ids.items()):
        number = SOUNDS.index(label)
        if i % 3:
            train.append(f"{id},10,{number}\r\n")
        else:
            test.append(f"{id[:11]}_{int(id[12:18])},10,{number}\r\n")
    (folder / "my_train.txt").write_text("".join(train))
    (folder / "my_test.txt").write_text("".join(test))
    return folder


@pytest.fixture(scope="module")
def raw_folders(ids, tmp_path_factory):
    raw = tmp_path_factory.mktemp("kinetics") / "raw"
    synthetic.write_kinetics(raw, ids, seconds=2.0)
    return raw


class TestKinetics:
    def test_folders_named_after_classes(self, ids, raw_folders, tmp_path):
        metadata = prepare_set("kinetics_sounds", raw_folders, tmp_path / "set")
        manifest = rows(tmp_path / "set/manifest.csv")
        assert {row[0]: row[1] for row in manifest} == ids
        assert sum(id.startswith("-") for id in ids) == 3
        assert metadata["modalities"]["audio"]["shape"] == [1024, 128]

    def test_archive_with_lists(self, ids, kinetics_lists, raw_folders, tmp_path):
        """Only listed clips are kept, AppleDouble twins are not; the same set as from folders."""
        more = ids | {"notlisted_x_000000_000010": SOUNDS[0]}
        synthetic.write_kinetics_archive(tmp_path / "raw/part_0.tar.gz", more, seconds=2.0)
        out = tmp_path / "set"
        metadata = prepare_set("kinetics_sounds", tmp_path / "raw", out, "--lists", kinetics_lists)
        assert metadata["splits"][0] == "custom"  # synthetic lists are nobody's
        assert {row[0]: row[1] for row in rows(out / "manifest.csv")} == ids
        assert dict(rows(out / "splits/custom.csv")).keys() == ids.keys()
        assert not list(out.rglob("*.mp4"))
        prepare_set("kinetics_sounds", raw_folders, tmp_path / "other", "--lists", kinetics_lists)
        assert (tmp_path / "other/files.csv").read_bytes() == (out / "files.csv").read_bytes()

    def test_archive_needs_lists(self, tmp_path):
        with tarfile.open(self.made(tmp_path / "raw") / "part_0.tar", "w"):
            pass
        assert "part_0.tar needs --lists" in error_of("kinetics_sounds", tmp_path / "raw", tmp_path)

    def test_files_that_are_no_clips_of_the_set(self, kinetics_lists, tmp_path):
        """The error names the place where it looked for labels: lists come before folders."""
        stray = self.made(tmp_path / "raw" / SOUNDS[0]) / "not_listed__000000_000010.mp4"
        stray.touch()
        message = error_of(
            "kinetics_sounds", tmp_path / "raw", tmp_path / "set", "--lists", kinetics_lists
        )
        assert message.endswith("YOUTUBEID_START_END.mp4 and in --lists")
        stray.rename(tmp_path / "raw" / stray.name)
        message = error_of("kinetics_sounds", tmp_path / "raw", tmp_path / "set")
        assert message.endswith("in a folder named after its class")

    def test_archive_cut_off(self, ids, kinetics_lists, tmp_path):
        """What came before the cut is kept; the whole archive completes the set."""
        path = tmp_path / "raw/part_0.tar.gz"
        synthetic.write_kinetics_archive(path, ids, seconds=1.0)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        arguments = (
            "kinetics_sounds",
            tmp_path / "raw",
            tmp_path / "set",
            "--lists",
            kinetics_lists,
        )
        message = error_of(*arguments)
        assert "part_0.tar.gz: is damaged or cut off after" in message
        assert journal_lines(tmp_path / "set") > 2
        path.write_bytes(whole)
        assert prepare_set(*arguments)["counts"]["clips"] == 12

    def test_part_by_part(self, ids, kinetics_lists, tmp_path):
        """The set grows with every part; without the others, listed clips are missing."""
        names = list(ids)
        out = tmp_path / "set"
        for part, chosen in enumerate((names[:6], names[6:])):
            raw = tmp_path / f"raw{part}"
            archive = {id: ids[id] for id in chosen}
            synthetic.write_kinetics_archive(raw / "part.tar.gz", archive, seconds=1.0)
        message = error_of("kinetics_sounds", tmp_path / "raw0", out, "--lists", kinetics_lists)
        assert "6 of 12 listed clips (50.0%) have no raw files" in message
        metadata = prepare_set("kinetics_sounds", tmp_path / "raw1", out, "--lists", kinetics_lists)
        assert metadata["counts"]["clips"] == 12

    def test_lost_files_and_second_chances(self, ids, kinetics_lists, tmp_path):
        """An archive that was read is read again for a clip that lost files or had bad luck."""
        synthetic.write_kinetics_archive(tmp_path / "raw/part.tgz", ids, seconds=1.0)
        out = tmp_path / "set"
        arguments = ("kinetics_sounds", tmp_path / "raw", out, "--lists", kinetics_lists)
        prepare_set(*arguments)
        whole = contents(out)
        next(out.rglob("*.npy")).unlink()
        prepare_set(*arguments)
        assert contents(out) == whole
        journal = (out / "journal.jsonl").read_text().splitlines()
        entry = json.loads(journal[-1])
        bad = {"id": entry["id"], "label": entry["label"], "group": entry["group"], "sources": {}}
        bad["problem"] = ["", "worker_died", "its process ended by SIGKILL"]
        (out / "journal.jsonl").write_text("\n".join([*journal[:-1], json.dumps(bad)]) + "\n")
        prepare_set(*arguments)
        assert contents(out) == whole

    def test_odd_members(self, ids, kinetics_lists, tmp_path):
        """Twice the same clip, upper-case names, links and paths that lead elsewhere."""
        path = tmp_path / "raw/part.tar"
        path.parent.mkdir()
        with tarfile.open(path, "w") as tar:
            for id, label in [*ids.items(), *list(ids.items())[:3]]:
                content = synthetic.kinetics_clip(id, label, 1.0)
                member = tarfile.TarInfo(f"../../{id}.MP4")
                member.size = len(content)
                tar.addfile(member, synthetic.io.BytesIO(content))
            link = tarfile.TarInfo(f"{next(iter(ids))}.mp4")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        out = tmp_path / "set"
        metadata = prepare_set("kinetics_sounds", path.parent, out, "--lists", kinetics_lists)
        assert metadata["counts"]["clips"] == 12 and rows(out / "problems.csv") == []

    def test_folders_that_are_links(self, ids, raw_folders, tmp_path):
        raw = tmp_path / "raw"
        raw.mkdir()
        for folder in raw_folders.iterdir():
            (raw / folder.name).symlink_to(folder)
        (raw / "loop").symlink_to(raw)
        assert prepare_set("kinetics_sounds", raw, tmp_path / "set")["counts"]["clips"] == 12

    def test_no_sound_track(self, raw_folders, tmp_path):
        raw = shutil.copytree(raw_folders, tmp_path / "raw")
        silent = next(raw.rglob("*.mp4"))
        frames = synthetic.pictures(0, 31, 24, SMALL, synthetic.Random(0))
        synthetic.write_video(silent, frames, "libx264", None)
        prepare_set("kinetics_sounds", raw, tmp_path / "set", "--max_bad", 0.1)
        (problem,) = rows(tmp_path / "set/problems.csv")
        assert problem[0] == silent.stem and problem[2:4] == ["excluded", "no_audio_stream"]

    @staticmethod
    def made(folder):
        folder.mkdir(parents=True)
        return folder


class TestModelNet:
    def test_views(self, tmp_path):
        raw = tmp_path / "raw"
        synthetic.write_modelnet(raw, OBJECTS[:3], {"train": 5, "test": 2})
        missing = raw / "bathtub/train/bathtub_0002.obj.shaded_v003.png"
        missing.unlink()
        metadata = prepare_set("modelnet40", raw, tmp_path / "set")
        assert metadata["counts"]["clips"] == 20 and metadata["splits"][0] == "official"
        (problem,) = rows(tmp_path / "set/problems.csv")
        assert problem[0] == "bathtub_0002" and problem[3] == "views_missing"
        for id, label, _, front, rear in rows(tmp_path / "set/manifest.csv"):
            folder = raw / label / ("train" if int(id[-4:]) <= 5 else "test")
            for path, view in ((front, 1), (rear, 7)):
                source = folder / f"{id}.obj.shaded_v{view:03d}.png"
                assert (tmp_path / "set" / path).read_bytes() == source.read_bytes()

    def test_other_numbers_and_other_names(self, tmp_path, capsys):
        """Views 0 to 11 are not taken for 1 to 12; upper-case endings and odd folders are told."""
        raw = tmp_path / "raw"
        synthetic.write_modelnet(raw, OBJECTS[:3], {"train": 3, "test": 2})
        for number in range(1, 13):
            name = "airplane_0001.obj.shaded_v{:03d}.png"
            folder = raw / "airplane/train"
            (folder / name.format(number)).rename(folder / name.format(number - 1))
        for path in (raw / "bed").rglob("*.png"):
            path.rename(path.with_suffix(".PNG"))
        (raw / "spoon").mkdir()
        metadata = prepare_set("modelnet40", raw, tmp_path / "set")
        assert metadata["counts"]["per_class"] == {"airplane": 4, "bathtub": 5, "bed": 5}
        assert rows(tmp_path / "set/problems.csv")[0][0] == "airplane_0001"
        assert "3 of 40 classes; folders of no class: spoon" in capsys.readouterr().out

    def test_one_part_only(self, tmp_path):
        synthetic.write_modelnet(tmp_path / "raw", OBJECTS[:2], {"train": 2, "test": 0})
        message = error_of("modelnet40", tmp_path / "raw", tmp_path / "set")
        assert "split official has no clip for test" in message

    def test_wrong_level(self, tmp_path):
        synthetic.write_modelnet(tmp_path / "a/raw", OBJECTS[:1], {"train": 1, "test": 1})
        message = error_of("modelnet40", tmp_path / "a", tmp_path / "set")
        assert f"did you mean {tmp_path / 'a/raw'}?" in message


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("own") / "raw", 12)


class TestFolder:
    @pytest.fixture
    def raw(self, own, tmp_path):
        return shutil.copytree(own, tmp_path / "raw")

    def edit(self, raw, change):
        path = raw / "clips.csv"
        path.write_text(change(path.read_text()))

    def test_kinds_from_names(self, raw, tmp_path):
        metadata = prepare_set("folder", raw, tmp_path / "set")
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
        for i in range(12):
            synthetic.write_video(raw / f"{i}.mp4", frames, "libx264", sound)
        lines = ["id,split,label,film,sound:audio,row:array"]
        for i in range(12):
            part = ("train", "train", "val", "test")[i % 4]
            lines.append(f"clip-{i},{part},{'ab'[i % 2]},{i}.mp4,{i}.mp4,all.npy#{i}")
        (raw / "clips.csv").write_text("\r\n".join(lines))
        metadata = prepare_set("folder", raw, tmp_path / "set")
        assert metadata["splits"][0] == "given"
        assert dict(rows(tmp_path / "set/splits/given.csv"))["clip-2"] == "val"
        row = next(r for r in rows(tmp_path / "set/manifest.csv") if r[0] == "clip-5")
        assert np.load(tmp_path / "set" / row[-1]).tolist() == [15, 16, 17]

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("id,label", "name,label", "column id not found"),
            ("film,voice", "film,film", "a column is there twice"),
            ("film,voice", "2d,voice", "'2d' cannot be a modality's name"),
            ("film,voice", "film:movie,voice", "audio, array, flow, tokens expected"),
            ("clip-3,", "clip-2,", "line 5: id clip-2 is there already in line 4"),
            ("clip-3,", "clip/3,", "line 5: id 'clip/3'"),
            (",3.mp4", ",/etc/3.mp4", "line 5: film '/etc/3.mp4': a path below --raw"),
            (",3.mp4", ",../3.mp4", "line 5: film '../3.mp4': a path below --raw"),
            (",3.mp4", ",30.mp4", "line 5: film '30.mp4': no such file"),
            (",3.mp4", "", "line 5: 5 values found, 6 expected"),
            ("clip-3,cat", "clip-3,", "line 5: no label"),
            (",3.npy", ",3.npy#x", "a row number expected after #"),
        ],
    )
    def test_wrong_tables(self, raw, tmp_path, old, new, message):
        self.edit(raw, lambda text: text.replace(old, new, 1))
        assert message in error_of("folder", raw, tmp_path / "set")
        assert not (tmp_path / "set").exists()

    def test_one_class(self, raw, tmp_path):
        self.edit(raw, lambda text: text.replace(",dog,", ",cat,").replace(",owl,", ",cat,"))
        assert "1 class found" in error_of("folder", raw, tmp_path / "set")

    def test_unknown_split(self, raw, tmp_path):
        self.edit(raw, lambda text: text.replace("label,group", "label,split"))
        assert "split '0', one of train, val, test" in error_of("folder", raw, tmp_path / "set")

    def test_arrays_of_different_shapes(self, raw, tmp_path):
        np.save(raw / "4.npy", np.ones(7))
        message = error_of("folder", raw, tmp_path / "set")
        assert "clip-0 has shape (10,), clip-4 has (7,)" in message and "--length pose=N" in message
        metadata = prepare_set("folder", raw, tmp_path / "set", "--length", "pose=12")
        assert metadata["modalities"]["pose"]["shape"] == [12]
        row = next(r for r in rows(tmp_path / "set/manifest.csv") if r[0] == "clip-4")
        assert np.load(tmp_path / "set" / row[-1]).tolist() == [1.0] * 7 + [0.0] * 5

    def test_an_edited_table(self, raw, own, tmp_path):
        """Another label, a row gone, paths exchanged between files of one size: as if anew."""
        prepare_set("folder", raw, tmp_path / "set")
        text = (raw / "clips.csv").read_text()
        text = text.replace("clip-1,dog", "clip-1,cat").replace("2.npy", "x.npy")
        text = text.replace("3.npy", "2.npy").replace("x.npy", "3.npy")
        text = "".join(s for s in text.splitlines(keepends=True) if not s.startswith("clip-5,"))
        (raw / "clips.csv").write_text(text)
        prepare_set("folder", raw, tmp_path / "set")
        prepare_set("folder", raw, tmp_path / "anew")
        assert contents(tmp_path / "set") == contents(tmp_path / "anew")
        assert not any(row[0] == "clip-5" for row in rows(tmp_path / "set/manifest.csv"))

    def test_a_set_survives_a_call_that_fails(self, raw, tmp_path):
        """Bad clips end the call; the set of the call before, and its table, stay as they are."""
        prepare_set("folder", raw, tmp_path / "set")
        before = contents(tmp_path / "set")
        (raw / "4.wav").write_bytes(b"")
        message = error_of("folder", raw, tmp_path / "set")
        assert "1 of 12 clips cannot be used" in message and "problems-of-last-call.csv" in message
        for name in ("metadata.json", "manifest.csv", "problems.csv"):
            assert (tmp_path / "set" / name).read_bytes() == before[name]
        lines = (raw / "clips.csv").read_text().splitlines(keepends=True)
        (raw / "clips.csv").write_text("".join(s for s in lines if not s.startswith("clip-4,")))
        assert prepare_set("folder", raw, tmp_path / "set")["counts"]["clips"] == 11
        assert not (tmp_path / "set/problems-of-last-call.csv").exists()

    @pytest.mark.parametrize("name", ["training", "type", "items", "joint", "splits", "_x"])
    def test_names_that_torch_uses(self, raw, tmp_path, name):
        self.edit(raw, lambda text: text.replace("pose", name, 1))
        assert "cannot be a modality's name" in error_of("folder", raw, tmp_path / "set")

    def test_damaged_headers_and_long_names(self, raw, tmp_path):
        content = bytearray((raw / "4.npy").read_bytes())
        content[12] = 0xFF
        (raw / "4.npy").write_bytes(content)
        np.savez(raw / "5", a=np.ones(10))
        (raw / "5.npz").rename(raw / "5.npy")
        prepare_set("folder", raw, tmp_path / "set", "--max_bad", 0.2)
        assert [row[1:4] for row in rows(tmp_path / "set/problems.csv")] == [
            ["pose", "excluded", "unreadable"]
        ] * 2
        self.edit(raw, lambda text: text.replace("3.npy", "3" * 300 + ".npy"))
        assert "no such file" in error_of("folder", raw, tmp_path / "x")

    def test_a_class_with_one_clip(self, raw, tmp_path):
        """It trains; the others are split."""
        self.edit(raw, lambda text: text.replace("clip-0,cat", "clip-0,yak"))
        metadata = prepare_set("folder", raw, tmp_path / "set")
        assert metadata["splits"] == ["random"]
        assert dict(rows(tmp_path / "set/splits/random.csv"))["clip-0"] == "train"

    def test_not_finite(self, raw, tmp_path):
        np.save(raw / "4.npy", np.full(10, np.nan))
        prepare_set("folder", raw, tmp_path / "set", "--max_bad", 0.1)
        assert rows(tmp_path / "set/problems.csv")[0][:4] == [
            "clip-4", "pose", "excluded", "not_finite",
        ]  # fmt: skip
