"""How a picture becomes what a network reads: which part of it, how it is resized, and statistics.

The names of the modes are open_clip's (`open_clip/transform.py`).
"""

from collections.abc import Callable
from typing import NamedTuple

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
