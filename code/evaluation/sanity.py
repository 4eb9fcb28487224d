"""Does the map depend on what the model has learned? (Adebayo et al., NeurIPS 2018)

Parameters are drawn anew, part after part from the output down ("cascading randomisation"). A map
that explains the model must become another one; an edge detector stays the same.
"""

import copy
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from checks import require_finite
from model import VisionTransformer
from recording.encoders import encoder_of
from siglip import ImageTower

Maps = Float[Tensor, "*batch row column"]


def parts(visual: nn.Module) -> list[tuple[str, list[nn.Parameter]]]:
    """The parameters of an image encoder by part, from the output to the input."""
    named = dict(visual.named_parameters())
    if isinstance(visual, VisionTransformer):
        blocks = [f"transformer.resblocks.{i}." for i in range(visual.transformer.layers)]
        groups = {"projection": ("proj", "ln_post")}
        groups |= {f"block {i}": (blocks[i],) for i in reversed(range(len(blocks)))}
        groups["embedding"] = ("conv1", "class_embedding", "positional_embedding", "ln_pre")
    elif isinstance(visual, ImageTower):
        groups = {"attention pool": ("head", "post_layernorm")}
        numbers = reversed(range(len(visual.encoder.layers)))
        groups |= {f"block {i}": (f"encoder.layers.{i}.",) for i in numbers}
        groups["embedding"] = ("embeddings",)
    else:
        groups = {"attention pool": ("attnpool",)}
        groups |= {f"layer {i}": (f"layer{i}.",) for i in (4, 3, 2, 1)}
        groups["stem"] = ("conv", "bn")
    return [
        (name, [value for key, value in named.items() if key.startswith(prefixes)])
        for name, prefixes in groups.items()
    ]


@torch.no_grad()
def redrawn(parameter: nn.Parameter, generator: torch.Generator) -> Tensor:
    """A parameter's own values in another order: the same distribution, nothing learned."""
    order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
    return parameter.flatten()[order].view_as(parameter)


def cascade(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Copies of the image encoder with ever more parts drawn anew; the first is untouched."""
    visual = copy.deepcopy(encoder_of(model).model)
    generator = torch.Generator().manual_seed(seed)
    yield "nothing", visual
    for name, parameters in parts(visual):
        for parameter in parameters:
            parameter.data = redrawn(parameter, generator)
        yield name, visual


def randomisation(
    explain: Callable[[nn.Module], Float[Tensor, "map row column"]], model: nn.Module
) -> dict[str, Float[Tensor, " map"]]:
    """For each part of the cascade, the rank correlation of the maps with those of the model.

    explain: maps by a given image encoder, the same images and targets each time.
    """
    found = {}
    for name, visual in cascade(model):
        maps = explain(visual)
        if not found:
            first = maps
        found[name] = rank_correlation(maps, first)
    return found


def rank_correlation(maps: Maps, others: Maps) -> Float[Tensor, "*batch"]:
    """Spearman's: the correlation of the pixels' ranks, equal values sharing theirs; 0 for a map
    that is flat. Raises ValueError for maps of two shapes, or that hold NaN or infinity.
    """
    if maps.shape != others.shape:
        raise ValueError(
            f"maps must be of one shape; got {list(maps.shape)} and {list(others.shape)}"
        )
    for one in (maps, others):
        require_finite(one, "maps")
    a, b = (ranks(one.flatten(-2)) for one in (maps, others))
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    length = a.norm(dim=-1) * b.norm(dim=-1)
    return (a * b).sum(-1) / torch.where(length > 0, length, 1)


def ranks(values: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch value"]:
    """1 for the smallest value; equal values have the mean of their ranks."""
    ordered = values.sort(-1).values.contiguous()
    below = torch.searchsorted(ordered, values.contiguous())
    until = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (below + until + 1).double() / 2
