"""Text becomes tokens: by words, or by a tokenizer of transformers made here."""

import re
import sys
from argparse import Namespace

import numpy as np
import pytest
from sets import contents, error_of, prepare_set, rows, write_food101
from test_film_lists import collected

from mmpareto.data.layout import read_metadata
from mmpareto.datasets.folder import Folder
from mmpareto.datasets.food101 import Food101

TEXTS = {  # id: (part, text); "rare" is twice in all, but once in training
    "a": ("train", "The red fox. The RED hen!"), "b": ("train", "a fox, rare"),
    "c": ("val", "rare hen"), "d": ("test", "red\nwolf " * 9), "e": ("test", "a hen"),
    "f": ("train", "A hen"),
}  # fmt: skip


def write_texts(raw, texts, columns="id,label,split,said:text"):
    raw.mkdir(exist_ok=True)
    lines = [f'{id},{"xy"[i % 2]},{part},"{text}"' for i, (id, (part, text)) in enumerate(texts)]
    (raw / "clips.csv").write_text("\n".join([columns, *lines]) + "\n")
    return raw


@pytest.fixture
def raw(tmp_path):
    return write_texts(tmp_path / "raw", TEXTS.items())


def tokens(out):
    """{clip: its tokens} of a set, without padding."""
    found = {}
    for id, _, _, place in rows(out / "manifest.csv"):
        file, _, row = place.partition("#")
        values = np.load(out / file)[int(row)]
        assert values.dtype == np.int32
        found[id] = values[: np.flatnonzero(values)[-1] + 1].tolist()
    return found


class TestWords:
    def test_by_hand(self, raw, tmp_path):
        """The vocabulary is that of the training part, by frequency, then by name."""
        metadata = prepare_set("folder", raw, tmp_path / "set", "--text_length", 5)
        words = ["<padding>", "<unknown>", "a", "fox", "hen", "red", "the"]
        assert (tmp_path / "set/vocabulary.txt").read_text().splitlines() == words
        assert tokens(tmp_path / "set") == {
            "a": [6, 5, 3, 6, 5], "b": [2, 3, 1], "c": [1, 4], "d": [5, 1, 5, 1, 5], "e": [2, 4],
            "f": [2, 4],
        }  # fmt: skip
        assert metadata["modalities"]["said"] == {
            "kind": "tokens", "vocabulary": 7, "shape": [5], "tokenizer": "words",
        }  # fmt: skip
        assert metadata["counts"]["files"] == 1
        recipe = metadata["recipe"]["text"]
        assert re.fullmatch("[0-9a-f]{64}", recipe.pop("sha256"))
        assert recipe == {
            "tokenizer": "words", "vocabulary": 7, "pad": 0, "length": 5, "words": r"\w+",
            "case": "lower", "rare": 2, "most": 30_000,
        }  # fmt: skip

    def test_validation_is_no_training(self, tmp_path):
        """Without a part val it is drawn from training, and its words are not counted."""
        texts = {str(i): ("test" if i > 37 else "train", f"own{i} own{i}") for i in range(40)}
        prepare_set("folder", write_texts(tmp_path / "raw", texts.items()), tmp_path / "set")
        parts = dict(rows(tmp_path / "set/splits/given.csv"))
        assert "val" in parts.values()
        known = set((tmp_path / "set/vocabulary.txt").read_text().split()[2:])
        assert known == {f"own{id}" for id, part in parts.items() if part == "train"}

    def test_texts_without_words(self, raw, tmp_path):
        """They are left out with their reason; the file of tokens keeps the others' rows."""
        texts = TEXTS | {"b": ("train", "?!"), "g": ("train", "a fox")}
        write_texts(raw, texts.items())
        assert "1 of 7 clips cannot be used (1 empty)" in error_of("folder", raw, tmp_path / "set")
        prepare_set("folder", raw, tmp_path / "set", "--max_bad", 0.2)
        (problem,) = rows(tmp_path / "set/problems.csv")
        assert problem == ["b", "said", "excluded", "empty", "no word in '?!'"]
        assert tokens(tmp_path / "set").keys() == texts.keys() - {"b"}

    def test_clips_without_a_text(self, raw, tmp_path):
        """An empty cell is refused, or with --missing a modality that the clip lacks."""
        texts = [f'{id},{"xy"[i % 2]},{part},{"" if i == 1 else "hen"},fox fox'
                 for i, (id, (part, _)) in enumerate(TEXTS.items())]  # fmt: skip
        (raw / "clips.csv").write_text("\n".join(["id,label,split,a:text,b:text", *texts]))
        assert "line 3: a is empty" in error_of("folder", raw, tmp_path / "set")
        metadata = prepare_set("folder", raw, tmp_path / "set", "--missing")
        assert metadata["counts"]["clips"] == 6
        found = {row[0]: row[3] for row in rows(tmp_path / "set/manifest.csv")}
        assert found["b"] == "" and found["a"].endswith(".npy#0") and found["c"].endswith(".npy#1")

    @pytest.mark.parametrize(
        ("columns", "flags", "told"),
        [
            (
                "id,label,group,said:text",
                (),
                "give the table a column split, or --tok",
            ),
            (
                "id,label,split,said:text",
                ("--tokenizer", "bert"),
                "'bert' is neither words nor hf:",
            ),
            (
                "id,label,split,said:text",
                ("--text_length", 0),
                "'0' is not a positive whole number",
            ),
            ("id,label,split,said", (), "control characters in 'red\\n"),
            (
                "id,label,split,said:text",
                ("--tokenizer", "hf:."),
                "--tokenizer hf:. needs a package: pip install tr",
            ),
        ],
    )
    def test_bad_input(self, tmp_path, columns, flags, told, monkeypatch):
        monkeypatch.setitem(sys.modules, "transformers", None)
        raw = write_texts(tmp_path / "raw", TEXTS.items(), columns)
        assert told in error_of("folder", raw, tmp_path / "set", *flags)
        assert not (tmp_path / "set").exists()

    def test_edited_texts(self, raw, tmp_path):
        """Other words make another vocabulary, which is another recipe; others may change."""
        out = tmp_path / "set"
        prepare_set("folder", raw, out)
        write_texts(raw, (TEXTS | {"e": ("test", "red")}).items())
        prepare_set("folder", raw, out)
        prepare_set("folder", raw, tmp_path / "anew")
        assert contents(out) == contents(tmp_path / "anew")
        assert tokens(out)["e"] == [5]
        before = contents(out)
        write_texts(raw, (TEXTS | {"g": ("train", "wolf wolf")}).items())
        assert "text.sha256 was" in error_of("folder", raw, out)
        assert contents(out) == before


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """{name: folder of a tokenizer}: with padding 1, and without any."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs pip install transformers")
    transformers = pytest.importorskip("transformers", reason="needs pip install transformers")
    found = {}
    for name, special in {"pads": {"pad_token": "<pad>"}, "bare": {}}.items():
        vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "a", "fox", "hen", "red", "the"]
        model = tokenizers.models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "<unk>")
        own = tokenizers.Tokenizer(model)
        own.normalizer = tokenizers.normalizers.Lowercase()
        own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        own.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        special |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        fast = transformers.PreTrainedTokenizerFast(tokenizer_object=own, **special)
        found[name] = tmp_path_factory.mktemp("tokenizers") / name
        fast.save_pretrained(found[name])
    return found


@pytest.mark.slow
class TestPretrained:
    """A tokenizer's own numbers come back when 0 and its padding are exchanged again."""

    @pytest.mark.parametrize(("name", "pad", "vocabulary"), [("pads", 1, 9), ("bare", 9, 10)])
    def test_numbers(self, raw, tokenizers, tmp_path, name, pad, vocabulary):
        from transformers import AutoTokenizer

        metadata = prepare_set("folder", raw, tmp_path / "set", "--text_length", 6,
                               "--tokenizer", f"hf:{tokenizers[name]}")  # fmt: skip
        spec = read_metadata(tmp_path / "set").modalities["said"]
        assert (spec.pad, spec.vocabulary) == (pad, vocabulary)
        assert metadata["recipe"]["text"]["tokenizer"] == f"hf:{name}"
        assert not (tmp_path / "set/vocabulary.txt").exists()
        original = AutoTokenizer.from_pretrained(tokenizers[name])
        for id, found in tokens(tmp_path / "set").items():
            own = original(TEXTS[id][1], truncation=True, max_length=6)["input_ids"]
            assert [{0: pad, pad: 0}.get(number, number) for number in found] == own
            assert own[0] == 0 and own[-1] == 2 and len(own) <= 6
        data = Folder.load(Namespace(data_root=tmp_path / "set", split=None, dataset="folder"))
        assert data.modalities["said"][2:] == (vocabulary, pad, f"hf:{name}")

    def test_a_set_that_grows(self, raw, tokenizers, tmp_path):
        """A new clip needs no other set; all is as if made anew."""
        flags = ("--tokenizer", f"hf:{tokenizers['pads']}")
        prepare_set("folder", raw, tmp_path / "set", *flags)
        write_texts(raw, ({"0": ("train", "hen hen")} | TEXTS).items())
        for out in ("set", "anew"):
            prepare_set("folder", raw, tmp_path / out, *flags)
        assert contents(tmp_path / "set") == contents(tmp_path / "anew")
        assert tokens(tmp_path / "set")["0"] == [1, 6, 6, 2]

    def test_no_tokenizer_there(self, raw, tokenizers, tmp_path):
        flags = ("--tokenizer", f"hf:{tmp_path / 'raw'}")
        line = error_of("folder", raw, tmp_path / "set", *flags)
        assert "cannot be loaded (" in line and "or the folder of its tokenizer" in line


class TestFood101:
    @pytest.mark.parametrize("layout", ["csv", "jsonl"])
    def test_both_layouts(self, tmp_path, layout):
        """The same clips, whichever way they are listed; titles may hold quotes and commas."""
        raw = collected(Food101, write_food101(tmp_path / "raw", 3, layout))
        assert [clip.id for clip in raw.clips[:3]] == ["apple_pie_0", "baklava_1", "apple_pie_2"]
        assert raw.clips[1].sources["text"].text == 'best "baklava", 1\u2028ever'
        assert raw.clips[1].sources["image"].path.name == "baklava_1.jpg"
        assert raw.notes == [
            "lists: 2 of 101 classes, train 2, test 1; 3 pictures found",
            "67% of the texts name their class",
        ]

    @pytest.mark.parametrize(
        ("layout", "old", "new", "told"),
        [
            ("csv", "baklava_1.jpg", "apple_pie_0.jpg", "apple_pie_0 is listed already as train"),
            ("csv", ",apple_pie\n", ",a,apple_pie\n", "4 values found, picture, text and class"),
            (
                "csv",
                "apple_pie_0.jpg",
                "../apple_pie_0.jpg",
                "a picture's path and a class expected",
            ),
            (
                "csv",
                "apple_pie_0.jpg",
                "apple_pie_9.jpg",
                "1 of 3 listed clips (33.3%) have no raw",
            ),
            ("jsonl", '"text"', '"title"', "train.jsonl, line 1: no line of JSON with img, text"),
            ("jsonl", '{"id"', '"id"', "train.jsonl, line 1: no line of JSON with img, text"),
        ],
    )
    def test_bad_lists(self, tmp_path, layout, old, new, told):
        raw = write_food101(tmp_path / "raw", 3, layout)
        path = raw / ("texts/train_titles.csv" if layout == "csv" else "train.jsonl")
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        assert told in error_of("food101", raw, tmp_path / "set")
        assert not (tmp_path / "set").exists()
