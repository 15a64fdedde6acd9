"""Files that run something, take the memory, or have no end, when they are read without care."""

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import soundfile

from mmpareto.benchmarks import synthetic

ESCAPE = "\x1b]0;owned\x07"  # an order for a terminal


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


ENDLESS = (pipe, endless)


def patch(path, place, new):
    """Put other bytes in the place of some."""
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(new)


def put(folder, path, make):
    """Something else in the place of a file."""
    (folder / path).unlink()
    make(folder / path)


def huge_jpeg(path):
    content = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    path.write_bytes(content)
    patch(path, content.index(b"\xff\xc0") + 5, struct.pack(">HH", 65500, 65500))


def huge_png(path, side=33_000):
    """A whole picture of more than 2^30 pixels, which OpenCV refuses by itself."""
    packer, row = zlib.compressobj(1), bytes(side // 8 + 1)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")):
            sums = struct.pack(">I", zlib.crc32(kind + data))
            file.write(struct.pack(">I", len(data)) + kind + data + sums)


def sparse_npy(path):
    """Four terabytes, of which the disk holds nothing."""
    np.lib.format.open_memmap(path, "w+", "<f4", (10**6, 10**6))


def huge_npy(path):
    """Its header alone."""
    sparse_npy(path)
    os.truncate(path, 128)


def boastful_wav(path, claimed=2**30, size=1000):
    """A sound whose header claims so many bytes, and that has room for so many."""
    soundfile.write(path, np.zeros(2), 8000)
    patch(path, 4, struct.pack("<I", claimed + 36))
    patch(path, 40, struct.pack("<I", claimed))
    os.truncate(path, 44 + size)


def long_wav(path):
    """Hours of silence, of which the disk holds nothing."""
    boastful_wav(path, 2**32 - 100, 2**32 - 100)


def long_flac(path):
    """A whole FLAC file whose header claims 2^36 - 1 samples."""
    soundfile.write(path, np.zeros(8000), 8000)
    patch(path, 21, bytes([path.read_bytes()[21] | 0x0F, *b"\xff" * 4]))


def huge_video(path):
    """A film whose header says 32,000 x 32,000 pixels."""
    frames = [np.zeros((48, 64, 3), np.uint8)] * 3
    synthetic.write_video(path, frames, "flv1", None)
    content = path.read_bytes()
    tag = content.index(b"\x09", 13)  # of a picture: 11 bytes of header, then kind and codec
    while content[tag + 11] & 0x0F != 2:
        tag = content.index(b"\x09", tag + 1)
    bits = "".join(f"{byte:08b}" for byte in content[tag + 12 : tag + 32])
    place = 17 + 5 + 8  # start code, version, number of the picture
    bits = bits[:place] + "001" + f"{32000:016b}" * 2 + bits[place + 3 + 32 :]
    patch(path, tag + 12, int(bits[:160], 2).to_bytes(20, "big"))
