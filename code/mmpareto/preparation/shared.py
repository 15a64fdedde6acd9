"""Convert each sound that several clips share once: the set keeps them as rows of one file."""

import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..data.clips import Clip, Source, State, state_of
from ..system.paths import sha256
from .arrays import settle
from .journal import Stored
from .media import convert


class SharedSounds:
    """The sounds of clips that more than one of them has, written into the set in out."""

    def __init__(self, clips: Iterable[Clip], recipe: dict, out: Path):
        sounds = ((m, s) for c in clips for m, s in c.sources.items() if s.kind == "audio")
        shared = [key for key, count in Counter(sounds).items() if count > 1]
        found: dict[str, dict[Source, np.ndarray]] = {}
        for name, source in tqdm(shared, "shared sounds", leave=False, disable=None):
            try:
                item = convert(source, recipe)
            except Exception:  # each of its clips is tried alone, which says what is wrong
                continue
            if not item.doubts:  # they are remarks on each clip
                values = np.load(io.BytesIO(item.files[".npy"]), allow_pickle=False)
                found.setdefault(name, {})[source] = values
        self.rows_of: dict[tuple[str, Source], tuple[State, Stored]] = {}
        for name, values in found.items():
            aside = out / ".tmp" / f"{name}.npy"
            np.save(aside, np.stack(list(values.values())), allow_pickle=False)
            file = settle(aside, name, out)
            for row, (source, one) in enumerate(values.items()):
                state = state_of(source)._replace(sha256=sha256(source.path))
                stored = Stored(f"{file.path}#{row}", None, list(one.shape), [file])
                self.rows_of[name, source] = state, stored

    def rows(self, clip: Clip) -> dict[str, tuple[State, Stored]]:
        """Return the modalities of a clip that are among these sounds."""
        keys = [(name, s) for name, s in clip.sources.items() if s.kind == "audio"]
        return {key[0]: self.rows_of[key] for key in keys if key in self.rows_of}
