"""Recipes by name: every number that decides what a prepared file holds.

metadata.json holds the whole recipe, every log its hash. With another number it is another
recipe: give it another name.
"""

from typing import Any

from .clips import ARRAYS

JPEG = {"format": "jpeg", "quality": 95, "subsampling": "4:2:0"}
SHORT_SIDE = {"short_side": 256, "resize": "area, never enlarged"}
TIMED = "the frame shown at (k + 0.5) / fps seconds after the first one"
WAVE = {
    "channels": "mean",
    "resampler": "torchaudio sinc_interp_hann, width 6, rolloff 0.99",
}

FRAMES = {
    "3fps": {"rule": TIMED, "fps": 3, **SHORT_SIDE, **JPEG},
    "1fps": {"rule": TIMED, "fps": 1, **SHORT_SIDE, **JPEG},
    # What OGM-GE's script keeps: at 29.97 frames a second numbers 0, 29, 58...
    "ogmge-1fps": {"rule": "frame numbers divisible by int(frames per second)", **JPEG},
}
AUDIO = {
    # OGM-GE's for CREMA-D: 3 s, (257, 188)
    "stft": {
        **WAVE,
        "features": "log(|STFT| + 1e-7)",
        "rate": 22050,
        "samples": 66150,
        "fill": "repeated, then cut; clipped to [-1, 1]",
        "n_fft": 512,
        "hop": 353,
        "window": "hann, periodic",
        "centre": "zeros",
        "orientation": "frequency, time",
    },
    # OGM-GE's for Kinetics-Sounds: 10.24 s, (1024, 128)
    "fbank": {
        **WAVE,
        "features": "Kaldi filter bank, htk_compat, no energy, no dither",
        "rate": 16000,
        "mean": "subtracted from the samples",
        "window": "hanning, 25 ms every 10 ms",
        "bins": 128,
        "rows": 1024,
        "fill": "zeros below, before scaling",
        "scaling": "(x + 4.503877) / (2 * 5.141276)",
        "orientation": "time, frequency",
    },
    # A whole word on a square, for AV-MNIST: (112, 112)
    "square112": {
        **WAVE,
        "features": "10 log10(|STFT|^2)",
        "rate": 8000,
        "n_fft": 256,
        "hop": 32,
        "window": "hann, periodic",
        "centre": "zeros",
        "decibels": 80,
        "scaling": "the loudest is 1, as many decibels below are 0",
        "side": 112,
        "fill": "the whole sound, resized bilinearly with antialiasing",
        "orientation": "frequency, time",
    },
}
IMAGES = {
    "original": {"format": "as it is"},
    "jpeg256": {**SHORT_SIDE, **JPEG},
}
RECIPES = {"frames": FRAMES, "audio": AUDIO, "images": IMAGES}
RECIPE_OF = {
    "frames": "frames",
    "flow_stills": "frames",
    "audio": "audio",
    "image": "images",
}  # kind of a source: family


def named(
    choices: dict[str, str],
    modalities: dict[str, str],
    lengths: dict[str, int],
    vocabularies: dict[str, int],
) -> dict:
    """Return the whole recipe of a set: the chosen ones, for the kinds of source that it has.

    choices: {family: name}; modalities: {name: kind}; lengths (of arrays) and vocabularies (of
    tokens): by modality.
    """
    recipe: dict[str, Any] = {"modalities": modalities}
    for family in dict.fromkeys(RECIPE_OF[k] for k in modalities.values() if k in RECIPE_OF):
        recipe[family] = {"name": choices[family], **RECIPES[family][choices[family]]}
    if any(kind in ARRAYS for kind in modalities.values()):
        recipe["arrays"] = {"dtype": "float32", "lengths": lengths}
    if any(modalities[name] == "array" for name in lengths):
        recipe["arrays"]["padding"] = "NaN"
    if vocabularies:
        recipe["tokens"] = {"dtype": "int32", "vocabularies": vocabularies}
    return recipe


def first_difference(old: dict, new: dict, path: str = "") -> str:
    """Return the first difference of two recipes, as "frames.fps was 3, is 1"."""
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if a != b and isinstance(a, dict) and isinstance(b, dict):
            return first_difference(a, b, f"{path}{key}.")
        if a != b:
            return f"{path}{key} was {a}, is {b}"
    raise ValueError("the recipes are equal")
