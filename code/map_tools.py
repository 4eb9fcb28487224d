"""What is made of maps: larger ones along the edges of the picture, masks and boxes.

maps = upsample(relevance_maps(model, images, targets), images)    # [B, K, H, W]
boxes(maps[0, 0], images.shape[-2:])                               # of the first prompt
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.Image
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision import transforms

from checks import require_finite, require_tensor
from maps import resize_maps
from preprocessing import OPENAI, Preprocessing, window_seen

Map = Float[Tensor, "row column"] | Float[np.ndarray, "row column"]
LEVELS = 255  # above 0, that Otsu's threshold tells apart
FLAT = 1e-6  # less than this of a map's largest value is rounding


class Box(NamedTuple):
    """In pixels of the picture: `picture[top:bottom, left:right]`; score: see `boxes`."""

    left: int
    top: int
    right: int
    bottom: int
    score: float


def upsample(
    maps: Float[Tensor, "image target row column"],
    images: Float[Tensor, "image 3 height width"],
    *,
    radius: float = 1 / 5,
    epsilon: float = 0.001,
) -> Float[Tensor, "image target height width"]:
    """Maps at the size of the images, whose edges they follow: enlarged by `resize_maps`, then the
    guided filter of He, Sun and Tang (ECCV 2010; TPAMI 2013) with the image as its guide.

    In each square window the filter takes the map for a linear function of the colours; every pixel
    gets the mean over the windows that it is in. It is linear in the map, so signs stay what they
    mean; values may leave the range of the map a little.

    images: as the model takes them, or colours in [0, 1]: the darkest value is made 0, the
        brightest 1.
    radius: of the windows, over the shorter side of the image.
    epsilon: the variance of colours, in [0, 1], below which a window counts as flat.

    Returns maps of the same dtype, on the same device. Raises TypeError or ValueError for other
    shapes, for NaN and infinity, and for options that are not positive.
    """
    for name, given in {"maps": maps, "images": images}.items():
        require_tensor(given, f"{name} must be a tensor")
        require_finite(given, name)
    if maps.ndim != 4 or images.ndim != 4 or images.shape[1] != 3 or len(maps) != len(images):
        raise ValueError(
            "maps must be [image, target, row, column], images [image, 3, height, width], as many; "
            f"got {list(maps.shape)} and {list(images.shape)}"
        )
    if not (0 < radius < np.inf and 0 < epsilon < np.inf):
        raise ValueError(f"radius and epsilon must be positive; got {radius} and {epsilon}")
    reach = max(1, round(radius * min(images.shape[-2:])))
    enlarged = resize_maps(maps.detach().float(), images.shape[-2:]).cpu().numpy()
    guides = images.detach().float().cpu().permute(0, 2, 3, 1).contiguous().numpy()
    found = [guided(m, unit(g), reach, epsilon) for m, g in zip(enlarged, guides, strict=True)]
    return torch.from_numpy(np.stack(found)).to(maps)


def guided(
    maps: Float[np.ndarray, "target row column"],
    guide: Float[np.ndarray, "row column 3"],
    reach: int,
    epsilon: float,
) -> Float[np.ndarray, "target row column"]:
    """The guided filter for a guide of colours: eqs. 14-16 of the TPAMI paper."""

    def mean(values: np.ndarray) -> np.ndarray:  # over windows; beyond the edge it is mirrored
        side = 2 * reach + 1
        return cv2.blur(np.ascontiguousarray(values), (side, side), borderType=cv2.BORDER_REFLECT)

    centre = mean(guide)
    squares = np.stack([mean(guide * guide[..., i : i + 1]) for i in range(3)], -1)
    spread = squares - centre[..., :, None] * centre[..., None, :]
    inverse = np.linalg.inv(spread + epsilon * np.eye(3, dtype=np.float32))
    found = []
    for one in maps:
        level = (one.min() + one.max()) / 2  # goes through unchanged: a flat map stays flat
        one = one - level
        middle = mean(one)
        together = mean(guide * one[..., None]) - centre * middle[..., None]
        slope = np.einsum("yxij,yxj->yxi", inverse, together)
        offset = middle - along(slope, centre)
        found.append(along(mean(slope), guide) + mean(offset) + level)
    return np.stack(found)


def along(
    one: Float[np.ndarray, "row column 3"], other: Float[np.ndarray, "row column 3"]
) -> Float[np.ndarray, "row column"]:
    return np.einsum("yxi,yxi->yx", one, other)


def unit(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Values from 0 to 1; all 0 if they are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low if high > low else 1)


def masks(
    relevance: Map, size: tuple[int, int], *, share: float | None = None
) -> Bool[np.ndarray, "component height width"]:
    """The connected parts of a picture that a map points out, the one with most relevance first.

    relevance: one map, raw or in [0, 1], on the grid or larger. What is negative speaks against the
        target, and is left out.
    size: the picture's (height, width), to which the map is enlarged.
    share: the most relevant pixels that together hold this share of the positive relevance; by
        default those above the threshold of Otsu (IEEE Trans. SMC 1979), which leaves the least
        variance on its two sides.

    Parts touch at sides or corners. There is none where nothing is positive and none where all is
    equal: such a map points nothing out. Raises TypeError or ValueError for what is not one map,
    for NaN and infinity, and for a share that is not above 0 and below 1.
    """
    return parts(relevance, size, share)[0]


def boxes(relevance: Map, size: tuple[int, int], *, share: float | None = None) -> list[Box]:
    """The boxes around `masks`, in their order.

    The score is the share of the map's positive relevance that lies in the mask: scores add up to 1
    at most, and to `share` at least if that is given.
    """
    found, scores = parts(relevance, size, share)
    return [around(mask, score) for mask, score in zip(found, scores, strict=True)]


def on_picture(
    box: Box,
    side: int,
    picture: tuple[int, int],
    preprocessing: Preprocessing | Callable[[PIL.Image.Image], Any] = OPENAI,
) -> Box:
    """A box in the square that a model sees, as a box in the picture that `preprocess` was given.

    side: of the square, in pixels.
    picture: the upright picture's (height, width).
    preprocessing: what it went through, `model.visual.preprocessing`, or whatever `preprocess`
        there is, of a model that is not of ours: what that leaves of a picture is found by looking.

    What lies where the picture was filled up is cut off; raises ValueError if that is all.
    """
    frame = preprocessing
    if isinstance(preprocessing, Preprocessing):
        frame = transforms.Compose(preprocessing.square(side))
    window = window_seen(frame, (picture[1], picture[0]))
    ends = []
    for axis, (first, last) in ((1, (box.left, box.right)), (0, (box.top, box.bottom))):
        start, pixel = window[1 - axis], (window[3 - axis] - window[1 - axis]) / side
        low, high = max(0, start + first * pixel), min(picture[axis], start + last * pixel)
        if high - low < pixel / 2:
            raise ValueError(f"{box} is outside of the picture, in what it was filled up with")
        low = min(round(low), picture[axis] - 1)
        ends.append((low, max(round(high), low + 1)))
    (left, right), (top, bottom) = ends
    return Box(left, top, right, bottom, box.score)


def parts(
    relevance: Map, size: tuple[int, int], share: float | None
) -> tuple[Bool[np.ndarray, "component height width"], list[float]]:
    """Masks and their scores."""
    positive = one_map(relevance, size).clip(0)
    count, labels = cv2.connectedComponents(foreground(positive, share).view(np.uint8))
    held = np.bincount(labels.ravel(), positive.ravel(), count)[1:] / max(positive.sum(), 1e-30)
    order = np.argsort(-held, kind="stable")
    return labels == order[:, None, None] + 1, held[order].tolist()


def one_map(relevance: Map, size: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """A checked map at the picture's size, its largest value 1 in magnitude."""
    given = torch.as_tensor(relevance).detach().cpu().double()
    if given.ndim != 2 or not given.numel():
        raise ValueError(
            f"relevance must be one map [row, column], such as maps[0, 0]; got {list(given.shape)}"
        )
    require_finite(given, "maps")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be the (height, width) of the picture; got {tuple(size)}")
    given = given / given.abs().max().clamp(min=1e-300)
    return resize_maps(given[None, None], size)[0, 0].numpy()


def foreground(
    positive: Float[np.ndarray, "height width"], share: float | None
) -> Bool[np.ndarray, "height width"]:
    """The pixels above Otsu's threshold, or those that hold a share of all relevance."""
    if share is not None and not 0 < share < 1:
        raise ValueError(f"share must be above 0 and below 1; got {share}")
    if positive.max() - positive.min() < FLAT:
        return np.zeros(positive.shape, bool)
    if share is None:
        levels = np.uint8(np.round(unit(positive) * LEVELS))
        threshold, _ = cv2.threshold(levels, 0, LEVELS, cv2.THRESH_OTSU)
        return levels > threshold
    values = np.sort(positive, axis=None)[::-1]
    last = np.searchsorted(values.cumsum(), share * values.sum())
    return positive >= values[min(last, len(values) - 1)]  # with all that equal the last


def around(mask: Bool[np.ndarray, "height width"], score: float) -> Box:
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1, score)
