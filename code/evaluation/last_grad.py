"""What `last grad` is made of, and what it leaves out.

Its closed form is a weighted sum of CLS rows, block by block:

    r = Σ_l w_l c_l,   c_l = mean_h relu(g_h ∘ A_l[h, 0]),   w_l = Π_{m > l} (1 + c_m[0])

So a map can be taken apart, exactly, into what each block and each head of it puts in (`shares`).
It filters every block by the gradient g of the last, head by head. `agreement` tells how much that
has to do with a block's own gradient, and VARIANTS change one thing at a time on the way from
`gradcam` to `all grads`.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from methods import Method
from methods.attention_gradients import propagate
from objective import for_each_image, target_directions
from recording import Recording, record_matrices, record_readers
from recording.encoders import encoder_of
from saliency import vit_encoder

Images = Float[Tensor, "image 3 row column"]
Targets = Float[Tensor, "*image target feature"]
Maps = Float[Tensor, "image target row column"]


def recorded(record: Callable, model: nn.Module, images: Images, targets: Targets) -> Recording:
    """All blocks of the model, last first, as methods read them."""
    return record(*encoder_and_inputs(model, images, targets), 0)


def encoder_and_inputs(model: nn.Module, images: Images, targets: Targets) -> tuple:
    visual = vit_encoder(model).model
    weight = visual.conv1.weight
    directions = for_each_image(target_directions(targets, visual.output_dim), images, weight)
    return encoder_of(visual), images.to(weight), directions


def shares(
    model: nn.Module, images: Images, targets: Targets
) -> Float[Tensor, "block head image target row column"]:
    """What each head of each block puts into the map: their sum is the map of `last grad`."""
    found, factor = [], 1
    for attention, gradient in recorded(record_readers, model, images, targets):
        heads = (gradient * attention).relu()[:, :, :, 0] / attention.shape[2]
        found.append((heads[..., 1:] * factor).permute(2, 0, 1, 3))
        # The way through CLS itself: how much of the blocks below comes in once more.
        factor = factor * (1 + heads[..., 0].sum(2)[:, :, None, None])
    return torch.stack(found[::-1]).unflatten(-1, vit_encoder(model).model.grid(images))


def agreement(
    model: nn.Module, images: Images, targets: Targets
) -> Float[Tensor, "block image target"]:
    """The cosine of the gradient at each block's row of CLS with that of the last, all heads."""
    rows = [
        gradient[:, :, :, 0].flatten(2)
        for _, gradient in recorded(record_matrices, model, images, targets)
    ]
    return torch.stack([F.cosine_similarity(row, rows[0], dim=-1) for row in rows[::-1]])


def other_heads(recording: Recording) -> Float[Tensor, "image target token"]:
    """`last grad` with the heads of earlier blocks exchanged: h is filtered by the gradient of
    h + 1. Nothing in training makes a head of one block correspond to that of another.
    """
    pairs = (
        (attention, gradient.roll(1, 2) if earlier else gradient)
        for earlier, (attention, gradient) in enumerate(recording.pairs)
    )
    return propagate(replace(recording, pairs=pairs))


def own_gradients(recording: Recording) -> Float[Tensor, "image target token"]:
    """`last grad` with each block's own gradient: the rows of CLS of `all grads` alone, without its
    ways from patch to patch.
    """
    pairs = (
        (attention[..., :1, :], gradient[..., :1, :]) for attention, gradient in recording.pairs
    )
    return propagate(replace(recording, pairs=pairs))


VARIANTS = {
    "other heads": Method(other_heads, record_readers),
    "own gradients": Method(own_gradients, record_matrices),
}


def variant_maps(model: nn.Module, images: Images, targets: Targets, variant: str) -> Maps:
    """As `relevance_maps`, by one of VARIANTS."""
    return VARIANTS[variant].explain(*encoder_and_inputs(model, images, targets), 0)
