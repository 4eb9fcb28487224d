"""What methods read of a ResNet of ours: its attention pool.

The pool's one query, the mean of all cells, attends to the cells and to itself, and nothing follows
but a projection: so the features are a sum over cells.

`record_pool`         the attention, with the gradient of the objective at it.
`record_pool_query`   how similar the query is to each key, in the place of attention.
`record_cells`, `record_cells_surgery`   features of every cell.

The trunk runs once, without autograd, and every projection of the pool is called as it is.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from checks import is_plain_itself
from model import AttentionPool2d, fit_positions
from objective import objective_slopes
from recording import Recording, gradients_of, require_graph
from recording.attention import Attention, by_values
from recording.encoders import Encoder
from recording.others import Dense, similarity
from recording.shortcuts import at_attention

Images = Float[Tensor, "image 3 height width"]


def record_pool(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None = 0
) -> Recording:
    read = read_pool(encoder, images)
    return of_pool(encoder, images, directions, read, read.probabilities())


def record_pool_query(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None = 0
) -> Recording:
    read = read_pool(encoder, images)
    return of_pool(encoder, images, directions, read, similarity(read.query, read.key))


def of_pool(
    encoder: Encoder, images: Images, directions: Tensor, read: Attention, attention: Tensor
) -> Recording:
    gradient = pool_gradient(encoder, read, directions)
    asks = directions.new_ones(1)
    start = directions.new_zeros(attention.shape[-1])
    return Recording(iter([(attention, gradient)]), asks, start, encoder.model.grid(images), 1)


def record_cells(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None = 0
) -> Dense:
    return of_cells(encoder, images, directions, read_pool(encoder, images).value)


def record_cells_surgery(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None = 0
) -> Dense:
    return of_cells(encoder, images, directions, by_values(read_pool(encoder, images)))


def of_cells(encoder: Encoder, images: Images, directions: Tensor, answers: Tensor) -> Dense:
    with torch.no_grad():
        features = pool_of(encoder).merge(answers)
    return Dense(features, directions, encoder.model.grid(images), 1)


def pool_of(encoder: Encoder) -> AttentionPool2d:
    """ValueError unless the features are what the pool makes of the trunk."""
    visual = encoder.model
    if not (is_plain_itself(visual) and is_plain_itself(visual.attnpool)):
        raise ValueError(
            "something was done to this ResNet (a hook, another class) behind its attention pool, "
            "which is what this method reads: GradCAM takes it"
        )
    return visual.attnpool


@torch.no_grad()
def read_pool(encoder: Encoder, images: Images) -> Attention:
    """Its tokens are the mean of all cells, which alone asks, and the cells."""
    pool = pool_of(encoder)
    x = encoder.model.trunk(images)
    positions = fit_positions(pool.positional_embedding, encoder.model.grid(images))
    return Attention(*pool.query_keys_values(x, positions))


def pool_gradient(
    encoder: Encoder, read: Attention, directions: Tensor
) -> Float[Tensor, "image target head 1 token"]:
    mixed = read.answer().requires_grad_()
    features = pool_of(encoder).merge(mixed)[:, 0]
    require_graph(features)
    slopes = objective_slopes(features.detach(), directions)
    (slopes,) = gradients_of(encoder)(features, (mixed,), slopes)
    return at_attention(slopes, read.value)
