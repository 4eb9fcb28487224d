"""The functions of the original, called as its scripts call them, arguments by position."""

import copy

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip_ import PIXEL_MEAN, PIXEL_STD, tokenize
from conftest import noise
from image_utils import show_cam_on_image, show_overlapped_cam, to_bytes
from methods import METHODS
from saliency import relevance_maps
from vit_cam import (
    interpret_perword_vit,
    interpret_vit,
    interpret_vit_overlapped,
    vit_block_vis,
    vit_perword_relevance,
    vit_relevance,
)
from vit_oracles import ORACLES, cosine, oracle_map, recorded_blocks

TEXT = "a cow and a sheep"
every_method = pytest.mark.parametrize("method", ORACLES)
both_signs = pytest.mark.parametrize("negative", [False, True], ids=["positive", "negative"])


@pytest.fixture(params=[(32, 32), (24, 48)], ids=["native", "oblong"])
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


def at_image_size(maps: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Of one map [row, column]: bilinear to the image, then from 0 to 1."""
    maps = F.interpolate(maps[None, None], image.shape[-2:], mode="bilinear")[0, 0]
    return (maps - maps.min()) / (maps.max() - maps.min())


def colours(image: torch.Tensor) -> torch.Tensor:
    """What preprocess normalised, [3, H, W] from 0 to 1."""
    mean, std = (torch.tensor(v, dtype=image.dtype)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
    return (image[0] * std + mean).clamp(0, 1)


def assert_close(result: np.ndarray | torch.Tensor, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(np.asarray(result), expected.detach().numpy(), rtol=0, atol=1e-5)


# Maps


@every_method
@both_signs
def test_relevance_is_the_map_at_image_size(visual, image, target, method, negative):
    negative = negative and METHODS[method].of_targets
    relevance, picture = vit_relevance(image, target, visual, "cpu", method, negative)
    maps = relevance_maps(visual, image, target, method, negative=negative)
    assert_close(relevance, at_image_size(maps[0, 0], image))
    assert_close(picture, colours(image).permute(1, 2, 0))


@every_method
def test_relevance_and_picture_are_float32_from_0_to_1(visual, image, target, method):
    relevance, picture = vit_relevance(image, target, visual, torch.device("cpu"), method)
    assert relevance.dtype == picture.dtype == np.float32
    assert relevance.shape == image.shape[-2:]
    assert picture.shape == (*image.shape[-2:], 3)
    assert relevance.min() == 0
    assert relevance.max() == 1
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_last_grad_and_positive_are_the_defaults(visual, image, target):
    relevance, _ = vit_relevance(image, target, visual, "cpu")
    expected, _ = vit_relevance(image, target, visual, "cpu", "last grad", False)
    assert np.array_equal(relevance, expected)


def test_a_flat_map_is_zero_and_draws_without_nan(visual, image, target, axes):
    with torch.no_grad():
        visual.proj.zero_()
        visual.proj[:, 0] = 1  # features in one direction only: the cosine has no gradient
    relevance, _ = vit_relevance(image, target, visual, "cpu")
    assert not relevance.any()
    interpret_vit(image, target, visual, "cpu")
    interpret_vit_overlapped(image, target, visual, "cpu")
    assert all(np.isfinite(drawn.get_array()).all() for drawn in axes.images)


# Words


@pytest.mark.parametrize(
    ("word", "rest"),
    [("cow", "a and a sheep"), ("a", "cow and sheep"), (3, "a cow and sheep"), ("", None)],
)
@pytest.mark.parametrize("last_grad", [True, False])
def test_a_word_is_explained_by_what_the_text_loses_without_it(clip, image, word, rest, last_grad):
    with torch.no_grad():
        whole, without = clip.encode_text(tokenize([TEXT, rest or ""]))

    def objective(features: torch.Tensor) -> torch.Tensor:
        lost = 0 if rest is None else cosine(without)(features)
        return cosine(whole)(features) - lost

    blocks = recorded_blocks(copy.deepcopy(clip.visual), image[0], objective)
    method = "last grad" if last_grad else "all grads"
    grid = image.shape[-2] // 8, image.shape[-1] // 8
    expected = at_image_size(oracle_map(method, blocks, grid), image)

    arguments = (image, TEXT, clip, tokenize, "cpu", word, last_grad)
    relevance, picture = vit_perword_relevance(*arguments)
    assert relevance.dtype == picture.dtype == np.float32
    assert_close(relevance, expected)
    assert_close(picture, colours(image).permute(1, 2, 0))


def test_the_default_word_is_the_whole_text(clip, image):
    relevance, _ = vit_perword_relevance(image, TEXT, clip, tokenize, "cpu")
    with torch.no_grad():
        features = clip.encode_text(tokenize([TEXT]))
    expected, _ = vit_relevance(image, features, clip.visual, "cpu")
    np.testing.assert_allclose(relevance, expected, atol=1e-6)


# Pictures


def drawings(clip, image, target):
    return {
        "interpret_vit": lambda: interpret_vit(image, target, clip.visual, "cpu", "gradcam", True),
        "interpret_vit_overlapped": lambda: interpret_vit_overlapped(
            image, target, clip.visual, "cpu", "all grads"
        ),
        "interpret_perword_vit": lambda: interpret_perword_vit(
            image, TEXT, clip, tokenize, "cpu", "cow", False
        ),
    }


@pytest.mark.parametrize("name", drawings(None, None, None))
def test_pictures_are_drawn_on_the_current_axes_and_returned(clip, image, target, axes, name):
    picture = drawings(clip, image, target)[name]()
    assert picture.dtype == np.uint8
    assert picture.shape == (*image.shape[-2:], 3)
    (drawn,) = axes.images
    assert np.array_equal(drawn.get_array(), picture)
    assert not axes.figure.axes[1].images


def test_the_overlapped_picture_has_positive_red_and_negative_blue(visual, image, target):
    picture = interpret_vit_overlapped(image, target, visual, "cpu", "gradcam")
    positive, photograph = vit_relevance(image, target, visual, "cpu", "gradcam")
    negative, _ = vit_relevance(image, target, visual, "cpu", "gradcam", True)
    expected = show_overlapped_cam(photograph, pos_mask=positive, neg_mask=negative)
    assert np.array_equal(picture, to_bytes(expected))


@pytest.mark.parametrize("last_grad", [True, False])
def test_the_picture_of_a_word_shows_its_relevance(clip, image, last_grad):
    arguments = (image, TEXT, clip, tokenize, "cpu", "cow", last_grad)
    relevance, photograph = vit_perword_relevance(*arguments)
    expected = to_bytes(show_cam_on_image(photograph, relevance))
    assert np.array_equal(interpret_perword_vit(*arguments), expected)


def test_subplots_fill_one_after_the_other(visual, image, target):
    for place in (1, 2):
        axes = plt.subplot(1, 2, place)
        interpret_vit(image, target, visual, "cpu")
        assert len(axes.images) == 1


@pytest.mark.parametrize(("colour", "strongest"), [((1, 0, 0), 0), ((0, 0, 1), 2)])
def test_photographs_keep_their_colours(visual, target, colour, strongest):
    colour = torch.tensor(colour, dtype=torch.float64)
    normalised = (colour - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    image = normalised.view(1, 3, 1, 1).expand(1, 3, 32, 32)
    relevance, _ = vit_relevance(image, target, visual, "cpu")
    picture = interpret_vit(image, target, visual, "cpu")
    heat = plt.get_cmap("jet")(relevance)[..., :3]
    total = heat + colour.numpy()
    np.testing.assert_allclose(picture / 255, total / total.max(), atol=0.003)
    assert (picture[..., strongest] >= picture.max(-1) - 1).mean() > 0.5


# One block


@both_signs
@pytest.mark.parametrize("grad", [False, True], ids=["attention", "gradient"])
@pytest.mark.parametrize("block", [0, 2, 3, -1])
def test_a_block_shows_what_its_cls_token_attends_to(
    visual, image, target, axes, block, grad, negative
):
    score = vit_block_vis(image, target, visual, block, "cpu", grad, negative)

    blocks = recorded_blocks(visual, image[0], cosine(target[0], negative))
    row = blocks[block][int(grad)][:, 0, 1:].mean(0)
    row = (row - row.min()) / (row.max() - row.min())
    grid = (1, 1, image.shape[-2] // 8, image.shape[-1] // 8)
    weight = F.interpolate(row.reshape(grid), image.shape[-2:], mode="bilinear")[0, 0]
    seen = weight * colours(image)
    seen = seen / seen.max()
    (drawn,) = axes.images
    np.testing.assert_allclose(
        drawn.get_array() / 255, seen.permute(1, 2, 0).numpy(), rtol=0, atol=0.5 / 255 + 1e-5
    )

    mean, std = (torch.tensor(v)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
    features = visual(((seen - mean) / std).unsqueeze(0))
    expected = F.cosine_similarity(features, target)
    assert score.shape == ()
    assert score.item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_block_that_sees_nothing_is_black(visual, image, target, axes):
    with torch.no_grad():
        visual.proj.zero_()
        visual.proj[:, 0] = 1
    score = vit_block_vis(image, target, visual, 0, "cpu", True)
    assert score.isfinite()
    assert not axes.images[0].get_array().any()


# Circumstances


def explanations(clip, image, target):
    return {
        "relevance": lambda: vit_relevance(image, target, clip, "cpu")[0],
        "word": lambda: vit_perword_relevance(image, TEXT, clip, tokenize, "cpu", "cow")[0],
        "block": lambda: vit_block_vis(image, target, clip, 1, "cpu", True).numpy(),
        "picture": lambda: interpret_vit_overlapped(image, target, clip, "cpu"),
    }


@pytest.mark.parametrize("name", explanations(None, None, None))
def test_modes_of_the_caller_make_no_difference(clip, target, name):
    image = noise(1, 3, 32, 32)
    expected = explanations(clip, image, target)[name]()
    image, target = image.clone().requires_grad_(), target.clone().requires_grad_()
    with torch.no_grad():
        np.testing.assert_allclose(explanations(clip, image, target)[name](), expected)
    np.testing.assert_allclose(explanations(clip, image, target)[name](), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(explanations(clip, image, target)[name](), expected)
    with torch.inference_mode():
        image, target = image.clone(), target.clone()
        np.testing.assert_allclose(explanations(clip, image, target)[name](), expected)
