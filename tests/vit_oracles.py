"""The definitions of the ViT methods, written plainly: whole matrices and ordinary autograd."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods import METHODS


class Block(NamedTuple):
    """Of one block, for one image and objective."""

    attention: Tensor  # [head, token, token]
    gradient: Tensor  # of the objective at it
    written: Tensor  # [head, token]: V W g, g the gradient at CLS after the last block
    carried: Tensor  # the same, g carried back along CLS to behind this block's attention
    stream: Tensor  # [token, width], what the block reads
    module: nn.Module
    score: Callable[[Tensor], Tensor]  # the objective, asked of the end of a stream [token, width]


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
        read = [one.detach() for one in read]
        blocks.append(Block(*pair, *read, stream, block, lambda z: objective(visual.project(z))))
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


def grad_eclip(blocks: list[Block]) -> Tensor:
    """Zhao et al., ICML 2024, with all heads of the model side by side."""
    query, key, _ = projected(blocks[-1])
    return loosened(query[0], key, blocks[-1].gradient[:, 0].sum(0))


def grad_eclip_one_head(blocks: list[Block]) -> Tensor:
    """The last block attends with one head, and q and k are compared behind the projection out."""
    *_, block = blocks
    out = block.module.attn.out_proj
    query, key, value = projected(block)
    answer = ((query[0] @ key.T / query.shape[-1] ** 0.5).softmax(-1) @ value).detach()
    cls = block.stream[0] + out(answer.requires_grad_())
    score = block.score((cls + block.module.mlp(block.module.ln_2(cls)))[None])
    (slope,) = torch.autograd.grad(score, answer)
    return loosened(out(query[0]), out(key), value @ slope)


def loosened(query: Tensor, key: Tensor, relevance: Tensor) -> Tensor:
    """CLS has no part in the scale, and its own value is not compared."""
    similar = F.cosine_similarity(query[None], key)
    low, high = similar[1:].min(), similar[1:].max()
    return (relevance * (similar - low) / (high - low)).relu().detach()


def projected(block: Block) -> tuple[Tensor, ...]:
    """Queries, keys and values [token, width], heads side by side."""
    attention, x = block.module.attn, block.module.ln_1(block.stream)
    return (x @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, -1)


def legrad(blocks: list[Block]) -> Tensor:
    """Bousselham et al., ICCV 2025: each block's own score, of the mean of its tokens."""
    relevance = 0
    for block in blocks:
        values, heads = values_and_projections(block.module, block.stream)
        attention = block.attention.detach().requires_grad_()
        x = block.stream + (attention @ values @ heads).sum(0) + block.module.attn.out_proj.bias
        x = x + block.module.mlp(block.module.ln_2(x))
        (gradient,) = torch.autograd.grad(block.score(x.mean(0, keepdim=True)), attention)
        relevance = relevance + gradient.relu().mean((0, 1)) / len(blocks)
    return relevance


def maskclip(blocks: list[Block]) -> Tensor:
    *_, block = blocks
    values, heads = values_and_projections(block.module, block.stream)
    x = block.stream + (values @ heads).sum(0) + block.module.attn.out_proj.bias
    return each_token(block, x + block.module.mlp(block.module.ln_2(x)))


def sclip(blocks: list[Block]) -> Tensor:
    *_, block = blocks
    attention, width = block.module.attn, block.stream.shape[-1]
    q, k = (
        F.linear(
            block.module.ln_1(block.stream),
            attention.in_proj_weight[start : start + width],
            attention.in_proj_bias[start : start + width],
        )
        .unflatten(1, (attention.heads, -1))
        .transpose(0, 1)
        for start in (0, width)
    )
    values, heads = values_and_projections(block.module, block.stream)
    each = [(one @ one.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) for one in (q, k)]
    x = block.stream + (sum(each) @ values @ heads).sum(0) + attention.out_proj.bias
    return each_token(block, x + block.module.mlp(block.module.ln_2(x)))


def surgery(blocks: list[Block]) -> Tensor:
    """Of networks of up to six blocks."""
    x = blocks[0].stream
    for block in blocks:
        values, heads = values_and_projections(block.module, block.stream)
        similar = values @ values.transpose(1, 2) / values.shape[-1] ** 0.5
        x = x + (similar.softmax(-1) @ values @ heads).sum(0) + block.module.attn.out_proj.bias
    return each_token(blocks[0], x)


def each_token(block: Block, x: Tensor) -> Tensor:
    return torch.stack([block.score(token[None]) for token in x]).detach()


def rollout(blocks: list[Block]) -> Tensor:
    tokens = blocks[0].attention.shape[-1]
    identity = torch.eye(tokens, dtype=blocks[0].attention.dtype)
    relevance = identity
    for block in blocks:
        relevance = (block.attention.detach().mean(0) + identity) / 2 @ relevance
    return relevance[0]


def attention(blocks: list[Block]) -> Tensor:
    return blocks[-1].attention.detach()[:, 0].mean(0)


OF_PAIRS = {"gradcam": gradcam, "all grads": all_grads, "last grad": last_grad}
ORACLES = OF_PAIRS | {
    "direct": direct,
    "direct signed": direct_signed,
    "path": path,
    "Grad-ECLIP": grad_eclip,
    "Grad-ECLIP, one head": grad_eclip_one_head,
    "LeGrad": legrad,
    "MaskCLIP": maskclip,
    "SCLIP": sclip,
    "CLIP Surgery": surgery,
    "rollout": rollout,
    "attention": attention,
}


OF_TARGETS = [name for name in ORACLES if METHODS[name].of_targets]


def oracle_map(method: str, blocks: list[Block], grid: tuple[int, int]) -> Tensor:
    """Relevance [row, column]; blocks: those that the relevance collects over."""
    return ORACLES[method](blocks)[1:].reshape(grid)
