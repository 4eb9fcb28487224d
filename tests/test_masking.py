"""Occlusion: pictures of which parts are hidden, one at a time, in plain loops."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import noise
from recording.encoders import from_module
from saliency import methods, relevance_maps
from small_clip import small_resnet

EXACT = 1e-9


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return small_resnet(vocab_size=100).double().visual


def score(visual: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cosine_similarity(visual(image[None])[0], target, 0)


def occluded(visual: nn.Module, image: Tensor, target: Tensor, window: int, cell: int) -> Tensor:
    rows, columns = (side // cell for side in image.shape[1:])
    drops, count = torch.zeros(rows, columns).double(), torch.zeros(rows, columns)
    for top in range(rows - window + 1):
        for left in range(columns - window + 1):
            hidden = image.clone()
            across = slice(left * cell, (left + window) * cell)
            hidden[:, top * cell : (top + window) * cell, across] = 0
            drop = score(visual, image, target) - score(visual, hidden, target)
            drops[top : top + window, left : left + window] += drop
            count[top : top + window, left : left + window] += 1
    return drops / count


@pytest.mark.parametrize("size", [(32, 32), (64, 72)])
def test_occlusion_of_a_vit_hides_a_quarter_of_each_side(visual, targets, size):
    images = noise(2, 3, *size)
    maps = relevance_maps(visual, images, targets, "occlusion")
    for i, image in enumerate(images):
        for k, target in enumerate(targets):
            expected = occluded(visual, image, target, max(1, size[0] // 32), 8)
            torch.testing.assert_close(maps[i, k], expected, rtol=EXACT, atol=1e-12)


def test_occlusion_of_a_resnet_hides_its_cells(resnet, targets):
    images = noise(1, 3, 64, 96)
    maps = relevance_maps(resnet, images, targets, "occlusion")
    expected = occluded(resnet, images[0], targets[1], 1, 32)
    torch.testing.assert_close(maps[0, 1], expected, rtol=EXACT, atol=1e-12)


def test_it_explains_whatever_gives_features(visual, resnet, images, targets):
    """Hooks included: the network is only asked."""
    assert "occlusion" in methods(visual)
    assert "occlusion" in methods(resnet)
    before = relevance_maps(visual, images, targets, "occlusion")
    visual.register_forward_hook(lambda module, inputs, output: output.roll(1, -1))
    maps = relevance_maps(visual, images, targets, "occlusion")
    torch.testing.assert_close(maps, relevance_maps(visual, images, targets, "occlusion"))
    assert not torch.allclose(maps, before, rtol=1e-3)
    rolled = relevance_maps(visual, images, targets.roll(1, -1), "occlusion")
    torch.testing.assert_close(rolled, before, rtol=1e-9, atol=1e-12)


def test_dissimilarity_is_the_opposite(visual, images, targets):
    maps = relevance_maps(visual, images, targets, "occlusion")
    torch.testing.assert_close(
        relevance_maps(visual, images, targets, "occlusion", negative=True), -maps
    )


class WithDropout(nn.Module):
    """Between the network and its features."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.dropout = inner, nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(self.inner(images))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_network_in_training_is_asked_as_in_evaluation_and_left_as_it_was(
    resnet, targets, wrapped
):
    network = copy.deepcopy(resnet)
    model = from_module(WithDropout(network).eval()) if wrapped else network
    images = noise(2, 3, 64, 64)
    expected = relevance_maps(model, images, targets, "occlusion")
    (model.model if wrapped else network).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert torch.equal(relevance_maps(model, images, targets, "occlusion"), expected)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_no_block_is_read(visual, resnet, images, targets):
    with pytest.raises(ValueError, match="this one asks the whole network"):
        relevance_maps(visual, images, targets, "occlusion", start_block=1)
    with pytest.raises(ValueError, match="a ResNet has no attention blocks"):
        relevance_maps(resnet, noise(1, 3, 64, 64), targets, "occlusion", start_block=1)


def test_many_targets_take_no_more_passes_than_one(visual, images, targets):
    """Where an average of tokens is read, too."""
    calls = []
    network = from_module(visual)
    visual.conv1.register_forward_hook(lambda *_: calls.append(1))
    for pooling in ("CLS", "average"):
        counts = []
        for many in (targets[:1], targets.repeat(9, 1)):
            network.pooling = pooling
            calls.clear()
            relevance_maps(network, images, many, "occlusion")
            counts.append(len(calls))
        assert counts[0] == counts[1]
