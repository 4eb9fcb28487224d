"""Maps on whole pictures: each where the network looked, at the picture's own size and shape."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from image_utils import Image, show_cam_on_image
from maps import normalise_maps, resize_maps
from preprocessing import Window


class Placed(NamedTuple):
    """Maps at the size of the part `picture[top:bottom, left:right]` that the network saw."""

    maps: Float[Tensor, "target height width"]
    left: int
    top: int
    right: int
    bottom: int

    @property
    def heat(self) -> Float[np.ndarray, "target height width"]:
        """In [0, 1], each map scaled by itself."""
        return normalise_maps(self.maps).numpy()


def placed(
    maps: Float[Tensor, "target row column"], window: Window, size: tuple[int, int]
) -> Placed:
    """Maps on their grid, enlarged bilinearly to what was seen of a picture of (width, height).

    window: that, in pixels; what of it lies beyond the picture's sides is cut off.
    """
    left, top, right, bottom = (round(end) for end in window)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    large = resize_maps(maps[None].float().cpu(), (bottom - top, right - left))[0]
    x, y = max(left, 0), max(top, 0)
    large = large[:, y - top : size[1] - top, x - left : size[0] - left]
    return Placed(large, x, y, x + large.shape[2], y + large.shape[1])


def overlaid(
    picture: Image,
    heat: Float[np.ndarray, "height width"],
    place: Placed,
    negative: bool = False,
    cmap: str | None = None,
) -> Image:
    """The picture with heat where the network looked, and as it is elsewhere."""
    part = np.s_[place.top : place.bottom, place.left : place.right]
    shown = np.array(picture)
    shown[part] = show_cam_on_image(picture[part], heat, negative, cmap)
    return shown
