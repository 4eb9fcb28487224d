"""One image and one target: what `vit_cam` and `rn_cam` share."""

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from checks import require_tensor
from image_utils import to_bytes
from maps import normalise_maps, resize_maps

Map = Float[np.ndarray, "row column"]
Picture = UInt8[np.ndarray, "row column 3"]


ONE_OF_EACH = (
    ("image", 4, "preprocess(picture).unsqueeze(0)"),
    ("target_features", 2, 'model.encode_text(tokenize("a horse"))'),
)


def single(image: Tensor, *target_features: Tensor) -> None:
    """Refuse more than one image or target, if given, with a word on what takes them."""
    given_ones = (image, *target_features)
    for (name, axes, example), given in zip(ONE_OF_EACH, given_ones, strict=False):
        require_tensor(given, f"{name} must be a tensor, such as {example}")
        if given.ndim != axes or len(given) != 1:
            raise ValueError(
                f"{name} must be one, with a leading axis of 1; got {list(given.shape)}. "
                "saliency.relevance_maps takes many"
            )


def at_image_size(maps: Float[Tensor, "1 1 row column"], image: Tensor) -> Map:
    """The one map, in [0, 1] at the size of the image."""
    return normalise_maps(resize_maps(maps, image.shape[-2:]))[0, 0].float().cpu().numpy()


def draw(picture: Float[np.ndarray, "row column 3"]) -> Picture:
    """Show on the current axes, as `plt.imshow` does, and return what is shown."""
    shown = to_bytes(picture)
    plt.imshow(shown)
    return shown
