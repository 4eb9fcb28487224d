"""What is explained: the cosine of image features with targets, and its slope.

A target enters as a direction, a unit vector, and the objective is the scalar product of the unit
image features with it. So any direction can be explained: t1 - t2 is the difference of two cosines,
-t is dissimilarity.
"""

import torch
from jaxtyping import Float
from torch import Tensor

LOGIT_SCALE = 100  # of every official CLIP: similarities are given as 100 times the cosine


def target_directions(
    targets: Float[Tensor, "*image target feature"], width: int | None = None
) -> Float[Tensor, "*image target feature"]:
    """Checked targets as unit vectors, in float32 at least; `width` is the model's, if known."""
    if targets.ndim not in (2, 3) or targets.shape[-1] != (width or targets.shape[-1]):
        raise ValueError(
            f"target features must be [target, {width or 'feature'}] or "
            f"[image, target, {width or 'feature'}] for this model; got {list(targets.shape)}"
        )
    if not targets.shape[-2]:
        raise ValueError(f"there must be at least one target; got {list(targets.shape)}")
    targets = targets.detach().to(torch.promote_types(targets.dtype, torch.float32))
    lengths = targets.norm(dim=-1, keepdim=True)
    if not lengths.isfinite().all():
        raise ValueError("target features hold NaN or infinite values")
    if not lengths.all():
        raise ValueError("target features are all zero: no cosine with them is defined")
    return targets / lengths


def for_each_image(
    directions: Float[Tensor, "*image target feature"], images: Tensor, weight: Tensor
) -> Float[Tensor, "image target feature"]:
    """The directions of each image, on the device of the model's `weight`, in float32 at least."""
    if directions.ndim == 3 and len(directions) != len(images):
        raise ValueError(f"got targets for {len(directions)} images, but {len(images)} images")
    dtype = torch.promote_types(weight.dtype, torch.float32)
    directions = directions.detach().to(weight.device, dtype, copy=True)
    return directions.expand(len(images), *directions.shape[-2:])


def objective_slopes(
    features: Float[Tensor, "image feature"], directions: Float[Tensor, "image target feature"]
) -> Float[Tensor, "target image feature"]:
    """d (f / |f|)·t / d f = (t - (t·u) u) / |f| with u = f / |f|: the way back starts here."""
    exact = features.unsqueeze(1).to(directions.dtype)
    length = exact.norm(dim=-1, keepdim=True)
    unit = exact / length
    along = (directions * unit).sum(-1, keepdim=True)
    return ((directions - along * unit) / length).transpose(0, 1).to(features.dtype)


def similarities(
    features: Float[Tensor, "*batch feature"], directions: Float[Tensor, "target feature"]
) -> Float[Tensor, "*batch target"]:
    """100 times the scalar product of the unit features with each direction.

    Features of length zero, which point nowhere, score 0.
    """
    exact = features.to(directions.dtype)
    length = exact.norm(dim=-1, keepdim=True)
    return LOGIT_SCALE * (exact / length.where(length > 0, 1)) @ directions.T
