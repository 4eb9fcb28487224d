"""Does a map find the object? Every measure takes maps and masks of the same size.

A map that is zero everywhere finds nothing: it scores 0. Maps that hold NaN or infinity, masks of
another shape and masks of no object are refused with a ValueError.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from checks import require_finite

Maps = Float[Tensor, "*batch row column"]
Masks = Bool[Tensor, "*batch row column"]
Scores = Float[Tensor, "*batch"]
Ranking = tuple[Float[Tensor, "*batch rank"], Float[Tensor, " rank"], Bool[Tensor, "*batch rank"]]

MEASURES = ("pointing", "energy", "IoU", "AP")


def checked(maps: Maps, masks: Masks) -> tuple[Maps, Masks]:
    """Maps and, for each, its mask; one mask may be that of many maps."""
    if masks.shape != maps.shape[-masks.ndim :]:
        raise ValueError(
            "maps and their masks must have the same size; "
            f"got {list(maps.shape)} and {list(masks.shape)}"
        )
    require_finite(maps, "maps")
    if masks.dtype != torch.bool and not ((masks == 0) | (masks == 1)).all():
        raise ValueError(
            "masks must be True on the object and False elsewhere (or 1 and 0); "
            f"got other values, of {masks.dtype}"
        )
    return maps, masks.bool().expand_as(maps)


def require_objects(masks: Masks) -> None:
    """Raise ValueError if a mask is False everywhere."""
    empty = int((~masks.flatten(-2).any(-1)).sum())
    if empty:
        raise ValueError(f"{empty} of the masks are empty: there is no object to be found")


def without(
    maps: Float[Tensor, "*batch object row column"],
    unknown: Bool[Tensor, "*batch object row column"] | None,
) -> Float[Tensor, "*batch object row column"]:
    """Maps of which every measure is what it would be without the pixels that are unknown, on masks
    that are False there: they hold no relevance, and rank behind all others.
    """
    if unknown is None:
        return maps
    behind = 2 * maps.amin((-2, -1), keepdim=True).clamp(max=0) - 1
    return torch.where(unknown, behind, maps)


def pointing_game(maps: Maps, masks: Masks) -> Scores:
    """1 where the maximum of the map lies on the object, else 0 (Zhang et al., IJCV 2018).

    Without their margin of 15 pixels around the object. Chance is the mask's share of the image.
    """
    maps, masks = checked(maps, masks)
    require_objects(masks)
    flat = maps.flatten(-2)
    peaks = flat.argmax(-1, keepdim=True)
    return masks.flatten(-2).gather(-1, peaks)[..., 0].float() * (flat.amax(-1) > 0)


def energy_in_mask(maps: Maps, masks: Masks) -> Scores:
    """The share of the map's positive relevance that lies on the object (Wang et al., CVPR-W 2020,
    the energy-based pointing game). Chance is the mask's share of the image.
    """
    maps, masks = checked(maps, masks)
    positive = maps.clamp(min=0)
    total = positive.sum((-2, -1))
    return (positive * masks).sum((-2, -1)) / total.clamp(min=1e-30)


def where_it_lies(
    maps: Float[Tensor, "*batch object row column"], masks: Bool[Tensor, "*batch object row column"]
) -> dict[str, Float[Tensor, "*batch object"]]:
    """The shares of the map of each object's prompt that lie on it, on the other objects of the
    picture and on no object; all 0 for a map that is zero everywhere.
    """
    maps, masks = checked(maps, masks)
    others = masks.sum(-3, keepdim=True) - masks.int() > 0
    found = {
        "the object": energy_in_mask(maps, masks),
        "other objects": energy_in_mask(maps, others & ~masks),
    }
    anything = (maps.flatten(-2).amax(-1) > 0).float()
    return found | {"the background": anything - sum(found.values())}


def best_iou(maps: Maps, masks: Masks, ranking: Ranking | None = None) -> Scores:
    """Intersection over union with the object, at the threshold that is best for each map.

    All thresholds are tried: what is above one is a prefix of the pixels in order of relevance.
    """
    maps, masks = checked(maps, masks)
    hits, count, last = ranking or ranked(maps, masks)
    union = count + masks.flatten(-2).sum(-1, keepdim=True) - hits
    return (hits / union * last).amax(-1) * (maps.flatten(-2).amax(-1) > 0)


def average_precision(maps: Maps, masks: Masks, ranking: Ranking | None = None) -> Scores:
    """The area under precision over recall, pixels ranked by relevance; pixels of equal relevance
    enter together. Chance is the mask's share of the image.
    """
    maps, masks = checked(maps, masks)
    hits, count, last = ranking or ranked(maps, masks)
    until = (hits * last).cummax(-1).values  # at each threshold, the hits so far
    gained = until.diff(dim=-1, prepend=torch.zeros_like(until[..., :1]))
    objects = masks.flatten(-2).sum(-1).clamp(min=1)
    return (gained * hits / count).sum(-1) / objects * (maps.flatten(-2).amax(-1) > 0)


def ranked(maps: Maps, masks: Masks) -> Ranking:
    """Of the pixels in order of relevance: hits up to each, their number, and whether it is the
    last of its relevance, so that a threshold can lie behind it.
    """
    maps, masks = checked(maps, masks)
    require_objects(masks)
    values, order = maps.flatten(-2).sort(-1, descending=True)
    hits = masks.flatten(-2).gather(-1, order).to(maps.dtype).cumsum(-1)
    count = torch.arange(1, values.shape[-1] + 1, device=maps.device, dtype=maps.dtype)
    last = torch.ones_like(values, dtype=torch.bool)
    last[..., :-1] = values[..., :-1] != values[..., 1:]
    return hits, count, last


def all_measures(maps: Maps, masks: Masks) -> dict[str, Scores]:
    """All MEASURES; pixels are sorted once."""
    ranking = ranked(maps, masks)
    found = (
        pointing_game(maps, masks),
        energy_in_mask(maps, masks),
        best_iou(maps, masks, ranking),
        average_precision(maps, masks, ranking),
    )
    return dict(zip(MEASURES, found, strict=True))
