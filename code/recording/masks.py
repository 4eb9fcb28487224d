"""What a network says of a picture of which parts are hidden: it is asked, never looked into.

`record_occlusion`   one window of cells hidden at a time, wherever it fits.

What is hidden is grey: the mean colour that preprocessing subtracts. There are as many forward
passes as windows, whatever the number of targets.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from model import ModifiedResNet, VisionTransformer
from objective import unit_scores
from recording import patches, pooled
from recording.encoders import Encoder, Grid, Images
from recording.runs import NoAttention, Run
from recording.twins import follow, twins

ALONG_A_SIDE = 4  # windows, along the shorter side of a picture
AT_ONCE = 64  # pictures
STRIDE = 32  # of a cell, where a network has none that can be told


@dataclass
class Masked:
    """Scores of masked pictures.

    windows: the cells that each mask hides.
    scores: of the pictures as each mask leaves them; `whole`: as they are.
    """

    windows: Bool[Tensor, "mask row column"]
    scores: Float[Tensor, "image target mask"]
    whole: Float[Tensor, "image target"]
    grid: Grid
    prefix: int = 0


@torch.no_grad()
def record_occlusion(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
) -> Masked:
    grid = cells_of(encoder, images)
    windows = all_windows(grid).to(images.device)
    masks = F.interpolate(1 - windows[:, None].to(images), images.shape[-2:])
    encode = follow(encoder.encode, twins(encoder.model))  # which are in evaluation mode
    scores = []
    count = max(1, AT_ONCE // len(images))
    for some in tqdm(masks.split(count), desc="occlusion", unit="batch", leave=False, delay=2):
        masked = images.unsqueeze(1) * some
        features = encode(masked.flatten(0, 1)).unflatten(0, masked.shape[:2])
        scores.append(unit_scores(features, directions))
    whole = unit_scores(encode(images).unsqueeze(1), directions)[..., 0]
    return Masked(windows, torch.cat(scores, 2), whole, grid)


def all_windows(grid: Grid) -> Bool[Tensor, "window row column"]:
    """Squares of cells, a quarter of the shorter side, at every place."""
    side = max(1, min(grid) // ALONG_A_SIDE)
    rows, columns = (torch.eye(count).unfold(0, side, 1).sum(-1).bool() for count in grid)
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)


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
