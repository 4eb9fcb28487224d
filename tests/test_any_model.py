"""Models of open_clip, transformers and timm are explained as they are.

The reference is the definition of each method, on whole matrices that ordinary autograd
differentiates in float64, with attention written out in the place of the fused kernel.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import noise
from families import FAMILIES, Family, similar_to_a_text
from methods import METHODS
from recording.encoders import Encoder, encoder_of
from saliency import block_maps, methods, relevance_maps

EXACT = 1e-9  # of the largest value of a map, in float64
ATTENDING = [name for name, family in FAMILIES.items() if family.pooling]
CONVOLVING = [name for name, family in FAMILIES.items() if not family.pooling]

every_family = pytest.mark.parametrize("name", FAMILIES)
every_attending_family = pytest.mark.parametrize("name", ATTENDING)


class Case:
    """A model in float64 with pictures, and targets that are no features of anything."""

    def __init__(self, family: Family):
        self.family, self.model = family, family.model().double()
        self.encoder = encoder_of(self.model)
        self.images = self.encoder.placed(family.pictures())
        with torch.no_grad():
            self.features = self.encoder.encode(self.images)
        self.targets = noise(3, self.features.shape[-1])

    def maps(self, method: str, **options) -> list[Tensor]:
        """Of each image, [target, row, column]."""
        return list(relevance_maps(self.model, self.images, self.targets, method, **options))


CASES: dict[str, Case] = {}


@pytest.fixture
def case(name) -> Case:
    """Only read it: it is that of all tests of its family."""
    if name not in CASES:
        CASES[name] = Case(FAMILIES[name])
    return CASES[name]


def assert_close(found: list[Tensor], expected: list[Tensor], error: float = EXACT) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert other.abs().max() > 0
        assert (one - other).abs().max() < error * other.abs().max()


# The definitions


@contextmanager
def attention_by_hand() -> Iterator[list[Tensor]]:
    """Inside the block, the attention [image, head, query, token] of each call, in its graph."""
    found = []

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
        assert not dropout_p
        assert not is_causal
        scores = query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
        if attn_mask is not None:
            kept = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if kept else scores + attn_mask
        found.append(scores.exp() / scores.exp().sum(-1, keepdim=True))
        return found[-1] @ value

    forward = nn.MultiheadAttention.forward

    def without_weights(self, *given, **named):
        return forward(self, *given, **named | {"need_weights": False})

    with (
        patch.object(F, "scaled_dot_product_attention", attend),
        patch.object(nn.MultiheadAttention, "forward", without_weights),
    ):
        yield found


Matrices = list[Tensor]  # of each layer [image, query, token]


def contexts(attention: list[Tensor], gradients: list[Tensor]) -> Matrices:
    pairs = zip(attention, gradients, strict=True)
    return [(a.detach() * g).relu().mean(1) for a, g in pairs]


def product(matrices: Matrices) -> Tensor:
    relevance = torch.eye(matrices[0].shape[-1], dtype=torch.float64)
    for matrix in matrices:
        relevance = relevance + matrix @ relevance
    return relevance


def by_definition(
    method: str, pooling: str, attention: list[Tensor], gradients: list[Tensor], asks: Tensor
) -> Tensor:
    """Relevance [image, token], as `asks`, the share of each reader, asks for it."""
    each = contexts(attention, gradients)
    if method == "gradcam" or (method, pooling) == ("last grad", "probe"):
        return asks @ each[-1]
    if pooling == "probe":  # reads what the blocks before it have mixed
        return (asks @ each[-1])[:, None] @ product(each[:-1])
    if method == "last grad":
        each = contexts(attention, [gradients[-1]] * len(attention))
    return asks @ product(each)


def shares(family: Family, queries: int) -> Tensor:
    asks = torch.zeros(queries, dtype=torch.float64)
    asks[slice(*family.readers)] = 1
    return asks / asks.sum()


def expected_maps(case: Case, method: str) -> list[Tensor]:
    encoder, family = case.encoder, case.family
    with attention_by_hand() as attention:
        features = encoder.encode(case.images)
    asks = shares(family, attention[-1].shape[-2])
    relevance = []
    for target in case.targets:
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


# Maps


@every_family
def test_features_are_those_of_the_library(case):
    with torch.no_grad():
        expected = similar_to_a_text(case.model, case.images)
    torch.testing.assert_close(F.normalize(case.features, dim=-1), expected)


@every_attending_family
@pytest.mark.parametrize("method", METHODS)
def test_maps_are_what_the_definition_says(case, method):
    assert_close(case.maps(method), expected_maps(case, method))


@pytest.mark.parametrize("name", CONVOLVING)
def test_cams_of_convolutional_networks_are_of_the_last_stage(case):
    assert_close(case.maps("GradCAM"), grad_cam(case))


@every_family
def test_grid_and_pooling_are_found_out(case):
    encoder = encoder_of(case.model)
    maps = list(relevance_maps(encoder, case.images, case.targets))
    assert [tuple(one.shape[1:]) for one in maps] == grids(case.family, len(maps))
    assert encoder.pooling == case.family.pooling


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "Siglip2Model"])
def test_methods_are_those_that_explain_the_model(case):
    example = {"preprocess": lambda _: case.images[0]}
    encoder = Encoder(case.model, case.encoder.encode, **example)
    for method in list(methods(encoder))[:1]:
        assert (method in METHODS) == bool(case.family.pooling)
        relevance_maps(case.model, case.images, case.targets, method)


@every_attending_family
def test_block_maps_are_the_mean_attention_of_what_is_read(case):
    with attention_by_hand() as attention:
        case.encoder.encode(case.images)
    if case.family.pooling == "probe":
        attention = attention[-1:]
    asks = shares(case.family, attention[-1].shape[-2])
    maps = block_maps(case.model, case.images, case.targets[:1])
    if isinstance(maps, Tensor):
        maps = maps.transpose(0, 1)
    rows = torch.stack([asks @ matrix.detach().mean(1) for matrix in attention], 1)
    expected = on_grids(rows, grids(case.family, len(rows)))
    assert_close(list(maps), [one.unsqueeze(1) for one in expected])
