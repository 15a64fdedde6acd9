"""Encoders that timm and transformers know by name: tiny ones with random weights, offline.

The tests that import these packages are slow.
"""

import json
import sys

import cv2
import forked
import numpy as np
import pytest
import torch
from run_files import assert_same_run, read
from sets import prepare_set

import evaluate
from mmpareto.data.samples import IMAGENET, Modality
from mmpareto.models.encoders import ENCODERS
from mmpareto.models.fusions import FUSIONS
from mmpareto.run import options
from mmpareto.system.errors import UserError

PHOTO = Modality("image", (3, 16, 32))
CLIP = Modality("frames", (2, 3, 16, 32))
GRAY = Modality("spectrogram", (1, 16, 32))
VOCABULARY, LENGTH = 40, 7


def model(folder, kind, **settings):
    """Save a model of two layers with random weights in a folder, in evaluation mode."""
    transformers = pytest.importorskip("transformers", reason="the extra `encoders` is missing")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    config = getattr(transformers, kind)(num_hidden_layers=2, **sizes, **settings)
    made = transformers.AutoModel.from_config(config).eval()
    transformers.logging.disable_progress_bar()
    made.save_pretrained(folder)
    return made


TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH + 2}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "pad"), [("BertConfig", 0), ("RobertaConfig", 1)])
def test_text_by_hand(tmp_path, kind, pad):
    """The mean over each text alone, without padding; 0 and the tokenizer's pad are exchanged."""
    theirs = model(tmp_path, kind, **TEXT, pad_token_id=pad)
    words = Modality("tokens", (LENGTH,), VOCABULARY, pad)
    ours = ENCODERS[f"hf:{tmp_path}"](words, pretrained="published").eval()
    tokens = torch.randint(2, VOCABULARY, (3, LENGTH))
    tokens[0, 4:], tokens[1, 1] = 0, 1
    features = ours(tokens)
    assert features.shape == (3, ours.out_dim) == (3, 16)
    for row, length in enumerate((4, LENGTH, LENGTH)):
        text = tokens[row : row + 1, :length].clone()
        text[text == pad] = 0  # <s> of RoBERTa
        hidden = theirs(input_ids=text).last_hidden_state
        torch.testing.assert_close(features[row], hidden[0].mean(0), rtol=1e-4, atol=1e-5)
    tokens[1] = 0
    assert ours(tokens).isfinite().all()
    ours.train()
    assert not torch.equal(ours(tokens), ours(tokens))  # dropout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (Modality("tokens", (LENGTH,), VOCABULARY + 1), r"tokens are below 40 .* set's below 41"),
        (Modality("tokens", (LENGTH,), VOCABULARY, 0, "words"), "are words of its own: prepare it"),
        (Modality("tokens", (LENGTH,), VOCABULARY, 1), r"with padding 0, .* with padding 1: prep"),
        (Modality("tokens", (LENGTH + 3,), VOCABULARY), r"reads 9 tokens at most, .* have 10"),
        (Modality("array", (3,)), r"not array of shape \(3,\): choose another"),
    ],
)
def test_what_a_model_cannot_read(tmp_path, words, line):
    model(tmp_path, "BertConfig", **TEXT)
    with pytest.raises(UserError, match=line):
        ENCODERS[f"hf:{tmp_path}"](words)


@pytest.mark.slow
def test_pictures_by_hand(tmp_path):
    """At another size than the model's, with its own mean and deviation; the mean over frames."""
    theirs = model(tmp_path, "ViTConfig", image_size=16, patch_size=8)
    colours = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(colours))
    ours = ENCODERS[f"hf:{tmp_path}"](CLIP, pretrained="published").eval()
    levels = torch.rand(2, 3, 16, 32)
    mean, deviation = (torch.tensor(x).view(3, 1, 1) for x in IMAGENET)
    own = [torch.tensor(x).view(3, 1, 1) for x in colours.values()]
    given = (levels - own[0]) / own[1]
    hidden = theirs(pixel_values=given, interpolate_pos_encoding=True).last_hidden_state.mean(1)
    clip = ((levels - mean) / deviation)[None]
    torch.testing.assert_close(ours(clip)[0], hidden.mean(0), rtol=1e-4, atol=1e-5)
    assert ENCODERS[f"hf:{tmp_path}"](GRAY)(torch.randn(2, 1, 16, 32)).shape == (2, 16)
    with pytest.raises(UserError, match="takes 3 channels, 1 found"):
        ENCODERS[f"hf:{tmp_path}"](GRAY, pretrained="published")


@pytest.mark.slow
def test_models_of_something_else(tmp_path):
    model(tmp_path / "text", "BertConfig", **TEXT)
    model(tmp_path / "photo", "ViTConfig", patch_size=16)
    words = Modality("tokens", (LENGTH,), VOCABULARY)
    small = Modality("image", (3, 8, 8))
    for name, modality, line in (
        ("text", PHOTO, "type bert is no encoder of pictures, which image of shape"),
        ("photo", words, "type vit is no encoder of text, which tokens of shape"),
        ("photo", small, r"cannot read pictures of 8x8 \(.*\): give another --image_size"),
    ):
        with pytest.raises(UserError, match=line):
            ENCODERS[f"hf:{tmp_path / name}"](modality)


@pytest.mark.slow
def test_weights_of_another_model(tmp_path):
    model(tmp_path / "a", "BertConfig", **TEXT)
    model(tmp_path / "b", "ViTConfig")
    words = Modality("tokens", (LENGTH,), VOCABULARY)
    for place, line in (("b", r"\d+ tensors missing, first"), ("none", "give --pretrained MOD")):
        with pytest.raises(UserError, match=f"could not be loaded from .*{place} .*{line}"):
            ENCODERS[f"hf:{tmp_path / 'a'}"](words, pretrained=str(tmp_path / place))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_timm_by_hand(tmp_path, name):
    """Its mean and deviation are .5; a state dict of the published size and channels is fitted."""
    timm = pytest.importorskip("timm", reason="the extra `encoders` is missing")
    resized = {"img_size": (16, 32)} if name == "test_vit" else {}
    theirs = timm.create_model(name, num_classes=0, **resized).eval()
    torch.save(theirs.state_dict(), file := tmp_path / "weights.pt")
    ours = ENCODERS[f"timm:{name}"](CLIP, pretrained=str(file)).eval()
    levels = torch.rand(2, 3, 16, 32)
    mean, deviation = (torch.tensor(x).view(3, 1, 1) for x in IMAGENET)
    expected = theirs((levels - 0.5) / 0.5).mean(0)
    found = ours(((levels - mean) / deviation)[None])[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert ours.out_dim == len(found)
    gray = ENCODERS[f"timm:{name}"](GRAY, pretrained=str(file)).eval()
    picture = torch.randn(1, 1, 16, 32)
    same = theirs(picture.expand(1, 3, 16, 32))  # timm sums the weights over the channels
    torch.testing.assert_close(gray(picture), same, rtol=1e-4, atol=1e-5)
    cut = {k: v[:1] if v.dim() > 1 else v for k, v in theirs.state_dict().items()}
    for content, line in (({}, "tensors missing"), (cut, "weights of timm:.* could not be loaded")):
        torch.save(content, file)
        with pytest.raises(UserError, match=line):
            ENCODERS[f"timm:{name}"](PHOTO, pretrained=str(file))


@pytest.mark.parametrize("name", ["other:net", "timm:"])
def test_unknown_names(name):
    with pytest.raises(UserError, match=rf"unknown encoder '{name}'.*, timm:NAME, hf:NAME"):
        ENCODERS[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("timm:test_vit", r"cannot read pictures of 20x20 \(Input height \(20\).*give another"),
        ("timm:rsnet18", "timm .* has no such model: choose one of timm.list_models"),
        ("hf:no-such-folder", r"neither a folder with config.json nor a model on the hub .*: give"),
    ],
)
def test_what_is_no_encoder(name, line):
    pytest.importorskip("transformers", reason="the extra `encoders` is missing")
    with pytest.raises(UserError, match=line):
        ENCODERS[name](Modality("image", (3, 20, 20)))


@pytest.mark.parametrize("package", ["timm", "transformers"])
def test_without_the_package(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    name = {"timm": "timm:test_vit", "transformers": "hf:bert-base-uncased"}[package]
    with pytest.raises(UserError, match=rf'needs {package}, which .*pip install ".\[encoders\]"'):
        ENCODERS[name](PHOTO)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["mmtm", "centralnet", "bottleneck"])
def test_fusions_that_need_stages(fusion):
    pytest.importorskip("timm", reason="the extra `encoders` is missing")
    encoders = {name: ENCODERS["timm:test_resnet"](PHOTO) for name in "ab"}
    with pytest.raises(UserError, match=f"--fusion {fusion}: the encoder of a .TimmNet.*: choose"):
        FUSIONS[fusion](encoders, 3)


@pytest.fixture
def texts(tmp_path):
    """A prepared set of 64 pictures with 7 tokens each; returns its folder."""
    random, lines = np.random.default_rng(0), ["id,label,photo,words:tokens"]
    for i in range(64):
        cv2.imwrite(str(tmp_path / f"{i}.png"), random.integers(0, 256, (40, 40, 3), np.uint8))
        np.save(tmp_path / f"{i}.npy", random.integers(1, VOCABULARY, LENGTH))
        lines.append(f"{i},{'ab'[i % 2]},{i}.png,{i}.npy")
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    prepare_set("folder", tmp_path, tmp_path / "set", "--vocabulary", f"words={VOCABULARY}")
    return tmp_path / "set"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_resumed_to_the_bit(texts, tmp_path, monkeypatch, processes):
    """A text model with dropout and a picture model, in bfloat16, with accumulation."""
    pytest.importorskip("timm", reason="the extra `encoders` is missing")
    forked.start_server(monkeypatch)
    model(tmp_path / "bert", "BertConfig", **TEXT)

    def run(name, epochs, *more):
        flags = ["--precision", "bf16", "--accumulate", 2, "--batch_size", 8, "--image_size", 32]
        flags += ["--encoder", f"words=hf:{tmp_path}/bert", "photo=timm:test_vit", "--workers", 0]
        flags += ["--pretrained", "words=published", "--device", "cpu", "--epochs", epochs, *more]
        flags += ["--dataset", texts, "--method", "mmpareto", "--out", tmp_path / name]
        forked.together(processes, "train", *flags, logs=tmp_path)
        return tmp_path / name

    whole = run("whole", 3)
    run("part", 1)
    assert_same_run(whole, run("part", 3, "--resume"))
    stats = [step["encoders"] for step in read(whole / "steps.jsonl")]
    assert len(stats) == 6 and all(step.keys() == {"photo", "words"} for step in stats)
    evaluate.main([str(whole / "best.pt"), "--device", "cpu"])


def test_folders_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net=1").mkdir()
    (tmp_path / "net=1/config.json").touch()
    words = ["--encoder", "b=hf:net=1", "a=timm:x", "--pretrained", "b=net=1", "a=published"]
    flags = options.parse(["--dataset", "toy", *words])
    assert flags.encoder == [f"b=hf:{tmp_path}/net=1", "a=timm:x"]
    assert flags.pretrained == [f"b={tmp_path}/net=1", "a=published"]
    config = options.as_config(flags)
    found = options.from_config(config, tmp_path)
    assert (found.encoder, found.pretrained) == (flags.encoder, None)
