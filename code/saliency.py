"""Where in an image does its similarity to a target come from? Maps for batches of both.

    relevance_maps(model, images, targets)                     raw, on the patch grid
    resize_maps(normalise_maps(maps), images.shape[-2:])       in [0, 1], at the size of the images

The network is only read: nothing is stored on it, no parameter gets a gradient, and several threads
may explain with one model.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from model import VisionTransformer
from vit_methods import METHODS


def relevance_maps(
    model: nn.Module,
    images: Float[Tensor, "image 3 height width"],
    targets: Float[Tensor, "*image target feature"],
    method: str = "last grad",
    *,
    negative: bool = False,
    start_block: int = 0,
) -> Float[Tensor, "image target row column"]:
    """Relevance of every patch of each image to its cosine similarity with each target.

    model: a CLIP, or its image encoder (`clip.visual`).
    images: [B, 3, H, W] as `preprocess` makes them; sides are multiples of the patch size.
    targets: features of texts, images or emotions, [K, D] (all of them for every image) or
        [B, K, D] (for each image its own). Their length does not matter, only their direction.
    method: a key of `vit_methods.METHODS`.
    negative: explain dissimilarity, the negated cosine, instead.
    start_block: relevance collects over the blocks from this one on (negative: from the end).
        Chefer et al. advise to leave out early blocks where there are many tokens (ViT-B/16).

    Returns raw relevance on the patch grid, float32 (float64 from a float64 model), neither
    normalised nor resized. Raises ValueError on input of wrong shape, width or value, on a method
    that is not in the table and on a block out of range.
    """
    visual = image_encoder(model)
    directions = target_directions(targets, visual.output_dim)
    return direction_maps(visual, images, directions, method, negative, start_block)


def direction_maps(
    visual: VisionTransformer,
    images: Float[Tensor, "image 3 height width"],
    directions: Float[Tensor, "*image target feature"],
    method: str = "last grad",
    negative: bool = False,
    start_block: int = 0,
) -> Float[Tensor, "image target row column"]:
    """As `relevance_maps`, of the scalar product of the unit image features with any direction.

    With unit targets it is their cosine; with t1 - t2 the difference of two cosines.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; the methods are {', '.join(METHODS)}")
    rows, columns = visual.grid(images)
    if directions.ndim == 3 and len(directions) != len(images):
        raise ValueError(f"got targets for {len(directions)} images, but {len(images)} images")
    first = block_index(visual, start_block)
    weight = visual.conv1.weight
    explain = METHODS[method]
    # Autograd is needed even where the caller has switched it off for good; copies forget that.
    with torch.inference_mode(False):
        images = images.to(weight, copy=images.is_inference())
        directions = directions.detach().to(
            weight.device, torch.promote_types(weight.dtype, torch.float32), copy=True
        )
        directions = directions.expand(len(images), *directions.shape[-2:])
        blocks = explain.record(visual, images, -directions if negative else directions, first)
        relevance = explain.relevance(blocks)
    return relevance[..., 1:].unflatten(-1, (rows, columns))


def normalise_maps(maps: Float[Tensor, "*batch row column"]) -> Float[Tensor, "*batch row column"]:
    """Each map scaled to [0, 1]; a flat map becomes zero."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1), 0)


def resize_maps(
    maps: Float[Tensor, "image target row column"], size: tuple[int, int]
) -> Float[Tensor, "image target height width"]:
    """Maps enlarged bilinearly to the (height, width) of the image."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def image_encoder(model: nn.Module) -> VisionTransformer:
    """The ViT of a CLIP, or that ViT itself."""
    visual = getattr(model, "visual", model)
    if not isinstance(visual, VisionTransformer):
        raise TypeError(
            f"model must be a ViT-based CLIP or its image encoder; got {type(visual).__name__}"
        )
    return visual


def target_directions(
    targets: Float[Tensor, "*image target feature"], width: int
) -> Float[Tensor, "*image target feature"]:
    """Checked targets as unit vectors, in float32 at least."""
    if targets.ndim not in (2, 3) or targets.shape[-1] != width or not targets.shape[-2]:
        raise ValueError(
            f"target features must be [target, {width}] or [image, target, {width}] for this "
            f"model; got {list(targets.shape)}"
        )
    targets = targets.detach().to(torch.promote_types(targets.dtype, torch.float32))
    lengths = targets.norm(dim=-1, keepdim=True)
    if not lengths.isfinite().all():
        raise ValueError("target features hold NaN or infinite values")
    if not lengths.all():
        raise ValueError("target features are all zero: no cosine with them is defined")
    return targets / lengths


def block_index(visual: VisionTransformer, block: int) -> int:
    """A block's index from the start; negative ones count from the end."""
    blocks = visual.transformer.layers
    if not -blocks <= block < blocks:
        raise ValueError(
            f"block {block} is out of range: this model has blocks 0 to {blocks - 1} "
            f"(or {-blocks} to -1, from the end)"
        )
    return block % blocks
