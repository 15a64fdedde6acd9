"""Literal, slow re-statements of the fusions' predictions: sample by sample, with plain loops.

Each takes the fusion for its weights and encoders, and returns joint logits and {modality: logits}.
"""

from math import ceil, sqrt

import torch
from torch import Tensor


def linear(layer, x: Tensor) -> Tensor:
    return torch.stack([row @ x for row in layer.weight]) + layer.bias


def own(model, features: dict[str, Tensor]) -> dict[str, Tensor]:
    """What every modality's own head says of features (B, D)."""
    return {
        name: torch.stack([linear(model.unimodal_heads[name], z) for z in features[name]])
        for name in features
    }


def film(model, inputs: dict) -> tuple[Tensor, dict[str, Tensor]]:
    z = {name: encoder(inputs[name]) for name, encoder in model.encoders.items()}
    first, *others = z
    rows = []
    for i in range(len(z[first])):
        hidden = torch.zeros_like(z[others[0]][i])
        for name in others:
            both = linear(model.condition[name], z[first][i])
            gamma, beta = both[: len(both) // 2], both[len(both) // 2 :]
            hidden = hidden + gamma * z[name][i] + beta
        rows.append(linear(model.joint_head, hidden))
    return torch.stack(rows), own(model, z)


def gated(model, inputs: dict) -> tuple[Tensor, dict[str, Tensor]]:
    z = {name: encoder(inputs[name]) for name, encoder in model.encoders.items()}
    first, *others = z
    rows = []
    for i in range(len(z[first])):
        gate = 1 / (1 + torch.exp(-linear(model.project[first], z[first][i])))
        hidden = sum(gate * linear(model.project[name], z[name][i]) for name in others)
        rows.append(linear(model.joint_head, hidden))
    return torch.stack(rows), own(model, z)


def by_sample(x: Tensor, samples: int) -> list[Tensor]:
    """For each sample its maps as (frames, C, positions)."""
    frames = len(x) // samples
    x = x.reshape(len(x), x.shape[1], -1)
    return [x[i * frames : (i + 1) * frames] for i in range(samples)]


def mean_features(x: Tensor, samples: int) -> Tensor:
    return torch.stack([maps.mean((0, 2)) for maps in by_sample(x, samples)])


def mmtm(model, inputs: dict) -> tuple[Tensor, dict[str, Tensor]]:
    samples = len(next(iter(inputs.values())))
    x = {name: e.fold(inputs[name]) for name, e in model.encoders.items()}
    depth = {name: len(e.stages) for name, e in model.encoders.items()}
    count = len(model.exchanges)
    for name, encoder in model.encoders.items():
        for stage in list(encoder.stages)[: depth[name] - count]:
            x[name] = stage(x[name])
    for level, exchange in enumerate(model.exchanges):
        for name, encoder in model.encoders.items():
            x[name] = encoder.stages[depth[name] - count + level](x[name])
        means = {name: mean_features(x[name], samples) for name in x}
        gated = {name: [] for name in x}
        for i in range(samples):
            squeezed = linear(exchange.squeeze, torch.cat([means[name][i] for name in x]))
            squeezed = squeezed * (squeezed > 0)
            for name in x:
                gate = 1 / (1 + torch.exp(-linear(exchange.excite[name], squeezed)))
                gate = exchange.gate_scale * gate
                frames = len(x[name]) // samples
                for frame in x[name][i * frames : (i + 1) * frames]:
                    gated[name].append(
                        torch.stack([g * channel for g, channel in zip(gate, frame, strict=True)])
                    )
        x = {name: torch.stack(maps) for name, maps in gated.items()}
    z = {name: mean_features(x[name], samples) for name in x}
    return mean_of_heads(model, z), own(model, z)


def mean_of_heads(model, z: dict[str, Tensor]) -> Tensor:
    logits = [[linear(model.joint_heads[name], row) for row in z[name]] for name in z]
    return torch.stack([sum(parts) / len(parts) for parts in zip(*logits, strict=True)])


def averaged(x: Tensor, height: int, width: int) -> Tensor:
    """(C, H, W) as means over height x width bins, which overlap where they do not divide it."""
    rows = []
    for i in range(height):
        top, bottom = i * x.shape[1] // height, ceil((i + 1) * x.shape[1] / height)
        row = []
        for j in range(width):
            left, right = j * x.shape[2] // width, ceil((j + 1) * x.shape[2] / width)
            row.append(x[:, top:bottom, left:right].mean((1, 2)))
        rows.append(torch.stack(row, dim=1))
    return torch.stack(rows, dim=1)


def centralnet(model, inputs: dict) -> tuple[Tensor, dict[str, Tensor]]:
    samples = len(next(iter(inputs.values())))
    taps, z = {}, {}
    for name, encoder in model.encoders.items():
        x, maps = encoder.fold(inputs[name]), []
        for stage in encoder.stages:
            x = stage(x)
            square = x if x.dim() == 4 else x.reshape(*x.shape, 1, 1)
            frames = len(x) // samples
            maps.append([square[i * frames : (i + 1) * frames].mean(0) for i in range(samples)])
        taps[name], z[name] = maps, mean_features(x, samples)
    central: list[Tensor] = []
    depth = len(model.central)
    for level, layer in enumerate(model.central):
        maps = {name: taps[name][len(taps[name]) - depth + level] for name in taps}
        pictures = [x[0] for x in maps.values() if x[0].shape[1:] != (1, 1)]
        height = min([x.shape[1] for x in pictures] or [1])
        width = min([x.shape[2] for x in pictures] or [1])
        combined = []
        for i in range(samples):
            total = 0
            if central:
                total = layer.central_weight * averaged(central[i], height, width)
            for a, (name, project) in zip(layer.weights, layer.project.items(), strict=True):
                x = averaged(maps[name][i], height, width)
                matrix = project.weight[:, :, 0, 0]
                projected = torch.einsum("oc,chw->ohw", matrix, x) + project.bias[:, None, None]
                total = total + a * projected
            combined.append(total)
        convolution, norm, _ = layer.layer
        central = batch_norm(norm, [convolved(convolution.weight, x) for x in combined])
        central = [x * (x > 0) for x in central]
    rows = [linear(model.joint_head, x.mean((1, 2))) for x in central]
    return torch.stack(rows), own(model, z)


def convolved(weight: Tensor, x: Tensor) -> Tensor:
    """A 3x3 convolution of (C, H, W) with one row and column of zeros around it."""
    channels, height, width = x.shape
    framed = x.new_zeros(channels, height + 2, width + 2)
    framed[:, 1:-1, 1:-1] = x
    total = 0
    for i in range(3):
        for j in range(3):
            shifted = framed[:, i : i + height, j : j + width]
            total = total + torch.einsum("oc,chw->ohw", weight[:, :, i, j], shifted)
    return total


def batch_norm(norm, maps: list[Tensor]) -> list[Tensor]:
    everything = torch.stack(maps)
    mean = everything.mean((0, 2, 3))[:, None, None]
    variance = ((everything - mean) ** 2).mean((0, 2, 3))[:, None, None]
    scale, shift = norm.weight[:, None, None], norm.bias[:, None, None]
    return [scale * (x - mean) / torch.sqrt(variance + norm.eps) + shift for x in maps]


def bottleneck(model, inputs: dict) -> tuple[Tensor, dict[str, Tensor]]:
    samples = len(next(iter(inputs.values())))
    z = {name: [] for name in model.encoders}
    for i in range(samples):
        tokens, hidden = {}, {}
        for name, encoder in model.encoders.items():
            rows, hidden[name] = embedded(encoder, inputs[name][i])
            rows = [encoder.start[0, 0], *rows]
            tokens[name] = [t + p for t, p in zip(rows, encoder.positions[0], strict=True)]
            hidden[name] = [False, *hidden[name]]
        shared = list(model.tokens[0])
        for level in range(4):
            meets = level >= model.fusion_layer
            seen = []
            for name, encoder in model.encoders.items():
                rows = tokens[name] + shared if meets else tokens[name]
                mask = hidden[name] + [False] * (len(rows) - len(hidden[name]))
                rows = transformer_layer(encoder.stages[level], rows, mask)
                tokens[name] = rows[: len(hidden[name])]
                seen.append(rows[len(hidden[name]) :])
            if meets:
                shared = [sum(parts) / len(parts) for parts in zip(*seen, strict=True)]
        for name, encoder in model.encoders.items():
            z[name].append(layer_norm(encoder.norm, tokens[name][0]))
    z = {name: torch.stack(rows) for name, rows in z.items()}
    return mean_of_heads(model, z), own(model, z)


def embedded(encoder, sample: Tensor) -> tuple[list[Tensor], list[bool]]:
    """One sample's tokens, and which of them are padding."""
    embedding = encoder.embedding
    if isinstance(embedding, torch.nn.Embedding):
        return [embedding.weight[word] for word in sample], [int(word) == 0 for word in sample]
    if not hasattr(embedding, "side"):
        rows = sample.reshape(embedding.count, -1)
        return [linear(embedding.project, row) for row in rows], [False] * len(rows)
    side, rows = embedding.side, []
    for picture in sample if sample.dim() == 4 else [sample]:
        for top in range(0, picture.shape[1], side):
            for left in range(0, picture.shape[2], side):
                patch = picture.new_zeros(len(picture), side, side)
                piece = picture[:, top : top + side, left : left + side]
                patch[:, : piece.shape[1], : piece.shape[2]] = piece
                rows.append(linear(embedding.project, patch.flatten()))
    return rows, [False] * len(rows)


def layer_norm(norm, x: Tensor) -> Tensor:
    centred = x - x.mean()
    return norm.weight * centred / torch.sqrt((centred**2).mean() + norm.eps) + norm.bias


def transformer_layer(layer, rows: list[Tensor], hidden: list[bool]) -> list[Tensor]:
    """x + attention(norm(x)), then x + mlp(norm(x)), of a list of tokens."""
    attention = layer.self_attn
    heads, width = attention.num_heads, attention.head_dim
    normed = torch.stack([layer_norm(layer.norm1, x) for x in rows])
    q, k, v = (
        normed @ weight.T + bias
        for weight, bias in zip(
            attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True
        )
    )
    seen = [i for i, is_hidden in enumerate(hidden) if not is_hidden]
    out = []
    for i, x in enumerate(rows):
        parts = []
        for head in range(heads):
            columns = slice(head * width, (head + 1) * width)
            scores = torch.stack([q[i, columns] @ k[s, columns] for s in seen]) / sqrt(width)
            weights = torch.exp(scores) / torch.exp(scores).sum()
            parts.append(sum(w * v[s, columns] for w, s in zip(weights, seen, strict=True)))
        out.append(x + linear(attention.out_proj, torch.cat(parts)))
    result = []
    for x in out:
        hidden_units = linear(layer.linear1, layer_norm(layer.norm2, x))
        activated = hidden_units * (1 + torch.erf(hidden_units / sqrt(2))) / 2
        result.append(x + linear(layer.linear2, activated))
    return result
