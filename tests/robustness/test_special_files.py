"""Pipes and devices in the place of files, and media that name other files: none hangs or leads out
of its folder."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from sets import SMALL, prepare_set, rows, write_folder

import analyze
import prepare
import train
import verify
from mmpareto.benchmarks import synthetic
from mmpareto.data.clips import Bad, Source
from mmpareto.data.recipes import named
from mmpareto.preparation.media import convert, load_array
from mmpareto.run import options
from mmpareto.run.setup import load_data
from mmpareto.system.errors import UserError

KINDS = {"film": "frames", "voice": "audio", "photo": "image"}
RECIPE = named({"frames": "3fps", "audio": "stft", "images": "jpeg256"}, KINDS, {}, {})


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


class Waited(BaseException):
    """What no code takes for bad input."""


@pytest.fixture(autouse=True)
def patience():
    """Five seconds: opening a pipe that nobody writes to waits for ever."""

    def give_up(*_):
        raise Waited

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("special")
    write_folder(folder / "raw", 12, ("cat", "dog"), seconds=0.5)
    prepare_set("folder", folder / "raw", folder / "set")
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole / "set", tmp_path / "set")


def read_all(folder):
    words = ["--dataset", str(folder), "--batch_size", "1", "--image_size", "8"]
    for split in load_data(options.parse(words)).splits.values():
        split.read(list(range(len(split))))


@pytest.mark.parametrize("make", [pipe, endless])
class TestNoRegularFiles:
    @pytest.mark.parametrize("name", ["metadata.json", "manifest.csv", "splits/*.csv"])
    def test_tables_of_a_set(self, copy, make, name):
        path = next(copy.glob(name))
        path.unlink()
        make(path)
        for use in (read_all, verify.check):
            with pytest.raises(UserError):
                use(copy)

    @pytest.mark.parametrize("pattern", ["pose/*/*.npy", "film/*/*/000000.jpg"])
    def test_files_of_a_set(self, copy, make, pattern, capsys):
        path = next(copy.glob(pattern))
        path.unlink()
        make(path)
        with pytest.raises(UserError):
            read_all(copy)
        with pytest.raises(UserError, match="findings"):
            verify.check(copy, full=True)

    def test_a_row_of_one(self, copy, make, capsys):
        """verify.py counts an array's rows before it looks at the file."""
        path = next(copy.glob("pose/*/*.npy")).relative_to(copy).as_posix()
        text = (copy / "manifest.csv").read_text()
        (copy / "manifest.csv").write_text(text.replace(path, f"{path}#0"))
        (copy / path).unlink()
        make(copy / path)
        with pytest.raises(UserError):
            read_all(copy)
        with pytest.raises(UserError, match="findings"):
            verify.check(copy)

    @pytest.mark.parametrize("kind", ["image", "audio", "frames", "array"])
    def test_raw_files(self, tmp_path, make, kind):
        path = tmp_path / "it"
        make(path)
        for use in (lambda s: convert(s, RECIPE), load_array):
            with pytest.raises(Bad, match="no regular file"):
                use(Source(kind, path))

    def test_stills(self, tmp_path, make):
        make(tmp_path / "000000.jpg")
        with pytest.raises(Bad, match="no regular file"):
            convert(Source("frames", tmp_path), RECIPE)

    @pytest.mark.parametrize("name", ["3.npy", "3.mp4"])
    def test_preparing(self, whole, tmp_path, make, name):
        raw = shutil.copytree(whole / "raw", tmp_path / "raw")
        (raw / name).unlink()
        make(raw / name)
        with pytest.raises(UserError, match=f"{name}: is a pipe, a socket or a device"):
            prepare.main(["folder", "--raw", str(raw), "--out", str(tmp_path / "out")])
        assert not (tmp_path / "out").exists()

    def test_runs(self, tmp_path, make):
        make(tmp_path / "config.json")
        with pytest.raises(UserError, match="no regular file"):
            analyze.main([str(tmp_path)])


def film(path):
    frames = [np.full((SMALL[1], SMALL[0], 3), 40 * i, np.uint8) for i in range(6)]
    synthetic.write_video(path, frames, "libx264", None)


class TestOtherFiles:
    """FFmpeg opens nothing but the file it is given."""

    @pytest.fixture(autouse=True)
    def folders(self, tmp_path, monkeypatch):
        (tmp_path / "raw").mkdir()
        film(tmp_path / "secret.mp4")
        monkeypatch.chdir(tmp_path / "raw")
        convert(Source("frames", tmp_path / "secret.mp4"), RECIPE)  # which can be read

    def refuse(self, name):
        with pytest.raises(Bad):
            convert(Source("frames", Path(name)), RECIPE)

    def test_playlists(self, tmp_path):
        text = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.2,\n{}\n#EXT-X-ENDLIST\n"
        Path("a.m3u8").write_text(text.format(tmp_path / "secret.mp4"))
        self.refuse("a.m3u8")

    def test_lists_of_films(self, tmp_path):
        Path("link.mp4").symlink_to(tmp_path / "secret.mp4")
        Path("a.mp4").write_text("ffconcat version 1.0\nfile link.mp4\n")
        self.refuse("a.mp4")

    def test_names_that_are_protocols(self, tmp_path):
        """There is a folder of the first part's name, and what follows would be a path from /."""
        decoy = Path(f"subfile,,start,0,end,0,,:{tmp_path}/secret.mp4")
        decoy.parent.mkdir(parents=True)
        decoy.write_text("no film")
        self.refuse(decoy)


class TestWriting:
    """Nothing is written, or removed, where a link in a set or in a run's folder leads."""

    @pytest.fixture
    def elsewhere(self, tmp_path):
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        (folder / "precious").write_text("precious")
        yield folder
        assert [p.name for p in folder.iterdir()] == ["precious"]
        assert (folder / "precious").read_text() == "precious"

    @pytest.mark.parametrize("name", ["pose", "pose/*", ".tmp", "splits", "journal.jsonl"])
    def test_sets(self, whole, copy, elsewhere, name):
        path = next(copy.glob(name), copy / name)
        target = elsewhere
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            target = shutil.copy(path, elsewhere.parent / "journal")
            path.unlink()
        path.symlink_to(target)
        with pytest.raises(UserError, match=f"{path.name}: is a link"):
            prepare.main(["folder", "--raw", str(whole / "raw"), "--out", str(copy)])

    def test_runs(self, tmp_path, elsewhere):
        words = ["--dataset", "toy", "--encoder", "cnn", "--method", "uniform", "--out"]
        words += [str(tmp_path / "run"), "--limit_batches", "1", "--resume"]
        train.main([*words, "--epochs", "1"])
        log = tmp_path / "run/train.log"
        log.unlink()
        log.symlink_to(elsewhere / "precious")
        with pytest.raises(UserError, match=r"train.log is a link"):
            train.main([*words, "--epochs", "2"])
        log.unlink()
        log.write_bytes(bytes(10**5))
        (tmp_path / "run/config.json.tmp").symlink_to(elsewhere / "precious")
        train.main([*words, "--epochs", "2"])


def test_the_raw_files_are_good(whole):
    assert len(rows(whole / "set/manifest.csv")) == 12
