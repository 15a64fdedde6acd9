"""What an enemy would put into data, checkpoints and names: nothing of it runs, leaves its folder,
takes the memory, or speaks to the terminal."""

from mmpareto.system import allocation, entry, tensors

import io
import json
import os
import pickle
import shlex
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sets import SMALL, prepare_set, rows, write_folder

import compare
import prepare
import verify
from mmpareto.benchmarks import synthetic
from mmpareto.data.clips import Bad, Clip, Source
from mmpareto.data.recipes import named
from mmpareto.datasets.cgmnist import read_mnist
from mmpareto.preparation.archives import members
from mmpareto.preparation.media import convert, load_array
from mmpareto.run import checkpoint, options
from mmpareto.run.setup import load_data
from mmpareto.system.errors import UserError
from mmpareto.system.paths import sha256

RECIPE = named(
    {"frames": "3fps", "audio": "stft", "images": "jpeg256"},
    {"film": "frames", "voice": "audio", "photo": "image"}, {}, {},
)  # fmt: skip
ESCAPE = "\x1b]0;owned\x07"


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def trap(tmp_path):
    """An object that must not be unpickled; checks that it was not."""
    path = tmp_path / "sprung"
    yield Trap(path)
    assert not path.exists()
    pickle.loads(pickle.dumps(Trap(path)))
    assert path.exists()  # it would have worked


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    write_folder(folder / "raw", 12, ("cat", "dog"), seconds=0.5)
    prepare_set("folder", folder / "raw", folder / "set")
    return folder / "set"


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "set")


def load(folder):
    words = ["--dataset", str(folder), "--batch_size", "1", "--image_size", "8"]
    return load_data(options.parse(words))


def read_all(folder):
    for split in load(folder).splits.values():
        split.read(list(range(len(split))))


def rewrite(folder, name, change):
    """Change a table's text, and have metadata.json agree with it, as an enemy would."""
    path = folder / name
    path.write_text(change(path.read_text()))
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["sha256"][name] = sha256(path)
    (folder / "metadata.json").write_text(json.dumps(metadata))


def pose_of(folder, number=0):
    """The id, and the path inside the set, of a clip's array."""
    row = rows(folder / "manifest.csv")[number]
    return row[0], next(cell for cell in row if cell.startswith("pose/"))


class TestPickle:
    def test_arrays(self, trap, copy, capsys):
        _, path = pose_of(copy)
        np.save(copy / path, np.array([trap], dtype=object), allow_pickle=True)
        with pytest.raises(UserError, match="cannot be read"):
            read_all(copy)
        with pytest.raises(Bad):
            load_array(Source("array", copy / path))
        digest, size = sha256(copy / path), (copy / path).stat().st_size

        def listed(text):
            lines = [line.split(",") for line in text.splitlines()]
            new = [[p, size, digest] if p == path else [p, *rest] for p, *rest in lines]
            return "\n".join(",".join(map(str, line)) for line in new) + "\n"

        rewrite(copy, "files.csv", listed)
        with pytest.raises(UserError, match="1 findings"):
            verify.check(copy, full=True)
        assert "array that does not load" in capsys.readouterr().out

    @pytest.mark.parametrize("legacy", [False, True])
    def test_checkpoints(self, trap, tmp_path, legacy):
        path = tmp_path / "best.pt"
        state = {"model": {}, "config": {}, "epoch": 1, "data": trap}
        torch.save(state, path, _use_new_zipfile_serialization=not legacy)
        for read in (checkpoint.read_state, tensors.read):
            with pytest.raises(UserError, match="only pickle can load"):
                read(path)
        path.write_bytes(pickle.dumps(trap))
        with pytest.raises(UserError):
            tensors.read(path)

    def test_mnist_as_old_versions_of_torchvision_kept_it(self, trap, tmp_path):
        folder = tmp_path / "MNIST/processed"
        folder.mkdir(parents=True)
        for name in ("training.pt", "test.pt"):
            torch.save(trap, folder / name)
        with pytest.raises(UserError):
            read_mnist(tmp_path, train=True)


class TestPaths:
    @pytest.mark.parametrize("path", ["../secret.npy", "pose/../../secret.npy", "{outside}", ""])
    def test_in_the_manifest(self, copy, path, capsys):
        np.save(copy.parent / "secret.npy", np.zeros(10, np.float32))
        path = path.format(outside=copy.parent / "secret.npy")
        rewrite(copy, "manifest.csv", lambda text: text.replace(pose_of(copy)[1], path))
        with pytest.raises(UserError, match="a path inside the set expected"):
            load(copy)
        with pytest.raises(UserError, match="findings"):
            verify.check(copy)
        assert "path outside the set" in capsys.readouterr().out

    @pytest.mark.parametrize("depth", ["file", "shard", "modality", "still"])
    def test_links_that_lead_out(self, copy, depth, capsys):
        path = copy / pose_of(copy)[1]
        if depth == "still":
            path = next(copy.glob("film/*/*/000000.jpg"))
        for _ in range({"shard": 1, "modality": 2}.get(depth, 0)):
            path = path.parent
        path.rename(copy.parent / "elsewhere")
        path.symlink_to(copy.parent / "elsewhere")
        with pytest.raises(UserError, match="link"):
            read_all(copy)
        with pytest.raises(UserError, match="findings"):
            verify.check(copy)
        assert "link instead of a file" in capsys.readouterr().out

    def test_the_set_itself_may_be_a_link(self, copy):
        (copy.parent / "linked").symlink_to(copy)
        read_all(copy.parent / "linked")
        verify.check(copy.parent / "linked")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("splits", ["../../secret"]), ("splits", ["/etc/passwd"]), ("splits", [f"a{ESCAPE}"]),
            ("sha256", {"../secret": "0" * 64}), ("classes", ["cat", f"dog{ESCAPE}"]),
            ("classes", ["cat", "dog", "dog"]), ("modalities", {"..": {"kind": "frames"}}),
            ("modalities", {"pose": {"kind": "array", "shape": [10**9, 10**9]}}),
            ("modalities", {"text": {"kind": "tokens", "shape": [3], "vocabulary": 10**12}}),
        ],
    )  # fmt: skip
    def test_in_the_metadata(self, copy, field, value):
        metadata = json.loads((copy / "metadata.json").read_text())
        (copy / "metadata.json").write_text(json.dumps({**metadata, field: value}))
        for use in (load, verify.check):
            with pytest.raises(UserError, match=rf"no metadata of a prepared set \({field}\)"):
                use(copy)

    def test_a_list_of_files_is_not_followed(self, copy, capsys):
        secret = copy.parent / "secret.npy"
        np.save(secret, np.zeros(3))
        line = f"../secret.npy,{secret.stat().st_size},{sha256(secret)}\n"
        rewrite(copy, "files.csv", lambda text: text + line)
        with pytest.raises(UserError, match="findings"):
            verify.check(copy, full=True)
        assert "path outside the set: ../secret.npy" in capsys.readouterr().out


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
def memory():
    """Fails where a test took much memory at once."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        yield
        return

    def peak():
        text = next(line for line in status.read_text().splitlines() if "VmHWM" in line)
        return int(text.split()[1]) * 1024

    reset.write_text("5")
    before = peak()
    yield
    assert peak() - before < 200e6


def huge_jpeg(path):
    content = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", 65500, 65500)
    path.write_bytes(content)


def huge_png(path, side=50_000):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    zeros = bytes(side // 8 + 1)
    data = b"".join(packer.compress(zeros) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def huge_npy(path, size=None):
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        if size:
            file.truncate(file.tell() + size)  # a file with a hole: it takes no room on the disk


def sparse_npy(path):
    huge_npy(path, 4 * 10**12)


def long_wav(path):
    """Hours of silence, of which the disk holds nothing."""
    size = 2**32 - 100
    fmt = struct.pack("<HHIIHH", 1, 2, 8000, 32000, 4, 16)
    head = b"RIFF" + struct.pack("<I", size + 36) + b"WAVEfmt " + struct.pack("<I", 16) + fmt
    with open(path, "wb") as file:
        file.write(head + b"data" + struct.pack("<I", size))
        file.truncate(file.tell() + size)


def boastful_wav(path):
    fmt = struct.pack("<HHIIHH", 1, 2, 8000, 32000, 4, 16)
    head = b"RIFF" + struct.pack("<I", 2**31) + b"WAVEfmt " + struct.pack("<I", 16) + fmt
    path.write_bytes(head + b"data" + struct.pack("<I", 2**31 - 36) + bytes(1000))


def long_flac(path):
    """A whole FLAC file whose header claims 2^36 - 1 samples."""
    import soundfile

    soundfile.write(path, np.zeros(8000), 8000)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)


def huge_video(path):
    """A film whose header says 32,000 x 32,000 pixels."""
    frames = [np.zeros((48, 64, 3), np.uint8)] * 3
    synthetic.write_video(path, frames, "flv1", None)
    content = bytearray(path.read_bytes())
    tag = content.index(b"\x09", 13)  # of a picture: 11 bytes of header, then kind and codec
    while content[tag + 11] & 0x0F != 2:
        tag = content.index(b"\x09", tag + 1)
    bits = "".join(f"{byte:08b}" for byte in content[tag + 12 : tag + 32])
    place = 17 + 5 + 8  # start code, version, number of the picture
    bits = bits[:place] + "001" + f"{32000:016b}" * 2 + bits[place + 3 + 32 :]
    content[tag + 12 : tag + 32] = int(bits[:160], 2).to_bytes(20, "big")
    path.write_bytes(content)


class TestBombs:
    @pytest.mark.parametrize(
        ("ending", "kind", "make"),
        [
            (".jpg", "image", huge_jpeg), (".png", "image", huge_png), (".npy", "array", huge_npy),
            (".npy", "array", sparse_npy), (".wav", "audio", long_wav),
            (".flac", "audio", long_flac), (".wav", "audio", boastful_wav),
            (".flv", "frames", huge_video),
        ],
    )  # fmt: skip
    def test_raw(self, tmp_path, memory, ending, kind, make):
        path = tmp_path / f"bomb{ending}"
        make(path)
        with pytest.raises(Bad):
            convert(Source(kind, path), RECIPE)

    @pytest.mark.parametrize("make", [huge_npy, sparse_npy])
    def test_arrays_of_a_set(self, copy, memory, make, capsys):
        make(copy / pose_of(copy)[1])
        with pytest.raises(UserError, match="cannot be read"):
            read_all(copy)
        with pytest.raises(UserError, match="findings"):
            verify.check(copy)

    def test_pictures_of_a_set(self, copy, memory, capsys):
        huge_jpeg(next(copy.glob("film/*/*/000000.jpg")))
        with pytest.raises(UserError, match="cannot be read"):
            read_all(copy)
        with pytest.raises(UserError, match="findings"):
            verify.check(copy, full=True)

    def test_more_stills_than_there_can_be(self, copy, memory, capsys):
        text = (copy / "manifest.csv").read_text()
        cells = text.splitlines()[1].split(",")
        column = text.splitlines()[0].split(",").index("film.stills")
        cells[column] = "9" * 15
        lines = text.splitlines()
        lines[1] = ",".join(cells)
        rewrite(copy, "manifest.csv", lambda _: "\n".join(lines) + "\n")
        with pytest.raises(UserError, match="findings"):
            verify.check(copy)
        assert "number of stills" in capsys.readouterr().out
        with pytest.raises(UserError, match="cannot be read"):
            read_all(copy)

    def test_samples_that_flags_ask_for(self, copy, memory):
        words = ["--dataset", str(copy), "--batch_size", "1", "--image_size", "100000"]
        with pytest.raises(UserError, match=r"--image_size, --num_frames: a sample of film"):
            load_data(options.parse(words))

    def test_packed_checkpoint(self, tmp_path, memory):
        """torch never packs; a packed zero would be unpacked a thousandfold."""
        whole, packed = tmp_path / "whole.pt", tmp_path / "packed.pt"
        torch.save({"model": torch.zeros(2**18)}, whole)
        with (
            zipfile.ZipFile(whole) as old,
            zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for name in old.namelist():
                content = old.read(name)
                new.writestr(name, content * (100 if "data/" in name else 1))
        with pytest.raises(UserError, match="its parts claim"):
            tensors.read(packed)
        tensors.read(whole)

    def test_expanded_tensor(self, tmp_path, memory):
        """A terabyte of one number, in a file of one."""
        state = {"model": {"w": torch.zeros(1).expand(10**12)}, "config": {}}
        data = {"recipe": "", "identity": "", "classes": []}
        torch.save(state | {"epoch": 1, "data": data}, tmp_path / "best.pt")
        with pytest.raises(UserError, match="config is damaged"):
            options.from_config(checkpoint.read_state(tmp_path / "best.pt").config, tmp_path)


class TestNames:
    def test_messages_are_one_line_that_no_terminal_obeys(self, monkeypatch, capsys):
        def main(arguments):
            raise UserError(f"{ESCAPE}file\r\nOK\u2028\u202e\udc80 caf\u00e9 \u732b")

        monkeypatch.setattr(allocation, "keep_memory", lambda: None)
        with pytest.raises(SystemExit) as ended:
            entry.run(main)
        assert ended.value.code == 2
        shown = capsys.readouterr().err
        assert shown == (
            "error: \\x1b]0;owned\\x07file\\r\\nOK\\u2028\\u202e\\udc80 caf\u00e9 \u732b\n"
        )

    def test_own_table(self, tmp_path):
        raw = write_folder(tmp_path / "raw", 4, ("cat", f"dog{ESCAPE}"), seconds=0.5)
        with pytest.raises(UserError, match="line 3: control characters"):
            prepare.main(["folder", "--raw", str(raw), "--out", str(tmp_path / "set")])

    def test_tables_of_problems(self, tmp_path, capsys):
        """A file's name is no formula for a spreadsheet, and no order for a terminal."""
        raw = write_folder(tmp_path / "raw", 12, ("cat", "dog"), seconds=0.5)
        for number, name in enumerate(["=1+1.npy", "@SUM.npy"], 2):
            (raw / name).write_bytes(b"damaged")
            text = (raw / "clips.csv").read_text().replace(f",{number}.npy", f",{name}")
            (raw / "clips.csv").write_text(text)
        prepare_set("folder", raw, tmp_path / "set", "--max_bad", "0.5")
        details = [row[4] for row in rows(tmp_path / "set/problems.csv")]
        assert [detail[:6] for detail in details] == ["'=1+1.", "'@SUM."]
        verify.check(tmp_path / "set")

    def test_folders_with_special_names(self, tmp_path, capsys):
        name = "a b;$(touch sprung)`touch sprung`'\""
        raw = write_folder(tmp_path / "raw", 12, ("cat", "dog"), seconds=0.5)
        prepare.main(["folder", "--raw", str(raw), "--out", str(tmp_path / name)])
        hint = capsys.readouterr().out.splitlines()[-1].removeprefix("Train    ")
        assert shlex.split(hint)[-1] == str(tmp_path / name)
        flags = ["--methods", "uniform", "--seeds", "0", "--out", str(tmp_path / name / "runs")]
        compare.main([*flags, "--dataset", str(tmp_path / name), "--print_commands"])
        line = capsys.readouterr().out.strip()
        script = f"set -- {line}; for word; do printf '%s\\n' \"$word\"; done"
        done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.splitlines()[0] == sys.executable
        assert str(tmp_path / name / "runs/uniform-s0") in done.stdout.splitlines()
        assert "sprung" not in os.listdir(tmp_path)


def test_small_enough():
    assert SMALL[0] * SMALL[1] < 2**27
