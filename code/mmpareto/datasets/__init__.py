"""Datasets: one file each, with `defaults` for the flags and `load(options) -> data.Data`."""

from ..registry import Registry

DATASETS = Registry(
    "dataset",
    __name__,
    {
        "cgdigits": "cgdigits:CGDigits",
        "cgmnist": "cgmnist:CGMNIST",
    },
)
