"""Where in an image does its similarity to a target come from? Maps for batches of both.

    relevance_maps(model, images, targets)                     raw, on the grid
    normalise_maps(resize_maps(maps, images.shape[-2:]))       in [0, 1], at the size of the images

The network is only read: nothing is stored on it, no parameter gets a gradient, and several threads
may explain with one model.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cams import CAMS
from maps import normalise_maps, resize_maps
from model import ModifiedResNet, VisionTransformer
from objective import for_each_image, target_directions
from recording import record_all_queries
from vit_methods import METHODS

__all__ = [
    "block_maps",
    "direction_maps",
    "methods",
    "normalise_maps",
    "relevance_maps",
    "resize_maps",
]


def relevance_maps(
    model: nn.Module,
    images: Float[Tensor, "image 3 height width"],
    targets: Float[Tensor, "*image target feature"],
    method: str | None = None,
    *,
    negative: bool = False,
    start_block: int = 0,
) -> Float[Tensor, "image target row column"]:
    """Relevance of every cell of each image to its cosine similarity with each target.

    model: a CLIP, or its image encoder (`clip.visual`).
    images: [B, 3, H, W] as `preprocess` makes them; sides are multiples of the patch size (ViT) or
        of 32 (ResNet).
    targets: features of texts, images or emotions, [K, D] (all of them for every image) or
        [B, K, D] (for each image its own). Their length does not matter, only their direction.
    method: one of `methods(model)`; by default "last grad" for a ViT and "GradCAM" for a ResNet.
    negative: explain dissimilarity, the negated cosine, instead.
    start_block: of a ViT: relevance collects over the blocks from this one on (negative: from the
        end). Chefer et al. advise to leave out early blocks where there are many tokens (ViT-B/16).

    Returns raw relevance on the patch grid of a ViT, or the grid of the last block of a ResNet
    (FullGrad: of the images' size), float32 (float64 from a float64 model), neither normalised
    nor resized. Raises ValueError on input of wrong shape, width or value, on a method that is not
    in the table and on a block out of range.
    """
    visual = image_encoder(model)
    directions = target_directions(targets, visual.output_dim)
    return direction_maps(visual, images, directions, method, negative, start_block)


def direction_maps(
    visual: VisionTransformer | ModifiedResNet,
    images: Float[Tensor, "image 3 height width"],
    directions: Float[Tensor, "*image target feature"],
    method: str | None = None,
    negative: bool = False,
    start_block: int = 0,
) -> Float[Tensor, "image target row column"]:
    """As `relevance_maps`, of the scalar product of the unit image features with any direction.

    With unit targets it is their cosine; with t1 - t2 the difference of two cosines.
    """
    table = methods(visual)
    method = method or next(iter(table))
    if method not in table:
        raise ValueError(
            f"unknown method {method!r}; the methods for a {type(visual).__name__} are "
            f"{', '.join(table)}"
        )
    grid = visual.grid(images)
    if negative:
        directions = -directions
    if isinstance(visual, ModifiedResNet):
        if start_block:
            raise ValueError("start_block is for ViTs: a ResNet has no attention blocks")
        return table[method](visual, [visual.layer4[-1]]).maps(images, directions)[0]
    first = block_index(visual, start_block)
    weight = visual.conv1.weight
    # Autograd is needed even where the caller has switched it off for good; copies forget that.
    with torch.inference_mode(False):
        images = images.to(weight, copy=images.is_inference())
        directions = for_each_image(directions, images, weight)
        relevance = table[method].explain(visual, images, directions, first)
    return relevance[..., 1:].unflatten(-1, grid)


def block_maps(
    model: nn.Module,
    images: Float[Tensor, "image 3 height width"],
    targets: Float[Tensor, "*image target feature"],
    grad: bool = False,
    *,
    negative: bool = False,
    start_block: int = 0,
) -> Float[Tensor, "block image target row column"]:
    """The attention of CLS in every block of a ViT from `start_block` on, the mean of its heads.

    With `grad` the gradient of the similarity (`negative`: of dissimilarity) at that attention,
    signed. Attention is the same for all targets. Everything else as for `relevance_maps`.
    """
    visual = vit_encoder(model)
    directions = target_directions(targets, visual.output_dim)
    grid, first, weight = visual.grid(images), block_index(visual, start_block), visual.conv1.weight
    with torch.inference_mode(False):  # as `direction_maps` does
        images = images.to(weight, copy=images.is_inference())
        directions = for_each_image(-directions if negative else directions, images, weight)
        rows = [
            (gradient if grad else attention)[:, :, :, 0, 1:]
            .mean(2)
            .expand((*directions.shape[:2], -1))
            for attention, gradient in record_all_queries(visual, images, directions, first)
        ]
    return torch.stack(rows[::-1]).unflatten(-1, grid)


def methods(model: nn.Module) -> dict:
    """The methods that explain a model, by name; the first is the default."""
    return CAMS if isinstance(image_encoder(model), ModifiedResNet) else METHODS


def vit_encoder(model: nn.Module) -> VisionTransformer:
    """The ViT of a CLIP, or that ViT itself."""
    return encoder_of(
        model, VisionTransformer, "a ViT-based CLIP or its image encoder (rn_cam explains a ResNet)"
    )


def resnet_encoder(model: nn.Module) -> ModifiedResNet:
    """The ResNet of a CLIP, or that ResNet itself."""
    return encoder_of(
        model, ModifiedResNet, "a ResNet-based CLIP or its image encoder (vit_cam explains a ViT)"
    )


def image_encoder(model: nn.Module) -> VisionTransformer | ModifiedResNet:
    """The image encoder of a CLIP, or that encoder itself."""
    return encoder_of(model, VisionTransformer | ModifiedResNet, "a CLIP or its image encoder")


def encoder_of(model: nn.Module, kind, wanted: str) -> nn.Module:
    visual = getattr(model, "visual", model)
    if not isinstance(visual, kind):
        raise TypeError(f"model must be {wanted}; got {type(visual).__name__}")
    return visual


def block_index(visual: VisionTransformer, block: int) -> int:
    """A block's index from the start; negative ones count from the end."""
    blocks = visual.transformer.layers
    if not -blocks <= block < blocks:
        raise ValueError(
            f"block {block} is out of range: this model has blocks 0 to {blocks - 1} "
            f"(or {-blocks} to -1, from the end)"
        )
    return block % blocks
