"""Prepared files hold what their recipes say."""

import io
import pickle
import re
from fractions import Fraction
from random import Random

import av
import cv2
import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose
from PIL import Image
from scipy.signal import resample_poly

from mmpareto.benchmarks.synthetic import frame_number, pictures, write_video
from mmpareto.data.clips import Bad, Source
from mmpareto.data.recipes import FRAMES, RECIPE_OF, named
from mmpareto.preparation import features
from mmpareto.preparation.media import convert

NTSC = Fraction(30000, 1001)


def prepared(kind, path, name=None):
    """Convert a file by the recipe of this name."""
    return convert(Source(kind, path), named({RECIPE_OF.get(kind): name}, {"m": kind}, {}, {}))


def sound_features(folder, samples, rate, name):
    """Write samples (n,) or (n, channels) to a WAV file and return the recipe's features."""
    soundfile.write(folder / "a.wav", samples, rate, subtype="FLOAT")
    return np.load(io.BytesIO(prepared("audio", folder / "a.wav", name).files[".npy"]))


def noise(shape, level=0.2):
    return np.random.default_rng(0).normal(0, level, shape).astype(np.float32)


def resampled(wave, old, new):
    """Resample by a sinc in a Hann window: 6 zero crossings a side, cut off at 0.99 of Nyquist."""
    cutoff = 0.99 * min(old, new)
    places = np.arange(-(-len(wave) * new // old)) / new  # seconds
    reach = int(np.ceil(6 * old / cutoff)) + 1
    near = np.floor(places * old).astype(int)[:, None] + np.arange(-reach, reach + 1)
    away = cutoff * (near / old - places[:, None])
    weights = np.sinc(away) * np.cos(np.pi * away / 12) ** 2 * (np.abs(away) < 6) * cutoff / old
    inside = (near >= 0) & (near < len(wave))
    return (weights * inside * wave[near.clip(0, len(wave) - 1)]).sum(1)


def stft(wave):
    """Compute the stft recipe for 66150 samples at 22050 Hz."""
    padded = np.pad(wave.astype(float), 256)
    frames = padded[353 * np.arange(188)[:, None] + np.arange(512)]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    return np.log(np.abs(np.fft.rfft(frames * window)).T + 1e-7)


def fbank(wave):
    """Compute the fbank recipe for samples at 16 kHz, without the rows that fill up."""
    starts = 160 * np.arange(1 + (len(wave) - 400) // 160)
    frames = wave.astype(float)[starts[:, None] + np.arange(400)]
    frames -= frames.mean(1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
    power = np.abs(np.fft.rfft(frames * window, 512)) ** 2
    edges = np.linspace(*(1127 * np.log(1 + np.array([20, 8000]) / 700)), 130)[:, None]
    places = 1127 * np.log(1 + np.arange(257) * 16000 / 512 / 700)
    rise = (places - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - places) / (edges[2:] - edges[1:-1])
    energies = power @ np.minimum(rise, fall).clip(0).T
    return (np.log(energies.clip(2.0**-23)) + 4.503877) / (2 * 5.141276)


@pytest.mark.parametrize(
    ("rate", "samples", "level"),
    [(22050, 77175, 0.2), (22050, 28004, 0.2), (22050, 66150, 1), (16000, 48000, 0.2)],
)
def test_stft_by_hand(tmp_path, rate, samples, level):
    """3.5 s are cut, 1.27 s repeated, then cut; loud sound is clipped; 16 kHz is resampled."""
    wave = noise(samples, level)
    wave[9000:11000] = 0
    found = sound_features(tmp_path, wave, rate, "stft")
    wave = wave if rate == 22050 else resampled(wave, rate, 22050)
    expected = stft(np.tile(wave, 3)[:66150].clip(-1, 1))
    assert found.shape == (257, 188) and found.dtype == np.float32
    assert_allclose(np.exp(found), np.exp(expected), atol=1e-3)  # the largest is 11, or 40 if loud
    if rate == 22050:  # else there is next to nothing above 8 kHz, and its logarithm is rounding
        assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize(("old", "new"), [(16000, 22050), (44100, 16000)])
def test_sine_stays_the_same_sine(monkeypatch, old, new):
    """It is right to 0.1 % of the amplitude, except at the edges; scipy agrees to 0.3 %."""
    monkeypatch.setitem(features._FEATURES, "plain", lambda wave, recipe: wave)
    sine, analytic = (np.sin(2 * np.pi * 1000 * np.arange(2 * rate) / rate) for rate in (old, new))
    found = features.spectrogram(sine.astype(np.float32), old, {"name": "plain", "rate": new})
    assert_allclose(found[100:-100], analytic[100:-100], atol=1e-3)
    assert_allclose(found[100:-100], resample_poly(sine, new, old)[100:-100], atol=3e-3)
    assert_allclose(found, resampled(sine, old, new), atol=1e-4)


@pytest.mark.parametrize(
    ("rate", "seconds", "rows"), [(16000, 10, 998), (16000, 11, 1024), (44100, 1, 98)]
)
def test_fbank_by_hand(tmp_path, rate, seconds, rows):
    """10 s are filled up, 11 s cut, channels averaged; silence is not filling, even off centre."""
    both = noise((seconds * rate, 2)) + np.float32(0.25)
    both[2 * rate // 5 : 3 * rate // 5] = 0
    found, mean = sound_features(tmp_path, both, rate, "fbank"), both.mean(1)
    expected = fbank(mean if rate == 16000 else resampled(mean, rate, 16000))
    assert found.shape == (1024, 128) and found.dtype == np.float32
    assert_allclose(found[:rows], expected[:rows], atol=3e-4)
    assert_allclose(found[42:56], -1.112, atol=1e-3)
    assert_allclose(found[rows:], 0.438, atol=1e-3)


@pytest.fixture(scope="module")
def large():
    """150 frames, 360 high, that carry their numbers."""
    return pictures(1, 6, 150, (480, 360), Random(0))


def stills(path, name):
    """Return the numbers that a video's stills show, and the set of their shapes."""
    files = prepared("frames", path, name).files
    assert list(files) == [f"/{i:06d}.jpg" for i in range(len(files))]
    decoded = [cv2.imdecode(np.frombuffer(content, np.uint8), 1) for content in files.values()]
    assert all(blue.mean() < red.mean() - 10 for blue, _, red in map(cv2.split, decoded))
    return [int(frame_number(picture)) for picture in decoded], {p.shape for p in decoded}


def shown(count, rate, fps):
    """Return the numbers of the frames shown at (k + 0.5) / fps seconds; the film has count."""
    times = [Fraction(2 * k + 1, 2 * fps) for k in range(count)]
    return [int(t * rate) for t in times if t < count / rate]


def write_timed(path, frames):
    """Write a video of (number, picture), each shown at number / 12 seconds."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=12, width=480, height=360, pix_fmt="yuv420p")
        for number, picture in frames:
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, 12)
            file.mux(video.encode(frame))
        file.mux(video.encode())


class TestFrames:
    @pytest.mark.parametrize(("rate", "count"), [(NTSC, 38), (NTSC, 150), (25, 80), (12, 80)])
    def test_times(self, tmp_path, large, rate, count):
        """FLV counts in milliseconds; at 12 a second all times are first moments of frames."""
        frames, codec, shape = large[:count], "flv1", (256, 341, 3)
        if rate != NTSC:
            frames = [cv2.resize(frame, (320, 240)) for frame in frames]  # and not enlarged again
            codec, shape = "libx264", (240, 320, 3)
        write_video(tmp_path / "video", frames, codec, None, rate=Fraction(rate))
        for name in ("3fps", "1fps"):
            numbers, shapes = stills(tmp_path / "video", name)
            assert numbers == shown(count, rate, FRAMES[name]["fps"]) and shapes == {shape}

    @pytest.mark.parametrize(("count", "kept"), [(38, 2), (76, 3), (150, 6)])
    def test_ogmge(self, tmp_path, large, count, kept):
        write_video(tmp_path / "a.flv", large[:count], "flv1", None)
        found = stills(tmp_path / "a.flv", "ogmge-1fps")
        assert found == ([0, 29, 58, 87, 116, 145][:kept], {(360, 480, 3)})

    def test_jpeg(self, tmp_path):
        raw = np.add(np.random.default_rng(0).integers(0, 100, (360, 480, 1)), [0, 50, 150])
        cv2.imwrite(str(tmp_path / "a.png"), raw.astype(np.uint8))
        files = prepared("image", tmp_path / "a.png", "jpeg256").files
        still = Image.open(io.BytesIO(files[".jpg"]))
        assert (still.format, still.size, max(still.quantization[0])) == ("JPEG", (341, 256), 12)
        assert [layer[1:3] for layer in still.layer] == [(2, 2), (1, 1), (1, 1)]  # 4:2:0
        expected = cv2.resize(raw.astype(float), (341, 256), interpolation=cv2.INTER_AREA)
        assert np.abs(np.asarray(still)[:, :, ::-1] - expected).mean() < 2

    @pytest.mark.parametrize(("count", "start"), [(38, 0), (36, 3)])
    def test_ties(self, tmp_path, large, count, start):
        """Moments wanted lie exactly between two frames, or at the end of the film."""
        write_timed(tmp_path / "a.mp4", enumerate(large[:count], start))
        assert stills(tmp_path / "a.mp4", "3fps")[0] == shown(count, 12, 3)

    def test_apple_double(self, tmp_path, large):
        """The "._" twins that macOS leaves beside pictures are ignored."""
        cv2.imwrite(str(tmp_path / "a.png"), large[5])
        (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7" * 30)
        assert stills(tmp_path, "3fps")[0] == [5]


def bad(kind, path, name=None, *, half=False):
    """Return the reason and the detail for which a file, or its first half, is refused."""
    if half:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Bad) as caught:
        prepared(kind, path, name)
    assert path.name in caught.value.args[1]
    return caught.value.args


class TestBadMedia:
    def test_half_an_flv(self, tmp_path, large):
        """It decodes without an error, so only its header tells."""
        path = tmp_path / "a.flv"
        write_video(path, large[:76], "flv1", None)
        reason, detail = bad("frames", path, "3fps", half=True)
        ends = re.search(r"ends after (.*) s, its header says 2.54 s$", detail)
        with av.open(str(path)) as file:
            decoded = sum(1 for _ in file.decode(video=0))
        assert reason == "truncated" and 20 < decoded < 60
        assert float(ends[1]) == pytest.approx(float(decoded / NTSC), abs=0.05)

    @pytest.mark.parametrize(("kind", "name"), [("frames", "1fps"), ("audio", "fbank")])
    def test_half_an_mp4(self, tmp_path, large, kind, name):
        path = tmp_path / "a.mp4"
        write_video(path, large[:24], "libx264", noise(88200), rate=Fraction(12))
        assert prepared(kind, path, name).doubts == {}
        assert bad(kind, path, name, half=True)[0] == "unreadable"

    def test_odd_rate(self, tmp_path):
        """Its resampling filter would take gigabytes."""
        soundfile.write(tmp_path / "a.wav", noise(44101), 44101)
        assert bad("audio", tmp_path / "a.wav", "fbank")[0] == "odd_rate"
        for rate in (8000, 11025, 12000, 22050, 32000, 37800, 44100, 48000, 96000):
            soundfile.write(tmp_path / "a.wav", noise(rate), rate)
            assert prepared("audio", tmp_path / "a.wav", "fbank").shape == (1024, 128)

    def test_a_frame_of_a_wrong_time(self, tmp_path, large):
        write_timed(tmp_path / "a.mkv", [(n, large[5]) for n in (0, 1, 2, 12 * 7000)])
        assert bad("frames", tmp_path / "a.mkv", "3fps")[0] == "too_long"

    @pytest.mark.parametrize(
        ("kind", "end"),
        [("wav", "bytes, its header says 640044"), ("ogg", "bytes, its last page is missing")],
    )
    def test_half_a_sound(self, tmp_path, kind, end):
        soundfile.write(tmp_path / f"a.{kind}", noise(320000), 16000)
        reason, detail = bad("audio", tmp_path / f"a.{kind}", "stft", half=True)
        assert reason == "truncated" and detail.endswith(end)

    def test_other_files(self, tmp_path, large):
        path = tmp_path / "a.bin"
        for kind, name in (("frames", "3fps"), ("audio", "stft"), ("image", "original")):
            path.write_bytes(b"")
            assert bad(kind, path, name)[0] == "empty"
            path.write_text("404: not found\n" * 40)
            assert bad(kind, path, name)[0] == "unreadable"
        soundfile.write(path, noise(16000), 16000, format="WAV")
        assert bad("frames", path, "3fps")[0] == "no_video_stream"
        write_video(path, large[:20], "libx264", None)
        assert bad("audio", path, "stft")[0] == "no_audio_stream"
        for values, reason in ([1, np.nan], "not_finite"), ([1, {}], "unreadable"):
            np.save(tmp_path / "a.npy", np.array(values), allow_pickle=True)
            assert bad("array", tmp_path / "a.npy")[0] == reason
        path.write_bytes(pickle.dumps(np.ones(3)))
        assert bad("array", path)[0] == "unreadable"

    def test_doubts(self, tmp_path):
        path = tmp_path / "a.wav"
        soundfile.write(path, noise((16000, 2)), 16000, subtype="PCM_24")
        assert prepared("audio", path, "stft").doubts.keys() == {"converted"}
        soundfile.write(path, np.zeros(16000), 16000, subtype="PCM_16")
        assert prepared("audio", path, "fbank").doubts.keys() == {"silent"}
        write_video(path, [np.zeros((64, 64, 3), np.uint8)] * 30, "flv1", None)
        assert prepared("frames", path, "3fps").doubts.keys() == {"constant_picture"}
