"""Optical flow, text and vectors beside pictures: from a CSV file to a model of four modalities."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from sets import error_of, prepare_set, rows

import train
import verify
from mmpareto.run import options, setup
from mmpareto.system.errors import UserError
from mmpareto.system.paths import sha256

CLASSES = ("cat", "dog", "owl")
WORDS = 20  # of the vocabulary


def write_raw(root, count=60):
    """Write clips of noise that show their class in every modality; texts have 3 to 7 words."""
    import cv2

    root.mkdir(parents=True)
    lines = ["id,label,photo,motion:flow,words:tokens,pose"]
    for i in range(count):
        random, label = np.random.default_rng(i), i % len(CLASSES)
        photo = random.integers(0, 120, (32, 32, 3), dtype=np.uint8)
        photo[10 * label : 10 * label + 10] += 120
        cv2.imwrite(str(root / f"{i}.png"), photo)
        motion = (
            random.normal(0, 0.5, (3, 2, 16, 16)) + np.array([label - 1, 1 - label])[:, None, None]
        )
        np.save(root / f"{i}-motion.npy", motion)
        words = random.integers(1, WORDS, random.integers(3, 8))
        words[1] = label + 1
        np.save(root / f"{i}-words.npy", words.astype(np.int16))
        np.save(root / f"{i}-pose.npy", random.normal(0, 1, 6) + 2 * (np.arange(6) % 3 == label))
        names = f"{i}.png,{i}-motion.npy,{i}-words.npy,{i}-pose.npy"
        lines.append(f"clip-{i},{CLASSES[label]},{names}")
    (root / "clips.csv").write_text("\n".join(lines) + "\n")
    return root


FLAGS = ["--length", "words=6", "--vocabulary", f"words={WORDS}"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("kinds") / "raw")


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("kinds") / "set"
    prepare_set("folder", raw, out, *FLAGS)
    return out


def changed(raw, tmp_path, **arrays):
    """Copy the raw files and replace arrays, {modality_number: values}."""
    copy = shutil.copytree(raw, tmp_path / "raw")
    for place, values in arrays.items():
        name, number = place.split("_")
        np.save(copy / f"{number}-{name}.npy", values)
    return copy


def test_metadata(prepared):
    metadata = json.loads((prepared / "metadata.json").read_text())
    assert metadata["modalities"] == {
        "photo": {"kind": "image"},
        "motion": {"kind": "flow", "shape": [3, 2, 16, 16]},
        "words": {"kind": "tokens", "shape": [6], "vocabulary": WORDS},
        "pose": {"kind": "array", "shape": [6]},
    }
    assert metadata["recipe"]["tokens"] == {"dtype": "int32", "vocabularies": {"words": WORDS}}


def test_files_hold_what_the_raw_ones_held(raw, prepared):
    row = next(r for r in rows(prepared / "manifest.csv") if r[0] == "clip-5")
    words = np.load(raw / "5-words.npy")
    stored = np.load(prepared / row[5])
    assert stored.dtype == np.int32
    assert stored.tolist() == (words.tolist() + [0] * 6)[:6]
    motion = np.load(raw / "5-motion.npy")
    np.testing.assert_array_equal(np.load(prepared / row[4]), motion.astype(np.float32))


def test_batches_and_default_encoders(prepared):
    flags = options.parse(["--dataset", str(prepared), "--image_size", "32", "--batch_size", "8"])
    data = setup.load_data(flags)
    inputs, _ = data.splits["train"].read([0, 1])
    assert {name: (x.dtype, tuple(x.shape)) for name, x in inputs.items()} == {
        "photo": (torch.uint8, (2, 3, 32, 32)),
        "motion": (torch.float32, (2, 3, 2, 16, 16)),
        "words": (torch.int64, (2, 6)),
        "pose": (torch.float32, (2, 6)),
    }
    model = setup.build_model(flags, data)
    assert {name: type(e).__name__ for name, e in model.encoders.items()} == {
        "photo": "ResNet18", "motion": "ResNet18", "words": "Transformer", "pose": "MLP",
    }  # fmt: skip
    assert model.encoders["motion"].stages[0][0].in_channels == 2
    assert model.encoders["words"].embedding.num_embeddings == WORDS


@pytest.mark.parametrize(
    ("fusion", "epochs"),
    [("concat", 6), pytest.param("bottleneck", 4, marks=pytest.mark.slow),
     pytest.param("gated", 10, marks=pytest.mark.slow)],
)  # fmt: skip
def test_four_modalities_train(prepared, tmp_path, fusion, epochs):
    """Every modality learns; patches of cropped pictures need more steps than these."""
    encoders = [] if fusion == "bottleneck" else ["--encoder", "photo=cnn", "motion=cnn"]
    train.main(
        ["--dataset", str(prepared), "--method", "mmpareto", "--fusion", fusion, *encoders,
         "--image_size", "32", "--batch_size", "8", "--epochs", str(epochs),
         "--learning_rate", "0.01", "--workers", "0", "--out", str(tmp_path / "run")]
    )  # fmt: skip
    last = json.loads((tmp_path / "run/epochs.jsonl").read_text().splitlines()[-1])
    assert {k for k in last if k.startswith("Acc_")} == {
        "Acc_photo", "Acc_motion", "Acc_words", "Acc_pose",
    }  # fmt: skip
    scores = json.loads((tmp_path / "run/result.json").read_text())["results"]["last"]
    for name in last.keys() - ({"Acc_photo"} if fusion == "bottleneck" else set()):
        if name.startswith("Acc"):
            assert scores[name] > 0.5, name  # chance is 1 / 3


def test_wrong_files_are_left_out_with_the_reason(raw, prepared, tmp_path):
    wrong = {
        "words_4": np.array([1, 2, WORDS]), "words_5": np.array([1, -2]),
        "words_6": np.array([1.0, 2.0]),
    }  # fmt: skip
    copy = changed(raw, tmp_path, **wrong)
    out = shutil.copytree(prepared, tmp_path / "set")
    prepare_set("folder", copy, out, *FLAGS, "--max_bad", 0.1)
    found = [row for row in rows(out / "problems.csv") if row[2] == "excluded"]
    limits = f"0 to {WORDS - 1} expected"
    assert found == [
        [f"clip-{number}", "words", "excluded", "no_tokens", f"{number}-words.npy: {detail}"]
        for number, detail in (
            (4, f"integers from 1 to {WORDS}, {limits}"), (5, f"integers from -2 to 1, {limits}"),
            (6, "float64 of shape (2,) found, integers (length,) expected"),
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--length", "words=6"], "words is of kind tokens: give --vocabulary words=N"),
        ([*FLAGS, "--vocabulary", "pose=3"], "--vocabulary pose=3: MODALITY=N expected"),
        (["--vocabulary", "words=x"], "of kind tokens (words)"),
        (["--length", "photo=3"], "of kind array or flow or tokens (motion, words, pose)"),
        (["--vocabulary", f"words={WORDS}"], "--length words=N to pad or cut"),
    ],
)
def test_wrong_flags(raw, tmp_path, flags, message):
    assert message in error_of("folder", raw, tmp_path / "set", *flags)
    assert not (tmp_path / "set").exists()


def test_flow_of_another_layout(raw, tmp_path):
    """One such clip ends the call at once; if all are so, each is excluded with the reason."""
    copy = changed(raw, tmp_path, motion_4=np.zeros((3, 16, 16, 2)))
    assert "motion" in error_of("folder", copy, tmp_path / "set", *FLAGS)
    assert not (tmp_path / "set").exists()
    for path in copy.glob("*-motion.npy"):
        np.save(path, np.zeros((3, 16, 16, 2)))
    message = error_of("folder", copy, tmp_path / "set", *FLAGS)
    assert "(3, 16, 16, 2) found, (time, 2, height, width) expected" in message


def test_content_that_the_hashes_know(prepared, tmp_path, capsys):
    """verify.py reads the values: these are wrong, but sizes and hashes are right."""
    copy = shutil.copytree(prepared, tmp_path / "set")
    motion, words, pose = rows(copy / "manifest.csv")[0][4:]
    wrong = {
        motion: (np.full((3, 2, 16, 16), np.nan), "array with NaN or infinite numbers"),
        words: (np.full(6, WORDS), "tokens that are no integers of the vocabulary"),
        pose: (np.ones(7), "array of another shape than declared"),
    }
    for path, (values, _) in wrong.items():
        np.save(copy / path, values)
        line = f"{path},{(copy / path).stat().st_size},{sha256(copy / path)}"
        table = (copy / "files.csv").read_text()
        (copy / "files.csv").write_text(re.sub(f"(?m)^{path},.*$", line, table))
    with pytest.raises(UserError, match="findings"):
        verify.main([str(copy), "--full"])
    out = capsys.readouterr().out
    assert all(f"FAILED   {finding}: {path}" in out for path, (_, finding) in wrong.items())
