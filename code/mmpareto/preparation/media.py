"""Convert raw media to the bytes of prepared files: stills, pictures, spectrograms, arrays."""

import io
import re
from fractions import Fraction
from math import gcd
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import soundfile

from ..data import pictures
from ..data.clips import PICTURES, Bad, Source, files_below
from ..data.layout import LARGEST
from ..data.pictures import cv2
from ..system.paths import expect_regular
from .arrays import check_size, sample
from .containers import Track, opened
from .features import mixed, seconds_of, spectrogram

SOUND_FILES = (".wav", ".flac", ".ogg")  # read by soundfile; any other is a container with a track
LARGEST_FILTER = 1_000_000  # numbers of a resampling filter; one for 44,101 Hz takes gigabytes
LONGEST_REST = 0.25  # seconds of sound that a recipe may cut off without a remark
UNKNOWN = 2**31 - 2**16  # bytes; programs that write a WAV file to a pipe claim so many or more
SILENT = 1e-4  # peak, on the scale of [-1, 1]
LONGEST = 600  # seconds of a video; a later frame has a wrong time, or the video is no clip
FLAT = 1.0  # standard deviation of a picture, on the scale of [0, 255]
Still = tuple[bytes, bool]  # the JPEG (pictures would fill the memory); whether it is flat


class Item(NamedTuple):
    """One modality of one clip, ready to be written."""

    files: dict[str, bytes]  # keys follow the clip's name: ".npy", or "/000000.jpg" and so on
    shape: tuple[int, ...] | None = None  # of an array or spectrogram
    seconds: float | None = None
    doubts: dict[str, str] = {}  # reason: detail

    @property
    def is_folder(self) -> bool:
        return next(iter(self.files)).startswith("/")


def convert(source: Source, recipe: dict) -> Item:
    """Read a source by the whole recipe of its set; raise Bad if it cannot be used."""
    try:
        if not source.path.is_dir():
            expect_regular(source.path)
            if source.path.stat().st_size == 0:
                raise Bad("empty", f"{source.path.name} has 0 bytes")
        return _CONVERT[source.kind](source, recipe)
    except OSError as error:
        name = Path(error.filename or source.path).name  # the one of many stills that failed
        raise Bad("unreadable", f"{name}: {error.strerror or error}") from None


def _frames(source: Source, recipe: dict) -> Item:
    recipe = recipe["frames"]
    if source.path.is_dir():
        paths, seconds = _chosen(_pictures(source.path), source.rate, recipe)
        stills = [_still(_picture(path), recipe) for path in paths]
    else:
        stills, seconds = _stills(source.path, recipe)
    return _folder(source, stills, seconds)


def _flow(source: Source, recipe: dict) -> Item:
    """Keep each field of flow as one grey still: the horizontal movement above the vertical."""
    recipe, (folder, other) = recipe["frames"], source.places
    paths = _pictures(folder)
    if [path.name for path in paths] != (names := [path.name for path in _pictures(other)]):
        raise Bad("incomplete", f"{len(paths)} pictures of flow in u, {len(names)} in v")
    paths, seconds = _chosen(paths, source.rate, recipe)
    stills = []
    for path in paths:
        pair = [_shrunk(_picture(p)[:, :, 0], recipe) for p in (path, other / path.name)]
        if pair[0].shape != pair[1].shape:
            raise Bad("shape", f"{path.name}: {pair[0].shape} in u, {pair[1].shape} in v")
        picture = np.concatenate(pair)
        stills.append((_jpeg(picture, recipe), bool(picture.std() < FLAT)))
    return _folder(source, stills, seconds)


def _pictures(folder: Path) -> list[Path]:
    paths = (path for path in files_below(folder, *PICTURES) if path.parent == folder)
    return sorted(paths, key=_natural)


def _chosen(paths: list[Path], rate: int | None, recipe: dict) -> tuple[list[Path], float | None]:
    """Return the pictures of a film that the recipe wants, and the film's length in seconds.

    rate: pictures a second; None if each is a still and the length is unknown.
    """
    if rate is None:
        return paths, None
    if "fps" in recipe:  # number n of them is shown from n / rate seconds on
        twice = 2 * recipe["fps"]
        chosen = [paths[n // twice] for n in range(rate, twice * len(paths), 2 * rate)]
    else:
        chosen = paths[::rate]
    return chosen, len(paths) / rate


def _folder(source: Source, stills: list[Still], seconds: float | None) -> Item:
    if not stills:
        raise Bad("too_short", f"{source.path.name} has no still ({seconds or 0:.2f} s)")
    is_flat = all(flat for _, flat in stills)
    doubts = {"constant_picture": f"{len(stills)} stills of one colour"} if is_flat else {}
    files = {f"/{i:06d}.jpg": jpeg for i, (jpeg, _) in enumerate(stills)}
    return Item(files, seconds=seconds, doubts=doubts)


def _stills(path: Path, recipe: dict) -> tuple[list[Still], float]:
    """Return the frames that the recipe wants, encoded, and the length of the film in seconds."""
    kept: list[Still] = []
    start, shown, now = None, None, Fraction(0)
    with opened(path, "video") as track:
        rate = track.stream.average_rate or track.stream.guessed_rate or Fraction(25)
        # Exact fractions: at common rates a wanted moment is the very moment when a frame begins.
        for number, frame in enumerate(track.frames()):
            if frame.pts is None:
                now = number / rate
            else:
                time = frame.pts * frame.time_base
                start = time if start is None else start
                now = time - start
            if now > LONGEST:
                detail = f"a frame at {float(now):.0f} s, {LONGEST} allowed"
                raise Bad("too_long", f"{path.name}: {detail}")
            if "fps" in recipe:
                kept += _shown_until(track, shown, now, len(kept), recipe)
            elif number % max(1, int(rate)) == 0:
                kept.append(_still(track.picture(frame), recipe))
            shown = frame
        if shown is None:
            raise Bad("no_frames", f"{path.name}: not one frame could be decoded")
        seconds = now + 1 / rate
        if seconds > LONGEST:
            raise Bad("too_long", f"{path.name}: {float(rate):.2g} frames a second")
        if "fps" in recipe:
            kept += _shown_until(track, shown, seconds, len(kept), recipe)
    return kept, float(seconds)


def _shown_until(
    track: Track, frame: av.VideoFrame | None, end: Fraction, kept: int, recipe: dict
) -> list[Still]:
    """Return frame once for each wanted moment before end, beginning with still number kept."""
    count = 0
    while Fraction(2 * (kept + count) + 1, 2 * recipe["fps"]) < end:
        count += 1
    return [_still(track.picture(frame), recipe)] * count if count else []


def _still(picture: np.ndarray, recipe: dict) -> Still:
    return _jpeg(_shrunk(picture, recipe), recipe), bool(picture.std() < FLAT)


def _shrunk(picture: np.ndarray, recipe: dict) -> np.ndarray:
    height, width = picture.shape[:2]
    wanted = recipe.get("short_side", min(height, width))
    if min(height, width) > wanted:
        scale = wanted / min(height, width)
        size = max(wanted, round(width * scale)), max(wanted, round(height * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return picture


def _jpeg(picture: np.ndarray, recipe: dict) -> bytes:
    settings = [cv2.IMWRITE_JPEG_QUALITY, recipe["quality"], cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
                cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]  # fmt: skip
    return cv2.imencode(".jpg", picture, settings)[1].tobytes()


def _image(source: Source, recipe: dict) -> Item:
    picture, doubts = _picture(source.path), {}
    if picture.std() < FLAT:
        doubts["constant_picture"] = f"mean level {picture.mean():.0f} of 255"
    if "quality" in recipe["images"]:
        return Item(
            {".jpg": _jpeg(_shrunk(picture, recipe["images"]), recipe["images"])}, doubts=doubts
        )
    return Item({source.path.suffix.lower(): source.path.read_bytes()}, doubts=doubts)


def _picture(path: Path) -> np.ndarray:
    expect_regular(path)
    picture = pictures.decode(np.fromfile(path, np.uint8))
    if picture is None:
        detail = f"is no picture of at most {LARGEST // 10**6} megapixels that OpenCV can decode"
        raise Bad("unreadable", f"{path.name} {detail}")
    return picture


def _audio(source: Source, recipe: dict) -> Item:
    samples, rate, doubts = _samples(source.path)  # (n, channels)
    wave = samples.mean(1, dtype=np.float32)
    seconds = len(wave) / rate
    if seconds < 0.025:
        raise Bad("too_short", f"{source.path.name}: {1000 * seconds:.0f} ms of sound, 25 needed")
    if not np.isfinite(wave).all():
        raise Bad("not_finite", f"{source.path.name} holds NaN or infinite samples")
    peak = float(np.abs(wave).max())
    if peak < SILENT:
        doubts["silent"] = f"peak {peak:.1e} of 1"
    wanted = recipe["audio"]["rate"]
    if rate * wanted > LARGEST_FILTER * gcd(rate, wanted) ** 2:
        detail = f"{rate} Hz cannot be resampled to {wanted} Hz in little memory: convert the file"
        raise Bad("odd_rate", f"{source.path.name}: {detail}")
    kept = seconds_of(recipe["audio"])
    if seconds > kept + LONGEST_REST:
        doubts["cut"] = f"{seconds:.2f} s of sound, the recipe keeps the first {kept:g} s"
    if source.noise:
        noise, other, _ = _samples(source.noise)
        wave = mixed(wave, rate, noise.mean(1), other, recipe["noise"]["snr"])
        if wave is None:
            raise Bad(
                "silent", f"{source.noise.name} is silent, or the sound is: no noise can be added"
            )
    features = spectrogram(wave, rate, recipe["audio"])
    return Item({".npy": _npy(features)}, features.shape, seconds, doubts)


def _samples(path: Path) -> tuple[np.ndarray, int, dict[str, str]]:
    if path.suffix.lower() not in SOUND_FILES:
        return *_sound_track(path), {}
    try:
        info = soundfile.info(path)
        check_size(path, info.frames * info.channels)
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise Bad("unreadable", f"{path.name}: {str(error).splitlines()[-1]}") from None
    if not info.frames:  # the header of a stream may claim 0 samples; FFmpeg reads on
        return *_sound_track(path), {}
    _check_end(path)
    if info.channels == 1 and info.subtype in ("PCM_16", "FLOAT", "VORBIS"):
        return samples, rate, {}
    return samples, rate, {"converted": f"{rate} Hz, {info.channels} channels, {info.subtype}"}


def _check_end(path: Path) -> None:
    """Raise Bad for a sound file without its end, which soundfile reads without an error.

    The header of a WAV file tells its size; the last page of an Ogg file is marked as the last.
    """
    content, told = path.read_bytes(), ""
    if content[:4] == b"RIFF" and len(content) < (end := _end_of_samples(content)):
        told = f"its header says {end}"
    elif content[:4] == b"OggS" and not content[content.rfind(b"OggS") + 5] & 4:
        told = "its last page is missing"
    if told:
        raise Bad("truncated", f"{path.name}: {len(content)} bytes, {told}")


def _end_of_samples(wav: bytes) -> int:
    """Return where the samples end by the header; 0 if its writer did not know."""
    place, size, name = 12, 0, b""
    while place < len(wav) and name != b"data":
        place += size + size % 2
        name, size = wav[place : place + 4], int.from_bytes(wav[place + 4 : place + 8], "little")
        place += 8
    return place + size if size < UNKNOWN else 0


def _sound_track(path: Path) -> tuple[np.ndarray, int]:
    """Return the samples (n, channels) of a sound track, and their rate."""
    with opened(path, "audio") as track:
        layout, rate = track.stream.layout, track.stream.rate
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        parts, size = [], 0
        for frame in track.frames():
            for part in resampler.resample(frame):
                parts.append(part.to_ndarray())
                size += parts[-1].size
                check_size(path, size)
    if not parts:
        raise Bad("no_sound", f"{path.name}: its sound track is empty")
    return np.concatenate(parts, axis=1).T, rate


def _array(source: Source, recipe: dict) -> Item:
    values = sample(source)
    return Item({".npy": _npy(values)}, values.shape)


def _text(source: Source, recipe: dict) -> Item:
    """A text that can be used is a row of a packed file already; see `Texts`."""
    raise Bad("empty", f"no word in {source.text[:40]!r}")


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(values), allow_pickle=False)
    return file.getvalue()


def _natural(path: Path) -> list:
    """Return a key that sorts 10 after 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


_CONVERT = {
    "frames": _frames, "image": _image, "audio": _audio, "text": _text,
    "array": _array, "flow": _array, "tokens": _array, "flow_stills": _flow,
}  # fmt: skip
