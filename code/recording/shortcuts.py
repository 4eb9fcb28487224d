"""Shortcuts for a ViT of ours that is as its classes say: nothing runs twice, and of the last block
only CLS asks.

`cls_queries`   one fused forward pass without autograd, plus the row of CLS in each block. The only
                gradient is that of the last block's row, and it stands for all. Memory grows with
                blocks x heads x tokens.
`all_queries`   every block with its own gradient: forward with whole matrices, and back block by
                block. Memory grows with blocks x heads x tokens².
`written`       as `cls_queries`, each block with the gradient at its own row where what its heads
                write to CLS goes straight to the end. No way back through any block.
`written_on`    the same, but what they write is carried on along CLS, through its MLPs.
`own_scores`    every block with the gradient of the objective asked of its own tokens. As costly as
                `all_queries`.
`last_query`    the last block alone.

`answered_features` and `surgery_features` are the features of every token.

Most take images, unit `directions [image, target, feature]` to explain and the first block to
record, and yields pairs (A_l, G_l) as `methods/` describes, last block first.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from checks import is_plain
from model import ResidualAttentionBlock, Transformer, VisionTransformer
from objective import objective_slopes
from recording.attention import Answer, Attention, by_values
from recording.gradients import gradients


class Last(NamedTuple):
    """What CLS asks in the last block, and what of."""

    query: Float[Tensor, "image head 1 depth"]
    key: Float[Tensor, "image head token depth"]
    row: Float[Tensor, "image head 1 token"]
    gradient: Float[Tensor, "image target head 1 token"]
    slopes: list[Tensor]  # of the block's input [target, image, token, width], if that asks


def are_possible(visual: VisionTransformer) -> bool:
    """Whether the shortcuts lead to what the network itself does."""
    if not isinstance(visual.transformer, Transformer):
        return False
    blocks = visual.transformer.resblocks
    inner = [getattr(block, "_orig_mod", block) for block in blocks]  # of torch.compile
    return is_plain(visual) and all(isinstance(block, ResidualAttentionBlock) for block in inner)


@torch.no_grad()
def cls_queries(
    visual: VisionTransformer, images: Tensor, directions: Tensor, first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    *early, last = visual.transformer.resblocks
    rows = []
    x = visual.embed(images)
    for index, block in enumerate(early):
        q, k, v = block.attn.queries_keys_values(block.ln_1(x))
        if index >= first:
            rows.append(block.attn.probabilities(q[:, :, :1], k))
        x = block.finish(x, F.scaled_dot_product_attention(q, k, v))
    end = last_block(visual, last, x, directions)
    for attention in [end.row, *reversed(rows)]:
        yield attention, end.gradient


@torch.no_grad()
def last_query(
    visual: VisionTransformer, images: Tensor, directions: Tensor, one_head: bool
) -> Last:
    *early, last = visual.transformer.resblocks
    x = visual.embed(images)
    for block in early:
        x = block(x)
    return last_block(visual, last, x, directions, one_head)


@torch.no_grad()
def all_queries(
    visual: VisionTransformer, images: Tensor, directions: Tensor, first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    *early, last = visual.transformer.resblocks
    x = visual.embed(images)
    for block in early[:first]:
        x = block(x)
    # Each block is a graph of its own, freed as soon as the way back has passed it.
    passed = []
    for block in early[first:]:
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            q, k, v = block.attn.queries_keys_values(block.ln_1(x))
            attention = block.attn.probabilities(q, k)
            end = block.finish(x, attention @ v)
        passed.append((x, attention, end))
        x = end
    x = x.detach().requires_grad_(bool(passed))
    last = last_block(visual, last, x, directions)
    yield last.row, last.gradient
    slopes = last.slopes
    while passed:
        start, attention, end = passed.pop()
        wanted = (attention, start) if passed else (attention,)  # before the first is nothing
        gradient, *slopes = gradients(end, wanted, *slopes)
        yield attention.detach(), gradient.transpose(0, 1)


@torch.no_grad()
def written(
    visual: VisionTransformer, images: Tensor, directions: Tensor, first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    read, _, cls = read_by_cls(visual, images, first)
    with torch.enable_grad():
        cls.requires_grad_()
        features = visual.project(cls[:, 0])
    (slope,) = gradients(features, (cls,), objective_slopes(features.detach(), directions))
    blocks = list(visual.transformer.resblocks)[first:]
    for block, (row, value) in zip(reversed(blocks), reversed(read), strict=True):
        asked = (slope @ block.attn.out_proj.weight).unflatten(-1, (value.shape[1], -1))
        yield row, at_attention(asked.transpose(2, 3), value)


@torch.no_grad()
def written_on(
    visual: VisionTransformer, images: Tensor, directions: Tensor, first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    read, cls, _ = read_by_cls(visual, images, first)
    mixed = [row @ value for row, value in read]
    with torch.enable_grad():
        for block, answer in zip(visual.transformer.resblocks[first:], mixed, strict=True):
            cls = block.finish(cls, answer.requires_grad_())
        features = visual.project(cls[:, 0])
    slopes = gradients(features, mixed, objective_slopes(features.detach(), directions))
    for slope, (row, value) in zip(reversed(slopes), reversed(read), strict=True):
        yield row, at_attention(slope, value)


@torch.no_grad()
def own_scores(
    visual: VisionTransformer, images: Tensor, directions: Tensor, first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each block from `first` on, its attention, with the gradient of the objective asked of the
    mean of its own tokens.
    """
    x = visual.embed(images)
    for index, block in enumerate(visual.transformer.resblocks):
        if index < first:
            x = block(x)
            continue
        q, k, v = block.attn.queries_keys_values(block.ln_1(x))
        attention = block.attn.probabilities(q, k)
        with torch.enable_grad():
            mixed = (attention @ v).requires_grad_()
            end = block.finish(x, mixed)
            features = visual.project(end.mean(1))
        slopes = objective_slopes(features.detach(), directions)
        (slopes,) = gradients(features, (mixed,), slopes)
        yield attention, at_attention(slopes, v)
        x = end.detach()


@torch.no_grad()
def answered_features(
    visual: VisionTransformer, images: Tensor, answer: Answer
) -> Float[Tensor, "image token feature"]:
    """The features of every token, the attention of the last block having another answer."""
    *early, last = visual.transformer.resblocks
    x = visual.embed(images)
    for block in early:
        x = block(x)
    attention = Attention(*last.attn.queries_keys_values(last.ln_1(x)))
    return visual.project(last.finish(x, answer(attention)))


@torch.no_grad()
def surgery_features(
    visual: VisionTransformer, images: Tensor, first: int
) -> Float[Tensor, "image token feature"]:
    """The features of every token, of the stream before block `first` and what the blocks from
    there on add to it where values attend to each other. They read the stream as it is otherwise.
    """
    blocks = list(visual.transformer.resblocks)
    x = visual.embed(images)
    for block in blocks[:first]:
        x = block(x)
    new = x
    for block in blocks[first:]:
        q, k, v = block.attn.queries_keys_values(block.ln_1(x))
        new = new + block.attn.merge(by_values(Attention(q, k, v)))
        x = block.finish(x, F.scaled_dot_product_attention(q, k, v))
    return visual.project(new)


def read_by_cls(
    visual: VisionTransformer, images: Tensor, first: int
) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]:
    """Of each block from `first` on, the row of CLS [image, head, 1, token] and all values [image,
    head, token, depth]; and CLS before the first of them and after the last, [image, 1, width].
    """
    blocks = visual.transformer.resblocks
    read, x = [], visual.embed(images)
    for index, block in enumerate(blocks):
        if index == first:
            start = x[:, :1]
        if index < len(blocks) - 1:
            q, k, v = block.attn.queries_keys_values(block.ln_1(x))
            row = block.attn.probabilities(q[:, :, :1], k)
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            q, k, v = block.attn.cls_query_keys_values(block.ln_1(x))
            row = block.attn.probabilities(q, k)
            x, mixed = x[:, :1], row @ v
        if index >= first:
            read.append((row, v.contiguous()))  # a copy: v alone would keep q and k in memory
        x = block.finish(x, mixed)
    return read, start, x


def at_attention(
    slopes: Float[Tensor, "target image head query depth"],
    value: Float[Tensor, "image head token depth"],
) -> Float[Tensor, "image target head query token"]:
    """The gradient at the attention, of that at its answer.

    mixed = attention @ value, written out because autograd would copy the value for every target.
    """
    return torch.einsum("kbhqd,bhtd->bkhqt", slopes, value)


def last_block(
    visual: VisionTransformer,
    block: ResidualAttentionBlock,
    x: Float[Tensor, "image token width"],
    directions: Float[Tensor, "image target feature"],
    one_head: bool = False,
) -> Last:
    """The features are read from CLS: of all other tokens only keys and values are computed.

    one_head: attend with one head as wide as the stream, which is another network.
    """
    with torch.enable_grad():
        q, k, v = block.attn.cls_query_keys_values(block.ln_1(x))
        row = block.attn.probabilities(*(map(one_wide, (q, k)) if one_head else (q, k)))
        mixed = row @ v
        if not mixed.requires_grad:  # neither x nor any parameter does
            mixed.requires_grad_()
        features = visual.project(block.finish(x[:, :1], mixed)[:, 0])
    slopes = objective_slopes(features.detach(), directions)
    wanted = (mixed, x) if x.requires_grad else (mixed,)
    slopes, *rest = gradients(features, wanted, slopes)
    return Last(q.detach(), k.detach(), row.detach(), at_attention(slopes, v.detach()), rest)


def one_wide(
    heads: Float[Tensor, "image head token depth"],
) -> Float[Tensor, "image 1 token width"]:
    """All heads as one."""
    return heads.transpose(1, 2).flatten(2).unsqueeze(1)
