"""Run a ViT and record the attention of its blocks with the gradient of the objective.

Two ways, both without the gradient of any parameter and without a trace on the network:

`record_cls_queries`   one fused forward pass without autograd, plus the row of CLS in each block.
                       The only gradient is that of the last block's row, and it stands for all.
                       Memory grows with blocks x heads x tokens.
`record_all_queries`   every block with its own gradient: forward with whole matrices, and back
                       block by block. Memory grows with blocks x heads x tokens²; `pairs_at_once`
                       says how many pairs of image and target do not slow each other down.

Each takes the image encoder, images, unit `directions [image, target, feature]` to explain and the
first block to record, and yields pairs (A_l, G_l) as `vit_methods.py` describes, last block first.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from model import ResidualAttentionBlock, VisionTransformer
from objective import objective_slopes

Blocks = Iterator[
    tuple[Float[Tensor, "image 1 head query token"], Float[Tensor, "image target head query token"]]
]

# Bytes that the matrices of one block may take. On a CPU, a tensor of more than 32 MiB goes back to
# the system and is fetched anew, which takes longer than the arithmetic.
MOST_BYTES = {"cpu": 2**24}
MOST_ELSEWHERE = 2**30


def pairs_at_once(visual: VisionTransformer, images: Tensor) -> int:
    """How many pairs of image and target `record_all_queries` should take at once, one at least."""
    rows, columns = visual.grid(images)
    pair = visual.transformer.resblocks[0].attn.heads * (rows * columns + 1) ** 2
    most = MOST_BYTES.get(images.device.type, MOST_ELSEWHERE)
    return max(1, most // (pair * images.element_size()))


@torch.no_grad()
def record_cls_queries(
    visual: VisionTransformer, images: Tensor, directions: Tensor, first: int
) -> Blocks:
    *early, last = visual.transformer.resblocks
    rows = []
    x = visual.embed(images)
    for index, block in enumerate(early):
        q, k, v = block.attn.queries_keys_values(block.ln_1(x))
        if index >= first:
            rows.append(block.attn.probabilities(q[:, :, :1], k))
        x = block.finish(x, F.scaled_dot_product_attention(q, k, v))
    row, gradient, _ = record_last_block(visual, last, x, directions)
    for attention in [row, *reversed(rows)]:
        yield recorded(attention, gradient)


@torch.no_grad()
def record_all_queries(
    visual: VisionTransformer, images: Tensor, directions: Tensor, first: int
) -> Blocks:
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
    row, gradient, slopes = record_last_block(visual, last, x, directions)
    yield recorded(row, gradient)
    while passed:
        start, attention, end = passed.pop()
        wanted = (attention, start) if passed else (attention,)  # before the first is nothing
        gradient, *slopes = torch.autograd.grad(end, wanted, slopes, is_grads_batched=True)
        yield recorded(attention.detach(), gradient.transpose(0, 1))


def record_last_block(
    visual: VisionTransformer,
    block: ResidualAttentionBlock,
    x: Float[Tensor, "image token width"],
    directions: Float[Tensor, "image target feature"],
) -> tuple[
    Float[Tensor, "image head 1 token"], Float[Tensor, "image target head 1 token"], list[Tensor]
]:
    """The row of CLS and its gradient; and that of `x`, [target, image, token, width], if it asks.

    The features are read from CLS: of all other tokens only keys and values are computed.
    """
    with torch.enable_grad():
        q, k, v = block.attn.cls_query_keys_values(block.ln_1(x))
        row = block.attn.probabilities(q, k)
        mixed = row @ v
        if not mixed.requires_grad:  # neither x nor any parameter does
            mixed.requires_grad_()
        features = visual.project(block.finish(x[:, :1], mixed)[:, 0])
    slopes = objective_slopes(features.detach(), directions)
    wanted = (mixed, x) if x.requires_grad else (mixed,)
    slopes, *rest = torch.autograd.grad(features, wanted, slopes, is_grads_batched=True)
    # mixed = row @ v, written out because autograd would copy v for every target.
    gradient = torch.einsum("kbhqd,bhtd->bkhqt", slopes, v.detach())
    return row.detach(), gradient, rest


def recorded(attention: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The pair as methods read it, in float32 at least."""
    dtype = torch.promote_types(attention.dtype, torch.float32)
    return attention.unsqueeze(1).to(dtype), gradient.to(dtype)
