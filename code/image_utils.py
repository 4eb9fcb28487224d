"""Images and maps as pictures. All colours are RGB, all values in [0, 1] unless they are bytes."""

from pathlib import Path

import matplotlib
import numpy as np
import PIL.Image
import torch
from jaxtyping import Bool, Float
from PIL import ImageOps
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from clip_ import PIXEL_MEAN, PIXEL_STD

Image = Float[np.ndarray, "row column 3"]
Map = Float[np.ndarray, "row column"]


def open_image(path: str | Path) -> PIL.Image.Image:
    """The picture in a file, read to its end.

    Raises FileNotFoundError, naming the pictures beside it, or ValueError if it is not a picture.
    """
    path = Path(path)
    if not path.is_file():
        beside = ", ".join(file.name for file in image_files(path.parent)) or "none"
        raise FileNotFoundError(f"no image {path}; images in that folder: {beside}")
    try:
        with PIL.Image.open(path) as file:
            file.load()
            return file
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not an image that Pillow can read: {error}") from error


def read_mask(
    path: str | Path, size: tuple[int, int], *, picture: tuple[int, int] | None = None
) -> Bool[Tensor, "row column"]:
    """Where a mask's file shows the object, at (height, width).

    The object is what is brighter than half of white, or what is not black if that has one colour
    only (so 1 among 0s); in a transparent file, where its one colour is opaque.

    picture: the (height, width) of the picture as it is seen upright, if `size` is the square that
        `preprocess` cuts out of it; the mask is cut likewise. It may be False everywhere then.

    Raises ValueError for a file that is no such mask, that shows nothing, or whose sides are in
    another proportion than those of the picture (without one, than those of `size`).
    """
    mask = ImageOps.exif_transpose(open_image(path))
    height, width = picture or size
    # A mask of fewer pixels may have rounded sides.
    if abs(mask.width * height - mask.height * width) >= width + height:
        raise ValueError(
            f"{path} is a mask of {mask.width}x{mask.height} pixels for a picture of "
            f"{width}x{height}: their sides must be in the same proportion"
        )
    seen = PIL.Image.fromarray(object_pixels(mask, path))
    seen = seen.resize((width, height), PIL.Image.Resampling.NEAREST)
    if picture:
        seen = F.resize(seen, min(size), InterpolationMode.NEAREST)
        seen = F.center_crop(seen, list(size))
    return torch.from_numpy(np.array(seen))


def object_pixels(mask: PIL.Image.Image, path: str | Path) -> Bool[np.ndarray, "row column"]:
    """Where a mask shows the object, at its own size; see `read_mask`."""
    if mask.mode.startswith(("I", "F")):  # 16 bits, or floats
        pixels = np.asarray(mask)[..., None]
    else:
        rgba = np.asarray(mask.convert("RGBA"))
        pixels, alpha = rgba[..., :3], rgba[..., 3:]
        if not alpha.all():
            visible = pixels[alpha[..., 0] > 0]
            pixels = alpha if (visible == visible[:1]).all() else rgba
    lit = pixels.any(-1)
    if not lit.any():
        raise ValueError(f"{path} is a mask that shows no object: all of it is black")
    if (pixels[lit] == pixels[lit][0]).all():
        return lit
    brightest = pixels.max()
    white = min((one for one in (1, 255, 65535) if brightest <= one), default=np.inf)
    if not (pixels == pixels[..., :1]).all() or not brightest > white / 2:
        raise ValueError(
            f"{path} is no mask of one object: it must be black with the object in white or in one "
            "colour, or transparent with the object opaque and in one colour"
        )
    return pixels[..., 0] > white / 2


def image_files(folder: str | Path) -> list[Path]:
    """The pictures in a folder, in order of their names; none if there is no such folder."""
    known = PIL.Image.registered_extensions()
    folder = Path(folder)
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in paths if path.suffix.lower() in known]


def normalise_pixels(images: Float[Tensor, "*batch 3 row column"]) -> Tensor:
    """From colours in [0, 1] to what CLIP takes."""
    mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))
    return (images - mean) / std


def true_colours(images: Float[Tensor, "*batch 3 row column"]) -> Tensor:
    """From what CLIP takes back to colours in [0, 1]."""
    mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))
    return (images * std + mean).clamp(0, 1)


def as_picture(image: Float[Tensor, "3 row column"]) -> Image:
    """A preprocessed image as matplotlib draws it."""
    return true_colours(image.detach().float()).permute(1, 2, 0).cpu().numpy()


def show_cam_on_image(
    img: Image, mask: Map, neg_saliency: bool = False, cmap: str | None = None
) -> Image:
    """Heat map over image: their sum, scaled to a maximum of 1.

    img, mask: colours and relevance in [0, 1]. cmap: a matplotlib colour map; else JET, and for
    negative saliency "winter", so that the two are not taken for one another.
    """
    cmap = cmap or ("winter" if neg_saliency else "jet")
    mixed = heat(mask, cmap) + np.float32(img)
    return mixed / max(mixed.max(), 1e-12)


def show_overlapped_cam(img: Image, neg_mask: Map, pos_mask: Map) -> Image:
    """Both saliencies over one image: positive in red, negative in blue, where both violet.

    Colour covers the image, turned grey, as far as the stronger of the two is relevant.
    """
    grey = np.float32(img).mean(-1, keepdims=True)
    pos, neg = np.float32(pos_mask)[..., None], np.float32(neg_mask)[..., None]
    red, blue = np.float32([0.9, 0.1, 0.1]), np.float32([0.1, 0.2, 0.95])
    strength = np.maximum(pos, neg)
    share = pos / np.maximum(pos + neg, 1e-12)
    cover = 0.75 * strength
    return grey * (1 - cover) + (red * share + blue * (1 - share)) * cover


def heat(mask: Map, cmap: str) -> Image:
    """A map in the colours of a matplotlib colour map."""
    return np.float32(matplotlib.colormaps[cmap](np.float32(mask))[..., :3])


def to_bytes(picture: Image) -> np.ndarray:
    """Colours in [0, 1] as bytes."""
    return np.uint8(np.clip(picture, 0, 1) * 255 + 0.5)
