"""Where in an image does its similarity to a target come from? Maps for batches of both.

    relevance_maps(model, images, targets)                     raw, on the grid
    normalise_maps(resize_maps(maps, images.shape[-2:]))       in [0, 1], at the size of the images

The network is only read: nothing is stored on it, no parameter gets a gradient, and several threads
may explain with one model. What its blocks hold of other images (`attn_probs`) is emptied.
"""

import math
from collections.abc import Callable
from contextlib import suppress

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cams import CAMS, BaseCAM
from checks import require_differentiable, require_finite, type_name, undisturbed
from maps import normalise_maps, resize_maps
from methods import MASKING, METHODS, POOL_METHODS, Maps, Method, explaining, is_of_targets, on_grid
from model import ModifiedResNet, VisionTransformer
from objective import (
    directions_against,
    for_each_image,
    keeping_features,
    similarities,
    target_directions,
)
from recording import forget_attention, is_ours_as_written, pooling_of, record_matrices
from recording.encoders import Encoder, Images, encoder_of
from recording.pools import has_plain_pool
from recording.runs import NoAttention, OtherPooling, image_count
from recording.stages import Encoded, last_stage
from recording.streams import NotAdding
from siglip import ImageTower

RESNET_METHODS = POOL_METHODS | CAMS
DEFAULTS = ("direct", "path", "last grad")  # of networks that attend: the first that explains
READ_FROM = {"CLS": "CLS", "probe": "an attention pool", "average": "an average of tokens"}

__all__ = [
    "block_maps",
    "direction_maps",
    "methods",
    "normalise_maps",
    "relevance_maps",
    "resize_maps",
]


def relevance_maps(
    model: nn.Module | Encoder,
    images: Images,
    targets: Float[Tensor, "*image target feature"],
    method: str | None = None,
    *,
    negative: bool = False,
    start_block: int | None = None,
    scale: float | Float[Tensor, ""] = 1.0,
    against: Float[Tensor, "*image other feature"] | None = None,
) -> Maps:
    """Relevance of every cell of each image to its cosine similarity with each target.

    model: a CLIP, or its image encoder (`clip.visual`); a model of open_clip, transformers or timm;
        or an `Encoder` (`recording/encoders.py`).
    images: [B, 3, H, W] as `preprocess` makes them; sides are multiples of the patch size (ViT) or
        of 32 (ResNet). What a processor of NaFlex models returns is taken as it is.
    targets: features of texts, images or emotions, [K, D] (all of them for every image) or
        [B, K, D] (for each image its own). Their length does not matter, only their direction.
    method: one of `methods(model)`; by default the first of "direct", "path" and "last grad" that
        explains the network; "pool" for a ResNet of ours, "GradCAM" for another network that does
        not attend.
    negative: explain dissimilarity, the negated cosine, instead.
    start_block: of a ViT: relevance collects over the blocks from this one on (negative: from the
        end); by default over all, and for CLIP Surgery over the last six. Chefer advises to
        leave out early blocks where there are many tokens (issues 8 and 10 of their repository).
    scale: of a ViT: what is explained is `scale` times the cosine. It matters where matrices are
        multiplied: Chefer et al.'s code for CLIP explains the logit by "all grads", here
        `scale=model.logit_scale.exp()`.
    against: features of other texts (or pictures), such as those of all prompts: explain the
        similarity with the target less the mean of those with them, what speaks for it alone.

    Returns raw relevance on the patch grid of a ViT, or the grid of the last block of a ResNet
    (FullGrad: of the images' size), float32 (float64 from a float64 model), neither normalised nor
    resized; where each image has a grid of its own, a list of maps [target, row, column]. Raises
    TypeError or ValueError on input of wrong type, shape, width or value (NaN and infinity
    included), on a method that is not in the table and on a block out of range.
    """
    encoder = encoder_of(model)
    directions = target_directions(targets, feature_width(encoder))
    if against is not None:
        if not is_of_targets(method):
            raise ValueError(f"{method} is the same for all targets, whatever they are against")
        directions = directions_against(directions, against)
    return direction_maps(encoder, images, directions, method, negative, start_block, scale)


def direction_maps(
    model: nn.Module | Encoder,
    images: Images,
    directions: Float[Tensor, "*image target feature"],
    method: str | None = None,
    negative: bool = False,
    start_block: int | None = None,
    scale: float | Float[Tensor, ""] = 1.0,
) -> Maps:
    """As `relevance_maps`, of the scalar product of the unit image features with any direction.

    With unit targets it is their cosine; with t1 - t2 the difference of two cosines.
    """
    encoder, scale = encoder_of(model), positive(scale)
    table, of_resnet = candidates(encoder), encoder.runs(ModifiedResNet)
    default = next(iter(resnet_methods(encoder) if of_resnet else table))
    if not isinstance(method, str | None):
        raise TypeError(f"method must be a name, such as {default!r}; got {method!r}")
    if method is not None and method not in table:
        raise ValueError(
            f"unknown method {method!r}; the methods for a {type(encoder.model).__name__} are "
            f"{', '.join(table)}"
        )
    encoder.require_images(images)
    chosen = table[method or default]
    if isinstance(chosen, Method):
        if of_resnet:
            require_no_blocks(start_block, scale)
        if not chosen.of_targets and (negative or scale != 1):
            raise ValueError(
                f"{method} is the same for all targets, so negative and scale mean nothing to it"
            )
        factor = -scale if negative else scale
        try:
            if method is None and not of_resnet:
                return default_maps(encoder, images, directions, start_block, factor)
            return attention_maps(encoder, images, directions, chosen, start_block, factor)
        except OtherPooling:
            raise ValueError(why_not(method, chosen, found_pooling(encoder, images))) from None
        except NoAttention as error:
            if method is not None:
                known = ", ".join(CAMS | MASKING)
                raise ValueError(f"{error}: the methods for it are {known}") from error
            chosen = next(iter(CAMS.values()))
    elif not of_resnet and (pooling := found_pooling(encoder, images)):
        raise ValueError(
            f"{method} is for convolutional networks, and this model attends: the methods for it "
            f"are {', '.join(explaining(pooling))}"
        )
    require_no_blocks(start_block, scale)
    cam = cam_of(encoder, chosen, images)
    return cam.maps(images, -directions if negative else directions)[0]


def maps_and_scores(
    encoder: Encoder,
    images: Float[Tensor, "image 3 height width"],
    directions: Float[Tensor, "target feature"],
    method: str,
    negative: bool = False,
) -> tuple[Maps, Float[Tensor, "image target"]]:
    """What `direction_maps` returns, and 100 times the scalar product of the unit image features
    with the directions, of the same run of the network where the method starts at its features.
    """
    with keeping_features() as kept:
        maps = direction_maps(encoder, images, directions, method, negative)
    features = torch.cat(kept) if kept else None
    if features is None or len(features) != len(images) or has_other_features(encoder, method):
        with torch.no_grad(), undisturbed(encoder.weight.device):
            features = encoder.encode(encoder.placed(images))
    return maps, similarities(features, directions.to(features.device))


def has_other_features(encoder: Encoder, method: str) -> bool:
    """Whether a method may start at others than the network's: those of its blocks, or those of
    one head.
    """
    chosen = candidates(encoder)[method]
    return isinstance(chosen, Method) and (chosen.whole or chosen.ours_alone)


def require_no_blocks(start_block: int | None, scale: float) -> None:
    if start_block:
        raise ValueError("start_block is for ViTs: a ResNet has no attention blocks")
    if scale != 1:
        raise ValueError("scale is for ViTs: CAMs explain the cosine, or CLIP's logit, as they say")


def attention_maps(
    encoder: Encoder,
    images: Images,
    directions: Tensor,
    method: Method,
    start_block: int | None,
    factor: float,
) -> Maps:
    with undisturbed(encoder.weight.device):
        images, directions = prepared(encoder, images, directions, factor)
        maps = method.explain(encoder, images, directions, start_block)
    return finite(maps)


def default_maps(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None, factor: float
) -> Maps:
    """By the first of DEFAULTS that explains the network."""
    *others, last = (METHODS[name] for name in DEFAULTS)
    for method in others:
        with suppress(OtherPooling, NotAdding):
            return attention_maps(encoder, images, directions, method, start_block, factor)
    return attention_maps(encoder, images, directions, last, start_block, factor)


def why_not(name: str, method: Method, pooling: str) -> str:
    """Of a model whose features are not read from what the method reads."""
    if pooling in method.poolings:
        return f"{name} runs the blocks of a model once more, and these do not do the same twice"
    return (
        f"{name} does not explain a model whose features are read from {READ_FROM[pooling]}: "
        f"the methods for it are {', '.join(explaining(pooling))}"
    )


def block_maps(
    model: nn.Module | Encoder,
    images: Images,
    targets: Float[Tensor, "*image target feature"],
    grad: bool = False,
    *,
    negative: bool = False,
    start_block: int | None = None,
) -> Float[Tensor, "block image target row column"]:
    """The attention of CLS in every block of a ViT from `start_block` on, the mean of its heads.

    With `grad` the gradient of the similarity (`negative`: of dissimilarity) at that attention,
    signed. Attention is the same for all targets. Everything else as for `relevance_maps`. Where
    features are an average of tokens, the mean of their attention; where an attention pool reads
    them, of its queries, as if it were the only block. Where each image has a grid of its own, a
    list of maps [block, target, row, column].
    """
    encoder = encoder_of(model)
    if encoder.runs(ModifiedResNet):
        raise TypeError(f"a {type(encoder.model).__name__} has no blocks that attend")
    directions = target_directions(targets, feature_width(encoder))
    encoder.require_images(images)
    with undisturbed(encoder.weight.device):
        images, directions = prepared(encoder, images, directions, -1 if negative else 1)
        recording = record_matrices(encoder, images, directions, start_block)
        rows, asks = [], recording.asks
        for attention, gradient in recording:
            if asks is None and not recording.start.any():
                break
            asks = recording.start[: attention.shape[3]] if asks is None else asks
            read = (asks[:, None] * (gradient if grad else attention)).sum(3).mean(2)
            rows.append(read.expand((*directions.shape[:2], -1)))
            asks = None
        maps = on_grid(torch.stack(rows[::-1], 1), recording)
    return finite(maps.transpose(0, 1) if isinstance(maps, Tensor) else maps)


def prepared(
    encoder: Encoder, images: Images, directions: Tensor, factor: float
) -> tuple[Images, Float[Tensor, "image target feature"]]:
    """Images and `factor` times the directions, as the encoder takes them; the model forgets what
    it holds of other images.
    """
    require_differentiable(encoder.model)
    images = encoder.placed(images)
    count = range(image_count(images))
    directions = for_each_image(directions, count, encoder.weight, feature_width(encoder))
    forget_attention(encoder.model)
    return images, factor * directions


def finite(maps: Maps) -> Maps:
    """The maps, or ValueError if what they are made of was too large."""
    for some in [maps] if isinstance(maps, Tensor) else maps:
        require_finite(
            some, "maps (too large numbers for the model's precision: try model.float())"
        )
    return maps


def methods(model: nn.Module | Encoder) -> dict:
    """The methods that explain a model, by name; the first is the default.

    A model that is not of ours, or was changed, runs on an empty picture, to find out.
    """
    encoder = encoder_of(model)
    if encoder.runs(ModifiedResNet):
        return resnet_methods(encoder)
    if is_ours_as_written(encoder):
        return candidates(encoder)
    images = encoder.example()
    pooling = found_pooling(encoder, images)
    if not pooling:
        return CAMS | MASKING
    refused = refused_records(encoder, images)
    return {name: one for name, one in explaining(pooling).items() if one.record not in refused}


def refused_records(encoder: Encoder, images: Images) -> set[Callable]:
    """What the methods of DEFAULTS record, as far as the blocks of the network do not allow it."""
    with torch.no_grad(), undisturbed(encoder.weight.device):
        directions = target_directions(encoder.encode(encoder.placed(images)))
    refused = set()
    for method in (METHODS[name] for name in DEFAULTS):
        try:
            attention_maps(encoder, images, directions, method, None, 1.0)
        except (OtherPooling, NotAdding):
            refused.add(method.record)
    return refused


def found_pooling(encoder: Encoder, images: Images) -> str | None:
    with undisturbed(encoder.weight.device):
        return pooling_of(encoder, encoder.placed(images))


def candidates(encoder: Encoder) -> dict[str, Method | type[BaseCAM]]:
    """The methods that may explain a network, as far as its class tells; the default first."""
    if encoder.runs(ModifiedResNet):
        return RESNET_METHODS
    return METHODS if encoder.runs(VisionTransformer) else METHODS | CAMS


def resnet_methods(encoder: Encoder) -> dict[str, Method | type[BaseCAM]]:
    """The methods that explain a ResNet of ours, those of its pool where that is as we know it."""
    return RESNET_METHODS if has_plain_pool(encoder.model) else CAMS | MASKING


def feature_width(encoder: Encoder) -> int | None:
    """Of a ViT or SigLIP of ours. A CAM compares targets with what the network returns: its pool
    may be another.
    """
    return encoder.model.output_dim if encoder.runs(VisionTransformer, ImageTower) else None


def vit_encoder(model: nn.Module | Encoder) -> Encoder:
    """As `encoder_of`, but TypeError for a ResNet of ours."""
    return encoder_but(
        model,
        ModifiedResNet,
        "a ViT-based CLIP or its image encoder (rn_cam explains a ResNet)",
    )


def resnet_encoder(model: nn.Module | Encoder) -> Encoder:
    """As `encoder_of`, but TypeError for a ViT of ours."""
    return encoder_but(
        model,
        VisionTransformer,
        "a ResNet-based CLIP or its image encoder (vit_cam explains a ViT)",
    )


def encoder_but(model: nn.Module | Encoder, other: type, wanted: str) -> Encoder:
    encoder = encoder_of(model)
    if isinstance(encoder.model, other):
        raise TypeError(f"model must be {wanted}; got {type_name(encoder.model)}")
    return encoder


def image_encoder(model: nn.Module) -> VisionTransformer | ModifiedResNet:
    """The image encoder of a CLIP of ours, or that encoder itself."""
    visual = encoder_of(model).model
    if not isinstance(visual, VisionTransformer | ModifiedResNet):
        raise TypeError(f"model must be a CLIP or its image encoder; got {type_name(visual)}")
    return visual


def cam_of(encoder: Encoder, method: Callable[..., BaseCAM], images: Images) -> BaseCAM:
    """A CAM of a convolutional network's last stage."""
    if encoder.runs(ModifiedResNet):
        return method(model=encoder.model, target_layers=[encoder.model.layer4[-1]])
    return method(model=Encoded(encoder), target_layers=[last_stage(encoder, images)])


def positive(scale: float | Tensor) -> float:
    """The scale of the objective as a number; ValueError unless it is positive and finite."""
    scale = float(scale.detach() if isinstance(scale, Tensor) else scale)
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be a positive number (see negative=); got {scale}")
    return scale
