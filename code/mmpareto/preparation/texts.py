"""Turn text into tokens: by its words, or by a tokenizer of transformers."""

import hashlib
import json
import re
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..data.clips import Raw, Source, State, state_of
from ..data.layout import Spec
from ..system.errors import UserError, reason
from .arrays import pack
from .journal import Stored
from .splits import listed_splits

WORD = re.compile(r"\w+")
RARE = 2  # a word that occurs less often in training is unknown
MOST = 30_000  # words
EMPTY = -1  # no token: a text without a word cannot be used
Rows = dict[str, dict[str, tuple[State, Stored]]]  # {clip: {modality: what lies in the set}}


class Words:
    """The lower-cased words of texts; 0 is padding, 1 any word that is not in the vocabulary.

    The vocabulary has the MOST frequent words that occur RARE times or more.
    """

    pad = 0
    rule = {"words": WORD.pattern, "case": "lower", "rare": RARE, "most": MOST}

    def __init__(self, texts: Iterable[str]):
        counts = Counter(word for text in texts for word in WORD.findall(text.lower()))
        often = sorted((-count, word) for word, count in counts.items() if count >= RARE)
        self.words = ["<padding>", "<unknown>", *(word for _, word in often[:MOST])]
        self.numbers = {word: number for number, word in enumerate(self.words)}

    def encode(self, texts: list[str], length: int) -> list[list[int]]:
        found = (WORD.findall(text.lower())[:length] for text in texts)
        return [[self.numbers.get(word, 1) for word in words] for words in found]


class Pretrained:
    """A tokenizer of transformers, by the name of a model or the folder of its files."""

    words: list[str] = []  # its vocabulary is kept with the model
    rule: dict[str, Any] = {}  # it is in the tokenizer's own files

    def __init__(self, name: str):
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise UserError(
                f"--tokenizer hf:{name} needs a package: pip install transformers ({error})"
            ) from None
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except Exception as error:  # a download, or anybody's files
            raise UserError(
                f"--tokenizer hf:{name}: cannot be loaded ({reason(error)}): give a model's name "
                "on the hub, or the folder of its tokenizer"
            ) from None
        self.numbers = self.tokenizer.get_vocab()
        size, pad = 1 + max(self.numbers.values()), self.tokenizer.pad_token_id
        self.pad = size if pad is None else pad

    def encode(self, texts: list[str], length: int) -> list[list[int]]:
        return self.tokenizer(texts, truncation=True, max_length=length)["input_ids"]


class Texts:
    """The texts of a set's clips as tokens, all of one modality in one packed file.

    Every call of prepare.py makes that file anew from all clips: texts are small, and so the set
    does not depend on the calls before.
    """

    def __init__(self, raw: Raw, flags: Namespace):
        self.clips = raw.clips
        self.names = [name for name, kind in raw.modalities.items() if kind == "text"]
        self.recipe: dict[str, Any] = {}
        self.words: list[str] = []  # the vocabulary to keep with the set, by number
        if not self.names:
            return
        kind, _, name = flags.tokenizer.partition(":")
        self.tokenizer = Pretrained(name) if kind == "hf" else Words(self._training(raw))
        self.words = self.tokenizer.words
        numbers, self.pad = self.tokenizer.numbers, self.tokenizer.pad
        self.length, self.vocabulary = flags.text_length, 1 + max(*numbers.values(), self.pad)
        listed = json.dumps(sorted(numbers.items()))
        self.recipe["text"] = {
            # of a folder its name alone: where it lies is no part of the recipe
            "tokenizer": f"hf:{Path(name).name if Path(name).is_dir() else name}" if name else kind,
            "sha256": hashlib.sha256(listed.encode()).hexdigest(),
            "vocabulary": self.vocabulary,
            "pad": self.pad,
            "length": self.length,
            **self.tokenizer.rule,
        }

    def _training(self, raw: Raw) -> Iterable[str]:
        """Yield the texts that the first split trains on."""
        splits = listed_splits(raw.lists, raw.held_out)
        if not splits:
            raise UserError(
                "--tokenizer words counts the words of the training part: give the table a column "
                "split, or --tokenizer hf:NAME"
            )
        parts = next(iter(splits.values()))
        for clip in raw.clips:
            if parts.get(clip.id) == "train":
                yield from (clip.sources[n].text for n in self.names if n in clip.sources)

    def spec(self, shape: Iterable[int]) -> Spec:
        recipe = self.recipe["text"]
        return Spec("tokens", self.vocabulary, list(shape), self.pad or None, recipe["tokenizer"])

    def write(self, out: Path) -> Rows:
        """Write the packed files into out; return the rows of all texts that can be used."""
        found: Rows = {clip.id: {} for clip in self.clips}
        for name in self.names:
            clips = [clip for clip in self.clips if name in clip.sources]
            tokens = self._tokens([clip.sources[name].text for clip in clips])
            source = Source("tokens", out, vocabulary=self.vocabulary, values=tokens)
            packed = pack(source, name, out)
            for row, clip in enumerate(clips):
                if packed.is_good[row]:
                    item = Stored(f"{packed.file.path}#{row}", None, packed.shape, [packed.file])
                    found[clip.id][name] = state_of(clip.sources[name]), item
        return found

    def _tokens(self, texts: list[str]) -> np.ndarray:
        """Return tokens (texts, length) with 0 for padding; EMPTY for a text without words."""
        tokens = np.full((len(texts), self.length), self.pad, np.int32)
        for row, numbers in enumerate(self.tokenizer.encode(texts, self.length)):
            tokens[row, : len(numbers)] = numbers
        swapped = np.where(tokens == self.pad, 0, np.where(tokens == 0, self.pad, tokens))
        swapped[[not WORD.search(text) for text in texts]] = EMPTY
        return swapped
