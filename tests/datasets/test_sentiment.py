"""CMU-MOSI and CMU-MOSEI, from the pickles that others publish."""

from mmpareto.system import pickled

import pickle
from argparse import Namespace

import bombs
import field
import numpy as np
import pytest
from damage import told
from sets import error_of, prepare_set, rows

from mmpareto.datasets.sentiment import LABELS, MOSI


def collect(path, labels="nonnegative"):
    return MOSI.collect(Namespace(raw=path, labels=labels))


@pytest.fixture
def raw(tmp_path):
    return field.write_sentiment(tmp_path / "raw/mosi_data.pkl", field.sentiment()[0])


@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_steps(tmp_path, front, told):
    """True steps come first, wherever the padding was; lengths that the file tells are taken."""
    content, true = field.sentiment(front=front)
    if told:  # a step of zeros is a step, too
        start = 0
        for part in content.values():
            count = len(part["text"])
            part["vision_lengths"] = [len(true["vision"][start + i]) for i in range(count)]
            start += count
        inside = slice(-len(true["vision"][0]), None) if front else slice(len(true["vision"][0]))
        content["train"]["vision"][0, inside][-1 if not front else 0] = 0
        true["vision"][0][-1 if not front else 0] = 0
        content["train"]["vision"][0, inside][0 if not front else -1] = 7
        true["vision"][0][0 if not front else -1] = 7
    found = collect(field.write_sentiment(tmp_path / "it.pkl", content))
    assert len(found.clips) == 40 and not found.left_out
    assert any("padded at the " + ("front" if front else "back") in note for note in found.notes)
    for number, clip in enumerate(found.clips):
        for name, source in clip.sources.items():
            values, expected = source.values[source.row], true[name][number]
            assert np.array_equal(values[: len(expected)], expected)
            assert np.isnan(values[len(expected) :]).all() and len(values) == source.length


def test_parts_videos_and_labels(raw):
    scores = np.resize([-2.4, 0.0, 1.6, -0.4, 3.0], 24)
    expected = {
        "nonnegative": ["negative" if s < 0 else "nonnegative" for s in scores],
        "positive": ["positive" if s > 0 else "nonpositive" for s in scores],
        "nonzero": ["negative" if s < 0 else "positive" for s in scores if s],
        "seven": [{-2.4: "-2", 0: "0", 1.6: "2", -0.4: "0", 3: "3"}[s] for s in scores],
    }
    assert expected.keys() == LABELS.keys()
    for labels, wanted in expected.items():
        found = collect(raw, labels)
        train = [clip for clip in found.clips if found.lists["published"][clip.id][0] == "train"]
        assert [clip.label for clip in train] == wanted and set(wanted) <= set(found.classes)
        assert found.recipe == {"labels": labels}
        assert {p.reason for p in found.left_out.values()} == (
            {"no_class"} if labels == "nonzero" else set()
        )
    assert train[4].id == "train-1_4" and train[4].group == "train-1"
    assert {part for part, _ in found.lists["published"].values()} == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("row", "id", "video"),
    [
        ([b"abc[12]"], "abc_12", "abc"),
        ("a-c$_$3", "a-c_3", "a-c"),
        (["x_Y", "1.5", "2.25"], "x_Y_1.5_2.25", "x_Y"),
        ("=cmd", "_cmd", "=cmd"),
    ],
)
def test_ids(tmp_path, row, id, video):
    content, _ = field.sentiment()
    content["train"]["id"] = [row, row, *[[f"v{i}"] for i in range(22)]]
    clips = collect(field.write_sentiment(tmp_path / "it.pkl", content)).clips
    assert [clip.id for clip in clips[:3]] == [f"{id}.0", f"{id}.1", "v0"]
    assert clips[0].group == clips[1].group == video


def test_numbers_that_are_not_finite_and_samples_without_any(tmp_path):
    """The first get the mean of training, with a remark; the second are left out."""
    content, true = field.sentiment(front=False)
    content["train"]["audio"][2, 0, 1] = true["audio"][2][0, 1] = -np.inf
    content["test"]["audio"][3, 0, 1] = np.nan
    content["valid"]["text"][1] = 0
    out = tmp_path / "set"
    path = field.write_sentiment(tmp_path / "it.pkl", content)
    metadata = prepare_set("mosi", path, out)
    assert metadata["recipe"]["labels"] == "nonnegative"
    assert {spec["kind"] for spec in metadata["modalities"].values()} == {"sequence"}
    clips = {clip.id: clip for clip in collect(path).clips}
    training = np.concatenate(true["audio"][:24])[:, 1].astype(float)
    mean = training[np.isfinite(training)].mean()
    for id in ("train-0_2", "test-1_3"):
        source = clips[id].sources["audio"]
        assert source.values[source.row][0, 1] == pytest.approx(mean, rel=1e-6)
    assert [row[:4] for row in rows(out / "problems.csv")] == [
        ["test-1_3", "audio", "kept", "not_finite"],
        ["train-0_2", "audio", "kept", "not_finite"],
        ["valid-0_1", "text", "excluded", "empty"],
    ]


def change(part, **fields):
    return lambda content: content[part].update(fields)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content.pop("valid"), "['train', 'test'] found, a dict of train, valid"),
        (lambda content: content["test"].pop("audio"), "test: ['labels', 'id', 'text', 'vi"),
        (lambda content: content["test"].pop("labels"), "labels expected"),
        (change("train", audio=np.ones((24, 9, 3))), "shapes train (24, 9, 3), valid (8, 9"),
        (change("train", audio=np.ones((23, 9, 4))), "'audio': 23, 'vision': 24} samples found"),
        (change("train", audio=["a"] * 24), "train, audio: no array of numbers"),
        (change("train", audio=np.ones(24)), "train, audio: shape (24,) found"),
        (change("test", labels=np.full(8, 5.0)), "from 5 to 5: one score from -3 to 3"),
        (change("test", labels=np.zeros((8, 7))), "shape (8, 7) found"),
    ],
)  # fmt: skip
def test_other_layouts(tmp_path, damage, message):
    content, _ = field.sentiment()
    damage(content)
    path = field.write_sentiment(tmp_path / "it.pkl", content)
    assert message in error_of("mosi", path, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_other_places(raw, tmp_path):
    assert [c.id for c in collect(raw.parent).clips] == [c.id for c in collect(raw).clips]
    assert "no such file or folder" in told(collect, tmp_path / "no.pkl")
    (raw.parent / "more.pkl").touch()
    assert "2 pickles found in it (more.pkl, mosi_data.pkl)" in told(collect, raw.parent)
    (raw.parent / "more.pkl").write_text("<!DOCTYPE html>")
    assert "is a web page" in told(collect, raw.parent / "more.pkl")
    large = field.sentiment(parts={"train": 2184, "valid": 8, "test": 8})[0]
    assert "is it the file of another set?" in told(collect, field.write_sentiment(raw, large))


class TestPickles:
    """Arrays of every protocol and both names of numpy's module are read, and nothing is run."""

    THINGS = {
        "C": np.arange(6, dtype=np.float32).reshape(2, 3), "F": np.asfortranarray(np.eye(3, 2)),
        "text": np.array(["ab", "c"]), "objects": np.array([b"x", None], object),
        "number": np.float64(2), "list": [1, b"\xff"],
    }  # fmt: skip

    @pytest.mark.parametrize("protocol", range(6))
    @pytest.mark.parametrize("module", [b"numpy._core", b"numpy.core"])
    def test_arrays(self, tmp_path, protocol, module):
        content = pickle.dumps(self.THINGS, protocol)
        if protocol < 4:  # from 4 on, the length stands before the name
            content = content.replace(b"numpy._core", module)
        path = tmp_path / "it.pkl"
        path.write_bytes(content)
        assert repr(pickled.read(path)) == repr(self.THINGS)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"cos\nsystem\n(S'echo'\ntR.", "nothing in it was run: the pickle asks for os.system"),
            (b"cbuiltins\neval\n.", "builtins.eval"),
            (b"cnumpy.core.multiarray\n_reconstruct.x\n.", "numpy.core.multiarray._reconstruct.x"),
            (b"cnumpy\nndarray\n(I9\ntR.", "not callable"),
            (b"c_codecs\nencode\n(S'x'\nS'bz2'\ntR.", "latin1 expected"),
            (b"c\x1b[2J\nx\n.", r"\x1b[2J.x"),
            (b"", "Ran out of input"),
            (pickle.dumps(np.ones(9))[:-20], "truncated"),
        ],
    )  # fmt: skip
    def test_refused(self, tmp_path, content, message):
        path = tmp_path / "it.pkl"
        path.write_bytes(content)
        assert message in told(pickled.read, path)

    def test_a_trap(self, tmp_path):
        path = field.write_sentiment(tmp_path / "it.pkl", bombs.Trap(tmp_path / "sprung"))
        assert "asks for pathlib.Path.touch" in error_of("mosi", path, tmp_path / "set")
        assert not (tmp_path / "sprung").exists()
        pickle.loads(path.read_bytes())
        assert (tmp_path / "sprung").exists()

    @pytest.mark.parametrize("make", bombs.ENDLESS)
    def test_no_files(self, tmp_path, make):
        make(tmp_path / "it.pkl")
        assert "a pipe, a socket or a device" in told(collect, tmp_path)
