"""What is explained: the cosine of image features with targets, and its slope.

A target enters as a direction, a unit vector, and the objective is the scalar product of the unit
image features with it. So any direction can be explained: t1 - t2 is the difference of two cosines,
-t is dissimilarity.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Float
from torch import Tensor

from checks import require_finite, require_tensor
from model import has_values

LOGIT_SCALE = 100  # of every official CLIP: similarities are given as 100 times the cosine


def target_directions(
    targets: Float[Tensor, "*image target feature"], width: int | None = None
) -> Float[Tensor, "*image target feature"]:
    """Checked targets as unit vectors, in float32 at least; `width` is the model's, if known."""
    require_targets(targets, width)
    targets = moderate(targets.detach().to(torch.promote_types(targets.dtype, torch.float32)))
    if not targets.any(-1).all():
        raise ValueError("target features are all zero: no cosine with them is defined")
    return targets / targets.norm(dim=-1, keepdim=True)


def directions_against(
    directions: Float[Tensor, "*image target feature"],
    others: Float[Tensor, "*image other feature"],
) -> Float[Tensor, "*image target feature"]:
    """Unit directions less the mean of others', which are checked as targets are.

    Raises ValueError for a target that is all that it is explained against.
    """
    mean = target_directions(others, directions.shape[-1]).mean(-2, keepdim=True)
    left = directions - mean.to(directions)
    if (left.norm(dim=-1) < torch.finfo(left.dtype).eps ** 0.5).any():
        raise ValueError("a target is the mean of what it is explained against: nothing is left")
    return left


def require_targets(targets: Tensor, width: int | None = None) -> None:
    """Raise TypeError or ValueError unless `targets` are finite vectors as wide as the model's."""
    shape = f"[target, {width or 'feature'}] or [image, target, {width or 'feature'}]"
    require_tensor(
        targets,
        f"target features must be a tensor {shape} for this model; "
        'those of texts are model.encode_text(tokenize(["a cow", "a sheep"]))',
    )
    if not targets.is_floating_point():
        raise ValueError(f"target features must be floats; got {targets.dtype}")
    if targets.ndim not in (2, 3) or targets.shape[-1] != (width or targets.shape[-1]):
        raise ValueError(
            f"target features must be {shape} for this model "
            f"(add an axis to one target with .unsqueeze(0)); got {list(targets.shape)}"
        )
    if not targets.shape[-2]:
        raise ValueError(f"there must be at least one target; got {list(targets.shape)}")
    require_finite(targets, "target features")


def moderate(vectors: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
    """Vectors of the same directions, whose squares neither overflow nor vanish; most as they are.

    Float32 takes the length of 1e20 for infinite and that of 1e-24 for zero.
    """
    largest = vectors.detach().abs().amax(-1, keepdim=True)
    usual = (largest == 0) | ((largest > 1e-6) & (largest < 1e6))
    return vectors / torch.where(usual, 1, largest)


def for_each_image(
    directions: Float[Tensor, "*image target feature"],
    images: Tensor,
    weight: Tensor,
    width: int | None = None,
) -> Float[Tensor, "image target feature"]:
    """Checked directions of each image, on the device of the model's `weight`, in float32 at least;
    `width` is that of the model's features, if known.
    """
    require_targets(directions, width)
    if directions.ndim == 3 and len(directions) != len(images):
        raise ValueError(f"got targets for {len(directions)} images, but {len(images)} images")
    dtype = torch.promote_types(weight.dtype, torch.float32)
    directions = directions.detach().to(weight.device, dtype, copy=True)
    return directions.expand(len(images), *directions.shape[-2:])


features_kept: ContextVar[list[Tensor] | None] = ContextVar("features_kept", default=None)


@contextmanager
def keeping_features() -> Iterator[list[Float[Tensor, "image feature"]]]:
    """The features that ways back start at inside the block, in this thread: who wants scores
    besides maps need not encode the images twice.
    """
    kept: list[Tensor] = []
    token = features_kept.set(kept)
    try:
        yield kept
    finally:
        features_kept.reset(token)


def objective_slopes(
    features: Float[Tensor, "image feature"], directions: Float[Tensor, "image target feature"]
) -> Float[Tensor, "target image feature"]:
    """d (f / |f|)·t / d f = (t - (t·u) u) / |f| with u = f / |f|: the way back starts here."""
    if (kept := features_kept.get()) is not None:
        kept.append(features.detach())
    exact = features.unsqueeze(1).to(directions.dtype)
    length = feature_lengths(exact)
    unit = exact / length
    along = (directions * unit).sum(-1, keepdim=True)
    return ((directions - along * unit) / length).transpose(0, 1).to(features.dtype)


def unit_scores(
    features: Float[Tensor, "image picture feature"],
    directions: Float[Tensor, "image target feature"],
) -> Float[Tensor, "image target picture"]:
    """The scalar product of unit features, some of each image, with the image's directions."""
    exact = features.to(directions.dtype)
    return directions @ (exact / feature_lengths(exact)).mT


def similarities(
    features: Float[Tensor, "*batch feature"], directions: Float[Tensor, "target feature"]
) -> Float[Tensor, "*batch target"]:
    """100 times the scalar product of the unit features with each direction."""
    exact = features.to(directions.dtype)
    return LOGIT_SCALE * (exact / feature_lengths(exact)) @ directions.T


def feature_lengths(features: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch 1"]:
    """Lengths of a model's features, or ValueError where no cosine with them is defined."""
    lengths = features.norm(dim=-1, keepdim=True)
    if not has_values(lengths):
        return lengths
    if not lengths.isfinite().all():
        raise ValueError(
            "the features that the model gives an image hold NaN or infinity: there may be one in "
            "its weights, or a number too large for its precision (then try model.float())"
        )
    if (lengths < torch.finfo(lengths.dtype).tiny ** 0.5).any():
        raise ValueError(
            "the features that the model gives an image are zero: no cosine is defined"
        )
    return lengths
