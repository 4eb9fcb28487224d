"""Does a map find the object? Every measure takes maps and masks of the same size.

A map that is zero everywhere finds nothing: it scores 0.
"""

from jaxtyping import Bool, Float
from torch import Tensor

Maps = Float[Tensor, "*batch row column"]
Masks = Bool[Tensor, "*batch row column"]
Scores = Float[Tensor, "*batch"]


def pointing_game(maps: Maps, masks: Masks) -> Scores:
    """1 where the maximum of the map lies on the object, else 0 (Zhang et al., IJCV 2018).

    Without their margin of 15 pixels around the object. Chance is the mask's share of the image.
    """
    flat = maps.flatten(-2)
    peaks = flat.argmax(-1, keepdim=True)
    return masks.flatten(-2).gather(-1, peaks)[..., 0].float() * (flat.amax(-1) > 0)


def energy_in_mask(maps: Maps, masks: Masks) -> Scores:
    """The share of the map's positive relevance that lies on the object (Wang et al., CVPR-W 2020,
    the energy-based pointing game). Chance is the mask's share of the image.
    """
    positive = maps.clamp(min=0)
    total = positive.sum((-2, -1))
    return (positive * masks).sum((-2, -1)) / total.clamp(min=1e-30)
