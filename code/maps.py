"""What is done to relevance maps before they are looked at."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from checks import require_tensor


def normalise_maps(maps: Float[Tensor, "*batch row column"]) -> Float[Tensor, "*batch row column"]:
    """Each map scaled to [0, 1]; a flat map becomes zero.

    Raises ValueError if there is NaN or infinity, or a span too large for its dtype.
    """
    require_tensor(maps, "maps must be a tensor [..., row, column]")
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    span = high - low
    if not span.isfinite().all():
        raise ValueError("maps hold NaN or infinity, or span more than their dtype can say")
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1), 0)


def resize_maps(
    maps: Float[Tensor, "image target row column"], size: tuple[int, int]
) -> Float[Tensor, "image target height width"]:
    """Maps enlarged bilinearly to the (height, width) of the image."""
    require_tensor(maps, "maps must be a tensor [image, target, row, column]")
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
