"""The study's sequences: their shapes, rates and table, and what it refuses."""

import csv

import cv2
import numpy as np
import pytest
import soundfile

import grid_letters
from mmpareto.system.errors import UserError


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    (folder / "word").mkdir(parents=True)
    for i, grey in enumerate([51, 204]):
        cv2.imwrite(str(folder / "word" / f"{i}.jpg"), np.full((80, 130, 3), grey, np.uint8))
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(4000) / 16000)
    soundfile.write(folder / "word.wav", tone, 16000)
    (folder / "clips.csv").write_text(
        "id,label,lips:frames,voice:audio\na,letter_a,word,word.wav\n"
    )
    return folder


def test_sequences(raw, tmp_path):
    out = tmp_path / "out"
    grid_letters.main(["--raw", str(raw), "--out", str(out)])
    lips = np.load(out / "lips" / "a.npy")
    assert lips.shape == (2, 384) and lips.dtype == np.float32
    assert np.abs(lips - [[0.2], [0.8]]).max() < 0.01
    voice = np.load(out / "voice" / "a.npy")
    assert voice.shape == (23, 40)  # 1 + (250 ms - 25 ms) / 10 ms
    assert set(voice.argmax(1)) <= {
        6,
        7,
    }  # 440 Hz: 550 mel; triangle b peaks at 32 + 68.5 (b + 1)
    with open(out / "clips.csv") as file:
        assert list(csv.DictReader(file)) == [
            {"id": "a", "label": "letter_a", "lips": "lips/a.npy", "voice": "voice/a.npy"}
        ]
    with pytest.raises(UserError, match="it exists"):
        grid_letters.main(["--raw", str(raw), "--out", str(out)])


def test_refused(raw, tmp_path):
    (raw / "word" / "0.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"readable \.jpg files expected"):
        grid_letters.main(["--raw", str(raw), "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match=r"--raw .*clips\.csv"):
        grid_letters.main(["--raw", str(tmp_path), "--out", str(tmp_path / "new")])
