"""Images and maps as pictures. All colours are RGB, all values in [0, 1] unless they are bytes."""

from pathlib import Path
from typing import BinaryIO

import matplotlib
import numpy as np
import PIL.Image
import torch
from jaxtyping import Bool, Float
from PIL import UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import InterpolationMode

from checks import require_finite
from clip_ import to_rgb, upright
from preprocessing import OPENAI, Preprocessing

Image = Float[np.ndarray, "row column 3"]
Map = Float[np.ndarray, "row column"]
Picture = np.ndarray | Tensor | PIL.Image.Image  # as people have them

# Raster formats, which Pillow decodes by itself; for others it starts programs (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")


def open_image(path: str | Path) -> PIL.Image.Image:
    """The picture in a file, read to its end; of an animation, its first frame.

    Raises FileNotFoundError, naming the pictures beside it, or ValueError if it is not a picture
    in one of FORMATS.
    """
    path = Path(path)
    if not path.is_file():
        names = [file.name for file in image_files(path if path.is_dir() else path.parent)]
        beside = ", ".join(names[:10]) + ", ..." * (len(names) > 10) or "none"
        raise FileNotFoundError(f"no image {path}; images in that folder: {beside}")
    return decoded(path, path)


def decoded(file: str | Path | BinaryIO, name: str | Path) -> PIL.Image.Image:
    """The picture in a file, or in what has been read of one, as `open_image`; errors name it."""
    try:
        with PIL.Image.open(file, formats=FORMATS) as image:
            image.load()
            return image
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file: struct.error, zlib.error, EOFError ...
        why = "it does not begin as one" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(
            f"{name} is not an image that can be read ({', '.join(FORMATS)}): {why}"
        ) from error


def read_mask(
    path: str | Path,
    size: tuple[int, int],
    *,
    picture: tuple[int, int] | None = None,
    preprocessing: Preprocessing = OPENAI,
) -> Bool[Tensor, "row column"]:
    """Where a mask's file shows the object, at (height, width).

    The object is what is brighter than half of white, or what is not black if that has one colour
    only (so 1 among 0s); in a transparent file, where its one colour is opaque.

    picture: the (height, width) of the picture as it is seen upright, if `size` is the square that
        `preprocess` makes of it; the mask is cut likewise. It may be False everywhere then.
    preprocessing: what the picture goes through.

    Raises ValueError for a file that is no such mask, that shows nothing, or whose sides are in
    another proportion than those of the picture (without one, than those of `size`).
    """
    mask = upright(open_image(path))
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
        seen = cut_as_picture(seen, size[0], preprocessing)
    return torch.from_numpy(np.array(seen))


def cut_as_picture(
    mask: PIL.Image.Image, side: int, preprocessing: Preprocessing
) -> PIL.Image.Image:
    """The square that a model sees of a mask as large as the upright picture; 0 where there is no
    picture.
    """
    for step in preprocessing._replace(fill=0).square(side, InterpolationMode.NEAREST):
        mask = step(mask)
    return mask


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
    folder = Path(folder)
    return [path for path in sorted(folder.iterdir()) if is_image(path)] if folder.is_dir() else []


def is_image(path: Path) -> bool:
    """Whether that is a file, not a hidden one, with the ending of one of FORMATS."""
    return has_ending_of_image(path) and not path.name.startswith(".") and path.is_file()


def has_ending_of_image(path: str | Path) -> bool:
    return PIL.Image.registered_extensions().get(Path(path).suffix.lower()) in FORMATS


def normalise_pixels(
    images: Float[Tensor, "*batch 3 row column"], preprocessing: Preprocessing = OPENAI
) -> Tensor:
    """From colours in [0, 1] to what a CLIP takes that is used to this preprocessing."""
    mean, std = (
        images.new_tensor(v).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std)
    )
    return (images - mean) / std


def true_colours(
    images: Float[Tensor, "*batch 3 row column"], preprocessing: Preprocessing = OPENAI
) -> Tensor:
    """From what such a CLIP takes back to colours in [0, 1]."""
    mean, std = (
        images.new_tensor(v).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std)
    )
    return (images * std + mean).clamp(0, 1)


def as_picture(
    image: Float[Tensor, "3 row column"], preprocessing: Preprocessing = OPENAI
) -> Image:
    """A preprocessed image as matplotlib draws it. Raises ValueError for NaN and infinity.

    preprocessing: that of the model it was made for, `model.visual.preprocessing`.
    """
    require_finite(image, "pixels")
    return true_colours(image.detach().float(), preprocessing).permute(1, 2, 0).cpu().numpy()


def show_cam_on_image(
    img: Picture,
    mask: Picture,
    neg_saliency: bool = False,
    cmap: str | None = None,
    *,
    alpha: float = 0.5,
) -> Image:
    """Heat map over image: their weighted sum, scaled to a maximum of 1.

    img: what `colours` takes. mask: what `relevance` takes, at the size of the image. cmap: a
    matplotlib colour map; else JET, and for negative saliency "winter", so that the two are not
    taken for one another. alpha: the weight of the heat, from 0 (the image alone) to 1.

    The result is RGB already: the original's `cv2.cvtColor(np.uint8(255 * vis),
    cv2.COLOR_RGB2BGR)` would swap red and blue. Leave it out, or write `to_bytes(vis)`.
    """
    picture = colours(img)
    mask = relevance(mask, picture.shape[:2], "mask")
    alpha = weight(alpha)
    cmap = cmap or ("winter" if neg_saliency else "jet")
    mixed = alpha * heat(mask, cmap) + (1 - alpha) * picture
    return mixed / max(mixed.max(), 1e-12)


def show_overlapped_cam(
    img: Picture, neg_mask: Picture, pos_mask: Picture, *, alpha: float = 0.75
) -> Image:
    """Both saliencies over one image: positive in red, negative in blue, where both violet.

    Colour covers the image, turned grey, as far as the stronger of the two is relevant; alpha: how
    far where relevance is 1, from 0 (not at all) to 1. Everything else as for `show_cam_on_image`,
    and as there the result is RGB, not to be converted by `cv2.COLOR_RGB2BGR`.
    """
    picture = colours(img)
    grey = picture.mean(-1, keepdims=True)
    pos = relevance(pos_mask, picture.shape[:2], "pos_mask")[..., None]
    neg = relevance(neg_mask, picture.shape[:2], "neg_mask")[..., None]
    red, blue = np.float32([0.9, 0.1, 0.1]), np.float32([0.1, 0.2, 0.95])
    strength = np.maximum(pos, neg)
    share = pos / np.maximum(pos + neg, 1e-12)
    cover = weight(alpha) * strength
    return grey * (1 - cover) + (red * share + blue * (1 - share)) * cover


def colours(img: Picture) -> Image:
    """A picture as colours in [0, 1], given as such, as bytes or as a PIL image.

    Axes may be [row, column, channel], or [channel, row, column] as tensors have them, after a
    batch axis of 1; one channel, or no such axis, is grey; a fourth is opacity, over white. Raises
    ValueError for other shapes and for values that are no colours, as those of preprocessed images.
    """
    is_tensor = isinstance(img, Tensor)
    if isinstance(img, PIL.Image.Image):
        img = np.asarray(to_rgb(img))
    values = in_range(numbers(img, "img"), "img", "image_utils.as_picture for preprocessed images")
    pixels = values[0] if values.ndim == 4 and len(values) == 1 else values
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    channels = (1, 3, 4)
    first, last = (pixels.ndim == 3 and pixels.shape[axis] in channels for axis in (0, -1))
    if not (first or last):
        raise ValueError(
            "img must be one picture, [row, column, channel] with 1, 3 or 4 channels; "
            f"got {list(values.shape)}"
        )
    if first and (is_tensor or not last):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.shape[-1] == 4:
        opacity = pixels[..., 3:]
        pixels = pixels[..., :3] * opacity + (1 - opacity)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def relevance(mask: Picture, size: tuple[int, int], name: str) -> Map:
    """A map of that size in [0, 1], given as such, as bytes or as a PIL image.

    Bytes are 255 where all is relevant, or 1 if none is above that. There may be axes of 1 before
    the map's, and one after. Raises ValueError for other sizes and values.
    """
    if isinstance(mask, PIL.Image.Image):
        mask = np.asarray(to_rgb(mask).convert("L"))
    mask = numbers(mask, name)
    if mask.dtype == np.uint8 and mask.max() <= 1:
        mask = mask.astype(bool)
    values = in_range(mask, name, "saliency.normalise_maps for raw maps")
    while values.ndim > 2 and len(values) == 1:
        values = values[0]
    if values.shape == (*size, 1):
        values = values[..., 0]
    if values.shape != size:
        raise ValueError(
            f"{name} must have the size of img, {list(size)}, but is {list(mask.shape)}: "
            f"saliency.resize_maps(maps, {size}) enlarges maps"
        )
    return values


def numbers(values: Picture, name: str) -> np.ndarray:
    """An array or a tensor, wherever it is, as an array of numbers."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values  # NumPy has no bfloat16
    array = np.asarray(values)
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name} must be an array, a tensor or a PIL image; got {values!r:.80}")
    if not array.size:
        raise ValueError(f"{name} is empty: {list(array.shape)}")
    return array


def in_range(values: np.ndarray, name: str, otherwise: str) -> Float[np.ndarray, "*shape"]:
    """Values in [0, 1], but for rounding, or bytes, as float32 in [0, 1]. Refuses others."""
    if values.dtype == np.uint8:
        return np.float32(values) / 255
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all():
        require_finite(np.ascontiguousarray(values, np.float64), f"values of {name}")
    if low < -0.001 or high > 1.001:
        raise ValueError(
            f"{name} must be in [0, 1], or bytes (uint8); got {values.dtype} from {low:.4g} to "
            f"{high:.4g}: divide by 255 what reaches to 255, and take {otherwise}"
        )
    return np.float32(values).clip(0, 1)


def weight(alpha: float) -> float:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {alpha}")
    return float(alpha)


def heat(mask: Map, cmap: str) -> Image:
    """A map in the colours of a matplotlib colour map."""
    return np.float32(matplotlib.colormaps[cmap](np.float32(mask))[..., :3])


def to_bytes(picture: Image) -> np.ndarray:
    """Colours in [0, 1] as bytes."""
    return np.uint8(np.clip(picture, 0, 1) * 255 + 0.5)
