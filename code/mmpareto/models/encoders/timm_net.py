"""Any net of timm for pictures, by its name there: --encoder timm:NAME."""

from pathlib import Path
from typing import Any

from torch import nn

from ...data.samples import Modality
from ...system.errors import UserError, reason
from ...system.flags import PUBLISHED
from ...system.tensors import read
from .base import ConvEncoder, Normalised, channels, library, picture_width


class TimmNet(ConvEncoder):
    """A net without its classifier, for any number of input channels; transformers at any size.

    It is one stage. Pretrained weights are fitted to the channels and to the size as timm does it,
    and colours are normalised as the net expects them.
    """

    pretrainable = True

    def __init__(self, modality: Modality, pretrained: str | None = None):
        super().__init__()
        name = f"timm:{self.net}"
        timm = library("timm", name)
        if not timm.is_model(self.net):
            near = timm.list_models(f"*{self.net.split('.')[0].split('_')[0]}*")[:5]
            raise UserError(
                f"--encoder {name}: timm {timm.__version__} has no such model: choose one of "
                f"timm.list_models(){', such as ' * bool(near)}{', '.join(near)}"
            )
        settings: dict[str, Any] = {"num_classes": 0, "in_chans": channels(modality, name)}
        if timm.get_pretrained_cfg(self.net).fixed_input_size:
            settings["img_size"] = modality.shape[-2:]
        net = timm.create_model(self.net, **settings)
        if pretrained:
            settings["pretrained"] = True
            if pretrained != PUBLISHED:
                state = _state(Path(pretrained), net, name)
                settings["pretrained_cfg_overlay"] = {"state_dict": state}
            try:
                net = timm.create_model(self.net, **settings)
            except Exception as error:  # of the hub, the network, or a weight of another shape
                raise UserError(
                    f"--pretrained: the weights of {name} could not be loaded ({reason(error)}): "
                    "give --pretrained MODALITY=FILE, a state dict of this model"
                ) from None
        config = net.pretrained_cfg
        self.stages = nn.Sequential(Normalised(net, modality, config["mean"], config["std"]))
        self.out_dim = picture_width(self.stages, modality, name)


def _state(path: Path, net: nn.Module, name: str) -> dict:
    """Read a state dict of net; it needs no classifier."""
    if path.suffix == ".safetensors":
        state = library("safetensors.torch", name).load_file(path)
    else:
        state = read(path, "--pretrained")
    missing = [k for k in net.state_dict() if not isinstance(state, dict) or k not in state]
    if missing:
        raise UserError(
            f"--pretrained {path}: not a state dict of {name} ({len(missing)} tensors missing, "
            f"first {missing[0]}): save one with torch.save(model.state_dict(), FILE)"
        )
    return state
