"""Any model of transformers for text or pictures: --encoder hf:NAME, on the hub, or hf:DIR."""

from inspect import signature

import torch
from torch import Tensor, nn

from ...data.samples import Modality
from ...system.errors import UserError, reason
from ...system.flags import PUBLISHED
from .base import ConvEncoder, Normalised, channels, library, picture_width


class HFNet(ConvEncoder):
    """What `AutoModel` makes of the model's config: text models read tokens, others pictures.

    Its features are the mean of the last hidden states over all that is no padding; a pooling layer
    is left out. It is one stage. Colours are normalised as the model's image processor does it.
    """

    pretrainable = True

    def __init__(self, modality: Modality, pretrained: str | None = None):
        super().__init__()
        self.is_text = bool(modality.vocabulary)
        name = f"hf:{self.net}"
        transformers = library("transformers", name)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        try:
            config = transformers.AutoConfig.from_pretrained(self.net)
        except Exception as error:
            raise UserError(
                f"--encoder {name}: neither a folder with config.json nor a model on the hub or "
                f"in its cache ({reason(error)}): give the folder of a model, or its name"
            ) from None
        if not self.is_text:
            _fit_channels(config, channels(modality, name), name, pretrained)
        model = _model(transformers, config, self.net, pretrained)
        pooler = getattr(model, "pooler", None)
        if isinstance(pooler, nn.Module) and any(True for _ in pooler.parameters()):
            model.pooler = None  # pyrefly: ignore
        what, reads = ("text", "input_ids") if self.is_text else ("pictures", "pixel_values")
        if config.is_encoder_decoder or model.main_input_name != reads:
            raise UserError(
                f"--encoder {name}: a model of type {config.model_type} is no encoder of {what}, "
                f"which {modality.kind} of shape {modality.shape} needs: choose another model"
            )
        if self.is_text:
            _check_tokens(config, modality, name)
            self.stages = nn.Sequential(Text(model, modality.pad, config.vocab_size))
            self.out_dim = config.hidden_size
        else:
            colours = _colours(self.net)
            self.stages = nn.Sequential(Normalised(Pictures(model), modality, *colours))
            self.out_dim = picture_width(self.stages, modality, name)

    def fold(self, inputs: Tensor) -> Tensor:
        return inputs if self.is_text else super().fold(inputs)


class Text(nn.Module):
    """Features (B, D) of tokens (B, L), in which 0 and the tokenizer's number pad are exchanged.

    known: how many tokens the model has embeddings for.
    """

    def __init__(self, model: nn.Module, pad: int, known: int):
        super().__init__()
        self.model, self.pad, self.known = model, pad, known

    def forward(self, tokens: Tensor) -> Tensor:
        mask = tokens.ne(0)
        mask[:, 0] = True  # also of an empty text, whose mean would be that of nothing
        ids = torch.where(tokens == self.pad, 0, tokens).masked_fill(tokens == 0, self.pad)
        if self.pad >= self.known:  # it was made for a tokenizer without one
            ids = ids.masked_fill(tokens == 0, 0)
        hidden = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        weights = mask[..., None].to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)


class Pictures(nn.Module):
    """Features (B, D) of pictures (B, C, H, W) of any size."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        resizes = "interpolate_pos_encoding" in signature(model.forward).parameters
        self.settings = {"interpolate_pos_encoding": True} if resizes else {}

    def forward(self, pictures: Tensor) -> Tensor:
        hidden = self.model(pixel_values=pictures, **self.settings).last_hidden_state
        return hidden.mean((2, 3)) if hidden.dim() == 4 else hidden.mean(1)


def _fit_channels(config, wanted: int, name: str, pretrained: str | None) -> None:
    """Let the model take the wanted number of channels; UserError if its weights cannot."""
    own = getattr(config, "num_channels", wanted)
    if pretrained and own != wanted:
        raise UserError(
            f"--pretrained: {name} takes {own} channels, {wanted} found: choose another --encoder"
        )
    config.num_channels = wanted


def _check_tokens(config, modality: Modality, name: str) -> None:
    """Raise UserError unless the tokens can be this model's."""
    if modality.tokenizer == "words":
        raise UserError(
            f"--encoder {name}: the set's tokens are words of its own: prepare it with the "
            "tokenizer of this model (--tokenizer hf:NAME)"
        )
    vocabulary = modality.vocabulary or 0
    if modality.pad == vocabulary - 1:  # padding needs no embedding
        vocabulary -= 1
    known, longest = config.vocab_size, getattr(config, "max_position_embeddings", None)
    own = config.pad_token_id
    if vocabulary > known or (own is not None and modality.pad != own):
        raise UserError(
            f"--encoder {name}: its tokens are below {known} with padding {own}, the set's below "
            f"{modality.vocabulary} with padding {modality.pad}: prepare the set with the "
            "tokenizer of this model"
        )
    if longest and modality.shape[0] > longest:
        raise UserError(
            f"--encoder {name}: it reads {longest} tokens at most, the set's texts have "
            f"{modality.shape[0]}: prepare the set with shorter ones"
        )


def _model(transformers, config, net: str, pretrained: str | None) -> nn.Module:
    kind, dtype = transformers.AutoModel, torch.get_default_dtype()
    if not pretrained:
        return kind.from_config(config, dtype=dtype)
    place = net if pretrained == PUBLISHED else pretrained
    try:
        settings = {"config": config, "dtype": dtype, "output_loading_info": True}
        model, found = kind.from_pretrained(place, **settings)
        missing = sorted(k for k in found["missing_keys"] if not k.startswith("pooler."))
        if missing:
            raise ValueError(f"{len(missing)} tensors missing, first {missing[0]}")
    except Exception as error:  # of the hub, the network, a file, or a weight of another shape
        raise UserError(
            f"--pretrained: the weights of hf:{net} could not be loaded from {place} "
            f"({reason(error)}): give --pretrained MODALITY=DIR, a folder that save_pretrained made"
        ) from None
    return model


def _colours(net: str) -> tuple:
    """Return mean and standard deviation of the image processor; (None, None) if it has none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(net)
    except OSError:
        found = {}
    return found.get("image_mean"), found.get("image_std")
