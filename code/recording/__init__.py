"""Run a ViT and record the attention of its blocks with the gradient of the objective.

Two ways, with shortcuts for a network that is as its classes say (`is_as_written`), both without
the gradient of any parameter and without a trace on the network:

`record_cls_queries`   one fused forward pass without autograd, plus the row of CLS in each block.
                       The only gradient is that of the last block's row, and it stands for all.
                       Memory grows with blocks x heads x tokens.
`record_all_queries`   every block with its own gradient: forward with whole matrices, and back
                       block by block. Memory grows with blocks x heads x tokens²; `pairs_at_once`
                       says how many pairs of image and target do not slow each other down.

Where there are hooks, adapters, or blocks of other classes, both run the network as it is and read
the attention while it runs, which takes about as much memory and time as autograd does.

Each takes the image encoder, images, unit `directions [image, target, feature]` to explain and the
first block to record, and yields pairs (A_l, G_l) as `methods/` describes, last block first.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from checks import is_plain, type_name
from model import (
    Attention,
    ResidualAttentionBlock,
    Transformer,
    VisionTransformer,
    watched_attention,
)
from objective import objective_slopes

Blocks = Iterator[
    tuple[Float[Tensor, "image 1 head query token"], Float[Tensor, "image target head query token"]]
]

# Bytes that the matrices of one block may take. On a CPU, a tensor of more than 32 MiB goes back to
# the system and is fetched anew, which takes longer than the arithmetic.
MOST_BYTES = {"cpu": 2**24}
MOST_ELSEWHERE = 2**30


def blocks_of(visual: VisionTransformer) -> nn.Sequential:
    """The attention blocks of a ViT, also where something was wrapped around the transformer."""
    for module in visual.modules():
        if isinstance(module, Transformer):
            return module.resblocks
    raise ValueError(
        f"the attention of this model's transformer, a {type_name(visual.transformer)}, cannot be "
        "read: only model.Transformer records it"
    )


def is_as_written(visual: VisionTransformer) -> bool:
    """Whether the shortcuts lead to what the network itself does."""
    inner = [getattr(block, "_orig_mod", block) for block in blocks_of(visual)]  # of torch.compile
    return is_plain(visual) and all(isinstance(block, ResidualAttentionBlock) for block in inner)


def forget_attention(visual: VisionTransformer) -> None:
    """Empty `attn_probs` and `attn_grad` of all blocks: they are those of other images."""
    for module in visual.modules():
        if isinstance(module, ResidualAttentionBlock):
            module.attn_probs = None


def pairs_at_once(visual: VisionTransformer, images: Tensor) -> int:
    """How many pairs of image and target go well together where whole matrices are recorded, one
    at least.
    """
    rows, columns = visual.grid(images)
    heads = next(module.heads for module in visual.modules() if isinstance(module, Attention))
    pair = heads * (rows * columns + 1) ** 2
    most = MOST_BYTES.get(images.device.type, MOST_ELSEWHERE)
    return max(1, most // (pair * images.element_size()))


@torch.no_grad()
def record_cls_queries(
    visual: VisionTransformer, images: Tensor, directions: Tensor, first: int
) -> Blocks:
    if not is_as_written(visual):
        yield from record_as_it_runs(visual, images, directions, first, every=False)
        return
    *early, last = blocks_of(visual)
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
    if not is_as_written(visual):
        yield from record_as_it_runs(visual, images, directions, first, every=True)
        return
    *early, last = blocks_of(visual)
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
        gradient, *slopes = gradients(end, wanted, *slopes)
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
    slopes, *rest = gradients(features, wanted, slopes)
    # mixed = row @ v, written out because autograd would copy v for every target.
    gradient = torch.einsum("kbhqd,bhtd->bkhqt", slopes, v.detach())
    return row.detach(), gradient, rest


def record_as_it_runs(
    visual: VisionTransformer, images: Tensor, directions: Tensor, first: int, every: bool
) -> Blocks:
    """Whole matrices of all blocks, read while the network itself runs; each with its own gradient
    if `every`, otherwise with that of the last.
    """
    require_repeatable(visual)
    with torch.enable_grad(), watched_attention() as watched:
        features = visual(images)
    attentions = attention_of_each(visual, images, watched)[first:]
    if not features.requires_grad:
        raise ValueError("the features do not depend on the attention: something detaches them")
    slopes = objective_slopes(features.detach(), directions)
    found = one_by_one(features, attentions if every else attentions[-1:], slopes)
    shape = len(images), -1
    for attention in reversed(attentions):
        gradient = found.pop() if every else found[0]
        yield recorded(
            attention.detach().unflatten(0, shape), gradient.unflatten(1, shape).transpose(0, 1)
        )


def require_repeatable(visual: nn.Module) -> None:
    """Raise ValueError if running the network would draw at random or change a buffer."""
    for module in visual.modules():
        drops = isinstance(module, _DropoutNd) and module.p > 0
        if module.training and (drops or isinstance(module, _BatchNorm)):
            raise ValueError(
                f"a {type_name(module)} of this model is in training mode: call model.eval() first"
            )


def attention_of_each(
    visual: VisionTransformer,
    images: Tensor,
    watched: Sequence[tuple[ResidualAttentionBlock, Tensor]],
) -> list[Float[Tensor, "image*head query token"]]:
    """What was read from each block, or ValueError if that is not the attention of all of them."""
    blocks, (rows, columns) = blocks_of(visual), visual.grid(images)
    tokens = 1 + rows * columns
    owners = [owner for owner, _ in watched]
    for index, (block, owner) in enumerate(zip_longest(blocks, owners)):
        if block is None or owner not in set(block.modules()):
            raise ValueError(
                "each block must run the forward of model.ResidualAttentionBlock once, so that "
                f"its attention can be read; block {min(index, len(blocks) - 1)} does not"
            )
    for index, (owner, attention) in enumerate(watched):
        if attention.shape != (len(images) * owner.attn.heads, tokens, tokens):
            raise ValueError(
                f"block {index} of this model does not attend to {len(images)} images of {tokens} "
                "tokens each: where tokens or images are added or removed there is no map"
            )
    return [attention for _, attention in watched]


def gradients(
    output: Tensor, inputs: Sequence[Tensor], slopes: Float[Tensor, "target ..."]
) -> Sequence[Float[Tensor, "target ..."]]:
    """The gradient at each of the inputs for each target."""
    if torch.is_anomaly_enabled():  # looks at values, which gradients in batches do not show
        return one_by_one(output, inputs, slopes)
    return torch.autograd.grad(output, inputs, slopes, is_grads_batched=True)


def one_by_one(
    output: Tensor, inputs: Sequence[Tensor], slopes: Float[Tensor, "target ..."]
) -> list[Float[Tensor, "target ..."]]:
    """As `gradients`, but hooks see ordinary tensors; zero where the output does not depend."""
    each = [
        torch.autograd.grad(output, inputs, slope, retain_graph=True, materialize_grads=True)
        for slope in slopes
    ]
    return [torch.stack(of_one_input) for of_one_input in zip(*each, strict=True)]


def recorded(attention: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The pair as methods read it, in float32 at least."""
    dtype = torch.promote_types(attention.dtype, torch.float32)
    return attention.unsqueeze(1).to(dtype), gradient.to(dtype)
