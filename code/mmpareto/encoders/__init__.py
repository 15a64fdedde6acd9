"""Encoders: a Module from one modality's batch to features (B, out_dim), with its `stages`.

An encoder is built as `Encoder(modality, pretrained=None)`, where modality is a `data.Modality`
and pretrained is None, "imagenet" or the path of a state dict.
"""

from ..registry import Registry

ENCODERS = Registry(
    "encoder",
    __name__,
    {
        "resnet18": "resnet18:ResNet18",
        "cnn": "cnn:CNN",
    },
)
