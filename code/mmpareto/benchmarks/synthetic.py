"""Small raw sets with the names and containers of the real ones, for tests and benchmarks.

The class decides the hue and the place of a patch in the picture, and the pitch of the sound; both
are noisy. Everything follows from the clip's id.
"""

import io
import tarfile
from collections.abc import Sequence
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import BinaryIO

import av
import cv2
import numpy as np
import soundfile

from ..datasets import cremad, kinetics_sounds, modelnet40

RATE = Fraction(30000, 1001)  # frames a second


def cremad_ids(count: int) -> list[str]:
    """Names of CREMA-D, classes in turn, sentences and actors changing."""
    sentences = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS")
    return [
        f"{1001 + i // 6 % 20}_{sentences[i // 120 % 10]}_{cremad.CLASSES[i % 6]}_XX"
        for i in range(count)
    ]


def write_cremad(raw: Path, count: int, *, size: tuple[int, int] = (480, 360)) -> list[str]:
    """Write AudioWAV (16 kHz) and VideoFlash (Sorenson FLV, 29.97 fps); returns the ids."""
    (raw / "AudioWAV").mkdir(parents=True)
    (raw / "VideoFlash").mkdir()
    ids = cremad_ids(count)
    for id in ids:
        label = cremad.CLASSES.index(id.split("_")[2])
        random = Random(id)
        frames = random.randint(45, 90)
        sound = tone(label, frames / float(RATE), 16000, random)
        soundfile.write(raw / "AudioWAV" / f"{id}.wav", sound, 16000, subtype="PCM_16")
        flv = raw / "VideoFlash" / f"{id}.flv"
        write_video(flv, pictures(label, 6, frames, size, random), "flv1", sound=None)
    return ids


def kinetics_ids(count: int) -> dict[str, str]:
    """{id: class}; some ids begin with a dash and hold underscores, as YouTube's do."""
    return {
        f"{'-_aZ'[i % 4]}{i:06d}_x-Q_{7 * i:06d}_{7 * i + 10:06d}": kinetics_sounds.CLASSES[i % 31]
        for i in range(count)
    }


def write_kinetics(raw: Path, ids: dict[str, str], *, seconds: float = 4.0) -> None:
    """Write MP4 files into folders named after their classes."""
    raw.mkdir(parents=True, exist_ok=True)
    for id, label in ids.items():
        (raw / label).mkdir(exist_ok=True)
        (raw / label / f"{id}.mp4").write_bytes(kinetics_clip(id, label, seconds))


def write_kinetics_archive(path: Path, ids: dict[str, str], *, seconds: float = 4.0) -> None:
    """Write the same files into a flat tar.gz, each after its AppleDouble twin."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for id, label in ids.items():
            content = kinetics_clip(id, label, seconds)
            for name in (f"./._{id}.mp4", f"./{id}.mp4"):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def kinetics_clip(id: str, label: str, seconds: float) -> bytes:
    return film(id, kinetics_sounds.CLASSES.index(label), 31, seconds)


def film(id: str, label: int, classes: int, seconds: float) -> bytes:
    """Write an MP4 file with H.264 pictures and an AAC sound track at 44.1 kHz."""
    random = Random(id)
    sound = tone(label, seconds, 44100, random)
    frames = pictures(label, classes, round(seconds * 12), (320, 240), random)
    content = io.BytesIO()
    write_video(content, frames, "libx264", sound, rate=Fraction(12), sound_rate=44100)
    return content.getvalue()


def write_modelnet(raw: Path, classes: Sequence[str], objects: dict[str, int]) -> None:
    """Write twelve PNG views of each object; objects: {"train": number per class, "test": ...}."""
    for label in classes:
        index, numbers = modelnet40.CLASSES.index(label), count(1)
        for part, size in objects.items():
            folder = raw / label / part
            folder.mkdir(parents=True)
            for number in islice(numbers, size):
                random = Random(f"{label} {number}")
                views = pictures(index, len(modelnet40.CLASSES), 12, (224, 224), random)
                for view, picture in enumerate(views, start=1):
                    name = f"{label}_{number:04d}.obj.shaded_v{view:03d}.png"
                    cv2.imwrite(str(folder / name), picture)


def tone(label: int, seconds: float, rate: int, random: Random) -> np.ndarray:
    """A pitch of the class with an overtone, in noise."""
    times = np.arange(round(seconds * rate)) / rate
    pitch = 220 * 2 ** (label / 6) * random.uniform(0.98, 1.02)
    sound = np.sin(2 * np.pi * pitch * times) + 0.3 * np.sin(4 * np.pi * pitch * times)
    noise = np.random.default_rng(random.getrandbits(32)).normal(0, 0.2, len(times))
    return (0.3 * (sound + noise)).astype(np.float32)


def pictures(label: int, classes: int, count: int, size: tuple[int, int], random: Random) -> list:
    """count frames (H, W, 3) in BGR: a blurred scene, and a bright patch of the class that moves.

    The lower left corner holds the frame's number in binary, ten squares of 8 pixels.
    """
    width, height = size
    noise = np.random.default_rng(random.getrandbits(32))
    scene = cv2.resize(noise.integers(40, 120, (12, 16, 3), np.uint8), size)
    hue = 180 * label / classes + random.uniform(-2, 2)
    hsv = np.uint8([[[round(hue) % 180, 230, 250]]])
    color = tuple(int(v) for v in cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0])
    angle = 2 * np.pi * label / classes
    centre = np.array([width * (0.5 + np.cos(angle) / 4), height * (0.5 + np.sin(angle) / 4)])
    frames = []
    for number in range(count):
        frame = scene.copy()
        shift = 10 * np.array([np.cos(number / 9), np.sin(number / 9)])
        cv2.circle(frame, [round(v) for v in centre + shift], height // 5, color, -1)
        for bit in range(10):
            level = 255 * (number >> bit & 1)
            frame[height - 8 :, 8 * bit : 8 * bit + 8] = level
        frames.append(frame)
    return frames


def frame_number(picture: np.ndarray) -> int:
    """The number in the lower left corner of a frame of `pictures` that was 360 pixels high."""
    height = picture.shape[0]
    scale = height / 360
    row = picture[round(height - 4 * scale), :, :].mean(1)
    return sum((row[round((8 * bit + 4) * scale)] > 127) << bit for bit in range(10))


def write_video(
    target: Path | BinaryIO, frames: list, codec: str, sound: np.ndarray | None, *,
    rate: Fraction = RATE, sound_rate: int = 44100,
) -> None:  # fmt: skip
    """Write frames (H, W, 3) in BGR and mono sound as FLV (codec flv1) or MP4 (libx264)."""
    with av.open(target, "w", format="flv" if codec == "flv1" else "mp4") as file:
        video = file.add_stream(codec, rate=rate)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt, video.bit_rate = "yuv420p", 1_500_000
        video.codec_context.thread_count = 1
        if sound is not None:  # both tracks are there before the first packet
            track = file.add_stream("aac", rate=sound_rate, layout="mono")
        for frame in frames:
            file.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        file.mux(video.encode())
        if sound is not None:
            samples = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            samples.sample_rate, samples.pts = sound_rate, 0
            samples.time_base = Fraction(1, sound_rate)
            file.mux(track.encode(samples))
            file.mux(track.encode())
