"""Explanations as plain arithmetic, without autograd: what can be written down as a graph that runs
anywhere (`export.py`).

A gradient leads back along one token alone, the reader, which is CLS or the end of a text: through
the last projection and normalisation, and through the MLPs of its blocks. Relevance is made of
attention and gradient by the methods themselves, those of `methods/`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from methods import METHODS, POOL_METHODS, on_grid
from methods.texts import TEXT_METHODS
from model import CLIP, ModifiedResNet, QuickGELU, Transformer, VisionTransformer, fit_positions
from objective import LOGIT_SCALE, objective_slopes
from recording import of_cls
from recording.attention import Attention
from recording.shortcuts import at_attention

Pair = tuple[Tensor, Tensor]  # an attention and the gradient at it, as `methods/` describes them
Slopes = Float[Tensor, "target input width"]


class Read(NamedTuple):
    """What the reader attends to in a block, the values there, and its stream behind them."""

    row: Float[Tensor, "input head 1 token"]
    value: Float[Tensor, "input head token depth"]
    stream: Float[Tensor, "input width"]


class Forms(nn.Module):
    """Inputs (images, or token ids of texts) and directions [target, feature] to

    - scores [input, target]: 100 times the product of the unit features and each direction, which
      is a cosine if that has unit length;
    - the unit features [input, feature];
    - relevance [input, target, ...] by each of `methods`, as the functions of that name in
      `methods/` have it.
    """

    methods: tuple[str, ...]

    def answer(self, features: Tensor, directions: Tensor, relevance: list[Tensor]) -> tuple:
        unit = F.normalize(features, dim=-1)
        return LOGIT_SCALE * unit @ directions.T, unit, *relevance


class ViTForms(Forms):
    """Of images [input, 3, height, width]; relevance is on the patch grid."""

    methods = ("direct", "direct signed", "path", "last grad")

    def __init__(self, visual: VisionTransformer):
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor, directions: Tensor) -> tuple:
        visual = self.visual
        reads, cls = read(visual.transformer, visual.embed(images), lambda x: x[..., :1, :])
        features, each = visual.project(cls), directions.expand(images.shape[0], -1, -1)
        slopes = objective_slopes(features, each) @ visual.proj.T
        slopes = back_through_norm(visual.ln_post, cls, slopes)
        pairs = pairs_of(visual.transformer, reads, slopes)
        recordings = [of_cls(iter(pairs[name]), each, visual.grid(images)) for name in self.methods]
        maps = [
            on_grid(METHODS[name].relevance(recording), recording)
            for name, recording in zip(self.methods, recordings, strict=True)
        ]
        return self.answer(features, directions, maps)


class TextForms(Forms):
    """Of token ids [input, token] as `clip_.tokenize` makes them, of any length that holds the
    texts; relevance is of each token, marks and padding included.
    """

    methods = ("path", "path signed")

    def __init__(self, clip: CLIP):
        super().__init__()
        self.clip = clip

    def forward(self, tokens: Int[Tensor, "input token"], directions: Tensor) -> tuple:
        clip = self.clip
        end = tokens.argmax(-1)[:, None, None]

        def reader(x: Tensor) -> Tensor:
            place = end if x.ndim == 3 else end[:, None]
            return x.gather(-2, place.expand(*x.shape[:-2], 1, x.shape[-1]))

        x = clip.token_embedding(tokens) + clip.positional_embedding[: tokens.shape[1]]
        reads, last = read(clip.transformer, x, reader)
        features, each = (
            clip.ln_final(last) @ clip.text_projection,
            directions.expand(tokens.shape[0], -1, -1),
        )
        slopes = objective_slopes(features, each) @ clip.text_projection.T
        slopes = back_through_norm(clip.ln_final, last, slopes)
        pairs = pairs_of(clip.transformer, reads, slopes)
        relevance = [
            TEXT_METHODS[name].relevance(of_cls(iter(pairs[name]), each, (1, tokens.shape[1]), 0))
            for name in self.methods
        ]
        return self.answer(features, directions, relevance)


class ResNetForms(Forms):
    """Of images [input, 3, height, width]; relevance is on the grid of the last block."""

    methods = ("pool", "pool signed", "GradCAM")

    def __init__(self, visual: ModifiedResNet):
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor, directions: Tensor) -> tuple:
        visual, pool = self.visual, self.visual.attnpool
        x, grid = visual.trunk(images), visual.grid(images)
        positions = fit_positions(pool.positional_embedding, grid)
        attends = Attention(*pool.query_keys_values(x, positions))
        attention = attends.probabilities()
        features, each = (
            pool.merge(attention @ attends.value)[:, 0],
            directions.expand(images.shape[0], -1, -1),
        )
        slopes = objective_slopes(features, each) @ pool.c_proj.weight
        gradient = at_heads(slopes, attends.value)
        recording = of_cls(iter(()), each, grid)
        maps = []
        for name in ("pool", "pool signed"):
            recording.pairs = iter([(attention, gradient)])
            maps.append(on_grid(POOL_METHODS[name].relevance(recording), recording))
        maps.append(self.grad_cam(x, attends, attention, gradient, slopes))
        return self.answer(features, directions, maps)

    def grad_cam(
        self, x: Tensor, attends: Attention, attention: Tensor, gradient: Tensor, slopes: Slopes
    ) -> Float[Tensor, "input target row column"]:
        """w_c = mean_ij ∂s/∂x_cij, by what is added to channel c of all cells.

        That reaches the values and the query; all keys move alike, which the softmax does not see.
        """
        pool, each = self.visual.attnpool, attention[:, None]
        of_scores = each * (gradient - (each * gradient).sum(-1, keepdim=True))
        of_query = (of_scores @ attends.key[:, None]) * attends.key.shape[-1] ** -0.5
        of_query = of_query.squeeze(-2).flatten(2) @ pool.q_proj.weight
        weights = of_query + slopes.transpose(0, 1) @ pool.v_proj.weight
        return torch.einsum("bkc,bchw->bkhw", weights / x[0, 0].numel(), x).relu()


def read(
    transformer: Transformer,
    x: Float[Tensor, "input token width"],
    reader: Callable[[Tensor], Tensor],
) -> tuple[list[Read], Float[Tensor, "input width"]]:
    """What the reader reads in each block, and its stream behind the last. `reader` takes it out of
    any tensor [input, ..., token, width].
    """
    reads = []
    for block in transformer.resblocks:
        q, k, v = block.attn.queries_keys_values(block.ln_1(x))
        attention = block.attn.probabilities(q, k, block.causal)
        x = x + block.attn.merge(attention @ v)
        reads.append(Read(reader(attention), v, reader(x)[:, 0]))
        x = x + block.mlp(block.ln_2(x))
    return reads, reader(x)[:, 0]


def pairs_of(transformer: Transformer, reads: list[Read], slopes: Slopes) -> dict[str, list[Pair]]:
    """What each method is made of, last block first; `slopes` are at the end of the stream."""
    carried, at_once, on = [], [], slopes
    for block, one in zip(reversed(transformer.resblocks), reversed(reads), strict=True):
        on = on + back_through_mlp(block, one.stream, on)
        write = block.attn.out_proj.weight
        carried.append((one.row, at_heads(on @ write, one.value)))
        at_once.append((one.row, at_heads(slopes @ write, one.value)))
    (_, of_last), *_ = carried
    by_last = [(row, of_last) for row, _ in carried]
    return {
        "path": carried,
        "path signed": carried,
        "direct": at_once,
        "direct signed": at_once,
        "last grad": by_last,
    }


def at_heads(
    slopes: Slopes, value: Float[Tensor, "input head token depth"]
) -> Float[Tensor, "input target head 1 token"]:
    """The gradient at an attention, of that at what its heads answer, side by side."""
    return at_attention(slopes.unflatten(-1, (value.shape[1], 1, -1)), value)


def back_through_mlp(
    block: nn.Module, stream: Float[Tensor, "input width"], slopes: Slopes
) -> Slopes:
    mlp = block.mlp
    hidden = mlp.c_fc(block.ln_2(stream))
    slopes = (slopes @ mlp.c_proj.weight) * activation_slope(mlp.gelu, hidden) @ mlp.c_fc.weight
    return back_through_norm(block.ln_2, stream, slopes)


def back_through_norm(
    norm: nn.LayerNorm, x: Float[Tensor, "input width"], slopes: Slopes
) -> Slopes:
    """y = w (x - mean) / σ + b, so ∂s/∂x is what of ∂s/∂y ∘ w is across both 1 and y, over σ."""
    deviation = (x.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    unit = (x - x.mean(-1, keepdim=True)) / deviation
    slopes = slopes * norm.weight
    along = (slopes * unit).mean(-1, keepdim=True) * unit
    return (slopes - slopes.mean(-1, keepdim=True) - along) / deviation


def activation_slope(activation: nn.Module, x: Tensor) -> Tensor:
    """The derivative of one of `model.ACTIVATIONS`."""
    if isinstance(activation, QuickGELU):
        s = torch.sigmoid(1.702 * x)
        return s + 1.702 * x * s * (1 - s)
    if activation.approximate == "none":
        return (1 + torch.erf(x / math.sqrt(2))) / 2 + x * torch.exp(-(x**2) / 2) / math.sqrt(
            2 * math.pi
        )
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    t = torch.tanh(scale * (x + cubic * x**3))
    return (1 + t) / 2 + x * (1 - t**2) * scale * (1 + 3 * cubic * x**2) / 2
