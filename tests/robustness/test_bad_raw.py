"""Damaged raw files: MNIST's in torchvision's layout, and folders of ModelNet40's views.

No damage hangs, takes the memory, leaves an object out in silence, or shows a stack trace.
"""

import gzip
import shutil
import struct
from argparse import Namespace
from contextlib import suppress

import cv2
import numpy as np
import pytest
from hypothesis import strategies as st
from mutations import WORDS, bytes_of
from test_bad_data import attack, refused, sizes
from test_data import write_mnist
from test_hostile import RECIPE, memory  # noqa: F401 - a fixture

from mmpareto.data.clips import Bad
from mmpareto.data.layout import ID
from mmpareto.datasets import cgmnist
from mmpareto.datasets.cgmnist import CGMNIST
from mmpareto.datasets.modelnet40 import ModelNet40
from mmpareto.preparation.media import convert
from mmpareto.system.errors import UserError

FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
         "t10k-labels-idx1-ubyte"]  # fmt: skip


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """Fewer digits than there are: 60 and 10."""
    monkeypatch.setattr(cgmnist, "SIZES", {True: 60, False: 10})
    monkeypatch.setattr(cgmnist, "VALIDATION", 20)
    write_mnist(tmp_path, 60, 60, 10)
    return tmp_path


def load(root):
    data = CGMNIST.load(Namespace(data_root=root))
    assert [len(split) for split in data.splits.values()] == [40, 20, 10]
    for split in data.splits.values():
        inputs, targets = split.read(list(range(len(split))))
        assert inputs["gray"].shape == (len(split), 1, 28, 28)
        assert targets.min() >= 0 and targets.max() < 10


@sizes(150, 3000)
def test_mnist(mnist, examples):
    """Pixels may have other values afterwards: the files hold no sums to check them by."""

    def check(draw):
        path = mnist / "MNIST/raw" / draw(st.sampled_from(FILES))
        content = path.read_bytes()
        path.write_bytes(bytes_of(draw, content))
        try:
            refused(load, mnist)
        finally:
            path.write_bytes(content)

    load(mnist)
    attack(examples, check)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("count", [2**31 - 1, 2**32 - 1, 0, 10**6])
def test_sizes_that_a_header_claims(mnist, name, count, memory):  # noqa: F811
    path = mnist / "MNIST/raw" / name
    content = path.read_bytes()
    path.write_bytes(content[:4] + struct.pack(">I", count) + content[8:])
    with pytest.raises(UserError, match=r"damaged|found"):
        load(mnist)


def test_huge_file(mnist, memory):  # noqa: F811
    """Of which the disk holds nothing, and whose header tells the truth."""
    path = mnist / "MNIST/raw" / FILES[0]
    with open(path, "r+b") as file:
        file.write(struct.pack(">iiii", 0x803, 10**8, 28, 28))
        file.truncate(16 + 10**8 * 28 * 28)
    with pytest.raises(UserError, match="train-images-idx3-ubyte"):
        load(mnist)


def test_packed_files(mnist):
    """torchvision unpacks them when it downloads; these were put there by hand."""
    for name in FILES:
        path = mnist / "MNIST/raw" / name
        with gzip.open(f"{path}.gz", "wb") as file:
            file.write(path.read_bytes())
        path.unlink()
    with pytest.raises(UserError, match=r"gunzip .*\.gz"):
        load(mnist)


def png():
    return cv2.imencode(".png", np.full((8, 8, 3), 128, np.uint8))[1].tobytes()


@sizes(60, 600)
def test_modelnet40(tmp_path, examples):
    """Names, folders and links that are not as published: every object is taken, or left out."""
    for label in ("airplane", "bathtub"):
        for part in ("train", "test"):
            (tmp_path / "raw" / label / part).mkdir(parents=True)
            for number in range(1, 13):
                name = f"{label}_0001.obj.shaded_v{number:03d}.png"
                (tmp_path / "raw" / label / part / name).write_bytes(png())
    whole = sorted(p for p in (tmp_path / "raw").rglob("*.png"))

    def check(draw):
        raw = shutil.copytree(tmp_path / "raw", tmp_path / "damaged")
        try:
            for _ in range(draw(st.integers(1, 4))):
                path = raw / draw(st.sampled_from(whole)).relative_to(tmp_path / "raw")
                how = draw(st.sampled_from(["delete", "name", "folder", "link", "loop", "part"]))
                if how == "part" and path.parent.exists():
                    shutil.rmtree(path.parent)
                if not path.is_file():
                    continue
                if how == "delete":
                    path.unlink()
                elif how == "name":
                    word = draw(st.sampled_from(WORDS) | st.text(max_size=8))
                    word = "".join(
                        c for c in word if c not in "/\0" and not "\ud800" <= c <= "\udfff"
                    )
                    number = draw(st.sampled_from(["001", "013", "000", "\u0661\u0661\u0661", "1"]))
                    path.rename(path.with_name(f"{word[:150]}_0001.obj.shaded_v{number}.png"))
                elif how == "folder":
                    path.unlink()
                    path.mkdir()
                else:
                    path.unlink()
                    path.symlink_to(path if how == "loop" else "/etc/passwd")
            refused(collect, raw)
        finally:
            shutil.rmtree(raw)

    def collect(raw):
        found = ModelNet40.collect(Namespace(raw=raw))
        known = {clip.id for clip in found.clips} | found.left_out.keys()
        assert known == found.lists["official"].keys()
        for clip in found.clips:
            assert ID.fullmatch(clip.id)
            for source in clip.sources.values():
                with suppress(Bad):
                    convert(source, RECIPE)

    attack(examples, check)
