"""What other methods read of a network than attention with its gradient.

`record_attention`    whole matrices of all blocks, their heads averaged, without any gradient.
`record_similarity`   of the last block, how similar the query of CLS is to each key, in the place
                      of attention.
`record_own_scores`   of every block its attention, with the gradient of the objective asked of the
                      mean of its own tokens.
`record_own_values`, `record_correlations`, `record_surgery`   features of every token, where
                      attention has another answer.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from objective import feature_lengths
from recording import (
    Recording,
    even,
    first_block,
    is_ours_as_written,
    last_gradient,
    of_cls,
    patches,
    pooled,
    recording,
    shortcuts,
)
from recording.attention import Answer, by_queries_and_keys, own_value
from recording.encoders import Encoder, Grid, Images
from recording.runs import OtherPooling, Run, require_graph
from recording.tokens import Tokens

SURGERY = 6  # blocks, in the published code of CLIP Surgery


@dataclass
class Dense:
    """Features of every token, and the directions that they are compared with."""

    features: Float[Tensor, "image token feature"]
    directions: Float[Tensor, "image target feature"]
    grid: Grid
    prefix: int


def record_attention(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
) -> Recording:
    run = Run(encoder, images, whole=True)
    if is_ours_as_written(encoder) or encoder.pooling == "CLS":
        feature_lengths(run.read())  # refuses a broken network
        asks = torch.arange(run.layers[0].rows.shape[-1]) == 0
    else:
        encoder.pooling, features, asks = pooled(run)
        feature_lengths(features)
    first = first_block(start_block, len(run.layers))
    layers = [*run.layers[first:], *([run.probe] if run.probe else [])]
    pairs = ((layer.attention.probabilities().mean(1, True), None) for layer in reversed(layers))
    weights = even(asks.to(directions.device), directions)
    return recording(encoder, run, pairs, weights, None if run.probe else weights)


def record_similarity(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
) -> Recording:
    if is_ours_as_written(encoder):
        first_block(start_block, len(encoder.model.transformer.resblocks))
        last = shortcuts.last_query(encoder.model, images, directions, False)
        pair = similarity(last.query, last.key), last.gradient
        return of_cls(iter([pair]), directions, encoder.model.grid(images))
    run = Run(encoder, images)
    encoder.pooling, features, _ = pooled(run)
    if encoder.pooling != "CLS":
        raise OtherPooling
    first_block(start_block, len(run.layers))
    last = run.layers[-1]
    gradient = last_gradient(encoder, run, last, features, directions)[:, :, :, :1]
    pair = similarity(last.attention.query[:, :, :1], last.attention.key), gradient
    return of_cls(iter([pair]), directions, *patches(encoder, run))


def record_one_head(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
) -> Recording:
    """As `record_similarity`, as the published code has it: the last block attends with one head,
    and queries and keys are compared behind the output projection, with its bias.
    """
    require_ours(encoder)
    visual = encoder.model
    blocks = visual.transformer.resblocks
    first_block(start_block, len(blocks))
    last = shortcuts.last_query(visual, images, directions, True)
    with torch.no_grad():
        out = blocks[-1].attn.merge
        projected = (out(heads).unsqueeze(1) for heads in (last.query, last.key))
        pair = similarity(*projected), last.gradient
    return of_cls(iter([pair]), directions, visual.grid(images))


def require_ours(encoder: Encoder) -> None:
    if not is_ours_as_written(encoder):
        raise ValueError(
            "Grad-ECLIP with one head is for the ViTs of clip_.load, with nothing done to them; "
            "Grad-ECLIP takes any whose features are read from CLS"
        )


def similarity(
    query: Float[Tensor, "image head 1 depth"], key: Float[Tensor, "image head token depth"]
) -> Float[Tensor, "image 1 1 token"]:
    """The cosine of the query with each key, all heads together."""
    query, key = (F.normalize(shortcuts.one_wide(one), dim=-1) for one in (query, key))
    return query @ key.mT


def record_own_scores(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
) -> Recording:
    if is_ours_as_written(encoder):
        first = first_block(start_block, len(encoder.model.transformer.resblocks))
        pairs = shortcuts.own_scores(encoder.model, images, directions, first)
        return of_cls(pairs, directions, encoder.model.grid(images))
    tokens, features = tokens_of(encoder, images)
    require_graph(tokens.features_of_cls(features, len(tokens.layers) - 1))
    encoder.pooling = "CLS"
    first = first_block(start_block, len(tokens.layers))
    return of_cls(
        tokens.own_scores(encoder, directions, first), directions, *patches(encoder, tokens)
    )


def record_answered(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None, answer: Answer
) -> Dense:
    if is_ours_as_written(encoder):
        first_block(start_block, len(encoder.model.transformer.resblocks))
        features = shortcuts.answered_features(encoder.model, images, answer)
        return Dense(features, directions, encoder.model.grid(images), 1)
    tokens, features = tokens_of(encoder, images)
    first_block(start_block, len(tokens.layers))
    dense = tokens.answered_features(features, answer)
    encoder.pooling = "CLS"
    return Dense(dense, directions, *patches(encoder, tokens))


record_own_values = partial(record_answered, answer=own_value)
record_correlations = partial(record_answered, answer=by_queries_and_keys)


def record_surgery(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
) -> Dense:
    if is_ours_as_written(encoder):
        first = first_block(start_block, len(encoder.model.transformer.resblocks), SURGERY)
        features = shortcuts.surgery_features(encoder.model, images, first)
        return Dense(features, directions, encoder.model.grid(images), 1)
    tokens, features = tokens_of(encoder, images)
    first = first_block(start_block, len(tokens.layers), SURGERY)
    dense = tokens.surgery_features(features, first)
    encoder.pooling = "CLS"
    return Dense(dense, directions, *patches(encoder, tokens))


def tokens_of(encoder: Encoder, images: Images) -> tuple[Tokens, Float[Tensor, "image feature"]]:
    """A run of anybody's network and its features; OtherPooling where a pool reads them."""
    tokens = Tokens(encoder, images)
    features = tokens.read()
    if tokens.probe:
        raise OtherPooling
    return tokens, features
