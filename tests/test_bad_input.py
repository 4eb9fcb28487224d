"""Whatever is wrong with the input is one clear error."""

import pytest
import torch

from clip_ import tokenize
from conftest import noise
from saliency import relevance_maps
from small_clip import small_resnet
from vit_cam import (
    interpret_perword_vit,
    interpret_vit,
    interpret_vit_overlapped,
    vit_block_vis,
    vit_perword_relevance,
    vit_relevance,
)
from vit_methods import METHODS

BAD_TARGETS = {
    "wrong width": (noise(3, 17), r"\[target, 16\].*got \[3, 17\]"),
    "one axis": (noise(16), r"\[target, 16\].*got \[16\]"),
    "four axes": (noise(1, 1, 3, 16), r"got \[1, 1, 3, 16\]"),
    "none": (noise(0, 16), r"got \[0, 16\]"),
    "one is zero": (noise(3, 16) * torch.tensor([[1], [0], [1]]), "all zero"),
    "one is NaN": (noise(3, 16).index_fill(0, torch.tensor([1]), torch.nan), "NaN or infinite"),
    "one is infinite": (noise(3, 16) * torch.tensor([[1], [torch.inf], [1]]), "NaN or infinite"),
    "for other images": (noise(3, 2, 16), "targets for 3 images, but 2 images"),
}
BAD_IMAGES = {
    "no batch axis": (noise(3, 32, 32), r"unsqueeze\(0\).*\[3, 32, 32\]"),
    "one channel": (noise(2, 1, 32, 32), r"\[batch, 3, height, width\].*\[2, 1, 32, 32\]"),
    "channels last": (noise(2, 32, 32, 3), r"\[batch, 3, height, width\].*\[2, 32, 32, 3\]"),
    "bytes": (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "float tensor.*uint8"),
    "height": (noise(2, 3, 30, 32), "multiples of 8.*30 x 32"),
    "width": (noise(2, 3, 32, 33), "multiples of 8.*32 x 33"),
    "empty": (noise(2, 3, 0, 32), "multiples of 8.*0 x 32"),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
def test_targets(visual, images, case):
    targets, message = BAD_TARGETS[case]
    with pytest.raises(ValueError, match=message):
        relevance_maps(visual, images, targets)


@pytest.mark.parametrize("case", BAD_IMAGES)
@pytest.mark.parametrize("method", METHODS)
def test_images(visual, targets, method, case):
    images, message = BAD_IMAGES[case]
    with pytest.raises(ValueError, match=message):
        relevance_maps(visual, images, targets, method)


def test_an_unknown_method_is_answered_with_the_known_ones(visual, images, targets):
    with pytest.raises(ValueError, match=r"'lastgrad'.*methods for.*" + ".*".join(METHODS)):
        relevance_maps(visual, images, targets, "lastgrad")
    with pytest.raises(ValueError, match=".*".join(METHODS)):
        interpret_vit(images[:1], targets[:1], visual, "cpu", "lastgrad")


@pytest.mark.parametrize("block", [4, -5])
def test_a_block_that_the_model_does_not_have(visual, images, targets, block):
    message = rf"block {block} is out of range.*0 to 3"
    with pytest.raises(ValueError, match=message):
        relevance_maps(visual, images, targets, start_block=block)
    with pytest.raises(ValueError, match=message):
        vit_block_vis(images[:1], targets[:1], visual, block, "cpu")


def calls(model, image, target, word="cow"):
    """Every function for one image."""
    sentence = (image, "a cow", model, tokenize, "cpu", word)
    return {
        "vit_relevance": lambda: vit_relevance(image, target, model, "cpu"),
        "interpret_vit": lambda: interpret_vit(image, target, model, "cpu"),
        "interpret_vit_overlapped": lambda: interpret_vit_overlapped(image, target, model, "cpu"),
        "vit_block_vis": lambda: vit_block_vis(image, target, model, 0, "cpu"),
        "vit_perword_relevance": lambda: vit_perword_relevance(*sentence),
        "interpret_perword_vit": lambda: interpret_perword_vit(*sentence),
    }


every_function = pytest.mark.parametrize("name", calls(None, None, None))
with_target = pytest.mark.parametrize("name", [n for n in calls(0, 0, 0) if "perword" not in n])


@every_function
def test_a_resnet_is_no_vit(name):
    with pytest.raises(TypeError, match=r"ViT-based CLIP.*ModifiedResNet"):
        calls(small_resnet().double(), noise(1, 3, 64, 64), noise(1, 16))[name]()


def test_a_model_that_is_no_clip(images, targets):
    with pytest.raises(TypeError, match=r"model must be a CLIP.*Linear"):
        relevance_maps(torch.nn.Linear(2, 2), images, targets)


@every_function
@pytest.mark.parametrize("case", ["two images", "no batch axis"])
def test_one_image_at_a_time(clip, name, case):
    image = noise(2, 3, 32, 32) if case == "two images" else noise(3, 32, 32)
    with pytest.raises(ValueError, match=r"image must be one.*relevance_maps takes many"):
        calls(clip, image, noise(1, 16))[name]()


@with_target
@pytest.mark.parametrize("shape", [(2, 16), (16,), (1, 3, 16)])
def test_one_target_at_a_time(visual, name, shape):
    with pytest.raises(ValueError, match=r"target_features must be one.*relevance_maps takes many"):
        calls(visual, noise(1, 3, 32, 32), noise(*shape))[name]()


@pytest.mark.parametrize("name", ["vit_perword_relevance", "interpret_perword_vit"])
def test_a_word_that_the_text_does_not_have(clip, name):
    with pytest.raises(ValueError, match=r"'goat' is not a word.*\['a', 'cow'\]"):
        calls(clip, noise(1, 3, 32, 32), None, "goat")[name]()
