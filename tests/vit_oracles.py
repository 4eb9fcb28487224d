"""The definitions of the ViT methods, written plainly: whole matrices and ordinary autograd."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(NamedTuple):
    """Of one block, for one image and objective."""

    attention: Tensor  # [head, token, token]
    gradient: Tensor  # of the objective at it
    written: Tensor  # [head, token]: V W g, g the gradient at CLS after the last block
    carried: Tensor  # the same, g carried back along CLS to behind this block's attention


Pairs = list[tuple[Tensor, Tensor]]  # attention and gradient


def held_pairs(visual: nn.Module, image: Tensor, objective: Callable[[Tensor], Tensor]) -> Pairs:
    """What the blocks hold after one image [3, H, W] went forward, and objective(features) back."""
    objective(visual(image.unsqueeze(0))).backward()
    visual.zero_grad()
    return [(block.attn_probs, block.attn_grad) for block in visual.transformer.resblocks]


def recorded_blocks(
    visual: nn.Module, image: Tensor, objective: Callable[[Tensor], Tensor]
) -> list[Block]:
    """All blocks after one image [3, H, W] went forward, and objective(features) back."""
    pairs = held_pairs(visual, image, objective)
    with torch.no_grad():
        x, streams = visual.embed(image.unsqueeze(0)), []
        for block in visual.transformer.resblocks:
            streams.append(x[0])
            x = block(x)
    end = x[:, 0].requires_grad_()
    (slope,) = torch.autograd.grad(objective(visual.project(end)), end)
    slope = carried = slope[0]
    blocks = []
    for block, pair, stream in reversed(
        list(zip(visual.transformer.resblocks, pairs, streams, strict=True))
    ):
        values, heads = values_and_projections(block, stream)
        cls = stream[0] + sum(a[0] @ v @ w for a, v, w in zip(pair[0], values, heads, strict=True))
        cls = (cls + block.attn.out_proj.bias).detach().requires_grad_()
        behind = cls + block.mlp(block.ln_2(cls))
        (carried,) = torch.autograd.grad(behind, cls, carried)
        read = [values @ heads @ g for g in (slope, carried)]
        blocks.append(Block(*pair, *(one.detach() for one in read)))
    return blocks[::-1]


def values_and_projections(block: nn.Module, stream: Tensor) -> tuple[Tensor, Tensor]:
    """Of each head, V [head, token, depth] and W [head, depth, width]."""
    attention, width = block.attn, stream.shape[-1]
    weight, bias = attention.in_proj_weight[-width:], attention.in_proj_bias[-width:]
    values = (block.ln_1(stream) @ weight.T + bias).unflatten(1, (attention.heads, -1))
    return values.transpose(0, 1), attention.out_proj.weight.T.unflatten(0, (attention.heads, -1))


def cosine(target: Tensor, negative: bool = False) -> Callable[[Tensor], Tensor]:
    sign = -1 if negative else 1
    return lambda features: sign * F.cosine_similarity(features[0], target, dim=0)


def gradcam(blocks: Pairs) -> Tensor:
    attention, gradient = blocks[-1][:2]
    return (attention * gradient).relu().mean(0)[0]


def all_grads(blocks: Pairs) -> Tensor:
    """Chefer et al.: R starts as the identity; R = R + C R, first block first."""
    relevance = torch.eye(blocks[0][0].shape[-1], dtype=blocks[0][0].dtype)
    for attention, gradient, *_ in blocks:
        relevance = relevance + (attention * gradient).relu().mean(0) @ relevance
    return relevance[0]


def last_grad(blocks: Pairs) -> Tensor:
    last = blocks[-1][1]
    return all_grads([(attention, last) for attention, *_ in blocks])


def direct(blocks: list[Block]) -> Tensor:
    return sum((block.attention[:, 0] * block.written).relu().mean(0) for block in blocks)


def direct_signed(blocks: list[Block]) -> Tensor:
    return sum((block.attention[:, 0] * block.written).sum(0) for block in blocks)


def path(blocks: list[Block]) -> Tensor:
    return sum((block.attention[:, 0] * block.carried).relu().mean(0) for block in blocks)


OF_PAIRS = {"gradcam": gradcam, "all grads": all_grads, "last grad": last_grad}
ORACLES = OF_PAIRS | {"direct": direct, "direct signed": direct_signed, "path": path}


def oracle_map(method: str, blocks: list[Block], grid: tuple[int, int]) -> Tensor:
    """Relevance [row, column]; blocks: those that the relevance collects over."""
    return ORACLES[method](blocks)[1:].reshape(grid)
