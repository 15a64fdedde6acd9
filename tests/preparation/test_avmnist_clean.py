"""avmnist_clean, from raw files with the names of MNIST and of the Free Spoken Digit Dataset."""

import csv
import re
import shutil
from argparse import Namespace
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from damage import told
from sets import contents, error_of, prepare_set, rows, write_recordings
from test_data import write_mnist

import evaluate
import train
import verify
from mmpareto.data.clips import Source
from mmpareto.data.recipes import AUDIO
from mmpareto.datasets import cgmnist
from mmpareto.datasets.avmnist_clean import AVMNISTClean, Digits
from mmpareto.preparation.arrays import load_array
from mmpareto.preparation.features import mixed, spectrogram
from mmpareto.run import options

SIZES = {"train": 100, "val": 30, "test": 20}  # a digit's training recordings come once or twice


@pytest.fixture(scope="module")
def raw_files(tmp_path_factory):
    root = write_mnist(tmp_path_factory.mktemp("raw"), 130, 130, 20)
    write_recordings(root)
    return root


@pytest.fixture
def raw(raw_files, tmp_path, monkeypatch):
    monkeypatch.setattr(cgmnist, "SIZES", {True: 130, False: 20})
    monkeypatch.setattr(cgmnist, "VALIDATION", 30)
    return shutil.copytree(raw_files, tmp_path / "raw")


def write_noises(root):
    """Five classes with names as ESC-50's, one of two files, all in one folder."""
    (root / "audio").mkdir(parents=True)
    for i, name in enumerate(("1-1-A-0", "2-2-A-0", "1-3-A-7", "1-4-B-12", "3-5-A-3", "4-6-A-4")):
        noise = np.random.default_rng(i).normal(0, 0.1, 22050)
        soundfile.write(root / f"audio/{name}.wav", noise, 44100)
    return root


def collect(raw, **flags):
    given = {"mnist": None, "random_seed": 0, "noise": None, "snr": 0} | flags
    return AVMNISTClean.collect(Namespace(raw=raw, **given))


def by_part(raw):
    parts = {part: [] for part in SIZES}
    for clip in raw.clips:
        parts[raw.lists["official"][clip.id][0]].append(clip)
    return parts


def test_pairs(raw):
    """Sound and picture are of one digit, no recording is in two parts, each is used in turn."""
    found = collect(raw)
    parts = by_part(found)
    assert {part: len(clips) for part, clips in parts.items()} == SIZES
    allowed = {"train": {10, 49}, "val": {5}, "test": {0}}
    for part, clips in parts.items():
        for clip in clips:
            digit, speaker, number = clip.sources["audio"].path.stem.split("_")
            image = clip.sources["image"]
            assert clip.label == digit == str(int(load_array(image)[:, 5].argmax()))
            assert clip.group == speaker and int(number) in allowed[part]
            assert image.path.name.startswith("t10k" if part == "test" else "train")
        times = np.unique([c.sources["audio"].path.name for c in clips], return_counts=True)[1]
        assert times.max() - times.min() <= 1
    assert collect(raw) == found
    other = collect(raw, random_seed=1)
    assert {clip.id for clip in other.clips} != {clip.id for clip in found.clips}
    assert other.recipe != found.recipe


def test_noises(raw, tmp_path):
    """No class of noises is in two parts; other noises are another recipe."""
    noise = write_noises(tmp_path / "noise")
    found = collect(raw, noise=noise, snr=5)
    used = {
        part: {clip.sources["audio"].noise for clip in clips}
        for part, clips in by_part(found).items()
    }
    classes = {part: {p.stem.split("-")[3] for p in paths} for part, paths in used.items()}
    assert all(classes.values()) and len(set.union(*classes.values())) == sum(
        map(len, classes.values())
    )
    assert found == collect(raw, noise=noise, snr=5)
    (noise / "audio/1-1-A-0.wav").write_bytes(b"other")
    assert collect(raw, noise=noise, snr=5).recipe != found.recipe


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda raw: (raw / "recordings").rename(raw / "sounds"), r"no folder recordings in it"),
        (lambda raw: (raw / "recordings/7_ann_0.wav").rename(raw / "recordings/seven.wav"),
         r"seven.wav: DIGIT_SPEAKER_NUMBER.wav expected, as 7_jackson_32.wav"),
        (lambda raw: [p.unlink() for p in (raw / "recordings").glob("3_*_0.wav")],
         r"no recording of digit 3 for test, expected are numbers 0 to 4"),
        (lambda raw: shutil.rmtree(raw / "MNIST"), r"--mnist .*: MNIST's files were not found"),
        (lambda raw: (raw / "MNIST/raw/t10k-labels-idx1-ubyte").write_bytes(b"1"),
         r"t10k-labels-idx1-ubyte: 1 bytes found, 28 expected"),
    ],
)  # fmt: skip
def test_bad_input(raw, tmp_path, damage, line):
    damage(raw)
    assert re.search(line, error_of("avmnist_clean", raw, tmp_path / "set"))
    assert not (tmp_path / "set").exists()


def test_too_few_noises(raw, tmp_path):
    (tmp_path / "noise").mkdir()
    said = error_of("avmnist_clean", raw, tmp_path / "set", "--noise", tmp_path / "noise")
    assert "0 classes of sounds found, 3 or more needed" in said


def test_spectrogram():
    """By its definition in numpy; a sound of half the length fills the square, too."""
    wave = np.random.default_rng(0).normal(0, 0.1, 1600).astype(np.float32)
    found = spectrogram(wave, 8000, {"name": "square112", **AUDIO["square112"]})
    padded = np.pad(wave, 128)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    columns = [padded[i : i + 256] * window for i in range(0, 1601, 32)]
    power = np.abs(np.fft.rfft(columns).T) ** 2
    scaled = np.clip(1 + 10 * np.log10(power / power.max()) / 80, 0, 1)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(scaled)[None, None], (112, 112), mode="bilinear", antialias=True
    )[0, 0]
    assert found.dtype == np.float32 and found.shape == (112, 112)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert spectrogram(wave[:800], 8000, {"name": "square112", **AUDIO["square112"]})[:, -1].any()


def test_noise_has_its_power():
    random = np.random.default_rng(0)
    wave, noise = (random.normal(0, s, n).astype(np.float32) for s, n in ((0.1, 4000), (3, 999)))
    added = mixed(wave, 8000, noise, 8000, 10) - wave
    assert np.square(wave).mean() / np.square(added).mean() == pytest.approx(10, rel=1e-3)
    assert added[:999] == pytest.approx(added[999:1998], abs=1e-6)
    assert mixed(0 * wave, 8000, noise, 8000, 0) is mixed(wave, 8000, 0 * noise, 8000, 0) is None


class Train:
    """A training split of pictures alone."""

    def __init__(self, pictures):
        self.pictures = torch.from_numpy(pictures)

    def __len__(self):
        return len(self.pictures)

    def values(self, name, indices):
        return self.pictures[indices]


@pytest.mark.parametrize(("share", "kept"), [(0.2, 0), (0.4, 1), (0.9, 3), (1.0, None)])
def test_pictures_keep_a_share_of_the_variance(tmp_path, share, kept):
    """The same by singular values, with the components of the training pictures alone."""
    random = np.random.default_rng(0)
    directions = np.linalg.qr(random.normal(size=(784, 4)))[0].T
    spread = 99 * np.sqrt([22, 28, 24, 26])[:, None] * directions  # of 100; sorted: 28, 26, 24, 22
    pictures = (random.normal(size=(1000, 4)) @ spread).astype(np.float32)
    pictures = 128 + pictures.reshape(-1, 1, 28, 28)
    np.save(tmp_path / "x.npy", pictures[:5] + 1)
    found = Digits(Train(pictures), share).load(str(tmp_path / "x.npy"), [3, 0])
    flat = pictures.reshape(1000, -1).astype(float) / 255
    mean = flat.mean(0)
    wanted = (pictures[[3, 0]] + 1).reshape(2, -1) / 255
    if kept is not None:
        basis = np.linalg.svd(flat - mean, full_matrices=False)[2][:kept]
        wanted = (wanted - mean) @ basis.T @ basis
    np.testing.assert_allclose(found.reshape(2, -1), wanted, atol=1e-4)


def test_mnists_own_files_are_arrays(raw):
    path = raw / "MNIST/raw/t10k-images-idx3-ubyte"
    whole, row = load_array(Source("array", path)), load_array(Source("array", path, 7))
    assert whole.shape == (20, 28, 28) and whole.dtype == np.uint8
    assert row.nonzero() == ([7], [5]) and row[7, 5] == 255


@pytest.mark.slow
class TestShippedCommands:
    def test_from_raw_files_to_accuracy(self, raw, tmp_path, capsys):
        """Sounds that several clips share are rows of one file; a second call changes nothing."""
        out, run = tmp_path / "set", tmp_path / "run"
        metadata = prepare_set("avmnist_clean", raw, out)
        assert metadata["splits"] == ["official", "group", "random"]
        paths = [row[4] for row in rows(out / "manifest.csv")]
        shared = {path for path in paths if "#" in path}
        assert 30 < len(shared) < len(paths) and len({p.split("#")[0] for p in shared}) == 1
        verify.main([str(out), "--full"])
        before = contents(out)
        prepare_set("avmnist_clean", raw, out)
        assert contents(out) == before
        flags = ["--dataset", str(out), "--batch_size", "20", "--workers", "1", "--out", str(run)]
        train.main([*flags, "--epochs", "10", "--kept_variance", "1"])
        capsys.readouterr()
        evaluate.main([str(run / "last.pt")])
        scores = dict(re.findall(r"^(\w+) +([01]\.\d+)", capsys.readouterr().out, re.MULTILINE))
        assert all(float(scores[name]) > 0.5 for name in ("joint", "image", "audio")), scores
        assert "kept_variance" in told(train.main, [*flags, "--epochs", "11", "--resume"])

    def test_speakers_held_out(self, raw, tmp_path, monkeypatch):
        """And the sounds of a set are the recipe's, for shared ones and for others."""
        out = tmp_path / "set"
        prepare_set("avmnist_clean", raw, out, "--noise", write_noises(tmp_path / "noise"))
        with open(out / "splits/group.csv", newline="") as file:
            parts = {row["id"]: row["split"] for row in csv.DictReader(file)}
        speakers = {part: set() for part in SIZES}
        for id, part in parts.items():
            speakers[part].add(id.split("_")[1])
        assert sorted(map(len, speakers.values())) == [1, 1, 1]
        data = AVMNISTClean.load(options.parse(["--dataset", str(out)]))
        found, clean = data.splits["test"].read([0, 19])[0]["audio"], []
        for id in [data.splits["test"].ids[i] for i in (0, 19)]:
            sound, rate = soundfile.read(Path(raw / f"recordings/{id[6:]}.wav"), dtype="float32")
            clean.append(spectrogram(sound, rate, data.recipe["audio"]))
        assert 0.05 < np.abs(found[:, 0].numpy() - np.stack(clean)).mean() < 0.5

    def test_bad_recordings(self, raw, tmp_path):
        """Each clip of a bad one is left out with its reason; silence is kept with a remark."""
        for path in [*raw.glob("recordings/7_*_10.wav"), *raw.glob("recordings/7_*_49.wav")]:
            path.write_bytes(b"RIFF, but no sound")
        for path in raw.glob("recordings/7_*_0.wav"):
            soundfile.write(path, np.zeros(1600), 8000)
        said = error_of("avmnist_clean", raw, tmp_path / "set")
        assert "10 of 150 clips cannot be used (10 unreadable), more than --max_bad 0.01" in said
        prepare_set("avmnist_clean", raw, tmp_path / "set", "--max_bad", 0.1)
        found = Counter(tuple(row[1:4]) for row in rows(tmp_path / "set/problems.csv"))
        assert found == {("audio", "excluded", "unreadable"): 10, ("audio", "kept", "silent"): 2}
