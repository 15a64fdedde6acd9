"""Compute spectrograms of sound by the recipes of `recipes.AUDIO`."""

from math import inf

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor


def spectrogram(samples: np.ndarray, rate: int, recipe: dict) -> np.ndarray:
    """Return the recipe's features, float32, of samples (n,) in [-1, 1], rate of them a second."""
    wave = torchaudio.functional.resample(torch.from_numpy(samples), rate, recipe["rate"])
    return _FEATURES[recipe["name"]](wave, recipe).numpy()


def mixed(
    wave: np.ndarray, rate: int, noise: np.ndarray, noise_rate: int, decibels: float
) -> np.ndarray | None:
    """Return wave with noise from its start, repeated if it is short; None if one is silent.

    decibels: the power of wave above that of the noise.
    """
    found = torchaudio.functional.resample(torch.from_numpy(noise), noise_rate, rate).numpy()
    found = np.resize(found, len(wave))
    powers = np.square(wave).mean(), np.square(found).mean()
    if not all(power > 0 and np.isfinite(power) for power in powers):
        return None
    return wave + found * np.sqrt(powers[0] / powers[1] / 10 ** (decibels / 10)).astype(np.float32)


def seconds_of(recipe: dict) -> float:
    """Return how much sound a spectrogram of this recipe holds; the rest is cut off."""
    if "side" in recipe:
        return inf  # any length is resized
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


def _square(wave: Tensor, recipe: dict) -> Tensor:
    """Return an array (side, side) in [0, 1]."""
    spectrum = torch.stft(
        wave, recipe["n_fft"], recipe["hop"], window=torch.hann_window(recipe["n_fft"]),
        center=True, pad_mode="constant", return_complex=True,
    )  # fmt: skip
    power = spectrum.abs().square()
    decibels = 10 * (power / power.max().clamp(min=1e-20)).clamp(min=1e-20).log10()
    scaled = (1 + decibels / recipe["decibels"]).clamp(min=0)[None, None]
    size = recipe["side"], recipe["side"]
    return F.interpolate(scaled, size, mode="bilinear", antialias=True)[0, 0].clamp(0, 1)


_FEATURES = {"stft": _stft, "fbank": _fbank, "square112": _square}
