"""Encoders, one file each; `base.Encoder` says what an encoder must provide."""

from ...system.registry import Registry
from .base import Encoder

ENCODERS: Registry[Encoder] = Registry(
    "encoder",
    __name__,
    {
        "resnet18": "resnet18:ResNet18",
        "cnn": "cnn:CNN",
        "lenet": "lenet:LeNet",
        "lenet_bn": "lenet_bn:LeNetBN",
        "mlp": "mlp:MLP",
        "transformer": "transformer:Transformer",
    },
)
