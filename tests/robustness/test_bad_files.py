"""Raw files and archives of an enemy: none runs, leads out, fills memory, hangs, or is obeyed."""

import gzip
import io
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tarfile
from argparse import Namespace
from pathlib import Path

import bombs
import numpy as np
import pytest
import torch
from bombs import ENDLESS, ESCAPE, Trap
from damage import told
from sets import SMALL, error_of, prepare_set, rows

import compare
import verify
from mmpareto.benchmarks import synthetic
from mmpareto.data.clips import Bad, Clip, Source
from mmpareto.data.recipes import named
from mmpareto.datasets.cgmnist import CGMNIST
from mmpareto.preparation.archives import members
from mmpareto.preparation.media import convert, load_array
from mmpareto.system.errors import UserError

TEXT = ("--vocabulary", "text=10")
KINDS = {"film": "frames", "voice": "audio", "photo": "image"}
RECIPE = named({"frames": "3fps", "audio": "stft", "images": "jpeg256"}, KINDS, {}, {})


def trap(path):
    trap = Trap(path.with_name("sprung"))
    np.save(path, np.array([trap], dtype=object), allow_pickle=True)


FILES = [
    (".jpg", "image", bombs.huge_jpeg, None), (".png", "image", bombs.huge_png, None),
    (".npy", "array", bombs.huge_npy, None), (".npy", "array", bombs.sparse_npy, None),
    (".wav", "audio", bombs.long_wav, None), (".flac", "audio", bombs.long_flac, None),
    (".wav", "audio", bombs.boastful_wav, None), (".flv", "frames", bombs.huge_video, None),
    (".npy", "array", trap, None),
    *(
        ("", kind, make, "no regular file")
        for make in ENDLESS for kind in ("image", "audio", "frames", "array")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("ending", "kind", "make", "why"), FILES)
def test_raw_files(tmp_path, memory, patience, ending, kind, make, why):
    path = tmp_path / f"it{ending}"
    make(path)
    for use in (lambda source: convert(source, RECIPE), load_array):
        with pytest.raises(Bad, match=why):
            use(Source(kind, path))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("make", ENDLESS)
def test_stills(tmp_path, patience, make):
    make(tmp_path / "000000.jpg")
    with pytest.raises(Bad, match="no regular file"):
        convert(Source("frames", tmp_path), RECIPE)


@pytest.mark.parametrize("make", ENDLESS)
@pytest.mark.parametrize("name", ["3.npy", "3.mp4"])
def test_preparing(raw, tmp_path, patience, make, name):
    raw = shutil.copytree(raw, tmp_path / "raw")
    (raw / name).unlink()
    make(raw / name)
    line = error_of("folder", raw, tmp_path / "out", *TEXT)
    assert f"{name}: is a pipe, a socket or a device" in line
    assert not (tmp_path / "out").exists()


class TestOtherFiles:
    """FFmpeg opens nothing but the file it is given."""

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.2,\n{}\n#EXT-X-ENDLIST\n"),
            ("a.mp4", "ffconcat version 1.0\nfile link.mp4\n"),
            # there is a folder of the first part's name; what follows would be a path from /
            ("subfile,,start,0,end,0,,:{}", "no film"),
        ],
    )
    def test_it_is_not_opened(self, tmp_path, monkeypatch, name, text):
        secret = tmp_path / "secret.mp4"
        frames = [np.full((SMALL[1], SMALL[0], 3), 40 * i, np.uint8) for i in range(6)]
        synthetic.write_video(secret, frames, "libx264", None)
        convert(Source("frames", secret), RECIPE)  # which can be read
        (tmp_path / "raw").mkdir()
        monkeypatch.chdir(tmp_path / "raw")
        Path("link.mp4").symlink_to(secret)
        path = Path(name.format(secret))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(secret))
        with pytest.raises(Bad):
            convert(Source("frames", path), RECIPE)


def header(name, count):
    """A header of MNIST that claims so many digits."""

    def change(raw):
        content = (raw / name).read_bytes()
        (raw / name).write_bytes(content[:4] + struct.pack(">I", count) + content[8:])

    return change


def hole(raw):
    """A huge file of which the disk holds nothing, and whose header tells the truth."""
    with open(raw / MNIST[0], "r+b") as file:
        file.write(struct.pack(">iiii", 0x803, 10**8, 28, 28))
        file.truncate(16 + 10**8 * 28 * 28)


def pack(raw):
    """torchvision unpacks them when it downloads; these were put there by hand."""
    for name in MNIST:
        with gzip.open(raw / f"{name}.gz", "wb") as file:
            file.write((raw / name).read_bytes())
        (raw / name).unlink()


def old_trap(raw):
    """As old versions of torchvision kept MNIST."""
    (raw / "../processed").mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save(Trap(raw / "sprung"), raw / "../processed" / name)
    for name in MNIST:
        (raw / name).unlink()


MNIST = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
         "t10k-labels-idx1-ubyte"]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (header(name, count), "damaged|found")
        for name in MNIST for count in (2**31 - 1, 2**32 - 1, 0, 10**6)
    ] + [(hole, "train-images-idx3-ubyte"), (pack, r"gunzip .*\.gz"), (old_trap, "")],
)  # fmt: skip
def test_mnist(mnist, memory, change, why):
    change(mnist / "MNIST/raw")
    assert re.search(why, told(CGMNIST.load, Namespace(data_root=mnist)))
    assert not (mnist / "MNIST/raw/sprung").exists()


class TestArchives:
    """Only wanted names come out, and only into the scratch folder."""

    def out_of(self, path, scratch):
        scratch.mkdir(exist_ok=True)

        def identify(name):
            wanted = name.endswith(".mp4")
            return Clip(name, "", "", {"a": Source("audio", Path(name))}) if wanted else None

        return list(members(path, identify, lambda id: False, scratch))

    def test_names_and_links(self, tmp_path):
        path, scratch = tmp_path / "a.tar", tmp_path / "in/scratch"
        scratch.parent.mkdir()
        with tarfile.open(path, "w") as tar:
            for name in ("../../up.mp4", "/absolute.mp4", "..mp4", "a/../../b.mp4"):
                member = tarfile.TarInfo(name)
                member.size = 3
                tar.addfile(member, io.BytesIO(b"abc"))
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
                member = tarfile.TarInfo(f"special{kind.decode()}.mp4")
                member.type, member.linkname = kind, "/etc/passwd"
                tar.addfile(member)
        before = {p for p in tmp_path.rglob("*") if p != scratch}
        found = self.out_of(path, scratch)
        assert len(found) == 4 and not any("special" in clip.id for clip in found)
        made = {p for p in tmp_path.rglob("*") if p != scratch} - before
        assert len(made) == 4 and all(p.parent == scratch for p in made)

    @pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
    def test_sizes(self, tmp_path, kind, memory):
        """A terabyte that a member claims is neither unpacked nor read into memory."""
        member = tarfile.TarInfo("huge.mp4")
        member.size, member.type = 2**40, kind
        content = member.tobuf(tarfile.GNU_FORMAT) + bytes(2**20)
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(UserError, match=r"says that 'huge.mp4' has 1099511627776 bytes"):
            self.out_of(tmp_path / "a.tar", tmp_path / "scratch")
        assert list((tmp_path / "scratch").iterdir()) == []

    @pytest.mark.parametrize("notes", [{"mtime": "nan"}, {"mtime": "1e300"}, {"path": "a\0b.mp4"}])
    def test_what_no_file_may_have(self, tmp_path, notes):
        with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            member = tarfile.TarInfo("a.mp4")
            member.size, member.pax_headers = 3, notes
            tar.addfile(member, io.BytesIO(b"abc"))
        with pytest.raises(UserError, match="is damaged or cut off"):
            self.out_of(tmp_path / "a.tar", tmp_path / "scratch")


@pytest.fixture
def mine(raw, tmp_path):
    """A copy of the raw files, and a way to change their table."""
    mine = shutil.copytree(raw, tmp_path / "raw")

    def change(old, new):
        text = (mine / "clips.csv").read_text()
        (mine / "clips.csv").write_text(text.replace(old, new))

    return mine, change


def test_own_table(mine, tmp_path):
    raw, change = mine
    change(",dog,", f",dog{ESCAPE},")
    assert "line 3: control characters" in error_of("folder", raw, tmp_path / "set", *TEXT)


def test_tables_of_problems(mine, tmp_path, capsys):
    """A file's name is no formula for a spreadsheet, and no order for a terminal."""
    raw, change = mine
    for number, name in enumerate(["=1+1.npy", "@SUM.npy"], 2):
        (raw / name).write_bytes(b"damaged")
        change(f",{number}.npy", f",{name}")
    prepare_set("folder", raw, tmp_path / "set", "--max_bad", "0.5", *TEXT)
    details = [row[4] for row in rows(tmp_path / "set/problems.csv")]
    assert [detail[:6] for detail in details] == ["'=1+1.", "'@SUM."]
    verify.check(tmp_path / "set")


def test_folders_with_special_names(raw, tmp_path, capsys):
    folder = tmp_path / "a b;$(touch sprung)`touch sprung`'\""
    prepare_set("folder", raw, folder, *TEXT)
    hint = capsys.readouterr().out.splitlines()[-1].removeprefix("Train    ")
    assert shlex.split(hint)[-1] == str(folder)
    compare.main(["--methods", "uniform", "--seeds", "0", "--out", str(folder / "runs"),
                  "--dataset", str(folder), "--print_commands"])  # fmt: skip
    line = capsys.readouterr().out.strip()
    script = f"set -- {line}; for word; do printf '%s\\n' \"$word\"; done"
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    words = done.stdout.splitlines()
    assert words[0] == sys.executable and str(folder / "runs/uniform-s0") in words
    assert "sprung" not in os.listdir(tmp_path)
