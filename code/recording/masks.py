"""What a network says of a picture of which parts are hidden: it is asked, never looked into.

`record_occlusion`   one window of cells hidden at a time, wherever it fits.
`record_rise`        about half of the picture hidden, at random, many times.

What is hidden is grey: the mean colour that preprocessing subtracts. There are as many forward
passes as masks, whatever the number of targets.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from model import ModifiedResNet, VisionTransformer
from objective import unit_scores
from recording import patches, pooled
from recording.encoders import Encoder, Grid, Images
from recording.runs import NoAttention, Run
from recording.twins import follow, twins

WINDOW = 4  # windows along the shorter side of a picture
RISE_MASKS, RISE_CELLS, RISE_KEPT = 1000, 7, 0.5  # the authors take up to 8,000
AT_ONCE = 64  # pictures
STRIDE = 32  # of a cell, where a network has none that can be told


@dataclass
class Masked:
    """Scores of masked pictures.

    kept: how much of each cell each mask keeps.
    scores: of the pictures as each mask leaves them; `whole`: as they are.
    """

    kept: Float[Tensor, "mask row column"]
    scores: Float[Tensor, "image target mask"]
    whole: Float[Tensor, "image target"]
    grid: Grid
    prefix: int = 0


def record_occlusion(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None = None
) -> Masked:
    rows, columns = grid = cells_of(encoder, images)
    side = max(1, min(grid) // WINDOW)
    tops, lefts = torch.arange(rows - side + 1), torch.arange(columns - side + 1)
    inside = [
        (start[:, None] <= torch.arange(count)) & (torch.arange(count) < start[:, None] + side)
        for start, count in ((tops, rows), (lefts, columns))
    ]
    windows = (inside[0][:, None, :, None] & inside[1][None, :, None, :]).flatten(0, 1)
    kept = 1 - windows.to(directions)
    return asked(encoder, images, directions, kept, F.interpolate(kept[:, None], images.shape[-2:]))


def record_rise(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None = None
) -> Masked:
    grid = cells_of(encoder, images)
    masks = random_masks(tuple(images.shape[-2:])).to(directions)
    return asked(encoder, images, directions, F.adaptive_avg_pool2d(masks, grid)[:, 0], masks)


def random_masks(size: tuple[int, int]) -> Float[Tensor, "mask 1 height width"]:
    """Coarse grids of ones and zeros, enlarged smoothly, and shifted by less than a cell."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(RISE_MASKS, 1, RISE_CELLS, RISE_CELLS, generator=generator) < RISE_KEPT
    height, width = (-(-side // RISE_CELLS) for side in size)  # of a cell
    larger = [(RISE_CELLS + 1) * cell for cell in (height, width)]
    shifts = torch.rand(RISE_MASKS, 2, generator=generator) * torch.tensor([height, width])
    smooth = F.interpolate(coarse.float(), larger, mode="bilinear")
    return torch.stack(
        [
            mask[:, top : top + size[0], left : left + size[1]]
            for mask, (top, left) in zip(smooth, shifts.long().tolist(), strict=True)
        ]
    )


def cells_of(encoder: Encoder, images: Images) -> Grid:
    """Rows and columns of the cells of pictures. ValueError if each picture has its own."""
    if isinstance(encoder.model, VisionTransformer | ModifiedResNet):
        return encoder.model.grid(images)
    if not isinstance(images, Tensor):
        raise ValueError("pictures are masked as tensors [3, height, width], not as patches")
    run = Run(encoder, images[:1])
    try:
        encoder.pooling = pooled(run)[0]
    except NoAttention:
        return tuple(max(1, side // STRIDE) for side in images.shape[-2:])
    return patches(encoder, run)[0]


@torch.no_grad()
def asked(
    encoder: Encoder,
    images: Float[Tensor, "image 3 height width"],
    directions: Float[Tensor, "image target feature"],
    kept: Float[Tensor, "mask row column"],
    masks: Float[Tensor, "mask 1 height width"],
) -> Masked:
    encode = follow(encoder.encode, twins(encoder.model))  # which are in evaluation mode
    count = max(1, AT_ONCE // len(images))
    scores = []
    for some in tqdm(masks.split(count), desc="masks", unit="batch", leave=False, delay=2):
        masked = images.unsqueeze(1) * some.to(images)
        features = encode(masked.flatten(0, 1)).unflatten(0, masked.shape[:2])
        scores.append(unit_scores(features, directions))
    whole = unit_scores(encode(images).unsqueeze(1), directions)[..., 0]
    return Masked(kept, torch.cat(scores, 2), whole, tuple(kept.shape[1:]))
