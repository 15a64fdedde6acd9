"""Encoders, one file each; `base.Encoder` says what an encoder must provide."""

from ...system.registry import Registry
from .base import Encoder

ENCODERS: Registry[Encoder] = Registry(
    "encoder",
    __name__,
    {
        "resnet18": "image_nets:ResNet18",
        "resnet34": "image_nets:ResNet34",
        "resnet50": "image_nets:ResNet50",
        "resnet101": "image_nets:ResNet101",
        "mobilenet_v2": "image_nets:MobileNetV2",
        "mobilenet_v3_small": "image_nets:MobileNetV3Small",
        "r3d_18": "video_nets:R3D18",
        "mc3_18": "video_nets:MC318",
        "r2plus1d_18": "video_nets:R2Plus1D18",
        "video_cnn": "video_cnn:VideoCNN",
        "cnn": "cnn:CNN",
        "lenet": "lenet:LeNet",
        "lenet_bn": "lenet_bn:LeNetBN",
        "mlp": "mlp:MLP",
        "mlp_wide": "mlp:WideMLP",
        "gru": "gru:GRU",
        "gru_wide": "gru:WideGRU",
        "transformer": "transformer:Transformer",
    },
    families={"timm": "timm_net:TimmNet", "hf": "hf_net:HFNet"},
)
