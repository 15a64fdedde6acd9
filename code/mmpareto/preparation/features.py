"""Compute spectrograms of sound by the recipes of `recipes.AUDIO`."""

import numpy as np
import torch
import torchaudio
from torch import Tensor


def spectrogram(samples: np.ndarray, rate: int, recipe: dict) -> np.ndarray:
    """Return the recipe's features, float32, of samples (n,) in [-1, 1], rate of them a second."""
    wave = torchaudio.functional.resample(torch.from_numpy(samples), rate, recipe["rate"])
    return _FEATURES[recipe["name"]](wave, recipe).numpy()


def seconds_of(recipe: dict) -> float:
    """Return how much sound a spectrogram of this recipe holds; the rest is cut off."""
    return recipe["samples"] / recipe["rate"] if "samples" in recipe else recipe["rows"] / 100


def _stft(wave: Tensor, recipe: dict) -> Tensor:
    """Return an array (n_fft / 2 + 1, samples // hop + 1)."""
    size = recipe["samples"]
    wave = wave.repeat(-(-size // len(wave)))[:size].clamp(-1, 1)
    spectrum = torch.stft(
        wave, recipe["n_fft"], recipe["hop"], window=torch.hann_window(recipe["n_fft"]),
        center=True, pad_mode="constant", return_complex=True,
    )  # fmt: skip
    return (spectrum.abs() + 1e-7).log()


def _fbank(wave: Tensor, recipe: dict) -> Tensor:
    """Return an array (rows, bins)."""
    features = torchaudio.compliance.kaldi.fbank(
        (wave - wave.mean())[None], sample_frequency=recipe["rate"], htk_compat=True,
        use_energy=False, window_type="hanning", num_mel_bins=recipe["bins"], dither=0.0,
        frame_shift=10,
    )  # fmt: skip
    rows = recipe["rows"]
    padded = torch.nn.functional.pad(features[:rows], (0, 0, 0, max(0, rows - len(features))))
    return (padded + 4.503877) / (2 * 5.141276)


_FEATURES = {"stft": _stft, "fbank": _fbank}
