"""Saliency of ResNet-based CLIP for one image and one target, with the original's signatures.

In all functions: `image` is what `preprocess` returns with a batch axis, [1, 3, H, W];
`target_features` [1, D] are the features of a text, an image or an emotion, normalised or not;
`img_encoder` is `clip_model.visual` (or the CLIP itself); `method` is a class of
`pytorch_grad_cam`, such as `GradCAM`, applied to the last block; with `neg_saliency` dissimilarity
is explained instead of similarity.

`interpret_*` draw on the current matplotlib axes; `cmap` is a colour map of matplotlib's for the
heat, such as "viridis", instead of the original's JET. For many images or targets at once use
`saliency.relevance_maps`.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cams import BaseCAM
from image_utils import as_picture, show_cam_on_image, show_overlapped_cam
from objective import target_directions
from one_image import Map, Picture, at_image_size, draw, single
from recording.encoders import Encoder
from saliency import cam_of, resnet_encoder
from words import Word, word_directions


def rn_relevance(
    image: Float[Tensor, "1 3 row column"],
    target_features: Float[Tensor, "1 feature"],
    img_encoder: nn.Module,
    method: type[BaseCAM],
    device: str | torch.device,
    neg_saliency: bool = False,
) -> tuple[Map, Float[np.ndarray, "row column 3"]]:
    """Relevance of each pixel in [0, 1] (bilinear from the grid), and the image in [0, 1]."""
    single(image, target_features)
    encoder = resnet_encoder(img_encoder)
    direction = target_directions(target_features)
    return direction_relevance(
        image, -direction if neg_saliency else direction, encoder, method, device
    )


def interpret_rn(
    image: Float[Tensor, "1 3 row column"],
    target_features: Float[Tensor, "1 feature"],
    img_encoder: nn.Module,
    method: type[BaseCAM],
    device: str | torch.device,
    neg_saliency: bool = False,
    cmap: str | None = None,
) -> Picture:
    """Draw, and return, the heat map of `rn_relevance` over the image."""
    relevance, picture = rn_relevance(
        image, target_features, img_encoder, method, device, neg_saliency
    )
    return draw(show_cam_on_image(picture, relevance, neg_saliency, cmap))


def interpret_rn_overlapped(
    image: Float[Tensor, "1 3 row column"],
    target_features: Float[Tensor, "1 feature"],
    img_encoder: nn.Module,
    method: type[BaseCAM],
    device: str | torch.device,
) -> Picture:
    """Draw, and return, positive (red) and negative (blue) saliency over the image."""
    positive, picture = rn_relevance(image, target_features, img_encoder, method, device)
    negative, _ = rn_relevance(image, target_features, img_encoder, method, device, True)
    return draw(show_overlapped_cam(picture, negative, positive))


def rn_perword_relevance(
    image: Float[Tensor, "1 3 row column"],
    text: str,
    clip_model: nn.Module,
    clip_tokenizer: Callable[[list[str]], Tensor],
    method: type[BaseCAM],
    device: str | torch.device,
    masked_word: Word = "",
) -> tuple[Map, Float[np.ndarray, "row column 3"]]:
    """Relevance to what a word adds: s(text) - s(text without the word), s the cosine.

    masked_word: a whole word (or several in a row) of the text, or its position if it is repeated;
        empty for the whole text. Returns as `rn_relevance` does.
    """
    single(image)
    encoder = resnet_encoder(clip_model)
    directions = word_directions(clip_model, clip_tokenizer, text, [masked_word])
    return direction_relevance(image, directions, encoder, method, device)


def interpret_perword_rn(
    image: Float[Tensor, "1 3 row column"],
    text: str,
    clip_model: nn.Module,
    clip_tokenizer: Callable[[list[str]], Tensor],
    method: type[BaseCAM],
    device: str | torch.device,
    masked_word: Word = "",
    cmap: str | None = None,
) -> Picture:
    """Draw, and return, the heat map of `rn_perword_relevance` over the image."""
    relevance, picture = rn_perword_relevance(
        image, text, clip_model, clip_tokenizer, method, device, masked_word
    )
    return draw(show_cam_on_image(picture, relevance, cmap=cmap))


def direction_relevance(
    image: Float[Tensor, "1 3 row column"],
    direction: Float[Tensor, "1 feature"],
    encoder: Encoder,
    method: type[BaseCAM],
    device: str | torch.device,
) -> tuple[Map, Float[np.ndarray, "row column 3"]]:
    """`rn_relevance` of any direction, and its errors."""
    kind = getattr(method, "func", method)  # of a class with options, functools.partial
    if not (isinstance(kind, type) and issubclass(kind, BaseCAM)):
        raise TypeError(
            "method must be a class of this project's pytorch_grad_cam, such as GradCAM (the class "
            f"itself, not its name, nor that of another package); got {method!r}"
        )
    image = image.to(device)
    maps = cam_of(encoder, method, image).maps(image, direction)[0]
    return at_image_size(maps, image), as_picture(image[0], encoder.pixels)
