"""What methods read of a ResNet of ours: its attention pool.

The pool's one query, the mean of all cells, attends to the cells and to itself, and nothing follows
but a projection: so the features are a sum over cells.

`record_pool`         the attention, with the gradient of the objective at it.
`record_pool_query`   how similar the query is to each key, in the place of attention.
`record_cells`, `record_cells_surgery`   features of every cell.

The trunk runs once, without autograd, and every projection of the pool that counts is called as it
is; but where keys themselves are not asked for, a plain projection goes to the query's side.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from checks import is_plain, is_plain_itself
from model import AttentionPool2d, ModifiedResNet, fit_positions
from objective import objective_slopes
from recording import Recording, gradients_of, of_cls, require_graph
from recording.attention import Attention, by_values
from recording.encoders import Encoder
from recording.others import Dense, similarity
from recording.shortcuts import at_attention
from recording.twins import twins

Images = Float[Tensor, "image 3 height width"]


def record_pool(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
) -> Recording:
    pool, x, positions = read_trunk(encoder, images)
    with torch.no_grad():
        if is_plain(pool.k_proj):  # no key is computed for any cell
            row = pool.weights(x, positions, x.new_zeros(len(x), 1, x.shape[1])).transpose(1, 2)
            value = pool.values(x, positions)
        else:
            attention = Attention(*pool.query_keys_values(x, positions))
            row, value = attention.probabilities(), attention.value
    gradient = pool_gradient(encoder, pool, row, value, directions)
    return of_cls(iter([(row, gradient)]), directions, encoder.model.grid(images))


def record_pool_query(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
) -> Recording:
    pool, x, positions = read_trunk(encoder, images)
    with torch.no_grad():
        attention = Attention(*pool.query_keys_values(x, positions))
    row, value = attention.probabilities(), attention.value
    gradient = pool_gradient(encoder, pool, row, value, directions)
    pair = similarity(attention.query, attention.key), gradient
    return of_cls(iter([pair]), directions, encoder.model.grid(images))


@torch.no_grad()
def record_cells(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
) -> Dense:
    pool, x, positions = read_trunk(encoder, images)
    features = pool.merge(pool.values(x, positions))
    return Dense(features, directions, encoder.model.grid(images), 1)


@torch.no_grad()
def record_cells_surgery(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
) -> Dense:
    pool, x, positions = read_trunk(encoder, images)
    value = pool.values(x, positions)
    features = pool.merge(by_values(Attention(value, value, value)))
    return Dense(features, directions, encoder.model.grid(images), 1)


@torch.no_grad()
def read_trunk(encoder: Encoder, images: Images) -> tuple[AttentionPool2d, Tensor, Tensor]:
    """The pool, the cells that it is given and the positions of its tokens. ValueError unless the
    network is trunk and pool, and nothing else.
    """
    visual = encoder.model
    if not has_plain_pool(visual):
        raise ValueError(
            "something was done to this ResNet (a hook, another class) at its attention pool, "
            "which is what this method reads: GradCAM takes it"
        )
    visual = twins(visual)[visual]  # which is in evaluation mode
    pool = visual.attnpool
    positions = fit_positions(pool.positional_embedding, visual.grid(images))
    return pool, visual.trunk(images), positions


def has_plain_pool(visual: ModifiedResNet) -> bool:
    """Whether a ResNet of ours is its trunk and pool, and nothing was done to either as a whole."""
    known = isinstance(visual.attnpool, AttentionPool2d)
    return known and is_plain_itself(visual) and is_plain_itself(visual.attnpool)


def pool_gradient(
    encoder: Encoder, pool: AttentionPool2d, row: Tensor, value: Tensor, directions: Tensor
) -> Float[Tensor, "image target head 1 token"]:
    answer = (row @ value).requires_grad_()
    features = pool.merge(answer)[:, 0]
    require_graph(features)
    slopes = objective_slopes(features.detach(), directions)
    (slopes,) = gradients_of(encoder)(features, (answer,), slopes)
    return at_attention(slopes, value)
