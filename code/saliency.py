"""Where in an image does its similarity to a target come from? Maps for batches of both.

    relevance_maps(model, images, targets)                     raw, on the grid
    normalise_maps(resize_maps(maps, images.shape[-2:]))       in [0, 1], at the size of the images

The network is only read: nothing is stored on it, no parameter gets a gradient, and several threads
may explain with one model. What its blocks hold of other images (`attn_probs`) is emptied.
"""

import math
from operator import index

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cams import CAMS
from checks import require_differentiable, require_finite, type_name, undisturbed
from maps import normalise_maps, resize_maps
from methods import METHODS
from model import ModifiedResNet, VisionTransformer
from objective import for_each_image, target_directions
from recording import blocks_of, forget_attention, record_all_queries

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
    scale: float | Float[Tensor, ""] = 1.0,
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
    scale: of a ViT: what is explained is `scale` times the cosine. It matters where matrices are
        multiplied: Chefer et al.'s code for CLIP explains the logit by "all grads", here
        `scale=model.logit_scale.exp()`.

    Returns raw relevance on the patch grid of a ViT, or the grid of the last block of a ResNet
    (FullGrad: of the images' size), float32 (float64 from a float64 model), neither normalised
    nor resized. Raises TypeError or ValueError on input of wrong type, shape, width or value (NaN
    and infinity included), on a method that is not in the table and on a block out of range.
    """
    visual = image_encoder(model)
    # A CAM compares the targets with what the network returns: its pool may be another.
    width = None if isinstance(visual, ModifiedResNet) else visual.output_dim
    directions = positive(scale) * target_directions(targets, width)
    if isinstance(visual, ModifiedResNet) and scale != 1:
        raise ValueError("scale is for ViTs: CAMs explain the cosine, or CLIP's logit, as they say")
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
    method = next(iter(table)) if method is None else method
    if not isinstance(method, str):
        raise TypeError(f"method must be a name, such as {next(iter(table))!r}; got {method!r}")
    if method not in table:
        raise ValueError(
            f"unknown method {method!r}; the methods for a {type(visual).__name__} are "
            f"{', '.join(table)}"
        )
    require_images(visual, images)
    if isinstance(visual, ModifiedResNet):
        if start_block:
            raise ValueError("start_block is for ViTs: a ResNet has no attention blocks")
        directions = -directions if negative else directions
        return table[method](visual, [visual.layer4[-1]]).maps(images, directions)[0]
    first = block_index(visual, start_block)
    with undisturbed(visual.conv1.weight.device):
        images, directions = prepared(visual, images, directions, negative)
        relevance = table[method].explain(visual, images, directions, first)
    return on_grid(relevance[..., 1:], visual, images)


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
    require_images(visual, images)
    first = block_index(visual, start_block)
    with undisturbed(visual.conv1.weight.device):
        images, directions = prepared(visual, images, directions, negative)
        rows = [
            (gradient if grad else attention)[:, :, :, 0, 1:]
            .mean(2)
            .expand((*directions.shape[:2], -1))
            for attention, gradient in record_all_queries(visual, images, directions, first)
        ]
    return on_grid(torch.stack(rows[::-1]), visual, images)


def require_images(visual: VisionTransformer | ModifiedResNet, images: Tensor) -> None:
    """Raise TypeError or ValueError unless there are images that the network takes."""
    visual.grid(images)
    if not len(images):
        raise ValueError(f"there must be at least one image; got {list(images.shape)}")
    require_finite(images, "images")


def prepared(
    visual: VisionTransformer, images: Tensor, directions: Tensor, negative: bool
) -> tuple[Float[Tensor, "image 3 height width"], Float[Tensor, "image target feature"]]:
    """Images and directions as the ViT takes them, and the ViT as it was before other images."""
    require_differentiable(visual)
    weight = visual.conv1.weight
    directions = for_each_image(directions, images, weight, visual.output_dim)
    forget_attention(visual)
    images = images.detach().to(weight, copy=images.is_inference())
    return images, -directions if negative else directions


def on_grid(
    cells: Float[Tensor, "*batch cell"], visual: VisionTransformer, images: Tensor
) -> Float[Tensor, "*batch row column"]:
    """Maps on the patch grid, or ValueError if what they are made of was too large."""
    require_finite(cells, "maps (too large numbers for the model's precision: try model.float())")
    return cells.unflatten(-1, visual.grid(images))


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
    visual = getattr(visual, "_orig_mod", visual)  # of what torch.compile returned
    if not isinstance(visual, kind):
        raise TypeError(f"model must be {wanted}; got {type_name(visual)}")
    return visual


def block_index(visual: VisionTransformer, block: int) -> int:
    """A block's index from the start; negative ones count from the end."""
    blocks = len(blocks_of(visual))
    try:
        number = index(None if isinstance(block, bool) else block)
    except TypeError:  # arrays have the method, but are no number
        raise TypeError(
            f"a block is given by its number, 0 to {blocks - 1}; got {block!r}"
        ) from None
    if not -blocks <= number < blocks:
        raise ValueError(
            f"block {block} is out of range: this model has blocks 0 to {blocks - 1} "
            f"(or {-blocks} to -1, from the end)"
        )
    return number % blocks


def positive(scale: float | Tensor) -> float:
    """The scale of the objective as a number; ValueError unless it is positive and finite."""
    scale = float(scale.detach() if isinstance(scale, Tensor) else scale)
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be a positive number (see negative=); got {scale}")
    return scale
