"""Run an image encoder and record its attention, with the gradient of the objective at it.

`record_readers`    the attention of what the features are read from alone: the row of CLS in each
                    block, or that of an attention pool, with the gradient of the last. About one
                    forward pass, whatever the number of targets.
`record_matrices`   whole matrices of all blocks, each with its own gradient: as much memory and
                    time as autograd takes. `pairs_at_once` says how many pairs of image and target
                    do not slow each other down.

Both leave no trace on the network, and ask for no gradient of a parameter. A ViT of ours is
recorded by `shortcuts.py` where nothing was done to it; anybody's network, and ours with hooks,
adapters or other modules, by `runs.py`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import index

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from model import Attention, ResidualAttentionBlock, VisionTransformer
from objective import objective_slopes
from recording import shortcuts
from recording.encoders import Encoder, Grid, Images
from recording.gradients import gradients, one_by_one
from recording.runs import (
    Layer,
    NoAttention,
    Run,
    TooFewTokens,
    askers,
    require_graph,
    tokens_of_pixels,
)
from recording.shortcuts import at_attention

Pair = tuple[
    Float[Tensor, "image 1 head query token"], Float[Tensor, "image target head query token"] | None
]

# Bytes that the matrices of one block may take. On a CPU, a tensor of more than 32 MiB goes back to
# the system and is fetched anew, which takes longer than the arithmetic.
MOST_BYTES = {"cpu": 2**24}
MOST_ELSEWHERE = 2**30
PAIRS_OF_OTHERS = 8  # whose heads and tokens are not known before they run
MOST_PREFIX = 16  # tokens before the patches: CLS and registers


@dataclass
class Recording:
    """What was read of a network, as methods want it.

    pairs: of each layer, last first, its attention A_l and a gradient G_l, in float32 at least; no
        gradient where a method asks for none.
    asks: how much of the features is read from each query of the first pair.
    start: how much is read from each token itself; zero where a pool of other queries reads.
    grid: rows and columns of the patches; of each image, where they differ.
    prefix: the number of tokens before the patches.
    """

    pairs: Iterator[Pair]
    asks: Float[Tensor, " query"]
    start: Float[Tensor, " token"]
    grid: Grid | list[Grid]
    prefix: int

    def __iter__(self) -> Iterator[Pair]:
        for attention, gradient in self.pairs:
            dtype = torch.promote_types(attention.dtype, torch.float32)
            if gradient is not None:
                gradient = gradient.to(dtype)
            yield attention.unsqueeze(1).to(dtype), gradient


def record_readers(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
) -> Recording:
    if is_ours_as_written(encoder):
        return by_shortcut(shortcuts.cls_queries, encoder, images, directions, start_block)
    run = Run(encoder, images, whole=encoder.pooling == "average")
    encoder.pooling, features, asks = pooled(run)
    first = first_block(start_block, len(run.layers))
    layer = run.probe or run.layers[-1]
    if encoder.pooling == "CLS":
        gradient = last_gradient(encoder, run, layer, features, directions)[:, :, :, :1]
        pairs = ((layer.rows, gradient) for layer in run.layers[first:][::-1])
        return of_cls(pairs, directions, *patches(encoder, run))
    if encoder.pooling == "probe":
        require_all_blocks(first)
        gradient = last_gradient(encoder, run, layer, features, directions)[:, :, :, asks]
        attention = layer.attention.probabilities()[:, :, asks]
        weights = even(asks, directions)[asks]
        return recording(encoder, run, iter([(attention, gradient)]), weights)
    if not run.whole:
        return record_readers(encoder, images, directions, start_block)
    gradient = last_gradient(encoder, run, layer, features, directions)
    pairs = ((layer.attention.probabilities(), gradient) for layer in run.layers[first:][::-1])
    weights = even(asks, directions)
    return recording(encoder, run, pairs, weights, weights)


def pooled(run: Run) -> tuple[str, Float[Tensor, "image feature"], Bool[Tensor, " query"]]:
    """What the features are read from; the features with their graph, from `run.leaf` on; and which
    queries of the last attention, or of the probe's, they depend on.
    """
    features = run.read()
    if run.probe:
        return "probe", features, askers(features, run.leaf)
    again = features_of_cls(run, features)
    if again is None:
        again = features_of_all(run, features)
    asks = askers(again, run.leaf)
    if not asks.any():
        raise ValueError("the features do not depend on the attention of the last block")
    return "CLS" if asks[0] and not asks[1:].any() else "average", again, asks


def pooling_of(encoder: Encoder, images: Images) -> str | None:
    """What the features are read from: "CLS", "probe", "average", or None if nothing attends."""
    try:
        return pooled(Run(encoder, images))[0]
    except NoAttention:
        return None


def record_matrices(
    encoder: Encoder, images: Images, directions: Tensor, start_block: int | None
) -> Recording:
    if is_ours_as_written(encoder):
        return by_shortcut(shortcuts.all_queries, encoder, images, directions, start_block)
    run = Run(encoder, images)
    features, attentions = run.graph()
    each = (askers(features, attention) for attention in reversed(attentions))
    asks = next((asks for asks in each if asks.any()), None)
    if asks is None:
        raise ValueError("the features do not depend on the attention of any block")
    attentions = attentions[first_block(start_block, len(run.layers)) :]
    slopes = objective_slopes(features.detach(), directions)
    found = one_by_one(features, attentions, slopes)
    pairs = [
        (attention.detach(), gradient.transpose(0, 1))
        for attention, gradient in zip(attentions, found, strict=True)
    ][::-1]
    weights = even(asks, directions)
    return recording(encoder, run, iter(pairs), weights, None if run.probe else weights)


def is_ours_as_written(encoder: Encoder) -> bool:
    return encoder.runs(VisionTransformer) and shortcuts.are_possible(encoder.model)


def by_shortcut(
    record: Callable[..., Iterator[tuple[Tensor, Tensor]]],
    encoder: Encoder,
    images: Images,
    directions: Tensor,
    start_block: int | None,
) -> Recording:
    visual = encoder.model
    first = first_block(start_block, len(visual.transformer.resblocks))
    return of_cls(record(visual, images, directions, first), directions, visual.grid(images))


def of_cls(
    pairs: Iterator[tuple[Tensor, Tensor]], directions: Tensor, grid: Grid, prefix: int = 1
) -> Recording:
    """Features that are read from the first token alone."""
    rows, columns = grid
    asks = directions.new_ones(1)
    start = directions.new_zeros(prefix + rows * columns)
    start[0] = 1
    return Recording(pairs, asks, start, grid, prefix)


def recording(
    encoder: Encoder,
    run: Run,
    pairs: Iterator[tuple[Tensor, Tensor]],
    asks: Float[Tensor, " query"],
    start: Float[Tensor, " token"] | None = None,
) -> Recording:
    if start is None:
        start = asks.new_zeros(run.layers[0].rows.shape[-1])
    return Recording(pairs, asks, start, *patches(encoder, run))


def even(asks: Tensor, directions: Tensor) -> Float[Tensor, " query"]:
    """The same share for all that ask."""
    return asks.to(directions) / asks.sum()


def features_of_cls(run: Run, features: Tensor) -> Float[Tensor, "image feature"] | None:
    """The features of a run on, from the answer to CLS, or None if they are read from more."""
    if run.whole:
        return None
    try:
        again = run.tail(1)
    except TooFewTokens:
        return None
    return again if are_same(again.detach(), features) else None


def features_of_all(run: Run, features: Tensor) -> Float[Tensor, "image feature"]:
    """The features of a run on, from the answer to all tokens. If the last block alone does not
    lead there (it works in place, or earlier ones are read too), the whole network runs again.
    """
    for from_start in (False, True):
        again = run.tail(None, from_start)
        if are_same(again.detach(), features):
            return again
    raise ValueError(
        "this model does not give the same features twice: is something in it drawn at random?"
    )


def are_same(found: Float[Tensor, "image feature"], features: Tensor) -> bool:
    """But for rounding."""
    far = (found - features).norm(dim=-1) / features.norm(dim=-1)
    return bool((far < torch.finfo(far.dtype).eps ** 0.5).all())


def last_gradient(
    encoder: Encoder, run: Run, layer: Layer, features: Tensor, directions: Tensor
) -> Float[Tensor, "image target head query token"]:
    """The gradient at the attention of the last layer."""
    require_graph(features)
    slopes = objective_slopes(features.detach(), directions)
    (slopes,) = gradients_of(encoder)(features, (run.leaf,), slopes)
    return at_attention(slopes, layer.attention.value.detach())


def gradients_of(encoder: Encoder) -> Callable[..., Sequence[Tensor]]:
    """How they are found: hooks on the way back want one target at a time."""
    modules = encoder.model.modules()
    return (
        one_by_one
        if any(m._backward_hooks or m._backward_pre_hooks for m in modules)
        else gradients
    )


def patches(encoder: Encoder, run: Run) -> tuple[Grid | list[Grid], int]:
    """The patch grid, and the number of tokens before the patches; ValueError if that cannot be
    told.
    """
    tokens = run.layers[0].rows.shape[-1]
    if isinstance(run.images, Mapping) and "spatial_shapes" in run.images:
        return [tuple(shape) for shape in run.images["spatial_shapes"].tolist()], 0
    rows, columns = encoder.grid or run.grid or (0, 0)
    prefix = tokens - rows * columns
    if not 0 <= prefix <= (tokens if encoder.grid else MOST_PREFIX):
        raise ValueError(
            f"which of {tokens} tokens are patches cannot be told (of a grid {rows} x {columns}): "
            "give an Encoder with grid=(rows, columns)"
        )
    certain = prefix == 0 or (prefix == 1 and encoder.pooling == "CLS")
    if not certain and not tokens_of_pixels(encoder, run.images)[prefix:].all():
        raise ValueError(
            f"the last {rows * columns} of {tokens} tokens are not the patches: there are others "
            "(registers, prompts) behind them, so that no map can be laid out"
        )
    return (rows, columns), prefix


def require_all_blocks(first: int) -> None:
    if first:
        raise ValueError(
            "start_block is for models whose blocks are read; of this one the attention pool is"
        )


def first_block(start_block: int | None, blocks: int, usual: int | None = None) -> int:
    """The number of the block to start at; by default (None) that of the last `usual` blocks which
    is the first, or of all.
    """
    if start_block is None:
        return max(0, blocks - (usual or blocks))
    return block_number(start_block, blocks)


def block_number(block: int, blocks: int) -> int:
    """A block's number from the start; negative ones count from the end."""
    try:
        number = index(None if isinstance(block, bool) else block)
    except TypeError:  # arrays have the method, but are no number
        raise TypeError(
            f"a block is given by its number, 0 to {blocks - 1}; got {block!r}"
        ) from None
    if not -blocks <= number < blocks:
        raise ValueError(
            f"block {block} is out of range: this model has blocks 0 to {blocks - 1} "
            f"(or {-blocks} to -1, from the end)"
        )
    return number % blocks


def forget_attention(model: nn.Module) -> None:
    """Empty `attn_probs` and `attn_grad` of all blocks of ours: they are those of other images."""
    for module in model.modules():
        if isinstance(module, ResidualAttentionBlock):
            module.attn_probs = None


def pairs_at_once(encoder: Encoder, images: Images) -> int:
    """How many pairs of image and target go well together where whole matrices are recorded, one
    at least.
    """
    ours = [module for module in encoder.model.modules() if isinstance(module, Attention)]
    if not (ours and isinstance(encoder.model, VisionTransformer)):
        return PAIRS_OF_OTHERS
    rows, columns = encoder.model.grid(images)
    pair = ours[0].heads * (rows * columns + 1) ** 2
    most = MOST_BYTES.get(images.device.type, MOST_ELSEWHERE)
    return max(1, most // (pair * images.element_size()))
