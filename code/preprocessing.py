"""How a picture becomes what a network reads: which part of it, how it is resized, and statistics.

The names of the modes are open_clip's (`open_clip/transform.py`).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.transforms import functional as F

Triple = tuple[float, float, float]
Mode = transforms.InterpolationMode

# Mean and standard deviation of the pixels OpenAI trained on: red, green, blue, in [0, 1].
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
INTERPOLATIONS = {"bicubic": Mode.BICUBIC, "bilinear": Mode.BILINEAR, "lanczos": Mode.LANCZOS}
RESIZE_MODES = ("shortest", "longest", "squash")


class Preprocessing(NamedTuple):
    """What a network was trained to see; by default OpenAI's.

    mean, std: of red, green and blue, in [0, 1].
    interpolation: one of INTERPOLATIONS.
    resize_mode: "shortest", the shorter side is resized and the middle square cut out; "longest",
        the longer side is, and the rest filled; "squash", both sides are.
    fill: of mode "longest", the grey of the rest, 0 to 255.
    floor: of mode "shortest", whether the place of the square is rounded down, as in transformers,
        and not to even, as in torchvision.
    """

    mean: Triple = PIXEL_MEAN
    std: Triple = PIXEL_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill: int = 0
    floor: bool = False

    def square(self, side: int, interpolation: Mode | None = None) -> list[Callable]:
        """The steps from an upright picture to the square that is seen of it."""
        mode = interpolation or INTERPOLATIONS[self.interpolation]
        if self.resize_mode == "squash":
            return [transforms.Resize((side, side), mode)]
        if self.resize_mode == "longest":
            return [ResizeLonger(side, mode), Centre(side, self.fill)]
        crop = Centre(side) if self.floor else transforms.CenterCrop(side)
        return [ResizeShorter(side, mode), crop]


OPENAI = Preprocessing()


def preprocessing_of(visual: nn.Module) -> Preprocessing:
    """What pictures of an image encoder went through; OpenAI's if it does not say."""
    return getattr(visual, "preprocessing", OPENAI)


class ResizeShorter(transforms.Resize):
    """Resizes to a shorter side. Where an image is extremely long, its ends, which are cropped in
    any case, are cropped before.
    """

    def forward(self, image: Image.Image) -> Image.Image:
        return super().forward(middle(image))


class ResizeLonger(transforms.Resize):
    """Resizes to a longer side; the other has one pixel at least."""

    def forward(self, image: Image.Image) -> Image.Image:
        ratio = max(image.size) / self.size
        height, width = (max(1, round(side / ratio)) for side in (image.height, image.width))
        return F.resize(image, [height, width], self.interpolation)


class Centre(nn.Module):
    """The middle square of an image, whose place is rounded down; filled where there is none."""

    def __init__(self, side: int, fill: int = 0):
        super().__init__()
        self.side, self.fill = side, fill

    def forward(self, image: Image.Image) -> Image.Image:
        left, top = (int((self.side - given) / 2) for given in image.size)
        bands = len(image.getbands())
        colour = self.fill if bands == 1 else (self.fill,) * bands
        square = Image.new(image.mode, (self.side, self.side), colour)
        square.paste(image, (left, top))
        return square


def middle(image: Image.Image) -> Image.Image:
    """The image; of a longer one than 32 to 1, its middle: resized whole, it takes gigabytes.

    What is cut off is equally long at both ends, and far from what is cut out in the end.
    """
    longest = 32 * min(image.size)
    left, top = (max(0, (side - longest) // 2) for side in image.size)
    if left or top:
        image = image.crop((left, top, image.width - left, image.height - top))
    return image


class WholeFrame(NamedTuple):
    """All of a picture, on a grid fitted to its sides: nothing is cut off, and there are about as
    many cells as in the square that the network was trained on.

    side: of that square, in pixels. stride: of a cell.
    """

    side: int
    stride: int
    interpolation: str = "bicubic"

    def __call__(self, image: Image.Image) -> Image.Image:
        rows, columns = fitted_grid(image.size, (self.side // self.stride) ** 2)
        size = [rows * self.stride, columns * self.stride]
        return F.resize(image, size, INTERPOLATIONS[self.interpolation])


def fitted_grid(size: tuple[int, int], cells: int) -> tuple[int, int]:
    """The (rows, columns) nearest to the proportion of a picture of (width, height): about as many
    cells, however long the picture is.
    """
    width, height = size
    rows, columns = (round((cells * part) ** 0.5) for part in (height / width, width / height))
    return min(max(rows, 1), cells), min(max(columns, 1), cells)


class Window(NamedTuple):
    """What a network saw of a picture, in pixels of that: it may reach beyond its sides."""

    left: float
    top: float
    right: float
    bottom: float


@lru_cache(4096)
def window_seen(frame: Callable[[Image.Image], Any], size: tuple[int, int]) -> Window:
    """What a frame, whatever it does, leaves of a picture of (width, height).

    Found by looking: black and white pictures tell where it shows anything, and ramps which column
    and row that is. What is resized alike in all its parts lies on a straight line. Right to a
    pixel of what the network reads.
    """
    if isinstance(frame, WholeFrame):
        return Window(0, 0, *size)
    factor = (PROBE / (size[0] * size[1])) ** 0.5
    factor = int(factor) if factor > 1 else factor  # whole, so that sides are rounded as they are
    probe = [max(2, round(side * factor)) for side in size]
    left, right = ends_seen(frame, np.arange(probe[0])[None].repeat(probe[1], 0) + 0.5, 1)
    top, bottom = ends_seen(frame, np.arange(probe[1])[:, None].repeat(probe[0], 1) + 0.5, 0)
    across, down = (whole / side for whole, side in zip(size, probe, strict=True))
    return Window(left * across, top * down, right * across, bottom * down)


def as_framed(
    frame: Callable[[Image.Image], Any], side: int, pixels: Preprocessing
) -> Preprocessing:
    """`pixels` with the resize mode that a frame is found to have: masks are cut by it as pictures
    are by the frame. ValueError if it has none of them.

    side: of the square that it makes of pictures.
    """
    size = 3 * side, 2 * side
    found = window_seen(frame, size)
    for mode in RESIZE_MODES:
        known = pixels._replace(resize_mode=mode)
        expected = window_seen(transforms.Compose(known.square(side)), size)
        if np.abs(np.subtract(found, expected)).max() < 4:  # a pixel of the square is 2 or 3
            return known
    raise ValueError(
        f"of a picture of {size[0]} x {size[1]} pixels this model's preprocessing leaves "
        f"{[round(end) for end in found]} (left, top, right, bottom), which is none of the ways in "
        f"which masks can be cut, {', '.join(RESIZE_MODES)}"
    )


def ends_seen(
    frame: Callable[[Image.Image], Any], places: np.ndarray, axis: int
) -> tuple[float, float]:
    """From where to where a frame shows a picture along an axis; `places` [row, column] are where
    its pixels are along that.
    """
    dark, light = (framed_grey(frame, np.full(places.shape, grey)) for grey in (0.0, 1.0))
    inside = light - dark > (light - dark).max() / 2
    counts = inside.sum(1 - axis)
    low, high = 0.0, float(places.shape[axis])
    for _ in range(3):  # each ramp shows more closely what the one before has found
        seen = framed_grey(frame, ((places - low) / (high - low)).clip(0, 1))
        share = np.where(inside, (seen - dark) / np.where(inside, light - dark, 1), 0)
        share = share.sum(1 - axis) / np.maximum(counts, 1)
        straight = (counts > 0) & (share > 0.02) & (share < 0.98)  # bent at its ends
        if straight.sum() < 2:  # all of it is in one row or column
            slope = 1 / (counts > 0).sum()
            start = -slope * np.argmax(counts > 0)
        else:
            slope, start = np.polyfit(np.flatnonzero(straight) + 0.5, share[straight], 1)
        first, last = (low + (start + slope * at) * (high - low) for at in (0, len(counts)))
        margin = (high - low) / 100
        low, high = max(0.0, first - margin), min(float(places.shape[axis]), last + margin)
    return first, last


PROBE = 2**18  # pixels of the pictures that `window_seen` looks at


def framed_grey(frame: Callable[[Image.Image], Any], grey: np.ndarray) -> np.ndarray:
    """The grey, in any unit, that a frame makes of a grey picture in [0, 1]."""
    made = frame(Image.fromarray(np.uint8(255 * grey + 0.5)).convert("RGB"))
    if isinstance(made, Image.Image):
        return np.asarray(made, np.float64).mean(2)
    return np.asarray(made, np.float64).mean(0)
