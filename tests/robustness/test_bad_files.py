"""Raw files and archives of an enemy: none runs, leads out, fills memory, hangs, or is obeyed."""

import builtins
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
from damage import RECIPE, forbid, told
from sets import SMALL, error_of, prepare_set, rows

import compare
import verify
from mmpareto.benchmarks import synthetic
from mmpareto.data.clips import Bad, Clip, Source, check_media, state_of
from mmpareto.datasets.cgmnist import CGMNIST
from mmpareto.datasets.ucf101 import FOLDERS
from mmpareto.preparation.archives import members
from mmpareto.preparation.arrays import load_array
from mmpareto.preparation.media import convert
from mmpareto.preparation.worker import convert_clip
from mmpareto.system.errors import UserError

pytestmark = pytest.mark.usefixtures("guarded")

TEXT = ("--vocabulary", "text=10")


def trap(path):
    trap = Trap(path.with_name("sprung"))
    np.save(path, np.array([trap], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("ending", "kind", "make", "why"),
    [
        (".jpg", "image", bombs.huge_jpeg, None),
        (".png", "image", bombs.huge_png, None),
        (".npy", "array", bombs.huge_npy, None),
        (".npy", "array", bombs.sparse_npy, None),
        (".wav", "audio", bombs.long_wav, None),
        (".flac", "audio", bombs.long_flac, None),
        (".wav", "audio", bombs.boastful_wav, None),
        (".flv", "frames", bombs.huge_video, None),
        (".npy", "array", trap, None),
        *(
            ("", kind, make, "no regular file")
            for make in ENDLESS
            for kind in ("image", "audio", "frames", "array")
        ),
    ],
)
def test_raw_files(tmp_path, ending, kind, make, why):
    path = tmp_path / f"it{ending}"
    make(path)
    for use in (lambda source: convert(source, RECIPE), load_array):
        with pytest.raises(Bad, match=why):
            use(Source(kind, path))


@pytest.mark.parametrize("make", ENDLESS)
def test_stills(tmp_path, make):
    make(tmp_path / "000000.jpg")
    with pytest.raises(Bad, match="no regular file"):
        convert(Source("frames", tmp_path), RECIPE)


@pytest.fixture
def mine(raw, tmp_path):
    return shutil.copytree(raw, tmp_path / "raw")


@pytest.mark.parametrize("make", ENDLESS)
@pytest.mark.parametrize("name", ["3.npy", "3.mp4"])
def test_preparing(mine, tmp_path, make, name):
    bombs.put(mine, name, make)
    line = error_of("folder", mine, tmp_path / "out", *TEXT)
    assert f"{name}: is a pipe, a socket or a device" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("dataset", "folder"),
    [
        ("cremad", "AudioWAV"),
        ("kinetics_sounds", "singing"),
        ("modelnet40", "bowl/train"),
        ("ucf101", "jpegs_256"),
    ],
)
def test_a_folder_that_may_not_be_listed(tmp_path, monkeypatch, dataset, folder):
    for name in ("AudioWAV", "VideoFlash", "singing", "bowl/train", *FOLDERS):
        (tmp_path / "raw" / name).mkdir(parents=True)
    path = tmp_path / "raw" / folder
    forbid(monkeypatch, os, path, "scandir", "listdir")
    line = error_of(dataset, tmp_path / "raw", tmp_path / "set")
    assert line.startswith(f"{path}: cannot be read (Permission denied)")
    with pytest.raises(Bad, match="Permission denied"):
        convert(Source("frames", path), RECIPE)
    assert state_of(Source("frames", path)).bytes == -1


def test_a_file_that_may_not_be_read(mine, tmp_path, monkeypatch):
    path = mine / "3.npy"
    forbid(monkeypatch, builtins, path, "open")
    check_media([path, mine / "4.npy"], "")
    clip = Clip("clip-3", "cat", "", {"array": Source("array", path)})
    problem = convert_clip(clip, RECIPE, tmp_path, {}).problem
    assert problem.reason == "unreadable" and "3.npy" in problem.detail
    forbid(monkeypatch, tarfile, path, "open")
    with pytest.raises(UserError, match=r"3.npy: cannot be read \(Permission denied\)"):
        out_of(path, tmp_path / "scratch")


@pytest.mark.parametrize(
    ("target", "why"), [("x", "a link that leads nowhere"), (None, "No such file or directory")]
)
def test_a_path_without_a_file(mine, tmp_path, target, why):
    (mine / "3.npy").unlink()
    if target:
        (mine / "3.npy").symlink_to(target)
    line = error_of("folder", mine, tmp_path / "out", *TEXT)
    assert f"line 5: pose '3.npy': not found in {mine} ({why})" in line


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.2,\n{}\n#EXT-X-ENDLIST\n"),
        ("a.mp4", "ffconcat version 1.0\nfile link.mp4\n"),
        # there is a folder of the first part's name; what follows would be a path from /
        ("subfile,,start,0,end,0,,:{}", "no film"),
    ],
)
def test_ffmpeg_opens_nothing_but_the_file_it_is_given(tmp_path, monkeypatch, name, text):
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


MNIST = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
         "t10k-labels-idx1-ubyte"]  # fmt: skip


def header(raw, name, count):
    """A header that claims so many digits."""
    bombs.patch(raw / name, 4, struct.pack(">I", count))


def hole(raw):
    """A huge file of which the disk holds nothing, and whose header tells the truth."""
    header(raw, MNIST[0], 10**8)
    os.truncate(raw / MNIST[0], 16 + 10**8 * 28 * 28)


def pack(raw):
    """torchvision unpacks them when it downloads; these were put there by hand."""
    for path in list(raw.iterdir()):
        with gzip.open(f"{path}.gz", "wb") as file:
            file.write(path.read_bytes())
        path.unlink()


def old_trap(raw):
    """As old versions of torchvision kept MNIST."""
    processed = raw.with_name("processed")
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save(Trap(raw / "sprung"), processed / name)
    for name in MNIST:
        (raw / name).unlink()


@pytest.mark.parametrize(
    ("change", "given", "why"),
    [
        *(
            (header, (name, count), "damaged|found")
            for name in MNIST
            for count in (2**31 - 1, 2**32 - 1, 0, 10**6)
        ),
        (hole, (), "train-images-idx3-ubyte"),
        (pack, (), r"gunzip .*\.gz"),
        (old_trap, (), ""),
    ],
)
def test_mnist(mnist, change, given, why):
    change(mnist / "MNIST/raw", *given)
    assert re.search(why, told(CGMNIST.load, Namespace(data_root=mnist)))


def out_of(path, scratch):
    """The clips of an archive; only wanted names come out, and only into the scratch folder."""
    scratch.mkdir(parents=True)

    def identify(name):
        wanted = name.endswith(".mp4")
        return Clip(name, "", "", {"a": Source("audio", Path(name))}) if wanted else None

    return list(members(path, identify, lambda id: False, scratch))


def member(name, **fields):
    made = tarfile.TarInfo(name)
    made.size = 3
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def test_names_and_links_in_an_archive(tmp_path):
    path, scratch = tmp_path / "a.tar", tmp_path / "in/scratch"
    with tarfile.open(path, "w") as tar:
        for name in ("../../up.mp4", "/absolute.mp4", "..mp4", "a/../../b.mp4"):
            tar.addfile(member(name), io.BytesIO(b"abc"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            name = f"special{kind.decode()}.mp4"
            tar.addfile(member(name, size=0, type=kind, linkname="/etc/passwd"))
    found = out_of(path, scratch)
    assert len(found) == 4 and not any("special" in clip.id for clip in found)
    made = set(tmp_path.rglob("*")) - {path, scratch, scratch.parent}
    assert len(made) == 4 and all(p.parent == scratch for p in made)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_sizes_in_an_archive(tmp_path, kind):
    """A terabyte that a member claims is neither unpacked nor read into memory."""
    claims = member("huge.mp4", size=2**40, type=kind).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(claims + bytes(2**20))
    with pytest.raises(UserError, match=r"says that 'huge.mp4' has 1099511627776 bytes"):
        out_of(tmp_path / "a.tar", tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("notes", [{"mtime": "nan"}, {"mtime": "1e300"}, {"path": "a\0b.mp4"}])
def test_what_no_file_may_have(tmp_path, notes):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member("a.mp4", pax_headers=notes), io.BytesIO(b"abc"))
    with pytest.raises(UserError, match="is damaged or cut off"):
        out_of(tmp_path / "a.tar", tmp_path / "scratch")


def change(raw, old, new):
    """Change the text of the table of clips."""
    text = (raw / "clips.csv").read_text()
    (raw / "clips.csv").write_text(text.replace(old, new))


def test_own_table(mine, tmp_path):
    change(mine, ",dog,", f",dog{ESCAPE},")
    assert "line 3: control characters" in error_of("folder", mine, tmp_path / "set", *TEXT)


def test_names_are_no_formula_and_no_order_for_a_shell(mine, tmp_path, capsys):
    """Of raw files in the table of problems, and of a set in the commands that are shown."""
    for number, name in enumerate(["=1+1.npy", "@SUM.npy"], 2):
        (mine / name).write_bytes(b"damaged")
        change(mine, f",{number}.npy", f",{name}")
    folder = tmp_path / "a b;$(touch sprung)`touch sprung`'\""
    prepare_set("folder", mine, folder, "--max_bad", "0.5", *TEXT)
    details = [row[4] for row in rows(folder / "problems.csv")]
    assert [detail[:6] for detail in details] == ["'=1+1.", "'@SUM."]
    hint = capsys.readouterr().out.splitlines()[-1].removeprefix("Train    ")
    assert shlex.split(hint) == ["sh", "script/mmpareto.sh", "--dataset", str(folder)]
    verify.check(folder)
    capsys.readouterr()
    compare.main(["--methods", "uniform", "--seeds", "0", "--out", str(folder / "runs"),
                  "--dataset", str(folder), "--print_commands"])  # fmt: skip
    line = capsys.readouterr().out.strip()
    script = f"set -- {line}; for word; do printf '%s\\n' \"$word\"; done"
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    words = done.stdout.splitlines()
    assert words[0] == sys.executable and str(folder / "runs/uniform-s0") in words
