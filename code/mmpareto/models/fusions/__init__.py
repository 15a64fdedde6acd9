"""Fusions: whole models, built from encoders and the number of classes."""

from ...system.registry import Registry
from .base import Fusion

FUSIONS: Registry[Fusion] = Registry(
    "fusion",
    __name__,
    {
        "concat": "concat:Concat",
        "sum": "sum:Sum",
        "cosine": "cosine:Cosine",
        "mean": "sum:Mean",
        "film": "conditioned:FiLM",
        "gated": "conditioned:Gated",
        "mmtm": "mmtm:MMTM",
        "centralnet": "centralnet:CentralNet",
        "shared_head": "shared_head:SharedHead",
        "growing": "growing:Growing",
        "boosted": "boosted:Boosted",
        "bottleneck": "bottleneck:Bottleneck",
        "shared": "multitask:Shared",
        "separate": "multitask:Separate",
    },
)
