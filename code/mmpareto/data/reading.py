"""Readers of prepared files, one for each way a modality is kept.

A reader has the `shape` and `dtype` of a sample, and `is_fixed` where a sample is the same in every
epoch. `read(path, row, random, out)` fills out with one. If random is None, nothing is random.
One that is fixed has `load`, too.
"""

import math
import os
from collections.abc import Iterator
from functools import lru_cache
from random import Random

import numpy as np

from ..system.errors import UserError, reason
from ..system.paths import expect_regular
from . import pictures
from .layout import STILLS
from .pictures import cv2

HEADER = 2**16  # bytes that a .npy file may have besides its numbers


class Frames:
    """Some stills of a clip as bytes (count, 3, size, size), in their order.

    crop: in training every "still" is cropped and flipped by itself, or all of a "clip" alike, or
    "none".
    """

    dtype: type[np.number] = np.uint8
    is_fixed = False

    def __init__(self, modality: str, count: int, size: int, crop: str):
        self.column, self.count, self.shape = modality + STILLS, count, (count, 3, size, size)
        self.crop = crop

    def read(self, path: str, row: dict[str, str], random: Random | None, out: np.ndarray) -> None:
        for (picture, own), place in zip(self.stills(path, row, random), out, strict=True):
            _fit(picture, own, place)

    def stills(
        self, path: str, row: dict[str, str], random: Random | None
    ) -> Iterator[tuple[np.ndarray, Random | None]]:
        """Yield the chosen stills, each with what crops and flips it."""
        chosen = choose_stills(int(row[self.column]), self.count, random)
        random = None if self.crop == "none" else random
        start = random.getstate() if random else None
        for still in chosen:
            if random and start and self.crop == "clip":
                random.setstate(start)
            yield _decode(f"{path}/{still:06d}.jpg"), random


class Flow(Frames):
    """Some fields of flow (count, 2, size, size), from -1 to 1: cropped and flipped in training."""

    dtype = np.float32

    def __init__(self, modality: str, count: int, size: int, crop: str):
        super().__init__(modality, count, size, crop)
        self.shape = (count, 2, size, size)

    def read(self, path: str, row: dict[str, str], random: Random | None, out: np.ndarray) -> None:
        for (picture, own), place in zip(self.stills(path, row, random), out, strict=True):
            both = picture[:, :, 0]
            half = len(both) // 2
            is_flipped = _fit(np.dstack([both[:half], both[half : 2 * half]]), own, place)
            place /= 127.5
            place -= 1
            if is_flipped:  # what moved to the left moves to the right
                place[0] *= -1


class Picture:
    """One picture as bytes (3, size, size): cropped and flipped in training.

    crop: "none" for neither.
    """

    dtype, is_fixed = np.uint8, False

    def __init__(self, size: int, crop: str):
        self.shape, self.crop = (3, size, size), crop

    def read(self, path: str, row: dict[str, str], random: Random | None, out: np.ndarray) -> None:
        _fit(_decode(path), None if self.crop == "none" else random, out)


class Array:
    """Numbers of FILE.npy, or rows of a packed one."""

    is_fixed = True

    def __init__(self, shape: tuple[int, ...], dtype: type[np.number] = np.float32):
        self.shape, self.dtype = shape, dtype

    def read(self, path: str, row: dict[str, str], random: Random | None, out: np.ndarray) -> None:
        out[...] = self.load(path)[0]

    def load(self, path: str, rows: list[int] | None = None) -> np.ndarray:
        """Return rows (n, ...) of a packed file, which stays on disk, or the sample of another."""
        try:
            expect_regular(path)
            size = os.path.getsize(path)
            if rows is None:
                if size > HEADER + 16 * math.prod(self.shape):  # before memory is taken for it
                    raise ValueError(f"{size} bytes, too many for {self.shape}")
                packed, rows = np.load(path, allow_pickle=False)[None], [0]
            else:
                packed, before = _packed(path)
                if size < before:  # to read a page that has gone kills the process
                    raise ValueError(f"shorter than the {before} bytes it had")
            if packed.dtype.kind not in "fiub":
                raise ValueError("no array of numbers")
            if math.prod(packed.shape[1:]) != math.prod(self.shape):
                raise ValueError(f"shape {packed.shape[1:]} found, {self.shape} expected")
            values = packed[rows].reshape(len(rows), *self.shape)
        except Exception as error:  # numpy parses the header as Python and fails in many ways
            raise _unreadable(path, reason(error)) from None
        with np.errstate(all="ignore"):  # numbers that are not finite show in the loss
            return values.astype(self.dtype, copy=False)


def choose_stills(stills: int, count: int, random: Random | None) -> list[int]:
    """Choose one still of each of count equal segments: any in training, else the middle one.

    This is the rule of the authors' loader, counted from 0. If there are fewer stills than wanted,
    they are repeated in order.
    """
    if stills < count:
        return [i * stills // count for i in range(count)]
    length = stills // count
    middle = max(length // 2, 1) - 1
    return [i * length + (random.randrange(length) if random else middle) for i in range(count)]


def crop(height: int, width: int, random: Random) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the usual random resized crop.

    It has 8 to 100 % of the area and a ratio of 3/4 to 4/3; after ten misses it is the largest
    central part of a permitted ratio (Szegedy et al. 2015, as torchvision has it).
    """
    low, high = 3 / 4, 4 / 3
    for _ in range(10):
        area = height * width * random.uniform(0.08, 1)
        ratio = math.exp(random.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    w, h = min(width, round(height * high)), min(height, round(width / low))
    return (height - h) // 2, (width - w) // 2, h, w


def _fit(picture: np.ndarray, random: Random | None, out: np.ndarray) -> bool:
    """Crop and flip if random, resize (H, W, C) to out's size, and store it as (C, H, W).

    Returns whether it was flipped.
    """
    flip = False
    if random:
        top, left, height, width = crop(picture.shape[0], picture.shape[1], random)
        picture = picture[top : top + height, left : left + width]
        flip = random.random() < 0.5
    height, width = out.shape[1:]
    # Bilinear is several times faster, but would skip pixels when it shrinks more than twofold.
    shrinks = picture.shape[0] > 2 * height or picture.shape[1] > 2 * width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    picture = cv2.resize(picture, (width, height), interpolation=how)
    if flip:
        picture = cv2.flip(picture, 1)
    for plane, place in zip(cv2.split(picture), out, strict=True):
        place[:] = plane
    return flip


def _decode(path: str) -> np.ndarray:
    is_file = os.path.isfile(path) and not os.path.islink(path)
    picture = pictures.read(path, cv2.IMREAD_COLOR_RGB) if is_file else None
    if picture is None:
        raise _unreadable(path, "missing, a link, no file, too large, or no picture")
    return picture


@lru_cache(maxsize=16)
def _packed(file: str) -> tuple[np.ndarray, int]:
    size = os.stat(file).st_size
    return np.load(file, mmap_mode="r", allow_pickle=False), size


def _unreadable(path: str, found: str) -> UserError:
    advice = "check the set with code/verify.py, or prepare it anew"
    return UserError(f"{path}: cannot be read ({found}): {advice}")
