"""What the attention pool of a ResNet reads: plain definitions, and what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import noise
from methods import MASKING, POOL_METHODS
from model import ModifiedResNet, fit_positions
from saliency import methods, relevance_maps
from small_clip import small_resnet

EXACT = 1e-9  # of the largest value of a map, in float64
POOL = [name for name in POOL_METHODS if name not in MASKING]
every_method = pytest.mark.parametrize("method", POOL)


@pytest.fixture(scope="module")
def resnet() -> ModifiedResNet:
    """4 heads on a 2 x 2 grid of 32-pixel cells; float64. Only read it."""
    return small_resnet(vocab_size=100).double().visual


@pytest.fixture(scope="module", params=[(64, 64), (64, 96)], ids=["square", "oblong"])
def pictures(request) -> Tensor:
    return noise(2, 3, *request.param)


def plain_pool(visual: ModifiedResNet, image: Tensor) -> tuple[Tensor, ...]:
    """q [head, 1, depth], k and v [head, token, depth], of one image [3, H, W]."""
    pool = visual.attnpool
    with torch.no_grad():
        cells = visual.trunk(image[None])[0].flatten(1).T
        positions = fit_positions(pool.positional_embedding, visual.grid(image[None]))
        tokens = torch.cat([cells.mean(0, keepdim=True), cells]) + positions
        split = [
            project(tokens).unflatten(1, (pool.heads, -1)).transpose(0, 1)
            for project in (pool.q_proj, pool.k_proj, pool.v_proj)
        ]
    return split[0][:, :1], *split[1:]


def score(visual: ModifiedResNet, heads: Tensor, target: Tensor) -> Tensor:
    """The cosine of what the last projection makes of all heads' answer [head, depth]."""
    return F.cosine_similarity(visual.attnpool.c_proj(heads.flatten()), target, 0)


def expected_map(method: str, visual: ModifiedResNet, image: Tensor, target: Tensor) -> Tensor:
    q, k, v = plain_pool(visual, image)
    attention = ((q @ k.mT) / q.shape[-1] ** 0.5).softmax(-1).requires_grad_()
    answer = (attention @ v)[:, 0]
    if method == "Grad-ECLIP":
        answer = answer.detach().requires_grad_()
        (w,) = torch.autograd.grad(score(visual, answer, target), answer)
        query, keys = q[:, 0].flatten(), k.transpose(0, 1).flatten(1)
        similar = F.cosine_similarity(query[None], keys, 1)
        low, high = similar[1:].min(), similar[1:].max()
        relevance = (similar - low) / (high - low) * (w[:, None] * v).sum((0, 2))
        return relevance[1:].relu()
    if method in ("MaskCLIP", "CLIP Surgery"):
        if method == "CLIP Surgery":
            v = (v @ v.mT / v.shape[-1] ** 0.5).softmax(-1) @ v
        each = [score(visual, v[:, i], target) for i in range(1, v.shape[1])]
        return torch.stack(each).detach()
    if method == "attention":
        return attention.detach()[:, 0, 1:].mean(0)
    (gradient,) = torch.autograd.grad(score(visual, answer, target), attention)
    product = (gradient * attention).detach()[:, 0, 1:]
    return product.sum(0) if method == "pool signed" else product.relu().mean(0)


@every_method
@pytest.mark.parametrize("negative", [False, True])
def test_maps_are_the_definition_of_their_method(resnet, pictures, targets, method, negative):
    if negative and not POOL_METHODS[method].of_targets:
        return
    maps = relevance_maps(resnet, pictures, targets, method, negative=negative)
    assert maps.shape == (2, 3, *resnet.grid(pictures))
    assert maps.any()
    for i, image in enumerate(pictures):
        for k, target in enumerate(-targets if negative else targets):
            expected = expected_map(method, resnet, image, target)
            error = (maps[i, k].flatten() - expected).abs().max()
            assert error <= EXACT * expected.abs().max()


def test_what_the_mean_token_and_the_cells_add_is_the_similarity(resnet, pictures, targets):
    """The features are a sum over tokens: their products with the target are its cosine."""
    image, target = pictures[0], F.normalize(targets[0], dim=0)
    q, k, v = plain_pool(resnet, image)
    attention = ((q @ k.mT) / q.shape[-1] ** 0.5).softmax(-1)
    with torch.no_grad():
        features = resnet(image[None])[0]
        weight = resnet.attnpool.c_proj.weight.unflatten(1, (len(q), -1))
        parts = torch.einsum("hqt,htd,ohd,o->t", attention, v, weight, target)
        whole = parts.sum() + resnet.attnpool.c_proj.bias @ target
    torch.testing.assert_close(whole / features.norm(), F.cosine_similarity(features, target, 0))


def change_trunk(visual: ModifiedResNet) -> None:
    visual.layer3.register_forward_hook(lambda module, inputs, output: output.roll(1, -1))


def change_values(visual: ModifiedResNet) -> None:
    visual.attnpool.v_proj.register_forward_hook(lambda module, inputs, output: 2 * output + 1)


def change_keys(visual: ModifiedResNet) -> None:
    visual.attnpool.k_proj.register_forward_hook(lambda module, inputs, output: output.flip(-1))


def change_projection(visual: ModifiedResNet) -> None:
    visual.attnpool.c_proj = nn.Sequential(visual.attnpool.c_proj, nn.Tanh()).double()


@every_method
@pytest.mark.parametrize("change", [change_trunk, change_keys, change_values, change_projection])
def test_what_was_done_to_the_modules_counts(resnet, pictures, targets, method, change):
    changed = copy.deepcopy(resnet)
    change(changed)
    maps = relevance_maps(changed, pictures[:1], targets[:1], method)[0, 0].flatten()
    expected = expected_map(method, changed, pictures[0], targets[0])
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-12)


def hooked_pool(visual: ModifiedResNet) -> None:
    visual.attnpool.register_forward_hook(lambda module, inputs, output: output.roll(1, -1))


def hooked_encoder(visual: ModifiedResNet) -> None:
    visual.register_forward_hook(lambda module, inputs, output: output.roll(1, -1))


def another_pool(visual: ModifiedResNet) -> None:
    visual.attnpool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 16))
    visual.attnpool.double()


@every_method
@pytest.mark.parametrize("change", [hooked_pool, hooked_encoder, another_pool])
def test_another_way_to_the_features_is_refused(resnet, pictures, targets, method, change):
    changed = copy.deepcopy(resnet)
    change(changed)
    with pytest.raises(
        ValueError, match="attention pool, which is what this method reads: GradCAM takes"
    ):
        relevance_maps(changed, pictures, targets, method)
    relevance_maps(changed, pictures, targets, "GradCAM")


def test_gradients_that_are_changed_on_the_way_back_count(resnet, pictures, targets):
    changed = copy.deepcopy(resnet)
    changed.attnpool.c_proj.register_full_backward_hook(
        lambda module, inputs, outputs: (2 * inputs[0],)
    )
    maps = relevance_maps(resnet, pictures, targets, "pool")
    torch.testing.assert_close(relevance_maps(changed, pictures, targets, "pool"), 2 * maps)


@every_method
def test_a_resnet_has_no_blocks(resnet, pictures, targets, method):
    with pytest.raises(ValueError, match="start_block is for ViTs"):
        relevance_maps(resnet, pictures, targets, method, start_block=1)
    with pytest.raises(ValueError, match="scale is for ViTs"):
        relevance_maps(resnet, pictures, targets, method, scale=2.0)


def test_the_methods_of_a_resnet_are_the_cams_and_those_of_its_pool(resnet):
    assert next(iter(methods(resnet))) == "pool"
    assert set(POOL_METHODS) < set(methods(resnet))


@every_method
def test_nothing_is_left_on_the_network(resnet, pictures, targets, method):
    network = copy.deepcopy(resnet).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    relevance_maps(network, pictures, targets, method)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
