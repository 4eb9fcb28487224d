"""Does the model agree with the map? Pixels are shown or hidden in the map's order.

Insertion: start from the blurred picture and show the most relevant pixels first; the sooner the
score rises, the better the map. Deletion: turn them into the picture's mean colour first; the
sooner it falls, the better (Petsiuk et al., BMVC 2018). Both are areas under the score over the
share of pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from checks import require_finite
from evaluation.baselines import blurred
from objective import LOGIT_SCALE
from recording.encoders import Encoder, encoder_of

Images = Float[Tensor, "image 3 row column"]
Maps = Float[Tensor, "image row column"]
Score = Callable[[Images], Float[Tensor, "batch score"]]

STEPS = 5
BATCH = 16  # as many as a CPU is quick with


def ways(images: Images) -> dict[str, tuple[Images, Images]]:
    """What pictures are turned from, and into what, by insertion and by deletion."""
    blur = blurred(images, images.shape[-1] // 10)
    mean = images.mean((-2, -1), keepdim=True).expand_as(images)
    return {"insertion": (blur, images), "deletion": (images, mean)}


def curves(
    score: Score,
    maps: Maps,
    start: Images,
    end: Images,
    steps: int = STEPS,
    ends: tuple[Tensor, Tensor] | None = None,
) -> Float[Tensor, "image step score"]:
    """Scores while `start` turns into `end`, most relevant pixels first, at steps + 1 shares of
    pixels from 0 to 1. Equal relevance goes in order of the pixels.

    ends: the scores of `start` and `end`, if they are known: no map changes them.

    Raises ValueError for maps of another size than the images, or that hold NaN or infinity.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    if maps.shape != (len(start), *start.shape[-2:]):
        raise ValueError(
            f"there must be one map an image, of its size; got maps {list(maps.shape)} for images "
            f"{list(start.shape)}"
        )
    require_finite(maps, "maps")
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    ranks = (
        torch.empty_like(order)
        .scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
        .view_as(maps)
    )
    first, last = ends or (score(start), score(end))
    between = []
    for share in torch.linspace(0, 1, steps + 1)[1:-1].tolist():
        turned = (ranks < round(share * order.shape[1])).unsqueeze(1)
        between.append(score(torch.where(turned, end, start)))
    return torch.stack([first, *between, last], 1)


def area(curve: Float[Tensor, "*batch step"]) -> Float[Tensor, "*batch"]:
    """Under a curve over [0, 1], by trapezia."""
    if curve.shape[-1] < 2:
        raise ValueError(f"a curve has two points at least; got {curve.shape[-1]}")
    require_finite(curve, "curves")
    return torch.trapezoid(curve, dx=1 / (curve.shape[-1] - 1), dim=-1)


def score_of(
    model: nn.Module | Encoder,
    features: Float[Tensor, "concept feature"],
    asked: Int[Tensor, " image"],
) -> Score:
    """Of images, two scores each: "similarity", the cosine with the target, whose number `asked`
    is, and "softmax", the target's share among all concepts.

    Raises ValueError for a target that is not among the features, and, when it is asked, for
    another number of images.
    """
    if not ((asked >= 0) & (asked < len(features))).all():
        raise ValueError(
            f"asked must hold numbers from 0 to {len(features) - 1}; got {asked.tolist()}"
        )
    encoder, rows = encoder_of(model), torch.arange(len(asked), device=asked.device)

    @torch.no_grad()
    def score(shown: Images) -> Float[Tensor, "image score"]:
        if len(shown) != len(asked):
            raise ValueError(f"a target is asked of each image: {len(asked)} of {len(shown)}")
        encoded = torch.cat([encoder.encode(encoder.placed(part)) for part in shown.split(BATCH)])
        cosines = F.normalize(encoded.to(features), dim=-1) @ features.T
        shares = (LOGIT_SCALE * cosines).softmax(-1)
        return torch.stack([cosines[rows, asked], shares[rows, asked]], -1)

    return score


def insertion_deletion(
    score: Score,
    images: Images,
    maps: Maps,
    ends: dict[str, tuple[Tensor, Tensor]] | None = None,
    steps: int = STEPS,
) -> dict[str, Float[Tensor, " image"]]:
    """Areas for each image and its map at the same size, of each score: "insertion, similarity" and
    so on. Raises ValueError as `curves` does.

    score: see `score_of`. ends: see `end_scores`; the same for all maps of the images.
    """
    found, ends = {}, ends or {}
    for name, (start, end) in ways(images).items():
        areas = area(curves(score, maps, start, end, steps, ends.get(name)).transpose(1, 2))
        found[f"{name}, similarity"], found[f"{name}, softmax"] = areas.unbind(-1)
    return found


def end_scores(score: Score, images: Images) -> dict[str, tuple[Tensor, Tensor]]:
    """Of insertion and deletion: the scores at both ends."""
    whole = score(images)
    turned = ways(images)
    return {
        "insertion": (score(turned["insertion"][0]), whole),
        "deletion": (whole, score(turned["deletion"][1])),
    }
