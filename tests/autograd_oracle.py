"""The definitions of the ViT methods for any network: whole matrices and ordinary autograd.

Attention is written out in the place of the fused kernel, so that autograd can differentiate at it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import noise
from families import Family
from methods import MASKING
from recording.encoders import Encoder, encoder_of
from saliency import relevance_maps

EXACT = 1e-9  # of the largest value of a map, in float64


class Case:
    """A model (by default its family's), in float64, pictures, and targets drawn by chance."""

    def __init__(
        self,
        family: Family,
        model: nn.Module | Encoder | None = None,
        dtype: torch.dtype = torch.float64,
    ):
        self.family = family
        self.model = family.model() if model is None else model
        if isinstance(self.model, nn.Module):
            self.model = self.model.to(dtype)
        self.encoder = encoder_of(self.model)
        self.images = self.encoder.placed(family.pictures())
        with torch.no_grad():
            self.features = self.encoder.encode(self.images)
        self.targets = noise(3, self.features.shape[-1])

    def one_picture(self) -> Any:
        """As preprocessing makes it."""
        if isinstance(self.images, Tensor):
            return self.images[0]
        return {name: tensor[:1] for name, tensor in self.images.items()}

    def given(self) -> tuple:
        return self.model, self.encoder.encode, self.images, self.targets

    def first_block(self) -> nn.Module:
        """Of the image tower."""
        lists = [m for m in self.model.modules() if isinstance(m, nn.ModuleList | nn.Sequential)]
        return next(m[0] for m in lists if len(m) == 3)

    def maps(self, method: str, **options) -> list[Tensor]:
        """Of each image, [target, row, column]."""
        return list(relevance_maps(self.model, self.images, self.targets, method, **options))


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, each of a map's largest value."""
    assert [one.shape for one in found] == [one.shape for one in expected]
    assert all(one.any() for one in expected)
    pairs = zip(found, expected, strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def assert_close(found: list[Tensor], expected: list[Tensor], error: float = EXACT) -> None:
    assert distance(found, expected) < error


@contextmanager
def attention_by_hand(cut: list[Tensor] | None = None) -> Iterator[list[Tensor]]:
    """Inside the block, the attention [image, head, query, token] of each call, in its graph.

    With `cut`, no gradient goes through attention: its answers, with their values, are put there.
    """
    found = []

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
        assert not dropout_p
        assert not is_causal
        scores = query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
        if attn_mask is not None:
            kept = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if kept else scores + attn_mask
        attention = scores.exp() / scores.exp().sum(-1, keepdim=True)
        if not attention.requires_grad:  # of a frozen model
            attention.requires_grad_()
        found.append(attention)
        if cut is None:
            return attention @ value
        answer = (attention @ value).detach().requires_grad_()
        cut.append((answer, value.detach()))
        return answer

    with in_the_place_of_the_kernel(attend):
        yield found


@contextmanager
def in_the_place_of_the_kernel(attend: Callable[..., Tensor]) -> Iterator[None]:
    """Inside the block, what PyTorch's and the libraries' modules attend with."""
    forward = nn.MultiheadAttention.forward

    def without_weights(self, *given, **named):
        return forward(self, *given, **named | {"need_weights": False})

    with (
        patch.object(F, "scaled_dot_product_attention", attend),
        patch.object(nn.MultiheadAttention, "forward", without_weights),
    ):
        yield


def unmasked(methods: Iterable[str]) -> list[str]:
    """Without those that only ask the network."""
    return [name for name in methods if name not in MASKING]


Matrices = list[Tensor]  # of each layer [image, query, token]


def contexts(attention: list[Tensor], gradients: list[Tensor]) -> Matrices:
    pairs = zip(attention, gradients, strict=True)
    return [(a.detach() * g).relu().mean(1) for a, g in pairs]


def product(matrices: Matrices) -> Tensor:
    relevance = torch.eye(matrices[0].shape[-1], dtype=matrices[0].dtype)
    for matrix in matrices:
        relevance = relevance + matrix @ relevance
    return relevance


def by_definition(
    method: str, pooling: str, attention: list[Tensor], gradients: list[Tensor], asks: Tensor
) -> Tensor:
    """Relevance [image, token], as `asks`, the share of each reader, asks for it."""
    if method in ("attention", "rollout"):
        return of_attention(method, pooling, [one.detach().mean(1) for one in attention], asks)
    each = contexts(attention, gradients)
    if (method, pooling) == ("direct signed", "probe"):
        return asks @ (attention[-1].detach() * gradients[-1]).sum(1)
    if method == "gradcam" or (pooling == "probe" and method in ("last grad", "direct", "path")):
        return asks @ each[-1]
    if pooling == "probe":  # reads what the blocks before it have mixed
        return (asks @ each[-1])[:, None] @ product(each[:-1])
    if method == "last grad":
        each = contexts(attention, [gradients[-1]] * len(attention))
    return asks @ product(each)


def by_what_cls_reads(
    model: nn.Module,
    encode: Callable[[Any], Tensor],
    images: Any,
    targets: Tensor,
    method: str,
    start_block: int = 0,
) -> Tensor:
    """Relevance [image, target, token]: of each token what its value, in the answer to CLS, does to
    the objective, through all that follows but attention, and for `direct` but MLPs.
    """
    answers = []
    mlps = [module for name, module in model.named_modules() if name.endswith("mlp")]
    assert mlps
    with ExitStack() as stack:
        if method != "path":
            for mlp in mlps:
                hook = mlp.register_forward_hook(lambda *call: call[-1].detach())
                stack.enter_context(hook)
        attention = stack.enter_context(attention_by_hand(answers))
        features = encode(images)
    relevance = []
    for target in targets.to(features):
        score = F.cosine_similarity(features, target[None]).sum()
        wanted = [answer for answer, _ in answers]
        slopes = torch.autograd.grad(score, wanted, retain_graph=True, materialize_grads=True)
        each = [
            row[:, :, 0].detach() * (value @ slope[:, :, 0, :, None]).squeeze(-1)
            for row, slope, (_, value) in zip(attention, slopes, answers, strict=True)
        ][start_block:]
        signed = method == "direct signed"
        relevance.append(sum(one.sum(1) if signed else one.relu().mean(1) for one in each))
    return torch.stack(relevance, 1)


def of_attention(method: str, pooling: str, matrices: Matrices, asks: Tensor) -> Tensor:
    if method == "attention":
        return asks @ matrices[-1]
    *blocks, pool = matrices if pooling == "probe" else [*matrices, None]
    mixed = torch.eye(blocks[0].shape[-1], dtype=asks.dtype)
    for matrix in blocks:
        mixed = (0.5 * matrix + 0.5 * torch.eye(matrix.shape[-1], dtype=asks.dtype)) @ mixed
    return asks @ mixed if pool is None else (asks @ pool)[:, None] @ mixed


def shares(family: Family, queries: int) -> Tensor:
    asks = torch.zeros(queries, dtype=torch.float64)
    asks[slice(*family.readers)] = 1
    return asks / asks.sum()


def expected_maps(case: Case, method: str) -> list[Tensor]:
    encoder, family = case.encoder, case.family
    if method in ("direct", "direct signed", "path") and family.pooling == "CLS":
        found = by_what_cls_reads(*case.given(), method)
        return on_grids(found, grids(family, len(found)))
    with attention_by_hand() as attention:
        features = encoder.encode(case.images)
    asks = shares(family, attention[-1].shape[-2]).to(features)
    relevance = []
    for target in case.targets.to(features):
        score = F.cosine_similarity(features, target[None]).sum()
        gradients = torch.autograd.grad(score, attention, retain_graph=True, materialize_grads=True)
        found = by_definition(method, family.pooling, attention, gradients, asks)
        relevance.append(found.flatten(0, -2))
    return on_grids(torch.stack(relevance, 1), grids(family, len(features)))


def on_grids(relevance: Tensor, grids: list[tuple[int, int]]) -> list[Tensor]:
    """Patches stand behind all other tokens, but before what only fills up a short picture."""
    prefix = 0 if len(set(grids)) > 1 else relevance.shape[-1] - grids[0][0] * grids[0][1]
    return [
        one[:, prefix : prefix + rows * columns].unflatten(-1, (rows, columns))
        for one, (rows, columns) in zip(relevance, grids, strict=True)
    ]


def grids(family: Family, count: int) -> list[tuple[int, int]]:
    return family.grid if isinstance(family.grid, list) else [family.grid] * count


def grad_cam(case: Case) -> list[Tensor]:
    """Selvaraju et al., ICCV 2017, eqs. 1-2, at the last stage."""
    kept = []
    stage = case.model.get_submodule(case.family.stage)
    with stage.register_forward_hook(lambda *call: kept.append(call[-1])):
        features = case.encoder.encode(case.images)
    maps = []
    for target in case.targets:
        score = F.cosine_similarity(features, target[None]).sum()
        (gradient,) = torch.autograd.grad(score, kept, retain_graph=True)
        weights = gradient.mean((-2, -1), keepdim=True)
        maps.append((weights * kept[0].detach()).sum(1).relu())
    return list(torch.stack(maps, 1))
