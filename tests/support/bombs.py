"""Files that run something, take the memory, or have no end, when they are read without care."""

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

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


def wav(path, claimed, size):
    """A WAVE file whose header claims so many bytes of sound, and that has room for so many."""
    head = b"RIFF" + struct.pack("<I", claimed + 36) + b"WAVEfmt " + struct.pack("<I", 16)
    head += struct.pack("<HHIIHH", 1, 2, 8000, 32000, 4, 16) + b"data"
    with open(path, "wb") as file:
        file.write(head + struct.pack("<I", claimed))
        file.truncate(file.tell() + size)


def long_wav(path):
    """Hours of silence, of which the disk holds nothing."""
    wav(path, 2**32 - 100, 2**32 - 100)


def boastful_wav(path):
    wav(path, 2**31 - 36, 1000)


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
