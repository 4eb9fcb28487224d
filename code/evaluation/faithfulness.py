"""Does the model agree with the map? Pixels are shown or hidden in the map's order.

Insertion: start from a picture without information and show the most relevant pixels first; the
sooner the score rises, the better the map. Deletion: hide them first; the sooner it falls, the
better (Petsiuk et al., BMVC 2018). Both are areas under the score over the share of pixels.
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

STEPS = 10
BATCH = 16  # as many as a CPU is quick with


def without_information(images: Images, kind: str) -> Images:
    """What hidden pixels show: the image "blur"red, or its "mean" colour."""
    if kind == "blur":
        return blurred(images, images.shape[-1] // 10)
    if kind == "mean":
        return images.mean((-2, -1), keepdim=True).expand_as(images)
    raise ValueError(f"unknown baseline {kind!r}; there are blur and mean")


def curves(
    score: Callable[[Images], Float[Tensor, "batch score"]],
    maps: Maps,
    start: Images,
    end: Images,
    steps: int = STEPS,
) -> Float[Tensor, "image step score"]:
    """Scores while `start` turns into `end`, most relevant pixels first, at steps + 1 shares of
    pixels from 0 to 1. Equal relevance goes in order of the pixels.

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
    shares = torch.linspace(0, 1, steps + 1)
    found = []
    for share in shares.tolist():
        turned = (ranks < round(share * order.shape[1])).unsqueeze(1)
        found.append(score(torch.where(turned, end, start)))
    return torch.stack(found, 1)


def area(curve: Float[Tensor, "*batch step"]) -> Float[Tensor, "*batch"]:
    """Under a curve over [0, 1], by trapezia."""
    if curve.shape[-1] < 2:
        raise ValueError(f"a curve has two points at least; got {curve.shape[-1]}")
    require_finite(curve, "curves")
    return torch.trapezoid(curve, dx=1 / (curve.shape[-1] - 1), dim=-1)


def insertion_deletion(
    model: nn.Module | Encoder,
    images: Images,
    maps: Maps,
    features: Float[Tensor, "concept feature"],
    asked: Int[Tensor, " image"],
    kind: str = "blur",
    steps: int = STEPS,
) -> dict[str, Float[Tensor, " image"]]:
    """Areas for each image and its map at the same size; `asked` is the number of its target.

    Of two scores: "similarity", the cosine with the target, and "softmax", the target's share among
    all concepts. Keys: "insertion, similarity" and so on.

    Raises ValueError as `curves` does, and for a target that is not among the features.
    """
    if asked.shape != (len(images),) or not ((asked >= 0) & (asked < len(features))).all():
        raise ValueError(
            f"asked must hold a number from 0 to {len(features) - 1} for each of {len(images)} "
            f"images; got {asked.tolist()}"
        )
    encoder = encoder_of(model)
    hidden = without_information(images, kind)
    rows = torch.arange(len(images), device=images.device)

    @torch.no_grad()
    def score(shown: Images) -> Float[Tensor, "image score"]:
        encoded = torch.cat([encoder.encode(encoder.placed(part)) for part in shown.split(BATCH)])
        cosines = F.normalize(encoded.to(features), dim=-1) @ features.T
        shares = (LOGIT_SCALE * cosines).softmax(-1)
        return torch.stack([cosines[rows, asked], shares[rows, asked]], -1)

    found = {}
    for name, start, end in (("insertion", hidden, images), ("deletion", images, hidden)):
        areas = area(curves(score, maps, start, end, steps).transpose(1, 2))
        found[f"{name}, similarity"], found[f"{name}, softmax"] = areas.unbind(-1)
    return found
