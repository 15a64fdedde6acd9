"""prepare.py on a set that is refused, interrupted, killed, or there already."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from damage import told
from sets import contents, error_of, first, journal_lines, prepare_set, write_folder

import prepare
from mmpareto.data.layout import read_metadata
from mmpareto.system.lock import Lock

ROOT = Path(__file__).resolve().parents[2]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def test_a_folder_with_other_things(raw, tmp_path):
    """Nothing is deleted, even if a subfolder has a modality's name or holds the raw files."""
    before = contents(raw)
    assert "the folder holds other things" in error_of("cremad", raw, raw)
    (tmp_path / "other/audio").mkdir(parents=True)
    (tmp_path / "other/audio/mine.txt").write_text("precious")
    assert "the folder holds other things" in error_of("cremad", raw, tmp_path / "other")
    assert contents(raw) == before and (tmp_path / "other/audio/mine.txt").exists()


def all_pointers(raw):
    for path in raw.rglob("*.*"):
        path.write_text(POINTER)


def no_clip(raw):
    for path in raw.rglob("*.*"):
        path.unlink()


class TestRefused:
    """One line, and nothing is written."""

    @pytest.fixture(autouse=True)
    def nothing_written(self, tmp_path):
        yield
        assert not (tmp_path / "set").exists()

    @pytest.mark.parametrize(
        ("damage", "place", "told"),
        [
            (all_pointers, "", ["is a Git LFS pointer", "48 of 48", "git lfs pull", "GitLab"]),
            (lambda raw: first(raw, "VideoFlash").write_text(POINTER), "",
             ["1 of 48 files are pointers"]),
            (lambda raw: first(raw, "AudioWAV").write_text("<!DOCTYPE html><title>Sign in</title>"),
             "", ["is a web page", "DOCTYPE"]),
            (None, "..", ["did you mean {raw}?"]),
            (None, "AudioWAV", ["did you mean {raw}?"]),
            (None, "x", ["no such folder"]),
            (no_clip, "", ["no clip found"]),
        ],
    )  # fmt: skip
    def test_raw_files(self, raw, tmp_path, damage, place, told):
        if damage:
            damage(raw)
        message = error_of("cremad", raw.parent if place == ".." else raw / place, tmp_path / "set")
        assert all(words.format(raw=raw) in message for words in told), message

    def test_too_small_a_disk(self, raw_clips, tmp_path, monkeypatch):
        usage = shutil._ntuple_diskusage(10**9, 10**9, 1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        message = error_of("cremad", raw_clips, tmp_path / "set")
        assert "GB needed for 24 clips, 1e-06 GB free" in message

    def test_unknown_and_needless(self, tmp_path):
        assert "unknown dataset 'creamd'" in error_of("creamd", tmp_path, tmp_path / "set")
        assert "needs no preparation" in error_of("cgdigits", tmp_path, tmp_path / "set")


def test_where_a_set_goes(raw_clips, copy, tmp_path, monkeypatch, capsys):
    """One set of a name has a place; your own ones need --out, and are named if it lacks."""
    (tmp_path / "data/folder/own").mkdir(parents=True)
    (tmp_path / "data/folder/own/metadata.json").touch()
    copy.rename(tmp_path / "data/cremad")
    monkeypatch.setattr(prepare, "REPOSITORY", tmp_path)
    prepare.main(["cremad", "--raw", str(raw_clips), "--workers", "1"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "Train    sh script/mmpareto.sh --dataset cremad"
    line = told(prepare.main, ["folder", "--raw", str(raw_clips)])
    assert "--out is missing" in line and line.endswith("(sets in data/folder: own)")
    line = told(read_metadata, tmp_path / "data/folder")
    assert line.endswith(f"choose one of {tmp_path / 'data/folder/own'}")


def test_another_recipe_in_the_same_folder(raw_clips, one_set, tmp_path):
    before = contents(one_set)
    message = error_of("cremad", raw_clips, one_set, "--frames", "1fps")
    assert "frames.fps was 3, is 1" in message and "give another folder" in message
    own = write_folder(tmp_path / "own", 2)
    assert "it holds a set of dataset cremad" in error_of("folder", own, one_set)
    assert contents(one_set) == before


class TestKilled:
    @pytest.mark.slow
    def test_half_a_line_and_leftovers(self, raw_clips, one_set, copy):
        """A journal cut in a line, a clip without its line, and a half-written one."""
        (copy / "metadata.json").unlink()
        lines = (copy / "journal.jsonl").read_text().splitlines(keepends=True)
        (copy / "journal.jsonl").write_text("".join(lines[:20]) + lines[20][:50])
        (copy / ".tmp").mkdir()
        (copy / ".tmp/visual.x").write_text("half")
        prepare_set("cremad", raw_clips, copy)
        assert contents(copy) == contents(one_set)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("importing", "send", "told"),
        [
            (False, os.killpg, "clips done; run the same command to go on"),
            # the process that workers are forked from imports what they need, for seconds
            (True, os.kill, "interrupted with 0 clips done"),
            (True, os.killpg, "interrupted with 0 clips done"),
        ],
    )
    def test_interrupt(self, raw_clips, one_set, tmp_path, importing, send, told):
        """Ctrl-C: exit 130 and one line; going on makes the same set."""
        out = tmp_path / "set"
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "code/prepare.py"), "cremad", "--raw", str(raw_clips),
             "--out", str(out), "--workers", "2"], start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        with process:
            if importing:
                wait_for(lambda: any(map(is_importing, children.read_text().split())), seconds=120)
            else:
                wait_for(lambda: journal_lines(out) > 3)
            send(process.pid, signal.SIGINT)
            output, _ = process.communicate()  # also of processes that would outlive it
        assert process.returncode == 130
        assert told in output.splitlines()[-1] and "Traceback" not in output
        assert not (out / ".tmp").exists()
        prepare_set("cremad", raw_clips, out)
        assert contents(out) == contents(one_set)

    def test_two_at_once(self, raw_clips, one_set):
        with Lock(one_set):
            message = error_of("cremad", raw_clips, one_set)
        assert "another command is writing to it" in message


def is_importing(pid):
    """Return whether pid is the process that workers are forked from, now importing torch."""
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
