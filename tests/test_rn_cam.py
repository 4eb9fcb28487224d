"""The functions of the original for ResNets, called as its scripts call them, by position."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip_ import tokenize
from conftest import noise
from image_utils import as_picture, show_cam_on_image, show_overlapped_cam, to_bytes
from model import CLIP
from pytorch_grad_cam import CAMS, GradCAM, ScoreCAM
from rn_cam import (
    interpret_perword_rn,
    interpret_rn,
    interpret_rn_overlapped,
    rn_perword_relevance,
    rn_relevance,
)
from saliency import normalise_maps, resize_maps
from small_clip import TEXT, small_resnet, small_vit, stirred

SENTENCE = "a cow and a sheep"


@pytest.fixture(scope="module")
def clip():
    return small_resnet().double()


@pytest.fixture(params=[(64, 64), (96, 128)], ids=["native", "oblong"])
def image(request):
    return noise(1, 3, *request.param)


@pytest.fixture
def target():
    return noise(1, 16)


@pytest.fixture(autouse=True)
def axes():
    """The current axes are the left of two."""
    figure, (left, _) = plt.subplots(1, 2)
    plt.sca(left)
    yield left
    plt.close(figure)


@pytest.mark.parametrize("cam", CAMS.values(), ids=CAMS)
@pytest.mark.parametrize("negative", [False, True])
def test_relevance_is_the_cams_array_at_image_size(clip, image, target, cam, negative):
    relevance, picture = rn_relevance(image, target, clip.visual, cam, "cpu", negative)
    layers = [clip.visual.layer4[-1]]
    (array,) = cam(model=clip.visual, target_layers=layers, use_cuda=False)(
        input_tensor=image, target_encoding=-target if negative else target
    )
    expected = normalise_maps(resize_maps(torch.from_numpy(array), image.shape[-2:]))[0, 0]
    np.testing.assert_allclose(relevance, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(picture, as_picture(image[0]))
    assert relevance.dtype == np.float32
    assert relevance.shape == image.shape[-2:]


def test_the_model_itself_is_taken_too(clip, image, target):
    whole, _ = rn_relevance(image, target, clip, GradCAM, "cpu")
    encoder, _ = rn_relevance(image, target, clip.visual, GradCAM, "cpu")
    assert np.array_equal(whole, encoder)


def test_drawings_are_overlays_on_the_current_axes(clip, image, target):
    given = (image, target, clip.visual, GradCAM, "cpu")
    positive, picture = rn_relevance(*given)
    negative, _ = rn_relevance(*given, True)
    drawn = [interpret_rn(*given), interpret_rn(*given, True), interpret_rn_overlapped(*given)]
    expected = [
        show_cam_on_image(picture, positive),
        show_cam_on_image(picture, negative, True),
        show_overlapped_cam(picture, negative, positive),
    ]
    for shown, on_axes, overlay in zip(drawn, plt.gca().images, expected, strict=True):
        assert np.array_equal(shown, to_bytes(overlay))
        assert np.array_equal(on_axes.get_array(), shown)


@pytest.mark.parametrize("word", ["", "sheep", 0])
def test_a_words_relevance_is_that_of_the_difference_it_makes(clip, image, word):
    without = {"": None, "sheep": "a cow and a", 0: "cow and a sheep"}[word]
    features = F.normalize(clip.encode_text(tokenize([SENTENCE, without or SENTENCE])), dim=-1)
    direction = features[0] - features[1] if without else features[0]
    (maps,) = GradCAM(clip.visual, [clip.visual.layer4[-1]]).maps(image, direction[None])
    expected = normalise_maps(resize_maps(maps, image.shape[-2:]))[0, 0]
    relevance, _ = rn_perword_relevance(image, SENTENCE, clip, tokenize, GradCAM, "cpu", word)
    np.testing.assert_allclose(relevance, expected.numpy(), atol=1e-5)
    shown = interpret_perword_rn(image, SENTENCE, clip, tokenize, GradCAM, "cpu", word)
    assert np.array_equal(plt.gca().images[-1].get_array(), shown)


@pytest.mark.parametrize(("side", "grid"), [(288, 9), (384, 12)], ids=["RN50x4", "RN50x16"])
def test_grids_of_the_larger_variants(side, grid, target):
    clip = stirred(CLIP(16, side, (1, 1, 1, 1), 8, None, vocab_size=100, **TEXT))
    image = noise(1, 3, side, side).float()
    (array,) = GradCAM(clip.visual, [clip.visual.layer4[-1]])(image, target.float())
    assert array.shape == (1, 1, grid, grid)
    relevance, _ = rn_relevance(image, target.float(), clip.visual, GradCAM, "cpu")
    assert relevance.shape == (side, side)


def test_many_images_or_targets_are_sent_to_the_general_entry(clip, target):
    with pytest.raises(ValueError, match="relevance_maps takes many"):
        rn_relevance(noise(2, 3, 64, 64), target, clip.visual, GradCAM, "cpu")
    with pytest.raises(ValueError, match="relevance_maps takes many"):
        rn_relevance(noise(1, 3, 64, 64), noise(3, 16), clip.visual, ScoreCAM, "cpu")


def test_a_vit_is_sent_to_vit_cam(target):
    vit = small_vit(vocab_size=100)
    with pytest.raises(TypeError, match="vit_cam explains a ViT"):
        rn_relevance(noise(1, 3, 32, 32), target, vit.visual, GradCAM, "cpu")
