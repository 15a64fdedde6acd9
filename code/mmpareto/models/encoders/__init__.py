"""Encoders: a Module from one modality's batch to features (B, out_dim), with its `stages`.

An encoder is built as `Encoder(modality)` from a `data.samples.Modality`. One that says
`pretrainable = True` also takes pretrained: None, "imagenet" or the path of a state dict. Fusions
that look between stages need `widths`, the channels that each stage returns, and
`fold(inputs)`, what the first stage takes; `bottleneck` needs `embed` and `summary`, as
transformer has them.
"""

from ...system.registry import Registry

ENCODERS = Registry(
    "encoder",
    __name__,
    {
        "resnet18": "resnet18:ResNet18",
        "cnn": "cnn:CNN",
        "lenet": "lenet:LeNet",
        "mlp": "mlp:MLP",
        "transformer": "transformer:Transformer",
    },
)
