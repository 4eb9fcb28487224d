"""The definitions of the ViT methods, written plainly: whole matrices and ordinary autograd."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Block = tuple[Tensor, Tensor]  # attention and gradient, [head, token, token]


def recorded_blocks(
    visual: nn.Module, image: Tensor, objective: Callable[[Tensor], Tensor]
) -> list[Block]:
    """What the blocks hold after one image [3, H, W] went forward, and objective(features) back."""
    objective(visual(image.unsqueeze(0))).backward()
    visual.zero_grad()
    return [(block.attn_probs, block.attn_grad) for block in visual.transformer.resblocks]


def cosine(target: Tensor, negative: bool = False) -> Callable[[Tensor], Tensor]:
    sign = -1 if negative else 1
    return lambda features: sign * F.cosine_similarity(features[0], target, dim=0)


def gradcam(blocks: list[Block]) -> Tensor:
    attention, gradient = blocks[-1]
    return (attention * gradient).relu().mean(0)[0]


def all_grads(blocks: list[Block]) -> Tensor:
    """Chefer et al.: R starts as the identity; R = R + C R, first block first."""
    relevance = torch.eye(blocks[0][0].shape[-1], dtype=blocks[0][0].dtype)
    for attention, gradient in blocks:
        relevance = relevance + (attention * gradient).relu().mean(0) @ relevance
    return relevance[0]


def last_grad(blocks: list[Block]) -> Tensor:
    last = blocks[-1][1]
    return all_grads([(attention, last) for attention, _ in blocks])


ORACLES = {"gradcam": gradcam, "all grads": all_grads, "last grad": last_grad}


def oracle_map(method: str, blocks: list[Block], grid: tuple[int, int]) -> Tensor:
    """Relevance [row, column]; blocks: those that the relevance collects over."""
    return ORACLES[method](blocks)[1:].reshape(grid)
